"""Kind `nonnegative`: nothing but the network itself, whose absolute values are taken (proofs/nonnegative.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lipcert.proofs.kinds.base import Proof, no_ranges
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm

if TYPE_CHECKING:
    from lipcert.network.graph import Graph


@dataclass(frozen=True)
class Nonnegative(Proof):
    kind = "nonnegative"
    trusted = ("the network of absolute values: lipcert.proofs.nonnegative, lipcert.rigor.matrix_norms",)

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        return [
            "every linear part A is replaced by its absolute coefficients |A|, every nonlinearity by its largest absolute slope",
            f"the product M of these bounds the Jacobian entry by entry, |J| <= M, so the l{norm.input} -> l{norm.output} norm "
            "of M, computed upward, bounds the constant",
        ]

    def prove(self, graph: Graph, norm: Norm) -> float:
        from lipcert.proofs.nonnegative import absolute_norm, obstacle

        found = obstacle(graph, no_ranges)
        if found is not None:
            raise CertificateRejected("proof.kind", found[2])
        value = absolute_norm(graph, norm, no_ranges)
        if value is None:
            raise CertificateRejected("norm", f"the norm {norm} needs too large a matrix")
        return value
