"""The command line in a process of its own that does not import torch anew: a fork of the one that runs the tests.

Streams, signals, limits, the working folder and the exit status are real; what happens before `main` and while Python
ends is not: tests of that start Python themselves.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import pytest

from lipcert.__main__ import main


class Forked:
    """`lipcert ARGUMENTS` while it runs. `addresses`: bytes of memory that it may map (`ulimit -v`)."""

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        addresses: int | None = None,
    ):
        self.arguments = [str(part) for part in arguments]
        self.folder = TemporaryDirectory(prefix="lipcert-forked-")
        self.out, self.err = (Path(self.folder.name) / name for name in ("out", "err"))
        self.out.touch()
        self.err.touch()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run(cwd, env or {}, addresses)

    def _run(self, cwd: Path | None, env: Mapping[str, str], addresses: int | None) -> NoReturn:
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            for stream, path in enumerate((os.devnull, self.out, self.err)):
                os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), stream)
            sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
            sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
            os.environ.update(env)
            if cwd is not None:
                os.chdir(cwd)
            if addresses is not None:
                resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
            sys.argv = ["lipcert", *self.arguments]
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def until(self, pattern: str, seconds: float = 60.0) -> None:
        """Waits for a line on standard error."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.err.read_text()):
            assert self.poll() is None, self.err.read_text()
            self._not_after(end)

    def _not_after(self, end: float) -> None:
        if time.monotonic() > end:
            self.send_signal(signal.SIGKILL)
            pytest.fail(f"lipcert {' '.join(self.arguments)} takes too long; it said: {self.err.read_text()}")
        time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 240.0) -> subprocess.CompletedProcess[str]:
        end = time.monotonic() + seconds
        while self.poll() is None:
            self._not_after(end)
        assert self.returncode is not None
        return subprocess.CompletedProcess(self.arguments, self.returncode, self.out.read_text(), self.err.read_text())


def lipcert(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return Forked(*arguments, **options).wait()  # type: ignore[arg-type]
