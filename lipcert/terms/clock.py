"""Until when what is being done may go on. Long computations ask at their own grain, so that a budget holds inside of them.

Two ends. At the first, the deadline, a search stops by itself and gives what it has (`late`). What knows no such answer,
a chain of norms or one sweep through a large network, is cut GRACE later: `tick`, which every node of a walk and every
block of a proof calls, raises OutOfTime, and whoever set the deadline says what that means. Ends only come nearer: what is
begun inside has no longer than what is around it. They belong to a thread; threads and processes that it starts have none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

GRACE = 0.6  # seconds

_program: list[float] = []
_hurried: ContextVar[bool] = ContextVar("hurried", default=False)
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


def program_began() -> None:
    """Said by the command line before it imports anything: imports count."""
    _program[:] = [time.monotonic()]


def began() -> float:
    """When this command began: the first one with its program, another one in the same process when it asks."""
    return _program.pop() if _program else time.monotonic()


class OutOfTime(BaseException):
    """Like KeyboardInterrupt none of `Exception`: a rule that tells any exception as its own refusal lets it through."""


@contextmanager
def until(deadline: float | None) -> Iterator[None]:
    """`deadline`: as `time.monotonic()` counts; None: as long as what is around it."""
    token = _deadline.set(min(_deadline.get(), math.inf if deadline is None else deadline))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def whole() -> Iterator[None]:
    """What is short and must not be cut, such as taking over a result."""
    token = _deadline.set(math.inf)
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def hurry() -> Iterator[None]:
    """As if the deadline were over: what can be had at once, before what is better."""
    token = _hurried.set(True)
    try:
        yield
    finally:
        _hurried.reset(token)


def forget() -> None:
    """In a fork, which somebody else watches."""
    _deadline.set(math.inf)


def tick() -> None:
    """Raises OutOfTime where the deadline and its grace are over."""
    end = _deadline.get()
    if end != math.inf and time.monotonic() > end + GRACE:
        raise OutOfTime


def late() -> bool:
    """The deadline is over: stop, and give what there is."""
    end = _deadline.get()
    return _hurried.get() or (end != math.inf and time.monotonic() > end)


def deadline() -> float | None:
    end = _deadline.get()
    return None if end == math.inf else end


def halfway(end: float | None) -> float | None:
    """Half of the time until `end`."""
    return None if end is None else (end + time.monotonic()) / 2


def left() -> float:
    """Seconds until `tick` raises; infinite without a deadline."""
    end = _deadline.get()
    return end if end == math.inf else end + GRACE - time.monotonic()
