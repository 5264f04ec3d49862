"""`local-product`: as `product`, with the slopes that blocks have where their inputs stay on the region (regions/chained).

Nothing of the size inputs x outputs is ever held, so it takes networks of any size: ImageNet classifiers with gates, attention
and normalisation on small balls, which have no constant on the whole space.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.jacobian import no_region
from lipcert.methods.problem import REGION, Method, Problem, missing
from lipcert.proofs.chain import Infinite
from lipcert.regions.cells import Cells
from lipcert.regions.chained.constant import constant_on
from lipcert.terms.clock import OutOfTime, deadline, hurry
from lipcert.terms.result import Bound, Refusal, Result, Side


@dataclass(frozen=True)
class LocalProduct(Method):
    name: ClassVar[str] = "local-product"
    side: ClassVar[Side] = "upper"
    where = REGION

    def refuses(self, problem: Problem) -> Refusal | None:
        reason = no_region(problem)
        return None if reason is None else Refusal(self.name, self.side, "refused", reason)

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        try:
            value = constant_in_time(problem)
        except Infinite as found:
            why = missing(problem, found.reason, problem.graph.nodes[found.node].name)
            return Refusal(self.name, self.side, *why, time.perf_counter() - start)
        seconds = time.perf_counter() - start
        if not math.isfinite(value):
            return Refusal(self.name, self.side, "refused", "the bound overflows float64", None, seconds)
        return Bound(self.name, self.side, "proved", value, seconds)


def constant_in_time(problem: Problem) -> float:
    """With a deadline first from the structure of the parts alone, as `product` does: where that leaves a slope without a
    bound, those of the matrices may have one."""

    def found() -> float:
        return constant_on(problem.graph, Cells.of(problem.region), problem.norm)

    if deadline() is None:
        return found()
    first: float | Infinite
    try:
        with hurry():
            first = found()
    except Infinite as problem_of_slopes:
        first = problem_of_slopes
    try:
        return found()
    except OutOfTime:
        if isinstance(first, Infinite):
            raise
        return first
