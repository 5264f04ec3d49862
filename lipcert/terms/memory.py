"""How much memory dense blocks may take, and what libraries raise when there is none left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

GIGABYTES = 4.0  # GiB, unless more or less is asked for

_allowed: ContextVar[float] = ContextVar("allowed", default=GIGABYTES)

WORDS = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")


@contextmanager
def within(gigabytes: float | None) -> Iterator[None]:
    """GiB that the dense blocks of a method may take; None: as it is."""
    token = _allowed.set(allowed() if gigabytes is None else gigabytes)
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed() -> float:
    return _allowed.get()


def share() -> float:
    """Of what is usual: limits that are written for the usual allowance are multiplied by it."""
    return allowed() / GIGABYTES


def gigabytes(floats: float) -> float:
    """GiB of so many float64."""
    return floats * 8 / 2**30


def too_much(floats: float) -> str | None:
    """What is missing for so many float64 at once; None: nothing."""
    need = gigabytes(floats)
    return None if need <= allowed() else f"{need:.3g} GiB of dense blocks, over the {allowed():g} of --memory"


def out_of_memory(error: BaseException) -> bool:
    """MemoryError, and the RuntimeError that torch raises instead."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in said for word in WORDS))
