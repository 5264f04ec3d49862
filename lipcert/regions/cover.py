"""A region as cells with a proved constant on each: what a certificate of a region lists, and how its list is found.

`bounded` proves the values, one cell independently of the others; `grown` halves cells until none is above a target.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.network.graph import Graph
from lipcert.regions.backward.affordable import effort
from lipcert.regions.backward.relaxed import linear_on
from lipcert.regions.cells import Cells
from lipcert.regions.forward.curvature import curved, is_curved
from lipcert.regions.forward.directions import Directions, directions, norms_above
from lipcert.regions.forward.slope import rows_per_chunk, sweep
from lipcert.regions.forward.telescope import is_chain, telescoped
from lipcert.regions.forward.vertices import elementwise_only, unsettled, vertex_norms
from lipcert.rigor.rounding import mul_up
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm, Region

BATCH = 512  # leaves to halve in a round
VERTICES = 3
NARROW = 2.0**-32  # of the region's width: halved no further


def of_region(region: Region, ends: tuple[Tensor, Tensor] | None) -> Cells:
    return Cells.of(region) if ends is None else Cells.boxes(*ends)


def slopes_on_cells(graph: Graph, region: Region, ends: tuple[Tensor, Tensor] | None, norm: Norm) -> Tensor:
    return bounded(graph, of_region(region, ends), norm)[0]


def linear_on_cells(graph: Graph, region: Region, ends: tuple[Tensor, Tensor] | None, norm: Norm) -> Tensor:
    """The less of both choices of neurons: certificates of earlier releases stand on that of all outputs together."""
    refine, vertices = effort(graph)
    found = []
    for part in of_region(region, ends).chunks(1):
        both = [linear_on(graph, part, norm, refine=refine, vertices=vertices, together=t) for t in (False, True)]
        found.append(torch.minimum(*both))
    return torch.cat(found)


def tree_on_region(graph: Graph, region: Region, tree: tuple[Sequence[int], float], norm: Norm) -> Tensor:
    try:
        import numba  # noqa: F401
    except ImportError:
        raise UsageError("a certificate of kind tree is checked with Numba: pip install 'lipcert[fast]'") from None
    from lipcert.regions.enumeration.constant import cells_of
    from lipcert.regions.enumeration.trace import shown

    return torch.tensor(shown(graph, cells_of(region), norm, *tree), dtype=torch.float64)


SWEEPS: dict[str, Callable[[Graph, Region, Any, Norm], Tensor]] = {
    "slopes": slopes_on_cells,
    "linear": linear_on_cells,
    "tree": tree_on_region,
}


def bounded(graph: Graph, cells: Cells, norm: Norm, axes: bool = False) -> tuple[Tensor, Tensor]:
    """(proved upper values (b,), the axis (b,) to halve next: with `axes` the one with the largest share in the jumps of
    the gradient, else the widest). The least of the slope sweeps, and of the patterns of few unsettled neurons."""
    values, halves = [cells.centre.new_zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for part in cells.chunks(rows_per_chunk(graph, cells.centre.shape[1], cells.centre.device)):
        chosen = directions(graph, part, norm, adjoints=axes)
        swept = (curved if is_curved(graph) else sweep)(graph, part, chosen.toward, chosen.adjoints)
        value, slopes = norms_above(swept.centre, swept.radius, chosen, norm), [swept.slopes]
        if is_chain(graph) and len(graph.nonlinear) > 2:
            fine = telescoped(graph, part, chosen.toward)
            value, slopes = (
                torch.minimum(value, norms_above(fine.centre, fine.radius, chosen, norm)),
                [*slopes, fine.slopes],
            )
        if elementwise_only(graph):
            for found in slopes:
                value = _at_vertices(graph, found, chosen, norm, value)
        wide = part.radius / part.radius.amax(dim=1, keepdim=True).clamp(min=1e-300)
        score = wide
        if axes and swept.score is not None:
            score = torch.where(swept.score.amax(dim=1, keepdim=True) > 0, swept.score, wide)
        values.append(value.nan_to_num(math.inf, math.inf))
        halves.append((score * (part.radius > 0)).argmax(dim=1))
    return torch.cat(values), torch.cat(halves)


def _at_vertices(graph: Graph, slopes: Mapping[int, Range], chosen: Directions, norm: Norm, value: Tensor) -> Tensor:
    """`value` (b,), or less where few neurons are unsettled."""
    count = unsettled(slopes, value)
    few = (count >= 1) & (count <= VERTICES)
    if bool(few.any()):
        some = {i: (low[few], high[few]) for i, (low, high) in slopes.items()}
        mine = Directions(chosen.toward[few], chosen.kind, None if chosen.defect is None else chosen.defect[few])
        value[few] = torch.minimum(value[few], vertex_norms(graph, some, mine, norm, VERTICES))
    return value


@dataclass
class Leaf:
    """`axis`: along which to halve. `halves`: its two parts."""

    low: Tensor  # (n,)
    high: Tensor
    value: float
    axis: int
    halves: list[Leaf] = field(default_factory=list)


def grown(
    graph: Graph, low: Tensor, high: Tensor, norm: Norm, target: Tensor, leaves: int, deadline: float
) -> list[Leaf]:
    """Each of the boxes low, high (b, n), halved until no leaf is above its target (b,), until there are `leaves` of them or
    the time is spent (monotonic deadline): worst first."""
    trees = _leaves(graph, low, high, norm)
    goal = {id(tree): float(t) for tree, t in zip(trees, target, strict=True)}
    waiting = [(tree, tree) for tree in trees if tree.value > goal[id(tree)]]
    made = len(trees)
    while waiting and made < leaves and time.monotonic() < deadline:
        waiting.sort(key=lambda pair: pair[0].value / max(goal[id(pair[1])], 1e-300))
        worst, waiting = waiting[-BATCH:], waiting[:-BATCH]
        worst = [(leaf, root) for leaf, root in worst if _halvable(leaf, root)]
        if not worst:
            continue
        cuts = [_halved(leaf) for leaf, _ in worst]
        lows, highs = (torch.stack([ends[k] for pair in cuts for ends in pair]) for k in (0, 1))
        parts = _leaves(graph, lows, highs, norm)
        for (leaf, root), pair in zip(worst, zip(parts[::2], parts[1::2], strict=True), strict=True):
            leaf.halves = list(pair)
            waiting += [(part, root) for part in pair if part.value > goal[id(root)]]
        made += len(worst)
    return trees


def _leaves(graph: Graph, low: Tensor, high: Tensor, norm: Norm) -> list[Leaf]:
    values, axes = bounded(graph, Cells.boxes(low, high), norm, axes=True)
    return [Leaf(a, b, v, k) for a, b, v, k in zip(low, high, values.tolist(), axes.tolist(), strict=True)]


def _halvable(leaf: Leaf, root: Leaf) -> bool:
    a, b = float(leaf.low[leaf.axis]), float(leaf.high[leaf.axis])
    wide = float(root.high[leaf.axis]) - float(root.low[leaf.axis])
    return a < a / 2 + b / 2 < b and b - a > NARROW * wide


def _halved(leaf: Leaf) -> list[tuple[Tensor, Tensor]]:
    cut = leaf.low[leaf.axis] / 2 + leaf.high[leaf.axis] / 2
    below, above = leaf.high.clone(), leaf.low.clone()
    below[leaf.axis] = above[leaf.axis] = cut
    return [(leaf.low, below), (above, leaf.high)]


def preorder(trees: list[Leaf], slack: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(splits, values) as kind `cells` has them, values raised by the factor `slack`."""
    splits, values, waiting = [], [], trees[::-1]
    while waiting:
        leaf = waiting.pop()
        splits.append(leaf.axis + 1 if leaf.halves else 0)
        if leaf.halves:
            waiting += leaf.halves[::-1]
        else:
            values.append(mul_up(leaf.value, slack))
    return tuple(splits), tuple(values)
