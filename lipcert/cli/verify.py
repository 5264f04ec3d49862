"""`lipcert verify CERTIFICATE MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli import options as o
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run, execute
from lipcert.errors import UsageError
from lipcert.report.report import Report


def verify(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="A file of `lipcert bound --certificate`.")
    ],
    model: o.ModelPath,
    reader: o.Reader = "own",
    json: o.Json = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> int:
    """Prove the upper bound of a certificate again, without any solver."""
    if reader not in o.READERS:
        raise UsageError(f"--reader {reader}: readers are {' and '.join(o.READERS)}")

    def work(progress: Progress) -> Report:
        from lipcert import pipeline

        return pipeline.verify(certificate, model, reader=reader, seed=seed, progress=progress)

    return execute(Run("verify", model, json, quiet, threads), work)
