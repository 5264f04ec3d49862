"""The best ranges of all signals on a region that can be had before slopes are read off them.

Intervals for every block; where all are elementwise, backward linear bounds (regions/backward/linear.py), which start from
intervals and are never wider. A neuron whose range has one slope is settled: it becomes part of the linear maps.
"""

from __future__ import annotations

from lipcert.blocks.base import Range
from lipcert.network.graph import Graph
from lipcert.network.intervals import interval_ranges
from lipcert.regions.backward.adjoint import obstacle
from lipcert.regions.backward.linear import linear_ranges
from lipcert.regions.cells import Cells
from lipcert.terms.query import Region


def best_ranges(graph: Graph, region: Region) -> dict[int, Range]:
    """Ranges (size,) of the nodes of `graph` on `region`, by position."""
    ranges = interval_ranges(graph, region)
    if obstacle(graph) is not None:
        return ranges
    found, _ = linear_ranges(graph, Cells.of(region))
    return ranges | {i: (low[0], high[0]) for i, (low, high) in found.items()}
