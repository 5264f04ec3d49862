"""What tells that something was touched: a folder's list, files outside it, text on the streams, the environment."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPENED, _READ, _WRITTEN = 0x20, 0x1, 0x2  # linux/inotify.h


class Canaries:
    """`room`: where the file that is read lies; what may lie there is `known`. `secret`: a file outside, never read."""

    def __init__(self, folder: Path):
        self.folder, self.room = folder, folder / "room"
        self.room.mkdir()
        self.secret, self.mark, self.said = (
            folder / "secret.bin",
            folder / "mark",
            folder.parent / f"{folder.name}.said",
        )
        self.secret.write_bytes(b"\x7f" * 4096)
        self.outside = {*os.listdir(folder)}
        self.environment, self.here, self.mask = _environment(), os.getcwd(), _mask()
        self._watch = _watched(self.secret)

    def broken(self, known: set[str]) -> str | None:
        """What has happened, in words."""
        if self._watch is not None and _told(self._watch):
            return "a file outside the folder was opened"
        if {*os.listdir(self.folder)} != self.outside or {*os.listdir(self.room)} != known:
            return "it left a file"
        if self.secret.stat().st_size != 4096 or (self.said.exists() and self.said.stat().st_size):
            return "it wrote"
        if _environment() != self.environment or os.getcwd() != self.here or _mask() != self.mask:
            return "the process is not as it was"
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Standard output and error, C++ included, go into a file that must stay empty."""
        sys.stdout.flush(), sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        file = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(file, 1), os.dup2(file, 2)
        try:
            yield
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            for descriptor in (*kept, file):
                os.close(descriptor)


def _environment() -> dict[str, str]:
    """But for what pytest sets, and what lipcert sets before it imports onnxruntime for the first time (load/runtime.py)."""
    ours = ("PYTEST_CURRENT_TEST", "ORT_DISABLE_TELEMETRY")
    return {name: value for name, value in os.environ.items() if name not in ours}


def _mask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def _watched(path: Path) -> int | None:
    """Linux tells of every opening."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(path), _OPENED | _READ | _WRITTEN) < 0:
        return None
    return int(watch)


def _told(watch: int) -> bool:
    try:
        return bool(os.read(watch, 4096))
    except BlockingIOError:
        return False
