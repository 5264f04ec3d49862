"""A batch of regions {c + r * t : ||t||_p <= 1}: boxes (p = inf), and balls of the other norms.

The radius is rounded up, so a cell contains the region that it was made from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.rigor.rounding import gamma, up
from lipcert.terms.query import Ball, Box, P, Region


@dataclass(frozen=True, eq=False)
class Cells:
    """`free` (b, n): which coordinates may move. Where a box has no width, the function is restricted to the others; a
    cell that is one point is the limit of small boxes around it, so all move, unless `free` says otherwise."""

    centre: Tensor  # (b, n)
    radius: Tensor  # (b, n)
    norm: P = "inf"
    free: Tensor | None = None

    @classmethod
    def boxes(cls, lower: Tensor, upper: Tensor) -> Cells:
        """Boxes [lower, upper], (b, n) float64 each."""
        centre = lower / 2 + upper / 2
        return cls(centre, up(torch.maximum(upper - centre, centre - lower)) * (lower < upper))

    @classmethod
    def of(cls, region: Region) -> Cells:
        """The one cell of a bounded region."""
        if isinstance(region, Box):
            return cls.boxes(region.lower.reshape(1, -1), region.upper.reshape(1, -1))
        assert isinstance(region, Ball)
        centre = region.center.reshape(1, -1)
        return cls(centre, torch.full_like(centre, region.radius), region.norm)

    def to(self, device: torch.device | str) -> Cells:
        free = None if self.free is None else self.free.to(device)
        return Cells(self.centre.to(device), self.radius.to(device), self.norm, free)

    def __len__(self) -> int:
        return self.centre.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Cells:
        return Cells(self.centre[rows], self.radius[rows], self.norm, None if self.free is None else self.free[rows])

    @property
    def moving(self) -> Tensor:
        if self.free is not None:
            return self.free
        wide = self.radius > 0
        return wide | ~wide.any(dim=1, keepdim=True)

    def reach(self, size: Tensor) -> Tensor:
        """Upper values of max |s . (x - c)| over the cell, for |s| <= size: (b, n, m) -> (b, m)."""
        grow = 1 + 4 * gamma(size.shape[1] + 8)
        match self.norm:
            case "inf":
                return torch.bmm(self.radius[:, None], size)[:, 0] * grow
            case "2":
                return torch.linalg.vector_norm(size * self.radius[:, :, None], dim=1) * grow + 1e-150
            case "1":
                return (size * self.radius[:, :, None]).amax(dim=1) * grow if size.shape[1] else size.sum(dim=1)

    def ends(self) -> tuple[Tensor, Tensor]:
        """The enclosing boxes, rounded outward where there is a width."""
        low, high = (
            torch.nextafter(self.centre + sign * self.radius, torch.full_like(self.centre, sign * math.inf))
            for sign in (-1, 1)
        )
        return torch.where(self.radius > 0, low, self.centre), torch.where(self.radius > 0, high, self.centre)

    def chunks(self, rows: int) -> Iterator[Cells]:
        for start in range(0, len(self), max(1, rows)):
            yield self[start : start + max(1, rows)]
