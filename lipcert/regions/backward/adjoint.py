"""Proved enclosures of gradients on many small balls at once: interval products backward through the graph.

On a ball B the slopes of each activation lie in intervals (forward ranges), so every generalised gradient of c'f on B,
and the mean of gradients along any segment in B, lies in c'W_L [D] W_{L-1} ... [D] W_1. Its largest dual norm bounds
|c'f(x) - c'f(x')| / ||x - x'|| on B. One row per functional c and ball: cheap where inputs are many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.affine import ENCLOSED, split
from lipcert.network.graph import ENCLOSURES, Add, Concat, Enclosure, Graph, Linear, Nonlinear, Offset, enclose_linear
from lipcert.network.intervals import propagated
from lipcert.network.walk import Rules, Visit, backward, forward
from lipcert.operators.linear import DUAL, Adjoint
from lipcert.rigor.rounding import EPS, TINY, all_finite, down, gamma, mul_up, norm_up, up
from lipcert.terms.query import P

ENTRIES = 2**21  # of the widest signal, in all rows of a chunk
DENSE = 2**24  # entries of a dense first part


def obstacle(graph: Graph) -> tuple[str, str] | None:
    """(name, reason) of the first node without a rule here; None: all have one."""
    for i in graph.nonlinear:
        block = graph.nodes[i].what.block  # type: ignore[union-attr]
        if not isinstance(block, Pointwise):
            return graph.nodes[i].name, f"local constants have no rule for {block.label}"
        if block.steps:
            return graph.nodes[i].name, block.reason
    return None


def slopes_on(graph: Graph, ranges: Mapping[int, Range]) -> dict[int, Range]:
    """Slope intervals (b, size) of every activation on its ranges."""
    found = {}
    for i in graph.nonlinear:
        node = graph.nodes[i]
        assert isinstance(node.what, Nonlinear)
        assert isinstance(node.what.block, Pointwise)
        found[i] = node.what.block.activation.slopes_on(*ranges[node.parents[0]])
    return found


def gradients(
    graph: Graph,
    seeds: Tensor,
    slopes: Mapping[int, Range],
    target: int | None = None,
    *,
    keep: dict[int, Enclosure] | None = None,
    limits: Mapping[int, Range] | None = None,
) -> Enclosure:
    """Enclosure (b k, n) of the gradients of the functionals `seeds` (b, k, m) of node `target` (the output). `keep` takes
    those of all nodes on the way; `limits`: ranges of some that are known otherwise."""
    b, k, m = seeds.shape
    target = graph.output if target is None else target
    state = Adjoints(slopes, k, {} if keep is None else keep, limits or {})
    found = backward(graph, GRADIENTS, {target: Enclosure(seeds.reshape(b * k, m))}, _arrived, state)
    nothing = Enclosure(seeds.new_zeros(b * k, graph.nodes[graph.input].size))
    return found.get(graph.input, nothing)


@dataclass(frozen=True, eq=False)
class Adjoints:
    slopes: Mapping[int, Range]
    functionals: int
    keep: dict[int, Enclosure]
    limits: Mapping[int, Range]


def _arrived(at: Visit, parts: Sequence[Enclosure]) -> Enclosure:
    here = _total(parts)
    if at.i in at.state.limits:
        here = _within(here, *at.state.limits[at.i])
    at.state.keep[at.i] = here
    return here


def _total(parts: Sequence[Enclosure]) -> Enclosure:
    if len(parts) == 1:
        return parts[0]
    centre = torch.stack([part.centre for part in parts]).sum(dim=0)
    mass = torch.stack([part.centre.abs() for part in parts]).sum(dim=0)
    reach = torch.stack([part.reach() for part in parts]).sum(dim=0)
    n = len(parts)
    return Enclosure(centre, (reach + gamma(n) * mass) * (1 + 4 * gamma(n + 4)) + TINY)


def _within(here: Enclosure, low: Tensor, high: Tensor) -> Enclosure:
    low, high = torch.maximum(here.lower, low), torch.minimum(here.upper, high)
    centre = low / 2 + high / 2
    radius = torch.maximum(high - centre, centre - low) * (1 + 4 * EPS) + TINY
    known = torch.isfinite(centre) & torch.isfinite(radius)
    return Enclosure(torch.where(known, centre, here.centre), torch.where(known, radius, here.reach()))


def _times(slope: Range, here: Enclosure, k: int) -> Enclosure:
    """[a, b] [c - r, c + r], the slopes (b, size) repeated over the k functionals of each ball. NaN: nothing is known."""
    low, high = here.lower, here.upper
    shape = (slope[0].shape[0], k, low.shape[1])
    ends = [side[:, None] * end.reshape(shape) for side in slope for end in (low, high)]
    least = torch.minimum(torch.minimum(ends[0], ends[1]), torch.minimum(ends[2], ends[3])).reshape(low.shape)
    most = torch.maximum(torch.maximum(ends[0], ends[1]), torch.maximum(ends[2], ends[3])).reshape(low.shape)
    centre = least / 2 + most / 2
    radius = torch.maximum(most - centre, centre - least) * (1 + 4 * EPS) + 2 * EPS * centre.abs() + TINY
    exact = (least == 0) & (most == 0)
    radius = torch.where(exact, 0.0, radius)
    if all_finite(centre) and all_finite(radius):
        return Enclosure(centre, radius)
    known = torch.isfinite(centre) & torch.isfinite(radius)
    return Enclosure(torch.where(known, centre, 0.0), torch.where(known, radius, math.inf))


def ball_ranges(
    graph: Graph, centre: Tensor, radius: Tensor, norm: P, proved: Mapping[int, Range] | None = None
) -> dict[int, Range]:
    """Ranges (b, size) of every node on the balls ||x - centre||_norm <= radius, (b, n) and (b,); boxes may have
    radii (b, n).

    Where the first affine parts read the input, by the dual norms of their rows: the box around an l2 ball is far larger
    than the ball."""
    if radius.ndim == 1:
        radius = radius[:, None]
    start = down(centre - radius), up(centre + radius)
    known: dict[int, Range] = dict(proved or {})
    if norm != "inf":
        wanted = {parent for i in graph.nonlinear for parent in graph.nodes[i].parents} | {graph.output}
        points = forward(graph, ENCLOSURES, Enclosure(centre), nodes=first_part(graph))
        for i in points.keys() & wanted - {graph.input}:
            if graph.nodes[i].size * centre.shape[1] <= DENSE:
                reach = up(mul_up(row_norms(graph, i, norm)[None], radius))
                ends = down(points[i].lower - reach), up(points[i].upper + reach)
                mine = known.get(i, ends)
                known[i] = torch.maximum(ends[0], mine[0]), torch.minimum(ends[1], mine[1])
    return propagated(graph, start, known)


def first_part(graph: Graph) -> list[int]:
    """The nodes that no nonlinearity comes before."""
    found: set[int] = set()
    for i, node in enumerate(graph.nodes):
        if not isinstance(node.what, Nonlinear) and found.issuperset(node.parents):
            found.add(i)
    return sorted(found)


def row_norms(graph: Graph, target: int, norm: P) -> Tensor:
    """Upper values (size,) of the dual norms of the rows of the affine map from the input to `target`."""
    key = ("row norms", target, norm)
    if key not in graph.memo:
        size = graph.nodes[target].size
        rows = gradients(graph, torch.eye(size, dtype=torch.float64)[None], {}, target)
        graph.memo[key] = norm_up(up(rows.centre.abs() + rows.reach()), DUAL[norm], 1)
    return graph.memo[key]


def local_constants(graph: Graph, seeds: Tensor, centre: Tensor, radius: Tensor, norm: P) -> Tensor:
    """Proved upper values (b, k) of the constants of the functionals `seeds` (b, k, m) on balls; inf: not known."""
    b, k, _ = seeds.shape
    widest = max(node.size for node in graph.nodes)
    rows = max(1, ENTRIES // max(1, widest * k))
    found = [seeds.new_zeros(0, k)]
    for start in range(0, b, rows):
        part = slice(start, start + rows)
        slopes = slopes_on(graph, ball_ranges(graph, centre[part], radius[part], norm))
        gradient = gradients(graph, seeds[part], slopes)
        size = norm_up(up(gradient.centre.abs() + gradient.reach()), DUAL[norm], 1)
        found.append(size.nan_to_num(math.inf, math.inf).reshape(-1, k))
    return torch.cat(found)


GRADIENTS: Rules = {  # state: Adjoints
    Linear: lambda at, here: [enclose_linear(Adjoint(at.what.operator), here)],
    Add: lambda at, here: [here] * len(at.node.parents),
    Concat: lambda at, here: [ENCLOSED.cut(here, a, b) for a, b in split(at)],
    Offset: lambda at, here: [here] * len(at.node.parents),
    Nonlinear: lambda at, here: [_times(at.state.slopes[at.i], here, at.state.functionals)],
}
