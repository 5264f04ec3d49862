"""`lipsdp-torus`: the l2 constant of convolutional networks by LipSDP on a torus (MATH section 12).

Feature maps have one multiplier per channel; every padded convolution is part of a circular one, so that the matrix
inequality falls into small ones, one for each frequency, and networks of a million neurons are proved in seconds to
minutes. What is lost against the padded network is the padding, most on small maps: the last of them, as far as they are
small, are tried as dense layers as well, and the lesser value counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from lipcert.methods.lipsdp import has_maps, of_affine
from lipcert.methods.problem import L2, SPACE, Cost, Method, Problem
from lipcert.network.graph import Graph
from lipcert.proofs.kinds.torus import Torus
from lipcert.proofs.normal_form import normal_form
from lipcert.proofs.torus_form import TorusForm, entries, torus_form
from lipcert.sdp.torus import search
from lipcert.terms.errors import RefusedModel
from lipcert.terms.memory import too_much
from lipcert.terms.result import Bound, Refusal, Result, Side

# Neurons between which it runs unasked: below, LipSDP of every position is tighter and quick; from UNTIL on, where it would
# take many minutes, with the options QUICK, and above MOST only by name, with QUICK as well: ResNet-18 at 224x224 (2.5 million) is
# proved in three minutes, ResNet-34 (3.8) takes fifteen and more memory than `--memory` allows by itself.
FROM, UNTIL, MOST = 4_000, 300_000, 2_600_000
QUICK: Mapping[str, Any] = MappingProxyType({"tolerance": 0.1, "sweeps": 30, "dense": 0})


def worth_asking(graph: Graph) -> bool:
    """Whether it runs unasked: a convolutional network of a size for it."""
    return has_maps(graph) and FROM <= graph.neurons <= MOST


@dataclass(frozen=True)
class LipsdpTorus(Method):
    """`tolerance` of proved / dual - 1, `sweeps` at most; up to `dense` neurons behind the maps are dense."""

    tolerance: float = 1e-3
    sweeps: int = 400
    dense: int = 3500
    name: str = "lipsdp-torus"

    side: ClassVar[Side] = "upper"
    where = SPACE
    norms = L2
    cost = Cost.PROGRAM
    on_request = True
    choices = MappingProxyType({})

    def refuses(self, problem: Problem) -> Refusal | None:
        found = self.form(problem)
        return found if isinstance(found, Refusal) else None

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        form = self.form(problem)
        if isinstance(form, Refusal):
            return form
        found = search(form, self.tolerance, self.sweeps, problem.seed, problem.deadline, problem.say, problem.kept)
        shorter = self.shorter(problem, form)
        if shorter is not None and not (problem.deadline is not None and time.monotonic() >= problem.deadline):
            loose, few = max(self.tolerance, 5e-3), min(self.sweeps, 150)
            again = search(shorter, loose, few, problem.seed, problem.deadline, problem.say, problem.kept)
            if again.proved < found.proved:
                form, found = shorter, again
        seconds = time.perf_counter() - start
        if found.dual == 0 and not (constant := normal_form(problem.graph, "layer")).layers:
            return of_affine(self.name, constant, start)
        if not found.multipliers:
            late = problem.deadline is not None and time.monotonic() >= problem.deadline
            status = "timeout" if late else "refused"
            reason = f"no multipliers could be proved in {found.sweeps} sweeps"
            reason += ", and the budget was spent: raise --budget" if late else ""
            return Refusal(self.name, self.side, status, reason, None, seconds)  # type: ignore[arg-type]
        details = {
            "torus": list(form.torus(0)),
            "maps": len(form.maps),
            "dense_neurons": sum(layer.size for layer in form.flat),
            "multiplier_count": sum(form.counts),
            "neurons": form.neurons,
            "dual": found.dual,
            "gap": found.proved / found.dual - 1 if found.dual > 0 else None,
            "sweeps": found.sweeps,
            "proofs": found.proofs,
        }
        proof = Torus.of(self.name, form, found.rho, found.multipliers)
        return Bound(self.name, self.side, "proved", found.proved, seconds, None, details, proof)

    def shorter(self, problem: Problem, form: TorusForm) -> TorusForm | None:
        """The form whose last maps, as far as they are small, are dense: they lose no padding, and have a multiplier for each
        neuron. None: there are no such maps, or they are not the last things that happen."""
        room, maps = self.dense - sum(layer.size for layer in form.flat), len(form.maps)
        sizes = [site.channels * math.prod(site.window) for site in form.sites]
        while maps > 1 and sizes[maps] <= room:
            room -= sizes[maps]
            maps -= 1
        if maps == len(form.maps) or form.ends_on_map:
            return None
        try:
            return torus_form(problem.graph, maps)
        except RefusedModel:
            return None

    def form(self, problem: Problem) -> TorusForm | Refusal:
        if (problem.norm.input, problem.norm.output) != ("2", "2"):
            return Refusal(self.name, self.side, "refused", f"LipSDP bounds the l2 constant, not {problem.norm}")
        try:
            form = torus_form(problem.graph)
        except RefusedModel as error:
            other = "; lipsdp-segments cuts the network there" if has_maps(problem.graph) else ""
            return Refusal(self.name, self.side, "refused", f"{error}{other}", error.node)
        if (missing := too_much(entries(form))) is not None:
            return Refusal(self.name, self.side, "refused", f"so many frequencies meet that they need {missing}")
        return form
