"""Standard streams that never end a command: what cannot be written is dropped, and at the end the exit status says so.

A reader that has gone (`| head`) and a stream that is closed (`>&-`) are the user's wish, and the verdict stands. Anything else,
such as a full disk, is a failure to write.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

# GitHub: ::error:: at the start of a line; ##[error] anywhere. Azure: ##vso[..]. TeamCity: ##teamcity[..].
COMMANDS = re.compile(r"^[^\S\n]*::|##(?=\w*\[)", re.MULTILINE)


class Stream:
    """Like the text stream that it stands for. `problem`: why something was lost. `closed_early`: nobody can read it."""

    def __init__(self, stream: Any, name: str):  # a text stream, or None
        self.closed_early = stream is None
        self._stream: Any = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115
        self.name, self.problem = name, None if stream is not None else "it is closed"
        self.failed = False

    def write(self, text: str) -> int:
        """Lines that a CI would take for a command are broken: names and paths may look like one."""
        return self.command(COMMANDS.sub(lambda found: f"{found[0][:-1]} {found[0][-1]}", text))

    def command(self, text: str) -> int:
        """The text as it is: for the commands of `gate --github`."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: closed by somebody
            self._lost(error)
            return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lost(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lost(self, error: Exception) -> None:
        gone = isinstance(error, BrokenPipeError | ValueError)
        self.problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self.failed = self.failed or not gone
        with contextlib.suppress(OSError, ValueError):  # what is still in Python's buffer goes nowhere
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def open_descriptors() -> None:
    """0, 1 and 2 exist, so that no file that is opened later becomes standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


@contextlib.contextmanager
def guarded() -> Iterator[tuple[Stream, Stream]]:
    """While a command runs, `sys.stdout` and `sys.stderr` are Streams."""
    before = sys.stdout, sys.stderr
    found = Stream(sys.stdout, "standard output"), Stream(sys.stderr, "standard error")
    sys.stdout, sys.stderr = found
    try:
        yield found
    finally:
        for stream in found:
            stream.flush()
        sys.stdout, sys.stderr = before
