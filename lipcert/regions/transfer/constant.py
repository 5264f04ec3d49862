"""The constant on one region by both ways of reading the set of Jacobians."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from lipcert.blocks.base import Range
from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.transfer.deviations import spread, values
from lipcert.regions.transfer.inequality import Inequality, inequality
from lipcert.regions.transfer.multipliers import constant
from lipcert.regions.transfer.recursion import recursion
from lipcert.rigor.rounding import keeps_subnormals, mul_up, sqrt_up
from lipcert.terms.query import Norm

HOPE = 8.0  # the inequality gains less than that over the recursion
EACH = 16  # outputs: so many are bounded one by one for the norm inf


@dataclass(frozen=True)
class Closed:
    """Upper values: `value` the least, `recursion`, and `inequality` (inf where it was not proved)."""

    value: float
    recursion: float
    inequality: float
    terms: int


@keeps_subnormals
def constant_on(
    graph: Graph,
    cells: Cells,
    norm: Norm,
    known: dict[int, Range] | None = None,
    deadline: float | None = None,
    best: float = math.inf,
) -> Closed:
    """||J(x)||_{p->q} over one cell, all x and generalised Jacobians. Raises RefusedModel, naming a node. `best`: an upper
    value from elsewhere; the inequality is left out where the recursion is too far from it."""
    moving = cells.moving[0].nonzero().flatten()
    found = spread(graph, values(graph, cells, known).expansions, moving)
    plain = recursion(found, norm)
    question = inequality(found, plain)
    tight = float("inf")
    if question is not None and plain.value < HOPE * best and (deadline is None or time.monotonic() < deadline):
        tight = _by_inequality(question, norm, plain.value, deadline)
    return Closed(min(plain.value, tight), plain.value, tight, len(found.terms))


def _by_inequality(question: Inequality, norm: Norm, enough: float, deadline: float | None) -> float:
    """From the norm p -> 2: |y|_inf <= |y|_2 and |y|_1 <= m^(1/2) |y|_2. Each output by itself for inf."""
    boxed, m = norm.input == "inf", question.outputs
    if m == 1 or norm.output == "2" or (norm.output == "inf" and m > EACH):
        return constant(question, boxed, deadline)
    if norm.output == "1":
        return mul_up(sqrt_up(float(m)), constant(question, boxed, deadline))
    largest = 0.0
    for i in range(m):
        largest = max(largest, constant(question.of_output(i), boxed, deadline))
        if largest >= enough:
            break
    return largest
