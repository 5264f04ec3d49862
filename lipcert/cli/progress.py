"""Talk on stderr while a command works: a live line on a terminal, one line per result elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, runtime_checkable

from lipcert.bound import Bound, Result
from lipcert.report.digits import digits
from lipcert.report.plain import printable


@runtime_checkable
class Progress(Protocol):
    """What the pipeline calls: stages with how much of them is done, and each result as soon as it is known."""

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None: ...

    def result(self, result: Result) -> None: ...


def words(result: Result) -> str:
    if isinstance(result, Bound):
        shown = digits(result.value, result.side)
        return f"{result.method}: {result.side} {shown} ({result.rigor}, {result.seconds:.2f} s)"
    return printable(f"{result.method}: {result.status}, {result.reason}")


class Silent:
    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        pass

    def result(self, result: Result) -> None:
        pass


class Lines:
    """For a log: no bars, no stages, one line per result."""

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        pass

    def result(self, result: Result) -> None:
        print(words(result), file=sys.stderr)


class Live:
    """For a terminal: the results so far stay, the stage in work is a bar, and the interval closes in its line."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._bars = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bars.add_task("", total=None)
        self._stage = ""
        self._lower: float | None = None
        self._upper: float | None = None
        self._bars.start()

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        if text != self._stage:
            self._bars.reset(self._task)
        self._stage = text
        self._bars.update(self._task, description=self._line(), completed=done or 0, total=total)

    def result(self, result: Result) -> None:
        if isinstance(result, Bound) and result.side == "lower":
            self._lower = max(result.value, self._lower or 0.0)
        if isinstance(result, Bound) and result.side == "upper" and result.rigor == "proved":
            self._upper = min(result.value, result.value if self._upper is None else self._upper)
        self._bars.console.print(words(result), markup=False, highlight=False)
        self._bars.update(self._task, description=self._line())

    def stop(self) -> None:
        self._bars.stop()

    def _line(self) -> str:
        lower = f"{digits(self._lower, 'lower')} <= " if self._lower is not None else ""
        upper = f" <= {digits(self._upper, 'upper')}" if self._upper is not None else ""
        return f"{lower}L{upper}  {printable(self._stage)}" if lower or upper else printable(self._stage)


class ShownProgress:
    """`with ShownProgress(quiet) as progress`: the form that fits this stderr, taken away at the end."""

    def __init__(self, quiet: bool) -> None:
        self._live = Live() if not quiet and sys.stderr.isatty() else None
        self._shown: Progress = self._live or (Silent() if quiet else Lines())

    def __enter__(self) -> Progress:
        return self._shown

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
