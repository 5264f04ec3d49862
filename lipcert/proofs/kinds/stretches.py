"""Kind `stretches`: constants of signals at which the network is cut, each from those before it; every part has its own proof.

"steps": [{"from": str | null, "to": str, "constant": float, "proof": {..} | null}]

`from`, `to`: names of nodes; of several of one name the last has it, and the input and the output; the others have "#" and their
number behind it. With `from`: nothing reaches `to` but
through it, so that ||change of to|| <= L ||change of from|| with L the constant of the network between them, which `proof`
shows, of one of the kinds PARTS. Without: one inequality of `chain`, from signals of earlier steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.proofs.kinds.base import Proof, no_ranges, within
from lipcert.proofs.kinds.chain import Chain, bound_of
from lipcert.proofs.kinds.cplip import Cplip
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.kinds.torus import Torus
from lipcert.terms.errors import CertificateRejected, UsageError
from lipcert.terms.query import Norm
from lipcert.terms.strict import list_of, one_of, record, text_of

if TYPE_CHECKING:
    from lipcert.network.graph import Graph

PARTS: dict[str, type[Proof]] = {kind.kind: kind for kind in (Lmi, Torus, Chain, Cplip)}
SLACK = 1 + 2.0**-30  # of each step: another machine adds up in another order


@dataclass(frozen=True)
class StretchProof:
    """One step: the constant of `stop`, by `proof` of the network from `start`, or from earlier signals where both are None."""

    start: str | None
    stop: str
    constant: float
    proof: Proof | None


@dataclass(frozen=True)
class Stretches(Proof):
    parts: tuple[StretchProof, ...]

    kind = "stretches"
    names = ("steps",)
    trusted = (
        "networks between signals that everything passes: lipcert.network.subnet, lipcert.proofs.chain",
        *dict.fromkeys(line for kind in PARTS.values() for line in kind.trusted),
    )

    def shows(self, value: float, norm: Norm) -> float:
        return self.parts[-1].constant

    @classmethod
    def of(cls, method: str, parts: Sequence[StretchProof]) -> Stretches:
        """Each constant with one SLACK more than those it follows from."""
        from lipcert.rigor.rounding import mul_up

        loose, factor = [], 1.0
        for part in parts:
            factor = mul_up(factor, SLACK)
            loose.append(StretchProof(part.start, part.stop, mul_up(part.constant, factor), part.proof))
        return cls(method, tuple(loose))

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> Stretches:
        found = []
        for k, row in enumerate(list_of(fields["steps"], "proof.steps")):
            place = f"proof.steps[{k}]"
            record(row, place, ("from", "to", "constant", "proof"))
            start = None if row["from"] is None else text_of(row["from"], f"{place}.from")
            if (start is None) != (row["proof"] is None):
                raise CertificateRejected(place, "a step has both a signal to start from and a proof, or neither")
            constant = bound_of(row["constant"], f"{place}.constant")
            proof = None if start is None else _part(method, row["proof"], f"{place}.proof")
            found.append(StretchProof(start, text_of(row["to"], f"{place}.to"), constant, proof))
        return cls(method, tuple(found))

    def fields(self) -> dict[str, Any]:
        rows = []
        for part in self.parts:
            proof = None if part.proof is None else {"kind": part.proof.kind, **part.proof.fields()}
            rows.append({"from": part.start, "to": part.stop, "constant": part.constant, "proof": proof})
        return {"steps": rows}

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        found = []
        for part in self.parts:
            end = f"so |change of {part.stop}| <= {part.constant!r} |dx|"
            if part.proof is None or part.start is None:
                found.append(f"from the constants above, and norms of the linear parts between, {end}")
                continue
            found.append(f"everything that moves {part.stop} passes {part.start}; of the network between them:")
            found += part.proof.steps(self._between(graph, part, "proof"), norm)
            found.append(f"times the constant of {part.start}, {end}")
        return found

    def prove(self, graph: Graph, norm: Norm) -> float:
        from lipcert.network.subnet import named
        from lipcert.proofs.chain import start
        from lipcert.rigor.rounding import mul_up

        if norm != Norm("2", "2"):
            raise CertificateRejected("norm", f"the parts bound constants from l2 to l2, not {norm}")
        names = named(graph)
        known = {i: row[norm.output] for i, row in start(graph, norm).items()}
        for k, part in enumerate(self.parts):
            place = f"proof.steps[{k}]"
            if part.stop not in names:
                raise CertificateRejected(f"{place}.to", "the network has no signal of this name")
            if part.proof is None or part.start is None:
                shown = self._joined(graph, norm, known, names[part.stop], place)
            elif names.get(part.start) not in known:
                raise CertificateRejected(f"{place}.from", "no earlier step is about this signal")
            else:
                between = self._between(graph, part, place)
                with within(place):
                    shown = mul_up(known[names[part.start]], part.proof.prove(between, norm))
            if not shown <= part.constant:
                raise CertificateRejected(f"{place}.constant", f"{part.constant!r} does not follow, {shown!r} does")
            known[names[part.stop]] = part.constant
        return known.get(graph.output, math.inf)

    def _between(self, graph: Graph, part: StretchProof, place: str) -> Graph:
        from lipcert.network.subnet import cut, named

        names = named(graph)
        try:
            return cut(graph, names[part.start or ""], names[part.stop])
        except (UsageError, KeyError) as problem:
            raise CertificateRejected(place, str(problem)) from problem

    def _joined(self, graph: Graph, norm: Norm, known: dict[int, float], node: int, place: str) -> float:
        from lipcert.network.affine import Constants
        from lipcert.network.subnet import moving
        from lipcert.proofs.chain import Infinite, link, sources_of

        still = dict.fromkeys(set(sources_of(graph, node)) - moving(graph), 0.0)
        missing = [graph.nodes[i].name for i in sources_of(graph, node) if i not in known | still]
        if missing:
            raise CertificateRejected(f"{place}.to", f"it is made of {missing[0]}, which no earlier step is about")
        constants: dict[int, Constants] = {i: {norm.output: c} for i, c in (known | still).items()}
        try:
            return link(graph, node, constants, no_ranges)[norm.output]
        except Infinite as problem:
            raise CertificateRejected(place, problem.reason) from problem


def _part(method: str, value: Any, place: str) -> Proof:
    fields = value if isinstance(value, dict) else {}
    kind = PARTS[one_of(fields.get("kind"), f"{place}.kind", tuple(PARTS))]
    with within(place.removesuffix(".proof")):
        return kind.read(method, record(value, "proof", ("kind", *kind.names)), False)
