"""`lipcert verify CERTIFICATE MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli import options as o
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run, execute
from lipcert.report.report import Report
from lipcert.terms.query import Output


def verify(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="A file of `lipcert bound --certificate`.")
    ],
    model: o.ModelPath,
    norm: o.NormBoth = None,
    norm_in: o.NormIn = None,
    norm_out: o.NormOut = None,
    output: Annotated[str | None, typer.Option(metavar="vector|I|I-J", help="Output functional.")] = None,
    input_shape: o.InputShape = None,
    input_name: o.InputName = None,
    fix: o.Fix = None,
    output_name: o.OutputName = None,
    mean: o.Mean = None,
    std: o.Std = None,
    reader: o.Reader = "own",
    explain: Annotated[bool, typer.Option("--explain", help="Tell the steps of the proof in words.")] = False,
    json: o.Json = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> int:
    """Prove the upper bound of a certificate again, without any solver.

    --norm, --output, --mean, --std and the names and shape of input and output say what you want bounded: they are
    compared with the certificate. What you do not say is what its prover chose, and is marked so.
    """
    question = o.load_arguments(input_shape, input_name, fix, output_name, mean, std, reader, seed)
    if norm is not None or norm_in is not None or norm_out is not None:
        question["norm"] = o.read_norm(norm, norm_in, norm_out)
    if output is not None:
        question["output"] = Output.parse(output)

    def work(progress: Progress) -> Report:
        from lipcert.tasks.verify import VerifyRequest, verify

        return verify(certificate, model, VerifyRequest(explain=explain, **question), progress)

    return execute(Run("verify", model, json, quiet, threads), work)
