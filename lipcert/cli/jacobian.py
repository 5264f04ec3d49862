"""`lipcert jacobian MODEL`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipcert.cli import options as o
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run, execute
from lipcert.report.report import Report
from lipcert.terms.errors import UsageError

if TYPE_CHECKING:
    from lipcert.load.model import Model

WHERE = "Where (--data or --box)"
WHAT = "Which part of the network"
PICTURE = ("spectral", "frobenius", "l1", "linf", "smallest")


Data = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="At these: .npz with x (and y), .npy, .csv.", rich_help_panel=WHERE),
]
Raw = Annotated[bool, typer.Option("--raw", help="Leave uint8 as it is, not / 255.", rich_help_panel=WHERE)]
Box = Annotated[
    str | None, typer.Option(metavar="LO:HI[,LO:HI...]", help="At random points of a box.", rich_help_panel=WHERE)
]
Samples = Annotated[int | None, typer.Option(min=1, help="Points of the box (default 1000).", rich_help_panel=WHERE)]
Prove = Annotated[
    bool,
    typer.Option(
        "--prove",
        help="Proved on all of the box: ranges of the entries, monotone inputs, smallest singular value.",
        rich_help_panel=WHERE,
    ),
]
Around = Annotated[
    float | None,
    typer.Option(metavar="SIGMA", help="Also at the data with Gaussian noise.", rich_help_panel=WHERE),
]
Between = Annotated[bool, typer.Option("--between", help="Also between two random data points.", rich_help_panel=WHERE)]
PerClass = Annotated[bool, typer.Option("--per-class", help="Also for each label y.")]
FromNode = Annotated[
    str | None, typer.Option("--from", metavar="NODE", help="From this signal on: features.", rich_help_panel=WHAT)
]
ToNode = Annotated[str | None, typer.Option("--to", metavar="NODE", help="Up to this signal.", rich_help_panel=WHAT)]
Laplacian = Annotated[bool, typer.Option("--laplacian", help="Class-graph smoothness of each layer; needs labels.")]
Plot = Annotated[str | None, typer.Option(metavar="FILE", help="Histograms as .png or .svg; needs matplotlib.")]
Resume = Annotated[str | None, typer.Option(metavar="REPORT", help="Go on with a partial report.")]


def jacobian(
    model: o.ModelPath,
    data: Data = None,
    raw: Raw = False,
    box: Box = None,
    samples: Samples = None,
    prove: Prove = False,
    budget: o.Budget = None,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    journal: o.Journal = None,
    around: Around = None,
    between: Between = False,
    per_class: PerClass = False,
    from_node: FromNode = None,
    to_node: ToNode = None,
    laplacian: Laplacian = False,
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
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> int:
    """Statistics of Jacobian norms at data, around and between them. --norm: of the lower value of L found there."""
    _check(data, box, samples, around)
    o.check_not_negative("--budget", budget)
    o.check_picture(plot)
    norms = o.read_norm(norm, norm_in, norm_out)
    arguments = o.load_arguments(input_shape, input_name, fix, output_name, mean, std, reader, seed)
    more: dict[str, Any] = {"around": around, "between": between, "per_class": per_class, "laplacian": laplacian}
    more |= {"from_node": from_node, "to_node": to_node, "norm": norms}
    more |= {"prove": prove, "seed": seed, "device": o.read_device(device)}

    def work(progress: Progress) -> Report:
        from lipcert.load.data import parse_region
        from lipcert.load.model import load
        from lipcert.tasks import jacobian as measure

        loaded = load(model, **arguments, progress=progress)
        region = parse_region(loaded, box=box)
        count = samples or measure.SAMPLES
        question = measure.JacobianRequest(**_points(loaded, data, raw), region=region, samples=count, **more)
        how = o.session_of(progress, workers, scheduler, journal, device)
        return measure.jacobian(loaded, question, how, resume)

    asked = {"norm": norms, "region": {"kind": "box", "lower": None, "upper": None, "asked": box}} if box else {}
    picture = None if plot is None else partial(draw, path=plot)
    return execute(Run("jacobian", model, json, quiet, threads, asked or {"norm": norms}, picture, budget), work)


def _check(data: str | None, box: str | None, samples: int | None, around: float | None) -> None:
    o.check_not_negative("--around", around)
    if (data is None) == (box is None):
        raise UsageError("jacobian: say where: give --data DATA, or --box LO:HI[,LO:HI...]")
    if box is None and samples is not None:
        raise UsageError("--samples: of a box; data have their own number")


def _points(loaded: Model, data: str | None, raw: bool) -> dict[str, Any]:
    if data is None:
        return {}
    from lipcert.load.data import read_data

    found = read_data(data, loaded.input_shape, inputs=loaded.inputs, raw=raw)
    return {"x": found.x, "y": found.y}


def draw(report: Report, path: str) -> None:
    """One histogram per quantity, in it one outline per set of points."""
    import numpy as np

    from lipcert.report.plots import histograms
    from lipcert.report.sections.jacobian import PLACES, WORDS

    found = report.summary["jacobian"]
    values = {
        WORDS[name]: {
            PLACES[group["set"]]: np.array(
                [r[name] for r in report.points if r["set"] == group["set"] and r[name] is not None], dtype=float
            )
            for group in found["sets"]
        }
        for name in PICTURE
        if found["quantities"][name] is not None
    }
    outputs, inputs = found["size"][1], found["size"][0]
    histograms(path, values, title=f"Jacobians ({outputs} x {inputs})")
