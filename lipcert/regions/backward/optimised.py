"""Backward linear bounds with slopes and prices chosen for each functional (alpha-CROWN, Xu et al. 2021; beta-CROWN, Wang et al. 2021).

Where an activation has a corner at 0, one of its two lines may turn (turning.py): a functional has slopes of its own. On a part of a
cell where z_j >= 0 (or z_j <= 0) is known of some neurons, z_j (or -z_j) times any price b_j >= 0 may be added to the functional, for
it only grows there. Both are chosen by descent in float32 (descent.py); then `upper_values` carries them with directed
rounding. Whatever the descent comes to, bad numbers included, what is told was proved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.network.graph import Graph
from lipcert.regions.backward.affordable import flops
from lipcert.regions.backward.descent import PRICES, SLOPES, Choice, Descended, Relaxed, descend
from lipcert.regions.backward.floating import FAST, Moving, fast
from lipcert.regions.backward.linear import Rows, upper_values
from lipcert.regions.backward.lines import Lines, lines
from lipcert.regions.backward.turning import Turning
from lipcert.regions.cells import Cells
from lipcert.terms.clock import late

STEPS = 20
WORK = 2e10  # flops of the descents for one cell: beyond it lines stay as they are
ENTRIES = 2**22  # of all signals, in all functionals of a chunk


@dataclass(frozen=True, eq=False)
class Parts:
    """r functionals `seeds` (r, m) of node `target`, each on a cell of its own, or on the part of it where signs[p] z_p >= 0:
    `signs` by signal, (r, size) of -1, 0, 1. `ranges` (r, size): of all signals, on the parts. `lines` on them, by node, and where
    one of the two may turn. All blocks act entry by entry."""

    cells: Cells
    seeds: Tensor
    target: int
    ranges: Mapping[int, Range]
    signs: Mapping[int, Tensor]
    lines: Mapping[int, Lines]
    turns: Mapping[int, Turning]

    @classmethod
    def of(
        cls,
        graph: Graph,
        cells: Cells,
        seeds: Tensor,
        target: int,
        ranges: Mapping[int, Range],
        signs: dict[int, Tensor],
    ) -> Parts:
        found, turns = {}, {}
        for i in graph.nonlinear:
            if i <= target:
                low, high = ranges[graph.nodes[i].parents[0]]
                activation = graph.nodes[i].what.block.activation  # type: ignore[union-attr]
                found[i] = lines(activation, low, high)
                if (turning := Turning.of(activation, low, high)) is not None:
                    turns[i] = turning
        return cls(cells, seeds, target, ranges, signs, found, turns)


def optimised_values(
    graph: Graph,
    cells: Cells,
    seeds: Rows,
    home: Tensor,
    target: int,
    ranges: Mapping[int, Range],
    found: Mapping[int, Lines],
) -> Tensor:
    """As `upper_values`, each functional with slopes of its own."""
    most = max(1, ENTRIES // max(1, sum(node.size for node in graph.nodes[: target + 1])))
    dear = 3 * STEPS * flops(graph) * len(home) > WORK * max(1, len(cells))
    values = [cells.centre.new_zeros(0)]
    for at in range(0, len(home), most):
        here, rows = home[at : at + most], seeds(slice(at, at + most))
        known = {i: (ranges[i][0][here], ranges[i][1][here]) for i in range(target + 1)}
        parts = Parts.of(graph, cells[here], rows, target, known, {})
        plain = proved(graph, parts, {})
        values.append(
            plain if dear or late() else torch.minimum(plain, proved(graph, parts, choose(graph, parts).choice))
        )
    return torch.cat(values)


def proved(graph: Graph, parts: Parts, choice: Choice) -> Tensor:
    """Upper values (r,) of the functionals on their parts, with the chosen slopes and prices."""
    found = dict(parts.lines)
    for i, turning in parts.turns.items():
        if (slope := choice.get((SLOPES, i))) is not None:
            found[i] = turning.turned(found[i], slope)
    prices = {}
    for p, sign in parts.signs.items():
        if (price := choice.get((PRICES, p))) is not None:
            prices[p] = price.double().nan_to_num(0.0, 0.0, 0.0).clamp(min=0.0) * sign
    home = torch.arange(len(parts.seeds))
    return upper_values(graph, parts.cells, lambda at: parts.seeds[at], home, parts.target, parts.ranges, found, prices)


def choose(
    graph: Graph, parts: Parts, start: Choice | None = None, steps: int = STEPS, enough: Tensor | None = None
) -> Descended:
    """Slopes and prices from those of `start` (plain lines and no prices); the descent ends where all values are below `enough`."""
    begin: Choice = {(SLOPES, i): turning.slope(parts.lines[i]) for i, turning in parts.turns.items()}
    begin |= {(PRICES, p): torch.zeros_like(sign) for p, sign in parts.signs.items()}
    begin = {key: (start or {}).get(key, value) for key, value in begin.items()}
    relaxed = Relaxed(
        fast(graph),
        parts.target,
        parts.seeds.to(FAST),
        Moving.of(parts.cells),
        {i: one.to(FAST) for i, one in parts.lines.items()},
        {i: one.to(FAST) for i, one in parts.turns.items()},
        {p: sign.to(FAST) for p, sign in parts.signs.items()},
    )
    anything = bool(parts.signs) or any(bool(turning.free.any()) for turning in parts.turns.values())
    return descend(relaxed, begin, steps if anything else 0, enough)
