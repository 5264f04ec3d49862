"""The constant of a piecewise linear network on a box or ball, by its linear regions: both sides proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.enumeration.program import INPUTS, MORE_INPUTS, Program, program
from lipcert.rigor.rounding import norm_up, up
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import Box, Norm, Region

BRANCHED = 64  # inputs that branch and bound takes
MARGIN = 0.9  # of rtol for the search: the rest is for the rounding of what is attained


@dataclass(frozen=True, eq=False)
class Bracket:
    """`point` (inputs,) attains `lower`. `cells` searched, `leaves` among them on which the network is affine, `open` that
    were left when the time was over, `exact`: signs that integers decided."""

    upper: float
    lower: float
    point: Tensor
    closed: bool
    cells: int
    leaves: int
    open: int
    exact: int
    cramped: int


def reads(graph: Graph, cells: Cells, most: int = INPUTS) -> Program:
    """The program on the region, where at most `most` inputs move. Raises RefusedModel with what is in the way and what to
    use instead."""
    moving = int((cells.radius[0] > 0).sum())
    if moving > most:
        other = "branch" if moving <= BRANCHED else "linear"
        raise RefusedModel(
            f"{moving} inputs move, and linear regions are enumerated for at most {most}: use --method {other}"
        )
    if moving == 0:
        raise RefusedModel("the region is one point")
    return program(graph, cells.centre[0], cells.radius[0])


def check_inputs(graph: Graph) -> None:
    """RefusedModel where the whole space has too many dimensions: one is added to it (everywhere.py)."""
    n = graph.nodes[graph.input].size
    if not 0 < n < INPUTS:
        raise RefusedModel(f"{n} inputs, and the whole space is enumerated for 1 to {INPUTS - 1}: give --box, or --at")


def cells_of(region: Region) -> Cells:
    """The one cell of a region: a box exactly where floats hold its centre and radius. Rounded outward, a box whose sides
    lie on hyperplanes of the network would be cut into slivers as thin as the rounding."""
    if isinstance(region, Box):
        low, high = region.lower.reshape(1, -1).double(), region.upper.reshape(1, -1).double()
        centre = low / 2 + high / 2
        radius = high - centre
        # Sterbenz and TwoSum: both differences are floats, and they are equal
        exact = (
            (centre - low == radius)
            & (centre + radius == high)
            & (centre - radius == low)
            & _exact(high, centre, radius)
        )
        if bool((exact & _exact(centre, low, radius)).all()):
            return Cells(centre, radius)
    return Cells.of(region)


def _exact(a: Tensor, b: Tensor, difference: Tensor) -> Tensor:
    """a - b is the float `difference` (the error that TwoSum finds is 0)."""
    t = difference - a
    return (a - (difference - t)) + (-b - t) == 0


def constant(
    graph: Graph,
    cells: Cells,
    norm: Norm,
    rtol: float,
    deadline: float | None,
    *,
    report: Callable[[float, float], None] | None = None,
) -> Bracket:
    """The bracket of sup ||J||_{p->q} over the one region in `cells`, closed to `rtol` unless the deadline comes first."""
    size = graph.nodes[graph.output].size
    return _brackets(graph, cells, norm, rtol, deadline, [0, size], [graph], report)[0]


def constants(
    graph: Graph,
    rows: Tensor,
    cells: Cells,
    norm: Norm,
    rtol: float,
    deadline: float | None,
    *,
    report: Callable[[float, float], None] | None = None,
) -> list[Bracket]:
    """Of each of the functionals rows f, (k, outputs) float64, from one search. `report`: of the one that is farthest open."""
    from lipcert.regions.enumeration.distance import functionals

    k = len(rows)
    together = functionals(graph, rows, torch.zeros(k, dtype=torch.float64))
    alone = [functionals(graph, row[None], torch.zeros(1, dtype=torch.float64)) for row in rows]
    return _brackets(together, cells, norm, rtol, deadline, list(range(k + 1)), alone, report)


def _brackets(
    graph: Graph,
    cells: Cells,
    norm: Norm,
    rtol: float,
    deadline: float | None,
    starts: list[int],
    parts: list[Graph],
    report: Callable[[float, float], None] | None,
) -> list[Bracket]:
    """Question i is about the outputs starts[i] .. starts[i + 1] of `graph`, which are those of parts[i]."""
    from lipcert.regions.enumeration.attained import attained
    from lipcert.regions.enumeration.tree import Tree

    made = reads(graph, cells, MORE_INPUTS)
    ball = None if cells.norm == "inf" else (float(cells.radius[0].amax()), cells.norm)
    tree = Tree(made, starts, norm, MARGIN * rtol, ball=ball, threads=torch.get_num_threads())

    def tell(upper: np.ndarray, best: np.ndarray) -> None:
        if report is not None:
            worst = int((upper / np.maximum(best, 1e-300)).argmax())
            report(float(upper[worst]), float(best[worst]))

    found = tree.run(deadline, tell)
    brackets = []
    for i, part in enumerate(parts):
        point = inside(made.point(found.witness[[i]])[0], cells)
        lower, upper = attained(part, point, norm, cells.moving[0]), float(found.upper[i])
        closed = upper <= lower * (1 + rtol)
        brackets.append(
            Bracket(upper, lower, point, closed, found.cells, found.leaves, found.open, found.stuck, found.cramped)
        )
    return brackets


def inside(x: Tensor, cells: Cells) -> Tensor:
    """A point of the search, which rounds, drawn into what was asked."""
    centre, radius = cells.centre[0], cells.radius[0]
    if cells.norm == "inf":
        room = (radius * (1 - 1e-12) - 2.0**-50 * centre.abs()).clamp(min=0.0)
        return torch.minimum(torch.maximum(x, centre - room), centre + room)
    for _ in range(64):
        away = norm_up(up((x - centre).abs()), cells.norm)
        if float(away) <= float(radius.amax()):
            return x
        x = centre + (x - centre) * (1 - 1e-9)
    return centre
