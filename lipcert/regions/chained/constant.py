"""The constant on a region, signal by signal, never holding inputs x outputs: for networks of any size.

Three things are carried through the graph in one walk: the range of each signal, as intervals have it; how far it gets from
a value a at the centre, in l2 and linf; and its constant with respect to the input. The first two are met with one
another at each block, whose slopes are then those near a (slopes.py):

    |u(x) - a|_r  <=  sum_j k_j |u_j(x) - a_j|_r         and  <=  what the range of u says
    ||J_u(x)||    <=  sum_j k_j ||J_uj(x)||

where k_j bounds the block's Jacobian on all of the box and the ball around a_j, which are convex. Affine parts multiply by their
norms, as in `product` (proofs/chain.py). The a are floating numbers, rounded block by block, and what that changes is a part
of |u - a|: enclosures of the centre itself would wrap, as intervals do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from lipcert.blocks.product import Product
from lipcert.network.affine import Constants, embed, linear_ancestors, targets
from lipcert.network.closed_forms import closed_forms, times, total
from lipcert.network.graph import ENCLOSURES, Add, Concat, Enclosure, Graph, Input, Linear, Nonlinear, Offset
from lipcert.network.intervals import INTERVALS, Boxes
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Select
from lipcert.proofs.chain import Infinite, affine_constants, start
from lipcert.regions.cells import Cells
from lipcert.regions.chained.slopes import Near, repeated, slopes
from lipcert.rigor.rounding import add_up, norm_up
from lipcert.terms.query import Norm, P

LENGTHS: tuple[P, ...] = ("2", "inf")
Chain = dict[int, Constants]  # of each source, and of the affine signals that were asked for


@dataclass(eq=False)
class Chained:
    cells: Cells  # one
    constants: Chain  # with respect to the input
    away: dict[P, Chain] = field(default_factory=dict)  # how far from the centre, in each norm


def constant_on(graph: Graph, cells: Cells, norm: Norm) -> float:
    """Raises Infinite."""
    state = Chained(cells, start(graph, norm))
    forward(graph, CHAINED, state)
    return _of(graph, graph.output, state.constants)[norm.output]


def _of(graph: Graph, i: int, known: Chain) -> Constants:
    if i not in known:
        known[i] = dict(affine_constants(graph, i, known))
    return known[i]


def _input(at: Visit) -> Near:
    state, cells = at.state, at.state.cells
    radius = cells.radius[0]
    for r in LENGTHS:  # a ball of l1 lies in those of l2 and linf
        reach = 0.0 if not len(radius) else float(norm_up(radius, r) if cells.norm == "inf" else radius.amax())
        state.away[r] = {at.i: {r: reach}}
    return Near(Enclosure(cells.centre), cells.ends(), state.away["2"][at.i]["2"])


def _affine(at: Visit, *signals: Near) -> Near:
    found = _plain(at, *signals)
    if at.i not in targets(at.graph):
        return found
    rounding = found.centre.reach()[0]
    for r, away in at.state.away.items():
        carried = affine_constants(at.graph, at.i, away)[r]
        away[at.i] = {r: add_up(carried, float(norm_up(rounding, r))) if len(rounding) else 0.0}
    return _met(at, found)


def _plain(at: Visit, *signals: Near) -> Near:
    """Centre and range by themselves."""
    one = replace(at, state=Enclosure(at.state.cells.centre))
    centre = ENCLOSURES[type(at.what)](one, *(u.centre for u in signals))
    boxes = replace(at, state=Boxes(at.state.cells.ends(), {}))
    return Near(centre, INTERVALS[type(at.what)](boxes, *(u.range for u in signals)))


def _met(at: Visit, found: Near) -> Near:
    """With how far the signal gets from its centre, by its own range and by the chain; each is met with the other."""
    away, reach = at.state.away, found.reach()[0]
    for r, known in away.items():
        known[at.i] = {r: min(known[at.i][r], float(norm_up(reach, r))) if len(reach) else 0.0}
    length = away["2"][at.i]["2"]
    away["inf"][at.i]["inf"] = entry = min(length, away["inf"][at.i]["inf"])
    return found.met(entry, length)


def _block(at: Visit, *signals: Near) -> Near:
    """The centre of its output is a number again, from which all of what it computes is measured."""
    state = at.state
    found = _plain(at, *(replace(u, centre=Enclosure(u.centre.centre)) for u in signals))
    rounding = found.centre.reach()[0]
    for r, away in state.away.items():
        moved = _through(at, r, signals, away)
        away[at.i] = {r: add_up(moved, float(norm_up(rounding, r))) if len(rounding) else 0.0}
    found = _met(at, Near(Enclosure(found.centre.centre), found.range))
    norms = tuple(state.constants[at.graph.input])
    own = {r: _through(at, r, signals, state.constants) for r in norms}
    if not all(math.isfinite(c) for c in own.values()) and not all(_finite(at, r, signals) for r in norms):
        raise Infinite(at.i, f"{at.what.block.label} at {at.node.name}: {at.what.block.reason}")
    state.constants[at.i] = {r: min(times(embed(s, r, at.node.size), c) for s, c in own.items()) for r in norms}
    return found


def _through(at: Visit, r: P, signals: tuple[Near, ...], known: Chain) -> float:
    """In norm r through a block. A parent that does not move needs no slope."""
    graph, block = at.graph, at.what.block
    before = [_of(graph, parent, known) for parent in at.node.parents]
    parts = []
    for j, slope in enumerate(slopes(block, r, *signals)):
        part = times(slope, before[j][r])
        exact = isinstance(block, Product) and signals[j].centre.radius is None  # not so with an offset between them
        copies = _copies(graph, at.node.parents[j]) if exact else None
        if copies is not None:
            part = min(part, times(repeated(block, r, signals[1 - j], copies[1]), known[copies[0]][r]))
        parts.append(part)
    ways = [total(parts)]
    for s in before[0].keys() - {r}:
        ways.append(total(times(k, c[s]) for k, c in zip(block.between(s, r), before, strict=True)))
    return min(ways)


def _finite(at: Visit, r: P, signals: tuple[Near, ...]) -> bool:
    """Whether the slopes in what moves are: constants may overflow without it."""
    moving = (_of(at.graph, parent, at.state.constants)[r] > 0 for parent in at.node.parents)
    return all(k < math.inf or not moves for k, moves in zip(slopes(at.what.block, r, *signals), moving, strict=True))


def _copies(graph: Graph, i: int) -> tuple[int, Select] | None:
    """(source, operator) where signal i is entries of one source, some of them many times."""
    sources, affine = linear_ancestors(graph, i)
    if len(sources) != 1 or not affine:
        return None
    anchor, operator = closed_forms(graph, affine, set(sources), graph.memo)[i]
    return (anchor, operator) if isinstance(operator, Select) and anchor == sources[0] else None


CHAINED: Rules = {Input: _input, Nonlinear: _block, Linear: _affine, Add: _affine, Concat: _affine, Offset: _affine}
