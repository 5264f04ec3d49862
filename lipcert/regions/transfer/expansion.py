"""What a rule of the method is given of a block's inputs, and what it gives: a linearisation and how wrong that is.

    z(x)   = phi + sum_j G_j (u_j(x) - a_j) + rho(x)          |rho_i| <= entries_i,  ||rho_g||_2 <= lengths_g
    Dz(x)  = sum_j G'_j Du_j(x) + sum_t V_t D_t W_t Du_{read(t)}(x)        ||D_{t,g}||_2 <= 1 for each group g of term t

for every x of the region; a_j the floating centres, G and G' constant matrices that may differ, phi, G, V, W real numbers
known up to a radius. Everything else of a block is beside the point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lipcert.blocks.base import Block, Range
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Node
from lipcert.operators.linear import Operator, Select
from lipcert.regions.transfer.reach import Origins, entrywise, lengths
from lipcert.regions.transfer.rows import CENTRE, Rows, through
from lipcert.rigor.rounding import down, up


@dataclass(eq=False)
class Arriving:
    """One input u of a block: its rows, and a range that was proved otherwise, (lower, upper) (size,)."""

    rows: Rows
    sources: Origins
    known: Range | None = None

    @property
    def centre(self) -> Tensor:
        return self.rows[CENTRE].centre[0]

    @cached_property
    def reach(self) -> Tensor:
        """|u_i - a_i|, upper values (size,)."""
        far = entrywise(self.sources, self.rows)
        if self.known is None:
            return far
        lower, upper = self.known
        return torch.minimum(far, torch.maximum(up(upper - self.centre), up(self.centre - lower)).clamp(min=0.0))

    @cached_property
    def range(self) -> Range:
        lower, upper = down(self.centre - self.reach), up(self.centre + self.reach)
        if self.known is None:
            return lower, upper
        return torch.maximum(lower, self.known[0]), torch.minimum(upper, self.known[1])

    def of(self, operator: Operator) -> Arriving:
        """A u, about fl(A a), which is as far from A a as its radius says."""
        return Arriving(through(operator, self.deviation), self.sources)

    @cached_property
    def deviation(self) -> Rows:
        """u - a: the same rows about 0."""
        middle = self.rows[CENTRE]
        return self.rows | {CENTRE: Known(torch.zeros_like(middle.centre), middle.reach())}

    def moved(self, positions: Tensor) -> Arriving:
        """u - a at `positions`, one after the other."""
        return self.of(Select(positions.reshape(-1), len(self.centre)))

    def lengths(self, groups: int) -> Tensor:
        """||u_g - a_g||_2 of consecutive groups of equal size, upper values (groups,)."""
        return lengths(self.sources, self.rows, groups)


@dataclass(frozen=True, eq=False)
class Term:
    """V D W: `inner` is W on input number `read`, with `inner_group` (p,) the group of each of its entries; `outer` the
    columns of V as rows (q, size), with `outer_group` (q,). Groups are numbered 0 .. groups - 1."""

    read: int
    inner: Operator
    inner_group: Tensor
    outer: Known
    outer_group: Tensor
    groups: int


@dataclass(frozen=True, eq=False)
class Expansion:
    value: Known  # phi, (1, size)
    gains: tuple[Operator, ...]  # G
    entries: Tensor  # (size,)
    lengths: Tensor | None = None  # (g,) of the groups at `positions` (g, n)
    positions: Tensor | None = None
    slopes: tuple[Operator, ...] | None = None  # G', where it is not G
    terms: tuple[Term, ...] = field(default_factory=tuple)


Rule = Callable[[Node, Block, list[Arriving]], Expansion]


def diagonal(read: int, size: Tensor) -> Term | None:
    """Each entry i by at most size_i: one group for each entry that is not exact."""
    loose = (size != 0).nonzero().flatten()
    if not len(loose):
        return None
    number = torch.arange(len(loose))
    columns = torch.zeros(len(loose), len(size), dtype=size.dtype)
    columns[number, loose] = size[loose]
    return Term(read, Select(loose, len(size)), number, Known(columns), number, len(loose))


def identity(read: int, size: Tensor, inner: Tensor, outer: Tensor, total: tuple[int, int]) -> Term:
    """Each group g of entries `inner` (g, p) of the input, `outer` (g, q) of the output, by a matrix of norm size_g."""
    groups = len(size)
    columns = torch.zeros(outer.numel(), total[1], dtype=size.dtype)
    columns[torch.arange(outer.numel()), outer.reshape(-1)] = size.repeat_interleave(outer.shape[1])
    number = torch.arange(groups)
    return Term(
        read,
        Select(inner.reshape(-1), total[0]),
        number.repeat_interleave(inner.shape[1]),
        Known(columns),
        number.repeat_interleave(outer.shape[1]),
        groups,
    )
