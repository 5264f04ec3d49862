"""One scalar function at every entry: a row of the table of activations."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.blocks.base import Block, Range
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

    def values_on(self, u: Range) -> Range:  # type: ignore[override]
        return self.activation.values_on(*u)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Pointwise:
        params = tuple(p.to(device, dtype) if isinstance(p, Tensor) else p for p in self.activation.params)
        moved = copy(self.activation)  # an Elementwise that is made anew insists on float64
        object.__setattr__(moved, "params", params)
        return Pointwise(moved, self.size)
