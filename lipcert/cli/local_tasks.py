"""What `lipcert local` was given, as the task that answers it: over a grid, or around data points."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lipcert.cli import options as o
from lipcert.cli.progress import Progress
from lipcert.report.report import Report
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm, Output

if TYPE_CHECKING:
    from torch import Tensor

    from lipcert.load.model import Model
    from lipcert.network.plane import Plane
    from lipcert.tasks.task import Session
    from lipcert.terms.query import Box

AUTO = "auto"
MARGIN = 0.05  # of the data's width on each side, where the box comes from the data

Work = Callable[[Progress], Report]


class Typed(SimpleNamespace):
    """The parameters of the command by name, and what several of them say together."""

    def __init__(self, **typed: Any) -> None:
        super().__init__(**typed)
        o.check_none_negative(rtol=self.rtol, budget=self.budget, each=self.each, memory=self.memory)
        self.norms = o.read_norm(self.norm, self.norm_in, self.norm_out)
        self.functional = str(Output.parse(self.output))
        names = self.input_shape, self.input_name, self.fix, self.output_name
        self.arguments = o.load_arguments(*names, self.mean, self.std, self.reader, self.seed)
        self.weights = o.read_weight("--weight-in", self.weight_in), o.read_weight("--weight-out", self.weight_out)
        self.question: dict[str, Any] = {
            "norm": self.norms,
            "output": self.output,
            "rtol": self.rtol,
            "seed": self.seed,
        }
        self.question |= {"device": o.read_device(self.device), "execution": o.read_execution(self.execution)}
        # the data in the picture come with the grid
        self.shown: dict[str, Any] = {"limits": read_limits(self.scale_of, self.vmin, self.vmax)}

    def load(self, progress: Progress) -> Model:
        from lipcert.load.model import load
        from lipcert.tasks.given import as_weighted

        return as_weighted(load(self.model, **self.arguments, progress=progress), *self.weights, self.norms)

    def session(self, progress: Progress) -> Session:
        from lipcert.tasks.workers import session

        resources = {name: getattr(self, name) for name in ("workers", "scheduler", "journal", "device")}
        return session(progress, **resources)

    @property
    def picture(self) -> Callable[[Report], None] | None:
        if self.plot is None:
            return None
        return lambda report: draw(report, self.plot, own_scales=self.own_scales, **self.shown)


def over_grid(given: Typed) -> Work:
    _refuse_others(
        "--grid", {"--eps": given.eps, "--first": given.first, "--each": given.each, "--method": given.method}
    )
    shape, spans = read_grid(given.grid), _three(given.through)
    if given.box is None and given.data is None and not spans:
        raise UsageError("--grid: of which box? give --box LO:HI[,LO:HI...], or --data DATA to take its range")
    if (given.plane is None) != (given.through is None) and not spans:
        raise UsageError("--plane I,J and --through DATA#K go together; --through DATA#K,L,M stands alone")
    o.check_picture(given.plot)

    def work(progress: Progress) -> Report:
        from lipcert.tasks import grid as grids

        loaded = given.load(progress)
        where = read_plane(loaded, given.plane, given.through, given.raw, given.norms)
        points, labels = read_points(loaded, given.data, given.raw, where)
        region = read_box(loaded, given.box, points, where)
        if given.plot is not None and region.lower.numel() != 2:
            raise UsageError(f"--plot: pictures are of two inputs, and this grid has {region.lower.numel()}")
        given.shown.update(points=points, labels=labels)
        more = {name: getattr(given, name) for name in ("pairs", "jacobians", "regions", "certificate")}
        asked = grids.GridRequest(box=region, shape=shape, plane=where, **more, **given.question)
        return grids.grid(loaded, asked, given.session(progress), given.resume)

    return work


def around_points(given: Typed) -> Work:
    of_grid = {"--box": given.box, "--data": given.data, "--plane": given.plane, "--through": given.through}
    of_grid |= {
        "--plot": given.plot,
        "--regions": given.regions,
        "--certificate": given.certificate,
        "--pairs": given.pairs or None,
        "--jacobians": given.jacobians or None,
    }
    _refuse_others("--at", of_grid)
    radii = o.read_numbers("--eps", given.eps)
    if radii is None:
        raise UsageError("--at: give the radii of the balls with --eps, such as --eps 0.01,0.03")
    ball = Norm.parse(given.ball_norm).input
    centres = str(given.at)

    def work(progress: Progress) -> Report:
        from lipcert.load.data import read_data
        from lipcert.tasks import balls as local_balls

        loaded = given.load(progress)
        path, places = split_places(centres)
        found = read_data(path, loaded.input_shape, inputs=loaded.inputs, raw=given.raw)
        rows = list(range(len(found.x))) if places is None else places
        rows = _within("--at", centres, rows, len(found.x))[: given.first]
        asked = local_balls.BallsRequest(
            x=found.x[rows],
            eps=radii,
            ball_norm=ball,
            y=None if found.y is None else found.y[rows],
            indices=rows,
            methods=given.method or None,
            each=local_balls.EACH if given.each is None else given.each,
            **given.question,
        )
        return local_balls.local(loaded, asked, given.session(progress), given.resume)

    return work


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
    x = torch.from_numpy(read_data(path, model.input_shape, inputs=model.inputs, raw=raw).x)
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

    found = read_data(data, model.input_shape, inputs=model.inputs, raw=raw)
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
    """Lower, upper and their ratio, side by side; or the linear regions."""
    import numpy as np

    from lipcert.report.plots import ONE_COLOUR, Panel, apart, heat_maps
    from lipcert.report.polygons import polygon_map

    found, norm = report.summary["grid"], report.norm
    words = found["plane"]
    names = tuple(f"x{i}" for i in words["coordinates"]) if words and "coordinates" in words else ("x0", "x1")
    edges: Any = tuple(np.array(edges) for edges in found["edges"])
    name, what = Path(str(report.model.get("path") or "module")).name, f"l{norm.input} -> l{norm.output}"
    common: dict[str, Any] = {
        "data": (None if points is None else points.numpy(), labels),
        "limits": limits,
        "names": ("u", "v") if words and "basis" in words else names,
    }
    if "polygons" in report.summary.get("regions", {}):
        pieces = report.summary["regions"]
        title = f"{name}: {pieces['count']:,} linear regions, norm of the Jacobian {what}"
        polygon_map(path, pieces, edges, title=title, **common)
        return

    def values(name: str) -> np.ndarray:
        flat = np.array([np.nan if v is None else v for v in found[name]], dtype=float)
        return flat.reshape(found["shape"]).T

    title = f"{name}: local Lipschitz constants, {what}"
    if apart(found["ratio"]):
        panels = [
            Panel("lower (attained)", values("lower")),
            Panel("upper (proved)", values("upper")),
            Panel("upper / lower", values("ratio"), "ratio"),
        ]
    else:
        title = f"{name}: local constants, {what}"  # of one map, which is narrow
        panels = [Panel(f"proved; attained within {100 * (ONE_COLOUR - 1):.2g} %", values("upper"))]
    heat_maps(path, panels, edges, shared=not own_scales, title=title, **common)
