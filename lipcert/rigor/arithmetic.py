"""Formats in which a network may be executed, and what is taken for granted of an execution in one of them.

The standard model (Higham, *Accuracy and Stability of Numerical Algorithms*, 2.2 and 3.1): an operation returns its exact
result times 1 + d, |d| <= u, plus what underflow takes; n of them in a row, in any order and with or without FMA, multiply
a term by at most 1 + gamma_n, gamma_n = n u / (1 - n u). Sums in a wider format are better than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FloatFormat:
    """`unit` roundoff u; `underflow`: most that one operation, or the conversion of one number, loses below the normal
    numbers; `largest` finite number."""

    name: str
    dtype: torch.dtype
    unit: float
    underflow: float
    largest: float
    below: str  # what underflow does, in words

    def gamma(self, n: int) -> float:
        """Upper value of n u / (1 - n u); inf where n u is no longer small."""
        grown = n * self.unit
        return grown / (1 - grown) * (1 + 2.0**-50) if grown < 0.5 else math.inf


FLUSHED, GRADUAL = "results below the normal numbers may become 0", "underflow is gradual"
ARITHMETICS: dict[str, FloatFormat] = {
    a.name: a
    for a in (
        FloatFormat("float32", torch.float32, 2.0**-24, 2.0**-126, (2 - 2.0**-23) * 2.0**127, FLUSHED),
        FloatFormat("bfloat16", torch.bfloat16, 2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127, FLUSHED),
        FloatFormat("float16", torch.float16, 2.0**-11, 2.0**-25, 65504.0, GRADUAL),
    )
}

_folding: ContextVar[FloatFormat | None] = ContextVar("folding", default=None)


def folding() -> FloatFormat | None:
    """The format in which constants are computed from stored ones just now; None: the real numbers."""
    return _folding.get()


@contextmanager
def folded_in(arithmetic: FloatFormat) -> Iterator[None]:
    """Inside, enclosures of constants hold what a runtime of this format computes of the stored numbers as well: the
    folded scale and shift of a normalisation, a weight divided by its norm."""
    token = _folding.set(arithmetic)
    try:
        yield
    finally:
        _folding.reset(token)
