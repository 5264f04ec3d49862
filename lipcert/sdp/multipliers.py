"""Multipliers that are feasible, or become so: the closed form of ECLipsE-Fast, and the repair of nearly optimal ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lipcert.lmi import INPUT, Coefficients
from lipcert.normalform import NormalForm

MARGIN = 1 + 1e-6


def closed_form(form: NormalForm, table: Coefficients) -> list[Tensor]:
    """One multiplier per layer, lambda_k = ||P_kk||, P the cost-to-go from the output: H_k = 2 lambda_k - P_kk > 0 by
    construction (Xu & Sivaranjani 2024, ECLipsE-Fast, in the orientation that starts at the output). On any graph.
    """
    count = len(table.sizes)
    cost: dict[tuple[int, int], Tensor] = {}
    _add_gram(cost, {j: block.centre for j, block in table.rows[count - 1].items()})
    found: list[Tensor] = [torch.empty(0)] * len(form.layers)
    for k in range(count - 2, INPUT, -1):
        layer, row = form.layers[k - 1], table.rows[k]
        here = cost.pop((k, k), None)
        if here is None:
            found[k - 1] = torch.zeros(layer.count, dtype=torch.float64)
            for key in [key for key in cost if k in key]:
                cost.pop(key)
            continue
        size = float(torch.linalg.matrix_norm(here, 2)) if here.shape[0] <= 1500 else _power(here)
        weight = max(size, 1e-300) * MARGIN
        found[k - 1] = torch.full((layer.count,), weight, dtype=torch.float64)
        pivot = 2 * weight * torch.eye(layer.size, dtype=torch.float64) - here
        sides: dict[int, Tensor] = {}
        for j in range(k):
            crossing = cost.pop((k, j), None)
            if j in row:
                linear = weight * (layer.low + layer.high)[:, None] * row[j].centre
                crossing = linear if crossing is None else crossing + linear
            if crossing is not None:
                sides[j] = crossing
        factor, info = torch.linalg.cholesky_ex(pivot)
        if int(info) != 0:
            found[k - 1] *= 2
            factor = torch.linalg.cholesky(pivot + 2 * weight * torch.eye(layer.size, dtype=torch.float64))
        reduced = {j: torch.linalg.solve_triangular(factor, side, upper=False) for j, side in sides.items()}
        _add_gram(cost, reduced)
        both = layer.low * layer.high
        if bool((both != 0).any()):
            for i, left in row.items():
                for j, right in row.items():
                    if i >= j:
                        term = -2 * weight * left.centre.T @ (both[:, None] * right.centre)
                        cost[i, j] = cost[i, j] + term if (i, j) in cost else term
    return found


def _add_gram(cost: dict[tuple[int, int], Tensor], sides: dict[int, Tensor]) -> None:
    for i, left in sides.items():
        for j, right in sides.items():
            if i >= j:
                term = left.T @ right
                cost[i, j] = cost[i, j] + term if (i, j) in cost else term


def _power(matrix: Tensor) -> float:
    v = torch.randn(matrix.shape[0], 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(40):
        v, _r = torch.linalg.qr(matrix @ v)
    return 1.001 * float(torch.linalg.matrix_norm(matrix @ v, 2))


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
    """Lambda_i (1 + eta)^(2 (K - i) + 1): on a chain, M' = D M D plus the positive diagonal 2 eta Lambda (MATH section 4,
    "repair"). `from_output` false: the mirror image, for matrices whose input block is fixed."""
    deepest = max(levels, default=0)
    return [
        m * (1 + eta) ** (2 * (deepest - level) + 1 if from_output else 2 * (level - 1) + 1)
        for m, level in zip(multipliers, levels, strict=True)
    ]


def mixed(multipliers: Sequence[Tensor], safe: Sequence[Tensor], theta: float) -> list[Tensor]:
    """(1 - theta) Lambda + theta Lambda_safe: M is linear in Lambda and rho, so feasibility mixes as well."""
    return [(1 - theta) * m + theta * s for m, s in zip(multipliers, safe, strict=True)]
