"""Kind `torus`: multipliers of the LipSDP matrix inequality on a torus, which is proved again family by family of
frequencies (proofs/torus.py).

"maps": int                                            so many activations, in order, lie on feature maps; the others are dense
"rho": float                                           expected value of claim^2, for scaling
"multipliers": [{"count": int, "float64": base64}]     one per channel of each map, then one per neuron of the dense layers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.proofs.kinds.base import Proof
from lipcert.proofs.kinds.lmi import in_base64, weight_of, weights_of
from lipcert.terms.errors import CertificateRejected, RefusedModel
from lipcert.terms.memory import allowed
from lipcert.terms.query import Norm
from lipcert.terms.strict import count_of, list_of

if TYPE_CHECKING:
    from torch import Tensor

    from lipcert.network.graph import Graph
    from lipcert.proofs.torus_form import TorusForm


@dataclass(frozen=True)
class Torus(Proof):
    """`multipliers`: one tuple per layer, those on maps first."""

    maps: int
    rho: float
    multipliers: tuple[tuple[float, ...], ...]

    kind = "torus"
    names = ("maps", "rho", "multipliers")
    trusted = (
        "the LipSDP matrix inequality on a torus, and its proof by factors whose residuals are bounded: "
        "lipcert.proofs (kernels, torus_form, heads, couplings, torus, frequencies, lmi), lipcert.rigor.psd, libm's cos and sin to one unit in the last place",
    )

    @classmethod
    def of(cls, method: str, form: TorusForm, rho: float, multipliers: Sequence[Tensor]) -> Torus:
        """As `torus.prove` took them."""
        return cls(method, len(form.maps), float(rho), tuple(tuple(row.tolist()) for row in multipliers))

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> Torus:
        layers = list_of(fields["multipliers"], "proof.multipliers")
        return cls(
            method,
            count_of(fields["maps"], "proof.maps"),
            weight_of(fields["rho"], "proof.rho"),
            tuple(weights_of(layer, f"proof.multipliers[{k}]") for k, layer in enumerate(layers)),
        )

    def fields(self) -> dict[str, Any]:
        rows = [{"count": len(row), "float64": in_base64(row)} for row in self.multipliers]
        return {"maps": self.maps, "rho": self.rho, "multipliers": rows}

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        form = self._form(graph)
        sizes = " x ".join(map(str, form.torus(0)))
        names = [form.graph.nodes[site.node].name for site in form.maps]
        found = [
            f"{name}: one multiplier t > 0 for each of {site.channels} channels; the sum of t (dz - low dv)(high dv - dz) is >= 0"
            for name, site in zip(names, form.maps, strict=True)
        ]
        found += [
            f"{form.graph.nodes[layer.node].name}: one multiplier for each of {layer.count} neurons or blocks"
            for layer in form.flat
        ]
        return [
            *found,
            f"all maps are continued by zeros to a torus, the input to {sizes}: inside its window every signal is the same, and "
            "outside the sums only fall, so an inequality of the torus holds for the network",
            "a Fourier transform splits it into families of frequencies, each with a factor whose residual, rounding included, is "
            "smaller than what was taken off the diagonal",
            "so |dy|^2 <= rho |dx|^2, and the constant is at most the root of rho, rounded up",
        ]

    def _form(self, graph: Graph) -> TorusForm:
        from lipcert.proofs.torus_form import torus_form

        try:
            form = torus_form(graph, self.maps)
        except RefusedModel as problem:
            raise CertificateRejected("proof.kind", str(problem)) from problem
        if len(form.maps) != self.maps:
            raise CertificateRejected("proof.maps", f"{len(form.maps)} activations lie on maps, not {self.maps}")
        given = [len(row) for row in self.multipliers]
        if form.counts != given:
            raise CertificateRejected(
                "proof.multipliers", f"the layers take {form.counts} multipliers, the file has {given}"
            )
        return form

    def prove(self, graph: Graph, norm: Norm) -> float:
        import torch

        from lipcert.proofs.lmi import MEMORY_ENTRIES
        from lipcert.proofs.torus import prove
        from lipcert.proofs.torus_form import entries
        from lipcert.rigor.rounding import sqrt_up

        if norm != Norm("2", "2"):
            raise CertificateRejected("norm", f"the matrix inequality bounds the constant from l2 to l2, not {norm}")
        form = self._form(graph)
        if entries(form) > max(MEMORY_ENTRIES, allowed() * 2**27):
            raise CertificateRejected("proof.kind", "so many frequencies meet that their blocks are too large")
        return sqrt_up(prove(form, [torch.tensor(row, dtype=torch.float64) for row in self.multipliers], self.rho))
