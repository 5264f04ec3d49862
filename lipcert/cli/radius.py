"""`lipcert radius MODEL --data DATA`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipcert.cli import options as o
from lipcert.cli.paths import adversarial_file
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run, execute
from lipcert.report.report import Report
from lipcert.terms.errors import UsageError

if TYPE_CHECKING:
    from lipcert.sampling.attack import Pgd

UNIT = (0.0, 1.0)  # of scaled uint8
ATTACK = "Attack"


Data = Annotated[Path, typer.Option(metavar="DATA", help="Samples x and labels y: .npz, .npy or .csv.")]
Norm = Annotated[str, typer.Option(metavar="1|2|inf", help="Norm of the ball.")]
Eps = Annotated[str | None, typer.Option(metavar="E,E,...", help="Certified accuracy at these radii.")]
Method = Annotated[
    list[str] | None,
    typer.Option(
        metavar="pairs|local|values|regions|global|sqrt2", help="May be repeated; the largest radius is taken."
    ),
]
Tolerance = Annotated[float | None, typer.Option(metavar="T", help="Regression: each output moves by at most T.")]
First = Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N samples.")]
Raw = Annotated[bool, typer.Option("--raw", help="uint8 values as they are, not scaled to [0, 1].")]
Certificate = Annotated[
    str | None, typer.Option(metavar="FILE", help="For `lipcert verify`: radii that follow from global constants.")
]
Valid = Annotated[
    str | None,
    typer.Option(metavar="LO:HI", help="Only inputs in this range count, for radii and the attack (default: all)."),
]
Plot = Annotated[str | None, typer.Option(metavar="FILE", help="Curves of certified accuracy, PNG or SVG.")]
Resume = Annotated[str | None, typer.Option(metavar="REPORT", help="Go on with a partial report.")]
Attack = Annotated[
    bool, typer.Option("--attack", help="PGD in the same norm: [certified, attacked].", rich_help_panel=ATTACK)
]
Restarts = Annotated[int, typer.Option(min=1, help="Of each round.", rich_help_panel=ATTACK)]
Steps = Annotated[int, typer.Option(min=1, help="Of each restart.", rich_help_panel=ATTACK)]
Clip = Annotated[
    str | None,
    typer.Option(metavar="LO:HI", help="Of the attack alone (default 0:1 for scaled uint8).", rich_help_panel=ATTACK),
]


def radius(
    model: o.ModelPath,
    data: Data,
    norm: Norm = "2",
    eps: Eps = None,
    method: Method = None,
    tolerance: Tolerance = None,
    execution: o.Execution = None,
    valid: Valid = None,
    certificate: Certificate = None,
    first: First = None,
    raw: Raw = False,
    plot: Plot = None,
    resume: Resume = None,
    attack: Attack = False,
    restarts: Restarts = 4,
    steps: Steps = 20,
    clip: Clip = None,
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
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    journal: o.Journal = None,
    budget: o.Budget = None,
    memory: o.Memory = None,
    quiet: o.Quiet = False,
) -> int:
    """Certified robustness radii of samples, and certified accuracy."""
    o.check_none_negative(budget=budget, memory=memory)
    norms, where, box = o.read_norm(norm, None, None), o.read_device(device), read_range("--clip", clip)
    question: dict[str, Any] = {"methods": method or None, "tolerance": tolerance, "seed": seed, "norm": norms}
    question |= {"eps": o.read_radii(eps), "execution": o.read_execution(execution)}
    question |= {"certificate": certificate, "valid": read_range("--valid", valid)}
    arguments = o.load_arguments(input_shape, input_name, fix, output_name, mean, std, reader, seed)
    o.check_picture(plot)

    def work(progress: Progress) -> Report:
        from lipcert.load import data as files
        from lipcert.load.model import load
        from lipcert.tasks.radius.task import RadiusRequest, radius

        loaded = load(model, **arguments, progress=progress)
        samples = files.read_data(data, loaded.input_shape, inputs=loaded.inputs, raw=raw, gaps=True)
        inside = box or question["valid"] or (UNIT if samples.scaled else None)
        given: dict[str, Any] = {"x": samples.x[:first], "y": None if samples.y is None else samples.y[:first]}
        pgd = read_attack(restarts, steps, inside, seed, where) if attack else None
        asked = RadiusRequest(attack=pgd, adversarial=adversarial_file(json), **given, **question)
        return radius(loaded, asked, o.session_of(progress, workers, scheduler, journal, where), resume)

    picture = plot and partial(draw, path=plot, title=model.name)
    return execute(Run("radius", model, json, quiet, threads, {"norm": norms}, picture or None, budget, memory), work)


def draw(report: Report, path: str, title: str) -> None:
    from lipcert.report.plots import accuracy_curve

    accuracy_curve(path, report.points, norm=report.norm.input, title=title)


def read_range(option: str, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low, high = 1.0, 0.0
    if not low <= high:
        raise UsageError(f"{option} {text}: write LO:HI, e.g. {option}=-1:1")
    return low, high


def read_attack(restarts: int, steps: int, clip: tuple[float, float] | None, seed: int, device: str) -> Pgd:
    from lipcert.regions.device import available
    from lipcert.sampling.attack import Pgd

    return Pgd(restarts, steps, clip=clip, seed=seed, device=available(device))
