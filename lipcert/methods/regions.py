"""`regions`: the constant on a region, or on the whole space, exactly, by enumerating linear regions (regions/enumeration).

For piecewise linear networks of up to 16 inputs that move (from 8 on by linear programs in place of vertices), on the whole
space up to 6, and on regions for those with one piecewise quadratic layer on each path (regions/quadratic). The upper value
covers every cell, pruned and open ones too; the lower value is attained at a point. MATH section 9; LipBaB (Bhowmick et al. 2021) has the idea, without proofs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import torch

from lipcert.methods.problem import REGION, Cost, Method, Problem
from lipcert.network.edit import row_of
from lipcert.network.graph import Graph
from lipcert.regions.enumeration.constant import Bracket, cells_of, check_inputs, constant, constants, reads
from lipcert.regions.enumeration.hinges import hinged
from lipcert.regions.enumeration.program import INPUTS, MORE_INPUTS
from lipcert.regions.quadratic.surrogate import is_quadratic, surrogate
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import Output
from lipcert.terms.result import Bound, Refusal, Result, Side

COMPILATION = 120.0  # seconds, on a slow machine
TOGETHER = 128  # functionals asked at once
MANY = 4  # times the seconds of one


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
        if find_spec("numba") is None:  # found, not imported: that takes as long as a method
            return Refusal(self.name, self.side, "refused", "it needs Numba: pip install 'lipcert[fast]'")
        try:
            if problem.region is None:
                check_inputs(problem.graph)
                hinged(problem.graph)
            else:
                most = INPUTS if _is_quadratic(problem.graph) else MORE_INPUTS
                reads(_pieces_of(problem.graph), cells_of(problem.region), most)
        except RefusedModel as refused:
            reason, node = str(refused), refused.node
        return None if reason is None else Refusal(self.name, self.side, "refused", reason, node)

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem) or self._compiles(problem)) is not None:
            return refusal
        from lipcert.regions.enumeration.everywhere import everywhere
        from lipcert.regions.quadratic.constant import quadratic_constant

        deadline = problem.deadline if problem.deadline is not None else time.monotonic() + self.seconds
        tell = _telling(problem)
        if problem.region is None:
            try:
                found = everywhere(problem.graph, problem.norm, problem.rtol, deadline, report=tell)
            except RefusedModel as refused:  # of its boxes, whose sizes follow from the weights
                seconds = time.perf_counter() - start
                return Refusal(self.name, self.side, "refused", str(refused), refused.node, seconds)
        else:
            search = quadratic_constant if _is_quadratic(problem.graph) else constant
            found = search(problem.graph, cells_of(problem.region), problem.norm, problem.rtol, deadline, report=tell)
        result, *aside = self._results(problem, found, time.perf_counter() - start)
        problem.aside.extend(aside)
        return result

    def run_together(self, problem: Problem, outputs: Sequence[Output]) -> list[list[Result]] | None:
        if problem.region is None or not 1 < len(outputs) <= TOGETHER or _is_quadratic(problem.graph):
            return None
        start = time.perf_counter()
        if (refusal := self.refuses(problem) or self._compiles(problem)) is not None:
            return [[refusal] for _ in outputs]
        deadline = problem.deadline if problem.deadline is not None else time.monotonic() + MANY * self.seconds
        rows = torch.stack([row_of(output, problem.graph.nodes[problem.graph.output].size) for output in outputs])
        cells, tell = cells_of(problem.region), _telling(problem)
        brackets = constants(problem.graph, rows, cells, problem.norm, problem.rtol, deadline, report=tell)
        seconds = (time.perf_counter() - start) / len(outputs)
        return [self._results(problem, found, seconds) for found in brackets]

    def _compiles(self, problem: Problem) -> Refusal | None:
        """Machine code is made or read; a Refusal where the budget is too small for making it."""
        try:
            from lipcert.regions.enumeration.compiled import on_disk
            from lipcert.regions.enumeration.tree import prepare
        except ImportError as problem_of_numba:
            return Refusal(self.name, self.side, "refused", f"Numba cannot be imported: {problem_of_numba}")
        n = 1 if problem.region is None else int((cells_of(problem.region).radius > 0).sum())
        if not on_disk(facets=n > INPUTS):
            if problem.deadline is not None and problem.deadline < time.monotonic() + COMPILATION:
                reason = "its machine code is made once, in about a minute: raise --budget, or give none the first time"
                return Refusal(self.name, self.side, "refused", reason)
            problem.say("regions: compiling, once")
        prepare(n)
        return None

    def _results(self, problem: Problem, found: Bracket, seconds: float) -> list[Result]:
        """The upper value, or why there is none, and the lower one."""
        counts = {"cells": found.cells, "leaves": found.leaves, "open": found.open, "exact": found.exact}
        witness = {"x": found.point.tolist(), "shape": list(problem.graph.input_shape)}
        lower = Bound(self.name, "lower", "sampled", found.lower, seconds, witness, dict(counts))
        if not math.isfinite(found.upper):
            reason = "the budget was spent: raise --budget"
            return [Refusal(self.name, self.side, "timeout", reason, None, seconds), lower]
        details = {"closed": found.closed, "rtol": problem.rtol, "lower": found.lower, **counts}
        return [Bound(self.name, self.side, "proved", found.upper, seconds, None, details), lower]


def _telling(problem: Problem) -> Callable[[float, float], None]:
    def tell(upper: float, lower: float) -> None:
        problem.say(f"regions: {lower:.6g} .. {upper:.6g}")

    return tell
