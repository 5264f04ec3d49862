"""Backward linear bounds: upper values of linear functionals of a signal on many cells (CROWN, Zhang et al. 2018).

A functional a'z of a node is carried back through the graph, a'z <= A'x + beta, with a line for each activation. After each
step the coefficients are taken as exact floats; what rounding left out of them, times the range of the signal that they
meet, goes into beta. So ranges of all nodes are needed first, and interval propagation gives them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lipcert.blocks import Pointwise, Range
from lipcert.ir import Add, Concat, Graph, Input, Linear, Nonlinear, Offset
from lipcert.linops import Adjoint, Operator
from lipcert.ranges.adjoint import ball_ranges
from lipcert.ranges.cells import Cells
from lipcert.ranges.lines import Lines, lines
from lipcert.rounding import EPS, TINY, gamma, up

ENTRIES = 2**22  # of the widest signal, in all rows at once
WORK = 2e10  # flops for the ranges of one cell: beyond it intervals have to do


def linear_ranges(graph: Graph, cells: Cells, work: float = WORK) -> tuple[dict[int, Range], dict[int, Lines]]:
    """Ranges (b, size) of every node on the cells, and the lines of the pointwise activations on them: intervals first,
    then what each nonlinear node reads by backward bounds, in order, so that later ones stand on the better lines."""
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
                    known[parent] = _tightened(graph, cells, parent, ranges, found)
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
    graph: Graph, cells: Cells, target: int, ranges: Mapping[int, Range], found: Mapping[int, Lines]
) -> Range:
    """Where both signs of a neuron are possible in some cell; the others stay as they are."""
    lower, upper = ranges[target]
    wanted = ((lower < 0) & (upper > 0) | (upper > lower) & ~torch.isfinite(lower + upper)).any(dim=0)
    smooth = any(
        isinstance(graph.nodes[i].what, Nonlinear) and target in graph.nodes[i].parents and not _settles(graph, i)
        for i in graph.nonlinear
    )
    place = torch.arange(lower.shape[1]) if smooth else wanted.nonzero()[:, 0]
    if not len(place):
        return lower, upper
    unit = torch.zeros(len(place), lower.shape[1], dtype=torch.float64)
    unit[torch.arange(len(place)), place] = 1.0
    seeds = torch.cat([unit, -unit])[None].expand(len(cells), -1, -1)
    most = upper_values(graph, cells, seeds, target, ranges, found)
    k = len(place)
    low, high = lower.clone(), upper.clone()
    high[:, place] = torch.minimum(high[:, place], most[:, :k])
    low[:, place] = torch.maximum(low[:, place], -most[:, k:])
    return low, high


def _settles(graph: Graph, i: int) -> bool:
    """Affine on each side of 0: ranges that do not cross it are as good as they need to be."""
    from lipcert.activations.corner import Corner

    block = graph.nodes[i].what.block  # type: ignore[union-attr]
    return isinstance(block, Pointwise) and isinstance(block.activation.row.slopes_on, Corner)


def upper_values(
    graph: Graph,
    cells: Cells,
    seeds: Tensor,
    target: int,
    ranges: Mapping[int, Range],
    found: Mapping[int, Lines],
) -> Tensor:
    """Upper values (b, k) of seeds'z on the cells, seeds (b, k, size) exact floats of node `target`, in chunks."""
    b, k, _ = seeds.shape
    widest = max(node.size for node in graph.nodes[: target + 1])
    rows = max(1, ENTRIES // max(1, widest))
    parts = []
    for start in range(0, b, max(1, rows // max(1, k))):
        some = slice(start, start + max(1, rows // max(1, k)))
        mine = {i: (low[some], high[some]) for i, (low, high) in ranges.items()}
        own = {i: line[some] for i, line in found.items()}
        columns = [
            _carried(graph, cells[some], seeds[some, at : at + rows], target, mine, own) for at in range(0, k, rows)
        ]
        parts.append(torch.cat(columns, dim=1) if columns else seeds.new_zeros(seeds[some].shape[:2]))
    return torch.cat(parts) if parts else seeds.new_zeros(b, k)


def _carried(
    graph: Graph, cells: Cells, seeds: Tensor, target: int, ranges: Mapping[int, Range], found: Mapping[int, Lines]
) -> Tensor:
    b, k, _ = seeds.shape
    waiting: dict[int, list[Tensor]] = {target: [seeds]}
    beta = seeds.new_zeros(b, k)
    for i in range(target, -1, -1):
        if i not in waiting:
            continue
        node = graph.nodes[i]
        parts = waiting.pop(i)
        size = largest(ranges[i])
        row = parts[0]
        if len(parts) > 1:
            row = torch.stack(parts).sum(dim=0)
            mass = torch.stack([part.abs() for part in parts]).sum(dim=0)
            beta = plus_up(beta, met(mass, size) * (2 * gamma(len(parts))))
        match node.what:
            case Input():
                beta, through = _over_cells(row, cells, beta), []
            case Linear(operator):
                (parent,) = node.parents
                beta = plus_up(beta, lost(Adjoint(operator), operator, row, ranges[parent]))
                through = [Adjoint(operator).mv(row.reshape(b * k, -1)).reshape(b, k, -1)]
            case Add():
                through = [row] * len(node.parents)
            case Concat():
                through = list(row.split([graph.nodes[parent].size for parent in node.parents], 2))
            case Offset(value, slack):
                beta = plus_up(beta, _dot_up(row, value))
                if slack is not None:
                    beta = plus_up(beta, met(row.abs(), slack.expand(b, -1)))
                through = [row] * len(node.parents)
            case Nonlinear():
                if i not in found:  # no line: the range of the node is all that is used
                    beta = plus_up(beta, _over_range(row, ranges[i]))
                    continue
                line = found[i]
                plus, minus = row.clamp(min=0.0), row.clamp(max=0.0)
                carried = plus * line.high_slope[:, None] + minus * line.low_slope[:, None]
                beta = plus_up(beta, intercepts(plus, minus, line.high, line.low))
                below = largest(ranges[node.parents[0]])
                beta = plus_up(beta, met(carried.abs() * (2 * EPS) + TINY * (row != 0), below))
                through = [carried]
        for parent, part in zip(node.parents, through, strict=True):
            waiting.setdefault(parent, []).append(part)
    return beta.nan_to_num(math.inf, math.inf, math.inf)


def intercepts(plus: Tensor, minus: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """(b, k): upper value of plus . high + minus . low for plus >= 0 >= minus (b, k, m); 0 times infinity is 0."""
    total = torch.zeros_like(plus[:, :, 0]) if plus.shape[2] else plus.new_zeros(plus.shape[:2])
    for row, line in ((plus, high), (minus, low)):
        known = torch.where(torch.isfinite(line), line, 0.0)
        total = total + torch.bmm(row, known[:, :, None])[:, :, 0]
    slack = met(plus, high.abs()) + met(-minus, low.abs())
    return total + slack * (4 * gamma(plus.shape[2] + 4))


def largest(known: Range) -> Tensor:
    return torch.maximum(known[0].abs(), known[1].abs())


def met(size: Tensor, reach: Tensor) -> Tensor:
    """(b, k): upper value of size . reach for nonnegative (b, k, m) and (b, m); 0 times infinity is 0."""
    grow = 1 + 4 * gamma(reach.shape[1] + 8)
    finite = torch.isfinite(reach)
    total = torch.bmm(size, torch.where(finite, reach, 0.0)[:, :, None])[:, :, 0] * grow
    # a product that underflows is less than TINY
    total = total + TINY * reach.shape[1]
    if bool(finite.all()):
        return total
    unknown = torch.bmm((size > 0).double(), (~finite).double()[:, :, None])[:, :, 0] > 0
    return torch.where(unknown, math.inf, total)


def lost(adjoint: Operator, operator: Operator, row: Tensor, below: Range) -> Tensor:
    """(b, k): what the computed A'row may miss, times the signal below: gamma |row| |A| |z| and what A is not known to."""
    size = largest(below)
    finite = torch.where(torch.isfinite(size), size, 0.0)
    spread = operator.absolute().mv(finite) * (1 + 4 * gamma(operator.terms + 8)) + TINY
    if not bool(torch.isfinite(size).all()):
        spread = torch.where(operator.absolute().mv((~torch.isfinite(size)).double()) > 0, math.inf, spread)
    found = met(row.abs(), spread) * (2 * gamma(adjoint.terms + 2)) if adjoint.terms else row.new_zeros(row.shape[:2])
    error = operator.radius_operator()
    if error is not None:
        wide = error.mv(finite) * (1 + 4 * gamma(operator.terms + 8)) + TINY
        found = found + met(row.abs(), wide)
    # products and sums that underflow
    return found + (adjoint.terms + 1) * TINY * finite.sum(dim=1, keepdim=True)


def plus_up(beta: Tensor, more: Tensor) -> Tensor:
    return up(beta + more)


def _dot_up(row: Tensor, value: Tensor) -> Tensor:
    """(b, k): upper value of row . value."""
    grow = 2 * gamma(value.numel() + 2)
    return row @ value + (row.abs() @ value.abs()) * grow + TINY * value.numel()


def _over_range(row: Tensor, known: Range) -> Tensor:
    low, high = known
    middle = torch.where(torch.isfinite(low + high), low / 2 + high / 2, 0.0)
    reach = up(torch.maximum(high - middle, middle - low))
    grow = 2 * gamma(middle.shape[1] + 2)
    size = row.abs()
    return torch.bmm(row, middle[:, :, None])[:, :, 0] + met(size, up(reach + grow * middle.abs()))


def _over_cells(row: Tensor, cells: Cells, beta: Tensor) -> Tensor:
    """max A'x + beta over each cell."""
    n = row.shape[2]
    at_centre = torch.bmm(row, cells.centre[:, :, None])[:, :, 0]
    slack = met(row.abs(), cells.centre.abs()) * (2 * gamma(n + 2))
    return plus_up(plus_up(plus_up(beta, at_centre), slack), up(cells.reach(row.abs().mT.contiguous())))
