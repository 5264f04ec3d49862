"""Ctrl-C, SIGTERM and SIGHUP end a command with 128 + their number at any moment, and leave its reports whole.

Three moments. AT_ONCE: while modules load, while options are read, while the table is printed; the process ends there. RAISED:
while the work is done; what is known then becomes a partial report. LATER: while that report is written; the process ends
when it is on the disk. A signal that was ignored when the command began (nohup, a job in the background) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from enum import Enum
from types import FrameType
from typing import Any, NoReturn

WORDS = {
    number: word
    for name, word in (("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "hung up"))
    if (number := getattr(signal, name, None)) is not None
}


class Moment(Enum):
    AT_ONCE = "at once"
    RAISED = "raised"
    LATER = "later"


class Interrupted(KeyboardInterrupt):
    """What `except KeyboardInterrupt` already waits for, with the number of the signal."""

    def __init__(self, number: int):
        super().__init__(WORDS[number])
        self.number = number


_moment = Moment.AT_ONCE
_raised: int | None = None  # the first signal that was raised; some code swallows or translates exceptions
_waiting: list[int] = []
RETRY = 0.02  # seconds
# Signals that wait for a report; a further one ends the process, for the report may go into a pipe that hangs.
PATIENCE = 2


def install() -> None:
    """Only the command line does this: signals of a program that uses the library are its own."""
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    os.register_at_fork(after_in_child=_forget)
    sys.unraisablehook = _dropped


def now(moment: Moment) -> None:
    global _moment
    _moment = moment


def raised() -> int | None:
    """The signal that ended the work, whatever exception has become of it."""
    return _raised


def waiting() -> bool:
    """A signal has come while nothing could be cut short: no more work is begun."""
    return bool(_waiting)


def status(number: int) -> int:
    return 128 + number


def end_if_waiting() -> None:
    """Where LATER ends: act upon a signal that came meanwhile."""
    now(Moment.AT_ONCE)
    if _waiting:
        _leave(_waiting[0])


def _handle(number: int, frame: FrameType | None) -> None:
    global _raised
    if _moment is Moment.AT_ONCE or len(_waiting) >= PATIENCE:
        _leave(number)
    if _moment is Moment.LATER:
        _waiting.append(number)
    elif _is_importing(frame):
        _again(number)
    elif not _is_handled(sys.exception()):  # a second one does not disturb what the first has begun
        _raised = _raised or number
        raise Interrupted(number)


def _is_importing(frame: FrameType | None) -> bool:
    """Inside the work, a module is being loaded: C++ of torch ends the process where it meets an exception there."""
    while frame is not None and frame.f_globals.get("__name__") != "lipcert.cli.run":
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _again(number: int) -> None:
    """A little later."""
    signal.signal(signal.SIGALRM, lambda _, frame: _handle(number, frame))
    signal.setitimer(signal.ITIMER_REAL, RETRY)


def _is_handled(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _leave(number: int) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:  # never waits for a reader
            os.write(2, f"lipcert: {WORDS[number]}\n".encode())
    os._exit(status(number))


def _forget() -> None:
    for number in WORDS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


def _dropped(unraisable: Any) -> None:
    """Raised in a `__del__` or a callback, where Python prints and drops it: raised again a little later."""
    error = unraisable.exc_value
    if isinstance(error, Interrupted):
        _again(error.number)
    else:
        sys.__unraisablehook__(unraisable)
