"""Plain interval propagation: an enclosure of every signal on a box (possibly the whole space).

Linear operators act on centre and radius with their rounding inside; infinite entries spread to everything they reach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lipcert.blocks import Range
from lipcert.ir import Add, Concat, Enclosure, Graph, Input, Linear, Nonlinear, Offset, enclose_linear
from lipcert.linops import Operator, Scale, Select
from lipcert.query import Ball, Region
from lipcert.rounding import down, up


def box_of(region: Region, graph: Graph) -> Range:
    """The smallest box around the region, (1, input_size) each, rounded outward."""
    size = graph.nodes[graph.input].size
    if region is None:
        full = torch.full((1, size), math.inf, dtype=torch.float64)
        return -full, full
    if isinstance(region, Ball):
        centre = region.center.reshape(1, -1)
        return down(centre - region.radius), up(centre + region.radius)
    return region.lower.reshape(1, -1), region.upper.reshape(1, -1)


def interval_ranges(graph: Graph, region: Region) -> dict[int, Range]:
    """(lower, upper), each (1, size), of every node on the region."""
    return propagated(graph, box_of(region, graph))


def propagated(graph: Graph, start: Range, known: Mapping[int, Range] | None = None) -> dict[int, Range]:
    """(lower, upper), each (b, size), of every node on b boxes `start`, (b, input_size) each. `known`: ranges proved
    otherwise, with which those of their nodes are intersected."""
    found: dict[int, Range] = {}
    rows = start[0].shape[0]
    for i, node in enumerate(graph.nodes):
        args = [found[parent] for parent in node.parents]
        match node.what:
            case Input():
                found[i] = start
            case Linear(operator):
                found[i] = linear_range(operator, *args[0])
            case Add():
                lower, upper = args[0]
                for low, high in args[1:]:
                    lower, upper = down(lower + low), up(upper + high)
                found[i] = lower, upper
            case Concat():
                found[i] = torch.cat([low for low, _ in args], 1), torch.cat([high for _, high in args], 1)
            case Offset(value, radius):
                reach = torch.zeros_like(value) if radius is None else radius
                if args:
                    found[i] = down(args[0][0] + down(value - reach)), up(args[0][1] + up(value + reach))
                else:
                    found[i] = (value - reach).expand(rows, -1), (value + reach).expand(rows, -1)
                    if radius is not None:
                        found[i] = down(found[i][0]), up(found[i][1])
            case Nonlinear(block):
                found[i] = block.values_on(*args)
        found[i] = _known(*found[i])
        if known is not None and i in known:
            found[i] = torch.maximum(found[i][0], known[i][0]), torch.minimum(found[i][1], known[i][1])
    return found


def _known(lower: Tensor, upper: Tensor) -> Range:
    """An end that overflowed to NaN says nothing."""
    return lower.nan_to_num(-math.inf, math.inf, -math.inf), upper.nan_to_num(math.inf, math.inf, -math.inf)


def linear_range(operator: Operator, lower: Tensor, upper: Tensor) -> Range:
    if isinstance(operator, Select):
        return operator.mv(lower), operator.mv(upper)
    if isinstance(operator, Scale) and operator.radius is None:
        ends = [_times(operator.factor, lower), _times(operator.factor, upper)]
        return down(torch.minimum(*ends)), up(torch.maximum(*ends))
    finite = torch.isfinite(lower) & torch.isfinite(upper)
    if bool(finite.all()):
        centre = lower / 2 + upper / 2
        image = enclose_linear(operator, Enclosure(centre, up(torch.maximum(upper - centre, centre - lower))))
        return image.lower, image.upper
    low, high = torch.where(finite, lower, 0.0), torch.where(finite, upper, 0.0)
    image_low, image_high = linear_range(operator, low, high)
    reached = operator.absolute().mv((~finite).double()) > 0
    return torch.where(reached, -math.inf, image_low), torch.where(reached, math.inf, image_high)


def _times(factor: Tensor, side: Tensor) -> Tensor:
    return torch.where(factor == 0, 0.0, factor * side)
