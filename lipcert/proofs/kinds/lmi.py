"""Kind `lmi`: multipliers of the LipSDP matrix inequality, which is proved again by a factor (proofs/lmi.py).

"grouping": "neuron" | "channel" | "layer", "last": "input" | "output",
"rho": float                                           scaling of the last block, about claim^2
"multipliers": [{"count": int, "float64": base64}]     one per layer of the normal form, little-endian binary64
"""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.proofs.kinds.base import NORMS, Proof
from lipcert.terms.errors import CertificateRejected, RefusedModel
from lipcert.terms.memory import allowed
from lipcert.terms.query import Norm
from lipcert.terms.strict import count_of, float_of, list_of, one_of, record, reject

if TYPE_CHECKING:
    from torch import Tensor

    from lipcert.network.graph import Graph
    from lipcert.proofs.normal_form import NormalForm

# Multipliers and rho: proofs/lmi.py scales by powers of two up to 2^250, beyond which it cannot bring a diagonal near 1.
SMALLEST, LARGEST = 2.0**-500, 2.0**500


@dataclass(frozen=True)
class Lmi(Proof):
    """`multipliers`: one tuple per layer of the normal form."""

    grouping: str
    last: str
    rho: float
    multipliers: tuple[tuple[float, ...], ...]

    kind = "lmi"
    names = ("grouping", "last", "rho", "multipliers")
    trusted = (
        "the LipSDP matrix inequality and its proof by a factor whose residual is bounded: "
        "lipcert.proofs (normal_form, lmi), lipcert.rigor.psd",
        NORMS,
    )

    @classmethod
    def of(cls, method: str, form: NormalForm, last: int, rho: float, multipliers: Sequence[Tensor]) -> Lmi:
        """As `lmi.prove` took them. `last`: which block, `rho`: no more than its scaling."""
        rows = tuple(tuple(row.tolist()) for row in multipliers)
        return cls(method, form.grouping, "output" if last else "input", min(max(float(rho), SMALLEST), LARGEST), rows)

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> Lmi:
        layers = list_of(fields["multipliers"], "proof.multipliers")
        return cls(
            method,
            one_of(fields["grouping"], "proof.grouping", ("neuron", "channel", "layer")),
            one_of(fields["last"], "proof.last", ("input", "output")),
            weight_of(fields["rho"], "proof.rho"),
            tuple(weights_of(layer, f"proof.multipliers[{k}]") for k, layer in enumerate(layers)),
        )

    @property
    def tensors(self) -> list[Tensor]:
        import torch

        return [torch.tensor(row, dtype=torch.float64) for row in self.multipliers]

    def block(self, layers: int) -> int:
        """Which variable is last, of the normal form with so many layers."""
        return 0 if self.last == "input" else layers + 1

    def fields(self) -> dict[str, Any]:
        rows = [{"count": len(row), "float64": in_base64(row)} for row in self.multipliers]
        return {"grouping": self.grouping, "last": self.last, "rho": self.rho, "multipliers": rows}

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        from lipcert.proofs.normal_form import normal_form

        form = normal_form(graph, self.grouping)
        found = [
            f"{form.graph.nodes[layer.node].name}: slopes in [{float(layer.low.min()):g}, {float(layer.high.max()):g}], so for "
            f"multipliers t > 0 the sum of t (dz - low dv)(high dv - dz) over its {layer.size} entries is >= 0; "
            f"{len(row)} multipliers, one per {self.grouping}"
            for layer, row in zip(form.layers, self.multipliers, strict=True)
        ]
        size = sum(len(row) for row in self.multipliers)
        return [
            *found,
            f"with these {size} multipliers, rho |dx|^2 - |dy|^2 minus the sums is a quadratic form of all changes",
            "its matrix is positive semidefinite: a Cholesky factor exists whose residual, rounding included, is smaller than "
            "what was taken off the diagonal",
            "so |dy|^2 <= rho |dx|^2, and the constant is at most the root of rho, rounded up",
        ]

    def prove(self, graph: Graph, norm: Norm) -> float:
        from lipcert.network.affine import Path
        from lipcert.proofs.lmi import MEMORY_ENTRIES, coefficients, entries, prove
        from lipcert.proofs.normal_form import normal_form
        from lipcert.rigor.rounding import sqrt_up

        if norm != Norm("2", "2"):
            raise CertificateRejected("norm", f"the matrix inequality bounds the constant from l2 to l2, not {norm}")
        try:
            form = normal_form(graph, self.grouping)
        except RefusedModel as problem:
            raise CertificateRejected("proof.kind", str(problem)) from problem
        counts, given = [layer.count for layer in form.layers], [len(row) for row in self.multipliers]
        if counts != given:
            raise CertificateRejected(
                "proof.multipliers", f"the layers take {counts} multipliers, the file has {given}"
            )
        if not form.layers:  # affine
            return Path(form.graph, form.graph.input, form.graph.output).norm_upper("2", "2")
        if entries(form) > max(MEMORY_ENTRIES, allowed() * 2**27):
            raise CertificateRejected("proof.kind", f"{form.neurons} neurons are too many for one matrix inequality")
        last = self.block(len(form.layers))
        return sqrt_up(prove(form, coefficients(form), self.tensors, last=last, rho=self.rho))


def weight_of(value: Any, place: str) -> float:
    number = float_of(value, place)
    if not SMALLEST <= number <= LARGEST:
        reject(place, f"{number!r} is outside 2^-500 .. 2^500")
    return number


def weights_of(value: Any, place: str) -> tuple[float, ...]:
    return floats_of(value, place, weight_of)


def floats_of(value: Any, place: str, number: Callable[[Any, str], float]) -> tuple[float, ...]:
    """{"count": int, "float64": base64}, each of them read by `number`."""
    fields = record(value, place, ("count", "float64"))
    count = count_of(fields["count"], f"{place}.count")
    text = fields["float64"]
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as problem:
        raise CertificateRejected(f"{place}.float64", f"not base64: {problem}") from problem
    if not isinstance(text, str) or base64.b64encode(data).decode() != text:
        reject(f"{place}.float64", "not canonical base64")
    if len(data) != 8 * count:
        reject(f"{place}.count", f"{count} floats are announced, {len(data)} bytes follow")
    numbers = array("d", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(number(v, f"{place}.float64[{i}]") for i, v in enumerate(numbers))


def in_base64(row: tuple[float, ...]) -> str:
    numbers = array("d", row)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
