"""The constant of a piecewise linear network on a box or ball, by its linear regions: both sides proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcert.errors import RefusedModel
from lipcert.ir import Graph
from lipcert.query import Norm
from lipcert.ranges.cells import Cells
from lipcert.regions.enumeration.program import INPUTS, Program, program

MARGIN = 0.9  # of rtol for the search: the rest is for the rounding of what is attained


@dataclass(frozen=True, eq=False)
class Constant:
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


def reads(graph: Graph, cells: Cells) -> Program:
    """The program on the region. Raises RefusedModel with what is in the way and what to use instead."""
    moving = int((cells.radius[0] > 0).sum())
    if moving > INPUTS:
        raise RefusedModel(
            f"{moving} inputs move, and a box of n has 2^n vertices: at most {INPUTS}; use --method branch"
        )
    if moving == 0:
        raise RefusedModel("the region is one point")
    low, high = cells.ends()
    radius = torch.maximum(high[0] - cells.centre[0], cells.centre[0] - low[0])
    return program(graph, cells.centre[0], torch.nextafter(radius, radius + 1) * (cells.radius[0] > 0))


def constant(
    graph: Graph,
    cells: Cells,
    norm: Norm,
    rtol: float,
    deadline: float | None,
    *,
    report: Callable[[float, float], None] | None = None,
) -> Constant:
    """The bracket of sup ||J||_{p->q} over the one region in `cells`, closed to `rtol` unless the deadline comes first."""
    from lipcert.regions.enumeration.attained import attained
    from lipcert.regions.enumeration.tree import Tree

    made = reads(graph, cells)
    ball = None if cells.norm == "inf" else (float(cells.radius[0].amax()), cells.norm)
    tree = Tree(made, [0, made.layers[-1].size], norm, MARGIN * rtol, ball=ball, threads=torch.get_num_threads())

    def tell(upper: np.ndarray, best: np.ndarray) -> None:
        if report is not None:
            report(float(upper[0]), float(best[0]))

    found = tree.run(deadline, tell)
    point = _inside(made.point(found.witness)[0], cells)
    lower = attained(graph, point, norm, cells.moving[0])
    upper = float(found.upper[0])
    closed = upper <= lower * (1 + rtol)
    return Constant(upper, lower, point, closed, found.cells, found.leaves, found.open, found.stuck)


def _inside(x: Tensor, cells: Cells) -> Tensor:
    """The region's box is rounded outward; a witness must lie in what was asked."""
    room = (cells.radius[0] * (1 - 1e-12) - 2.0**-50 * cells.centre[0].abs()).clamp(min=0.0)
    return torch.minimum(torch.maximum(x, cells.centre[0] - room), cells.centre[0] + room)
