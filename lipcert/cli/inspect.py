"""`lipcert inspect MODEL`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli import options as o
from lipcert.cli.many import execute_each
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run
from lipcert.report.report import Report

All = Annotated[bool, typer.Option("--all", help="Every part, however many lines that takes.")]


def inspect(
    model: o.ModelPaths,
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
    whole: All = False,
) -> int:
    """What was read: shapes, parts, nonlinearities, and what each method can do with it."""
    arguments = o.load_arguments(input_shape, input_name, fix, output_name, mean, std, reader, seed)

    def work(path: Path, progress: Progress) -> Report:
        from lipcert.load.model import load
        from lipcert.tasks.inspect import inspect

        report = inspect(load(path, **arguments, progress=progress))
        return replace(report, summary={**report.summary, "all": True}) if whole else report

    return execute_each(Run("inspect", model[0], json, quiet, threads), model, work)
