"""What a rule of the slope sweep is given, and what it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.regions.forward.stack import LOST, Stack, all_finite
from lipcert.rigor.rounding import EPS

GROW = 1 + 16 * EPS


@dataclass(frozen=True, eq=False)
class Entry:
    """What enters a block: the stack, the enclosing range of the signal (b, size), the count of slope rows."""

    stack: Stack
    lower: Tensor
    upper: Tensor
    slopes: int
    spare: bool = False  # nobody else reads the stack: it may be written over

    @property
    def value(self) -> Tensor:
        return self.stack[0][:, 0]

    @property
    def hull(self) -> Range:
        """The range together with the centre value: the segments lie in it."""
        return torch.minimum(self.lower, self.value), torch.maximum(self.upper, self.value)


@dataclass(frozen=True, eq=False)
class Exit:
    """`slopes`: (low, high), (b, size), of elementwise blocks: how far each neuron is from being affine on the cell."""

    stack: Stack
    slopes: Range | None = field(default=None)


def middle(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius of an interval; (0, inf) where it is not bounded."""
    centre = (lower / 2).add_(upper, alpha=0.5)
    radius = torch.maximum(upper - centre, centre - lower).mul_(1 + 4 * EPS).add_(LOST)
    if all_finite(radius):
        return centre, radius
    known = torch.isfinite(centre) & torch.isfinite(radius)
    return torch.where(known, centre, 0.0), torch.where(known, radius, math.inf)


def or_infinite(radius: Tensor) -> Tensor:
    return radius.nan_to_num(math.inf, math.inf, math.inf)
