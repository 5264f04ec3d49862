"""Proof that the eigenvalues of Hermitian matrices lie below a number.

Any factor L of M = t I - G, however it was computed, gives M = L L^H + E with L L^H >= 0, so that

    lambda_max(G) <= t + ||E||_2.

E is evaluated in floating point and its own error is bounded, so neither the Cholesky routine nor the eigenvalue
solver that proposes t has to be trusted (MATH section 1: "verify a posteriori"; Rump 2006, BIT 46, bounds ||E|| a
priori instead, which assumes how LAPACK orders its work and does not hold for GPU libraries). What is assumed: IEEE
float64, and matrix products whose every entry is a sum of the k exact or rounded products in some order, FMA or not.
Then |fl(X Y) - X Y| <= gamma_k |X| |Y| (Higham, (3.13)). It excludes Strassen, TF32, bf16 and emulated float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.rigor.rounding import (
    EPS,
    TINY,
    add_up,
    gamma,
    keeps_subnormals,
    mul_up,
    power_of_two_scale,
    sqrt_up,
    sum_up,
)
from lipcert.terms.clock import tick

# Relative distance between the proposed largest eigenvalue and t. The first is close to what eigvalsh can err by.
LADDER = (1e-10, 1e-9, 1e-8, 1e-6)
SLICE = 1 << 18  # entries of the matrices factored at once: 4 MB of complex numbers stay in the cache
LARGE = 256  # rows from which a few products propose the largest eigenvalue sooner than all eigenvalues do
STEPS = 120  # such products at most
BLOCK = 128  # rows of the residual formed at once; also skips the zero half of L


@dataclass(frozen=True)
class Hermitian:
    """A batch of Hermitian matrices `re + i im`, exactly as stored."""

    re: Tensor  # (b, n, n) float64, symmetric
    im: Tensor | None = None  # (b, n, n) float64, antisymmetric; None: real matrices

    def parts(self) -> list[Tensor]:
        return [self.re] if self.im is None else [self.re, self.im]

    def pick(self, index: Tensor | slice) -> Hermitian:
        """The matrices at `index` of the batch."""
        return Hermitian(self.re[index], None if self.im is None else self.im[index])

    def scaled(self, factor: Tensor) -> Hermitian:
        """Each matrix times its entry of `factor` (b,): exact for powers of two."""
        by = factor[:, None, None]
        return Hermitian(self.re * by, None if self.im is None else self.im * by)

    def dense(self) -> Tensor:
        return self.re if self.im is None else torch.complex(self.re, self.im)


@keeps_subnormals
def largest_eigenvalue_upper(G: Hermitian) -> Tensor:
    """Proved upper values (b,) of max(lambda_max, 0). `inf` where entries are not finite."""
    value = row_sum_upper(G)
    todo = torch.isfinite(value) & (value > 0)
    if not bool(todo.any()):
        return value
    index = todo.nonzero().flatten()
    if G.im is None and G.re.shape[-1] >= LARGE and G.re.device.type == "cpu":
        quick = torch.tensor([from_products(G.re[i]) for i in index.tolist()], dtype=torch.float64)
        proved = eigenvalues_below(G.pick(index), quick * (1 + LADDER[0]))
        value[index] = torch.minimum(value[index], proved)
        index = index[torch.isinf(proved)]
        if len(index) == 0:
            return value
    proposed = propose(G.pick(index))
    for inflation in LADDER:
        tick()
        proved = eigenvalues_below(G.pick(index), proposed * (1 + inflation))
        value[index] = torch.minimum(value[index], proved)
        open_ = torch.isinf(proved)
        index, proposed = index[open_], proposed[open_]
        if len(index) == 0:
            break
    return value


def propose(G: Hermitian) -> Tensor:
    """Estimates (b,) of the largest eigenvalue: nothing is claimed about them."""
    try:
        return torch.linalg.eigvalsh(G.dense())[:, -1]
    except torch.linalg.LinAlgError:
        return row_sum_upper(G)


def from_products(G: Tensor) -> float:
    """An estimate of the largest eigenvalue of G (n, n), from below: Lanczos with all vectors kept orthogonal, until the Ritz
    value is right to 1e-13 (its error is at most residual^2 / gap: Parlett, The symmetric eigenvalue problem, 11.7.1), and
    less by 20 times that, so that a proof is no looser than one of what all eigenvalues propose. 0 where it is not right soon: no proof begins there."""
    n = len(G)
    steps = min(STEPS, n)
    basis = torch.zeros(steps + 1, n, dtype=torch.float64)
    basis[0] = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis[0] /= basis[0].norm()
    T = torch.zeros(steps, steps, dtype=torch.float64)
    for k in range(steps):
        tick()
        w = G @ basis[k]
        T[k, k] = w @ basis[k]
        for _ in range(2):
            w -= (basis[: k + 1] @ w) @ basis[: k + 1]
        size = float(w.norm())
        ended = not size > 1e-14 * abs(float(T[0, 0]))
        if ended or k % 10 == 9:
            values, vectors = torch.linalg.eigh(T[: k + 1, : k + 1])
            top, gap = float(values[-1]), float(values[-1] - values[-2]) if k else 0.0
            residual = size * abs(float(vectors[-1, -1]))
            if ended or residual * residual <= 1e-13 * top * gap:
                return top * (1 - 2e-12)
        if k + 1 < steps:
            T[k, k + 1] = T[k + 1, k] = size
            basis[k + 1] = w / size
    return 0.0


def row_sum_upper(G: Hermitian) -> Tensor:
    """Upper values (b,) of the largest absolute row sum, hence of the spectral radius; `inf` if not finite."""
    value = sum_up(torch.stack([sum_up(part.abs(), 2) for part in G.parts()]), 0).amax(1)
    return torch.where(torch.isfinite(value), value, torch.full_like(value, math.inf))


def frobenius_upper(G: Hermitian) -> Tensor:
    """Upper values (b,) of the Frobenius norm, hence of the spectral radius; `inf` if not finite or on overflow, above
    zero for a zero matrix."""
    n = G.re.shape[-1]
    squares = torch.stack([_squares(part) for part in G.parts()]).sum(0)
    value = sqrt_up(add_up(mul_up(squares, add_up(1.0, gamma(2 * n * n + 2))), 2 * n * n * TINY))
    return torch.where(torch.isfinite(value), value, torch.full_like(value, math.inf))


@keeps_subnormals
def eigenvalues_below(G: Hermitian, t: Tensor) -> Tensor:
    """Proved upper values (b,) of lambda_max, just above `t` (b,); `inf` where t I - G has no Cholesky factor."""
    b, n, _ = G.re.shape
    some = max(1, SLICE // (n * n))
    return torch.cat([_below(G.pick(slice(i, i + some)), t[i : i + some]) for i in range(0, b, some)])


def _squares(t: Tensor) -> Tensor:
    """Sums (b,) of the squared entries of t (b, m, n), in one pass without a temporary."""
    flat = t.reshape(t.shape[0], 1, -1)
    return (flat @ flat.mT).flatten()


def _below(G: Hermitian, t: Tensor) -> Tensor:
    tick()
    n = G.re.shape[-1]
    # Where t I - G >= 0 no entry of it exceeds the largest diagonal entry; elsewhere the factor fails anyway.
    scale = power_of_two_scale(torch.maximum(G.re.diagonal(dim1=1, dim2=2).abs().amax(1), t.abs()))
    M = G.scaled(-1.0 / scale)
    t = t * (1.0 / scale)
    diagonal = M.re.diagonal(dim1=1, dim2=2)
    diagonal += t[:, None]
    factor, info = torch.linalg.cholesky_ex(M.dense())
    if bool((info != 0).all()):
        return torch.full_like(t, math.inf)
    defect = _defect(M, factor.tril().contiguous())
    # t I - G = M + D with |D| <= u |diag M|; entries that left the normal range on scaling: n TINY in the norm.
    slack = mul_up(diagonal.abs().amax(1), EPS)
    above = add_up(add_up(defect, slack), 8 * n * n * TINY)
    value = mul_up(add_up(t, above), scale)
    return torch.where((info == 0) & torch.isfinite(value), value, torch.full_like(value, math.inf))


def _defect(M: Hermitian, L: Tensor) -> Tensor:
    """Upper values (b,) of ||M - L L^H||_2, L (b, n, n) lower triangular.

    Row sums of |M - fl(L L^H)|, plus the error of the product. Real: at most gamma_n |L| |L|' entry by entry, and
    || |L| |L|' ||_2 <= ||L||_F^2. Complex: real and imaginary part are sums of 2n real products, |re| + |im| of the
    error is at most gamma_2n A A' with A = |Re L| + |Im L|, and ||A||_F^2 <= 2 ||L||_F^2.
    """
    b, n, _ = L.shape
    width = 1 if M.im is None else 2
    if M.im is None:
        wide, factors = L, [L]
    else:  # rows (re, im, re, im, ..): Re and Im of L L^H are the rows of L and of -i L times these
        pairs = torch.view_as_real(L)
        turned = torch.stack([pairs[..., 1], -pairs[..., 0]], 3)
        wide = pairs.reshape(b, n, 2 * n)
        factors = [wide, turned.reshape(b, n, 2 * n)]
    row_sums = L.new_zeros(b, n, dtype=torch.float64)
    for start in range(0, n, BLOCK):
        tick()
        end = min(start + BLOCK, n)
        right = wide[:, :end, : width * end].mT  # L is zero beyond
        for factor, target in zip(factors, M.parts(), strict=True):
            residual = (factor[:, start:end, : width * end] @ right).sub_(target[:, start:end, :end]).abs_()
            row_sums[:, start:end] = add_up(row_sums[:, start:end], sum_up(residual, 2))
            row_sums[:, :start] = add_up(row_sums[:, :start], sum_up(residual[:, :, :start], 1))
    formed = mul_up(row_sums.amax(1), add_up(1.0, gamma(2)))  # |a - b| <= |fl(a - b)| (1 + u)
    weight = mul_up(width * _squares(wide), add_up(1.0, gamma(width * n * n + 1)))
    # Products that underflow, here and in `weight`: width n TINY for each entry.
    return add_up(formed, add_up(mul_up(weight, gamma(width * n)), 8 * n * n * TINY))
