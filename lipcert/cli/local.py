"""`lipcert local MODEL`: over a grid (--grid), or around data points (--at)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipcert.cli import options as o
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run, execute
from lipcert.report.report import Report
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm, Output

if TYPE_CHECKING:
    from torch import Tensor

    from lipcert.load.model import Model
    from lipcert.network.plane import Plane
    from lipcert.terms.query import Box

GRID = "Over a grid (--grid)"
AT = "Around data points (--at)"
AUTO = "auto"
MARGIN = 0.05  # of the data's width on each side, where the box comes from the data


def local(
    model: o.ModelPath,
    grid: Annotated[
        str | None,
        typer.Option(metavar="[RxC]", help="Cells along each input; alone: 50x50.", rich_help_panel=GRID),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(metavar="LO:HI[,LO:HI...]", help="Of the grid (default: around --data).", rich_help_panel=GRID),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Points for the box and the picture.", rich_help_panel=GRID)
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=0, help="Random pairs per cell, for lower values (paper: 2500).", rich_help_panel=GRID)
    ] = 0,
    jacobians: Annotated[
        int, typer.Option(min=0, help="Sampled Jacobians per cell, for lower values.", rich_help_panel=GRID)
    ] = 0,
    plane: Annotated[
        str | None, typer.Option(metavar="I,J", help="Only inputs I and J move.", rich_help_panel=GRID)
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="DATA#K[,L,M]", help="The point the plane goes through, or three of them.", rich_help_panel=GRID
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Heat maps as .png, .svg or .pdf; needs lipcert[plots].", rich_help_panel=GRID
        ),
    ] = None,
    own_scales: Annotated[
        bool, typer.Option("--own-scales", help="Each map with its own colour scale.", rich_help_panel=GRID)
    ] = False,
    scale_of: Annotated[
        str | None,
        typer.Option(metavar="REPORT", help="The colour scale of another grid, to compare.", rich_help_panel=GRID),
    ] = None,
    vmin: Annotated[float | None, typer.Option(help="Lower end of the colour scale.", rich_help_panel=GRID)] = None,
    vmax: Annotated[float | None, typer.Option(help="Upper end of the colour scale.", rich_help_panel=GRID)] = None,
    at: Annotated[
        str | None, typer.Option(metavar="DATA[#INDEX]", help="Centres: all, or one.", rich_help_panel=AT)
    ] = None,
    eps: Annotated[str | None, typer.Option(metavar="E[,E...]", help="Radii of the balls.", rich_help_panel=AT)] = None,
    ball_norm: Annotated[str, typer.Option(metavar="P", help="Norm of the balls.", rich_help_panel=AT)] = "2",
    first: Annotated[int | None, typer.Option(min=1, help="Only so many points.", rich_help_panel=AT)] = None,
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of the ladder; may be repeated.", rich_help_panel=AT)
    ] = None,
    rtol: Annotated[float, typer.Option(metavar="R", help="Close brackets to this; 0: one sweep per cell.")] = 0.01,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of the grid; with --at of each ball (default 1).")
    ] = None,
    output: Annotated[str, typer.Option(metavar="vector|I|I-J", help="Output functional.")] = "vector",
    execution: o.Execution = None,
    resume: Annotated[str | None, typer.Option(metavar="REPORT", help="Go on with a partial report.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Leave uint8 data as it is, not / 255.")] = False,
    norm: o.NormBoth = None,
    norm_in: o.NormIn = None,
    norm_out: o.NormOut = None,
    input_shape: o.InputShape = None,
    input_name: o.InputName = None,
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
    """Certified local constants: in every cell of a grid, or in balls around data points."""
    o.check_not_negative("--rtol", rtol)
    o.check_not_negative("--budget", budget)
    if (grid is None) == (at is None):
        raise UsageError("local: say where: give --grid (with --box or --data), or --at DATA with --eps")
    norms = o.read_norm(norm, norm_in, norm_out)
    functional = str(Output.parse(output))
    arguments = o.load_arguments(input_shape, input_name, output_name, mean, std, reader, seed)
    weights = o.read_weight("--weight-in", weight_in), o.read_weight("--weight-out", weight_out)
    common: dict[str, Any] = {"norm": norms, "output": functional, "rtol": rtol, "seed": seed}
    common |= {"device": o.read_device(device), "execution": o.read_execution(execution)}
    shown: dict[str, Any] = {"limits": read_limits(scale_of, vmin, vmax)}  # and the data, in the picture
    if grid is not None:
        _refuse_others("--grid", {"--eps": eps, "--first": first, "--method": method})
        shape = read_grid(grid)
        if box is None and data is None and not _three(through):
            raise UsageError("--grid: of which box? give --box LO:HI[,LO:HI...], or --data DATA to take its range")
        if (plane is None) != (through is None) and not _three(through):
            raise UsageError("--plane I,J and --through DATA#K go together; --through DATA#K,L,M stands alone")
        if plot is not None:
            from lipcert.report.plots import check_plot

            check_plot("--plot", plot)

        def work(progress: Progress) -> Report:
            from lipcert.load.model import load
            from lipcert.tasks import grid as grids
            from lipcert.tasks.given import as_weighted

            loaded = as_weighted(load(model, **arguments, progress=progress), *weights, norms)
            where = read_plane(loaded, plane, through, raw, norms)
            points, labels = read_points(loaded, data, raw, where)
            region = read_box(loaded, box, points, where)
            if plot is not None and region.lower.numel() != 2:
                raise UsageError(f"--plot: pictures are of two inputs, and this grid has {region.lower.numel()}")
            shown.update(points=points, labels=labels)
            more: dict[str, Any] = {
                "pairs": pairs,
                "jacobians": jacobians,
                "plane": where,
                "budget": budget,
                "resume": resume,
            }
            return grids.grid(loaded, region, shape, **more, **common, progress=progress)

    else:
        _refuse_others("--at", {"--box": box, "--data": data, "--plane": plane, "--through": through, "--plot": plot})
        _refuse_others("--at", {"--pairs": pairs or None, "--jacobians": jacobians or None})
        radii = o.read_numbers("--eps", eps)
        if radii is None:
            raise UsageError("--at: give the radii of the balls with --eps, such as --eps 0.01,0.03")
        ball = Norm.parse(ball_norm).input
        centres = str(at)

        def work(progress: Progress) -> Report:
            from lipcert.load.data import read_data
            from lipcert.load.model import load
            from lipcert.tasks import balls as local_balls
            from lipcert.tasks.given import as_weighted

            loaded = as_weighted(load(model, **arguments, progress=progress), *weights, norms)
            path, places = split_places(centres)
            found = read_data(path, loaded.input_shape, raw=raw)
            rows = list(range(len(found.x))) if places is None else places
            rows = _within("--at", centres, rows, len(found.x))[:first]
            return local_balls.local(
                loaded,
                found.x[rows],
                radii,
                ball_norm=ball,
                y=None if found.y is None else found.y[rows],
                indices=rows,
                methods=method or None,
                budget=local_balls.BUDGET if budget is None else budget,
                resume=resume,
                progress=progress,
                **common,
            )

    picture = None if plot is None else lambda report: draw(report, plot, own_scales=own_scales, **shown)
    return execute(Run("local", model, json, quiet, threads, {"norm": norms, "output": functional}, picture), work)


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


def read_grid(text: str) -> tuple[int, ...] | None:
    if text == AUTO:
        return None
    try:
        return tuple(int(part) for part in text.split("x"))
    except ValueError:
        raise UsageError(f"--grid {text}: write the cells along each input such as 50x50") from None


def _refuse_others(flag: str, others: dict[str, Any]) -> None:
    for name, value in others.items():
        if value:
            raise UsageError(f"{name} does not go with {flag}")


def split_places(text: str) -> tuple[str, list[int] | None]:
    """DATA#3 or DATA#3,4,5; without # all samples."""
    path, mark, places = text.rpartition("#")
    if not mark:
        return text, None
    if not re.fullmatch(r"\d+(,\d+)*", places):
        raise UsageError(f"{text}: after # come the numbers of samples, such as #3 or #3,4,5")
    found = [int(place) for place in places.split(",")]
    twice = next((place for place in found if found.count(place) > 1), None)
    if twice is not None:
        raise UsageError(f"{text}: sample {twice} is named twice; name each once")
    return path, found


def _three(through: str | None) -> bool:
    return through is not None and len(split_places(through)[1] or ()) == 3


def _within(flag: str, text: str, places: list[int], count: int) -> list[int]:
    if places and max(places) >= count:
        raise UsageError(f"{flag} {text}: the file has {count} samples, counted from 0")
    return places


def read_plane(model: Model, plane: str | None, through: str | None, raw: bool, norm: Norm) -> Plane | None:
    if through is None:
        return None
    import torch

    from lipcert.load.data import read_data
    from lipcert.network.plane import parse_plane, through_coordinates, through_points

    path, places = split_places(through)
    x = torch.from_numpy(read_data(path, model.input_shape, raw=raw).x)
    rows = x.reshape(len(x), -1)[_within("--through", through, places or [0], len(x))]
    if plane is None:
        return through_points(model.graph, rows, norm)
    if len(rows) != 1:
        raise UsageError("--plane I,J goes through one point: --through DATA#K")
    return through_coordinates(model.graph, *parse_plane(plane), rows[0])


def read_points(model: Model, data: str | None, raw: bool, plane: Plane | None) -> tuple[Tensor | None, Any]:
    """The data, in the coordinates of the grid, and their labels."""
    if data is None:
        return None, None
    import torch

    from lipcert.load.data import read_data

    found = read_data(data, model.input_shape, raw=raw)
    x = torch.from_numpy(found.x).reshape(len(found.x), -1)
    return (x if plane is None else plane.coordinates(x)), found.y


def read_box(model: Model, box: str | None, points: Tensor | None, plane: Plane | None) -> Box:
    import torch

    from lipcert.load.data import intervals
    from lipcert.terms.query import Box

    size = model.graph.nodes[model.graph.input].size if plane is None else 2
    if box is not None:
        table = torch.tensor(intervals(box, size), dtype=torch.float64)
        return Box(table[:, 0], table[:, 1])
    if points is None:  # three points span the plane
        assert plane is not None
        points = plane.coordinates(torch.tensor(plane.words["points"], dtype=torch.float64))
    low, high = points.amin(dim=0), points.amax(dim=0)
    pad = ((high - low) * MARGIN).clamp(min=1e-9)
    return Box(low - pad, high + pad)


def read_limits(scale_of: str | None, vmin: float | None, vmax: float | None) -> tuple[float | None, float | None]:
    """Ends of the colour scale: what is typed, then those of the grid of another report."""
    if vmin is not None and vmax is not None and not vmin < vmax:
        raise UsageError(f"--vmin {vmin} is not below --vmax {vmax}")
    if scale_of is None:
        return vmin, vmax
    from lipcert.report.plots import grid_limits
    from lipcert.terms.files import read_json

    low, high = grid_limits(read_json(scale_of, f"--scale-of {scale_of}"), f"--scale-of {scale_of}")
    return (low if vmin is None else vmin), (high if vmax is None else vmax)


def draw(
    report: Report,
    path: str,
    points: Tensor | None = None,
    labels: Any = None,
    own_scales: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
) -> None:
    """Lower, upper and their ratio, side by side."""
    import numpy as np

    from lipcert.report.plots import Panel, heat_maps

    found = report.summary["grid"]

    def values(name: str) -> np.ndarray:
        flat = np.array([np.nan if v is None else v for v in found[name]], dtype=float)
        return flat.reshape(found["shape"]).T

    panels = [
        Panel("lower (attained)", values("lower")),
        Panel("upper (proved)", values("upper")),
        Panel("upper / lower", values("ratio"), "ratio"),
    ]
    x_edges, y_edges = (np.array(edges) for edges in found["edges"])
    words = found["plane"]
    names = tuple(f"x{i}" for i in words["coordinates"]) if words and "coordinates" in words else ("x0", "x1")
    norm = report.norm
    heat_maps(
        path,
        panels,
        x_edges,
        y_edges,
        points=None if points is None else points.numpy(),
        labels=labels,
        shared=not own_scales,
        limits=limits,
        names=("u", "v") if words and "basis" in words else names,  # type: ignore[arg-type]
        title=f"{Path(str(report.model.get('path') or 'module')).name}: local Lipschitz constants, l{norm.input} -> l{norm.output}",
    )
