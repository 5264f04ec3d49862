"""`bound --range`: proved intervals of the outputs on a region, beside the constant: what the network can say there."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from lipcert.methods.problem import Problem
from lipcert.network.graph import Enclosure, Graph
from lipcert.regions.backward.adjoint import obstacle
from lipcert.regions.backward.linear import linear_ranges, units, upper_values
from lipcert.regions.cells import Cells
from lipcert.regions.enumeration.constant import cells_of
from lipcert.regions.enumeration.program import INPUTS
from lipcert.terms.errors import RefusedModel, UsageError
from lipcert.terms.query import Region

SECONDS = 20.0  # where there is no budget
MOST_OUTPUTS = 64  # to be enumerated
SAMPLES = 256


def check_region(region: Region) -> None:
    if region is None:
        raise UsageError("--range: outputs have a range on a region: give --box, or --at with --eps")


def output_intervals(problem: Problem) -> dict[str, Any]:
    """`lower`, `upper`: every output on the region lies between them, null where nothing finite is known; `method` of the
    least interval. `attained`: values that are attained between, of which the first is at most, the second at least so much."""
    start = time.perf_counter()
    graph, cells = problem.graph, cells_of(problem.region)
    method, lower, upper = "intervals", *(side[0] for side in problem.ranges[graph.output])
    if obstacle(graph) is None:
        lower, upper, method = *_by_lines(graph, cells, lower, upper), "linear"
    low, high = _sampled(graph, cells)
    few = int((cells.radius[0] > 0).sum()) <= INPUTS and len(lower) <= MOST_OUTPUTS
    if few and cells.norm == "inf":
        try:
            from lipcert.regions.enumeration.values import output_ranges

            deadline = problem.deadline or time.monotonic() + SECONDS
            found = output_ranges(graph, cells, lower, upper, problem.rtol, deadline)
            lower, upper, method = found.lower, found.upper, "regions"
            low, high = torch.minimum(low, found.highest_low), torch.maximum(high, found.lowest_high)
        except (RefusedModel, ImportError):
            pass
    return {
        "lower": [v if v > -torch.inf else None for v in lower.tolist()],
        "upper": [v if v < torch.inf else None for v in upper.tolist()],
        "attained": {"lower": low.tolist(), "upper": high.tolist()},
        "method": method,
        "seconds": time.perf_counter() - start,
    }


def _by_lines(graph: Graph, cells: Cells, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    ranges, found = linear_ranges(graph, cells)
    entry = torch.arange(len(lower))
    home = torch.zeros_like(entry)
    high, low = (
        upper_values(graph, cells, units(entry, len(lower), sign), home, graph.output, ranges, found)
        for sign in (1.0, -1.0)
    )
    return torch.maximum(lower, -low), torch.minimum(upper, high)


def _sampled(graph: Graph, cells: Cells) -> tuple[Tensor, Tensor]:
    """Upper values of the least outputs and lower ones of the largest at random points, enclosed there."""
    dice = torch.Generator().manual_seed(0)
    t = torch.rand(SAMPLES, cells.centre.shape[1], generator=dice, dtype=torch.float64) * 2 - 1
    if cells.norm != "inf":
        t = t / t.abs().sum(dim=1, keepdim=True).clamp(min=1.0)  # in the l1 ball, which lies in the others
    room = (cells.radius[0] * (1 - 1e-12) - 2.0**-50 * cells.centre[0].abs()).clamp(min=0.0)
    found = graph.enclose(Enclosure(cells.centre[0] + room * t))
    return found.upper.amin(dim=0), found.lower.amax(dim=0)
