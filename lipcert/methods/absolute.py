"""`absolute`: |J| <= |W_m| B ... B |W_1| entry by entry, B the largest absolute slopes (nonnegative.py).

Exact for nonnegative weights, never worse than `product` for l1 and linf on elementwise networks.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.problem import Method, Problem, RangesOf
from lipcert.proofs.kinds.nonnegative import Nonnegative
from lipcert.proofs.nonnegative import DENSE_SIDE, absolute_norm, obstacle
from lipcert.terms.result import Bound, Refusal, Result, Side


@dataclass(frozen=True)
class Absolute(Method):
    name: ClassVar[str] = "absolute"
    side: ClassVar[Side] = "upper"

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        refusal = self.refuses(problem)
        if refusal is not None:
            return refusal
        ranges = RangesOf(problem)
        value = absolute_norm(problem.graph, problem.norm, ranges, problem.region is not None)
        seconds = time.perf_counter() - start
        if value is None:
            small = f"more than {DENSE_SIDE} inputs and outputs"
            return Refusal(
                self.name, self.side, "refused", f"norm {problem.norm} needs a matrix with {small}", None, seconds
            )
        if not math.isfinite(value):
            return Refusal(self.name, self.side, "refused", "the bound overflows float64", None, seconds)
        proof = None if ranges.used else Nonnegative(self.name)
        return Bound(self.name, self.side, "proved", value, seconds, proof=proof)

    def refuses(self, problem: Problem) -> Refusal | None:
        found = obstacle(problem.graph, RangesOf(problem), problem.region is not None)
        if found is None:
            return None
        node, _, reason = found
        return Refusal(self.name, self.side, "refused", reason, problem.graph.nodes[node].name)
