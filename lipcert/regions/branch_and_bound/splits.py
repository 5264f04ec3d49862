"""Branch and bound over the signs of neurons: z_j >= 0 on one half of a part, z_j <= 0 on the other, and on each the activation is
one line (Bunel et al. 2020; beta-CROWN, Wang et al. 2021).

A part is a cell and the signs of some neurons on it. The two halves of a part cover it, so the largest of the proved values of all
parts that were not split is one of the functional on the whole cell, wherever the search ends. Ranges stay those of the cell,
but for the signs; slopes and prices are chosen anew for each part (backward/optimised.py). What is split next: the
neuron whose intercept takes the most from the bound (BaBSR, Bunel et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations.corner import Corner
from lipcert.blocks.base import Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Graph
from lipcert.regions.backward.descent import Choice, Descended
from lipcert.regions.backward.floating import FAST, Moving, fast
from lipcert.regions.backward.linear import linear_ranges
from lipcert.regions.backward.optimised import STEPS, Parts, choose, optimised_values, proved
from lipcert.regions.cells import Cells
from lipcert.terms.clock import late

FINAL = 200  # steps where no neuron is left to be split
ENTRIES = 2**22  # of all signals, in all parts that are bounded together
TIE = 1e-3  # what a line that may turn counts beside an intercept


@dataclass(frozen=True)
class SplitEffort:
    """`parts`: of a cell, at most. `steps`: of the descent on each. `together`: parts that are split at once. `work`: flops for
    the ranges of a cell."""

    parts: int = 1024
    steps: int = 8
    together: int = 64
    work: float = 1e9


def split_values(graph: Graph, cells: Cells, seeds: Tensor, enough: Tensor, effort: SplitEffort) -> Tensor:
    """Upper values (b, k) of the functionals `seeds` (b, k, m) of the output on the cells. Those that are below `enough` (b, k) are
    not made smaller. A cell is given up where a point of it attains more than that (in float32), and after `effort.parts`
    parts. All blocks act entry by entry."""
    b, k, _ = seeds.shape
    tree = SplitTree(graph, cells, linear_ranges(graph, cells, effort.work, optimised_values)[0], seeds, enough)
    most = max(1, ENTRIES // max(1, sum(node.size for node in graph.nodes)))
    for owner in torch.arange(b * k).split(most):
        tree.file(tree.bounded(Parted.whole(owner), STEPS))
    while len(taken := tree.worst(min(effort.together, most), effort.parts)):
        split = taken.split >= 0
        if bool(split.any()):
            tree.file(tree.bounded(tree.halves(taken[split]), effort.steps))
        if not bool(split.all()):
            tree.file(tree.bounded(taken[~split], FINAL))
    return tree.closed.reshape(b, k)


def splittable(graph: Graph) -> list[int]:
    """The signals that an activation with a corner at 0 reads."""
    return sorted({graph.nodes[i].parents[0] for i in graph.nonlinear if _has_corner(graph, i)})


def _has_corner(graph: Graph, i: int) -> bool:
    block = graph.nodes[i].what.block  # type: ignore[union-attr]
    return isinstance(block, Pointwise) and isinstance(block.activation.row.slopes_on, Corner)


@dataclass(frozen=True, eq=False)
class Parted:
    """d parts: whose functional, the proved upper `value`, which neuron to split next (a place among all that have a corner; -1:
    none is left), `signs` by signal and the `choice` that the value stands on."""

    owner: Tensor
    value: Tensor
    split: Tensor
    signs: dict[int, Tensor]
    choice: Choice

    @classmethod
    def whole(cls, owner: Tensor) -> Parted:
        return cls(owner, torch.full((len(owner),), torch.inf, dtype=torch.float64), torch.full_like(owner, -1), {}, {})

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, rows: Tensor) -> Parted:
        signs = {p: sign[rows] for p, sign in self.signs.items()}
        choice = {key: value[rows] for key, value in self.choice.items()}
        return Parted(self.owner[rows], self.value[rows], self.split[rows], signs, choice)

    def __add__(self, other: Parted) -> Parted:
        if not len(self) or not len(other):
            return self if len(self) else other
        signs = {p: torch.cat([sign, other.signs[p]]) for p, sign in self.signs.items()}
        choice = {key: torch.cat([value, other.choice[key]]) for key, value in self.choice.items()}
        owner, value = torch.cat([self.owner, other.owner]), torch.cat([self.value, other.value])
        return Parted(owner, value, torch.cat([self.split, other.split]), signs, choice)


class SplitTree:
    """`open`: parts whose value is not below `enough` of their functional; `closed` (b k,): the largest value of the others; `count`
    (b,): how many parts a cell has had, `lost` (b,): no use."""

    def __init__(self, graph: Graph, cells: Cells, ranges: Mapping[int, Range], seeds: Tensor, enough: Tensor):
        b, k, m = seeds.shape
        self.graph, self.cells, self.ranges, self.each = graph, cells, ranges, k
        self.seeds, self.enough = seeds.reshape(b * k, m), enough.reshape(-1)
        self.corners = splittable(graph)
        self.closed = torch.full_like(self.enough, -torch.inf)
        self.open = Parted.whole(torch.arange(0))
        self.count, self.lost = torch.zeros(b, dtype=torch.int64), torch.zeros(b, dtype=torch.bool)

    def worst(self, together: int, parts: int) -> Parted:
        """Taken from what is open, after what is of no use was closed; none where there is no time."""
        useless = (self.lost | (self.count >= parts))[self.open.owner // self.each] | late()
        self._close(self.open[useless])
        left = self.open[~useless]
        order = (left.value - self.enough[left.owner]).argsort(descending=True, stable=True)
        self.open = left[order[together:]]
        return left[order[:together]]

    def file(self, found: Parted) -> None:
        """In the one or the other."""
        below = found.value < self.enough[found.owner]
        self._close(found[below])
        self.open = self.open + found[~below]

    def _close(self, found: Parted) -> None:
        self.closed.scatter_reduce_(0, found.owner, found.value, "amax")

    def halves(self, parts: Parted) -> Parted:
        """z >= 0 and z <= 0 of each."""
        sides = []
        for side in (1.0, -1.0):
            signs, first = {}, 0
            for p, sign in parts.signs.items():
                place = parts.split - first
                here = ((place >= 0) & (place < sign.shape[1])).nonzero()[:, 0]
                signs[p] = sign.clone()
                signs[p][here, place[here]] = side
                first += sign.shape[1]
            sides.append(Parted(parts.owner, parts.value, parts.split, signs, parts.choice))
        return sides[0] + sides[1]

    def bounded(self, parts: Parted, steps: int) -> Parted:
        """The same parts with new values, never above those that they had."""
        cell = parts.owner // self.each
        ranges = {i: (low[cell], high[cell]) for i, (low, high) in self.ranges.items()}
        signs = {p: parts.signs[p] if p in parts.signs else torch.zeros_like(ranges[p][0]) for p in self.corners}
        for p, sign in signs.items():
            low, high = ranges[p]
            ranges[p] = torch.where(sign > 0, low.clamp(min=0.0), low), torch.where(sign < 0, high.clamp(max=0.0), high)
        enough = self.enough[parts.owner]
        todo = Parts.of(self.graph, self.cells[cell], self.seeds[parts.owner], self.graph.output, ranges, signs)
        proposal = choose(self.graph, todo, parts.choice, steps, enough.to(FAST))
        value = torch.minimum(proved(self.graph, todo, proposal.choice), parts.value)
        self.count += torch.bincount(cell, minlength=len(self.count))
        self.lost[cell[self.refuted(todo, proposal, enough)]] = True
        again = ~(value < enough) & (parts.split < 0) & (steps == FINAL)
        self.lost[cell[again]] = True
        return Parted(parts.owner, value, self._next(todo, proposal), signs, proposal.choice)

    def refuted(self, parts: Parts, proposal: Descended, enough: Tensor) -> Tensor:
        """Where the point at which the relaxed functional is largest shows that nothing can be proved."""
        ball = Moving.of(parts.cells)
        there = fast(self.graph).evaluate(ball.where(proposal.rows[self.graph.input]))
        return (there * parts.seeds).sum(dim=1) > enough

    def _next(self, parts: Parts, proposal: Descended) -> Tensor:
        """(d,): of what may turn, where the intercept times its coefficient is largest."""
        nothing = parts.seeds.new_full((len(parts.seeds), 1), -torch.inf)  # where there is no corner at all
        scores = {p: torch.full_like(parts.ranges[p][0], -torch.inf) for p in self.corners}
        for i, turning in parts.turns.items():
            p = self.graph.nodes[i].parents[0]
            row, (low, high) = proposal.rows[i], parts.ranges[p]
            taken = row.clamp(min=0.0) * parts.lines[i].high + row.clamp(max=0.0) * parts.lines[i].low
            turns_by = row.abs() * torch.minimum(-low, high)
            score = (taken + TIE * turns_by).nan_to_num(0.0, torch.finfo(torch.float64).max)
            scores[p] = torch.maximum(scores[p], torch.where(turning.free, score, -torch.inf))
        best = torch.cat([*scores.values(), nothing], dim=1).max(dim=1)
        return torch.where(torch.isneginf(best.values), -1, best.indices)
