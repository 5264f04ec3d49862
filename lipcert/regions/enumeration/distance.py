"""The distance from a point to where one of several functionals of a piecewise linear network is above 0, from both sides.

Cells in the order of their distance, in a ball that shrinks to just below the nearest violation that has been proved.
A cell is done with where all functionals are proved not to be above 0 on it, or where it lies outside of the ball; where
neither holds on a cell on which the network is affine, the nearest point of its violated part is found (nearest.py).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Enclosure, Graph, Linear, Node, Offset
from lipcert.operators.linear import Dense
from lipcert.regions.enumeration.nearest import Facets, length, nearest
from lipcert.regions.enumeration.net import RHO, SIGNS, STATUS, VIOLATED
from lipcert.regions.enumeration.program import program
from lipcert.regions.enumeration.tree import Cell, Outcome, Tree
from lipcert.rigor.rounding import norm_up, up
from lipcert.terms.query import Norm, P

NARROW = 1e-4  # attacked / certified - 1, where the search ends by itself
SHARE = 0.4 * NARROW  # of it for the ball; the rest is for the step from the boundary to a point where it is proved
GROWTH = 4.0  # where no violation is known yet
FARTHEST = 1e6  # relative to the point: nothing is looked for farther away
STEPS = 16 * np.geomspace(1e-13, 1e-4, 10)  # from the boundary into the violated part
LIKELY = 0.7  # a violation nearer than this share of the box: a smaller box is begun with


@dataclass(frozen=True)
class Limits:
    """`cells` looked at per point: a count, so that runs repeat. `deadline`: monotonic."""

    cells: int
    deadline: float | None = None

    @classmethod
    def usual(cls, inputs: int) -> Limits:
        """At most about 25 CPU seconds, and 1 as a rule: a cell of 7 inputs costs 0.25 ms, one of 5 less than 0.06 ms."""
        return cls({6: 200_000, 7: 100_000}.get(inputs, 400_000))


@dataclass(frozen=True, eq=False)
class Distance:
    """Nothing nearer than `certified` violates (rounded down); `point` (inputs,) at distance `attacked` (rounded up, inf:
    none was found) does, as an enclosure of the network there proves. `closed`: attacked <= certified (1 + NARROW)."""

    certified: float
    attacked: float
    point: Tensor
    cells: int = 0

    @property
    def closed(self) -> bool:
        return self.attacked <= self.certified * (1 + NARROW)


def functionals(graph: Graph, rows: Tensor, shift: Tensor, slack: Tensor | None = None) -> Graph:
    """rows f + shift, (k, outputs) and (k,) float64; the shift is known to +- slack."""
    k, out = len(rows), graph.output
    size = graph.nodes[out].size
    linear = Node(Linear(Dense(rows.reshape(1, k, size).contiguous())), (out,), k, (1, k), "functionals")
    moved = Node(Offset(shift, slack), (len(graph.nodes),), k, (1, k), "functionals")
    return Graph((*graph.nodes, linear, moved), len(graph.nodes) + 1, graph.input)


def distance(wrong: Graph, x: Tensor, norm: P, start: Tensor | float, limits: Limits, threads: int = 1) -> Distance:
    """How far from x (inputs,) float64 all outputs of `wrong` stay at or below 0.

    `start`: an input where one is above 0, or a radius to begin with. Raises RefusedModel as `program` does."""
    found = Distance(0.0, math.inf, x)
    radius = start if isinstance(start, float) else math.inf
    if isinstance(start, Tensor) and violates(wrong, start):
        found = Distance(0.0, float(norm_up(up((start - x).abs()), norm)), start)
    if not 0 < radius < math.inf:
        radius = found.attacked if math.isfinite(found.attacked) else 1.0
    certified, cells = 0.0, 0
    farthest = FARTHEST * max(1.0, float(x.abs().max()))
    while True:
        search = Outward(wrong, x, norm, min(radius, found.attacked), found, threads)
        search.until(Limits(limits.cells - cells, limits.deadline))
        cells += search.found.cells
        certified = max(certified, search.certified())
        found = Distance(certified, search.attacked, search.point, cells)
        spent = cells >= limits.cells or (limits.deadline is not None and time.monotonic() > limits.deadline)
        if found.closed or spent:
            return found
        if not search.restart:
            if search.floor < math.inf or radius >= min(found.attacked, farthest):
                return found
            radius = min(GROWTH * radius, farthest)


def violates(wrong: Graph, point: Tensor) -> bool:
    """Proved at the point."""
    with torch.no_grad():
        return bool((wrong.enclose(Enclosure(point[None])).lower > 0).any())


class Outward(Tree):
    """In one box around x. `ball`: nothing violates nearer than this but in cells that are still open, and at `floor`."""

    asks = SIGNS
    most = 256  # cells of one search, which goes deep whatever the distance

    def __init__(self, wrong: Graph, x: Tensor, norm: P, radius: float, known: Distance, threads: int):
        self.wrong, self.x, self.norm = wrong, x, norm
        self.attacked, self.point = known.attacked, known.point
        self.radius = radius
        self.floor = math.inf
        self.restart = False
        box = torch.full_like(x, up(torch.tensor(radius, dtype=torch.float64)).item())
        made = program(wrong, x, box)
        self.unit = float(made.scale[0])  # x - centre = unit t, a power of two
        outputs = made.layers[-1].size
        super().__init__(made, [0, outputs], Norm("inf", "inf"), 0.0, ball=(radius, norm), threads=threads)
        self._shrink()

    def _shrink(self) -> None:
        ball = min(self.net.ball, self.attacked / (1 + SHARE) * (1 - 1e-15))
        self.net = self.net._replace(ball=ball)

    def until(self, limits: Limits) -> None:
        self.run(limits.deadline, stop=lambda: self.restart or self.found.cells >= limits.cells)

    def certified(self) -> float:
        nearest_open = min((self._away(cell) for _, _, cell in self.heap), default=math.inf)
        return max(0.0, min(self.net.ball, self.floor, nearest_open))

    def _away(self, cell: Cell) -> float:
        """From x to the proved box of the cell, rounded down."""
        gap = np.maximum(0.0, np.maximum(cell.box[0], -cell.box[1])) * self.unit
        return length(gap, self.norm) * (1 - 1e-13)

    def _order(self, cell: Cell) -> float:
        return self._away(cell)

    def _go_on(self, outcome: Outcome, cell: Cell) -> None:
        if outcome.counts[STATUS] < VIOLATED:
            super()._go_on(outcome, cell)
            return
        low = self._nearest(cell, outcome.outputs if outcome.counts[STATUS] == VIOLATED else None)
        if not low > self.net.ball:
            self.floor = min(self.floor, low)

    def _nearest(self, cell: Cell, outputs: np.ndarray | None) -> float:
        """Proved distance of what may be violated in the cell; an input there that is violated is kept."""
        n, enough = self.net.n, self.net.ball / self.unit * (1 + 1e-9)
        if outputs is None:  # flat, and not known to be affine: all of it
            return self.unit * nearest(Facets.of(cell.facets[:, : n + 2]), self.norm, enough)[0]
        least = math.inf
        for k in range(outputs.shape[1]):
            row = np.concatenate([outputs[: n + 1, k], outputs[[RHO], k]])
            values = cell.x @ row[:n] + row[n]
            low, near = nearest(Facets.of(np.concatenate([cell.facets[:, : n + 2], row[None]])), self.norm, enough)
            least = min(least, self.unit * low)
            if low <= enough and values.max() > 0:
                self._attack(near * self.unit, cell.x[int(values.argmax())] * self.unit)
        return least

    def _attack(self, near: np.ndarray, inside: np.ndarray) -> None:
        """From the nearest point towards one farther inside, until an enclosure proves the violation."""
        for step in STEPS:
            point = self.x + torch.from_numpy(near + step * (inside - near))
            away = float(norm_up(up((point - self.x).abs()), self.norm))
            if not away < self.attacked:
                return
            if violates(self.wrong, point):
                self.attacked, self.point = away, point
                self._shrink()
                self.restart = away < LIKELY * self.radius
                return
