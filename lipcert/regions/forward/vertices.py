"""J is affine in the slope of each neuron, and norms are convex: over slopes in a box, ||J|| is largest at a vertex.

With few neurons whose slope is not settled on a cell, all 2^k patterns are tried, the other slopes kept as they are
(exact for piecewise linear networks). Interval products lose the l2 norm at a kink; this does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Graph, Input, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, forward
from lipcert.regions.forward.directions import Directions, norms_above
from lipcert.regions.forward.slope_rules import scaled
from lipcert.regions.forward.stack import AFFINE, Carried, Stack
from lipcert.terms.query import Norm

ENTRIES = 2**22  # of the widest stack at once


def unsettled(slopes: Mapping[int, Range], like: Tensor) -> Tensor:
    """(b,): neurons whose slope is not one number on the cell."""
    count = torch.zeros(like.shape[0], dtype=torch.int64, device=like.device)
    for low, high in slopes.values():
        count += (low != high).sum(dim=1)
    return count


def elementwise_only(graph: Graph) -> bool:
    return all(isinstance(graph.nodes[i].what.block, Pointwise) for i in graph.nonlinear)  # type: ignore[union-attr]


def vertex_norms(graph: Graph, slopes: Mapping[int, Range], chosen: Directions, norm: Norm, most: int) -> Tensor:
    """Upper values (b,) of ||J|| over the slopes, the `most` widest of each cell enumerated. `graph` has elementwise
    nonlinearities only, and every one of them is in `slopes`."""
    low = torch.cat([slopes[i][0] for i in graph.nonlinear], dim=1)
    high = torch.cat([slopes[i][1] for i in graph.nonlinear], dim=1)
    b, k = chosen.toward.shape[:2]
    if not b:
        return low.new_zeros(0)
    width = (high - low).nan_to_num(torch.inf, torch.inf)
    most = min(most, int((width > 0).sum(dim=1).max()))
    widest = width.topk(most, dim=1).indices
    bits = (torch.arange(2**most, device=low.device)[:, None] >> torch.arange(most, device=low.device)) & 1
    size = max(node.size for node in graph.nodes)
    rows = max(1, ENTRIES // (size * k * len(bits)))
    found = []
    for start in range(0, b, rows):
        part = slice(start, start + rows)
        here = widest[part][:, None].expand(-1, len(bits), -1)
        ends = torch.where(
            bits.bool()[None], high[part].gather(1, widest[part])[:, None], low[part].gather(1, widest[part])[:, None]
        )
        pattern = [side[part][:, None].repeat(1, len(bits), 1).scatter_(2, here, ends) for side in (low, high)]
        cells = here.shape[0]
        lower, upper = (side.reshape(cells * len(bits), -1) for side in pattern)
        toward = chosen.toward[part].repeat_interleave(len(bits), dim=0)
        defect = None if chosen.defect is None else chosen.defect[part].repeat_interleave(len(bits))
        image = jacobian(graph, (lower, upper), toward)
        values = norms_above(*image, Directions(toward, chosen.kind, defect), norm)
        found.append(values.reshape(cells, len(bits)).amax(dim=1))
    return torch.cat(found)


def jacobian(graph: Graph, slopes: Range, toward: Tensor) -> Stack:
    """Enclosure of J d for the given slopes (b, neurons) of all elementwise nodes in order."""
    state = Patterns(like=toward, absolute=graph.memo.setdefault(("absolute",), {}), slopes=slopes)
    return forward(graph, TANGENTS, state)[graph.output]


@dataclass(eq=False, kw_only=True)
class Patterns(Carried):
    slopes: Range
    place: int = 0  # of the neurons before this node


def _nonlinear(at: Visit, stack: Stack) -> Stack:
    state = at.state
    here = slice(state.place, state.place + at.node.size)
    state.place += at.node.size
    return scaled((state.slopes[0][:, None, here], state.slopes[1][:, None, here]), *stack)


def _offset(at: Visit, *stacks: Stack) -> Stack:
    like = at.state.like
    nothing = like.new_zeros(*like.shape[:2], at.node.size)
    return stacks[0] if stacks else (nothing, nothing)


TANGENTS: Rules = AFFINE | {  # stacks of directional derivatives only: constants do not count
    Input: lambda at: (at.state.like, torch.zeros_like(at.state.like)),
    Offset: _offset,
    Nonlinear: _nonlinear,
}
