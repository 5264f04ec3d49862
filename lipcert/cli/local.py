"""`lipcert local MODEL`: over a grid (--grid), or around data points (--at)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from lipcert.cli import options as o
from lipcert.cli.local_tasks import AUTO, Typed, around_points, over_grid
from lipcert.cli.run import Run, execute
from lipcert.terms.errors import UsageError

GRID = "Over a grid (--grid)"
AT = "Around data points (--at)"

Grid = Annotated[
    str | None,
    typer.Option(metavar="[RxC]", help="Cells along each input; alone: 50x50.", rich_help_panel=GRID),
]
BoxOption = Annotated[
    str | None,
    typer.Option(metavar="LO:HI[,LO:HI...]", help="Of the grid (default: around --data).", rich_help_panel=GRID),
]
Data = Annotated[
    str | None, typer.Option(metavar="DATA", help="Points for the box and the picture.", rich_help_panel=GRID)
]
Pairs = Annotated[
    int, typer.Option(min=0, help="Random pairs per cell, for lower values (paper: 2500).", rich_help_panel=GRID)
]
Jacobians = Annotated[
    int, typer.Option(min=0, help="Sampled Jacobians per cell, for lower values.", rich_help_panel=GRID)
]
PlaneOption = Annotated[str | None, typer.Option(metavar="I,J", help="Only inputs I and J move.", rich_help_panel=GRID)]
Through = Annotated[
    str | None,
    typer.Option(
        metavar="DATA#K[,L,M]", help="The point the plane goes through, or three of them.", rich_help_panel=GRID
    ),
]
Certificate = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="For `lipcert verify`: the value of each cell.", rich_help_panel=GRID),
]
Plot = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Heat maps as .png, .svg or .pdf; needs lipcert[plots].", rich_help_panel=GRID),
]
Regions = Annotated[
    bool,
    typer.Option("--regions", help="Linear regions as polygons, in the report and --plot.", rich_help_panel=GRID),
]
OwnScales = Annotated[
    bool, typer.Option("--own-scales", help="Each map with its own colour scale.", rich_help_panel=GRID)
]
ScaleOf = Annotated[
    str | None,
    typer.Option(metavar="REPORT", help="The colour scale of another grid, to compare.", rich_help_panel=GRID),
]
Vmin = Annotated[float | None, typer.Option(help="Lower end of the colour scale.", rich_help_panel=GRID)]
Vmax = Annotated[float | None, typer.Option(help="Upper end of the colour scale.", rich_help_panel=GRID)]
At = Annotated[str | None, typer.Option(metavar="DATA[#INDEX]", help="Centres: all, or one.", rich_help_panel=AT)]
Eps = Annotated[str | None, typer.Option(metavar="E[,E...]", help="Radii of the balls.", rich_help_panel=AT)]
BallNorm = Annotated[str, typer.Option(metavar="P", help="Norm of the balls.", rich_help_panel=AT)]
First = Annotated[int | None, typer.Option(min=1, help="Only so many points.", rich_help_panel=AT)]
Method = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Of the ladder; may be repeated.", rich_help_panel=AT)
]
Rtol = Annotated[float, typer.Option(metavar="R", help="Close brackets to this; 0: one sweep per cell.")]
Each = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="For each ball, then no further method (default 1).", rich_help_panel=AT),
]
OutputOption = Annotated[str, typer.Option(metavar="vector|I|I-J", help="Output functional.")]
Resume = Annotated[str | None, typer.Option(metavar="REPORT", help="Go on with a partial report.")]
Raw = Annotated[bool, typer.Option("--raw", help="Leave uint8 data as it is, not / 255.")]


def local(
    model: o.ModelPath,
    grid: Grid = None,
    box: BoxOption = None,
    data: Data = None,
    pairs: Pairs = 0,
    jacobians: Jacobians = 0,
    plane: PlaneOption = None,
    through: Through = None,
    plot: Plot = None,
    regions: Regions = False,
    own_scales: OwnScales = False,
    scale_of: ScaleOf = None,
    vmin: Vmin = None,
    vmax: Vmax = None,
    at: At = None,
    eps: Eps = None,
    ball_norm: BallNorm = "2",
    first: First = None,
    method: Method = None,
    rtol: Rtol = 0.01,
    each: Each = None,
    budget: o.Budget = None,
    memory: o.Memory = None,
    output: OutputOption = "vector",
    execution: o.Execution = None,
    certificate: Certificate = None,
    resume: Resume = None,
    raw: Raw = False,
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
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    threads: o.Threads = None,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    journal: o.Journal = None,
    quiet: o.Quiet = False,
) -> int:
    """Certified local constants: in every cell of a grid, or in balls around data points."""
    given = Typed(**locals())
    if (grid is None) == (at is None):
        raise UsageError("local: say where: give --grid (with --box or --data), or --at DATA with --eps")
    work = over_grid(given) if grid is not None else around_points(given)
    asked = {"norm": given.norms, "output": given.functional}
    return execute(Run("local", model, json, quiet, threads, asked, given.picture, budget, memory), work)


def bare_grid(arguments: Sequence[str]) -> list[str]:
    """`--grid` without a value means the usual number of cells; an option of a command line always takes a value."""
    found: list[str] = []
    for place, word in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        bare = word == "--grid" and "local" in arguments[:place] and not re.fullmatch(r"\d+([x,]\d+)*", following)
        found.append(f"--grid={AUTO}" if bare and not _mistaken(following) else word)
    return found


def _mistaken(word: str) -> bool:
    """Meant as a number of cells, and better answered with an error than taken for a model's name."""
    return bool(re.fullmatch(r"[\dxX,*]+", word))
