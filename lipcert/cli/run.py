"""Run one command's work: the only place where errors become exit statuses and reports become output."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipcert.cli import signals
from lipcert.cli.defaults import IN_FORCE
from lipcert.cli.failure import complain, with_command
from lipcert.cli.progress import Progress, ShownProgress
from lipcert.cli.signals import Moment
from lipcert.cli.typed import TYPED
from lipcert.report.report import Report
from lipcert.report.to_json import for_stdout, pieces, write_atomically
from lipcert.terms.clock import OutOfTime, began, until
from lipcert.terms.errors import LipcertError, RefusedModel, UnwritableError
from lipcert.terms.files import reason
from lipcert.terms.memory import out_of_memory, within
from lipcert.terms.version import __version__

if TYPE_CHECKING:
    from rich.console import RenderableType

NOTHING, INTERNAL_ERROR = 3, 4
FAILED_TO_WRITE = 2
SCARCE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EAGAIN)  # disk, files, processes
SPENT = "the budget was spent before there was any result: raise --budget, which reading the model counts for too"
NO_MEMORY_LEFT = "out of memory"
NO_MEMORY = "out of memory while the model was read or prepared; give a smaller model or more memory"


@dataclass(frozen=True)
class Run:
    """What every command has: its name, the model file, and the common flags.

    `asked`: norm, output, max_upper as far as known, for the report of a model that could not be treated.
    `budget`: seconds from `began` on, in which the work, reading the model included, has to end.
    `memory`: GiB that dense blocks may take.
    `picture`: draws what `work` has found, after its report is written.
    """

    command: str
    model: Path
    json: str | None = None
    quiet: bool = False
    threads: int | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    picture: Callable[[Report], None] | None = None
    budget: float | None = None
    memory: float | None = None
    began: float = field(default_factory=began)


def execute(run: Run, work: Callable[[Progress], Report]) -> int:
    """Do `work`; write its report, print it, draw its picture, in this order; return the exit status.

    A report asked for with --json is written in every case but exit 2, where the error is raised. A signal that comes
    while it is written waits.
    """
    signals.now(Moment.LATER)
    try:
        report, status = attempt(run, work)
        report = replace(report, defaults=IN_FORCE.rows)
        problem = write(report, run)
    finally:
        signals.end_if_waiting()
    show(report, run)
    if problem is not None:
        raise problem
    if run.picture is None or not report.summary:
        return status
    drawn = draw(report, run.picture)
    return drawn if status in (0, 1, 3) and drawn else status


def attempt(run: Run, work: Callable[[Progress], Report]) -> tuple[Report, int]:
    """The report, also of a model refused or a run cut short, and the exit status. Errors of exit 2 are raised."""
    report: Report | None = None
    stop: BaseException | None = None
    with stdout_reserved(), ShownProgress(run.quiet) as progress:
        try:
            signals.now(Moment.RAISED)
            set_threads(run.threads)
            with until(None if run.budget is None else run.began + run.budget), within(run.memory):
                report = work(progress)
            signals.now(Moment.LATER)
        except BaseException as error:
            signals.now(Moment.LATER)
            stop = error
    number = signals.raised()
    if isinstance(stop, KeyboardInterrupt) or number is not None:  # imports and models turn it into other exceptions
        word = signals.WORDS[number or signal.SIGINT]
        complain(word)
        partial = getattr(stop, "partial_report", None) or report or failed(run, f"{word} before any result", "timeout")
        note = "interrupted: the results are incomplete" + ("" if word == "interrupted" else f" ({word})")
        return replace(partial, warnings=[*partial.warnings, note]), signals.status(number or signal.SIGINT)
    if isinstance(stop, OutOfTime):
        complain(SPENT)
        return failed(run, SPENT, "timeout"), NOTHING
    if isinstance(stop, LipcertError) and stop.exit_code == 2:
        raise stop
    if stop is not None and (known := getattr(stop, "partial_report", None)) is not None:
        said = NO_MEMORY_LEFT if out_of_memory(stop) else str(stop)
        complain(f"{said}; what is known is in the report")
        note = f"interrupted: the results are incomplete ({said})"
        return replace(known, warnings=[*known.warnings, note]), NOTHING
    if isinstance(stop, OSError) and stop.errno in SCARCE:
        raise UnwritableError(f"the system: {reason(stop)}; free some, and start again") from stop
    if report is not None:
        return report, report.exit_code
    assert stop is not None
    return _of_error(run, stop)


def _of_error(run: Run, error: BaseException) -> tuple[Report, int]:
    show_debug_trace(error)
    if out_of_memory(error):
        error = RefusedModel(NO_MEMORY)
    if isinstance(error, LipcertError):
        said, copied = with_command(str(error), TYPED.words)
        complain(said)
        return replace(failed(run, error), suggestion=copied), error.exit_code
    message = internal_error(error)
    complain(message)
    return failed(run, message), INTERNAL_ERROR


def write(report: Report, run: Run) -> UnwritableError | None:
    """The report file. What went wrong is told after the table, which is all that remains then."""
    if run.json is None or run.json == "-":
        return None
    try:
        write_atomically(pieces(report), run.json)
    except OSError as error:
        return UnwritableError(f"--json {run.json}: cannot write it: {reason(error)}")
    return None


def show(report: Report, run: Run) -> None:
    """Findings: the table on stdout, or JSON alone there."""
    if run.json == "-":
        sys.stdout.writelines(map(for_stdout, pieces(report)))
    else:
        sys.stdout.write(table_text(report))
    sys.stdout.flush()


def draw(report: Report, picture: Callable[[Report], None]) -> int:
    """0, or the status of a picture that failed, told in one line: the report is written already."""
    try:
        signals.now(Moment.RAISED)
        with stdout_reserved():
            picture(report)
        signals.now(Moment.AT_ONCE)
    except KeyboardInterrupt:
        signals.now(Moment.AT_ONCE)
        number = signals.raised() or signal.SIGINT
        complain(signals.WORDS[number])
        return signals.status(number)
    except (LipcertError, OSError, MemoryError) as error:
        signals.now(Moment.AT_ONCE)
        complain(str(error) if isinstance(error, LipcertError) else f"--plot: cannot write it: {reason(error)}")
        return FAILED_TO_WRITE
    except Exception as error:
        signals.now(Moment.AT_ONCE)
        complain(internal_error(error))
        return INTERNAL_ERROR
    return 0


def table_text(report: Report) -> str:
    from lipcert.report.formats.terminal import to_table

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


def write_text(flag: str, path: str, text: str | bytes) -> None:
    """A file that is not the report of a Run. A signal waits until it is whole."""
    signals.now(Moment.LATER)
    try:
        write_atomically(text, path)
    except OSError as error:
        raise UnwritableError(f"{flag} {path}: cannot write it: {reason(error)}") from error
    finally:
        signals.end_if_waiting()


def failed(run: Run, error: LipcertError | str, status: str = "refused") -> Report:
    return Report.of_refused_model(run.model, error, run.command, status=status, **run.asked)


def set_threads(count: int | None) -> None:
    if count is None:
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)  # read when numpy and torch load
    import torch

    torch.set_num_threads(count)


def show_debug_trace(error: BaseException) -> None:
    if os.environ.get("LIPCERT_DEBUG") == "1":
        traceback.print_exception(error)


def internal_error(error: BaseException) -> str:
    """What to say of it; versions and the traceback are in a new file that is named."""
    versions = {"lipcert": __version__, "python": sys.version, "platform": platform.platform()}
    for name in ("torch", "numpy", "onnx", "onnxruntime"):
        if name in sys.modules:
            versions[name] = getattr(sys.modules[name], "__version__", "?")
    said = f"internal error: {type(error).__name__}: {error}"
    try:
        handle, path = tempfile.mkstemp(prefix="lipcert-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(f"{name}: {version}\n" for name, version in versions.items())
            stream.write(f"command: {sys.argv}\n\n{''.join(traceback.format_exception(error))}")
    except OSError as problem:
        return f"{said}\nplease report it (no log could be written: {reason(problem)}; LIPCERT_DEBUG=1 shows where)"
    return f"{said}\nplease report it with the file {path}"


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
