"""The two things a method can answer: a `Bound` or a `Refusal`. Side and rigor are part of the type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

Side = Literal["upper", "lower", "estimate"]
Rigor = Literal["proved", "numeric", "sampled"]


class NotABound(ValueError):
    """NaN, infinity or a negative number where a bound was to be: the method that came to it is refused."""


class Evidence(Protocol):
    """What shows a proved upper value again: a `Proof` of `lipcert.proofs.kinds`."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Bound:
    """One value for one query.

    `upper` and `proved`: holds in real arithmetic for the stored weights, our rounding included.
    `lower` and `sampled`: attained by `witness`, the rounding of its evaluation subtracted.
    """

    method: str
    side: Side
    rigor: Rigor
    value: float
    seconds: float = 0.0
    witness: Mapping[str, Any] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    proof: Evidence | None = field(default=None, repr=False, compare=False)  # what a certificate is made of

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or self.value < 0:
            raise NotABound(f"{self.method}: {self.value} is not a bound; return a Refusal that says why")


@dataclass(frozen=True)
class Refusal:
    """`refused`: this method cannot treat this model. `unbounded`: no finite constant exists at `node`.
    `timeout`: the budget was spent before any value was proved."""

    method: str
    side: Side
    status: Literal["refused", "unbounded", "timeout"]
    reason: str
    node: str | None = None
    seconds: float = 0.0


Result = Bound | Refusal
