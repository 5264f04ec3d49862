"""`linear`: the constant on a region from backward linear bounds and the linear-relaxed adjoint (ranges/relaxed.py).

A convex region has Lipschitz constant sup ||J(x)||_{p->q} over it, J any generalised Jacobian (Clarke 1983, 2.6.5); the
rows of J are gradients of the outputs. For many inputs and deep networks, where interval Jacobians wrap.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.jacobian import no_region
from lipcert.methods.problem import REGION, Cost, Method, Problem
from lipcert.regions.backward.adjoint import obstacle
from lipcert.regions.backward.affordable import VERTICES, WORK, effort, flops
from lipcert.regions.backward.relaxed import linear_on
from lipcert.regions.cells import Cells
from lipcert.regions.device import proving_on
from lipcert.terms.result import Bound, Refusal, Result, Side


@dataclass(frozen=True)
class LinearBound(Method):
    """`vertices`: of the neurons whose slope is not settled on the region, that many of the most important are tried at
    both ends of their slope."""

    vertices: int = VERTICES

    name: ClassVar[str] = "linear"
    side: ClassVar[Side] = "upper"
    where = REGION
    cost = Cost.SWEEPS

    def refuses(self, problem: Problem) -> Refusal | None:
        if (reason := no_region(problem)) is not None:
            return Refusal(self.name, self.side, "refused", reason)
        graph = problem.graph
        if (blocked := obstacle(graph)) is not None:
            node, reason = blocked
            return Refusal(self.name, self.side, "refused", f"{reason} (node {node})", node)
        if graph.nodes[graph.output].size * 6 * flops(graph) > WORK:
            reason = (
                f"{graph.nodes[graph.output].size} outputs are one row of J each, too many for a network of this size"
            )
            return Refusal(self.name, self.side, "refused", reason)
        return None

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        graph = problem.graph
        refine, vertices = effort(graph)
        with proving_on(problem.device):
            graph, cells = graph.on(problem.device), Cells.of(problem.region).to(problem.device)
            tried, until = min(self.vertices, vertices), problem.deadline
            value = float(linear_on(graph, cells, problem.norm, refine=refine, vertices=tried, deadline=until))
        seconds = time.perf_counter() - start
        if not math.isfinite(value):
            reason = "no bounded slope is known on this region, or the enclosure overflows"
            return Refusal(self.name, self.side, "refused", reason, None, seconds)
        return Bound(self.name, self.side, "proved", value, seconds)
