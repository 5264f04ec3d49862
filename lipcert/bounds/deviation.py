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

import torch
from torch import Tensor

from lipcert.ir import Enclosure, Graph, Input, Linear, Nonlinear, enclose_node
from lipcert.linops import Operator
from lipcert.parts import closed_forms, is_source, times, total
from lipcert.query import P
from lipcert.rounding import add_up, norm_up


def evaluate_within(graph: Graph, x: Tensor, q: P) -> tuple[Tensor, float]:
    """(y, e) with ||f(x) - y||_q <= e, f in real arithmetic. x: (1, input_size), y: (1, output_size).

    e is `inf` where a signal overflows, or a nonlinearity has no l_q constant on the whole space.
    """
    slopes = {i: graph.nodes[i].what.block.lipschitz(q) for i in graph.nonlinear}  # type: ignore[union-attr]
    if not all(math.isfinite(slope) for found in slopes.values() for slope in found):
        return graph.evaluate(x), math.inf
    affine = [i for i in range(len(graph.nodes)) if not is_source(graph, i)]
    forms = closed_forms(graph, affine, set(range(len(graph.nodes))) - set(affine), graph.memo)
    last = graph._last_use()
    values: dict[int, Tensor] = {}
    errors: dict[int, float] = {}  # of each signal
    since: dict[int, float] = {}  # the part of it that does not come from the anchor of its closed form

    def carried(operator: Operator | None, error: float) -> float:
        """No norm is proved for an error of zero."""
        return error if operator is None or error == 0 else times(operator.norm_upper(q, q), error)

    for i, node in enumerate(graph.nodes):
        if isinstance(node.what, Input):
            values[i], errors[i] = x, 0.0
            continue
        step = enclose_node(node, [Enclosure(values[parent]) for parent in node.parents], x)
        values[i] = step.centre
        own = 0.0 if step.radius is None else float(norm_up(step.radius[0], q))
        own = math.inf if math.isnan(own) else own
        operator = node.what.operator if isinstance(node.what, Linear) else None
        anchor, whole = forms.get(i, (i, None))
        if isinstance(node.what, Nonlinear):
            before = [times(s, errors[parent]) for s, parent in zip(slopes[i], node.parents, strict=True)]
            errors[i] = add_up(total(before), own)
        elif anchor == i:  # sums over several signals: of absolute values in every norm, a stack as well
            errors[i] = add_up(carried(operator, total(errors[parent] for parent in node.parents)), own)
        else:
            # Parents that do not depend on the input have no form: all their error is new.
            new = [0.0 if p == anchor else since[p] if p in forms else errors[p] for p in node.parents]
            since[i] = add_up(carried(operator, total(new)), own)
            errors[i] = add_up(carried(whole, errors[anchor]), since[i])
        for parent in {*node.parents}:
            if last[parent] == i:
                del values[parent]
    y = values[graph.output]
    return y, errors[graph.output] if bool(torch.isfinite(y).all()) else math.inf
