"""Nonlinear blocks: what a graph applies between its affine maps. Each states its l_p constants and value ranges.

A block with several parents bounds `||dz||_p <= sum_j k_j ||du_j||_p`; `lipschitz` returns the k_j, inf where there is no
finite one on the given ranges. Ranges are (lower, upper) pairs of (size,) tensors, None for the whole space.
Values and constants are rounded outward; exp, sqrt and log of the platform are trusted to 8 eps (activations).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lipcert.rigor.rounding import EPS, mul_up, sqrt_up
from lipcert.terms.query import P

Range = tuple[Tensor, Tensor]
ORDER: dict[P, int] = {"1": 0, "2": 1, "inf": 2}  # norms fall
SLACK = 16 * EPS  # relative error granted to one exp, log, sqrt or division


def down(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, -math.inf))


@dataclass(frozen=True, eq=False)
class Block:
    """Interface. `label` is what people read; `reason` says why a constant is infinite."""

    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    label = "block"
    reason = "its slope has no finite bound"
    steps = False  # discontinuous: no region of positive size has a constant
    exact = False  # comparisons and selections: no library function is approximated, nothing is rounded
    # [a, b] of (dz - a dv)'(dz - b dv) <= 0 along an axis, None where nothing of the kind is known (LipSDP)
    sector: ClassVar[tuple[float, float] | None] = None

    def fits(self, sizes: list[int], size: int) -> bool:
        raise NotImplementedError

    def __call__(self, *u: Tensor) -> Tensor:
        raise NotImplementedError

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        raise NotImplementedError

    def between(self, p: P, q: P) -> tuple[float, ...]:
        """Constants of `||dz||_q <= sum_j k_j ||du_j||_p` over the whole space, inf where none is known. For p <= q the l_p
        norm is the larger one: those of l_q hold."""
        same = self.lipschitz(q)
        return same if ORDER[p] <= ORDER[q] else (math.inf,) * len(same)

    def values_on(self, *u: Range) -> Range:
        raise NotImplementedError

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Block:
        """Tensors moved (indices keep their type)."""
        moved: dict[str, Any] = {
            name: value.to(device) if value.dtype == torch.int64 else value.to(device, dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Axis(Block):
    """Blocks that act along one axis of the signal seen as (outer, n, inner)."""

    outer: int
    n: int
    inner: int

    reduces = False

    def fits(self, sizes: list[int], size: int) -> bool:
        total = self.outer * self.n * self.inner
        return sizes == [total] and size == (self.outer * self.inner if self.reduces else total)

    def _view(self, u: Tensor) -> Tensor:
        return u.reshape(-1, self.outer, self.n, self.inner)

    def function(self, u: Tensor) -> Tensor:
        """On (r, outer, n, inner), along dim 2."""
        raise NotImplementedError

    def group(self, p: P, q: P) -> float | None:
        """The constant of one group from l_p to l_q, None where it is not known."""
        return None

    def between(self, p: P, q: P) -> tuple[float, ...]:
        """Blocks side by side, of one constant k: k times the norm of the identity of their number."""
        one = self.group(p, q)
        if one is None:
            return super().between(p, q)
        copies, steps = float(self.outer * self.inner), ORDER[p] - ORDER[q]
        return (mul_up(one, {1: sqrt_up(copies), 2: copies}[steps]) if steps > 0 else one,)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        raise NotImplementedError

    def __call__(self, u: Tensor) -> Tensor:  # type: ignore[override]
        if not u.numel() and not self.reduces:  # torch has no maximum of nothing
            return u
        return self.function(self._view(u)).reshape(u.shape[0], -1)

    def values_on(self, u: Range) -> Range:  # type: ignore[override]
        if not u[0].numel() and not self.reduces:
            return u
        lower, upper = self._range(self._view(u[0]), self._view(u[1]))
        rows = u[0].reshape(-1, self.outer * self.n * self.inner).shape[0]
        return lower.reshape(rows, -1), upper.reshape(rows, -1)
