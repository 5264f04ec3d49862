"""One scalar function at every entry: a row of the table of activations."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.blocks.base import ORDER, Block, Range
from lipcert.rigor.rounding import norm_up
from lipcert.terms.query import P


@dataclass(frozen=True, eq=False)
class Pointwise(Block):
    """An elementwise activation; one row of the traits table with its parameters."""

    activation: Elementwise
    size: int

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.activation.row.name

    @property
    def steps(self) -> bool:  # type: ignore[override]
        return not self.activation.continuous

    @property
    def exact(self) -> bool:  # type: ignore[override]
        return self.activation.row.exact

    @property
    def reason(self) -> str:  # type: ignore[override]
        return f"{self.label} jumps" if self.steps else f"the slope of {self.label} has no finite bound there"

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [size] and size == self.size

    def __call__(self, u: Tensor) -> Tensor:  # type: ignore[override]
        return self.activation(u)

    def slopes(self, ranges: tuple[Range, ...] | None = None) -> Range:
        """[a, b] per neuron, (size,) each, on the ranges (None: everywhere)."""
        if ranges is None:
            if "slopes" not in self.memo:
                self.memo["slopes"] = tuple(
                    torch.as_tensor(side, dtype=torch.float64).reshape(-1).expand(self.size)
                    for side in self.activation.slopes()
                )
            return self.memo["slopes"]
        lower, upper = self.activation.slopes_on(*ranges[0])
        return lower.reshape(-1).expand(self.size), upper.reshape(-1).expand(self.size)

    def largest_slopes(self, ranges: tuple[Range, ...] | None = None) -> Tensor:
        """max |s'| per neuron, (size,); inf where unbounded."""
        lower, upper = self.slopes(ranges)
        return torch.maximum(lower.abs(), upper.abs())

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (float(self.largest_slopes(ranges).max()) if self.size else 0.0,)

    def between(self, p: P, q: P) -> tuple[float, ...]:
        """A diagonal matrix D: max |D_ii| for p <= q, else the l2 norm (2 -> 1, inf -> 2) or the sum (inf -> 1) of them."""
        steps = ORDER[p] - ORDER[q]
        if steps <= 0 or not self.size:
            return self.lipschitz(p)
        return (float(norm_up(self.largest_slopes(), "2" if steps == 1 else "1")),)

    def values_on(self, u: Range) -> Range:  # type: ignore[override]
        return self.activation.values_on(*u)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Pointwise:
        params = tuple(p.to(device, dtype) if isinstance(p, Tensor) else p for p in self.activation.params)
        moved = copy(self.activation)  # an Elementwise that is made anew insists on float64
        object.__setattr__(moved, "params", params)
        return Pointwise(moved, self.size)
