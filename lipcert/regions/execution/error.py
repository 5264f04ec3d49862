"""|computed - real| of every signal on a batch of regions, for executions in a floating-point format.

Between two nonlinearities everything is one sum of products, v = sum of (coefficients along a path) times a source. However
it is evaluated (any order of additions, FMA or not, fused or folded beforehand), its roundings are of two kinds:
`count`: most roundings that a term meets and that are not additions of this sum, at most gamma_count of the `mass`, the sum of
the absolute terms t, together (Higham, 3.1 and 3.5); and `adds` additions of nonzero numbers, in a tree of any shape. At a node
of the tree the exact sum of its two computed arguments is z = (the terms below it) + sum of d_w z_w over the nodes w below, each
|d_w| <= u, and v is off by the sum of all d_w z_w. The terms below a node are some of all terms, so their sum is at most
the larger of the positive and the negative part of all, max(P, N) = (mass + |v|) / 2: twice less than the mass where v
is small. By induction |z_w| <= max(P, N) + e with e = u sum |z_w| <= adds u (max(P, N) + e), so e <= gamma_adds max(P, N). Roundings
and coefficients after an addition multiply all terms below it alike, as if each term had met them: so it is enough that
every computed number has one use, or that each use counts its additions (`_linear` where it has several).

What the sources are off by already comes through the absolute coefficients; what a runtime computes of constants in its own
format is in their radii (`folded_in`). A nonlinearity passes on slope times error, and adds its own (accuracy.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed

import torch
from torch import Tensor

from lipcert.blocks.base import Block, Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.selection import Selection
from lipcert.blocks.sort import Sort
from lipcert.network.graph import Add, Concat, Graph, Input, Linear, Node, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Operator
from lipcert.regions.backward.adjoint import DENSE, first_part, row_norms
from lipcert.regions.cells import Cells
from lipcert.regions.execution.accuracy import stated, units, unstated
from lipcert.rigor.arithmetic import FloatFormat
from lipcert.terms.errors import RefusedModel

WIDEN = 1 + 1e-6  # our own float64 rounding of these sums of nonnegative numbers: 2^-53 for each of a million terms
FOLDED = 2  # roundings of a coefficient that is converted, and folded into another, before it is used
# What is lost in the middle of a sum meets its later roundings, which multiply it by at most 1 + gamma <= 2; each operation,
# and each conversion and folding of a coefficient, can lose one `underflow`.
GROWN = 2


@dataclass(frozen=True, eq=False)
class Executed:
    """Of one signal, (b, size) each. `error`: how far its sources can have moved it, and what was `own`: made since the last
    nonlinearity, but for the rounding of the sum that is under way (`_rounding`). `middle`: of the mass, what the centres
    of the regions have, before any nonlinearity. Where the mass is 0, so is the computed number."""

    error: Tensor
    own: Tensor
    mass: Tensor
    middle: Tensor | None
    count: int
    adds: Tensor


@dataclass(frozen=True, eq=False)
class Local:
    """Of one nonlinear node: what is new in its arguments and in its value, and all that its arguments are off by."""

    arguments: tuple[Tensor, ...]
    value: Tensor
    total: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The state of the walk. `ranges`: of the real signals on the cells; `local` is filled."""

    arithmetic: FloatFormat
    cells: Cells
    ranges: Mapping[int, Range]
    absolute: Graph
    local: dict[int, Local] = field(default_factory=dict)


def executed(
    graph: Graph, arithmetic: FloatFormat, cells: Cells, ranges: Mapping[int, Range]
) -> tuple[Tensor, Tensor, dict[int, Local]]:
    """Of the output (b, m): the error, and the part made since the last nonlinearity; and of the nonlinear nodes."""
    state = Evaluation(arithmetic, cells, ranges, _absolute(graph))
    last = forward(graph, EXECUTED, state)[graph.output]
    rounding = _rounding(state, graph.output, last)
    return last.error + rounding, last.own + rounding, state.local


def _absolute(graph: Graph) -> Graph:
    """The affine maps before the first nonlinearity with absolute coefficients, for the norms of their rows."""
    key = ("absolute operators",)
    if key not in graph.memo:
        first = {*first_part(graph)}
        nodes = [
            changed(node, what=Linear(node.what.operator.absolute()))
            if i in first and isinstance(node.what, Linear)
            else node
            for i, node in enumerate(graph.nodes)
        ]
        graph.memo[key] = Graph(tuple(nodes), graph.output, graph.input)
    return graph.memo[key]


def _rounding(place: Evaluation, i: int, signal: Executed) -> Tensor:
    """Of the sum that ends at node i: gamma_count mass + (1 + gamma_count) gamma_adds max(P, N). On an l2 or l1 ball its mass
    is that of the centre, and the dual norms of the rows."""
    mass, cells, gamma = signal.mass, place.cells, place.arithmetic.gamma
    graph = place.absolute
    small = graph.nodes[i].size * cells.centre.shape[1] <= DENSE
    if signal.middle is not None and cells.norm != "inf" and small and cells.radius.shape[1]:
        rows = row_norms(graph, i, cells.norm)
        mass = torch.minimum(mass, (signal.middle + rows * cells.radius[:, :1]) * WIDEN)
    most = _most(signal.adds)
    fits = mass < place.arithmetic.largest / 2  # every partial sum is below it: nothing overflows
    fits &= (mass == 0) | math.isfinite(gamma(signal.count + most))
    low, high = place.ranges[i]
    value = (torch.maximum(low.abs(), high.abs()) + signal.error).nan_to_num(math.inf, math.inf)
    part = torch.minimum(mass, (mass + value) / 2)
    each = gamma(most) / max(1, most)  # at least gamma_n / n for every n <= most
    grown = gamma(signal.count) * mass + signal.adds * each * (1 + gamma(signal.count)) * part
    return torch.where(fits, torch.where(mass == 0, 0.0, grown * WIDEN), math.inf)


def _most(adds: Tensor) -> int:
    return int(adds.max()) if adds.numel() else 0


def _source(at: Visit) -> Executed:
    low, high = at.state.ranges[at.i]
    lost = torch.full_like(low, GROWN * at.state.arithmetic.underflow)
    mass = torch.maximum(low.abs(), high.abs())
    return Executed(lost, lost, mass, at.state.cells.centre.abs(), 1, torch.zeros_like(mass))


def _linear(at: Visit, u: Executed) -> Executed:
    operator, tiny = at.what.operator, at.state.arithmetic.underflow
    size, n = operator.absolute(), operator.terms
    error, own = size.mv(u.error), size.mv(u.own)
    if (
        n
    ):  # coefficients of our own folding, and of each term its product, its addition and its coefficient that underflow
        lost = GROWN * n * tiny * (2 + FOLDED * u.mass.amax(dim=1, keepdim=True)) if u.mass.shape[1] else 0.0
        slack = operator.radius_operator()
        new = (lost + (0.0 if slack is None else GROWN * slack.mv(u.mass))) * _reads(operator)
        error, own = error + new, own + new
    middle = None if u.middle is None else size.mv(u.middle) * WIDEN
    return Executed(error * WIDEN, own * WIDEN, size.mv(u.mass) * WIDEN, middle, *_roundings(operator, u))


def _roundings(operator: Operator, u: Executed) -> tuple[int, Tensor]:
    """`count` and `adds` of the image: of each term a product and what is folded, and one addition less than there are terms
    other than 0. A sum of sums has many additions, of which each term meets few: there all count as roundings of terms."""
    pattern = operator.pattern()
    if operator.terms <= 1:  # every number keeps one use
        return u.count + (1 + FOLDED) * operator.terms, pattern.mv(u.adds).round()
    adds = (pattern.mv((u.mass > 0).double()).round() - 1).clamp(min=0.0)
    inner = _most(u.adds)
    count = u.count + inner + 1 + FOLDED
    return (count + _most(adds), torch.zeros_like(adds)) if inner else (count, adds)


def _reads(operator: Operator) -> Tensor:
    """(1, m): 0 where every coefficient of a row is exactly 0, for 0 x is exactly 0; else 1."""
    one = torch.ones(1, operator.in_size, dtype=torch.float64)
    slack = operator.radius_operator()
    size = operator.absolute().mv(one) + (0.0 if slack is None else slack.mv(one))
    return (size > 0).double()


def _sum(at: Visit, *us: Executed) -> Executed:
    count, adds = sum(u.count for u in us) + 1, sum((u.adds for u in us[1:]), us[0].adds) + (len(us) - 1)
    if count + _most(adds) > _all(at.graph):
        count, adds = _all(at.graph), torch.zeros_like(adds)
    lost = GROWN * len(us) * at.state.arithmetic.underflow
    middles = [u.middle for u in us if u.middle is not None]
    return Executed(
        (sum((u.error for u in us[1:]), us[0].error) + lost) * WIDEN,
        (sum((u.own for u in us[1:]), us[0].own) + lost) * WIDEN,
        sum((u.mass for u in us[1:]), us[0].mass) * WIDEN,
        sum(middles[1:], middles[0]) * WIDEN if len(middles) == len(us) else None,
        count,
        adds,
    )


def _all(graph: Graph) -> int:
    """More roundings than any term of the network meets."""
    return sum(
        node.what.operator.terms + FOLDED if isinstance(node.what, Linear) else len(node.parents) + 4
        for node in graph.nodes
    )


def _offset(at: Visit, *us: Executed) -> Executed:
    value, slack = at.what.value, at.what.radius
    lost = (FOLDED + 1) * at.state.arithmetic.underflow  # the addition, and the constant
    new = GROWN * (lost + (torch.zeros_like(value) if slack is None else slack))
    mass = value.abs() + (0.0 if slack is None else slack)
    new, mass = (part.expand(len(at.state.cells), -1) for part in (new.expand_as(value), mass))
    if not us:
        return Executed(new, new, mass, mass, 1, torch.zeros_like(mass))
    u = us[0]
    middle = None if u.middle is None else u.middle + mass
    error, own, mass = (u.error + new) * WIDEN, (u.own + new) * WIDEN, (u.mass + mass) * WIDEN
    return Executed(error, own, mass, middle, u.count + 1, u.adds + 1)


def _concat(at: Visit, *us: Executed) -> Executed:
    middles = [u.middle for u in us if u.middle is not None]
    error, own, mass, adds = (torch.cat([getattr(u, k) for u in us], dim=1) for k in ("error", "own", "mass", "adds"))
    middle = torch.cat(middles, dim=1) if len(middles) == len(us) else None
    return Executed(error, own, mass, middle, max(u.count for u in us), adds)


def _block(at: Visit, *us: Executed) -> Executed:
    block, place = at.what.block, at.state
    accuracy = units(block)
    if not stated(block):
        name, why = unstated(at.graph) or (at.node.name, block.reason)
        raise RefusedModel(why, node=name)
    new = [_rounding(place, p, u) + u.own for p, u in zip(at.node.parents, us, strict=True)]
    total = [_rounding(place, p, u) + u.error for p, u in zip(at.node.parents, us, strict=True)]
    wide = [
        (low - t, high + t) for (low, high), t in zip((place.ranges[p] for p in at.node.parents), total, strict=True)
    ]
    low, high = place.ranges[at.i]
    size = torch.maximum(low.abs(), high.abs())
    moved = _moved(at.node, total, wide)
    made = torch.zeros_like(size)
    if accuracy:
        inputs = torch.maximum(wide[0][0].abs(), wide[0][1].abs())
        near = inputs if inputs.shape == size.shape else inputs.amax(dim=1, keepdim=True)
        scale = torch.maximum(torch.maximum(size + moved, near), torch.ones(()))
        made = accuracy * place.arithmetic.unit * scale
    elif isinstance(block, Product | MatMul):
        terms = 1 if isinstance(block, Product) else block.k
        masses = [torch.maximum(low.abs(), high.abs()) for low, high in wide]
        made = place.arithmetic.gamma(terms + 1) * block(*masses) + 2 * GROWN * terms * place.arithmetic.underflow
    made = (
        made + GROWN * place.arithmetic.underflow
    )  # of an exact function too: what enters or leaves it may be flushed
    made = torch.where(_nothing(block, wide), 0.0, made)
    made = torch.where(size + moved + made < place.arithmetic.largest / 2, made, math.inf).nan_to_num(
        math.inf, math.inf
    )
    error = ((moved + made) * WIDEN).nan_to_num(math.inf, math.inf)
    place.local[at.i] = Local(tuple(new), made, tuple(total))
    return Executed(error, made, size + error, None, 0, torch.zeros_like(size))


def _nothing(block: Block, wide: list[Range]) -> Tensor:
    """Where a function that is evaluated exactly is 0 whatever the argument in its range is, as a ReLU that is off."""
    if not (isinstance(block, Pointwise) and units(block) == 0):
        return torch.zeros((), dtype=torch.bool)
    least, most = block.values_on(wide[0])
    return (least == 0) & (most == 0)


def _moved(node: Node, total: list[Tensor], wide: list[Range]) -> Tensor:
    """How far the value of a block moves with its arguments, for arguments in the ranges `wide`."""
    block = node.what.block  # type: ignore[union-attr]
    if isinstance(block, Pointwise):
        low, high = block.activation.slopes_on(*wide[0])
        steep = (torch.maximum(low.abs(), high.abs()) * total[0]).nan_to_num(math.inf, math.inf)
        least, most = block.values_on(wide[0])
        return torch.minimum(steep, (most - least).nan_to_num(math.inf, math.inf)) * WIDEN
    if isinstance(block, Selection):  # |max u - max v| <= max |u - v| over the same entries
        return changed(block, minimum=False)(total[0])
    if isinstance(block, Sort):
        return total[0][:, block.windows].amax(dim=2)
    if isinstance(block, Product | MatMul):  # |(a + s)(b + t) - a b| <= |a + s| |t| + |s| |b|
        first, second = (torch.maximum(low.abs(), high.abs()) for low, high in wide)
        return (block(first, total[1]) + block(total[0], second)).nan_to_num(math.inf, math.inf) * WIDEN
    constants = block.lipschitz("inf")
    moved = sum(k * t.amax(dim=1, keepdim=True) for k, t in zip(constants, total, strict=True))
    assert isinstance(moved, Tensor)
    return (moved * WIDEN).expand(-1, node.size)


EXECUTED: Rules = {  # Executed; state: Evaluation
    Input: _source,
    Linear: _linear,
    Add: _sum,
    Concat: _concat,
    Offset: _offset,
    Nonlinear: _block,
}
