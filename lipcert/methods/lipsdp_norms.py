"""`lipsdp-norms`: semidefinite bounds in l1 and linf (GeoLIP, Wang et al. 2022; Latorre et al. 2020 for one hidden layer).

The matrix inequality of LipSDP with diag(d) in place of rho I for linf inputs (sqrt(sum d) is the constant), diagonal
weights on l1 outputs, and one program for each row of linf outputs and each column of l1 inputs: proofs/weighted.py. Dual
sweeps find the weights, then `lipsdp` the multipliers of the weighted network. It sees which neurons cannot be active
together with which sign, which products of norms and absolute weights do not; from linf to l1 or l2 it may still be above
them by Grothendieck's factor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lipcert.methods.problem import L2, Cost, Method, Problem
from lipcert.network.affine import Path
from lipcert.proofs import weighted
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.kinds.weighted import Weighted, WeightedPart
from lipcert.proofs.lmi import INPUT, coefficients, entries
from lipcert.proofs.normal_form import normal_form
from lipcert.rigor.rounding import mul_up
from lipcert.sdp.solve import Settings, solve
from lipcert.sdp.weights import weights
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import NORMS
from lipcert.terms.result import Bound, Refusal, Result, Side

PARTS, WORK = 256, 3e6  # programs, and floats of all their dense blocks together, of half a minute or so of one core


@dataclass(frozen=True)
class LipsdpNorms(Method):
    """`tolerance`: of each program's proved / dual - 1."""

    tolerance: float = 1e-5

    name: ClassVar[str] = "lipsdp-norms"
    side: ClassVar[Side] = "upper"
    norms = frozenset((p, q) for p in NORMS for q in NORMS) - L2
    cost = Cost.PROGRAM
    extra = True  # from linf to l1 and l2 the formulas may be below it

    def refuses(self, problem: Problem) -> Refusal | None:
        reason, node = None, None
        if not self.takes(problem.norm):
            reason = "from l2 to l2 it is lipsdp"
        else:
            count = len(weighted.parts(problem.graph, problem.norm))
            try:
                need = count * entries(normal_form(problem.graph))
                if count > PARTS or need > WORK:
                    reason = f"{problem.norm} takes {count} programs of a network of this size: name one with --output"
            except RefusedModel as error:
                reason, node = str(error), error.node
        return None if reason is None else Refusal(self.name, self.side, "refused", reason, node)

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        value, found = 0.0, []
        wanted = weighted.parts(problem.graph, problem.norm)
        for k, ends in enumerate(wanted):
            problem.check_time()
            problem.say(self.name, k, len(wanted))
            part = self._part(problem, ends)
            if part is None:
                problem.check_time()
                reason = "no multipliers could be proved"
                return Refusal(self.name, self.side, "refused", reason, None, time.perf_counter() - start)
            value = max(value, part[0])
            found.append(part[1])
        details = {"programs": len(wanted)}
        proof = Weighted(self.name, tuple(found))
        return Bound(self.name, self.side, "proved", value, time.perf_counter() - start, None, details, proof)

    def _part(self, problem: Problem, ends: weighted.Ends) -> tuple[float, WeightedPart] | None:
        plain = normal_form(weighted.between(problem.graph, ends, None, None))
        each, total = problem.norm.input == "inf", problem.norm.output == "1"
        t, u = weights(plain, each, total, problem.seed, lambda: _late(problem))
        form = normal_form(weighted.between(problem.graph, ends, t, u))
        graph = form.graph
        if form.layers:
            settings = Settings(self.tolerance, 400, problem.seed)
            solution = solve(form, coefficients(form), settings, problem.deadline)
            if not solution.multipliers:
                return None
            value, last, multipliers = solution.info.proved, solution.last, solution.multipliers
        else:
            value, last, multipliers = Path(graph, graph.input, graph.output).norm_upper("2", "2"), INPUT, []
        proof = Lmi.of(self.name, form, last, value * value, multipliers)
        value = mul_up(mul_up(weighted.lost(t), weighted.lost(u)), value)
        return value, WeightedPart(_row(t), _row(u), proof)


def _late(problem: Problem) -> bool:
    return problem.deadline is not None and time.monotonic() > problem.deadline


def _row(values: Tensor | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values.tolist())
