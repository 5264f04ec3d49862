"""Complex blocks, one for each frequency: products, residuals and sums of squares (MATH section 12).

Products of complex matrices are formed as real ones, two for each part: |fl(X* Y) - X* Y| <= sqrt(2) gamma_2k |X|* |Y|, as every
entry of a part is a sum of 2 k products in some order. Trusted by `lipcert verify`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.rigor.rounding import mul_up

BLOCK = 256  # rows or columns that are formed at once: what triangles have of zeros, or twice, is skipped

Parts = tuple[Tensor, Tensor]  # real and imaginary, (b, m, n) each


def parts(X: Tensor) -> Parts:
    """Side by side in memory, which real products want."""
    X = X.resolve_conj()
    return X.real.contiguous(), X.imag.contiguous()


def product(left: Parts, right: Parts) -> Tensor:
    """left* right of (b, k, m) and (b, k, n): conj(x) y = x_r y_r + x_i y_i + i (x_r y_i - x_i y_r)."""
    a, b = left[0].mT, left[1].mT
    real = torch.baddbmm(torch.bmm(a, right[0]), b, right[1])
    return torch.complex(real, torch.baddbmm(torch.bmm(a, right[1]), b, right[0], alpha=-1))


def square(X: Parts) -> Tensor:
    """The lower triangle of X* X, (b, n, n); of what is above, something or zeros."""
    n = X[0].shape[2]
    if n <= BLOCK:
        return product(X, X)
    whole = X[0].new_zeros(len(X[0]), n, n, dtype=torch.complex128)
    for start in range(0, n, BLOCK):
        columns = slice(start, start + BLOCK)
        whole[:, start:, columns] = product(
            (X[0][:, :, start:], X[1][:, :, start:]), (X[0][:, :, columns], X[1][:, :, columns])
        )
    return whole


def mirrored(lower: Tensor) -> Tensor:
    """The Hermitian matrix of a lower triangle."""
    return lower.tril() + lower.tril(-1).mH


def residual(L: Parts, X: Parts, target: Tensor) -> Tensor:
    """(b,) squares of ||L X - target||_F, L (b, n, n) lower triangular: their rounding is that of `squares`, and that of the
    product is left to the caller."""
    total = L[0].new_zeros(len(L[0]))
    for start in range(0, L[0].shape[1], BLOCK):
        end = min(start + BLOCK, L[0].shape[1])
        a, b = (part[:, start:end, :end] for part in L)
        re, im = (part[:, :end] for part in X)
        aim = target[:, start:end]
        total += _squares(torch.baddbmm(torch.bmm(a, re), b, im, alpha=-1) - aim.real)
        total += _squares(torch.baddbmm(torch.bmm(a, im), b, re) - aim.imag)
    return total


def residual_square(L: Parts, target: Tensor) -> Tensor:
    """(b,) squares of ||L L* - target||_F: of the lower triangles, mirrored."""
    total = L[0].new_zeros(len(L[0]))
    for start in range(0, L[0].shape[1], BLOCK):
        end = min(start + BLOCK, L[0].shape[1])
        a, b = (part[:, start:end, :end] for part in L)
        re, im = (part[:, :end, :end].mT for part in L)
        aim = target[:, start:end, :end]
        total += _squares((torch.baddbmm(torch.bmm(a, re), b, im) - aim.real).tril(start))
        total += _squares((torch.baddbmm(torch.bmm(b, re), a, im, alpha=-1) - aim.imag).tril(start))
    return 2 * total


def gathered(X: Tensor, groups: Tensor) -> Tensor:
    """(F, n, m) -> (parents, r n, m): the rows of all frequencies that meet."""
    return X[groups.flatten()].reshape(groups.shape[0], groups.shape[1] * X.shape[1], X.shape[2])


def squares(t: Tensor) -> Tensor:
    """(F,) sums of |entries|^2: those of fewer than 2^30 entries err by less than 2^-20 of themselves, see `most`."""
    return _squares(torch.view_as_real(t.resolve_conj().contiguous()))


def _squares(t: Tensor) -> Tensor:
    flat = t.reshape(t.shape[0], 1, -1)
    return (flat @ flat.mT).flatten()


def most(values: Tensor) -> float:
    """An upper value of the largest of such sums, also where up to 2^20 of them were added."""
    return mul_up(float(values.amax()), 1 + 2.0**-19) if values.numel() else 0.0
