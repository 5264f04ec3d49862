"""Proved upper bounds of induced norms ||A||_{p->q}, p, q in {1, 2, inf}, of dense matrices with entrywise error radii.

Every bound holds for all real matrices A with |A - C| <= R entry by entry.

- 1 -> q: the largest column q-norm. p -> inf: the largest dual norm of a row. Exact up to outward rounding.
- 2 -> 2: power-of-two scaling, Gram matrix on the smaller side, largest eigenvalue proved in `psd`, the rounding of the
  Gram matrix itself added; upper / true is about 1 + 1e-10 up to n = 2048.
- inf -> 1, inf -> 2, 2 -> 1 are NP-hard (Rohn 2000; Steinberg 2005): all sign vectors up to 12 entries, else the least
  of several sqrt(n)-type conversions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.rigor.psd import Hermitian, eigenvalues_below, largest_eigenvalue_upper
from lipcert.rigor.rounding import (
    EPS,
    TINY,
    add_up,
    div_up,
    gamma,
    keeps_subnormals,
    mul_up,
    norm_up,
    power_of_two_scale,
    require_float64,
    sqrt_up,
    sum_up,
)
from lipcert.terms.clock import tick
from lipcert.terms.query import P

SIGNS = 12  # 2^11 vectors: all of them up to this many entries
DUAL: dict[P, P] = {"1": "inf", "2": "2", "inf": "1"}


@keeps_subnormals
def matrix_norm_upper(C: Tensor, R: Tensor | None, p: P, q: P) -> float:
    """Upper bound of ||A||_{p->q} over all A with |A - C| <= R (None: A = C).

    C, R: (m, n) float64, R >= 0. 0.0 exactly for zero and empty matrices; `inf` where an entry is inf or NaN.
    """
    return float(matrix_norms_upper(C[None], None if R is None else R[None], p, q)[0])


@keeps_subnormals
def matrix_norms_upper(C: Tensor, R: Tensor | None, p: P, q: P) -> Tensor:
    """`matrix_norm_upper` of each matrix of a batch. C, R: (b, m, n) float64, else TypeError. Returns (b,)."""
    require_float64(C, R)
    C, R = C.detach(), None if R is None else R.detach()
    b, m, n = C.shape
    if 0 in (b, m, n):
        return C.new_zeros(b)
    U = C.abs() if R is None else add_up(C.abs(), R)
    finite = torch.isfinite(U).all(2).all(1)
    if not bool(finite.all()):
        zero = C.new_zeros(())
        C, U = (torch.where(finite[:, None, None], t, zero) for t in (C, U))
        R = None if R is None else torch.where(finite[:, None, None], R, zero)
    return torch.where(finite, NORM_RULES[p, q](C, R, U), C.new_full((b,), math.inf))


def _largest_column(q: P) -> Rule:
    """||A||_{1->q} = max_j ||A e_j||_q: the unit ball of l1 is the hull of +- e_j."""
    return lambda C, R, U: norm_up(U, q, 1).amax(1)


def _largest_row(p: P) -> Rule:
    """||A||_{p->inf} = max_i ||a_i||_{p*}."""
    return lambda C, R, U: norm_up(U, DUAL[p], 2).amax(1)


def _two_to_two(C: Tensor, R: Tensor | None, U: Tensor) -> Tensor:
    """||A||_2 <= ||C||_2 + sqrt(||R||_1 ||R||_inf), and never more than Schur's bound of |C| + R."""
    value = spectral_norms_upper(C)
    if R is not None:
        value = add_up(value, _schur(R))
    return torch.minimum(value, _schur(U))


def _inf_to_two(C: Tensor, R: Tensor | None, U: Tensor) -> Tensor:
    """||A x||_2 <= || |A| 1 ||_2, and ||x||_2 <= sqrt(n) ||x||_inf."""
    if C.shape[2] <= SIGNS:
        return _over_signs(C.mT, None if R is None else R.mT, U.mT, "2")
    rows = norm_up(sum_up(U, 2), "2", 1)
    return torch.minimum(rows, mul_up(_two_to_two(C, R, U), sqrt_up(float(C.shape[2]))))


def _two_to_one(C: Tensor, R: Tensor | None, U: Tensor) -> Tensor:
    """||A||_{2->1} = ||A'||_{inf->2}."""
    return _inf_to_two(C.mT, None if R is None else R.mT, U.mT)


def _inf_to_one(C: Tensor, R: Tensor | None, U: Tensor) -> Tensor:
    """||A x||_1 <= sum |a_ij|, and ||y||_1 <= sqrt(m) ||y||_2. ||A||_{inf->1} = ||A'||_{inf->1}."""
    if C.shape[2] < C.shape[1]:
        C, R, U = C.mT, None if R is None else R.mT, U.mT
    if C.shape[1] <= SIGNS:
        return _over_signs(C, R, U, "1")
    return torch.minimum(sum_up(U, (1, 2)), mul_up(_inf_to_two(C, R, U), sqrt_up(float(C.shape[1]))))


def _over_signs(C: Tensor, R: Tensor | None, U: Tensor, q: P) -> Tensor:
    """||A'||_{inf->q} = max ||A'y||_q over y in {-1, 1}^m: a convex function is largest at a vertex of the cube."""
    m = C.shape[1]
    signs = 1 - 2 * torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64, device=C.device)] * m).reshape(-1, m)
    signs = signs[: len(signs) // 2]  # y and -y give the same
    # |A'y| <= |fl(C'y)| + gamma_m |C|'1 + R'1; products with signs are exact.
    slack = mul_up(sum_up(U, 1), gamma(m))
    slack = slack if R is None else add_up(slack, sum_up(R, 1))
    each = [norm_up(add_up((y @ C).abs(), slack[:, None]), q, 2).amax(1) for y in signs.split(256)]
    return torch.stack(each).amax(0)


def _schur(U: Tensor) -> Tensor:
    """||A||_2 <= sqrt(||A||_1 ||A||_inf) (Schur test; Golub & Van Loan, (2.3.9)), U >= |A|."""
    columns, rows = sum_up(U, 1).amax(1), sum_up(U, 2).amax(1)
    return mul_up(sqrt_up(columns), sqrt_up(rows))


@keeps_subnormals
def spectral_norms_upper(C: Tensor) -> Tensor:
    """Proved upper bounds (b,) of the spectral norms of C (b, m, n), finite entries taken as exact."""
    B = C if C.shape[2] <= C.shape[1] else C.mT
    _, m, n = B.shape
    scale = power_of_two_scale(B.abs().amax((1, 2)))
    B = B * (1.0 / scale)[:, None, None]
    G, error = _gram(B)
    total = add_up(largest_eigenvalue_upper(Hermitian(G)), error)
    # Entries that became subnormal on scaling moved by at most TINY each: m n TINY in the norm.
    value = mul_up(add_up(sqrt_up(total), m * n * TINY), scale)
    return torch.where(error == 0, torch.zeros_like(value), value)


@keeps_subnormals
def is_contraction(C: Tensor, R: Tensor) -> bool:
    """Whether ||A||_2 <= 1 is proved for all |A - C| <= R, (m, n) each: one Cholesky factorisation, no eigenvalues."""
    require_float64(C, R)
    if not bool(torch.isfinite(C).all() & torch.isfinite(R).all()):
        return False
    G, error = _gram((C if C.shape[1] <= C.shape[0] else C.mT)[None])
    spare = _schur(R[None])
    lost = 1e-12 + 8 * G.shape[1] ** 2 * EPS  # more than the proof of a factorisation takes
    below = eigenvalues_below(Hermitian(G), (1 - spare) ** 2 - error - lost)
    return bool((add_up(sqrt_up(add_up(below, error)), spare) <= 1).all())


def _gram(B: Tensor) -> tuple[Tensor, Tensor]:
    """G = fl(B'B) of B (b, m, n), exactly symmetric, and upper values (b,) of ||G - B'B||_2, 0 only for B = 0.

    |G - B'B| <= gamma |B|'|B| + m TINY, and the norm of |B|'|B| is at most its largest row sum, and its trace. Long
    sums are cut into chunks, added one by one: a term then passes chunk + m / chunk roundings instead of m.
    """
    b, m, n = B.shape
    chunk = m if m < 1024 else 256
    G, rows, trace = B.new_zeros(b, n, n), B.new_zeros(b, n), B.new_zeros(b)
    for start in range(0, m, chunk):
        tick()
        part = B[:, start : start + chunk]
        G += part.mT @ part
        size = part.abs()
        rows += (size.mT @ size.sum(2, keepdim=True))[:, :, 0]
        trace += (size * size).sum((1, 2))
    size = mul_up(torch.minimum(rows.amax(1), trace), add_up(1.0, gamma(m * n + m + n)))
    error = add_up(mul_up(size, gamma(chunk + math.ceil(m / chunk))), 4 * m * n * TINY)
    lower = G.tril(-1)
    return G.tril() + lower.mT, torch.where(B.abs().amax((1, 2)) == 0, torch.zeros_like(error), error)


@keeps_subnormals
def perron_upper(
    mv: Callable[[Tensor], Tensor],
    rmv: Callable[[Tensor], Tensor],
    n: int,
    *,
    steps: int = 12,
    device: torch.device | str | None = None,
) -> float:
    """Proved upper bound of ||M||_2 for an entrywise nonnegative operator M (m, n) known by its action.

    `mv(w)` (n,) -> (m,) and `rmv(y)` (m,) -> (n,) take nonnegative float64 vectors and return upper values of M w and
    M'y. Collatz 1942, Wielandt 1950: ||M||_2^2 = rho(M'M) <= max_i (M'M w)_i / w_i for every w > 0 (Horn & Johnson,
    8.1.26). A few power steps find a good w; any w gives a true bound. `inf` where a product overflows.
    """
    if n == 0:
        return 0.0
    w = torch.ones(n, dtype=torch.float64, device=device)
    best = math.inf
    for _ in range(steps):
        y = mv(w)
        if y.numel() == 0 or not bool(y.any()):
            return 0.0
        scale = power_of_two_scale(float(y.amax()))
        z = rmv(mul_up(y, 1.0 / scale))
        ratio = float(div_up(z, w).amax())  # M'M w <= (scale ratio) w
        if not math.isfinite(ratio):
            break
        best = min(best, mul_up(sqrt_up(ratio), sqrt_up(scale)))
        if ratio == 0:
            return 0.0
        # Where M has a zero column (or nearly so) the power step would lose w > 0.
        w = (z / power_of_two_scale(float(z.amax()))).clamp(min=1e-8)
    return best


Rule = Callable[[Tensor, Tensor | None, Tensor], Tensor]  # (C, R, U = |C| + R), each (b, m, n) -> (b,)

NORM_RULES: dict[tuple[P, P], Rule] = {
    ("1", "1"): _largest_column("1"),
    ("1", "2"): _largest_column("2"),
    ("1", "inf"): _largest_column("inf"),
    ("2", "inf"): _largest_row("2"),
    ("inf", "inf"): _largest_row("inf"),
    ("2", "2"): _two_to_two,
    ("2", "1"): _two_to_one,
    ("inf", "2"): _inf_to_two,
    ("inf", "1"): _inf_to_one,
}
