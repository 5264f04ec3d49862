"""What long work says of itself: handed down where it is called, or to whoever listens where that is too far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str, float | None, float | None], None]  # what is done, how far, of how much

_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextmanager
def heard(listener: Progress | None) -> Iterator[None]:
    """`listener`: who is told inside; None: as it is around it."""
    token = _listener.set(listener or _listener.get())
    try:
        yield
    finally:
        _listener.reset(token)


def tell(text: str, done: float | None = None, total: float | None = None) -> None:
    """From inside of a proof, which takes nothing but its numbers."""
    listener = _listener.get()
    if listener is not None:
        listener(text, done, total)
