"""`lipsdp`: the l2 constant by LipSDP (Fazlyab et al. 2019), found by dual sweeps and proved by one Cholesky (sdp/).

Neurons, channels or layers share a multiplier (MATH section 4b): coarser is cheaper and looser, the engine is the same.
The value is what lmi.prove says of the multipliers; the dual value only measures how far from optimal they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from lipcert.methods.problem import L2, REGION, SPACE, Cost, Method, Problem
from lipcert.methods.settled import best_ranges
from lipcert.network.affine import Path
from lipcert.network.edit import row_of, with_output
from lipcert.network.graph import Graph, Linear
from lipcert.operators.linear import Conv
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.lmi import INPUT, coefficients, entries
from lipcert.proofs.maxima import without_maxima
from lipcert.proofs.normal_form import GROUPINGS, NormalForm, normal_form
from lipcert.regions.device import proving_on
from lipcert.sdp import together
from lipcert.sdp.narrow import narrow
from lipcert.sdp.solve import Settings, solve
from lipcert.terms.clock import OutOfTime
from lipcert.terms.errors import RefusedModel
from lipcert.terms.memory import too_much
from lipcert.terms.query import Output
from lipcert.terms.result import Bound, Refusal, Result, Side

IN_STEP = 1500  # neurons up to which functionals are swept in step: in larger networks the products take the time
ROWS = 8  # coupled samples of each: one output needs fewer than many


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
    at_once = 64
    choices = MappingProxyType({"multipliers": (*GROUPINGS, "mixed")})

    def refuses(self, problem: Problem) -> Refusal | None:
        found = self.form(problem)
        return found if isinstance(found, Refusal) else None

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        form = self.form(problem)
        if isinstance(form, Refusal):
            return form
        try:
            return self.better(self.solved(problem, form, start), problem)
        except OutOfTime:  # in the coefficients
            if (coarser := self.coarser(problem)) is None:
                raise
            return replace(coarser, seconds=time.perf_counter() - start)

    def run_together(self, problem: Problem, outputs: Sequence[Output]) -> list[list[Result]] | None:
        """Swept in step (sdp/together.py), then searched and proved one by one from there."""
        start = time.perf_counter()
        form = self.form(problem)
        if len(outputs) < 2 or isinstance(form, Refusal) or not 0 < form.neurons <= IN_STEP:
            return None
        if narrow(form):  # by Newton's method
            return None
        size = problem.graph.nodes[problem.graph.output].size
        rows = torch.stack([row_of(output, size) for output in outputs])
        aim = Settings(self.tolerance).wanted(form.neurons) / 10
        problem.say(f"{self.name}: {len(outputs)} in step")
        with proving_on(problem.device):
            there = form.on(problem.device)
            begun = together.begun(there, rows.to(problem.device), ROWS, aim, problem.seed, problem.deadline)
        share = (time.perf_counter() - start) / len(outputs)
        each = zip(outputs, begun, strict=True)
        return [[self._from(begin, form, problem, output, share)] for output, begin in each]

    def _from(
        self, begin: Tensor | None, whole: NormalForm, problem: Problem, output: Output, seconds: float
    ) -> Result:
        """Of one output, from a state of the sweeps; `seconds`: what its share in that took."""
        start = time.perf_counter() - seconds
        one = replace(problem, graph=with_output(problem.graph, output), progress=None, known=[], aside=[])
        try:
            form = self.form(one)
            if isinstance(form, Refusal):
                return form
            same = [layer.size for layer in form.layers] == [layer.size for layer in whole.layers]
            return self.solved(one, form, start, begin if same else None)
        except OutOfTime:
            return self._cut_off("the budget was spent: raise --budget", start)

    def solved(self, problem: Problem, form: NormalForm, start: float, begin: Tensor | None = None) -> Result:
        if not form.layers:
            return of_affine(self.name, form, start)
        settings = Settings(self.tolerance, self.sweeps, problem.seed)
        device = "cpu" if narrow(form) else problem.device  # small blocks one after the other
        with proving_on(device):
            there = form.on(device)
            solution = solve(there, coefficients(there), settings, problem.deadline, problem.say, begin)
        info = solution.info
        if not solution.multipliers:
            late = problem.deadline is not None and time.monotonic() >= problem.deadline
            reason = f"no multipliers could be proved in {info.sweeps} sweeps"
            if late:
                return self._cut_off(f"{reason}, and the budget was spent: raise --budget", start)
            return Refusal(self.name, self.side, "refused", reason, None, time.perf_counter() - start)
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
        multipliers = [row.cpu() for row in solution.multipliers]
        proof = Lmi.of(self.name, form, solution.last, info.proved * info.proved, multipliers)
        return Bound(self.name, self.side, "proved", info.proved, time.perf_counter() - start, None, details, proof)

    def _cut_off(self, reason: str, start: float) -> Refusal:
        return Refusal(self.name, self.side, "timeout", reason, None, time.perf_counter() - start)

    def better(self, found: Result, problem: Problem) -> Result:
        coarser = self.coarser(problem)
        if coarser is None or (isinstance(found, Bound) and found.value <= coarser.value):
            return found
        return replace(coarser, seconds=found.seconds)

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
            other = "; lipsdp-torus takes feature maps of any size" if has_maps(problem.graph) else ""
            return Refusal(self.name, self.side, "refused", f"{form.neurons} neurons need {missing}{other}")
        return form


def has_maps(graph: Graph) -> bool:
    """Whether there are convolutions."""
    return any(isinstance(node.what, Linear) and isinstance(node.what.operator, Conv) for node in graph.nodes)


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
    at_once = 0
    run_together = Method.run_together
