"""What is asked: norms, region, output functional."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lipcert.errors import UsageError

if TYPE_CHECKING:
    import torch

P = Literal["1", "2", "inf"]
NORMS: tuple[P, ...] = ("1", "2", "inf")


@dataclass(frozen=True)
class Norm:
    """Input norm p and output norm q of the induced norm `||A||_{p->q} = max ||A x||_q / ||x||_p`."""

    input: P = "2"
    output: P = "2"

    def __post_init__(self) -> None:
        for name in (self.input, self.output):
            if name not in NORMS:
                raise UsageError(f"--norm {name}: norms are 1, 2 and inf")

    @classmethod
    def parse(cls, both: str | float | Norm) -> Norm:
        """`2`, `"inf"` (both sides) or `"1->2"`."""
        if isinstance(both, Norm):
            return both
        text = {"1.0": "1", "2.0": "2"}.get(str(both), str(both))
        parts = [part.strip() for part in text.split("->")]
        return cls(parts[0], parts[-1])  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.input if self.input == self.output else f"{self.input}->{self.output}"


@dataclass(frozen=True, eq=False)
class Box:
    """Axis-parallel box. `lower`, `upper`: float64 tensors of the model's input shape, lower <= upper."""

    lower: torch.Tensor
    upper: torch.Tensor


@dataclass(frozen=True, eq=False)
class Ball:
    """Closed ball `||x - center||_norm <= radius`. `center`: tensor of the model's input shape."""

    center: torch.Tensor
    radius: float
    norm: P = "2"


Region = Box | Ball | None  # None: the whole space


@dataclass(frozen=True)
class Output:
    """Output functional: the whole vector, one logit `i`, one difference of logits `i - j`, or all pairs."""

    kind: Literal["vector", "logit", "pair", "pairs"] = "vector"
    i: int | None = None
    j: int | None = None

    @classmethod
    def parse(cls, text: str | Output) -> Output:
        if isinstance(text, Output):
            return text
        if text in ("vector", "pairs"):
            return cls(text)  # type: ignore[arg-type]
        if re.fullmatch(r"\d+", text):
            return cls("logit", int(text))
        if match := re.fullmatch(r"(\d+)-(\d+)", text):
            i, j = int(match[1]), int(match[2])
            if i == j:
                raise UsageError(f"--output {text}: the two logits are the same")
            return cls("pair", i, j)
        raise UsageError(f"--output {text}: write vector, pairs, a logit such as 3, or a pair such as 3-5")

    def __str__(self) -> str:
        return {"vector": "vector", "pairs": "pairs", "logit": f"{self.i}", "pair": f"{self.i}-{self.j}"}[self.kind]
