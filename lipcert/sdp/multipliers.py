"""Multipliers that are feasible, or become so: the closed form of ECLipsE-Fast, and the repair of nearly optimal ones.

Nothing here is trusted: lmi.prove has the last word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.proofs.lmi import INPUT, Coefficients
from lipcert.proofs.normal_form import NormalForm
from lipcert.terms.clock import tick


@dataclass
class Restored:
    """Feasible multipliers for s_y = 1, and rho = lambda_max of the input's cost-to-go, in floating arithmetic."""

    multipliers: list[Tensor]
    rho: float


def restored(form: NormalForm, table: Coefficients, shape: Sequence[Tensor], delta: float) -> Restored:
    """Multipliers tau_k Lambda_k with the least tau_k >= 1 that keeps every pivot 2 tau_k Lambda_k - P_kk at or above
    2 delta tau_k Lambda_k. P is the cost-to-go from the output; the live signals are eliminated from the output on, so
    this works on any graph. Near the optimum all tau_k are near 1; unsettled multipliers want a larger delta.
    """
    cost = _CostToGo(form, table)
    found: list[Tensor] = [torch.empty(0)] * len(form.layers)
    for k in range(len(form.layers), INPUT, -1):
        tick()
        layer = form.layers[k - 1]
        weights = layer.spread(shape[k - 1])
        tau = 1.0
        here = cost.diagonal(k)
        if here is not None:
            half = weights.rsqrt() if bool((weights > 0).all()) else weights.clamp(min=1e-300).rsqrt()
            tau = max(1.0, _largest(here * half[:, None] * half[None, :]) / (2 * (1 - delta)))
        for _ in range(30):
            if cost.eliminate(k, tau * weights):
                break
            tau = tau * (1 + 2 * delta) + 1e-13
            delta *= 2
        else:
            return Restored([], math.inf)
        found[k - 1] = tau * shape[k - 1]
    return Restored(found, cost.largest())


def closed_form(form: NormalForm, table: Coefficients) -> Restored:
    """One multiplier per layer, lambda_k = ||P_kk||: 2 lambda_k - P_kk >= lambda_k (Xu & Sivaranjani 2024, ECLipsE-Fast, in
    the orientation that starts at the output). On any graph."""
    cost = _CostToGo(form, table)
    found: list[Tensor] = [torch.empty(0)] * len(form.layers)
    for k in range(len(form.layers), INPUT, -1):
        tick()
        layer = form.layers[k - 1]
        here = cost.diagonal(k)
        weight = 0.0 if here is None else _largest(here) * (1 + 1e-9)
        weight = weight if weight > 0 else 1e-200
        if not cost.eliminate(k, torch.full((layer.size,), weight, dtype=torch.float64)):
            return Restored([], math.inf)
        found[k - 1] = torch.full((layer.count,), weight, dtype=torch.float64)
    return Restored(found, cost.largest())


class _CostToGo:
    """P: the quadratic form |y|^2 - sum 2 lambda (z - a v)(z - b v) maximised over the layers eliminated so far."""

    def __init__(self, form: NormalForm, table: Coefficients):
        self.form, self.table = form, table
        self.blocks: dict[tuple[int, int], Tensor] = {}
        self.at_input: list[tuple[Tensor | None, Tensor]] = []  # terms F' diag(w) F of the input's own block
        self._gram({j: block.centre for j, block in table.rows[-1].items()})

    def diagonal(self, k: int) -> Tensor | None:
        return self.blocks.get((k, k))

    def eliminate(self, k: int, weights: Tensor) -> bool:
        """Maximise over layer k with multipliers `weights` per neuron; False (and unchanged) if the pivot is not positive."""
        layer, row = self.form.layers[k - 1], self.table.rows[k]
        pivot = torch.diag(2 * weights)
        here = self.blocks.get((k, k))
        factor, info = torch.linalg.cholesky_ex(pivot if here is None else pivot - here)
        if int(info) != 0 or not bool(torch.isfinite(factor.diagonal()).all()):
            return False
        self.blocks.pop((k, k), None)
        sides: dict[int, Tensor] = {}
        for j in range(k):
            crossing = self.blocks.pop((k, j), None)
            if j in row:
                linear = (weights * (layer.low + layer.high))[:, None] * row[j].centre
                crossing = linear if crossing is None else crossing + linear
            if crossing is not None:
                sides[j] = torch.linalg.solve_triangular(factor, crossing, upper=False)
        self._gram(sides)
        both = layer.low * layer.high
        if bool((both != 0).any()):
            self._gram({j: block.centre for j, block in row.items()}, -2 * weights * both)
        return True

    def _gram(self, sides: dict[int, Tensor], weights: Tensor | None = None) -> None:
        for i, left in sides.items():
            for j, right in sides.items():
                if i == j == INPUT:
                    self.at_input.append((weights, left))
                elif i >= j:
                    term = left.T @ (right if weights is None else weights[:, None] * right)
                    self.blocks[i, j] = self.blocks[i, j] + term if (i, j) in self.blocks else term

    def largest(self) -> float:
        """lambda_max of the input's block, without forming it where it is large."""
        if not self.at_input:
            return 0.0
        n = self.at_input[0][1].shape[1]

        def apply(x: Tensor) -> Tensor:
            return sum(
                (f.T @ (f @ x if w is None else w[:, None] * (f @ x)) for w, f in self.at_input), torch.zeros_like(x)
            )

        if n <= 512:
            return max(0.0, _largest(apply(torch.eye(n, dtype=torch.float64))))
        return max(0.0, lanczos(apply, n))


def _largest(matrix: Tensor) -> float:
    """`inf` where the matrix overflowed: no multiplier is large enough, and LAPACK refuses such a matrix."""
    if not bool(torch.isfinite(matrix).all()):
        return math.inf
    n = matrix.shape[0]
    if n <= 512:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    return lanczos(lambda x: matrix @ x, n)


def lanczos(apply: Callable[[Tensor], Tensor], n: int, steps: int = 120) -> float:
    """Largest eigenvalue of a symmetric operator (n, 1) -> (n, 1), from below, with full reorthogonalisation."""
    basis = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis /= basis.norm()
    images: list[Tensor] = []
    for _ in range(min(steps, n)):
        tick()
        images.append(apply(basis[:, -1:]))
        fresh = images[-1] - basis @ (basis.T @ images[-1])
        fresh = fresh - basis @ (basis.T @ fresh)
        length = float(fresh.norm())
        if length <= 1e-14 * float(images[-1].norm()):
            break
        basis = torch.cat([basis, fresh / length], dim=1)
    small = basis[:, : len(images)].T @ torch.cat(images, dim=1)
    return float(torch.linalg.eigvalsh((small + small.T) / 2)[-1])


def positive(multipliers: Sequence[Tensor]) -> list[Tensor]:
    """Multipliers of neurons that do nothing are tiny and positive, so that the matrix is not singular.

    The floor is relative to the layer: across layers multipliers range over the square of the network's constant.
    """
    floors = [float(m.max()) if m.numel() else 0.0 for m in multipliers]
    return [m.clamp(min=1e-14 * top if top > 0 else 1e-200) for m, top in zip(multipliers, floors, strict=True)]


def depths(form: NormalForm, table: Coefficients) -> list[int]:
    """Longest way from the input to each layer, counted in layers."""
    level = {INPUT: 0}
    for k in range(1, len(form.layers) + 1):
        level[k] = 1 + max((level[j] for j in table.rows[k]), default=0)
    return [level[k] for k in range(1, len(form.layers) + 1)]


def inflated(multipliers: Sequence[Tensor], levels: Sequence[int], eta: float, *, from_output: bool) -> list[Tensor]:
    """Lambda_i (1 + eta)^(2 (K - i) + 1): on a chain, M' = D M D plus the positive diagonal 2 eta Lambda, with
    D_i = (1 + eta)^(K - i) (MATH section 4, "repair"). Where the input block is the one that is fixed (`from_output`
    false), D_i = (1 + eta)^-i and the multipliers shrink by (1 + eta)^(2 i - 1)."""
    deepest = max(levels, default=0)
    return [
        m * (1 + eta) ** (2 * (deepest - level) + 1 if from_output else 1 - 2 * level)
        for m, level in zip(multipliers, levels, strict=True)
    ]
