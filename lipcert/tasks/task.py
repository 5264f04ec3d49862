"""The frame of every task: one question, the steps that answer it, and a report that is valid after each of them.

    task = Grid(model, ...)                     checks what is asked, and states it as a `Question`
    carry_out(task, Session(...), earlier)      takes over the rows of an earlier report, does the steps, reports

Interruption, resuming and progress are here, once; a task is a dataclass with `take`, `steps` and `answer`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from lipcert.load.model import Model
from lipcert.report.report import Report
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.tasks.journal.resume import Earlier, Resumed, resume
from lipcert.terms import clock
from lipcert.terms.clock import OutOfTime, until, whole
from lipcert.terms.errors import UsageError, WorkersLost
from lipcert.terms.memory import out_of_memory
from lipcert.terms.progress import Progress
from lipcert.terms.query import Norm
from lipcert.terms.question import Question

if TYPE_CHECKING:
    from lipcert.tasks.workers.stream import Workers


SPENT = "the budget was spent: what was known by then is here; raise --budget for more"


@dataclass(frozen=True, eq=False)
class Session:
    """With what a task is done: resources, and no part of the question. `budget`: seconds from now on. `workers`: who does
    the shards of a task (`shards.py`), None: this process. `journal`: file in which each is written down when it is done."""

    progress: Progress | None = None
    budget: float | None = None
    workers: Workers | None = None
    journal: str | Path | None = None
    start: float = field(default_factory=lambda: time.monotonic())

    @property
    def deadline(self) -> float | None:
        """As `time.monotonic()` counts; no later than that of what is around it (`terms/clock.py`)."""
        own = None if self.budget is None else self.start + self.budget
        ends = [end for end in (own, clock.deadline()) if end is not None]
        return min(ends, default=None)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @property
    def late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def say(self, text: str, done: float | None = None, total: float | None = None) -> None:
        if self.progress is not None:
            self.progress(text, done, total)


@dataclass(eq=False)
class Task:
    """What is asked of one model, and what is known of the answer so far."""

    model: Model
    norm: Norm
    question: Question
    region: Mapping[str, Any]  # as in the report
    output: str = "vector"
    before: Resumed = field(init=False)
    session: Session = field(init=False)

    command: ClassVar[str]
    rows_are: ClassVar[str] = "rows"  # what the rows of an earlier report are, in its warnings

    def take(self, before: Resumed) -> None:
        """Rows of an earlier report of the same question."""

    def steps(self) -> Generator[None]:
        """Each leaves an answer that can stand in a report."""
        raise NotImplementedError

    def answer(self) -> dict[str, Any]:
        """The fields of `Report` that this task fills: results, points, summary ..."""
        raise NotImplementedError

    @property
    def resumed(self) -> list[str]:
        """Warnings: which rows were taken over."""
        return self.before.words(self.rows_are)

    def report(self) -> Report:
        usual = {
            "region": self.region,
            "output": self.output,
            "assumptions": list(self.model.assumptions),
            "warnings": [*self.model.warnings, *self.resumed],
        }
        return Report(
            command=self.command,
            model=self.model.info,
            norm=self.norm,
            question=self.question,
            **(usual | self.answer()),
        )


class Steps(Protocol):
    """What `finish` needs of a task, also of one that is about many models."""

    session: Session

    def steps(self) -> Generator[None]: ...

    def report(self) -> Report: ...


def carry_out(task: Task, session: Session | None = None, earlier: Earlier = None) -> Report:
    """The report of the task. `earlier`: a report of the same question, whose sealed rows are not computed again;
    UsageError says in what another question differs."""
    task.session = session or Session()
    if earlier is not None and task.session.journal is not None:
        raise UsageError("--journal: a run goes on from its journal by itself; leave out --resume")
    task.before = resume(earlier, task.question)
    task.take(task.before)
    return finish(task)


@keeps_subnormals
def finish(task: Steps) -> Report:
    """All steps, or those for which there is time, then the report. Interrupted, out of memory, or without workers, it
    raises with the report of what is done as `partial_report`."""
    try:
        with torch.no_grad(), until(task.session.deadline), contextlib.closing(task.steps()) as steps:
            for _ in steps:
                pass
    except OutOfTime:
        with whole():
            report = task.report()
        return replace(report, warnings=[*report.warnings, SPENT])
    except (
        KeyboardInterrupt,
        MemoryError,
        RuntimeError,
        WorkersLost,
    ) as stop:  # torch raises the third where memory ends
        if isinstance(stop, KeyboardInterrupt | WorkersLost) or out_of_memory(stop):
            with whole():
                stop.partial_report = task.report()  # type: ignore[union-attr]
        raise
    with whole():
        return task.report()
