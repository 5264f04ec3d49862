"""Each output is one of some inputs: maxima and minima over windows, with their overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Block, Range
from lipcert.rigor.rounding import sqrt_up
from lipcert.terms.query import P

WIDE, AT_ONCE = 64, 2**20  # windows of so many entries are wide; entries that are gathered in one step


@dataclass(frozen=True, eq=False)
class Selection(Block):
    """z_i = max over j of u[windows[i, j]], entries -1 absent: max pooling, amax, maximum of two signals.

    On each piece z is a selection of entries, an entry chosen by at most `overlap` windows, hence
    ||dz||_p <= overlap^(1/p) ||du||_p, attained where one entry is the maximum of all its windows.
    """

    windows: Tensor  # int64 (out_size, width)
    in_size: int
    minimum: bool = False

    label = "max"
    exact = True

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [self.in_size] and size == self.windows.shape[0]

    def _pick(self, u: Tensor) -> Tensor:
        absent = math.inf if self.minimum else -math.inf
        best: Tensor | None = None
        if self._places is not self.windows:
            u = torch.cat([u, u.new_full((u.shape[0], 1), absent)], dim=1)
        for columns in self._places.split(self._at_once(u), dim=1):
            entry = u.index_select(1, columns.reshape(-1)).reshape(u.shape[0], *columns.shape)
            entry = entry[:, :, 0] if columns.shape[1] == 1 else entry.amin(2) if self.minimum else entry.amax(2)
            best = entry if best is None else (torch.minimum if self.minimum else torch.maximum)(best, entry)
        assert best is not None
        return best

    @property
    def _places(self) -> Tensor:
        """`windows`, with one more entry behind the last where some are absent."""
        if "places" not in self.memo:
            absent = self.windows < 0
            some = bool(absent.any())
            self.memo["places"] = torch.where(absent, self.in_size, self.windows) if some else self.windows
        return self.memo["places"]

    def _at_once(self, u: Tensor) -> int:
        """Columns that are taken in one step: one of a pool, (r, out_size) of memory; many of a maximum over thousands."""
        out_size, width = self.windows.shape
        return 1 if width <= WIDE else max(1, AT_ONCE // max(1, u.shape[0] * out_size))

    def __call__(self, u: Tensor) -> Tensor:  # type: ignore[override]
        return self._pick(u)

    @property
    def overlap(self) -> int:
        if "overlap" not in self.memo:
            used = self.windows[self.windows >= 0]
            self.memo["overlap"] = int(torch.bincount(used).max()) if used.numel() else 0
        return self.memo["overlap"]

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        most = float(self.overlap)
        return ({"1": most, "2": most if most <= 1 else sqrt_up(most), "inf": min(most, 1.0)}[p],)

    def values_on(self, u: Range) -> Range:  # type: ignore[override]
        lower, upper = (side.reshape(-1, self.in_size) for side in u)
        return self._pick(lower), self._pick(upper)
