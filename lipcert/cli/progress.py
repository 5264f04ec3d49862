"""Talk on stderr while a command works: a live line on a terminal, one line per result elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lipcert.terms.digits import digits
from lipcert.terms.printable import printable
from lipcert.terms.result import Bound, Result

if TYPE_CHECKING:
    from rich.console import RenderableType

REDRAW = 0.1  # seconds between two pictures of one stage
PATIENCE = 5.0  # seconds between two lines of a log about a stage that counts


@runtime_checkable
class Progress(Protocol):
    """What a task calls: stages with how much of them is done, and each result as soon as it is known."""

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


class LogLines:
    """For a log: one line per result, and now and then how far a long stage is."""

    def __init__(self) -> None:
        self._stage, self._said = "", 0.0

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        if text != self._stage:
            self._stage, self._said = text, time.monotonic()
        if total and done and time.monotonic() - self._said > PATIENCE:
            self._said = time.monotonic()
            print(f"{printable(text)}: {done:g} of {total:g}", file=sys.stderr)

    def result(self, result: Result) -> None:
        print(words(result), file=sys.stderr)


class Live:
    """For a terminal: the results so far, the closing interval and a bar of the stage in work; gone when all is done.

    It is redrawn when something happens and by no thread of its own: model code runs in forked children, and a fork
    copies the locks of other threads as they happen to be.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._results: list[Result] = []
        self._stage: tuple[str, float, float | None] = ("", 0.0, None)
        self._drawn = 0.0
        self._live = RichLive(
            console=Console(stderr=True), auto_refresh=False, transient=True, get_renderable=self._picture
        )
        self._live.start()

    def __call__(self, text: str, done: float | None = None, total: float | None = None) -> None:
        new = text != self._stage[0]
        self._stage = (text, done or 0.0, total)
        if new or time.monotonic() - self._drawn > REDRAW:
            self._draw()

    def result(self, result: Result) -> None:
        self._results.append(result)
        self._draw()

    def stop(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.refresh()

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar

        from lipcert.report.formats.terminal import rendered, shown
        from lipcert.report.sections.bounds import closing, table_of_results
        from lipcert.report.tables import Sentence

        stage, done, total = self._stage
        lines: list[RenderableType] = [rendered(Sentence.of(stage, "dim"))]
        if total:
            lines = [*lines, ProgressBar(total, done, width=30)]
        if self._results:
            lines = [shown([table_of_results(self._results), closing(self._results)]), *lines]
        return Group(*lines)


class ShownProgress:
    """`with ShownProgress(quiet) as progress`: the form that fits this stderr, taken away at the end."""

    def __init__(self, quiet: bool) -> None:
        self._live = Live() if not quiet and sys.stderr.isatty() else None
        self._shown: Progress = self._live or (Silent() if quiet else LogLines())

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live("starting")  # torch takes seconds to load
        return self._shown

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
