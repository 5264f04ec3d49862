"""`lipcert bound MODEL`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipcert.cli import options as o
from lipcert.cli.failure import COPY, complain
from lipcert.cli.many import check_single, execute_each, several
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run
from lipcert.cli.typed import TYPED
from lipcert.report.report import Report
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm, Output, Region

if TYPE_CHECKING:
    from lipcert.load.model import Model
    from lipcert.tasks.bound import BoundRequest
    from lipcert.tasks.task import Session

REGION = "Region (none: the whole input space)"


Method = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Only this method; may be repeated (default all).")
]
OutputOption = Annotated[str, typer.Option(metavar="vector|I|I-J|pairs|each", help="Output functional.")]
MaxUpper = Annotated[float | None, typer.Option(metavar="X", help="Gate: exit 1 unless upper <= X is proved.")]
Certificate = Annotated[
    str | None, typer.Option(metavar="FILE", help="Write what `lipcert verify` needs to prove upper again.")
]
Multipliers = Annotated[
    str | None, typer.Option(metavar="neuron|channel|layer|mixed", help="What shares a multiplier in lipsdp.")
]
Solver = Annotated[
    str | None, typer.Option(metavar="SCS|CLARABEL|MOSEK", help="Of --method lipsdp-cvxpy (default SCS).")
]
Resume = Annotated[
    str | None, typer.Option(metavar="REPORT", help="Go on with the partial report of --output pairs or each.")
]
Box = Annotated[str | None, typer.Option(metavar="LO:HI[,LO:HI...]", help="A box.", rich_help_panel=REGION)]
At = Annotated[
    str | None,
    typer.Option(
        metavar="DATA[#INDEX]",
        help="Centre of a ball; a number is a point with it in all entries.",
        rich_help_panel=REGION,
    ),
]
Eps = Annotated[float | None, typer.Option(help="Radius of the ball.", rich_help_panel=REGION)]
BallNorm = Annotated[str | None, typer.Option(metavar="P", help="Norm of the ball.", rich_help_panel=REGION)]
Ranges = Annotated[bool, typer.Option("--range", help="Intervals of the outputs as well.", rich_help_panel=REGION)]
Rtol = Annotated[float, typer.Option(metavar="R", help="Close brackets to this.", rich_help_panel=REGION)]


def bound(
    model: o.ModelPaths,
    norm: o.NormBoth = None,
    norm_in: o.NormIn = None,
    norm_out: o.NormOut = None,
    method: Method = None,
    output: OutputOption = "vector",
    budget: o.BudgetEach = None,
    memory: o.Memory = None,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    journal: o.Journal = None,
    max_upper: MaxUpper = None,
    certificate: Certificate = None,
    multipliers: Multipliers = None,
    solver: Solver = None,
    execution: o.Execution = None,
    resume: Resume = None,
    box: Box = None,
    at: At = None,
    eps: Eps = None,
    ball_norm: BallNorm = None,
    ranges: Ranges = False,
    rtol: Rtol = 1e-6,
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
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    threads: o.Threads = None,
    quiet: o.Quiet = False,
) -> int:
    """A certified interval lower <= L <= upper for the Lipschitz constant, of one model or of many."""
    o.check_none_negative(memory=memory, budget=budget, max_upper=max_upper, eps=eps, rtol=rtol)
    norms, functional = o.read_norm(norm, norm_in, norm_out), str(Output.parse(output))
    arguments = o.load_arguments(input_shape, input_name, fix, output_name, mean, std, reader, seed)
    question: dict[str, Any] = {"norm": norms, "output": functional, "rtol": rtol, "seed": seed, "ranges": ranges}
    question |= {"methods": method or None, "multipliers": multipliers, "solver": solver, "certificate": certificate}
    question |= {"device": o.read_device(device), "execution": o.read_execution(execution)}
    region = asked_region(box, at, eps, ball_norm)
    check_single(model, certificate=certificate, resume=resume, journal=journal)

    def work(path: Path, progress: Progress) -> Report:
        from lipcert.tasks.bound import BoundRequest, bound

        loaded = weighted(path, arguments, (weight_in, weight_out), norms, progress)
        asked = BoundRequest(region=read_region(loaded, box, at, eps, ball_norm), **question)
        how = o.session_of(progress, workers, scheduler, journal, device)
        report = replace(bound(loaded, asked, how, resume), max_upper=max_upper)
        return report if several(model) else with_ball(report, loaded, asked, how)

    asked = {"norm": norms, "output": functional, "region": region, "max_upper": max_upper}
    return execute_each(Run("bound", model[0], json, quiet, threads, asked, budget=budget, memory=memory), model, work)


def weighted(
    path: Path, arguments: dict[str, Any], typed: tuple[str | None, str | None], norms: Norm, progress: Progress
) -> Model:
    from lipcert.load.model import load
    from lipcert.tasks.given import as_weighted

    weights = o.read_weight("--weight-in", typed[0]), o.read_weight("--weight-out", typed[1])
    return as_weighted(load(path, **arguments, progress=progress), *weights, norms)


def with_ball(report: Report, model: Model, asked: BoundRequest, session: Session) -> Report:
    """A ball that has a finite bound where the whole space has none, or one that says little: said as a command to copy."""
    from lipcert.report.next_steps import far_off
    from lipcert.tasks.suggest import CLOSER, SECONDS, ball_with_answer, wanting

    if report.region.get("kind") == "global" and far_off(report.lower, report.upper, report.region):
        return suggested(report, CLOSER, "the bound is far from what is attained; on a ball it may be far closer")
    if not wanting(report):
        return report
    left = max(SECONDS, sum(result.seconds for result in report.results))  # no longer than what was asked for took
    if session.deadline is not None:
        left = min(left, max(0.0, session.deadline - time.monotonic()))
    if session.progress is not None:
        session.progress("looking for a ball with a bound", None, None)
    try:
        found = ball_with_answer(model, asked, left)
    except KeyboardInterrupt as stop:  # of the search alone
        stop.partial_report = report  # type: ignore[attr-defined]
        raise
    if found is None:
        return report
    return suggested(report, found, "no finite bound is known over the whole space; on a ball there is one")


def suggested(report: Report, ball: tuple[str, str], why: str) -> Report:
    again = ("--at", ball[0], "--eps", ball[1])
    copied = TYPED.again(again, ("--method", "--json", "--resume", "--certificate", "--max-upper"))
    complain(f"{why}\n{COPY}{copied}")
    return replace(report, suggestion=copied)


def read_region(loaded: Model, box: str | None, at: str | None, eps: float | None, ball_norm: str | None) -> Region:
    if box is None and at is None:
        return None
    from lipcert.load import data

    return data.parse_region(loaded, box=box, at=at, eps=eps, ball_norm=ball_norm)


def asked_region(box: str | None, at: str | None, eps: float | None, ball_norm: str | None) -> dict[str, Any]:
    """The region as far as it is known before the model is read, for the report of a model that is refused."""
    if box is not None and at is not None:
        raise UsageError("--box and --at: give one region")
    if at is None and (eps is not None or ball_norm is not None):
        raise UsageError("--eps and --ball-norm describe the ball around --at: give --at DATA[#INDEX]")
    if at is not None and eps is None:
        raise UsageError("--at: give the radius of the ball with --eps")
    if box is not None:
        return {"kind": "box", "lower": None, "upper": None, "asked": box}
    if at is not None:
        return {"kind": "ball", "center": None, "radius": eps, "norm": ball_norm or "2", "asked": at}
    return {"kind": "global"}
