"""A forked child that answers questions about a file: bounded time and memory, no output, nothing but data comes back.

The child is born with what the parent has imported, gives up all it can (`confine`), then calls `serve` once and answers
one question after the other. Where it says what it is about to do (`step`), the parent limits that step's time and names
it in the error.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import functools
import gc
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lipcert.sandbox.confine import confine, die_with_parent
from lipcert.sandbox.wire import NotData, pack, unpack
from lipcert.terms import clock
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, UsageError, printable

Answer = Callable[..., Any]

TOTAL = 3600.0  # seconds of a child's life
STILL = 30.0  # seconds without processor time after which a child waits for a lock that no thread of it will release
DESCRIPTORS = 16  # a child opens files of its own beside its two pipes
_KINDS: dict[str, type[LipcertError]] = {kind.__name__: kind for kind in (RefusedModel, UnreadableError, UsageError)}
_OUT_OF_MEMORY = ("can't allocate", "bad_alloc", "out of memory", "cannot allocate memory", "storage size calculation")
_MESSAGE = 4000  # characters of an error that are told
_speaker: _Speaker | None = None  # in a child: the pipe to its parent


class Child:
    """`ask(name, *values)` calls, in the child, `serve(*arguments)[name](*values)`; values and answers are plain data.

    `arguments` reach the child by the fork, as they are. `readable`: files and folders that it may open. `seconds`: wall
    time of each answer outside any `step`, the call of `serve` included. A refusal of the child is raised as it is; other
    exceptions, time-outs and deaths as `error`. After any of them the child is gone.
    """

    def __init__(
        self,
        serve: Callable[..., dict[str, Answer]],
        *arguments: Any,
        readable: Sequence[Path] = (),
        seconds: float = 60.0,
        gigabytes: float = 8.0,
        what: str = "",
        error: type[LipcertError] = RefusedModel,
    ):
        self.seconds, self.gigabytes, self.what, self.error = seconds, gigabytes, what, error
        self.end = time.monotonic() + TOTAL
        self.status: int | None = None
        self.used, self.since = 0, time.monotonic()
        _enough_descriptors(what)
        try:
            to_child, self.writer = os.pipe()
            self.reader, to_parent = os.pipe()
            sys.stdout.flush()
            sys.stderr.flush()
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # Python 3.12: fork with threads; the child uses one
                self.pid = os.fork()
        except (OSError, ValueError) as problem:  # no descriptors or no processes left, or a closed stream
            raise UnreadableError(f"{what}: no process can be started to read it in ({problem})") from problem
        if self.pid == 0:
            _live(to_child, to_parent, serve, arguments, readable, gigabytes)  # never returns
        os.close(to_child)
        os.close(to_parent)
        os.set_blocking(self.writer, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.reader, fcntl.F_SETPIPE_SZ, 1 << 20)

    def start(self) -> Any:
        """The answer to the call of `serve` itself."""
        return self._answer()

    def ask(self, name: str, *values: Any) -> Any:
        if self.status is not None:
            raise self.error(f"{self.what}: the process that held it is gone")
        with contextlib.suppress(OSError):  # it died; the answer tells how
            self._send([name, list(values)])
        return self._answer()

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._wait()

    def _wait(self) -> int:
        if self.status is None:
            try:
                self.status = os.waitpid(self.pid, 0)[1]
            except ChildProcessError:  # somebody else's handler waited for it
                self.status = 0
            os.close(self.reader)
            os.close(self.writer)
        return self.status

    def _send(self, value: Any) -> None:
        deadline = time.monotonic() + self.seconds
        for piece in pack(value):
            view = memoryview(piece)
            while view:
                if not select.select([], [self.writer], [], max(0.0, deadline - time.monotonic()))[1]:
                    return  # it does not listen: the answer will not come either
                view = view[os.write(self.writer, view) :]

    def _answer(self) -> Any:
        what, error, deadline = self.what, self.error, time.monotonic() + self.seconds
        limit = self.seconds
        try:
            while True:
                kind, *rest = unpack(functools.partial(self._read, min(deadline, self.end)))
                if kind == "step":  # what it does next, and for how long it may
                    what, limit, error = printable(str(rest[0]))[:500], float(rest[1]), _KINDS.get(rest[2], self.error)
                    deadline = time.monotonic() + limit
                elif kind == "done":
                    what, error, limit = self.what, self.error, self.seconds
                    deadline = time.monotonic() + limit
                else:
                    break
        except TimeoutError:
            self.close()
            raise error(f"{what}: stopped after the {limit:g} s it may take; it is endless or too slow") from None
        except EOFError:
            raise error(f"{what}: {_how_it_died(self._wait())}") from None
        except (NotData, TypeError, ValueError, LookupError, MemoryError) as problem:
            self.close()
            raise error(f"{what}: the process that read it said something that is no answer") from problem
        except BaseException:  # an interrupt
            self.close()
            raise
        if kind == "ok" and len(rest) == 1:
            return rest[0]
        self._fail(kind, rest, what, error)

    def _fail(self, kind: Any, rest: list[Any], what: str, error: type[LipcertError]) -> NoReturn:
        """The child after any refusal is not used again."""
        self.close()
        text = printable(str(rest[0]) if rest else "")[:_MESSAGE]
        if isinstance(kind, str) and kind in _KINDS and len(rest) == 3:
            if _KINDS[kind] is RefusedModel:
                node = None if rest[1] is None else printable(str(rest[1]))[:_MESSAGE]
                raise RefusedModel(text, node=node, unbounded=rest[2] is True)
            raise _KINDS[kind](text)
        if kind == "memory":
            raise error(f"{what}: asks for more than the {self.gigabytes:g} GB it may use ({text})")
        raise error(f"{what}: {text}")

    def _read(self, deadline: float, size: int) -> memoryview:
        found = np.empty(size, np.uint8).data  # pages are taken as bytes arrive, not as they are announced
        view = found
        while view:
            clock.tick()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if not select.select([self.reader], [], [], max(0.0, min(left, STILL, clock.left())))[0]:
                self._look_alive()
                continue
            got = os.readv(self.reader, [view[: 1 << 20]])
            if not got:
                raise EOFError
            view = view[got:]
        return found

    def _look_alive(self) -> None:
        """A fork takes locks along that other threads of this program hold, and no thread to release them."""
        used = _ticks(self.pid)
        if used is None or used != self.used:
            self.used, self.since = used or 0, time.monotonic()
        elif time.monotonic() - self.since >= STILL:
            self.close()
            raise UnreadableError(
                f"{self.what}: the process that reads it stands still, perhaps for a lock of another thread of this "
                "program; load models before threads are started, or in a process of their own"
            )


def _ticks(pid: int) -> int | None:
    """Processor time of a process that sleeps, in ticks of the kernel; None where it runs, or nobody can tell."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            state, *fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[10]) + int(fields[11]) if state == "S" else None  # utime, stime: fields 14 and 15 of proc(5)


def _enough_descriptors(what: str) -> None:
    opened: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as problem:
        raise UnreadableError(
            f"{what}: too few files may be open to read it in a process of its own ({problem.strerror}); "
            "raise the limit (ulimit -n 256)"
        ) from problem
    finally:
        for descriptor in opened:
            os.close(descriptor)


@contextlib.contextmanager
def step(what: str, seconds: float, error: type[LipcertError] = RefusedModel) -> Iterator[None]:
    """What is done inside may take `seconds`; its foreign exceptions are told as `error`, which begins with `what`.

    In a child, the parent holds it to that, and tells a death by the same words. Elsewhere time is not limited.
    """
    if _speaker is not None:
        _speaker.say(["step", what, seconds, error.__name__])
    try:
        yield
    except LipcertError:
        raise
    except MemoryError:
        raise
    except Exception as problem:
        if any(words in str(problem).lower() for words in _OUT_OF_MEMORY):
            raise MemoryError(_words(problem)) from problem
        raise error(f"{what}: {_words(problem)}") from problem
    if _speaker is not None:
        _speaker.say(["done"])


# In the child.


class _Speaker:
    def __init__(self, writer: int):
        self.writer = writer

    def say(self, value: Any) -> None:
        for piece in pack(value):
            view = memoryview(piece)
            while view:
                view = view[os.write(self.writer, view) :]


def _live(
    reader: int,
    writer: int,
    serve: Callable[..., dict[str, Answer]],
    arguments: tuple[Any, ...],
    readable: Sequence[Path],
    gigabytes: float,
) -> NoReturn:
    """Everything the child does; leaves by `os._exit` so that no handler of the parent runs twice."""
    global _speaker
    try:
        gc.freeze()  # what the parent holds is never garbage here: its pages stay shared
        _leave_parent()
        speaker = _speaker = _Speaker(writer)
        try:
            confine(readable, (reader, writer), gigabytes, TOTAL)
            answers = serve(*arguments)
            said: list[Any] = ["ok", None]
        except BaseException as problem:
            answers, said = {}, _told(problem)
        while True:
            try:
                speaker.say(said)
            except NotData as problem:
                speaker.say(_told(problem))
            if said[0] != "ok":
                break
            name, values = unpack(lambda size: _exactly(reader, size))
            try:
                said = ["ok", answers[name](*values)]
            except BaseException as problem:
                said = _told(problem)
    finally:
        os._exit(0)


def _leave_parent() -> None:
    clock.forget()  # the parent ends it
    faulthandler.disable()  # it would write a crash of the model's code to our terminal
    os.setsid()  # Ctrl-C reaches the parent only, which then kills the child
    die_with_parent(signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing to a file is an error, not a death
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the child
    sys.__stdout__ = sys.__stderr__ = sys.stdout  # type: ignore[misc]
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # the parent's thread pool did not survive the fork
    threading.excepthook = lambda _: None


def _exactly(reader: int, size: int) -> memoryview:
    found = bytearray()
    while len(found) < size:
        chunk = os.read(reader, min(size - len(found), 1 << 20))
        if not chunk:
            os._exit(0)  # the parent is done
        found += chunk
    return memoryview(found)


def _told(problem: BaseException) -> list[Any]:
    if isinstance(problem, RefusedModel):
        return ["RefusedModel", str(problem), problem.node, problem.unbounded]
    if type(problem).__name__ in _KINDS and isinstance(problem, LipcertError):
        return [type(problem).__name__, str(problem), None, False]
    text = _words(problem)
    if isinstance(problem, MemoryError) or any(words in str(problem).lower() for words in _OUT_OF_MEMORY):
        return ["memory", text]
    return ["error", text]


def _words(problem: BaseException) -> str:
    """TorchScript puts its traceback first and the cause last; others put the cause first. Both in one line."""
    lines = [line.strip() for line in str(problem).strip().splitlines() if line.strip()] or ["(no message)"]
    line = lines[-1] if "Traceback of TorchScript" in str(problem) else lines[0]
    kind = type(problem).__name__
    return (line if line.startswith(f"{kind}: ") else f"{kind}: {line}")[:400]


def _how_it_died(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"the code crashed ({name})" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return "ended without an answer"
