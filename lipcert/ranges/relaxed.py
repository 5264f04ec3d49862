"""The linear-relaxed adjoint: upper values of gradient norms on many cells (Zhang et al. 2019, RecurJac; Shi et al. 2022).

Backward through the graph, gradients obey g_parent = A' g for linear nodes and g_parent = s'(z) g for activations, s' in
its slope range on the cell. Intervals for g alone lose all cancellation. So a linear functional of the gradient at the
input, which is above its norm on those intervals, is carried forward to the output, where the gradient is known, with a
line above each product s' g. One row for each functional of the outputs and cell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lipcert.blocks import Range
from lipcert.ir import Add, Concat, Enclosure, Graph, Input, Linear, Nonlinear, Offset
from lipcert.linops import DUAL, Adjoint
from lipcert.query import P
from lipcert.ranges.adjoint import gradients
from lipcert.ranges.backward import intercepts, largest, lost, met, plus_up
from lipcert.ranges.lines import above, products
from lipcert.rounding import EPS, TINY, gamma, mul_up, norm_up, sqrt_up, up

ENTRIES = 2**22
ENTRYWISE = 64  # inputs: for l1 each entry of the gradient is a functional of its own


def gradient_norms(
    graph: Graph, seeds: Tensor, slopes: Mapping[int, Range], norm: P, moving: Tensor, refine: bool = False
) -> Tensor:
    """Upper values (b, k) of the dual norms of the gradients of seeds'f, seeds (b, k, m) exact floats, over the coordinates
    `moving` (b, n). `refine`: intermediate gradients too are bounded by functionals, not by intervals alone."""
    b, k, _ = seeds.shape
    limits: dict[int, Range] = {}
    kept: dict[int, Enclosure] = {}
    first = gradients(graph, seeds, slopes, keep=kept)
    if refine:
        for i in reversed(_worth(graph)):
            if i in kept:
                limits[i] = _limited(graph, i, seeds, slopes, kept)
                first = gradients(graph, seeds, slopes, keep=kept, limits=limits)
    free = moving.repeat_interleave(k, dim=0)
    low, high = (torch.where(free, end, 0.0) for end in (first.lower, first.upper))
    plain = norm_up(largest((low, high)).nan_to_num(math.inf), DUAL[norm], 1)
    n = low.shape[1]
    if norm == "1":
        if n > ENTRYWISE or not n:
            return plain.reshape(b, k)
        unit = torch.eye(n, dtype=torch.float64)
        start = torch.cat([unit, -unit])[None].expand(b * k, -1, -1) * free[:, None]
        found = _forward(graph, graph.input, start, seeds, slopes, kept).amax(dim=1)
        return torch.minimum(plain, found.nan_to_num(math.inf, math.inf)).reshape(b, k)
    ends = torch.stack([low, high])
    values = mul_up(ends, ends) if norm == "2" else ends.abs()
    slope, intercept = above(low, high, values[0], values[1])
    found = _forward(graph, graph.input, slope[:, None], seeds, slopes, kept)[:, 0]
    found = plus_up(found, up(intercept.sum(dim=1) + 2 * gamma(n + 2) * intercept.abs().sum(dim=1) + n * TINY))
    found = found.nan_to_num(math.inf, math.inf, math.inf)
    if norm == "2":
        found = sqrt_up(found.clamp(min=0.0))
    return torch.minimum(plain, found.clamp(min=0.0)).reshape(b, k)


def at_vertices(graph: Graph, slopes: Mapping[int, Range], most: int) -> dict[int, Range]:
    """The slopes (b, size) with up to `most` of each cell's at their ends: all patterns, (b 2^count, size). The Jacobian
    is affine in each slope and norms are convex, so its norm over the box is the largest over these patterns."""
    b, m = next(iter(slopes.values()))[0].shape[0] if slopes else 0, graph.nodes[graph.output].size
    low, high = (torch.cat([slopes[i][side] for i in slopes], dim=1) if slopes else None for side in (0, 1))
    if low is None or high is None or not b:
        return dict(slopes)
    kept: dict[int, Enclosure] = {}
    gradients(graph, torch.eye(m, dtype=torch.float64)[None].expand(b, m, m), slopes, keep=kept)
    nothing = low.new_zeros(b * m, 1)
    size = torch.cat(
        [
            largest((kept[i].lower, kept[i].upper)) if i in kept else nothing.expand(-1, slopes[i][0].shape[1])
            for i in slopes
        ],
        dim=1,
    )
    jump = ((high - low) * size.reshape(b, m, -1).amax(dim=1)).nan_to_num(0.0, 0.0, 0.0)
    count = min(most, int((jump > 0).sum(dim=1).max()))
    chosen = jump.topk(count, dim=1).indices[:, None]
    bits = (torch.arange(2**count)[:, None] >> torch.arange(count)) & 1
    ends = torch.where(bits.bool()[None], high.gather(1, chosen[:, 0])[:, None], low.gather(1, chosen[:, 0])[:, None])
    place = chosen.expand(-1, len(bits), -1)
    sides = [
        side[:, None].repeat(1, len(bits), 1).scatter_(2, place, ends).reshape(b * len(bits), -1)
        for side in (low, high)
    ]
    sizes = [slopes[i][0].shape[1] for i in slopes]
    return dict(zip(slopes, zip(*(side.split(sizes, dim=1) for side in sides), strict=True), strict=True))


def _worth(graph: Graph) -> list[int]:
    """Nonlinear nodes but for the last two of a chain, whose gradients intervals get right."""
    return list(graph.nonlinear[:-2])


def _limited(
    graph: Graph, node: int, seeds: Tensor, slopes: Mapping[int, Range], kept: Mapping[int, Enclosure]
) -> Range:
    """Range of the gradient at `node`, entry by entry."""
    size = graph.nodes[node].size
    rows = kept[node].centre.shape[0]
    unit = torch.eye(size, dtype=torch.float64)
    both = torch.cat([unit, -unit])
    widest = max(n.size for n in graph.nodes)
    step = max(1, ENTRIES // (widest * 2 * size))
    k = seeds.shape[1]
    parts = []
    for start in range(0, rows, step):
        some = slice(start, start + step)
        mine = {i: Enclosure(e.centre[some], e.reach()[some]) for i, e in kept.items()}
        balls = torch.arange(rows)[some] // k
        own = {i: (low[balls], high[balls]) for i, (low, high) in slopes.items()}
        here = seeds.reshape(rows, 1, -1)[some]
        begin = both[None].expand(here.shape[0], -1, -1)
        parts.append(_forward(graph, node, begin, here, own, mine))
    found = torch.cat(parts).nan_to_num(math.inf, math.inf, math.inf)
    return -found[:, size:], found[:, :size]


def _forward(
    graph: Graph,
    start: int,
    functionals: Tensor,
    seeds: Tensor,
    slopes: Mapping[int, Range],
    kept: Mapping[int, Enclosure],
) -> Tensor:
    """Upper values (R, r) of the `functionals` (R, r, size) of the gradient at node `start`, exact floats; R = b k."""
    R, r, _ = functionals.shape
    m = seeds.shape[2]
    rows: dict[int, Tensor] = {start: functionals}
    beta = functionals.new_zeros(R, r)
    for i in range(start + 1, graph.output + 1):
        node = graph.nodes[i]
        args = [rows.get(parent) for parent in node.parents]
        if i not in kept or all(arg is None for arg in args):
            continue
        size = largest((kept[i].lower, kept[i].upper)).nan_to_num(math.inf)
        match node.what:
            case Linear(operator):
                (row,) = (arg for arg in args if arg is not None)
                beta = plus_up(beta, lost(operator, Adjoint(operator), row, (-size, size)))
                rows[i] = operator.mv(row.reshape(R * r, -1)).reshape(R, r, -1)
            case Add():
                given = [arg for arg in args if arg is not None]
                rows[i] = given[0]
                if len(given) > 1:
                    rows[i] = torch.stack(given).sum(dim=0)
                    mass = torch.stack([arg.abs() for arg in given]).sum(dim=0)
                    beta = plus_up(beta, met(mass, size) * (2 * gamma(len(given))))
            case Concat():
                rows[i] = torch.cat(
                    [
                        functionals.new_zeros(R, r, graph.nodes[parent].size) if arg is None else arg
                        for parent, arg in zip(node.parents, args, strict=True)
                    ],
                    dim=2,
                )
            case Offset():
                rows[i] = args[0]  # type: ignore[assignment]
            case Nonlinear():
                (row,) = (arg for arg in args if arg is not None)
                low, high = (side.repeat_interleave(R // side.shape[0], dim=0) for side in slopes[i])
                line = products((low, high), kept[i].lower, kept[i].upper)
                plus, minus = row.clamp(min=0.0), row.clamp(max=0.0)
                carried = plus * line.high_slope[:, None] + minus * line.low_slope[:, None]
                beta = plus_up(beta, intercepts(plus, minus, line.high, line.low))
                beta = plus_up(beta, met(carried.abs() * (2 * EPS) + TINY * (row != 0), size))
                rows[i] = carried
            case Input():
                raise AssertionError("a node reads nothing later")
    if graph.output not in rows:
        return beta.nan_to_num(math.inf, math.inf, math.inf)
    end, seed = rows[graph.output], seeds.reshape(R, m)
    total = torch.bmm(end, seed[:, :, None])[:, :, 0]
    beta = plus_up(beta, met(end.abs(), seed.abs()) * (2 * gamma(m + 2)))
    return plus_up(beta, total).nan_to_num(math.inf, math.inf, math.inf)
