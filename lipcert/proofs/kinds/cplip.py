"""Kind `cplip`: a chain on the graph of segments between cuts (proofs/segments.py).

"passed": [int]     which nonlinearities are passed through a linear centre, counted from 0
"constants": ..     as of `chain`, for the graph of segments
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.proofs.kinds.base import NORMS, Proof, no_ranges
from lipcert.proofs.kinds.chain import Rows, follow, in_words, loosened, rows_of
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm, P
from lipcert.terms.strict import counts_of

if TYPE_CHECKING:
    from lipcert.network.graph import Graph


@dataclass(frozen=True)
class Cplip(Proof):
    """`passed`: which nonlinearities. `constants`: as in `Chain`, of the graph made by `segments.cut`. `positions`: both
    are positions in the graph (format 1)."""

    passed: tuple[int, ...]
    constants: Rows
    positions: bool = False

    kind = "cplip"
    names = ("passed", "constants")
    trusted = ("one inequality per signal between cuts: lipcert.proofs (segments, chain)", NORMS)

    @classmethod
    def of(cls, method: str, graph: Graph, passed: Iterable[int], constants: Sequence[Mapping[P, float]]) -> Cplip:
        """`passed`: nodes of `graph`. `constants`: of each signal of the graph of segments in turn."""
        return cls(method, tuple(sorted(graph.nonlinear.index(i) for i in passed)), loosened(constants))

    def shows(self, value: float, norm: Norm) -> float:
        return self.constants[-1][1][norm.output]

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> Cplip:
        return cls(method, counts_of(fields["passed"], "proof.passed"), rows_of(fields["constants"]), positions)

    def fields(self) -> dict[str, Any]:
        return {"passed": list(self.passed), "constants": [{"node": i, **row} for i, row in self.constants]}

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        from lipcert.proofs.chain import links
        from lipcert.proofs.segments import cut

        passed = self.passed if self.positions else tuple(graph.nonlinear[k] for k in self.passed)
        segments = cut(graph, passed, {norm.input, norm.output}, no_ranges)
        names = ", ".join(graph.nodes[i].name for i in passed) or "none"
        first = f"nonlinearities that are passed as centre plus deviation, dz = c dv + w with |w| <= h |dv|: {names}"
        return [first, *in_words(segments, norm, self.constants, links(segments))]

    def prove(self, graph: Graph, norm: Norm) -> float:
        from lipcert.proofs.chain import Infinite
        from lipcert.proofs.segments import cut, passable, segment_link

        nonlinear = graph.nonlinear
        passed = self.passed if self.positions else tuple(nonlinear[k] for k in self.passed if k < len(nonlinear))
        if len(passed) != len(self.passed) or list(passed) != sorted(set(passed) & set(passable(graph))):
            reason = "these are not different pointwise nodes of this network in order"
            raise CertificateRejected("proof.passed", reason)
        try:
            segments = cut(graph, passed, {norm.input, norm.output}, no_ranges)
        except Infinite as problem:
            raise CertificateRejected("proof.kind", problem.reason) from problem
        step = lambda node, known: segment_link(segments, node, known)  # noqa: E731
        return follow(segments, norm, self.constants, self.positions, step)
