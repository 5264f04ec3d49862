"""Plain interval propagation: an enclosure of every signal on a box (possibly the whole space).

Linear operators act on centre and radius with their rounding inside; infinite entries spread to everything they reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.network.graph import (
    Add,
    Concat,
    Enclosure,
    Graph,
    Input,
    Linear,
    Nonlinear,
    Offset,
    enclose_linear,
    reach_about,
)
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Operator, Scale, Select
from lipcert.rigor.rounding import down, up
from lipcert.terms.query import Ball, Region


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
    return forward(graph, INTERVALS, Boxes(start, known or {}), keep=True)


@dataclass(frozen=True, eq=False)
class Boxes:
    start: Range
    known: Mapping[int, Range]


def _sum(first: Range, *others: Range) -> Range:
    lower, upper = first
    for low, high in others:
        lower, upper = down(lower + low), up(upper + high)
    return lower, upper


def _offset(at: Visit, *given: Range) -> Range:
    value, radius = at.what.value, at.what.radius
    reach = torch.zeros_like(value) if radius is None else radius
    if given:
        return down(given[0][0] + down(value - reach)), up(given[0][1] + up(value + reach))
    rows = at.state.start[0].shape[0]
    lower, upper = (value - reach).expand(rows, -1), (value + reach).expand(rows, -1)
    return (lower, upper) if radius is None else (down(lower), up(upper))


def _met(rule: Callable[..., Range]) -> Callable[..., Range]:
    """The rule, met with what is known of its node otherwise."""

    def found(at: Visit, *given: Range) -> Range:
        lower, upper = _known(*rule(at, *given))
        if at.i not in at.state.known:
            return lower, upper
        low, high = at.state.known[at.i]
        return torch.maximum(lower, low), torch.minimum(upper, high)

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
        image = enclose_linear(operator, Enclosure(centre, reach_about(centre, lower, upper)))
        return image.lower, image.upper
    low, high = torch.where(finite, lower, 0.0), torch.where(finite, upper, 0.0)
    image_low, image_high = linear_range(operator, low, high)
    reached = operator.absolute().mv((~finite).double()) > 0
    return torch.where(reached, -math.inf, image_low), torch.where(reached, math.inf, image_high)


def _times(factor: Tensor, side: Tensor) -> Tensor:
    return torch.where(factor == 0, 0.0, factor * side)


INTERVALS: Rules = {  # (lower, upper), (b, size) each; state: Boxes
    Input: _met(lambda at: at.state.start),
    Linear: _met(lambda at, u: linear_range(at.what.operator, *u)),
    Add: _met(lambda at, *us: _sum(*us)),
    Concat: _met(lambda at, *us: (torch.cat([low for low, _ in us], 1), torch.cat([high for _, high in us], 1))),
    Offset: _met(_offset),
    Nonlinear: _met(lambda at, *us: at.what.block.values_on(*us)),
}
