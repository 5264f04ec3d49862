"""|c'(computed f) - c'f| on balls and boxes, for functionals c of the output.

The computed network is the real one with something added to the arguments and values of each nonlinearity. Along the
segment from nothing to what was added, the gradient with regard to each of them lies in the interval products of
backward/adjoint.py, on ranges that are wider by the errors; the mean value theorem gives
|c'(computed f) - c'f| <= sum over them of |gradient| times what was added, far less than absolute coefficients all the way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Enclosure, Graph, Nonlinear
from lipcert.regions.backward.adjoint import ENTRIES, ball_ranges, gradients, obstacle
from lipcert.regions.backward.linear import linear_ranges
from lipcert.regions.cells import Cells
from lipcert.regions.execution.error import WIDEN, Local, executed
from lipcert.rigor.arithmetic import FloatFormat

WORK = 1e9  # flops for the linear ranges of one cell


def execution_errors(graph: Graph, arithmetic: FloatFormat, cells: Cells, seeds: Tensor | None) -> Tensor:
    """Upper values (b, k) of |c'(computed f)(x) - c'f(x)| over the points x of each cell; `seeds` (b, k, m): the c. None:
    of each output, (b, m), by absolute coefficients, which is far cheaper. inf: not known. `graph`: lowered under `folded_in(arithmetic)`. RefusedModel names a node whose evaluation has no stated
    accuracy."""
    k = 1 if seeds is None else seeds.shape[1]
    rows = max(1, ENTRIES // max(1, max(node.size for node in graph.nodes) * k))
    parts = [slice(first, first + rows) for first in range(0, len(cells), rows)]
    found = [_errors(graph, arithmetic, cells[part], None if seeds is None else seeds[part]) for part in parts]
    return torch.cat(found) if found else torch.zeros(0, k, dtype=torch.float64)


def _errors(graph: Graph, arithmetic: FloatFormat, cells: Cells, seeds: Tensor | None) -> Tensor:
    smooth = obstacle(graph) is None
    if smooth and bool((cells.radius > 0).any()):
        ranges = linear_ranges(graph, cells, WORK)[0]
    else:
        radius = cells.radius if cells.norm == "inf" or not cells.radius.shape[1] else cells.radius[:, 0]
        ranges = ball_ranges(graph, cells.centre, radius, cells.norm)
    error, own, local = executed(graph, arithmetic, cells, ranges)
    if seeds is None:
        return (error * WIDEN).nan_to_num(math.inf, math.inf)
    plain = _product(seeds.abs(), error)
    if not smooth:
        return plain
    slopes = {}
    for i, there in local.items():
        node = graph.nodes[i]
        assert isinstance(node.what, Nonlinear)
        assert isinstance(node.what.block, Pointwise)
        low, high = ranges[node.parents[0]]
        slopes[i] = node.what.block.activation.slopes_on(low - there.total[0], high + there.total[0])
    kept: dict[int, Enclosure] = {}
    gradients(graph, seeds, slopes, keep=kept)
    total = _product(seeds.abs(), own)
    for i, there in local.items():
        if i in kept:
            total = total + _added(kept[i], slopes[i], there, seeds.shape)
    return torch.minimum(plain, (total * WIDEN).nan_to_num(math.inf, math.inf))


def _added(here: Enclosure, slope: tuple[Tensor, Tensor], there: Local, shape: torch.Size) -> Tensor:
    """What one nonlinearity adds: (b, k)."""
    size = (here.centre.abs() + here.reach()).reshape(shape[0], shape[1], -1)
    steep = torch.maximum(slope[0].abs(), slope[1].abs())
    return _product(size, steep * there.arguments[0] + there.value)


def _product(size: Tensor, added: Tensor) -> Tensor:
    """sum of size (b, k, n) times added (b, n); a factor 0 makes 0 of inf: the functional does not read it."""
    each = torch.where(size == 0, 0.0, size * added[:, None])
    return (each.sum(dim=2) * WIDEN).nan_to_num(math.inf, math.inf)
