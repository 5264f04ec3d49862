"""`transfer`: the constant on a region from each block's deviation from a linear map (regions/transfer, MATH section 10).

For normalisation, attention, gates and residual streams, where intervals wrap; and networks with few unsettled neurons.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar, TypeGuard

from lipcert.methods.jacobian import no_region
from lipcert.methods.problem import REGION, Cost, Method, Problem
from lipcert.network.graph import Graph, Nonlinear
from lipcert.regions.cells import Cells
from lipcert.regions.transfer.constant import constant_on
from lipcert.regions.transfer.deviations import RULES
from lipcert.terms.errors import RefusedModel
from lipcert.terms.memory import GIGABYTES, allowed, share
from lipcert.terms.result import Bound, Refusal, Result, Side

ENTRIES = 60_000_000  # of the identity over the inputs, carried through the widest signal
NEURONS = 12_000  # each of which may be a source of deviation


@dataclass(frozen=True)
class Transfer(Method):
    name: ClassVar[str] = "transfer"
    side: ClassVar[Side] = "upper"
    where = REGION
    cost = Cost.SWEEPS

    def refuses(self, problem: Problem) -> Refusal | None:
        reason = no_region(problem)
        node = None
        if reason is None:
            node, reason = obstacle(problem.graph) or (None, None)
        return None if reason is None else Refusal(self.name, self.side, "refused", reason, node)

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        try:
            best = min((r.value for r in problem.known if _is_upper(r)), default=math.inf)
            found = constant_on(
                problem.graph, Cells.of(problem.region), problem.norm, problem.ranges, problem.deadline, best
            )
        except RefusedModel as refused:
            seconds = time.perf_counter() - start
            return Refusal(self.name, self.side, "refused", str(refused), refused.node, seconds)
        seconds = time.perf_counter() - start
        if not math.isfinite(found.value):
            reason = "the deviations do not stay bounded on this region: a smaller one may do"
            return Refusal(self.name, self.side, "refused", reason, None, seconds)
        details = {"terms": found.terms, "recursion": found.recursion}
        details |= {"inequality": found.inequality} if math.isfinite(found.inequality) else {}
        return Bound(self.name, self.side, "proved", found.value, seconds, None, details)


def obstacle(graph: Graph) -> tuple[str | None, str] | None:
    """(node, reason) why there is no such bound; None: there may be."""
    for i in graph.nonlinear:
        node = graph.nodes[i]
        assert isinstance(node.what, Nonlinear)
        if type(node.what.block) not in RULES or node.what.block.steps:
            return node.name, f"no expansion of {node.what.block.label} about a centre is known (node {node.name})"
    size = max(node.size for node in graph.nodes)
    matrix = graph.nodes[graph.input].size * size
    if matrix > ENTRIES * share():
        need = GIGABYTES * matrix / ENTRIES
        return None, f"its dense transfer matrices take about {need:.3g} GiB, over the {allowed():g} of --memory"
    if graph.neurons > NEURONS:
        return None, f"{graph.neurons} neurons, {size} in a signal: too many for dense transfer matrices"
    return None


def _is_upper(result: Result) -> TypeGuard[Bound]:
    return isinstance(result, Bound) and result.side == "upper" and result.rigor == "proved"
