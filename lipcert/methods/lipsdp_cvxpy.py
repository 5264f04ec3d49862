"""`lipsdp-cvxpy`: LipSDP by a general SDP solver (SCS, Clarabel, MOSEK) through cvxpy. On request only.

The solver's objective and status are never reported: its multipliers are repaired like those of the sweeps and proved by
lmi.prove. Published solver values are often below what their own multipliers prove.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from lipcert.methods.lipsdp import Lipsdp, of_affine
from lipcert.methods.problem import L2, REGION, SPACE, Cost, Method, Problem
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.lmi import INPUT, Coefficients, coefficients, prove
from lipcert.proofs.normal_form import GROUPINGS, NormalForm
from lipcert.rigor.rounding import sqrt_up
from lipcert.sdp.multipliers import closed_form, depths, inflated, positive, restored
from lipcert.sdp.via_cvxpy import LARGEST, NoSolver, multipliers_by, rows_of
from lipcert.terms.result import Bound, Refusal, Result, Side

SOLVERS = tuple(LARGEST)
MARGINS = (1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)


@dataclass(frozen=True)
class LipsdpCvxpy(Method):
    """`solver`: SCS, CLARABEL or MOSEK, as cvxpy names them. `tolerance`: SCS's eps (0: its default).

    `multipliers`: "neuron", "channel" or "layer".
    """

    solver: str = "SCS"
    tolerance: float = 0.0
    multipliers: str = "neuron"

    name: ClassVar[str] = "lipsdp-cvxpy"
    side: ClassVar[Side] = "upper"
    where = SPACE | REGION
    norms = L2
    cost = Cost.PROGRAM
    on_request = True
    choices = MappingProxyType({"multipliers": (*GROUPINGS, "mixed"), "solver": SOLVERS})

    def refuses(self, problem: Problem) -> Refusal | None:
        found = self._form(problem)
        return found if isinstance(found, Refusal) else None

    def run(self, problem: Problem) -> Result:
        begin = time.perf_counter()
        form = self._form(problem)
        if isinstance(form, Refusal):
            return form
        if not form.layers:
            return of_affine(self.name, form, begin)
        table = coefficients(form)
        options: dict = {}
        if problem.deadline is not None and self.solver in ("SCS", "CLARABEL"):
            seconds = max(0.1, problem.deadline - time.monotonic())
            options = {"SCS": {"time_limit_secs": seconds}, "CLARABEL": {"time_limit": seconds}}[self.solver]
        if self.tolerance and self.solver == "SCS":
            options |= {"eps": self.tolerance, "max_iters": 10**6}
        problem.say(self.name)
        try:
            raw = multipliers_by(self.solver, form, table, options)
        except NoSolver as failed:
            return self._refusal(str(failed), begin, problem)
        best: tuple[float, list[Tensor]] | None = None
        for multipliers, rho in candidates(form, table, raw):
            proved = prove(form, table, multipliers, last=INPUT, rho=rho)
            if math.isfinite(proved) and (best is None or proved < best[0]):
                best = proved, multipliers
        if best is None:
            return self._refusal(f"the multipliers of {self.solver} could not be proved", begin, problem)
        rho, multipliers = best
        details = {"solver": self.solver, "multipliers": form.grouping, "neurons": form.neurons}
        proof = Lmi.of(self.name, form, INPUT, rho, multipliers)
        seconds = time.perf_counter() - begin
        return Bound(self.name, self.side, "proved", sqrt_up(rho), seconds, None, details, proof)

    def _form(self, problem: Problem) -> NormalForm | Refusal:
        if self.solver not in LARGEST:
            return self._refusal(f"solver {self.solver}: the solvers are {', '.join(LARGEST)}")
        form = Lipsdp(self.multipliers, name=self.name).form(problem)
        if isinstance(form, Refusal):
            return form
        rows = rows_of(form)
        if rows > LARGEST[self.solver]:
            return self._refusal(
                f"{rows} rows are more than {self.solver} can take ({LARGEST[self.solver]}): use lipsdp"
            )
        return form

    def _refusal(self, reason: str, begin: float | None = None, problem: Problem | None = None) -> Refusal:
        seconds = 0.0 if begin is None else time.perf_counter() - begin
        if problem is not None and problem.deadline is not None and time.monotonic() >= problem.deadline:
            reason += ", and the budget was spent: raise --budget"
            return Refusal(self.name, self.side, "timeout", reason, None, seconds)
        return Refusal(self.name, self.side, "refused", reason, None, seconds)


def candidates(form: NormalForm, table: Coefficients, raw: list[Tensor]) -> Iterator[tuple[list[Tensor], float]]:
    """Repairs of the solver's multipliers, gentlest first, each with the rho to expect. The clipped and inflated ones,
    those restored by elimination, and the closed form where there is nothing to repair."""
    if not raw:
        found = closed_form(form, table)
        yield found.multipliers, max(found.rho, 1e-300)
        return
    levels, clipped = depths(form, table), positive(raw)
    for margin in MARGINS:
        found = restored(form, table, clipped, margin)
        if found.multipliers and found.rho > 0:
            yield found.multipliers, found.rho
            yield inflated(found.multipliers, levels, margin, from_output=True), found.rho
