"""Enclosures of matrix functions of constants: products of reflections, inverses, solutions, the exponential.

What parametrisations leave in a graph (torch.nn.utils.parametrizations.orthogonal: householder, cayley, matrix_exp).
The product and the exponential are compositions of enclosed sums and products; an inverse is proved a posteriori from
the residual of the computed one, so no factorisation of LAPACK is trusted.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from lipcert.rigor import constants as k
from lipcert.rigor.constants import Constant, constant
from lipcert.rigor.rounding import norm_up, up
from lipcert.terms.errors import RefusedModel

_TERMS = 18  # of the exponential's series: the rest is below 2^-53 for norms up to 1/2


def householder_product(vectors: Any, tau: Any) -> Constant:
    """The first n columns of H_1 H_2 ... H_k, H_i = I - tau_i v_i v_i', of vectors (.., m, n), tau (.., k).

    v_i is column i, with 1 on the diagonal and 0 above it, whatever is stored there (LAPACK's orgqr).
    """
    a, tau = constant(vectors), constant(tau)
    m, n = a.shape[-2:]
    below = torch.ones(m, n, dtype=torch.float64).tril(-1)
    v = k.add(k.multiply(a, below), torch.eye(m, n, dtype=torch.float64).expand(a.shape))
    result = Constant(torch.eye(m, n, dtype=torch.float64).expand(a.shape).contiguous())
    for i in reversed(range(tau.shape[-1])):
        column = v.map(lambda t, i=i: t[..., :, i : i + 1])  # type: ignore[misc]
        row = k.matmul(column.map(lambda t: t.transpose(-1, -2)), result)
        step = k.multiply(k.matmul(column, row), tau.map(lambda t, i=i: t[..., i, None, None]))
        result = k.subtract(result, step)
    return result


def inverse(a: Any) -> Constant:
    """A^-1 of (.., n, n). With X the computed inverse, R = I - X A and |R|_inf < 1: A is not singular, A^-1 - X = R A^-1
    and |A^-1| <= |X| + |R|_inf / (1 - |R|_inf) max|X| entrywise by columns (Neumann series)."""
    a = constant(a)
    centre = torch.linalg.inv_ex(a.centre)[0]
    eye = torch.eye(a.shape[-1], dtype=torch.float64)
    residual = k.subtract(eye, k.matmul(centre, a))
    size = up(residual.centre.abs() + residual.reach())
    rows = norm_up(size, "1", -1).amax(-1)  # inf-norm of R, one for each matrix
    if not bool((rows < 0.5).all()):
        raise RefusedModel("a constant matrix is singular, or too close to it to be inverted")
    # |R X| + |R| |R X| + ... : entry (i, j) of the sum after the first term is at most r / (1 - r) max_k |R X|_kj
    first = k.matmul(Constant(size), centre.abs())
    first_up = up(first.centre + first.reach())
    largest = first_up.amax(-2, keepdim=True)
    rest = up(up(largest * rows[..., None, None]) * 2)  # r / (1 - r) <= 2 r
    return Constant(centre, up(first_up + rest))


def solve(a: Any, b: Any, left: bool = True) -> tuple[Constant, ...]:
    """A^-1 B, or B A^-1; of vectors too."""
    a, b = constant(a), constant(b)
    vector = b.centre.dim() == a.centre.dim() - 1
    if vector and not left:
        raise RefusedModel("a solution of x A = b for a vector")
    b = b.map(lambda t: t.unsqueeze(-1)) if vector else b
    x = k.matmul(inverse(a), b) if left else k.matmul(b, inverse(a))
    return (x.map(lambda t: t.squeeze(-1)) if vector else x,)


def exponential(a: Any) -> Constant:
    """exp(A) = exp(A / 2^s)^(2^s), |A / 2^s|_inf <= 1/2; the series up to x^n / n!, and a rest of norm at most
    2 |x|^(n+1) / (n+1)!, which bounds every entry."""
    a = constant(a)
    norm = float(norm_up(up(a.centre.abs() + a.reach()), "1", -1).max()) if a.centre.numel() else 0.0
    if not norm < 2.0**20:
        raise RefusedModel("the exponential of a constant matrix of norm over 2^20")
    halvings = max(0, math.frexp(norm)[1] + 1)
    x = k.multiply(a, 2.0**-halvings)
    total = Constant(torch.eye(a.shape[-1], dtype=torch.float64).expand(a.shape).contiguous())
    power = total
    for n in range(1, _TERMS + 1):
        power = k.divide(k.matmul(power, x), float(n))
        total = k.add(total, power)
    rest = 2 * 2.0 ** -(_TERMS + 1) / math.factorial(_TERMS + 1) * (1 + 1e-9)
    total = Constant(total.centre, up(total.reach() + rest))
    for _ in range(halvings):
        total = k.matmul(total, total)
    return total


def solve_triangular(a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Constant:
    """A^-1 B for a triangular A, whose other half is not read."""
    if unitriangular:
        raise RefusedModel("a solution with a unit triangular matrix")
    return solve(constant(a).map(torch.triu if upper else torch.tril), b, left)[0]
