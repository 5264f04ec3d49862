"""`product`: the constant of every signal with respect to the input, in topological order. Any graph, any norms.

An affine part multiplies by a proved norm of its operator as a whole (sum over the signals that it reads), an
elementwise activation by its largest slope, a block by its l_p constant; concatenations take sqrt(sum) (l2), sum (l1),
max (linf). Source: the chain rule; Szegedy et al. 2014, section 4.3, for feed-forward nets. The inequalities are in
chain.py.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.problem import Method, Problem, RangesOf, missing
from lipcert.network.affine import Constants
from lipcert.proofs.chain import Infinite, block_slopes, link, links, start
from lipcert.proofs.kinds.chain import Chain
from lipcert.terms.clock import OutOfTime, deadline, hurry, tick
from lipcert.terms.result import Bound, Refusal, Result, Side


@dataclass(frozen=True)
class ProductBound(Method):
    name: ClassVar[str] = "product"
    side: ClassVar[Side] = "upper"

    def refuses(self, problem: Problem) -> Refusal | None:
        """The first nonlinearity without a finite constant, found without computing a norm."""
        graph, on_region = problem.graph, problem.region is not None
        for i in graph.nonlinear:
            try:
                block_slopes(graph, i, problem.norm.output, RangesOf(problem), on_region)
            except Infinite as found:
                return Refusal(self.name, self.side, "refused", found.reason, graph.nodes[i].name)
        return None

    def run(self, problem: Problem) -> Result:
        begin = time.perf_counter()
        graph = problem.graph
        ranges = RangesOf(problem)
        try:
            constants = constants_in_time(problem, ranges)
        except Infinite as found:
            why = missing(problem, found.reason, graph.nodes[found.node].name)
            return Refusal(self.name, self.side, *why, time.perf_counter() - begin)
        value = constants[graph.output][problem.norm.output]
        seconds = time.perf_counter() - begin
        if not math.isfinite(value):
            return Refusal(self.name, self.side, "refused", "the bound overflows float64", None, seconds)
        chain = None if ranges.used else Chain.of(self.name, [constants[i] for i in links(graph)])
        return Bound(self.name, self.side, "proved", value, seconds, proof=chain)


def constants_in_time(problem: Problem, ranges: RangesOf) -> dict[int, Constants]:
    """`signal_constants`. With a deadline first from the structure of the parts alone, which is what holds where there is no
    time for their matrices."""
    if deadline() is None:
        return signal_constants(problem, ranges)
    with hurry():
        first = signal_constants(problem, ranges)
    try:
        return signal_constants(problem, ranges)
    except OutOfTime:
        return first


def signal_constants(problem: Problem, ranges: RangesOf) -> dict[int, Constants]:
    """||change of node||_r <= c_r ||change of input||_p for every source, target and the output. Raises Infinite."""
    graph = problem.graph
    known = start(graph, problem.norm)
    order = links(graph)
    for done, i in enumerate(order):
        tick()
        problem.say("product", done, len(order))
        known[i] = link(graph, i, known, ranges, problem.region is not None)
    return known
