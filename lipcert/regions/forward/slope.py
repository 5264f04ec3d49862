"""Slope sweep: a proved enclosure of every signal, and of J in chosen directions, on a batch of cells at once.

Mean value form (MATH section 5; Neumaier, *Interval Methods for Systems of Equations*, 2.3): each signal is known as
z(c) + S (x - c) with an interval matrix S, met with plain intervals; elementwise nonlinearities multiply S by their chord
range about z(c) and J by their slope range. Everything in centre and radius, the rounding folded into the radius.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.network.graph import Graph, Input, Nonlinear
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Operator
from lipcert.regions.cells import Cells
from lipcert.regions.device import by_device, proving_on
from lipcert.regions.forward.directions import Directions, directions, norms_above
from lipcert.regions.forward.entry import Entry
from lipcert.regions.forward.slope_rules import RULES
from lipcert.regions.forward.stack import AFFINE, Carried, Stack, all_finite, spare
from lipcert.terms.query import Norm

VANISHING = 1e-280  # what underflow was granted may be all there is
ENTRIES = {"cpu": 2**17, "cuda": 2**25}  # of the widest stack: on a CPU it should stay in the cache


@dataclass(frozen=True, eq=False)
class Sweep:
    """On each of b cells. `centre` +- `radius` (b, k, m): J d for the k directions. `slopes`: node -> slope range of
    its elementwise activation, (b, size) each. `lower`, `upper` (b, m): range of the output. `score` (b, n): share of
    each coordinate in the jumps of the gradient, where adjoints were given."""

    centre: Tensor
    radius: Tensor
    lower: Tensor
    upper: Tensor
    slopes: Mapping[int, Range] = field(default_factory=dict)
    score: Tensor | None = None
    culprit: int | None = None  # the first node where a slope is not bounded
    uphill: Tensor | None = None  # (b, n): a point of the box where J d is large, if its second order is known


def sweep(
    graph: Graph,
    cells: Cells,
    toward: Tensor,
    adjoints: Mapping[int, Tensor] | None = None,
    *,
    careful: bool = False,
) -> Sweep:
    """`toward` (b, k, n): directions, exact floats. `adjoints`: |dy/dz| at the centre by nonlinear node, for `score`.
    `careful`: zeros stay exact zeros; done again so by itself where the result might be one."""
    if not len(cells):
        empty = cells.centre.new_zeros(0, graph.nodes[graph.output].size)
        return Sweep(empty[:, None].expand(0, toward.shape[1], -1), empty[:, None], empty, empty)
    start, n = first_stack(cells, toward), cells.centre.shape[1]
    absolute: dict[Operator, Operator] = graph.memo.setdefault(("absolute",), {})
    score = None if adjoints is None else torch.zeros_like(cells.centre)
    state = Swept(
        like=start[0],
        absolute=absolute,
        careful=careful,
        spares=True,
        cells=cells,
        start=start,
        adjoints=adjoints,
        score=score,
    )
    centre, radius = forward(graph, STACKS, state)[graph.output]
    if not careful and centre.shape[2] and bool((largest_reach(centre, radius, 2 + n) < VANISHING).any()):
        return sweep(graph, cells, toward, adjoints, careful=True)
    lower, upper = signal_range((centre, radius), cells)
    return Sweep(centre[:, 2 + n :], radius[:, 2 + n :], lower, upper, state.slopes, state.score, state.culprit)


@dataclass(eq=False, kw_only=True)
class Swept(Carried):
    """State of a sweep: what it asks, and what it finds out about nonlinear nodes on the way."""

    cells: Cells
    start: Stack
    adjoints: Mapping[int, Tensor] | None = None
    score: Tensor | None = None
    slopes: dict[int, Range] = field(default_factory=dict)
    culprit: int | None = None


def _nonlinear(at: Visit, *stacks: Stack) -> Stack:
    state, n = at.state, at.state.cells.centre.shape[1]
    alone = spare(at)
    entries = [Entry(stack, *signal_range(stack, state.cells), n, alone) for stack in stacks]
    weigh = None if state.adjoints is None else Shares(stacks[0], state.cells)
    found = RULES[type(at.what.block)](at.what.block, entries)
    if found.slopes is not None:
        state.slopes[at.i] = found.slopes
        if weigh is not None:
            state.score += weigh.jumps(found.slopes, state.adjoints[at.i])
    reach = found.stack[1][:, 2 + n :]
    if state.culprit is None and not all_finite(reach) and not bool(torch.isfinite(reach).all()):
        state.culprit = at.i
    return found.stack


STACKS: Rules = AFFINE | {Input: lambda at: at.state.start, Nonlinear: _nonlinear}


def largest_reach(centre: Tensor, radius: Tensor, start: int) -> Tensor:
    return (centre[:, start:].abs() + radius[:, start:]).flatten(1).amax(dim=1)


def first_stack(cells: Cells, toward: Tensor) -> Stack:
    b, n = cells.centre.shape
    centre = torch.cat([cells.centre[:, None], cells.centre[:, None], toward.new_zeros(b, n, n), toward], dim=1)
    torch.diagonal(centre[:, 2 : 2 + n], dim1=1, dim2=2).fill_(1.0)
    radius = torch.zeros_like(centre)
    radius[:, 1] = cells.radius
    return centre, radius


def signal_range(stack: Stack, cells: Cells) -> Range:
    """The mean value form met with the plain interval. An end that is not known is infinite."""
    (centre, radius), n = stack, cells.centre.shape[1]
    z, plain = centre[:, 0], centre[:, 1]
    away = (cells.reach(centre[:, 2 : 2 + n].abs() + radius[:, 2 : 2 + n]) + radius[:, 0]) * (1 + 2.0**-48)
    spread = radius[:, 1]
    pad, plain_pad = 2.0**-51 * z.abs(), 2.0**-51 * plain.abs()
    ends = z - away - pad, plain - spread - plain_pad, z + away + pad, plain + spread + plain_pad
    lower, upper = torch.maximum(*ends[:2]), torch.minimum(*ends[2:])
    if all_finite(lower, upper):
        return lower, upper
    lower, upper = torch.fmax(*ends[:2]), torch.fmin(*ends[2:])  # one of the two may be known
    return lower.nan_to_num(-torch.inf, torch.inf, -torch.inf), upper.nan_to_num(torch.inf, torch.inf, -torch.inf)


class Shares:
    """How much of the jump of J d, over all neurons and directions, is due to each coordinate; of a stack before its
    nonlinearity."""

    def __init__(self, stack: Stack, cells: Cells):
        (centre, radius), n = stack, cells.centre.shape[1]
        self.size = (centre[:, 2 + n :].abs() + radius[:, 2 + n :]).amax(dim=1)
        share = (centre[:, 2 : 2 + n].abs() + radius[:, 2 : 2 + n]) * cells.radius[:, :, None]
        self.share = share / share.sum(dim=1, keepdim=True).clamp(min=1e-300)

    def jumps(self, slopes: Range, adjoint: Tensor) -> Tensor:
        """(b, n)."""
        jump = (slopes[1] - slopes[0]) * adjoint * self.size
        return torch.bmm(self.share, jump[:, :, None])[:, :, 0].nan_to_num(0.0, 0.0, 0.0)


def rows_per_chunk(graph: Graph, directions: int, device: torch.device) -> int:
    """Cells whose stacks fit the cache together, or the memory of a GPU many times."""
    size = max(node.size for node in graph.nodes)
    return max(1, by_device(ENTRIES, device) // max(1, size * (2 + graph.nodes[graph.input].size + directions)))


def lipschitz_on(graph: Graph, cells: Cells, norm: Norm, device: str = "cpu") -> Tensor:
    """Proved upper values (b,) of the Lipschitz constant on each cell, inf where none is known. In chunks."""
    found = [cells.centre.new_zeros(0)]
    with proving_on(device):
        graph, cells = graph.on(device), cells.to(device)
        for part in cells.chunks(rows_per_chunk(graph, graph.nodes[graph.input].size, cells.centre.device)):
            chosen = directions(graph, part, norm)
            swept = sweep(graph, part, chosen.toward)
            found.append(norms_above(swept.centre, swept.radius, chosen, norm).cpu())
    return torch.cat(found)


__all__ = ["Directions", "Sweep", "directions", "lipschitz_on", "norms_above", "rows_per_chunk", "sweep"]
