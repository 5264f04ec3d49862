"""From below: smallest singular values, and smallest eigenvalues of symmetric parts, of matrices known up to radii.

For any X of the shape of A', with I - X A = E and ||E|| < 1: (1 - ||E||) |v| <= |X A v| <= ||X|| |A v|, so that the smallest singular
value of A (m, n), m >= n, is at least (1 - ||E||) / ||X||. X is a floating pseudoinverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import EPS, div_down, gamma, keeps_subnormals, norm_down, norm_up, sub_down, up

LOST = 1e-290  # underflow


@keeps_subnormals
def smallest_singular_values(C: Tensor, R: Tensor) -> Tensor:
    """Lower values (b,) of the least over |A - C| <= R of the min(m, n)-th singular value; (b, m, n) float64. 0 where
    nothing is known."""
    if C.shape[1] < C.shape[2]:
        C, R = C.mT, R.mT
    b, m, n = C.shape
    if 0 in (b, m, n):
        return C.new_zeros(b)
    known = (torch.isfinite(C) & torch.isfinite(R)).all(dim=2).all(dim=1)
    C, R = (torch.where(known[:, None, None], side, 0.0) for side in (C, R))
    X = torch.linalg.pinv(C)
    E = torch.eye(n, dtype=C.dtype) - X @ C
    off = (2 * gamma(m + 4) * (X.abs() @ C.abs()) + X.abs() @ R) * (1 + 4 * gamma(m + 4)) + 2 * EPS
    left = sub_down(torch.ones(b, dtype=C.dtype), matrix_norms_upper(E, off, "2", "2"))
    across = matrix_norms_upper(X, None, "2", "2")
    value = div_down(left.clamp(min=0.0), across)
    return torch.where(known & (left > 0) & torch.isfinite(across) & (across > 0), value, 0.0)


@keeps_subnormals
def singular_values_attained(C: Tensor, R: Tensor) -> Tensor:
    """Upper values (b,) of the min(m, n)-th singular value of every A with |A - C| <= R: |A v| / |v| for one v."""
    if C.shape[1] < C.shape[2]:
        C, R = C.mT, R.mT
    b, m, n = C.shape
    if 0 in (b, m, n):
        return C.new_zeros(b)
    known = (torch.isfinite(C) & torch.isfinite(R)).all(dim=2).all(dim=1)
    C, R = (torch.where(known[:, None, None], side, 0.0) for side in (C, R))
    v = torch.linalg.svd(C, full_matrices=False).Vh[:, -1]
    image = torch.bmm(C, v[:, :, None])[:, :, 0].abs()
    slack = torch.bmm(R + 2 * gamma(n + 4) * C.abs(), v.abs()[:, :, None])[:, :, 0] * (1 + 4 * gamma(n + 4))
    value = up(norm_up(up(image + slack), "2", 1) / norm_down(v.abs(), "2", 1))
    return torch.where(known, value, torch.inf)


@keeps_subnormals
def gains_along(T: Tensor, C: Tensor, R: Tensor) -> Tensor:
    """Lower values (b,) of the least v'T A v over |v| = 1 and |A - C| <= R; T (n, m), C and R (b, m, n)."""
    _, m, n = C.shape
    product = T @ C
    half = product / 2 + product.mT / 2
    off = 2 * gamma(m + 4) * (T.abs() @ C.abs()) + T.abs() @ R
    off = (off / 2 + off.mT / 2 + 2 * EPS * half.abs()) * (1 + 4 * gamma(m + 4))
    known = torch.isfinite(half).all(dim=2).all(dim=1) & torch.isfinite(off).all(dim=2).all(dim=1)
    half, off = (torch.where(known[:, None, None], side, 0.0) for side in (half, off))
    shift = torch.linalg.eigvalsh(half)[:, -1].abs()
    turned = shift[:, None, None] * torch.eye(n, dtype=C.dtype) - half
    off = off + 2 * EPS * (turned.abs() + half.abs()) + LOST
    value = sub_down(shift, matrix_norms_upper(turned, off, "2", "2"))  # least >= shift - ||shift I - S||
    return torch.where(known, value, -torch.inf)
