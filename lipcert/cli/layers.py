"""`lipcert layers MODEL`."""

from __future__ import annotations

from lipcert.cli import options as o
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run, execute
from lipcert.report.report import Report


def layers(
    model: o.ModelPath,
    norm: o.NormBoth = None,
    norm_in: o.NormIn = None,
    norm_out: o.NormOut = None,
    input_shape: o.InputShape = None,
    input_name: o.InputName = None,
    output_name: o.OutputName = None,
    mean: o.Mean = None,
    std: o.Std = None,
    reader: o.Reader = "own",
    json: o.Json = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> int:
    """The Lipschitz constant of each layer."""
    norms = o.read_norm(norm, norm_in, norm_out)
    arguments = o.load_arguments(input_shape, input_name, output_name, mean, std, reader, seed)

    def work(progress: Progress) -> Report:
        from lipcert.load.model import load
        from lipcert.tasks.layers import layers

        loaded = load(model, **arguments, progress=progress)
        return layers(loaded, norm=norms, progress=progress)

    return execute(Run("layers", model, json, quiet, threads, {"norm": norms}), work)
