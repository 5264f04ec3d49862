"""Complex blocks, one for each frequency: products and sums of squares (MATH section 12).

Products of complex matrices are formed as real ones of twice the length, |fl(X* Y) - X* Y| <= sqrt(2) gamma_2k |X|* |Y|.
Trusted by `lipcert verify`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.rigor.rounding import mul_up


def product(left: Tensor, right: Tensor) -> Tensor:
    """left* right of complex (b, k, m) and (b, k, n), as one real product of length 2 k."""
    a = torch.cat([left.real, left.imag], 1)
    b = torch.cat(
        [torch.cat([right.real, right.imag], 1), torch.cat([right.imag, -right.real], 1)], 2
    )  # conj(x) y = x_r y_r + x_i y_i + i (x_r y_i - x_i y_r)
    both = a.mT @ b
    n = right.shape[2]
    return torch.complex(both[:, :, :n].contiguous(), both[:, :, n:].contiguous())


def gathered(X: Tensor, groups: Tensor) -> Tensor:
    """(F, n, m) -> (parents, r n, m): the rows of all frequencies that meet."""
    return X[groups.flatten()].reshape(groups.shape[0], groups.shape[1] * X.shape[1], X.shape[2])


def squares(t: Tensor) -> Tensor:
    """(F,) sums of |entries|^2: those of fewer than 2^30 entries err by less than 2^-20 of themselves, see `most`."""
    flat = torch.view_as_real(t.resolve_conj().contiguous()).reshape(t.shape[0], 1, -1)
    return (flat @ flat.mT).flatten()


def most(values: Tensor) -> float:
    """An upper value of the largest of such sums, also where up to 2^20 of them were added."""
    return mul_up(float(values.amax()), 1 + 2.0**-19) if values.numel() else 0.0
