"""Options shared by the commands, and how their text is read."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipcert.terms.errors import UsageError
from lipcert.terms.query import NORMS, Norm

if TYPE_CHECKING:
    from lipcert.tasks.task import Session
    from lipcert.terms.progress import Progress

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
    list[str] | None,
    typer.Option(metavar="[NAME=]N,N,...", help="Shape of an input, e.g. 1,28,28.", rich_help_panel=MODEL),
]
InputName = Annotated[
    str | None,
    typer.Option(metavar="A[,B...]", help="Which input moves; several as one vector.", rich_help_panel=MODEL),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE|DATA",
        help="Hold another input, e.g. sr=16000, state=0, h=h.npy, h=in.npz#h.",
        rich_help_panel=MODEL,
    ),
]
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
BUDGET = "Seconds for the command, reading the model included; what is proved by then is kept."
Budget = Annotated[float | None, typer.Option(metavar="SECONDS", help=BUDGET, rich_help_panel=RUN)]
BudgetEach = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help=BUDGET.replace("the command", "each model"), rich_help_panel=RUN),
]
Memory = Annotated[
    float | None,
    typer.Option(metavar="GIB", help="That dense blocks of a method may take (default 4).", rich_help_panel=RUN),
]
Device = Annotated[str, typer.Option(metavar="cpu|cuda", help="Where sampling runs.", rich_help_panel=RUN)]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel=RUN)]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the computation.", rich_help_panel=RUN)]
MANY = "Many processors, and runs that may be killed"
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes of this machine, a thread each.", rich_help_panel=MANY),
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="local[:N]|ADDRESS", help="Dask, such as tcp://host:8786.", rich_help_panel=MANY),
]
Journal = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Keep what is done; the same command goes on.", rich_help_panel=MANY),
]
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
    input_shape: list[str] | None,
    input_name: str | None,
    fix: list[str] | None,
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
        "input_shape": read_shapes(input_shape),
        "input_name": input_name,
        "fix": read_fixed(fix),
        "output_name": output_name,
        "mean": read_numbers("--mean", mean),
        "std": read_numbers("--std", std),
        "reader": reader,
        "seed": seed,
    }


def read_shapes(texts: list[str] | None) -> Any:
    """Of --input-shape: one shape, or shapes by the names of inputs. `load` knows what moves."""
    if not texts:
        return None
    pairs = [text.rpartition("=")[::2] for text in texts]
    if len(pairs) == 1 and not pairs[0][0]:
        return read_shape(pairs[0][1])
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise UsageError(
            f"--input-shape: {'two shapes' if '' in names else 'two of one input'}: write NAME=N,N for each"
        )
    return {name: read_shape(text) for name, text in pairs}


def read_shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--input-shape {text}: write positive whole numbers such as 1,28,28, or NAME=1,28,28")
    return shape


def read_fixed(texts: list[str] | None) -> dict[str, Any]:
    """Of --fix: NAME=NUMBER[,NUMBER...], or an array of a file."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        while equals and "=" in value and not _is_value(value):  # names of inputs may hold "=" themselves
            more, equals, value = value.partition("=")
            name = f"{name}={more}"
        if not equals or not name or not value:
            raise UsageError(
                f"--fix {text}: write NAME=VALUE, such as sr=16000, or NAME=FILE with .npy, .npz#key or .csv"
            )
        if name in found:
            raise UsageError(f"--fix {name}: it is held twice")
        if _is_value(value):
            found[name] = _values(name, value)
        else:
            from lipcert.load.data import read_held

            found[name] = read_held(value)
    return found


def _is_value(text: str) -> bool:
    return bool(re.fullmatch(r"true|false|[-+.\deE,_]+", text.lower()))


def _values(name: str, text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        numbers = [int(part) if re.fullmatch(r"[-+]?\d+", part) else float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--fix {name}={text}: write numbers such as 0.5 or 0,0,1, or a file") from None
    if not all(map(isfinite, numbers)) or any(abs(n) >= 2**63 for n in numbers if isinstance(n, int)):
        raise UsageError(f"--fix {name}={text}: finite numbers are needed")
    return numbers if len(numbers) > 1 else numbers[0]


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


def check_none_negative(**numbers: float | None) -> None:
    """Options by their names."""
    for name, number in numbers.items():
        check_not_negative(f"--{name.replace('_', '-')}", number)


def session_of(
    progress: Progress, workers: int | None, scheduler: str | None, journal: str | None, device: str
) -> Session:
    """The budget is that of the command (`cli/run.py`)."""
    from lipcert.tasks.workers import session

    return session(progress, None, workers, scheduler, journal, device)


def read_device(text: str) -> str:
    if text not in DEVICES:
        raise UsageError(f"--device {text}: devices are {' and '.join(DEVICES)}")
    return text


def read_execution(text: str | None) -> str | None:
    if text is not None and text not in EXECUTIONS:
        raise UsageError(f"--execution {text}: formats are {', '.join(EXECUTIONS)}")
    return text
