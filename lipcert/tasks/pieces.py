"""The linear pieces of a network of 1 or 2 inputs, for grids: one search says what every cell has, and what is drawn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.branch_and_bound.branching import Brackets
from lipcert.tasks.task import Session
from lipcert.terms.errors import RefusedModel, UsageError
from lipcert.terms.query import Box, Norm

if TYPE_CHECKING:
    from lipcert.regions.enumeration.overlay import Overlay
    from lipcert.regions.enumeration.pieces import Pieces

INPUTS = 2
SECONDS = 60.0  # at most; half of a budget
COMPILATION = 120.0
TURNS = 3  # pieces of a cell that are tried for its lower value
BARS = 40
SHARES = {"least": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "largest": 1.0}


@dataclass(frozen=True, eq=False)
class Mosaic:
    """The pieces on a box, and the cells of a grid over them."""

    graph: Graph
    norm: Norm
    found: Pieces
    overlay: Overlay
    rtol: float

    def brackets(self, block: Tensor, low: Tensor, high: Tensor) -> Brackets:
        """Of the cells `block`, numbers in the order of the grid; `low`, `high`: their ends."""
        upper = torch.from_numpy(self.overlay.upper)[block]
        lower, point = torch.zeros(len(block), dtype=torch.float64), low / 2 + high / 2
        moving = torch.ones(low.shape[1], dtype=torch.bool)
        for turn in range(TURNS):
            missing = upper > lower * (1 + self.rtol)
            rows, x = self._middles(turn, block, missing)
            if len(rows):
                from lipcert.regions.enumeration.attained import attained_at

                inner = torch.minimum(torch.maximum(x, low[rows]), high[rows])
                value = attained_at(self.graph, inner, self.norm, moving)
                more = value > lower[rows]
                lower[rows[more]], point[rows[more]] = value[more], inner[more]
        return Brackets(upper, lower, point, upper <= lower * (1 + self.rtol), len(self.found.found))

    def _middles(self, turn: int, block: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        cells, points = self.overlay.middles(turn, block[missing].numpy())
        place = {int(cell): row for row, cell in enumerate(block.tolist())}
        return torch.tensor([place[int(c)] for c in cells], dtype=torch.int64), torch.from_numpy(points)

    def summary(self, drawn: bool) -> dict[str, Any]:
        """Counts are of pieces of which it is proved that the network is affine on them; sizes are floating numbers."""
        from lipcert.regions.enumeration.overlay import outline, size

        exact = [piece for piece in self.found.found if piece.affine]
        outlines = [outline(piece) for piece in exact]
        norms = np.array([piece.upper for piece in exact])
        sizes = np.array([size(corners) for corners in outlines]) * float(np.prod(self.found.program.scale))
        known: dict[str, Any] = {
            "count": len(exact),
            "flat": len(self.found.found) - len(exact),
            "open": len(self.found.left),
        }
        if len(exact):
            known |= {"quantiles": _quantiles(norms, sizes), "histogram": _histogram(norms, sizes)}
        if drawn:
            known |= {
                "polygons": [self.found.points(corners).tolist() for corners in outlines],
                "norms": norms.tolist(),
            }
        return known


def mosaic(
    graph: Graph,
    box: Box,
    edges: Sequence[Sequence[float]],
    norm: Norm,
    rtol: float,
    session: Session,
    *,
    wanted: bool,
) -> Mosaic | None:
    """None where the network has no pieces, or too many inputs. `wanted`: then UsageError says what to use instead."""
    try:
        found = _pieces(graph, box, norm, session, wanted)
    except RefusedModel as refused:
        if wanted:
            raise UsageError(
                f"--regions: {refused}; without --regions the cells are bounded for other networks too"
            ) from refused
        return None
    if found is None:
        return None
    from lipcert.regions.enumeration.overlay import Overlay

    return Mosaic(graph, norm, found, Overlay(found, edges), rtol)


def _pieces(graph: Graph, box: Box, norm: Norm, session: Session, wanted: bool) -> Pieces | None:
    from lipcert.regions.enumeration.hinges import hinged

    inputs = graph.nodes[graph.input].size
    if inputs > INPUTS:
        raise RefusedModel(
            f"linear pieces are drawn in a plane, and {inputs} inputs move: give --plane I,J --through DATA#K"
        )
    hinged(graph)
    try:
        from lipcert.regions.enumeration.compiled import on_disk
    except ImportError:
        if wanted:
            raise UsageError("--regions: it needs Numba: pip install 'lipcert[fast]'") from None
        return None
    now = time.monotonic()
    if not on_disk() and not wanted and session.deadline is not None and session.deadline < now + COMPILATION:
        return None
    from lipcert.regions.enumeration.constant import cells_of
    from lipcert.regions.enumeration.pieces import pieces
    from lipcert.regions.enumeration.tree import prepare

    if not on_disk():
        session.say("compiling, once")
    prepare()
    now = time.monotonic()
    left = SECONDS if session.deadline is None else min(SECONDS, (session.deadline - now) / 2)
    return pieces(graph, cells_of(box), norm, now + left, report=lambda count: session.say("linear pieces", count))


def merged(first: Brackets, others: Brackets, rows: Tensor, rtol: float) -> Brackets:
    """`others` are of the rows that `first` left open: of each side the better one."""
    upper, lower, point = first.upper.clone(), first.lower.clone(), first.point.clone()
    upper[rows] = torch.minimum(upper[rows], others.upper)
    more = others.lower > lower[rows]
    lower[rows[more]], point[rows[more]] = others.lower[more], others.point[more]
    return Brackets(upper, lower, point, upper <= lower * (1 + rtol), first.leaves + others.leaves, others.culprit)


def _quantiles(norms: np.ndarray, sizes: np.ndarray) -> dict[str, float]:
    """Of the norm at a random point of the box."""
    order = np.argsort(norms)
    share = np.cumsum(sizes[order]) / sizes.sum()
    places = np.minimum(np.searchsorted(share, list(SHARES.values())), len(order) - 1)
    places[-1] = len(order) - 1
    return dict(zip(SHARES, norms[order][places].tolist(), strict=True))


def _histogram(norms: np.ndarray, sizes: np.ndarray) -> dict[str, list[float]]:
    """`size`: share of the box, `pieces`: how many, per bar."""
    low, high = float(norms.min()), float(norms.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BARS + 1)
    share, _ = np.histogram(norms, edges, weights=sizes / sizes.sum())
    count, _ = np.histogram(norms, edges)
    return {"edges": edges.tolist(), "size": share.tolist(), "pieces": count.tolist()}
