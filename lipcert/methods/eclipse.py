"""`eclipse`: LipSDP multipliers in closed form (ECLipsE-Fast, Xu & Sivaranjani 2024), the better of two orientations.

One multiplier per layer, from the output on or, on the transposed network, from the input on; no optimisation, one
factorisation each. The value is what lmi.prove says of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.problem import L2, Method, Problem
from lipcert.network.affine import Path
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.lmi import INPUT, coefficients, prove
from lipcert.rigor.rounding import sqrt_up
from lipcert.sdp.mirror import mirrored_closed_form
from lipcert.sdp.multipliers import closed_form
from lipcert.terms.result import Bound, Refusal, Result, Side

PADS = (1e-12, 1e-9, 1e-6, 1e-3)  # relative additions to the multipliers, until the factorisation succeeds


@dataclass(frozen=True)
class Eclipse(Method):
    name: ClassVar[str] = "eclipse"
    side: ClassVar[Side] = "upper"
    norms = L2
    on_request = True

    def refuses(self, problem: Problem) -> Refusal | None:
        found = Lipsdp("neuron", name=self.name).form(problem)
        return found if isinstance(found, Refusal) else None

    def run(self, problem: Problem) -> Result:
        begin = time.perf_counter()
        form = Lipsdp("neuron", name=self.name).form(problem)
        if isinstance(form, Refusal):
            return form
        graph = form.graph
        if not form.layers:
            value = Path(graph, graph.input, graph.output).norm_upper("2", "2")
            proof = Lmi.of(self.name, form, INPUT, value**2, [])
            return Bound(self.name, self.side, "proved", value, time.perf_counter() - begin, proof=proof)
        table = coefficients(form)
        output = len(form.layers) + 1
        best: tuple[float, str, list, int] | None = None
        # each in the scaling in which its own elimination starts: s_y = 1 from the output, s_x = 1 from the input
        for start, last, found in (
            ("output", INPUT, closed_form(form, table)),
            ("input", output, mirrored_closed_form(form, table)),
        ):
            problem.check_time()
            if not found.multipliers or not 0 < found.rho < math.inf:
                continue
            for pad in PADS:
                sign = 1 if last == INPUT else -1
                multipliers = [m * (1 + pad) ** sign for m in found.multipliers]
                rho = prove(form, table, multipliers, last=last, rho=found.rho)
                if math.isfinite(rho):
                    if best is None or rho < best[0]:
                        best = rho, start, multipliers, last
                    break
        seconds = time.perf_counter() - begin
        if best is None:
            return Refusal(self.name, self.side, "refused", "its multipliers could not be proved", None, seconds)
        rho, start, multipliers, last = best
        proof = Lmi.of(self.name, form, last, rho, multipliers)
        details = {"from": start, "neurons": form.neurons}
        return Bound(self.name, self.side, "proved", sqrt_up(rho), seconds, None, details, proof)
