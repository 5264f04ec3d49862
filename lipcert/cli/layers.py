"""`lipcert layers MODEL`."""

from __future__ import annotations

from pathlib import Path

from lipcert.cli import options as o
from lipcert.cli.many import execute_each
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run
from lipcert.report.report import Report


def layers(
    model: o.ModelPaths,
    norm: o.NormBoth = None,
    norm_in: o.NormIn = None,
    norm_out: o.NormOut = None,
    input_shape: o.InputShape = None,
    input_name: o.InputName = None,
    fix: o.Fix = None,
    output_name: o.OutputName = None,
    weight_in: o.WeightIn = None,
    weight_out: o.WeightOut = None,
    mean: o.Mean = None,
    std: o.Std = None,
    reader: o.Reader = "own",
    json: o.Json = None,
    budget: o.BudgetEach = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> int:
    """The Lipschitz constant of each layer."""
    o.check_not_negative("--budget", budget)
    norms = o.read_norm(norm, norm_in, norm_out)
    weights = o.read_weight("--weight-in", weight_in), o.read_weight("--weight-out", weight_out)
    arguments = o.load_arguments(input_shape, input_name, fix, output_name, mean, std, reader, seed)

    def work(path: Path, progress: Progress) -> Report:
        from lipcert.load.model import load
        from lipcert.tasks.given import as_weighted
        from lipcert.tasks.layers import layers

        loaded = as_weighted(load(path, **arguments, progress=progress), *weights, norms)
        return layers(loaded, norm=norms, progress=progress)

    run = Run("layers", model[0], json, quiet, threads, {"norm": norms}, budget=budget)
    return execute_each(run, model, work)
