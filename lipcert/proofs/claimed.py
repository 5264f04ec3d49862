"""The question of a certificate, and what whoever verifies it has said of it himself: compared, never taken from the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lipcert.proofs.file import Certificate
from lipcert.proofs.inputs import held, input_shapes
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm, Output
from lipcert.terms.question import Question, Record, effective, frozen, short


def question_of(certificate: Certificate) -> Question:
    """Every field of the file but the claim and its proof."""
    from lipcert.network.scope import describe  # only here is torch needed

    network = certificate.network
    return Question(
        "verify",
        network.sha256,
        network.input_name,
        network.input_shape,
        held(network),
        network.mean,
        network.std,
        network.output_name,
        network.graph or "",  # format 2 names no graph: it is that of the model
        certificate.norm,
        frozen(describe(certificate.region)),
        str(certificate.output),
        Record(),
    )


@dataclass(frozen=True)
class Asked:
    """What the verifier says of the question; None: nothing. Units are one thing: with `mean` or `std` alone, the other
    is that of the model's own units."""

    norm: Norm | None = None
    output: Output | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_name: str | None = None
    output_name: str | None = None
    input_shape: tuple[int, ...] | None = None
    fixed: frozenset[str] = frozenset()  # whose values were said
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()  # by name, of several inputs

    @classmethod
    def of(
        cls,
        norm: str | Norm | None,
        output: str | Output | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        names: tuple[str | None, str | None],
        input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None,
        fix: Mapping[str, Any] | None = None,
    ) -> Asked:
        """As people write it. `names`: of the input and of the output."""
        named = input_shape if isinstance(input_shape, Mapping) else {}
        alone = None if input_shape is None or isinstance(input_shape, Mapping) else tuple(input_shape)
        return cls(
            None if norm is None else Norm.parse(norm),
            None if output is None else Output.parse(output),
            None if mean is None else tuple(float(v) for v in mean),
            None if std is None else tuple(float(v) for v in std),
            *names,
            alone,
            frozenset(fix or ()),
            tuple((name, tuple(shape)) for name, shape in named.items()),
        )

    @property
    def units(self) -> bool:
        return self.mean is not None or self.std is not None

    def compare(self, question: Question) -> None:
        """CertificateRejected at the first field that differs."""
        sides: list[tuple[str, Any, Any]] = [
            ("model.input_name", self.input_name, question.input_name),
            ("model.input_shape", self.input_shape, question.input_shape),
            ("model.output_name", self.output_name, question.output_name),
            ("norm", self.norm, question.norm),
            ("scope.output", None if self.output is None else str(self.output), question.output),
        ]
        if self.units:
            sides[2:2] = [
                ("model.mean", effective(self.mean, 0.0), effective(question.mean, 0.0)),
                ("model.std", effective(self.std, 1.0), effective(question.std, 1.0)),
            ]
        for place, mine, claimed in sides:
            if mine != claimed and (mine is not None or place in ("model.mean", "model.std")):
                reason = f"the certificate is about {_words(claimed)}, and {_words(mine)} was asked for"
                raise CertificateRejected(place, reason)

    def compare_shapes(self, certificate: Certificate) -> None:
        """Of what was said by name. CertificateRejected at the first that differs."""
        moving, held = input_shapes(certificate.network)
        for name, mine in self.shapes:
            claimed = {**held, **moving}.get(name)
            if claimed != mine:
                about = f"no input {name}" if claimed is None else f"{name} of shape {_words(claimed)}"
                reason = f"the certificate is about {about}, and {_words(mine)} was asked for"
                raise CertificateRejected(
                    "model.input_shape" if name not in held else f"model.fixed.{name}.shape", reason
                )

    def chosen_by_prover(self, certificate: Certificate) -> list[str]:
        """The parts of `question.scope()` that nobody but the certificate says."""
        moving, held = input_shapes(certificate.network)
        shapes = self.input_shape is not None or moving.keys() <= {name for name, _ in self.shapes}
        said = {
            "input_name": self.input_name is not None and shapes and held.keys() <= self.fixed,
            "units": self.units,
            "output_name": self.output_name is not None and self.output is not None,
            "norm": self.norm is not None,
        }
        return [name for name, by_us in said.items() if not by_us]


def _words(value: Any) -> str:
    if value is None:
        return "none (the model's own units)"
    return f"l{value.input} -> l{value.output}" if isinstance(value, Norm) else short(value)
