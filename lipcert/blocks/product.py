"""Products of two signals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Block, Range, down
from lipcert.rigor.rounding import gamma, norm_up, up
from lipcert.terms.query import P


def _interval_product(a: Range, b: Range) -> Range:
    corners = [(x * y).nan_to_num(0.0, math.inf, -math.inf) for x in a for y in b]  # 0 * inf = 0: x itself is finite
    low = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
    high = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
    return down(low), up(high)


def _largest(side: Range) -> Tensor:
    return torch.maximum(side[0].abs(), side[1].abs())


@dataclass(frozen=True, eq=False)
class Product(Block):
    """z = u * v entry by entry: ||dz||_p <= max|v| ||du||_p + max|u| ||dv||_p, finite only on bounded ranges."""

    size: int

    label = "product"
    reason = "a product of two signals is Lipschitz only where both are bounded"

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [size, size] and size == self.size

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        return u * v

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        if ranges is None:
            return (math.inf, math.inf) if self.size else (0.0, 0.0)
        u, v = (float(_largest(side).max()) if self.size else 0.0 for side in ranges)
        return (v, u)

    def values_on(self, u: Range, v: Range) -> Range:  # type: ignore[override]
        return _interval_product(u, v)


@dataclass(frozen=True, eq=False)
class MatMul(Block):
    """Z_b = U_b V_b for signals U: (batch, m, k), V: (batch, k, n).

    ||dZ||_F <= ||V||_F ||dU||_F + ||U||_F ||dV||_F per batch; l1, linf of the flat signals: entry by entry,
    sum |dU_il| |V_lj| <= (max over l of the row sum of |V|) ||dU||_1, and the like. Finite only on bounded ranges.
    """

    batch: int
    m: int
    k: int
    n: int

    label = "matmul"
    reason = "a matrix product of two signals (dot-product attention) is Lipschitz only where both are bounded"

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [self.batch * self.m * self.k, self.batch * self.k * self.n] and (
            size == self.batch * self.m * self.n
        )

    def _views(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return u.reshape(-1, self.batch, self.m, self.k), v.reshape(-1, self.batch, self.k, self.n)

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        a, b = self._views(u, v)
        return (a @ b).reshape(u.shape[0], -1)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        if ranges is None:
            return (math.inf, math.inf)
        u, v = self._views(_largest(ranges[0]).reshape(1, -1), _largest(ranges[1]).reshape(1, -1))
        if p == "2":
            return (_frobenius(v), _frobenius(u))
        # flat norms of dZ = dU V + U dV with |.| taken entry by entry
        grow = 1 + gamma(max(self.m, self.n, self.k) + 8)

        def size(t: Tensor, dim: int) -> float:
            return up(float(t.sum(dim=dim).max()) * grow)

        return (size(v, 3), size(u, 2)) if p == "1" else (size(v, 2), size(u, 3))

    def values_on(self, u: Range, v: Range) -> Range:  # type: ignore[override]
        if not all(bool(torch.isfinite(side).all()) for side in (*u, *v)):
            rows = u[0].reshape(-1, self.batch * self.m * self.k).shape[0]
            full = u[0].new_full((rows, self.batch * self.m * self.n), math.inf)
            return -full, full
        (al, bl), (ah, bh) = self._views(u[0], v[0]), self._views(u[1], v[1])
        ac, bc = al / 2 + ah / 2, bl / 2 + bh / 2
        ar, br = up(torch.maximum(ah - ac, ac - al)), up(torch.maximum(bh - bc, bc - bl))
        centre = ac @ bc
        radius = ac.abs() @ br + ar @ (bc.abs() + br) + gamma(self.k + 4) * (ac.abs() @ bc.abs())
        radius = radius * (1 + 4 * gamma(self.k + 8)) + self.k * 2.0**-1000
        rows = centre.shape[0]
        return down(centre - radius).reshape(rows, -1), up(centre + radius).reshape(rows, -1)


def _frobenius(t: Tensor) -> float:
    """Largest Frobenius norm over the batch, upward."""
    return float(max(norm_up(block.reshape(-1), "2") for block in t.reshape(-1, *t.shape[-2:])))
