"""Ranges of the outputs of a piecewise linear network on a box, exactly, by its linear regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Enclosure, Graph
from lipcert.regions.cells import Cells
from lipcert.regions.enumeration.constant import inside, reads
from lipcert.regions.enumeration.distance import functionals
from lipcert.regions.enumeration.net import VALUES
from lipcert.regions.enumeration.tree import Tree
from lipcert.rigor.rounding import power_of_two_scale
from lipcert.terms.query import Norm


@dataclass(frozen=True, eq=False)
class Ranges:
    """Of the outputs (m,): all values lie in [lower, upper], and those in [highest_low, lowest_high] are attained: output
    i is at most highest_low[i] at low_points[i] (m, inputs), and at least lowest_high[i] at high_points[i]."""

    lower: Tensor
    upper: Tensor
    highest_low: Tensor
    lowest_high: Tensor
    low_points: Tensor
    high_points: Tensor
    cells: int
    open: int


class LargestValues(Tree):
    """Question i: the largest value of output i."""

    asks = VALUES


def output_ranges(
    graph: Graph, cells: Cells, lower: Tensor, upper: Tensor, rtol: float, deadline: float | None
) -> Ranges:
    """On the one box in `cells`; `lower`, `upper` (m,): known ranges, which are closed to `rtol` times their width unless
    the deadline comes first. Raises RefusedModel as `reads` does."""
    m = len(lower)
    size = power_of_two_scale((upper - lower).clamp(min=1e-100))
    scale = torch.where(torch.isfinite(size), 1 / size, torch.ones_like(size))
    rows = torch.cat([torch.diag(scale), -torch.diag(scale)])
    both = functionals(graph, rows, torch.zeros(2 * m, dtype=torch.float64))
    made = reads(both, cells)
    tree = LargestValues(made, list(range(2 * m + 1)), Norm("inf", "inf"), rtol, threads=torch.get_num_threads())
    found = tree.run(deadline)
    points = torch.stack([inside(x, cells) for x in made.point(found.witness)])
    at = graph.enclose(Enclosure(points))
    index = torch.arange(m)
    proved = torch.from_numpy(np.nan_to_num(found.upper, nan=np.inf, posinf=np.inf))
    return Ranges(
        torch.maximum(lower, -proved[m:] / scale),
        torch.minimum(upper, proved[:m] / scale),
        at.upper[m + index, index],
        at.lower[index, index],
        points[m:],
        points[:m],
        found.cells,
        found.open,
    )
