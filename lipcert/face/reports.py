"""Several models, several reports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lipcert.report.comparison import Comparison
    from lipcert.report.report import Report
    from lipcert.terms.progress import Progress
    from lipcert.terms.query import Norm


def track(
    checkpoints: Sequence[str | Path] | str | Path,
    *,
    norm: str | float | tuple[Any, Any] | Norm = "2",
    methods: Sequence[str] = ("product", "sampled", "lipsdp"),
    x: Any = None,
    y: Any = None,
    budget: float | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    fix: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    resume: str | Path | Report | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Layer constants, `methods` and, at data `x` (k, *input_shape), Jacobian statistics along training.

    `checkpoints`: files, folders (each a series) and patterns, in natural order: `report.summary["track"]["checkpoints"]`
    has a row per file. `y`: labels (k,), for the accuracy. `budget`: seconds of the methods for each checkpoint.
    `resume`: an earlier report of it; checkpoints that it has are not measured again. `workers`: processes of this machine,
    `scheduler`: Dask, that measure; this process reads the files.
    """
    from lipcert.tasks import given
    from lipcert.tasks import track as task
    from lipcert.tasks import workers as shards

    reading = {
        "input_shape": input_shape,
        "input_name": input_name,
        "output_name": output_name,
        "fix": fix,
        "mean": mean,
        "std": std,
    }
    with given.python_words():
        named = [checkpoints] if isinstance(checkpoints, str | os.PathLike) else list(checkpoints)
        for one in named:
            given.check_file("checkpoints", one)
        asked = task.TrackRequest(
            norm=given.as_norm(norm),
            methods=given.as_methods(methods) or (),
            x=None if x is None else given.as_array(x),
            y=given.as_labels(y),
            budget=given.as_number("budget", budget),
            seed=given.as_seed(seed),
            reading=reading,
        )
        return task.track(named, asked, shards.session(progress, None, workers, scheduler), resume)


def compare(
    before: str | Path | Report, after: str | Path | Report, *, tolerance: float = 0.0, other_names: bool = False
) -> Comparison:
    """What moved between two reports (files or `Report` objects) of one question, beyond the widths of the brackets.

    `tolerance`: relative moves up to it are none (0.01 is 1 %). `other_names`: inputs and outputs may have other names.
    UsageError names the first field in which the two questions differ.
    """
    from lipcert.report.report import Report
    from lipcert.tasks import compare as task
    from lipcert.tasks import given

    for name, one in (("before", before), ("after", after)):
        if not isinstance(one, Report):
            given.check_file(name, one, "or a Report")
    return task.compare(before, after, tolerance=tolerance, other_names=other_names)
