"""The constant of a piecewise quadratic network on a box or ball, from both sides.

The pieces of the surrogate cover the region. On each the Jacobian is affine, so that its norm, a convex function, is largest
at a vertex (hull.py); pieces of which less says enough are bounded by the ranges of v on their boxes. Cells too flat to be
told, and those not reached in time, are left to branch and bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.branch_and_bound.branching import Effort, bracket
from lipcert.regions.cells import Cells
from lipcert.regions.enumeration.attained import attained
from lipcert.regions.enumeration.constant import MARGIN, Bracket, inside, reads
from lipcert.regions.enumeration.pieces import MOST, Everything, Piece
from lipcert.regions.enumeration.program import Program
from lipcert.regions.quadratic.hull import WIDEN, hull
from lipcert.regions.quadratic.pieces import Affine
from lipcert.regions.quadratic.surrogate import Surrogate, surrogate
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import up
from lipcert.terms.query import Norm

SHARE = 0.5  # of the time for finding the pieces
TOGETHER = 1024  # pieces bounded at once
LEAVES = 20_000  # of branch and bound
INWARD = 1e-8  # from a vertex towards the middle of its piece, where the value is attained


Tell = Callable[[float, float], None]


def quadratic_constant(
    graph: Graph, cells: Cells, norm: Norm, rtol: float, deadline: float | None, *, report: Tell | None = None
) -> Bracket:
    """As `enumeration.constant.constant`. Raises RefusedModel as `surrogate` and `reads` do."""
    made = surrogate(graph)
    program = reads(made.graph, cells)
    ball = None if cells.norm == "inf" else (float(cells.radius[0].amax()), cells.norm)
    whole = [0, program.layers[-1].size]
    tree = Everything(program, whole, Norm("inf", "inf"), 0.0, ball=ball, threads=torch.get_num_threads())
    half = None if deadline is None else time.monotonic() + SHARE * (deadline - time.monotonic())
    tree.run(half, stop=lambda: len(tree.pieces) > MOST)
    met = [piece for piece in tree.pieces if piece.upper > -np.inf]  # the others lie outside of the ball
    blind = [piece.box for piece in met if not piece.affine] + [cell.box for _, _, cell in tree.heap]
    pieces = _Pieces(made, program, [piece for piece in met if piece.affine], norm, cells)
    pieces.close(MARGIN * rtol, deadline, report)
    lower, point = pieces.lower(graph)
    upper = pieces.upper()
    if blind:
        effort = Effort(rtol, deadline, LEAVES)
        upper = max(upper, _halved(graph, _boxes(program, blind), norm, effort, max(lower, 0.0)))
    closed = upper <= lower * (1 + rtol)
    open_ = len(tree.heap) + pieces.open(lower * (1 + rtol))
    return Bracket(
        upper, lower, point, closed, tree.found.cells, len(pieces.all), open_, tree.found.stuck, pieces.failed
    )


class _Pieces:
    """`value`: upper value per piece; `best`: the largest floating norm met at a vertex, and its point `witness` in t."""

    def __init__(self, made: Surrogate, program: Program, every: list[Piece], norm: Norm, cells: Cells):
        self.made, self.program, self.all, self.norm, self.cells = made, program, every, norm, cells
        self.value = np.zeros(len(every))
        self.best, self.witness, self.failed = 0.0, np.zeros(len(program.radius)), 0
        for start in range(0, len(every), TOGETHER):
            part = slice(start, start + TOGETHER)
            self.value[part] = self._by_ranges(every[part])

    def _by_ranges(self, some: list[Piece]) -> np.ndarray:
        """From the ranges of v on the box of each piece."""
        found = []
        for piece in some:
            middle = (piece.box[0] / 2 + piece.box[1] / 2)[None]
            away = up(torch.from_numpy(np.maximum(piece.box[1] - middle, middle - piece.box[0]))).numpy()
            found.append(Affine.of(self.made, self.program, piece).jacobians(middle, away))
        return self._norms(*(np.concatenate(side) for side in zip(*found, strict=True)))

    def _norms(self, centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """Upper values."""
        C, R = (torch.from_numpy(np.ascontiguousarray(side)) for side in (centre, radius))
        return matrix_norms_upper(C, R, self.norm.input, self.norm.output).numpy()

    def close(self, rtol: float, deadline: float | None, report: Tell | None) -> None:
        """The largest values first, until the next one is not above what is met, or the deadline."""
        for turn, i in enumerate(np.argsort(-self.value, kind="stable").tolist()):
            spent = deadline is not None and time.monotonic() > deadline
            if self.value[i] <= self.best * (1 + rtol) or spent:
                return
            self._at_vertices(i)
            if report is not None and turn % TOGETHER == 0:
                report(self.upper(), self.best)

    def _at_vertices(self, i: int) -> None:
        piece = self.all[i]
        affine = Affine.of(self.made, self.program, piece)
        found = hull(piece.facets, piece.corners)
        if found is None:
            self.failed += 1
            points, errors = piece.corners, np.zeros_like(piece.corners)
        else:
            points, errors = found.points, found.errors
        values = self._norms(*affine.jacobians(points, errors))
        if found is not None:
            self.value[i] = min(self.value[i], float(values.max()))
        away = points.mean(axis=0) - points
        size = np.abs(away).max(axis=1, keepdims=True)  # of small pieces the widened facets are passed all the same
        inner = points + away * np.minimum(0.5, INWARD + 64 * WIDEN / np.maximum(size, 1e-300))
        values = np.where(self._in_region(inner), values, 0.0)
        if values.max() > self.best:
            self.best, self.witness = float(values.max()), inner[int(values.argmax())]

    def _in_region(self, t: np.ndarray) -> np.ndarray:
        if self.cells.norm == "inf":
            return np.ones(len(t), dtype=bool)
        length = np.linalg.norm(t * self.program.scale, ord={"1": 1, "2": 2}[self.cells.norm], axis=1)
        return length <= float(self.cells.radius[0].amax())

    def upper(self) -> float:
        return float(self.value.max(initial=0.0))

    def open(self, enough: float) -> int:
        return int((self.value > enough).sum())

    def lower(self, graph: Graph) -> tuple[float, Tensor]:
        point = inside(self.program.point(self.witness[None])[0], self.cells)
        return attained(graph, point, self.norm, self.cells.moving[0]), point


def _boxes(program: Program, ends: list[np.ndarray]) -> Cells:
    """Of (2, n) in t, rounded outward."""
    both = np.array(ends)
    low, high = (program.point(both[:, side]) for side in (0, 1))
    low, high = (torch.nextafter(end, end.new_tensor(to)) for end, to in ((low, -torch.inf), (high, torch.inf)))
    still = torch.ones(low.shape[1], dtype=torch.bool)
    still[torch.from_numpy(program.moving)] = False
    low[:, still] = high[:, still] = torch.from_numpy(program.still)[still]
    return Cells.boxes(low, high)


def _halved(graph: Graph, boxes: Cells, norm: Norm, effort: Effort, lower: float) -> float:
    """Upper value on all boxes, which need not be below what is attained elsewhere, `lower`."""
    known = torch.full((len(boxes),), lower, dtype=torch.float64)
    return float(bracket(graph, boxes, norm, effort, lower=known).upper.max())
