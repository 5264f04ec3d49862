"""Run code that comes with a model file in a forked child: bounded time, bounded memory, no output, no shared state."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lipcert.errors import LipcertError, RefusedModel

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h: the child dies with its parent
_OUT_OF_MEMORY = ("can't allocate", "bad_alloc", "out of memory", "cannot allocate memory", "storage size calculation")


def guarded(
    function: Callable[..., T],
    *arguments: Any,
    seconds: float = 60.0,
    gigabytes: float = 8.0,
    what: str = "",
    error: type[LipcertError] = RefusedModel,
) -> T:
    """`function(*arguments)`, evaluated in a forked child; its result must pickle (numpy arrays rather than tensors).

    `seconds`: wall time, then the child is killed. `gigabytes`: address space the child may add to what this process
    holds now. `what` begins the message of every error. Raises `error` for time-out, memory, death by signal and
    foreign exceptions; a LipcertError of the child is raised as it is. An interrupt of the parent kills the child.
    """
    what = what or getattr(function, "__name__", "guarded call")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads; the child uses one
        child = os.fork()
    if child == 0:
        _child(reader, writer, gigabytes, function, arguments)  # never returns
    status = None
    try:
        os.close(writer)
        payload = _read_all(reader, time.monotonic() + seconds)
        if payload is not None:
            status = os.waitpid(child, 0)[1]
    finally:
        os.close(reader)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if payload is None:
        raise error(f"{what}: stopped after the {seconds:g} s it may take; it is endless or too slow")
    if not payload:
        raise error(f"{what}: {_how_it_died(status or 0)}")
    kind, value = pickle.loads(payload)  # written by `_child` below, never by the model file
    if kind == "ok":
        return value
    if kind == "lipcert":
        raise value
    if kind == "memory":
        raise error(f"{what}: asks for more than the {gigabytes:g} GB it may use ({value})")
    raise error(f"{what}: {value}")


def _read_all(reader: int, deadline: float) -> bytes | None:
    """Bytes until the child closes the pipe; None at the deadline."""
    chunks: list[bytes] = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return None
        chunk = os.read(reader, 1 << 20)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _child(reader: int, writer: int, gigabytes: float, function: Callable[..., Any], arguments: tuple) -> None:
    """Everything the child does; leaves by `os._exit` so that no handler of the parent runs twice."""
    try:
        os.close(reader)
        _isolate()
        _limit_memory(gigabytes)
        try:
            answer = _pack("ok", function(*arguments))
        except BaseException as problem:
            answer = _describe(problem)
        _write_all(writer, answer)
    finally:
        os._exit(0)


def _isolate() -> None:
    faulthandler.disable()  # it would write a crash of the model's code to our terminal
    os.setsid()  # Ctrl-C reaches the parent only, which then kills the child
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the child
    torch.set_num_threads(1)  # the parent's thread pool did not survive the fork


def _limit_memory(gigabytes: float) -> None:
    import resource

    try:
        with open("/proc/self/statm") as pages:
            present = int(pages.read().split()[0]) * resource.getpagesize()
    except OSError:  # no /proc (macOS): RLIMIT_AS is not enforced there either; the time limit remains
        return
    limit = present + int(gigabytes * 2**30)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _pack(kind: str, value: Any) -> bytes:
    return pickle.dumps((kind, value), protocol=pickle.HIGHEST_PROTOCOL)


def _describe(problem: BaseException) -> bytes:
    if isinstance(problem, LipcertError):
        return _pack("lipcert", problem)
    text = f"{type(problem).__name__}: {_last_line(problem)}"
    if isinstance(problem, MemoryError) or any(words in str(problem).lower() for words in _OUT_OF_MEMORY):
        return _pack("memory", text)
    return _pack("error", text)


def _last_line(problem: BaseException) -> str:
    """TorchScript puts its traceback first and the cause last; others put the cause first. Both in one line."""
    lines = [line.strip() for line in str(problem).strip().splitlines() if line.strip()]
    if not lines:
        return "(no message)"
    return (lines[-1] if "Traceback of TorchScript" in str(problem) else lines[0])[:400]


def _write_all(writer: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(writer, view) :]


def _how_it_died(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"the code crashed ({name})" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return "ended without an answer"
