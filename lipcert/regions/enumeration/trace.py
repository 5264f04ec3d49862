"""A tree of cuts in preorder, written while it is made, and read again: what a certificate of a region holds.

A node is 0 where the bound of its cell is not above the value that is claimed, and +-(k + 1) where the cell is cut at hinge k,
the half of that sign first. Whoever reads it takes nothing but this order: vertices, affine maps and ranges are computed
again, every sign and every bound is proved again, both halves of each cut are looked at. Arithmetic is IEEE's as written,
so each machine meets the same cells. An l1 ball has a tree for each of its simplices (roots.py), one after the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.enumeration.constant import reads
from lipcert.regions.enumeration.net import AT, READS, STATUS, STUCK, WRITES, WRONG
from lipcert.regions.enumeration.program import Program
from lipcert.regions.enumeration.tree import MOST, Tree, prepare, searched
from lipcert.terms.query import Norm

ROOM = 4 * MOST  # codes that one search may write
TRIES = 4


class Traced(Tree):
    """Depth first, one cell after another, against one value. Nothing is pruned between searches: the search itself says 0."""

    def __init__(self, made: Program, norm: Norm, ball: tuple[float, str] | None, value: float, trace: int):
        super().__init__(made, [0, made.layers[-1].size], norm, 0.0, ball=ball)
        self.net = self.net._replace(trace=trace)
        self.found.best[:] = value

    def _sample(self) -> None:
        pass

    def walk(self, codes: np.ndarray, deadline: float | None) -> tuple[np.ndarray, bool]:
        """The codes, and whether the tree came to its end. `codes`: to read, or room to write."""
        mine, stack = self.memories[0]
        mine = mine._replace(code=codes)
        waiting = self._roots()[::-1]
        while waiting:
            if deadline is not None and time.monotonic() > deadline:
                return mine.code, False
            if self.net.trace == WRITES and len(mine.code) - mine.counts[AT] < ROOM:
                mine = mine._replace(code=np.concatenate([mine.code, np.zeros_like(mine.code)]))
            cell = waiting.pop()
            outcome = searched(self.net, mine, stack, cell, self.found.best, self.found.witness, 0.0, MOST)
            self.closed = np.maximum(self.closed, outcome.closed)
            self.found.cells += 1
            if outcome.counts[STATUS] == WRONG:
                return mine.code, False
            waiting += outcome.left
            if outcome.stuck is not None:
                assert outcome.counts[STATUS] == STUCK
                waiting.append(self._decided(outcome.stuck))
        return mine.code[: mine.counts[AT]], True


def _ball(cells: Cells) -> tuple[float, str] | None:
    return None if cells.norm == "inf" else (float(cells.radius[0].amax()), cells.norm)


def written(
    graph: Graph, cells: Cells, norm: Norm, value: float, deadline: float | None
) -> tuple[list[int], float] | None:
    """The tree that shows `value`, or somewhat more where cells are too flat to be cut; None: the time was over, or nothing
    is shown. Raises RefusedModel as `reads` does."""
    prepare()
    made = reads(graph, cells)
    for _ in range(TRIES):
        tree = Traced(made, norm, _ball(cells), value, WRITES)
        codes, whole = tree.walk(np.zeros(2 * ROOM, dtype=np.int64), deadline)
        if not whole:
            return None
        shown = float(tree.closed[0])
        if shown <= value:
            return codes.tolist(), value
        if not math.isfinite(shown):
            return None
        value = shown
    return None


def shown(graph: Graph, cells: Cells, norm: Norm, codes: Sequence[int], value: float) -> float:
    """The least value that the tree shows, which is not above `value`; inf: the codes are no tree of this network, this
    region and this value. Raises RefusedModel as `reads` does."""
    prepare()
    made = reads(graph, cells)
    if not codes or max(map(abs, codes)) > made.hinges:
        return math.inf
    tree = Traced(made, norm, _ball(cells), value, READS)
    read, whole = tree.walk(np.array(codes, dtype=np.int64), None)
    found = float(tree.closed[0])
    return found if whole and len(read) == len(codes) and found <= value else math.inf
