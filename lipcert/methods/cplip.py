"""`cplip`: sums over which activations are passed and which are cut (Combettes & Pesquet 2020). Any graph, any norms.

The inequalities are in segments.py. Where the norms of all segments would take too long, activations at every second
(third, ..) level are always cut: shorter segments, fewer and smaller norms, a looser bound. With uniform slopes per layer
the value is never above the product but for rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.problem import Method, Problem, RangesOf, missing
from lipcert.network.affine import Constants, linear_ancestors
from lipcert.network.graph import Graph
from lipcert.proofs.chain import Infinite, links, start
from lipcert.proofs.kinds.cplip import Cplip
from lipcert.proofs.segments import cost, cut, passable, segment_link
from lipcert.terms.clock import OutOfTime, tick
from lipcert.terms.result import Bound, Refusal, Result, Side


@dataclass(frozen=True)
class CplipBound(Method):
    """`work`: floating point operations that the norms of the segments may take."""

    work: float = 4e11

    name: ClassVar[str] = "cplip"
    side: ClassVar[Side] = "upper"

    def refuses(self, problem: Problem) -> Refusal | None:
        """The first nonlinearity without a finite constant."""
        try:
            self._cut(problem, RangesOf(problem), ())
        except Infinite as found:
            node = problem.graph.nodes[found.node]
            return Refusal(self.name, self.side, "refused", found.reason, node.name)
        return None

    def run(self, problem: Problem) -> Result:
        begin = time.perf_counter()
        ranges = RangesOf(problem)
        graph = problem.graph
        best: tuple[float, int, tuple[int, ...], Graph, dict[int, Constants]] | None = None
        try:
            for span, choices in spans(graph):
                graphs = [(passed, self._cut(problem, ranges, passed)) for passed in choices]
                if sum(cost(g) for _, g in graphs) > self.work:
                    continue
                for passed, segments in graphs:
                    known = self._constants(problem, segments)
                    value = known[segments.output][problem.norm.output]
                    if best is None or value < best[0]:
                        best = value, span, passed, segments, known
                break
        except OutOfTime:
            if best is None:
                raise
        except Infinite as found:
            why = missing(problem, found.reason, graph.nodes[found.node].name)
            return Refusal(self.name, self.side, *why, time.perf_counter() - begin)
        seconds = time.perf_counter() - begin
        if best is None:
            reason = f"the norms of its segments take more than {self.work:.0e} operations"
            return Refusal(self.name, self.side, "refused", reason, None, seconds)
        value, span, passed, segments, known = best
        if not math.isfinite(value):
            return Refusal(self.name, self.side, "refused", "the bound overflows float64", None, seconds)
        details = {"passed": len(passed), "span": span or None, "cuts": len(segments.nonlinear)}
        constants = [known[i] for i in links(segments)]
        proof = None if ranges.used else Cplip.of(self.name, graph, passed, constants)
        return Bound(self.name, self.side, "proved", value, seconds, None, details, proof)

    def _cut(self, problem: Problem, ranges: RangesOf, passed: tuple[int, ...]) -> Graph:
        norms = {problem.norm.input, problem.norm.output}
        return cut(problem.graph, passed, norms, ranges, problem.region is not None)

    def _constants(self, problem: Problem, segments: Graph) -> dict[int, Constants]:
        """||change of cut i||_r <= c_r ||change of input||_p for every cut and the output."""
        known = start(segments, problem.norm)
        order = links(segments)
        for done, i in enumerate(order):
            tick()
            problem.say(self.name, done, len(order))
            known[i] = segment_link(segments, i, known)
        return known


def spans(graph: Graph) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """(span, choices of nodes that are passed): all of them (span 0), then segments over 4, 3, 2 levels in all phases."""
    nodes = passable(graph)
    yield 0, [nodes]
    level = levels(graph)
    for span in (4, 3, 2):
        yield span, [tuple(i for i in nodes if level[i] % span != phase) for phase in range(span)]


def levels(graph: Graph) -> dict[int, int]:
    """Longest way from the input to each nonlinear node, counted in nonlinear nodes."""
    level = {graph.input: 0}
    for i in graph.nonlinear:
        before = [s for parent in graph.nodes[i].parents for s in linear_ancestors(graph, parent)[0]]
        level[i] = 1 + max((level[s] for s in before), default=0)
    return level
