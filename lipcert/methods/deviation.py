"""How far a floating evaluation of the network can lie from its value in real arithmetic, in one norm.

Entry by entry (Graph.enclose) such an error grows by the absolute coefficients of every layer, which in a deep network
soon says nothing. In the norm q it grows by the constant of every layer: with z the true signal, u the computed one and
r the rounding of this very step (enclosed entry by entry from u, taken as exact),

    ||A z - fl(A u)||_q <= ||A||_{q->q} ||z - u||_q + ||r||_q,        and with a block's l_q constant for A.

Affine nodes that are one operator B of an earlier signal a (parts.closed_forms) use ||B|| for what comes from a, and
their own norms only for what was added since: the norms that the product bound has proved anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.network.affine import is_source
from lipcert.network.closed_forms import Form, closed_forms, times, total
from lipcert.network.graph import ENCLOSURES, Add, Concat, Enclosure, Graph, Input, Linear, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Operator
from lipcert.rigor.rounding import add_up, norm_up
from lipcert.terms.query import P


def evaluate_within(graph: Graph, x: Tensor, q: P) -> tuple[Tensor, float]:
    """(y, e) with ||f(x) - y||_q <= e, f in real arithmetic. x: (1, input_size), y: (1, output_size).

    e is `inf` where a signal overflows, or a nonlinearity has no l_q constant on the whole space.
    """
    slopes = {i: graph.nodes[i].what.block.lipschitz(q) for i in graph.nonlinear}  # type: ignore[union-attr]
    if not all(math.isfinite(slope) for found in slopes.values() for slope in found):
        return graph.evaluate(x), math.inf
    affine = [i for i in range(len(graph.nodes)) if not is_source(graph, i)]
    forms = closed_forms(graph, affine, set(range(len(graph.nodes))) - set(affine), graph.memo)
    state = Deviated(x, q, slopes, forms, {})
    y = forward(graph, CARRIED, state)[graph.output][0]
    return y, state.errors[graph.output] if bool(torch.isfinite(y).all()) else math.inf


@dataclass(frozen=True, eq=False)
class Deviated:
    x: Tensor
    q: P
    slopes: Mapping[int, tuple[float, ...]]  # l_q constants of the blocks in their parents
    forms: Mapping[int, Form]
    errors: dict[int, float]  # of each signal


Signal = tuple[Tensor, float]  # a floating value, and the part of its error that is not its anchor's


def _step(at: Visit, *us: Signal) -> tuple[Tensor, float]:
    """The floating value, and the rounding of this very step."""
    alone = replace(at, state=Enclosure(at.state.x))
    found = ENCLOSURES[type(at.what)](alone, *(Enclosure(value) for value, _ in us))
    own = 0.0 if found.radius is None else float(norm_up(found.radius[0], at.state.q))
    return found.centre, math.inf if math.isnan(own) else own


def _input(at: Visit) -> Signal:
    at.state.errors[at.i] = 0.0
    return at.state.x, 0.0


def _block(at: Visit, *us: Signal) -> Signal:
    value, own = _step(at, *us)
    errors = at.state.errors
    before = [times(s, errors[parent]) for s, parent in zip(at.state.slopes[at.i], at.node.parents, strict=True)]
    errors[at.i] = add_up(total(before), own)
    return value, 0.0


def _affine(at: Visit, *us: Signal) -> Signal:
    value, own = _step(at, *us)
    errors, forms, q = at.state.errors, at.state.forms, at.state.q
    operator = at.what.operator if isinstance(at.what, Linear) else None
    anchor, whole = forms.get(at.i, (at.i, None))
    if anchor == at.i:  # sums over several signals: of absolute values in every norm, a stack as well
        errors[at.i] = add_up(_carried(operator, total(errors[parent] for parent in at.node.parents), q), own)
        return value, 0.0
    # Parents that do not depend on the input have no form: all their error is new.
    parents = zip(at.node.parents, us, strict=True)
    new = [0.0 if p == anchor else since if p in forms else errors[p] for p, (_, since) in parents]
    since = add_up(_carried(operator, total(new), q), own)
    errors[at.i] = add_up(_carried(whole, errors[anchor], q), since)
    return value, since


def _carried(operator: Operator | None, error: float, q: P) -> float:
    """No norm is proved for an error of zero."""
    return error if operator is None or error == 0 else times(operator.norm_upper(q, q), error)


CARRIED: Rules = {Input: _input, Nonlinear: _block, Linear: _affine, Add: _affine, Concat: _affine, Offset: _affine}
