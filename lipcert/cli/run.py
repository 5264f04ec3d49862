"""Run one command's work: the only place where errors become exit statuses and reports become output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lipcert
from lipcert.cli.options import check_target
from lipcert.cli.progress import Progress, ShownProgress
from lipcert.errors import LipcertError, UsageError
from lipcert.report.plain import printable
from lipcert.report.report import Report
from lipcert.report.to_json import pieces, to_json, write_atomically

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERRUPTED = 130
INTERNAL_ERROR = 4


@dataclass(frozen=True)
class Run:
    """What every command has: its name, the model file, and the common flags.

    `asked`: norm, output, max_upper as far as known, for the report of a model that could not be treated.
    """

    command: str
    model: Path
    json: str | None = None
    quiet: bool = False
    threads: int | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)


def execute(run: Run, work: Callable[[Progress], Report]) -> int:
    """Do `work`, print and write its report, return the exit status.

    A report asked for with --json is written in every case but exit 2, where the error is raised.
    """
    check_json_target(run)
    report, status = attempt(run, work)
    emit(report, run)
    return status


def attempt(run: Run, work: Callable[[Progress], Report]) -> tuple[Report, int]:
    """The report, also of a model refused or a run cut short, and the exit status. Errors of exit 2 are raised."""
    try:
        set_threads(run.threads)
        with stdout_reserved(), ShownProgress(run.quiet) as progress:
            report = work(progress)
        return report, report.exit_code
    except KeyboardInterrupt as stop:
        complain("interrupted")
        partial = getattr(stop, "partial_report", None) or failed(run, "interrupted before any result")
        return replace(partial, warnings=[*partial.warnings, "interrupted: the results are incomplete"]), INTERRUPTED
    except LipcertError as error:
        if error.exit_code == 2:
            raise
        show_debug_trace()
        complain(str(error))
        return failed(run, error), error.exit_code
    except Exception as error:
        show_debug_trace()
        message = internal_error(error)
        complain(message)
        return failed(run, message), INTERNAL_ERROR


def emit(report: Report, run: Run) -> None:
    """Findings: the report file; and the table on stdout, or JSON alone there. Neither waits for the other to work."""
    try:
        if run.json is not None and run.json != "-":
            write_json(report, run.json)
    finally:
        show(report, run)


def show(report: Report, run: Run) -> None:
    try:
        if run.json == "-":
            sys.stdout.write(to_json(report))
        else:
            sys.stdout.write(table_text(report))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has gone: the verdict stands, and Python must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table_text(report: Report) -> str:
    from lipcert.report.to_table import to_table

    return render(to_table(report))


def render(shown: RenderableType) -> str:
    """Coloured for a terminal. As text, because rich's own printing exits with 1 where the reader has gone."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, markup=False, emoji=False, width=120)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def write_text(flag: str, path: str, text: str) -> None:
    try:
        write_atomically(text, path)
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot write it: {error.strerror}") from error


def write_json(report: Report, path: str) -> None:
    try:
        write_atomically(pieces(report), path)
    except OSError as error:
        raise UsageError(f"--json {path}: cannot write it: {error.strerror}") from error


def check_json_target(run: Run) -> None:
    if run.json is None or run.json == "-":
        return
    check_target("--json", run.json, run.model)


def failed(run: Run, error: LipcertError | str) -> Report:
    return Report.of_refused_model(run.model, error, run.command, **run.asked)


def complain(message: str) -> None:
    """One line on stderr; a second one only as a marked continuation."""
    first, *more = message.split("\n")
    print(f"lipcert: {printable(first)}", *(f"  | {printable(line)}" for line in more), sep="\n", file=sys.stderr)


def set_threads(count: int | None) -> None:
    if count is None:
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)  # read when numpy and torch load
    import torch

    torch.set_num_threads(count)


def show_debug_trace() -> None:
    if os.environ.get("LIPCERT_DEBUG") == "1":
        traceback.print_exc()


def internal_error(error: Exception) -> str:
    """What to say of it; versions and the traceback are in a new file that is named."""
    versions = {"lipcert": lipcert.__version__, "python": sys.version, "platform": platform.platform()}
    for name in ("torch", "numpy", "onnx", "onnxruntime"):
        if name in sys.modules:
            versions[name] = getattr(sys.modules[name], "__version__", "?")
    handle, path = tempfile.mkstemp(prefix="lipcert-error-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(f"{name}: {version}\n" for name, version in versions.items())
        stream.write(f"command: {sys.argv}\n\n{traceback.format_exc()}")
    return f"internal error: {type(error).__name__}: {error}\nplease report it with the file {path}"


@contextlib.contextmanager
def stdout_reserved() -> Iterator[None]:
    """While a model runs, stdout is stderr: what a model or a library prints is never taken for a finding.

    Python's stream is replaced, and below it the file descriptor, which C++ writes to.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C and C++ printing is buffered apart from Python's
        os.dup2(kept, 1)
        os.close(kept)
