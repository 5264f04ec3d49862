"""`branch`: the constant on a region as exactly as asked, by branch and bound over slope sweeps (ranges/branching.py).

For networks of few inputs. The upper value covers every leaf, pruned ones too; the lower value is attained at a point.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar

from lipcert.methods.jacobian import no_region, too_wide, unbounded
from lipcert.methods.problem import REGION, Cost, Method, Problem
from lipcert.regions.branch_and_bound.branching import Brackets, Effort, bracket
from lipcert.regions.cells import Cells
from lipcert.terms.result import Bound, Refusal, Result, Side

MANY = 64  # inputs: halving one of them changes next to nothing


@dataclass(frozen=True)
class Branch(Method):
    """`seconds`: at most, where the problem has no budget of its own. `leaves`: at most, for memory."""

    seconds: float = 20.0
    leaves: int = 2_000_000

    name: ClassVar[str] = "branch"
    side: ClassVar[Side] = "upper"
    where = REGION
    cost = Cost.SEARCH

    def refuses(self, problem: Problem) -> Refusal | None:
        reason = no_region(problem) or too_wide(problem.graph)
        n = problem.graph.nodes[problem.graph.input].size
        if reason is None and n > MANY:
            reason = f"{n} inputs are too many to halve one by one"
        if reason is None and any(
            isinstance(r, Bound) and r.method == "regions" and r.details.get("closed") for r in problem.known
        ):
            reason = "regions has closed the bracket"
        return None if reason is None else Refusal(self.name, self.side, "refused", reason)

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        deadline = problem.deadline if problem.deadline is not None else time.monotonic() + self.seconds
        n = problem.graph.nodes[problem.graph.input].size
        effort = Effort(problem.rtol, deadline, leaves=max(1000, min(self.leaves, 40_000_000 // max(1, n))))

        def tell(upper: object, lower: object) -> None:
            problem.say(f"branch: {float(lower):.6g} .. {float(upper):.6g}")  # type: ignore[arg-type]

        found = bracket(
            problem.graph, Cells.of(problem.region), problem.norm, effort, report=tell, device=problem.device
        )
        seconds = time.perf_counter() - start
        problem.aside.append(self._attained(problem, found, seconds))
        value = float(found.upper)
        if not math.isfinite(value):
            refusal = unbounded(self.name, problem.graph, found.culprit, seconds)
            if refusal.status == "refused" and time.monotonic() > deadline:
                return replace(
                    refusal, status="timeout", reason=f"{refusal.reason}; the time was spent: raise --budget"
                )
            return refusal
        details = {
            "closed": bool(found.closed),
            "rtol": problem.rtol,
            "leaves": found.leaves,
            "lower": float(found.lower),
        }
        return Bound(self.name, self.side, "proved", value, seconds, None, details)

    def _attained(self, problem: Problem, found: Brackets, seconds: float) -> Bound:
        witness = {"x": found.point[0].tolist(), "shape": list(problem.graph.input_shape)}
        return Bound(self.name, "lower", "sampled", float(found.lower), seconds, witness, {"leaves": found.leaves})
