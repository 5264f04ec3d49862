"""What is asked: norms, region, output functional."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lipcert.terms.errors import UsageError

if TYPE_CHECKING:
    import torch

P = Literal["1", "2", "inf"]
NORMS: tuple[P, ...] = ("1", "2", "inf")


def norm_name(given: Any) -> str:
    """The name of a norm as people write it: 2, 2.0, math.inf, "l2" (as reports show it), "Linf". Others stay as they are."""
    text = str(given).strip()
    name = text[1:] if text[:1] in ("l", "L") else text
    name = {"1.0": "1", "2.0": "2"}.get(name, name.lower())
    return name if name in NORMS else text


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
        text = str(both)
        parts = [norm_name(part) for part in text.split("->")]
        if len(parts) > 2 or any(part not in NORMS for part in parts):
            raise UsageError(f"--norm {text}: norms are 1, 2 and inf, or a pair such as 1->2")
        return cls(parts[0], parts[-1])  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.input if self.input == self.output else f"{self.input}->{self.output}"


SHOWN = 6  # coordinates that a repr shows


def _tensor(what: str, values: Any) -> torch.Tensor:
    """float64, where it is; numbers of Python are not rounded to float32 on the way. UsageError for what is no array of
    numbers."""
    import torch

    try:
        return torch.as_tensor(values, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as problem:
        raise UsageError(f"{what}: not an array of numbers: {problem}") from problem


@dataclass(frozen=True, eq=False)
class Box:
    """Axis-parallel box. `lower`, `upper`: lists, arrays or tensors of the model's input shape, lower <= upper; kept as
    float64 tensors."""

    lower: torch.Tensor
    upper: torch.Tensor

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            object.__setattr__(self, name, _tensor(f"Box: {name}", getattr(self, name)))

    def __repr__(self) -> str:
        lower, upper = self.lower.reshape(-1).tolist(), self.upper.reshape(-1).tolist()
        if len(lower) <= SHOWN and len(upper) <= SHOWN:
            return f"Box({lower}, {upper})"
        return f"Box({len(lower)} inputs within [{min(lower, default=0.0):g}, {max(upper, default=0.0):g}])"


@dataclass(frozen=True, eq=False)
class Ball:
    """Closed ball `||x - center||_norm <= radius`. `center`: list, array or tensor of the model's input shape; kept as
    a float64 tensor."""

    center: torch.Tensor
    radius: float | Any  # any number; kept as a float
    norm: P | Any = "2"  # or the number: 1, 2, math.inf; kept as its name

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", _tensor("Ball: center", self.center))
        try:
            object.__setattr__(self, "radius", float(self.radius))
        except (TypeError, ValueError) as problem:
            raise UsageError(f"Ball: the radius is a number, not {self.radius!r}") from problem
        object.__setattr__(self, "norm", norm_name(self.norm))

    def __repr__(self) -> str:
        center = self.center.reshape(-1).tolist()
        where = str(center) if len(center) <= SHOWN else f"<{len(center)} inputs>"
        return f"Ball({where}, {self.radius!r}, norm={self.norm!r})"


Region = Box | Ball | None  # None: the whole space


@dataclass(frozen=True)
class Output:
    """Output functional: the whole vector, one logit `i`, one difference of logits `i - j`, all pairs, or each logit."""

    kind: Literal["vector", "logit", "pair", "pairs", "each"] = "vector"
    i: int | None = None
    j: int | None = None

    @classmethod
    def parse(cls, text: str | Output) -> Output:
        if isinstance(text, Output):
            return text
        if text in ("vector", "pairs", "each"):
            return cls(text)  # type: ignore[arg-type]
        if re.fullmatch(r"\d+", text):
            return cls("logit", int(text))
        if match := re.fullmatch(r"(\d+)-(\d+)", text):
            i, j = int(match[1]), int(match[2])
            if i == j:
                raise UsageError(f"--output {text}: the two logits are the same")
            return cls("pair", i, j)
        raise UsageError(f"--output {text}: write vector, pairs, each, a logit such as 3, or a pair such as 3-5")

    def __str__(self) -> str:
        return {"logit": f"{self.i}", "pair": f"{self.i}-{self.j}"}.get(self.kind, self.kind)

    @property
    def many(self) -> bool:
        """Several functionals, one after the other; not one that a graph can end with."""
        return self.kind in ("pairs", "each")
