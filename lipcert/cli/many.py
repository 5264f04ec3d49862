"""Many models in one process: `lipcert bound a.onnx b.onnx models/`. One question, a report each, one table.

What is typed decides the form, not what lies in a folder: one file gives its `lipcert.report/1`; several, a folder or a
pattern in quotes give a `lipcert.reports/1`. A model that cannot be read or treated keeps its place, with the reason, and the
others are asked all the same. The exit status is the worst of all: 4, then 2, 3, 1, 0.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lipcert.cli import signals
from lipcert.cli.defaults import IN_FORCE
from lipcert.cli.paths import is_pattern
from lipcert.cli.progress import Progress
from lipcert.cli.run import FAILED_TO_WRITE, Run, attempt, execute, failed, render
from lipcert.cli.signals import Moment
from lipcert.report.report import Report
from lipcert.report.to_json import for_stdout, write_atomically
from lipcert.terms.errors import LipcertError, UnwritableError, UsageError
from lipcert.terms.files import reason
from lipcert.terms.printable import printable
from lipcert.terms.result import Bound

Work = Callable[[Path, Progress], Report]
WORST = (4, 2, 3, 1, 0)


def several(models: Sequence[Path]) -> bool:
    return len(models) > 1 or models[0].is_dir() or is_pattern(str(models[0]))


def check_single(models: Sequence[Path], **flags: object) -> None:
    """UsageError for an option that is about one model's file."""
    for name, value in flags.items():
        if value is not None and several(models):
            raise UsageError(f"--{name}: it is about one model; give one model file at a time")


def execute_each(run: Run, models: Sequence[Path], work: Work) -> int:
    """`execute` for one model file, and the same of many. Returns the exit status."""
    if not several(models):
        return execute(run, lambda progress: work(models[0], progress))
    from lipcert.tasks.checkpoints import series_of

    folders_too = [one if one.is_dir() or is_pattern(str(one)) else [one] for one in models]
    files = [
        file
        for one in folders_too
        for file in (one if isinstance(one, list) else [f for s in series_of([one]) for f in s.files])
    ]
    return _execute(run, list(dict.fromkeys(files)), work)


def _execute(run: Run, files: Sequence[Path], work: Work) -> int:
    from lipcert.report.formats.terminal import shown
    from lipcert.report.reports import Reports, pieces_of_many

    found = Reports(run.command)
    unread: list[LipcertError] = []
    signals.now(Moment.LATER)
    try:
        for place, file in enumerate(files):
            mine = replace(run, model=file, began=run.began if place == 0 else time.monotonic())
            report, status = _one(mine, f"{place + 1} of {len(files)}", work, unread)
            found.asked.append((_light(report), status))
            if status > 128 or signals.waiting():
                found.remaining = [str(left) for left in files[place + 1 :]]
                break
        if len(unread) == len(files):
            raise unread[0]
        last = found.asked[-1][1]
        found.status = last if last > 128 else min((s for _, s in found.asked), key=WORST.index)
        problem = _write(found.to_json(), run)
    finally:
        signals.end_if_waiting()
    sys.stdout.write(for_stdout(found.to_json()) if run.json == "-" else render(shown(pieces_of_many(found))))
    sys.stdout.flush()
    if problem is not None:
        raise problem
    return found.status


def _one(run: Run, place: str, work: Work, unread: list[LipcertError]) -> tuple[Report, int]:
    def this(progress: Progress) -> Report:
        progress(f"{place}: {run.model}")
        return work(run.model, progress)

    if not run.quiet and not sys.stderr.isatty():
        print(f"{place}: {printable(str(run.model))}", file=sys.stderr)
    try:
        report, status = attempt(run, this)
    except LipcertError as error:  # exit 2: of this model alone, unless it is that of all
        unread.append(error)
        report, status = failed(run, error), FAILED_TO_WRITE
    return replace(report, defaults=IN_FORCE.rows), status


def _light(report: Report) -> Report:
    """Without the arrays of proofs, which nothing needs any more."""
    return replace(report, results=[replace(r, proof=None) if isinstance(r, Bound) else r for r in report.results])


def _write(text: str, run: Run) -> UnwritableError | None:
    if run.json is None or run.json == "-":
        return None
    try:
        write_atomically(text, run.json)
    except OSError as error:
        return UnwritableError(f"--json {run.json}: cannot write it: {reason(error)}")
    return None
