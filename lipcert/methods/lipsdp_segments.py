"""`lipsdp-segments`: LipSDP of stretches of a network, multiplied (MATH sections 3, 4 and 12).

A layer that no form of LipSDP takes (two convolutions without an activation between, a product of signals, too many dense
neurons) spoils nothing but itself: the network is cut beside it (sdp/cuts.py), and each stretch has the least of its norms,
of `lipsdp` and of `lipsdp-torus`. Constants multiply along the signals that everything passes, as in `cplip`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lipcert.methods.cplip import CplipBound
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.lipsdp_torus import UNTIL, LipsdpTorus, worth_asking
from lipcert.methods.problem import L2, SPACE, Cost, Method, Problem, missing
from lipcert.methods.product import ProductBound
from lipcert.network.graph import Graph
from lipcert.network.subnet import cut, moving, named
from lipcert.proofs.chain import Infinite, link
from lipcert.proofs.kinds.base import Proof
from lipcert.proofs.kinds.stretches import Stretches, StretchProof
from lipcert.rigor.rounding import mul_up
from lipcert.sdp.cuts import DENSE, Stretch, forms_of, stretches
from lipcert.terms.clock import OutOfTime, tick
from lipcert.terms.errors import RefusedModel
from lipcert.terms.result import Bound, Refusal, Result, Side

ENGINES: dict[str, Method] = {"torus": LipsdpTorus(), "dense": Lipsdp()}


def worth_cutting(graph: Graph) -> bool:
    """Whether it runs unasked: a convolutional network that no form takes as a whole."""
    if not worth_asking(graph) or graph.neurons > UNTIL:
        return False
    for form in forms_of(DENSE).values():
        try:
            form(graph)
            return False
        except RefusedModel:
            continue
    return True


@dataclass(frozen=True)
class LipsdpSegments(Method):
    """`dense`: neurons of a stretch of dense matrices, at most."""

    dense: int = DENSE

    name: ClassVar[str] = "lipsdp-segments"
    side: ClassVar[Side] = "upper"
    where = SPACE
    norms = L2
    cost = Cost.PROGRAM
    on_request = True

    def refuses(self, problem: Problem) -> Refusal | None:
        if not self.takes(problem.norm):
            return Refusal(self.name, self.side, "refused", f"LipSDP bounds the l2 constant, not {problem.norm}")
        found = ProductBound().refuses(replace(problem, region=None))
        return None if found is None else replace(found, method=self.name)

    def run(self, problem: Problem) -> Result:
        began = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        problem = replace(problem, region=None)  # what holds on the whole space holds there
        graph = problem.graph
        parts = stretches(graph, self.dense)
        if not parts:  # constant
            return replace(ProductBound().run(problem), method=self.name)
        try:
            steps = [self._by_norms(problem, part) for part in parts]
            _constants(problem, parts, steps)
        except Infinite as found:
            why = missing(problem, found.reason, graph.nodes[found.node].name)
            return Refusal(self.name, self.side, *why, time.perf_counter() - began)
        for k in self._order(graph, parts):
            if problem.deadline is not None and time.monotonic() >= problem.deadline:
                break
            steps[k] = self._by_forms(problem, parts, k, steps)
        known, ranged = _constants(problem, parts, steps)
        value, seconds = known[graph.output], time.perf_counter() - began
        if not math.isfinite(value):
            return Refusal(self.name, self.side, "refused", "the bound overflows float64", None, seconds)
        rows = [_row(graph, part, step) for part, step in zip(parts, steps, strict=True)]
        proof = None if ranged else Stretches.of(self.name, _compositions(graph, parts, steps, known))
        return Bound(self.name, self.side, "proved", value, seconds, None, {"segments": rows}, proof)

    def _order(self, graph: Graph, parts: list[Stretch]) -> list[int]:
        """Those that a form takes, the small ones first."""
        taken = [k for k, part in enumerate(parts) if part.forms]
        return sorted(taken, key=lambda k: _between(graph, parts[k]).neurons)

    def _by_norms(self, problem: Problem, part: Stretch) -> Bound | None:
        """The least of the formulas; None where earlier signals are joined."""
        tick()
        if part.start is None:
            return None
        inner = replace(problem, graph=_between(problem.graph, part), progress=None, known=[])
        found: list[Result] = [ProductBound().run(inner)]
        if not part.forms and inner.graph.neurons:
            found.append(CplipBound().run(inner))
        bounds = [f for f in found if isinstance(f, Bound) and f.proof is not None]
        if not bounds:
            place = next(i for i in problem.graph.nonlinear if part.start < i <= part.stop)
            why = [f.reason for f in found if isinstance(f, Refusal)]
            raise Infinite(
                place, why[0] if why else "what is known of it needs ranges, which no step of this method shows"
            )
        return min(bounds, key=lambda b: b.value)

    def _by_forms(self, problem: Problem, parts: list[Stretch], k: int, steps: list[Bound | None]) -> Bound | None:
        """The least of what is known of a stretch and what the forms that take it prove, in its share of the time."""
        graph, best = _between(problem.graph, parts[k]), steps[k]
        deadline = problem.deadline
        if deadline is not None:
            left = [p for p, s in zip(parts, steps, strict=True) if p.forms and (s is None or s.method not in _NAMES)]
            share = graph.neurons / max(1, sum(_between(problem.graph, p).neurons for p in left))
            deadline = time.monotonic() + (deadline - time.monotonic()) * min(1.0, share)
        for form in parts[k].forms:
            problem.say(f"{self.name}, {form}", k, len(parts))
            inner = replace(problem, graph=graph, deadline=deadline, known=[])
            try:
                found = ENGINES[form].refuses(inner) or ENGINES[form].run(inner)
            except OutOfTime:
                continue
            if isinstance(found, Bound) and (best is None or found.value < best.value):
                best = found
        return best


_NAMES = tuple(engine.name for engine in ENGINES.values())


def _between(graph: Graph, part: Stretch) -> Graph:
    assert part.start is not None
    return cut(graph, part.start, part.stop)


def _constants(problem: Problem, parts: list[Stretch], steps: list[Bound | None]) -> tuple[dict[int, float], bool]:
    """Of every signal where a stretch ends, and whether ranges were needed, which no certificate shows. Raises Infinite."""
    graph, asked = problem.graph, []

    def ranges() -> Any:
        asked.append(True)
        return problem.ranges

    known = dict.fromkeys(set(graph.nonlinear) - moving(graph), 0.0) | {graph.input: 1.0}
    for part, step in zip(parts, steps, strict=True):
        if part.start is not None and step is not None:
            known[part.stop] = mul_up(known[part.start], step.value)
        else:
            constants: Any = {i: {"2": c} for i, c in known.items()}
            known[part.stop] = link(graph, part.stop, constants, ranges)["2"]
    return known, bool(asked)


def _compositions(
    graph: Graph, parts: list[Stretch], steps: list[Bound | None], known: dict[int, float]
) -> list[StretchProof]:
    found, names = [], {i: name for name, i in named(graph).items()}
    for part, step in zip(parts, steps, strict=True):
        start = None if part.start is None else names[part.start]
        proof = None if step is None else step.proof
        assert proof is None or isinstance(proof, Proof)
        found.append(StretchProof(start, names[part.stop], known[part.stop], proof))
    return found


def _row(graph: Graph, part: Stretch, step: Bound | None) -> dict[str, Any]:
    """Of the report: from where to where, by what, and the constant of this stretch alone."""
    return {
        "from": None if part.start is None else graph.nodes[part.start].name,
        "to": graph.nodes[part.stop].name,
        "method": "norms" if step is None else step.method,
        "value": None if step is None else step.value,
    }
