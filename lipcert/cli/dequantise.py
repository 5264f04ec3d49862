"""`lipcert dequantise MODEL --to FILE`."""

from __future__ import annotations

import json as js
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli.failure import COPY, complain
from lipcert.cli.run import write_text
from lipcert.terms.errors import UsageError
from lipcert.terms.printable import printable


def dequantise(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An .onnx file with QuantizeLinear, DequantizeLinear.")
    ],
    to: Annotated[str | None, typer.Option("--to", metavar="FILE", help="The surrogate, another .onnx file.")] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="What was written, for machines.")
    ] = None,
) -> int:
    """A quantised model as the float network that it is without rounding: a surrogate, to bound in its place."""
    from lipcert.tasks.dequantise import dequantise

    if to is None:
        again = shlex.join(["lipcert", "dequantise", str(model), "--to", f"{model.with_suffix('')}_surrogate.onnx"])
        raise UsageError(f"--to: say where the surrogate goes\n{COPY}{again}")
    written = dequantise(model, to)
    text = js.dumps({"model": str(model), "surrogate": to, **asdict(written)}, indent=1) + "\n"
    if json == "-":
        sys.stdout.write(text)
        return 0
    if json is not None:
        write_text("--json", json, text)
    said = f"{to}: {model} without the rounding of its {written.quantisers} quantisers; another model, with constants of its own"
    sys.stdout.write(printable(said) + "\n")
    complain(f"bounds of the surrogate are about it alone\n{COPY}{shlex.join(['lipcert', 'bound', to])}")
    return 0
