"""Options shared by the commands, and how their text is read."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from lipcert.terms.errors import UsageError
from lipcert.terms.query import NORMS, Norm

MODEL = "Reading the model"
RUN = "Running"
READERS = ("own", "onnx2torch")
DEVICES = ("cpu", "cuda")
EXECUTIONS = ("float32", "bfloat16", "float16")

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An .onnx, TorchScript (.pt) or exported (.pt2) file.")
]
ModelPaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL...", help="An .onnx, TorchScript (.pt) or exported (.pt2) file; or several, or folders."
    ),
]
NormBoth = Annotated[
    str | None,
    typer.Option("--norm", autocompletion=lambda: NORMS, help="1, 2 or inf, for input and output (default 2)."),
]
NormIn = Annotated[
    str | None,
    typer.Option("--norm-in", autocompletion=lambda: NORMS, metavar="P", help="Input norm; with --norm-out."),
]
NormOut = Annotated[
    str | None,
    typer.Option("--norm-out", autocompletion=lambda: NORMS, metavar="Q", help="Output norm; with --norm-in."),
]

InputShape = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="Shape of one input, e.g. 1,28,28.", rich_help_panel=MODEL),
]
InputName = Annotated[str | None, typer.Option(help="Which input moves, if there are several.", rich_help_panel=MODEL)]
OutputName = Annotated[str | None, typer.Option(help="Which output, if there are several.", rich_help_panel=MODEL)]
Mean = Annotated[
    str | None,
    typer.Option(metavar="X,...", help="Input normalisation (x - mean) / std, put in front.", rich_help_panel=MODEL),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="X,...", help="With it, constants are in raw input units.", rich_help_panel=MODEL),
]
Reader = Annotated[str, typer.Option(metavar="own|onnx2torch", help="Who reads ONNX.", rich_help_panel=MODEL)]

WEIGHTS = "Weighted norms: |W_out (f(x) - f(x'))| <= L |W_in (x - x')|"
WeightIn = Annotated[
    str | None,
    typer.Option(
        metavar="X,...|FILE",
        rich_help_panel=WEIGHTS,
        help="One weight per input, or a file (.npy, .csv) of them or of a matrix (l2).",
    ),
]
WeightOut = Annotated[
    str | None,
    typer.Option(metavar="X,...|FILE", rich_help_panel=WEIGHTS, help="The same of the outputs, such as 1,10,0.5."),
]

Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="Write the report; - is JSON alone on stdout.", rich_help_panel=RUN),
]
Execution = Annotated[
    str | None,
    typer.Option(
        metavar="float32|bfloat16|float16",
        autocompletion=lambda: EXECUTIONS,
        help="Cover this execution too (default: real arithmetic).",
    ),
]
Device = Annotated[str, typer.Option(metavar="cpu|cuda", help="Where sampling runs.", rich_help_panel=RUN)]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel=RUN)]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the computation.", rich_help_panel=RUN)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.", rich_help_panel=RUN)]


def read_norm(both: str | None, norm_in: str | None, norm_out: str | None) -> Norm:
    if both is not None and (norm_in is not None or norm_out is not None):
        raise UsageError("--norm sets both norms: leave out --norm-in and --norm-out, or --norm")
    if (norm_in is None) != (norm_out is None):
        raise UsageError("--norm-in and --norm-out go together: give both, or --norm for both at once")
    if norm_in is not None and norm_out is not None:
        return Norm.parse(f"{norm_in}->{norm_out}")
    return Norm.parse("2" if both is None else both)


def read_radii(text: str | None) -> list[float]:
    """Of --eps; none where nothing is given."""
    found = list(read_numbers("--eps", text) or ())
    for number in found:
        check_not_negative("--eps", number)
    return found


def check_picture(plot: str | None) -> None:
    """Of --plot, before any work."""
    if plot is not None:
        from lipcert.report.plots import check_plot

        check_plot("--plot", plot)


def load_arguments(
    input_shape: str | None,
    input_name: str | None,
    output_name: str | None,
    mean: str | None,
    std: str | None,
    reader: str,
    seed: int,
) -> dict[str, Any]:
    """The flags of `Reading the model` as arguments of `lipcert.load.model.load`."""
    if reader not in READERS:
        raise UsageError(f"--reader {reader}: readers are {' and '.join(READERS)}")
    return {
        "input_shape": read_shape(input_shape),
        "input_name": input_name,
        "output_name": output_name,
        "mean": read_numbers("--mean", mean),
        "std": read_numbers("--std", std),
        "reader": reader,
        "seed": seed,
    }


def read_shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--input-shape {text}: write positive whole numbers such as 1,28,28")
    return shape


def read_numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(isfinite, numbers)):
        raise UsageError(f"{flag} {text}: write numbers such as 0.485,0.456,0.406")
    return numbers


def read_weight(flag: str, text: str | None) -> Any:
    """Numbers, or the array of a file, (n,) or (n, n); None where nothing is given."""
    if text is None or re.fullmatch(r"[-+.\deE,\s]+", text):
        return read_numbers(flag, text)
    import numpy as np

    from lipcert.load.data import read_array

    found = read_array(text)
    return found.reshape(-1) if found.ndim == 2 and 1 in found.shape else np.asarray(found, dtype=np.float64)


def check_not_negative(flag: str, number: float | None) -> None:
    if number is not None and not (isfinite(number) and number >= 0):
        raise UsageError(f"{flag} {number}: write a finite number, zero or more")


def read_device(text: str) -> str:
    if text not in DEVICES:
        raise UsageError(f"--device {text}: devices are {' and '.join(DEVICES)}")
    return text


def read_execution(text: str | None) -> str | None:
    if text is not None and text not in EXECUTIONS:
        raise UsageError(f"--execution {text}: formats are {', '.join(EXECUTIONS)}")
    return text
