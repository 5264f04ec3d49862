"""`lipsdp`: the l2 constant by LipSDP (Fazlyab et al. 2019), found by dual sweeps and proved by one Cholesky (sdp/).

Neurons, channels or layers share a multiplier (MATH section 4b): coarser is cheaper and looser, the engine is the same.
The value is what lmi.prove says of the multipliers; the dual value only measures how far from optimal they are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from lipcert.methods.problem import L2, REGION, SPACE, Cost, Method, Problem
from lipcert.methods.settled import best_ranges
from lipcert.network.affine import Path
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.lmi import INPUT, coefficients, entries
from lipcert.proofs.maxima import without_maxima
from lipcert.proofs.normal_form import GROUPINGS, NormalForm, normal_form
from lipcert.sdp.solve import Settings, solve
from lipcert.terms.clock import OutOfTime
from lipcert.terms.errors import RefusedModel
from lipcert.terms.memory import too_much
from lipcert.terms.result import Bound, Refusal, Result, Side


@dataclass(frozen=True)
class Lipsdp(Method):
    """`multipliers`: "neuron", "channel", "layer", or "mixed" (neurons where they fit, channels else).
    `tolerance` of proved / dual - 1 (0: by size), `sweeps` at most."""

    multipliers: str = "mixed"
    tolerance: float = 0.0
    sweeps: int = 1500
    name: str = "lipsdp"

    side: ClassVar[Side] = "upper"
    refines: ClassVar[str | None] = "lipsdp-layer"  # what an earlier method proved holds here too
    where = SPACE | REGION
    norms = L2
    cost = Cost.PROGRAM
    choices = MappingProxyType({"multipliers": (*GROUPINGS, "mixed")})

    def refuses(self, problem: Problem) -> Refusal | None:
        found = self.form(problem)
        return found if isinstance(found, Refusal) else None

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        form = self.form(problem)
        if isinstance(form, Refusal):
            return form
        if not form.layers:
            return of_affine(self.name, form, start)
        coarser = self.coarser(problem)
        settings = Settings(self.tolerance, self.sweeps, problem.seed)
        try:
            solution = solve(form, coefficients(form), settings, problem.deadline, problem.say)
        except OutOfTime:  # in the coefficients
            if coarser is None:
                raise
            return replace(coarser, seconds=time.perf_counter() - start)
        seconds = time.perf_counter() - start
        info = solution.info
        if coarser is not None and coarser.value < info.proved:
            return replace(coarser, seconds=seconds)
        if not solution.multipliers:
            late = problem.deadline is not None and time.monotonic() >= problem.deadline
            status = "timeout" if late else "refused"
            reason = f"no multipliers could be proved in {info.sweeps} sweeps"
            reason += ", and the budget was spent: raise --budget" if status == "timeout" else ""
            return Refusal(self.name, self.side, status, reason, None, seconds)  # type: ignore[arg-type]
        details = {
            "multipliers": form.grouping,
            "multiplier_count": form.multipliers,
            "neurons": form.neurons,
            "dual": info.dual,
            "gap": info.gap if info.dual > 0 else None,
            "sweeps": info.sweeps,
            "newton": info.newton,
            "proofs": info.proofs,
            "source": info.source,
        }
        proof = Lmi.of(self.name, form, solution.last, info.proved * info.proved, solution.multipliers)
        return Bound(self.name, self.side, "proved", info.proved, seconds, None, details, proof)

    def coarser(self, problem: Problem) -> Bound | None:
        """What is proved with one multiplier per layer, as a value of this method: they are among those that it chooses
        from, so that it is never above, wherever it is cut off."""
        for result in problem.known:
            if self.refines == result.method and isinstance(result, Bound) and isinstance(result.proof, Lmi):
                details = {**result.details, "source": result.method}
                return replace(result, method=self.name, details=details, proof=replace(result.proof, method=self.name))
        return None

    def form(self, problem: Problem) -> NormalForm | Refusal:
        if (problem.norm.input, problem.norm.output) != ("2", "2"):
            return Refusal(self.name, self.side, "refused", f"LipSDP bounds the l2 constant, not {problem.norm}")
        wanted = ["neuron", "channel", "layer"] if self.multipliers == "mixed" else [self.multipliers]
        assert all(grouping in GROUPINGS for grouping in wanted)
        try:
            ranges = None if problem.region is None else best_ranges(without_maxima(problem.graph), problem.region)
            form = normal_form(problem.graph, wanted[0], ranges)
            need = entries(form)
        except RefusedModel as error:
            return Refusal(self.name, self.side, "refused", str(error), error.node)
        if (missing := too_much(need)) is not None:
            return Refusal(self.name, self.side, "refused", f"{form.neurons} neurons need {missing}")
        return form


def of_affine(method: str, form: NormalForm, began: float) -> Bound:
    """Of a network that is affine on its region, constant ones among them: no neuron is free, and L is the norm of a matrix."""
    value = Path(form.graph, form.graph.input, form.graph.output).norm_upper("2", "2")
    proof = Lmi.of(method, form, INPUT, value * value, [])
    return Bound(method, "upper", "proved", value, time.perf_counter() - began, proof=proof)


@dataclass(frozen=True)
class LipsdpLayer(Lipsdp):
    """One multiplier per layer, which are among those that `lipsdp` chooses from."""

    multipliers: str = "layer"
    name: str = "lipsdp-layer"

    where = SPACE
    cost = Cost.SWEEPS
    choices = MappingProxyType({})
    refined_by = "lipsdp"
    refines = None
