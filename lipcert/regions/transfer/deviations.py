"""The two passes over a network: how far each block is from a linear map on the region, and what that does downstream.

With L_i the matrix from the input to node i and T_ki that from the output of block k to node i in the network where each
block is replaced by its G (MATH section 10),

    u_i(x) = a_i + L_i (x - c) + sum_k T_ki rho_k(x)                  values: gives the reach of every block's input, in order
    J_i(x) = L_i + sum_t T_ti V_t y_t,   y_t = D_t W_t J_read(t)(x)       Jacobians: `Spread` holds W_t L, W_t T_u V_u, and the last rows

are identities, by induction over the graph (telescope.py has them for chains). The two passes need not share their G.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.blocks.normalise import Norm2, Normalise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.selection import Selection
from lipcert.blocks.softmax import LogSumExp, Softmax
from lipcert.blocks.sort import Sort
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Graph, Input, Nonlinear
from lipcert.network.walk import Rules, Visit, forward
from lipcert.regions.cells import Cells
from lipcert.regions.transfer.expansion import Arriving, Expansion, Term
from lipcert.regions.transfer.logsumexp import logsumexp
from lipcert.regions.transfer.norm import norm2
from lipcert.regions.transfer.normalise import normalise
from lipcert.regions.transfer.order import selection, sorting
from lipcert.regions.transfer.pointwise import pointwise
from lipcert.regions.transfer.products import matmul, product
from lipcert.regions.transfer.reach import Origin, Origins
from lipcert.regions.transfer.rows import CENTRE, LINEAR, VALUED, Rows, added, through
from lipcert.regions.transfer.softmax import softmax
from lipcert.rigor.rounding import add_up, keeps_subnormals
from lipcert.terms.errors import RefusedModel

RULES: dict[type, Callable[..., Expansion]] = {
    Pointwise: pointwise,
    Normalise: normalise,
    Norm2: norm2,
    Softmax: softmax,
    MatMul: matmul,
    Product: product,
    Selection: selection,
    Sort: sorting,
    LogSumExp: logsumexp,
}
X = "x"


@dataclass(eq=False, kw_only=True)
class Valued:
    cells: Cells  # one
    known: dict[int, Range]
    sources: dict[Hashable, Origin] = field(default_factory=dict)
    expansions: dict[int, Expansion] = field(default_factory=dict)
    kept: Callable[[Any], bool] = lambda what: False
    arriving: dict[int, Arriving] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Expanded:
    """Of one region: the expansion of every block, and the output. `arriving`: the inputs of those that were to be kept."""

    expansions: dict[int, Expansion]
    output: Rows
    sources: Origins
    arriving: dict[int, Arriving] = field(default_factory=dict)


@keeps_subnormals
def values(
    graph: Graph,
    cells: Cells,
    known: dict[int, Range] | None = None,
    kept: Callable[[Any], bool] = lambda what: False,
) -> Expanded:
    """`known`: ranges (lower, upper), (1, size) each, that were proved otherwise. `kept`: whether the first input of a node, given
    what it is, is wanted afterwards. Raises RefusedModel, naming a node."""
    state = Valued(cells=cells, known=known or {}, kept=kept)
    output = forward(graph, WITH_VALUES, state)[graph.output]
    return Expanded(state.expansions, output, state.sources, state.arriving)


def _input(at: Visit) -> Rows:
    cells = at.state.cells
    wide = (cells.radius[0] > 0).nonzero().flatten()
    at.state.sources[X] = Origin.of(cells, wide)
    return {CENTRE: Known(cells.centre), X: Known(_unit(wide, at.node.size))}


def _unit(positions: Tensor, size: int) -> Tensor:
    rows = torch.zeros(len(positions), size, dtype=torch.float64)
    rows[torch.arange(len(positions)), positions] = 1.0
    return rows


def _valued(at: Visit, *signals: Rows) -> Rows:
    state, node = at.state, at.node
    ranges = [state.known.get(parent) for parent in node.parents]
    inputs = [
        Arriving(rows, state.sources, None if known is None else (known[0][0], known[1][0]))
        for rows, known in zip(signals, ranges, strict=True)
    ]
    found = expanded(at, inputs)
    state.expansions[at.i] = found
    if state.kept(at.what):
        state.arriving[at.i] = inputs[0]
    rows = added(*(through(gain, u.deviation) for gain, u in zip(found.gains, inputs, strict=True)))
    rows[CENTRE] = Known(found.value.centre, add_up(found.value.reach(), rows[CENTRE].reach()))
    positions, state.sources[at.i] = source(found)
    if len(positions):
        rows[at.i] = Known(_unit(positions, node.size))
    return rows


def expanded(at: Visit, inputs: list[Arriving]) -> Expansion:
    block, name = at.what.block, at.node.name
    rule = RULES.get(type(block))
    if rule is None:
        raise RefusedModel(f"no expansion of {block.label} about a centre is known (node {name})", node=name)
    try:
        found = rule(at.node, block, inputs)
    except RefusedModel as refused:
        raise RefusedModel(f"{refused} (node {name})", node=name) from refused
    if not bool(found.entries.isfinite().all()) and found.lengths is None:
        raise RefusedModel(
            f"on this region {block.label} has no bounded deviation from a linear map (node {name})", node=name
        )
    return found


def source(found: Expansion) -> tuple[Tensor, Origin]:
    """What remains of a block, and at which entries."""
    if found.lengths is None or found.positions is None:
        loose = (found.entries > 0).nonzero().flatten()
        return loose, Origin(found.entries[loose])
    positions = found.positions.reshape(-1)
    return positions, Origin(found.entries[positions], found.lengths)


WITH_VALUES: Rules = VALUED | {Input: _input, Nonlinear: _valued}


@dataclass(frozen=True, eq=False)
class Placed:
    """A term in the network: `rows` what its W reads, by source."""

    key: Hashable
    term: Term
    rows: Rows


@dataclass(eq=False)
class Spread:
    """The set of all Jacobians on a region, before anything is estimated. Terms in the order of the network."""

    expansions: dict[int, Expansion]
    moving: Tensor  # positions of the coordinates that move
    terms: list[Placed] = field(default_factory=list)
    output: Rows = field(default_factory=dict)


def spread(graph: Graph, expansions: dict[int, Expansion], moving: Tensor) -> Spread:
    state = Spread(expansions, moving)
    state.output = forward(graph, OF_JACOBIANS, state).get(graph.output, {})
    return state


def _sloped(at: Visit, *signals: Rows | None) -> Rows:
    found: Expansion = at.state.expansions[at.i]
    gains = found.gains if found.slopes is None else found.slopes
    rows = added(*(through(gain, u) for gain, u in zip(gains, signals, strict=True) if u is not None))
    for number, term in enumerate(found.terms):
        u = signals[term.read]
        if u is None or not len(term.inner_group):
            continue
        at.state.terms.append(Placed((at.i, number), term, through(term.inner, u)))
        rows[at.i, number] = term.outer
    return rows


def _moving(at: Visit) -> Any:
    return {X: Known(_unit(at.state.moving, at.node.size))}


OF_JACOBIANS: Rules = LINEAR | {Input: _moving, Nonlinear: _sloped}
