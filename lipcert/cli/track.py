"""`lipcert track CHECKPOINT...`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli import options as o
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run, execute
from lipcert.report.report import Report

Checkpoints = Annotated[
    list[Path], typer.Argument(metavar="CHECKPOINT...", help="Model files, folders (each a series), patterns.")
]
Data = Annotated[Path | None, typer.Option(metavar="DATA", help="Jacobians at these x, accuracy with labels y.")]
First = Annotated[int, typer.Option(metavar="N", min=1, help="Only the first N samples.")]
Raw = Annotated[bool, typer.Option("--raw", help="uint8 values as they are, not scaled to [0, 1].")]
Method = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="May be repeated (default product, sampled, lipsdp)."),
]
Plot = Annotated[str | None, typer.Option(metavar="FILE", help="Everything against the step, as .png or .svg.")]
Resume = Annotated[str | None, typer.Option(metavar="REPORT", help="Go on: checkpoints in it are not measured again.")]


def track(
    checkpoints: Checkpoints,
    data: Data = None,
    first: First = 200,
    raw: Raw = False,
    method: Method = None,
    budget: o.BudgetEach = None,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    plot: Plot = None,
    resume: Resume = None,
    norm: o.NormBoth = None,
    norm_in: o.NormIn = None,
    norm_out: o.NormOut = None,
    input_shape: o.InputShape = None,
    input_name: o.InputName = None,
    fix: o.Fix = None,
    output_name: o.OutputName = None,
    mean: o.Mean = None,
    std: o.Std = None,
    reader: o.Reader = "own",
    json: o.Json = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> int:
    """Smoothness along training: one row per checkpoint, one picture of them all."""
    o.check_not_negative("--budget", budget)
    norms = o.read_norm(norm, norm_in, norm_out)
    arguments = o.load_arguments(input_shape, input_name, fix, output_name, mean, std, reader, seed)
    o.check_picture(plot)

    def work(progress: Progress) -> Report:
        from lipcert.load import data as files
        from lipcert.load.model import load
        from lipcert.tasks.checkpoints import series_of
        from lipcert.tasks.track import METHODS, TrackRequest
        from lipcert.tasks.track import track as task

        found = None
        if data is not None:  # in the layout of the first checkpoint: all of one training have one input
            one = load(series_of(checkpoints)[0].files[0], **arguments)
            found = files.read_data(data, one.input_shape, inputs=one.inputs, raw=raw)
        asked = TrackRequest(
            norm=norms,
            methods=method or METHODS,
            x=None if found is None else found.x[:first],
            y=None if found is None or found.y is None else found.y[:first],
            budget=budget,
            seed=seed,
            reading={name: value for name, value in arguments.items() if name != "seed"},
        )
        return task(checkpoints, asked, o.session_of(progress, workers, scheduler, None, "cpu"), resume)

    picture = None if plot is None else partial(draw, path=plot)
    return execute(Run("track", checkpoints[0], json, quiet, threads, {"norm": norms}, picture), work)


def draw(report: Report, path: str) -> None:
    from lipcert.tasks.track_plot import track_plot

    track_plot(path, report.summary["track"], norm=str(report.norm))
