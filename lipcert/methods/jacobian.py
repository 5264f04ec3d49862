"""`jacobian`: the constant on a region from an enclosure of the Jacobian there (slope sweep, ranges/slope.py).

A convex region has Lipschitz constant sup ||J(x)||_{p->q} over it, J any generalised Jacobian (Clarke 1983, 2.6.5).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.problem import REGION, Method, Problem
from lipcert.network.graph import Graph, Linear
from lipcert.regions.cells import Cells
from lipcert.regions.device import proving_on
from lipcert.regions.forward.slope import directions, norms_above, sweep
from lipcert.regions.forward.telescope import is_chain, telescoped
from lipcert.regions.forward.vertices import elementwise_only, unsettled, vertex_norms
from lipcert.terms.memory import GIGABYTES, allowed, share
from lipcert.terms.result import Bound, Refusal, Result, Side

ENTRIES = 60_000_000  # of the widest stack: 0.5 GB, and a few of them live at once
WORK = 2e12  # flops
VERTEX_WORK = 5e9


@dataclass(frozen=True)
class Jacobian(Method):
    """`vertices`: with at most so many neurons whose slope is not settled on the region, all patterns are tried."""

    vertices: int = 7

    name: ClassVar[str] = "jacobian"
    side: ClassVar[Side] = "upper"
    where = REGION

    def refuses(self, problem: Problem) -> Refusal | None:
        reason = no_region(problem) or too_wide(problem.graph)
        return None if reason is None else Refusal(self.name, self.side, "refused", reason)

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        with proving_on(problem.device):
            return self._run(problem, start)

    def _run(self, problem: Problem, start: float) -> Result:
        graph, norm = problem.graph.on(problem.device), problem.norm
        cells = Cells.of(problem.region).to(problem.device)
        chosen = directions(graph, cells, norm)
        swept = sweep(graph, cells, chosen.toward)
        value = float(norms_above(swept.centre, swept.radius, chosen, norm))
        if is_chain(graph) and len(graph.nonlinear) > 2:
            fine = telescoped(graph, cells, chosen.toward)
            finer = float(norms_above(fine.centre, fine.radius, chosen, norm))
            swept, value = (fine, finer) if finer < value else (swept, value)
        count = int(unsettled(swept.slopes, cells.centre)[0])
        work = 2**count * 4 * cells.centre.shape[1] * sum(_flops(graph))
        if elementwise_only(graph) and 0 < count <= self.vertices and work <= VERTEX_WORK:
            value = min(value, float(vertex_norms(graph, swept.slopes, chosen, norm, self.vertices)))
        seconds = time.perf_counter() - start
        if not math.isfinite(value):
            return unbounded(self.name, graph, swept.culprit, seconds)
        return Bound(self.name, self.side, "proved", value, seconds, None, {"unsettled": count})


def no_region(problem: Problem) -> str | None:
    if problem.region is None:
        return "it bounds the constant on a region: give --box, or --at with --eps"
    return None


def _flops(graph: Graph) -> list[int]:
    return [node.what.operator.flops for node in graph.nodes if isinstance(node.what, Linear)]


def too_wide(graph: Graph) -> str | None:
    n = graph.nodes[graph.input].size
    rows = 2 * n + 2
    cost = sum(_flops(graph))
    stack = rows * max(node.size for node in graph.nodes)
    if stack > ENTRIES * share():
        need = GIGABYTES * stack / ENTRIES
        return f"{n} inputs are one row of slopes each, which take about {need:.3g} GiB, over the {allowed():g} of --memory"
    if 2 * rows * cost > WORK:
        return f"{n} inputs are one row of slopes each, too many for a network of this size"
    return None


def unbounded(name: str, graph: Graph, culprit: int | None, seconds: float) -> Refusal:
    """No finite value: the first node without a bounded slope, or overflow."""
    if culprit is None:
        return Refusal(name, "upper", "refused", "the enclosure of the Jacobian overflows", None, seconds)
    node = graph.nodes[culprit]
    reason = f"no bounded slope is known on this region at node {node.name}"
    return Refusal(name, "upper", "refused", reason, node.name, seconds)
