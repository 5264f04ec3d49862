"""`regions`: the constant on a region, or on the whole space, exactly, by enumerating linear regions (regions/enumeration).

For piecewise linear networks of up to 7 inputs that move, on the whole space up to 6, and on regions for those with one piecewise
quadratic layer on each path (regions/quadratic). The upper value covers every cell, pruned and open ones too; the lower
value is attained at a point. MATH section 9; LipBaB (Bhowmick et al. 2021) has the idea, without proofs.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.problem import REGION, Cost, Method, Problem
from lipcert.network.graph import Graph
from lipcert.regions.enumeration.constant import cells_of, check_inputs, constant, reads
from lipcert.regions.enumeration.hinges import hinged
from lipcert.regions.quadratic.surrogate import is_quadratic, surrogate
from lipcert.terms.errors import RefusedModel
from lipcert.terms.result import Bound, Refusal, Result, Side

COMPILATION = 120.0  # seconds, on a slow machine


def _is_quadratic(graph: Graph) -> bool:
    return any(is_quadratic(graph.nodes[i].what.block) for i in graph.nonlinear)  # type: ignore[union-attr]


def _pieces_of(graph: Graph) -> Graph:
    """The piecewise linear graph whose pieces are enumerated."""
    return surrogate(graph).graph if _is_quadratic(graph) else graph


@dataclass(frozen=True)
class Regions(Method):
    """`seconds`: at most, where the problem has no budget of its own."""

    seconds: float = 120.0

    name: ClassVar[str] = "regions"
    side: ClassVar[Side] = "upper"
    where = REGION
    cost = Cost.SWEEPS

    def refuses(self, problem: Problem) -> Refusal | None:
        reason, node = None, None
        try:
            import numba  # noqa: F401

            if problem.region is None:
                check_inputs(problem.graph)
                hinged(problem.graph)
            else:
                reads(_pieces_of(problem.graph), cells_of(problem.region))
        except ImportError:
            reason = "it needs Numba: pip install 'lipcert[fast]'"
        except RefusedModel as refused:
            reason, node = str(refused), refused.node
        return None if reason is None else Refusal(self.name, self.side, "refused", reason, node)

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        from lipcert.regions.enumeration.compiled import on_disk
        from lipcert.regions.enumeration.everywhere import everywhere
        from lipcert.regions.enumeration.tree import prepare
        from lipcert.regions.quadratic.constant import quadratic_constant

        if not on_disk():
            if problem.deadline is not None and problem.deadline < time.monotonic() + COMPILATION:
                reason = "its machine code is made once, in about a minute: raise --budget, or give none the first time"
                return Refusal(self.name, self.side, "refused", reason)
            problem.say("regions: compiling, once")
        prepare()
        deadline = problem.deadline if problem.deadline is not None else time.monotonic() + self.seconds

        def tell(upper: float, lower: float) -> None:
            problem.say(f"regions: {lower:.6g} .. {upper:.6g}")

        if problem.region is None:
            found = everywhere(problem.graph, problem.norm, problem.rtol, deadline, report=tell)
        else:
            search = quadratic_constant if _is_quadratic(problem.graph) else constant
            found = search(problem.graph, cells_of(problem.region), problem.norm, problem.rtol, deadline, report=tell)
        seconds = time.perf_counter() - start
        counts = {"cells": found.cells, "leaves": found.leaves, "open": found.open, "exact": found.exact}
        witness = {"x": found.point.tolist(), "shape": list(problem.graph.input_shape)}
        problem.aside.append(Bound(self.name, "lower", "sampled", found.lower, seconds, witness, dict(counts)))
        if not math.isfinite(found.upper):
            return Refusal(self.name, self.side, "timeout", "the budget was spent: raise --budget", None, seconds)
        details = {"closed": found.closed, "rtol": problem.rtol, "lower": found.lower, **counts}
        return Bound(self.name, self.side, "proved", found.upper, seconds, None, details)
