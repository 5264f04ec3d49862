"""Kind `weighted`: constants between l1, l2 and linf, by matrix inequalities of the network between diagonal weights.

"parts": [{"input_weights": {..} | null, "output_weights": {..} | null,       of linf inputs, of l1 outputs; as multipliers
           "grouping", "last", "rho", "multipliers"}]                          as in kind `lmi`
One part for each input entry where the input norm is l1, times one for each output entry where the output norm is linf.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.proofs.kinds.base import NORMS, Proof
from lipcert.proofs.kinds.lmi import Lmi, in_base64, weights_of
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm
from lipcert.terms.strict import list_of, record

if TYPE_CHECKING:
    from torch import Tensor

    from lipcert.network.graph import Graph

Weights = tuple[float, ...] | None


@dataclass(frozen=True)
class WeightedPart:
    """The inequality of U f T, of one input entry or one output entry where the norms ask for it."""

    input: Weights
    output: Weights
    proof: Lmi


@dataclass(frozen=True)
class Weighted(Proof):
    parts: tuple[WeightedPart, ...]

    kind = "weighted"
    names = ("parts",)
    trusted = (
        "diagonal weights between l1, l2 and linf: lipcert.proofs.weighted",
        "the LipSDP matrix inequality and its proof by a factor whose residual is bounded: "
        "lipcert.proofs (normal_form, maxima, lmi), lipcert.rigor.psd",
        NORMS,
    )

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> Weighted:
        parts = []
        for k, row in enumerate(list_of(fields["parts"], "proof.parts")):
            place = f"proof.parts[{k}]"
            record(row, place, ("input_weights", "output_weights", *Lmi.names))
            before, after = (
                None if row[name] is None else weights_of(row[name], f"{place}.{name}")
                for name in ("input_weights", "output_weights")
            )
            parts.append(
                WeightedPart(before, after, Lmi.read(method, {name: row[name] for name in Lmi.names}, positions))
            )
        return cls(method, tuple(parts))

    def fields(self) -> dict[str, Any]:
        return {
            "parts": [
                {"input_weights": _shown(p.input), "output_weights": _shown(p.output), **p.proof.fields()}
                for p in self.parts
            ]
        }

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        return [
            f"{len(self.parts)} parts: of each input entry where the norm is l1, of each output entry where it is linf",
            "weights t of the inputs and u of the outputs: |x / t|_2 <= |1 / t|_2 |x|_inf and |y|_1 <= |1 / u|_2 |u y|_2",
            "the l2 constant of the network between the weights, by the matrix inequality of LipSDP, proved again for each part",
            "the constant is at most the largest |1 / t|_2 |1 / u|_2 times that l2 constant, rounded up",
        ]

    def prove(self, graph: Graph, norm: Norm) -> float:
        from lipcert.proofs import weighted
        from lipcert.rigor.rounding import mul_up

        wanted = weighted.parts(graph, norm)
        if len(wanted) != len(self.parts):
            raise CertificateRejected("proof.parts", f"{norm} has {len(wanted)} parts here, the file {len(self.parts)}")
        sizes = graph.nodes[graph.input].size, graph.nodes[graph.output].size
        worst = 0.0
        for k, (ends, part) in enumerate(zip(wanted, self.parts, strict=True)):
            for given, needed, size, name in (
                (part.input, norm.input == "inf", sizes[0], "input_weights"),
                (part.output, norm.output == "1", sizes[1], "output_weights"),
            ):
                if (given is not None) != needed or (given is not None and len(given) != size):
                    reason = f"{size if needed else 'no'} weights are needed for {norm}"
                    raise CertificateRejected(f"proof.parts[{k}].{name}", reason)
            t, u = _tensor(part.input), _tensor(part.output)
            value = part.proof.prove(weighted.between(graph, ends, t, u), Norm("2", "2"))
            shown = mul_up(mul_up(weighted.lost(t), weighted.lost(u)), value)
            worst = max(worst, shown) if shown >= 0 else math.inf  # max drops NaN
        return worst


def _tensor(weights: Weights) -> Tensor | None:
    import torch

    return None if weights is None else torch.tensor(weights, dtype=torch.float64)


def _shown(weights: Weights) -> dict[str, Any] | None:
    return None if weights is None else {"count": len(weights), "float64": in_base64(weights)}
