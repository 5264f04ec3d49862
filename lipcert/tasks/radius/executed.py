"""The error of a float32 evaluation at one sample, for networks with attention and normalisation, by expansions about it.

The error carried layer by layer (margins.py) multiplies by |A| at every layer, and by attention: a two-block vision transformer
that errs by 1e-5 gets 1e4. Here what each node rounds is a source of its own, which reaches the output through exact matrices
(regions/transfer): the executed signals are u = a + sum_k T_k xi_k with |xi_k| at most what was rounded at k. Between two blocks
it gathers in the radius of the centre; it becomes a source where a block, or a sum of branches, reads it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.network.graph import Add, Concat, Enclosure, Graph, Input, Linear, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, forward
from lipcert.regions.transfer.deviations import expanded, source
from lipcert.regions.transfer.expansion import Arriving
from lipcert.regions.transfer.reach import Origin, entrywise
from lipcert.regions.transfer.rows import CENTRE, VALUED, Rows, added, through
from lipcert.rigor.rounding import TINY, add_up, keeps_subnormals, sub_up
from lipcert.tasks.radius.margins import LARGEST32, U32, WIDEN, gamma32, granted


@dataclass(eq=False)
class Running:
    x: Tensor  # (1, n)
    sources: dict[Hashable, Origin] = field(default_factory=dict)


@keeps_subnormals
def execution_error(graph: Graph, x: Tensor) -> Tensor:
    """Upper values (1, m) of |float32 evaluation - real arithmetic| at x (1, n). Raises RefusedModel, naming a node."""
    state = Running(x)
    output = forward(graph, RUN, state)[graph.output]
    real = graph.enclose(Enclosure(x))
    centre = output[CENTRE].centre
    apart = torch.maximum(sub_up(real.upper, centre), sub_up(centre, real.lower)).clamp(min=0.0)
    return add_up(entrywise(state.sources, output)[None], apart).nan_to_num(torch.inf, torch.inf)


def _rounded(at: Visit, rows: Rows, more: Tensor) -> Rows:
    """With `more` (size,) added to how far the centre may be off; infinite where float32 may overflow."""
    known = rows[CENTRE]
    radius = add_up(known.reach(), (more * WIDEN + TINY)[None])
    largest = known.centre.abs()[0] + entrywise(at.state.sources, rows) + more
    radius = torch.where(largest[None] < LARGEST32, radius, torch.inf)
    return rows | {CENTRE: Enclosure(known.centre, radius)}


def _size(at: Visit, rows: Rows) -> Tensor:
    """|u|, upper values (size,)."""
    return rows[CENTRE].centre.abs()[0] + entrywise(at.state.sources, rows)


def _settled(at: Visit, key: Hashable, rows: Rows) -> Rows:
    """What the centre may be off by becomes a source."""
    known = rows[CENTRE]
    at.state.sources[key] = Origin(known.reach()[0])
    unit = torch.eye(known.centre.shape[1], dtype=torch.float64)
    return rows | {CENTRE: Enclosure(known.centre), key: Enclosure(unit)}


def _input(at: Visit) -> Rows:
    return {CENTRE: Enclosure(at.state.x, at.state.x.abs() * U32)}


def _linear(at: Visit, rows: Rows) -> Rows:
    operator = at.what.operator
    image = through(operator, rows)
    if not operator.terms:
        return image
    mass = operator.absolute().mv(_size(at, rows)[None])[0]  # of every partial sum too
    return _rounded(at, image, gamma32(operator.terms + 2) * torch.where(mass < LARGEST32, mass, torch.inf))


def _sum(at: Visit, *signals: Rows) -> Rows:
    mass = torch.stack([_size(at, rows) for rows in signals]).sum(dim=0)
    signals = tuple(_settled(at, (at.i, k), rows) for k, rows in enumerate(signals))
    return _rounded(at, added(*signals), gamma32(len(signals)) * mass)


def _offset(at: Visit, *signals: Rows) -> Rows:
    found = VALUED[Offset](at, *signals)
    return _rounded(at, found, U32 * at.what.value.abs() + (2 * U32 * _size(at, found) if signals else 0.0))


def _block(at: Visit, *signals: Rows) -> Rows:
    block = at.what.block
    signals = tuple(_settled(at, (at.i, k), rows) for k, rows in enumerate(signals))
    inputs = [Arriving(rows, at.state.sources) for rows in signals]
    found = expanded(at, inputs)
    rows = added(*(through(gain, u.deviation) for gain, u in zip(found.gains, inputs, strict=True)))
    rows[CENTRE] = Enclosure(found.value.centre, add_up(found.value.reach(), rows[CENTRE].reach()))
    positions, at.state.sources[at.i] = source(found)
    if len(positions):
        unit = torch.zeros(len(positions), at.node.size, dtype=torch.float64)
        unit[torch.arange(len(positions)), positions] = 1.0
        rows[at.i] = Enclosure(unit)
    if block.exact:
        return rows
    given = [(u.centre[None], u.reach[None]) for u in inputs]
    return _rounded(at, rows, granted(block, given, _size(at, rows)[None])[0])


RUN: Rules = {
    Input: _input,
    Linear: _linear,
    Add: _sum,
    Concat: VALUED[Concat],
    Offset: _offset,
    Nonlinear: _block,
}
