"""The linear-relaxed adjoint: upper values of gradient norms on many cells (Zhang et al. 2019, RecurJac; Shi et al. 2022).

Backward through the graph, gradients obey g_parent = A' g for linear nodes and g_parent = s'(z) g for activations, s' in
its slope range on the cell. Intervals for g alone lose all cancellation. So a linear functional of the gradient at the
input, which is above its norm on those intervals, is carried forward to the output, where the gradient is known, with a
line above each product s' g. One row for each functional of the outputs and cell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.network.graph import Add, Concat, Enclosure, Graph, Linear, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import DUAL, Adjoint
from lipcert.regions.backward.adjoint import gradients, slopes_on
from lipcert.regions.backward.linear import (
    Carrying,
    Rows,
    largest,
    linear_ranges,
    lost,
    met,
    plus_up,
    spread,
    total,
    units,
)
from lipcert.regions.backward.lines import Lines, Loss, above, products
from lipcert.regions.cells import Cells
from lipcert.regions.device import by_device
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import EPS, TINY, gamma, mul_up, norm_up, sqrt_up, up
from lipcert.terms.query import Norm, P

ENTRIES = {
    "cpu": 2**18,
    "cuda": 2**25,
}  # of the widest signal, in all rows at once: on a CPU they should stay in the cache
DENSE = 2**20  # entries of J
ROWS = 2**20  # entries of the widest signal in the vertices that are tried at once
ENTRYWISE = 64  # inputs: for l1 each entry of the gradient is a functional of its own


def linear_on(
    graph: Graph,
    cells: Cells,
    norm: Norm,
    *,
    refine: bool = False,
    vertices: int = 0,
    together: bool = False,
    deadline: float | None = None,
) -> Tensor:
    """Proved upper values (b,) of the Lipschitz constant on each cell, inf where none is known. Elementwise activations
    only (adjoint.obstacle). `vertices`: so many neurons whose slope is not settled are tried at both ends, where there is
    time for it until `deadline` (time.monotonic). `together`: neurons that matter to any output, not to each by itself."""
    b, m, n = len(cells), graph.nodes[graph.output].size, cells.centre.shape[1]
    if 0 in (b, m, n):
        return cells.centre.new_zeros(b)
    slopes = slopes_on(graph, linear_ranges(graph, cells)[0])
    start = time.monotonic()
    rows = gradient_norms(graph, _outputs(b, m), slopes, norm.input, cells.moving, refine)
    once = time.monotonic() - start
    if norm.output == "inf":
        tried = Tried(graph, slopes, norm.input, cells.moving, refine, vertices, together)
        return _worst(tried, rows, once / (b * m), deadline)
    value = _joined(graph, slopes, norm, cells.moving, rows)
    if vertices and bool((value > 0).any()):
        cornered = at_vertices(graph, slopes, _outputs(b, m), vertices)
        patterns = next(iter(cornered.values()))[0].shape[0] // b if cornered else 1
        late = deadline is not None and time.monotonic() + patterns * once > deadline
        if patterns > 1 and not late:
            moving = cells.moving.repeat_interleave(patterns, dim=0)
            each = gradient_norms(graph, _outputs(b * patterns, m), cornered, norm.input, moving, refine)
            each = _joined(graph, cornered, norm, moving, each)
            value = torch.minimum(value, each.reshape(b, patterns).amax(dim=1))
    return value


def _outputs(b: int, m: int) -> Tensor:
    return torch.eye(m, dtype=torch.float64)[None].expand(b, m, m)


def _joined(graph: Graph, slopes: Mapping[int, Range], norm: Norm, moving: Tensor, rows: Tensor) -> Tensor:
    """Upper values (b,) of ||J||_{p->q} over the slopes, from those of its rows (b, m)."""
    (b, n), m = moving.shape, rows.shape[1]
    value = norm_up(rows, norm.output, 1)  # ||J v||_q <= || (||g_j||_* ||v||_p)_j ||_q
    if m > 1 and b * m * n <= DENSE:
        J = gradients(graph, _outputs(b, m), slopes)
        centre, radius = (part.reshape(b, m, n) * moving.to(J.centre)[:, None] for part in (J.centre, J.reach()))
        if bool(torch.isfinite(radius).all()):
            value = torch.minimum(value, matrix_norms_upper(centre, radius, norm.input, norm.output))
    return value.nan_to_num(math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Tried:
    """How outputs are tried at the ends of slopes: the arguments of `linear_on`."""

    graph: Graph
    slopes: Mapping[int, Range]
    norm: P
    moving: Tensor
    refine: bool
    vertices: int
    together: bool

    def rows(self, home: Tensor, output: Tensor) -> Tensor:
        """Upper values (r,) of the gradient norms of the outputs (r,) on the cells `home` (r,)."""
        m = self.graph.nodes[self.graph.output].size
        here = {i: (low[home], high[home]) for i, (low, high) in self.slopes.items()}
        seeds = torch.nn.functional.one_hot(output, m).double()[:, None]
        cornered = at_vertices(self.graph, here, _outputs(len(home), m) if self.together else seeds, self.vertices)
        patterns = next(iter(cornered.values()))[0].shape[0] // len(home)
        seeds, moving = (part.repeat_interleave(patterns, dim=0) for part in (seeds, self.moving[home]))
        found = gradient_norms(self.graph, seeds, cornered, self.norm, moving, self.refine)
        return found.reshape(len(home), patterns).amax(dim=1)


def _worst(tried: Tried, rows: Tensor, each: float, deadline: float | None) -> Tensor:
    """The largest row of each cell (b,): ||J||_{p->inf} is the norm of one row, so outputs are tried at vertices only while
    their bound, of `rows` (b, m), is above what those that were tried come to. One first, then twice as many each time.
    `each`: seconds of one row without vertices."""
    m = rows.shape[1]
    if not tried.vertices or not tried.slopes:
        return rows.amax(dim=1)
    open_, most, unsettled = torch.ones_like(rows, dtype=torch.bool), 1, _unsettled(tried.slopes)
    patterns = 2 ** min(tried.vertices, int(unsettled.max()))
    open_ &= (unsettled > 0)[:, None]
    widest = max(node.size for node in tried.graph.nodes)
    while True:
        floor = rows.masked_fill(open_, 0.0).amax(dim=1, keepdim=True)
        score = rows.masked_fill(~open_ | (rows <= floor), 0.0).topk(min(most, m), dim=1)
        home, place = (score.values > 0).nonzero().unbind(dim=1)
        late = deadline is not None and time.monotonic() + patterns * each * len(home) > deadline
        if not len(home) or late:
            return rows.amax(dim=1)
        output = score.indices[home, place]
        for part in torch.arange(len(home)).split(max(1, ROWS // (widest * patterns))):
            at = home[part], output[part]
            rows[at] = torch.minimum(rows[at], tried.rows(*at))
            open_[at] = False
        most *= 2


def _unsettled(slopes: Mapping[int, Range]) -> Tensor:
    """How many neurons of each cell (b,)."""
    return torch.stack([(low != high).sum(dim=1) for low, high in slopes.values()]).sum(dim=0)


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
    low, high = first.lower, first.upper
    if not bool(free.all()):
        low, high = (torch.where(free, end, 0.0) for end in (low, high))
    plain = norm_up(largest((low, high)).nan_to_num(math.inf, math.inf), DUAL[norm], 1)
    n = low.shape[1]
    if norm == "1":
        if n > ENTRYWISE or not n:
            return plain.reshape(b, k)
        unit = torch.eye(n, dtype=torch.float64)
        rows = (torch.cat([unit, -unit])[None] * free[:, None]).reshape(-1, n)
        home = torch.arange(b * k).repeat_interleave(2 * n)
        found = _forward(graph, graph.input, rows.__getitem__, home, seeds, slopes, kept).reshape(b * k, -1).amax(dim=1)
        return torch.minimum(plain, found).reshape(b, k)
    slope, intercept = _above_squares(low, high) if norm == "2" else _above_sizes(low, high)
    found = _forward(graph, graph.input, slope.__getitem__, torch.arange(b * k), seeds, slopes, kept)
    found = plus_up(found, up(intercept.sum(dim=1) + 2 * gamma(n + 2) * intercept.abs().sum(dim=1) + n * TINY))
    found = found.nan_to_num(math.inf, math.inf, math.inf)
    if norm == "2":
        found = sqrt_up(found.clamp(min=0.0))
    return torch.minimum(plain, found.clamp(min=0.0)).reshape(b, k)


def _above_squares(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return above(low, high, mul_up(low, low), mul_up(high, high))


def _above_sizes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """As `above`, of |g|: the slope is 1 or -1 where the sign is known, exactly, and 0 where both ends are one. That of inputs
    that do not move has to be 0: their gradients are only taken to be 0, and no multiple of them may be taken off."""
    a, b = low.abs(), high.abs()
    slope = ((b - a) / (high - low)).nan_to_num(0.0, 0.0, 0.0)  # |b - a| <= high - low, rounded or not
    slack = (a + b) * (8 * EPS) + TINY  # of two products and sums of at most 2 (a + b), and of adding it
    return slope, torch.maximum(a - slope * low, b - slope * high) + slack


def at_vertices(graph: Graph, slopes: Mapping[int, Range], seeds: Tensor, most: int) -> dict[int, Range]:
    """The slopes (b, size) with up to `most` of each cell's at their ends: all patterns, (b 2^count, size). The Jacobian
    is affine in each slope and norms are convex, so its norm over the box is the largest over these patterns. Those are
    taken that change the gradients of seeds'f most, seeds (b, k, m)."""
    b, k = next(iter(slopes.values()))[0].shape[0] if slopes else 0, seeds.shape[1]
    low, high = (torch.cat([slopes[i][side] for i in slopes], dim=1) if slopes else None for side in (0, 1))
    if low is None or high is None or not b:
        return dict(slopes)
    kept: dict[int, Enclosure] = {}
    gradients(graph, seeds, slopes, keep=kept)
    nothing = low.new_zeros(b * k, 1)
    size = torch.cat(
        [
            largest((kept[i].lower, kept[i].upper)) if i in kept else nothing.expand(-1, slopes[i][0].shape[1])
            for i in slopes
        ],
        dim=1,
    )
    jump = ((high - low) * size.reshape(b, k, -1).amax(dim=1)).nan_to_num(0.0, 0.0, 0.0)
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
    """Range of the gradient at `node`: entry by entry where its interval holds both signs."""
    low, high = kept[node].lower.clone(), kept[node].upper.clone()
    home, entry = ((low < 0) & (high > 0)).nonzero().unbind(dim=1)
    for sign, side, better in ((1.0, high, torch.minimum), (-1.0, low, torch.maximum)):
        most = _forward(graph, node, units(entry, low.shape[1], sign), home, seeds, slopes, kept)
        side[home, entry] = better(side[home, entry], sign * most)
    return low, high


def _forward(
    graph: Graph,
    start: int,
    functionals: Rows,
    home: Tensor,
    seeds: Tensor,
    slopes: Mapping[int, Range],
    kept: Mapping[int, Enclosure],
) -> Tensor:
    """Upper values (r,) of the `functionals` (r, size), exact floats, of the gradients at node `start`, each of the row
    `home` (r,) of the b k gradients in `kept`. In chunks."""
    k = seeds.shape[1]
    ranges = {i: (e.lower, e.upper) for i, e in kept.items() if i > start}
    sizes = {i: largest(ends).nan_to_num(math.inf, math.inf) for i, ends in ranges.items()}
    lines: dict[int, Lines] = {}
    losses: dict[int, Loss] = {}
    for i in range(start + 1, graph.output + 1):
        node = graph.nodes[i]
        if i in kept and isinstance(node.what, Nonlinear):
            low, high = (side.repeat_interleave(k, dim=0) for side in slopes[i])
            lines[i] = products((low, high), *ranges[i])
            losses[i] = lines[i].loss(sizes[i])
        elif i in kept and isinstance(node.what, Linear):
            losses[i] = spread(node.what.operator, Adjoint(node.what.operator), sizes[i])
    end = seeds.reshape(-1, seeds.shape[2])
    rows = max(1, by_device(ENTRIES, seeds.device) // max(node.size for node in graph.nodes))
    parts = []
    for at in range(0, len(home), rows):
        here = home[at : at + rows]
        state = Carrying(here, seeds.new_zeros(len(here)), {}, lines, sizes, losses)
        parts.append(_carried(graph, start, functionals(slice(at, at + rows)), end, state))
    return torch.cat(parts) if parts else seeds.new_zeros(0)


def _carried(graph: Graph, start: int, functionals: Tensor, seeds: Tensor, state: Carrying) -> Tensor:
    nodes = [i for i in range(start + 1, graph.output + 1) if i in state.sizes]
    rows = forward(graph, FUNCTIONALS, state, start={start: functionals}, nodes=nodes)
    if graph.output in rows:
        state.add((rows[graph.output] * seeds[state.home]).sum(dim=1))
        state.add(met(rows[graph.output].abs(), seeds.abs() * (4 * gamma(seeds.shape[1] + 4)), state.home))
    return state.beta.nan_to_num(math.inf, math.inf, math.inf)


def _lose(at: Visit, row: Tensor) -> None:
    if at.i in at.state.losses:
        at.state.add(lost(row, at.state.losses[at.i], at.state.home))


def _linear(at: Visit, row: Tensor) -> Tensor:
    _lose(at, row)
    return at.what.operator.mv(row)


def _sum(at: Visit, *rows: Tensor | None) -> Tensor:
    state, given = at.state, [row for row in rows if row is not None]
    found, state.beta = total(given, state.beta, state.sizes[at.i], state.home)
    return found


def _stack(at: Visit, *rows: Tensor | None) -> Tensor:
    beta, sizes = at.state.beta, (at.graph.nodes[parent].size for parent in at.node.parents)
    return torch.cat(
        [beta.new_zeros(len(beta), n) if row is None else row for row, n in zip(rows, sizes, strict=True)], 1
    )


def _nonlinear(at: Visit, row: Tensor) -> Tensor:
    _lose(at, row)
    found, at.state.beta = at.state.lines[at.i].carry(row, at.state.home, at.state.beta)
    return found


FUNCTIONALS: Rules = {  # of gradients, (r, size); state: backward.Carrying
    Linear: _linear,
    Add: _sum,
    Concat: _stack,
    Offset: lambda at, *rows: rows[0] if rows else None,
    Nonlinear: _nonlinear,
}
