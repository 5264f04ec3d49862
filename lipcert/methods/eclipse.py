"""`eclipse`: LipSDP multipliers in closed form (ECLipsE-Fast, Xu & Sivaranjani 2024), the better of two orientations.

One multiplier per layer, from the output on or, on the transposed network, from the input on; no optimisation, one
factorisation each. The value is what lmi.prove says of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.lipsdp import Lipsdp, of_affine
from lipcert.methods.problem import L2, Method, Problem
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.lmi import coefficients
from lipcert.rigor.rounding import sqrt_up
from lipcert.sdp.closed import proved_closed_form
from lipcert.terms.result import Bound, Refusal, Result, Side


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
        if not form.layers:
            return of_affine(self.name, form, begin)
        table = coefficients(form)
        best = proved_closed_form(form, table, problem.check_time)
        seconds = time.perf_counter() - begin
        if best is None:
            return Refusal(self.name, self.side, "refused", "its multipliers could not be proved", None, seconds)
        proof = Lmi.of(self.name, form, best.last, best.rho, best.multipliers)
        details = {"from": best.start, "neurons": form.neurons}
        return Bound(self.name, self.side, "proved", sqrt_up(best.rho), seconds, None, details, proof)
