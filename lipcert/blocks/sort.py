"""Sorting along an axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Axis, Range
from lipcert.terms.query import P


@dataclass(frozen=True, eq=False)
class Sort(Axis):
    """Sorted along the axis: a permutation of the entries on each piece, so 1 in every l_p."""

    descending: bool = False

    label = "sort"
    exact = True
    # a permutation on each piece: |dz| <= |dv|, and one may have the eigenvalue -1, so not [0, 1]
    sector = (-1.0, 1.0)

    def function(self, u: Tensor) -> Tensor:
        return torch.sort(u, dim=2, descending=self.descending).values

    @property
    def windows(self) -> Tensor:
        """The entries one of which each output is, (size, n)."""
        groups = torch.arange(self.outer * self.n * self.inner).reshape(self.outer, self.n, self.inner).transpose(1, 2)
        return groups[:, None].expand(-1, self.n, -1, -1).reshape(-1, self.n)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (1.0,)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        return self.function(lower), self.function(upper)
