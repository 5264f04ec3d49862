"""Backward linear bounds: upper values of linear functionals of a signal on many cells (CROWN, Zhang et al. 2018).

A functional a'z of a node is carried back through the graph, a'z <= A'x + beta, with a line for each activation. After each
step the coefficients are taken as exact floats; what rounding left out of them, times the range of the signal that they
meet, goes into beta. So ranges of all nodes are needed first, and interval propagation gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.affine import PLAIN, split
from lipcert.network.graph import Add, Concat, Graph, Linear, Node, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, backward
from lipcert.operators.linear import Adjoint, Operator
from lipcert.regions.backward.adjoint import ball_ranges
from lipcert.regions.backward.lines import Lines, Loss, lines
from lipcert.regions.cells import Cells
from lipcert.regions.device import by_device
from lipcert.rigor.rounding import TINY, all_finite, gamma, up

ENTRIES = {
    "cpu": 2**18,
    "cuda": 2**25,
}  # of the widest signal, in all rows at once: on a CPU they should stay in the cache
WORK = 2e10  # flops for the ranges of one cell: beyond it intervals have to do


def linear_ranges(
    graph: Graph, cells: Cells, work: float = WORK, bounds: Bounds | None = None
) -> tuple[dict[int, Range], dict[int, Lines]]:
    """Ranges (b, size) of every node on the cells, and the lines of the pointwise activations on them: intervals first,
    then what each nonlinear node reads by backward bounds (`upper_values`, or others), in order, so that later ones stand on
    the better lines."""
    radius = cells.radius if cells.norm == "inf" or not cells.radius.shape[1] else cells.radius[:, 0]
    ranges = ball_ranges(graph, cells.centre, radius, cells.norm)
    found: dict[int, Lines] = {}
    known: dict[int, Range] = {}
    spent = 0.0
    for i in graph.nonlinear:
        node = graph.nodes[i]
        block = node.what.block  # type: ignore[union-attr]
        cost = 2 * sum(graph.nodes[p].size for p in node.parents) * _cost(graph, i)
        if found and spent + cost <= work:
            spent += cost
            for parent in node.parents:
                if parent not in known:
                    known[parent] = _tightened(graph, cells, parent, ranges, found, bounds or upper_values)
            ranges = ball_ranges(graph, cells.centre, radius, cells.norm, known)
        if isinstance(block, Pointwise):
            found[i] = lines(block.activation, *ranges[node.parents[0]])
    return ranges, found


def _cost(graph: Graph, i: int) -> int:
    """Flops to carry one row from node i to the input."""
    wanted, stack = set(), [i]
    while stack:
        k = stack.pop()
        if k not in wanted:
            wanted.add(k)
            stack += graph.nodes[k].parents
    return sum(what.operator.flops for k in wanted if isinstance(what := graph.nodes[k].what, Linear))


def _tightened(
    graph: Graph, cells: Cells, target: int, ranges: Mapping[int, Range], found: Mapping[int, Lines], bounds: Bounds
) -> Range:
    """Of neurons that only have a kink at 0, those for which both signs are possible; the others stay as they are."""
    lower, upper = ranges[target]
    smooth = any(
        isinstance(graph.nodes[i].what, Nonlinear) and target in graph.nodes[i].parents and not _settles(graph, i)
        for i in graph.nonlinear
    )
    crossing = (lower < 0) & (upper > 0) | ~torch.isfinite(lower + upper)
    home, neuron = ((torch.ones_like(crossing) if smooth else crossing).nonzero()).unbind(dim=1)
    low, high = lower.clone(), upper.clone()
    for sign, side, better in ((1.0, high, torch.minimum), (-1.0, low, torch.maximum)):
        most = bounds(graph, cells, units(neuron, lower.shape[1], sign), home, target, ranges, found)
        side[home, neuron] = better(side[home, neuron], sign * most)
    return low, high


def _settles(graph: Graph, i: int) -> bool:
    """Affine on each side of 0: ranges that do not cross it are as good as they need to be."""
    from lipcert.activations.corner import Corner

    block = graph.nodes[i].what.block  # type: ignore[union-attr]
    return isinstance(block, Pointwise) and isinstance(block.activation.row.slopes_on, Corner)


Rows = Callable[[slice], Tensor]  # some of the functionals (r, size): all of them would fill the memory
Bounds = Callable[[Graph, Cells, Rows, Tensor, int, Mapping[int, Range], Mapping[int, Lines]], Tensor]


def units(entry: Tensor, size: int, sign: float) -> Rows:
    """sign times the unit vectors of the entries (r,)."""
    return lambda part: sign * torch.nn.functional.one_hot(entry[part], size).double()


def upper_values(
    graph: Graph,
    cells: Cells,
    seeds: Rows,
    home: Tensor,
    target: int,
    ranges: Mapping[int, Range],
    found: Mapping[int, Lines],
    prices: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Upper values (r,) of seeds'z, seeds (r, size) exact floats of node `target`, each on its cell `home` (r,); in chunks
    that stay in the cache. `prices`: by node, coefficients (r, size) that are added to those of its signal, exact floats. The
    values then hold where price'z >= 0: a price not below 0 belongs to a constraint z_j >= 0, one not above 0 to z_j <= 0
    (beta-CROWN, Wang et al. 2021)."""
    sizes = {i: largest(ranges[i]) for i in range(target + 1)}
    losses = {i: _loss(graph.nodes[i], i, sizes, found) for i in range(target + 1)}
    most = by_device(ENTRIES, cells.centre.device)
    rows = max(1, most // max(1, *(node.size for node in graph.nodes[: target + 1])))
    parts = []
    for at in range(0, len(home), rows):
        here = home[at : at + rows]
        costs = {i: price[at : at + rows] for i, price in (prices or {}).items()}
        carried = Carrying(here, cells.centre.new_zeros(len(here)), ranges, found, sizes, losses, costs)
        parts.append(_carried(graph, seeds(slice(at, at + rows)), target, cells, carried))
    return torch.cat(parts) if parts else cells.centre.new_zeros(0)


@dataclass(eq=False)
class Carrying:
    """State of a walk of coefficients (r, size): what is known of the signals that they meet, and beta (r,) so far."""

    home: Tensor
    beta: Tensor
    ranges: Mapping[int, Range]
    lines: Mapping[int, Lines]
    sizes: Mapping[int, Tensor]
    losses: Mapping[int, Loss | None]
    prices: Mapping[int, Tensor] = field(default_factory=dict)

    def add(self, more: Tensor) -> None:
        self.beta = plus_up(self.beta, more)


def _loss(node: Node, i: int, sizes: Mapping[int, Tensor], found: Mapping[int, Lines]) -> Loss | None:
    """What rounding may lose on the way through the node."""
    match node.what:
        case Linear(operator):
            return spread(Adjoint(operator), operator, sizes[node.parents[0]])
        case Nonlinear() if i in found:
            return found[i].loss(sizes[node.parents[0]])
        case Offset(value, slack):
            own = value.abs() * (4 * gamma(node.size + 4)) + (0.0 if slack is None else slack)
            return Loss(own[None] * (1 + 2.0**-50) + TINY, value.new_full((1,), TINY * node.size))
    return None


def _carried(graph: Graph, seeds: Tensor, target: int, cells: Cells, state: Carrying) -> Tensor:
    rows = backward(graph, ROWS, {target: seeds}, _arrived, state)
    beta = state.beta
    if graph.input in rows:
        beta = _over_cells(rows[graph.input], cells[state.home], beta)
    return beta.nan_to_num(math.inf, math.inf, math.inf)


def _arrived(at: Visit, parts: Sequence[Tensor]) -> Tensor:
    state = at.state
    parts = [*parts, state.prices[at.i]] if at.i in state.prices else parts
    row, state.beta = total(parts, state.beta, state.sizes[at.i], state.home)
    if (loss := state.losses[at.i]) is not None:
        state.add(lost(row, loss, state.home))
    return row


def _offset(at: Visit, row: Tensor) -> list[Tensor]:
    at.state.add(row @ at.what.value)
    return [row] * len(at.node.parents)


def _nonlinear(at: Visit, row: Tensor) -> list[Tensor | None]:
    state = at.state
    if at.i not in state.lines:  # the range of the node is all that is used
        low, high = state.ranges[at.i]
        state.beta = _over_range(row, low, high, state.home, state.beta)
        return [None] * len(at.node.parents)
    carried, state.beta = state.lines[at.i].carry(row, state.home, state.beta)
    return [carried]


def total(parts: Sequence[Tensor], beta: Tensor, size: Tensor, home: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of coefficients that meet a signal of the given size (b, m), and beta with what its rounding loses."""
    if len(parts) == 1:
        return parts[0], beta
    mass = torch.stack([part.abs() for part in parts]).sum(dim=0)
    return torch.stack(list(parts)).sum(dim=0), plus_up(beta, met(mass, size * (2 * gamma(len(parts))), home))


def largest(known: Range) -> Tensor:
    return torch.maximum(known[0].abs(), known[1].abs())


def met(size: Tensor, reach: Tensor, home: Tensor) -> Tensor:
    """(r,): upper value of size . reach[home] for nonnegative (r, m) and (b, m), row by row; 0 times infinity is 0."""
    home = home if reach.shape[0] > 1 else torch.zeros_like(home)
    grow, least = 1 + 4 * gamma(reach.shape[1] + 8), TINY * reach.shape[1]  # a product that underflows is below TINY
    if all_finite(reach):
        return (size * reach[home]).sum(dim=1) * grow + least
    finite = torch.isfinite(reach)
    known = (size * torch.where(finite, reach, 0.0)[home]).sum(dim=1) * grow + least
    return torch.where(((size > 0) & ~finite[home]).any(dim=1), math.inf, known)


def lost(row: Tensor, loss: Loss, home: Tensor) -> Tensor:
    """(r,)."""
    return met(row.abs(), loss.each, home) + (loss.floor[home] if len(loss.floor) > 1 else loss.floor)


def spread(adjoint: Operator, operator: Operator, size: Tensor) -> Loss:
    """Of the computed A'row, on a signal of the given size (b, in_size): gamma |A| |z|, and what A is not known to."""
    known = None if all_finite(size) else torch.isfinite(size)
    finite = size if known is None else torch.where(known, size, 0.0)
    grow = 1 + 4 * gamma(operator.terms + 8)
    each = operator.absolute().mv(finite) * (2 * gamma(adjoint.terms + 2) * grow if adjoint.terms else 0.0)
    error = operator.radius_operator()
    if error is not None:
        each = each + error.mv(finite) * grow
    if adjoint.terms or error is not None:
        each = each * (1 + 2.0**-50) + TINY
        if known is not None:
            each = torch.where(operator.absolute().mv((~known).double()) > 0, math.inf, each)
    return Loss(each, (adjoint.terms + 1) * TINY * finite.sum(dim=1))


def plus_up(beta: Tensor, more: Tensor) -> Tensor:
    return up(beta + more)


def _over_range(row: Tensor, low: Tensor, high: Tensor, home: Tensor, beta: Tensor) -> Tensor:
    middle = torch.where(torch.isfinite(low + high), low / 2 + high / 2, 0.0)
    reach = up(torch.maximum(high - middle, middle - low))
    grow = 2 * gamma(middle.shape[1] + 2)
    beta = plus_up(beta, (row * middle[home]).sum(dim=1))
    return plus_up(beta, met(row.abs(), up(reach + grow * middle.abs()), home))


def _over_cells(row: Tensor, cells: Cells, beta: Tensor) -> Tensor:
    """max A'x + beta, each row on its own cell."""
    at_centre = (row * cells.centre).sum(dim=1)
    slack = (row.abs() * cells.centre.abs()).sum(dim=1) * (4 * gamma(row.shape[1] + 4)) + TINY * row.shape[1]
    away = cells.reach(row.abs()[:, :, None])[:, 0]
    return plus_up(plus_up(plus_up(beta, at_centre), slack), up(away))


ROWS: Rules = {  # state: Carrying
    Linear: lambda at, row: [Adjoint(at.what.operator).mv(row)],
    Add: lambda at, row: [row] * len(at.node.parents),
    Concat: lambda at, row: [PLAIN.cut(row, a, b) for a, b in split(at)],
    Offset: _offset,
    Nonlinear: _nonlinear,
}
