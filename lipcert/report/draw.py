"""`Report.plot(ax=None)`: one picture for each kind of report, on one matplotlib Axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lipcert.terms.errors import UsageError
from lipcert.terms.result import Bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lipcert.report.report import Report

INK = {"upper": "#3b6fb6", "lower": "#d1603d", "estimate": "#8b62a8"}
MARKS = {"upper": "<", "lower": ">", "estimate": "o"}  # they point to where the constant is
MOST_BARS = 40


def draw(report: Report, ax: Any = None) -> Any:
    """UsageError where matplotlib is missing, or the report has nothing to show."""
    picture = next((picture for has, picture in PICTURES if has(report)), None)
    if picture is None:
        raise UsageError(f"plot: a report of {report.command} without values has no picture")
    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise UsageError("plot needs matplotlib; install it with: pip install 'lipcert[plots]'") from error
        ax = pyplot.subplots(layout="constrained")[1]
    picture(report, ax)
    if not ax.get_title():
        path = report.model.get("path")
        ax.set_title(_literal(f"{path or 'module'}, l{report.norm.input} to l{report.norm.output}"), fontsize=9)
    return ax


def _literal(text: str) -> str:
    """Names of files are no formulas."""
    return text.replace("$", r"\$")


def _results(report: Report, ax: Axes) -> None:
    """Each method's value; shaded, where the constant must lie."""
    known = [r for r in report.results if isinstance(r, Bound)]
    for place, result in enumerate(known):
        colour, mark = INK[result.side], MARKS[result.side]
        ax.plot([result.value], [place], linestyle="none", color=colour, marker=mark, markersize=7)
    ax.set_yticks(range(len(known)), [r.method for r in known])
    ax.invert_yaxis()
    values = [r.value for r in known]
    if min(values) > 0 and max(values) > 3 * min(values):
        ax.set_xscale("log")
        _plain_ticks(ax)
    if report.lower is not None and report.upper is not None:
        ax.axvspan(report.lower, report.upper, color="0.85", zorder=0)
        ax.axvline(report.upper, color="0.7", linewidth=1, zorder=0)
    ax.set_xlabel("Lipschitz constant")


def _plain_ticks(ax: Axes) -> None:
    """1, 2, 5, 10 ... in figures: powers of ten alone would leave one label or none."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _layers(report: Report, ax: Axes) -> None:
    """Constants of the layers (Rosca et al. 2020, Figure 3)."""
    rows = [row for row in report.layers if row["upper"] is not None][:MOST_BARS]
    ax.barh(range(len(rows)), [row["upper"] for row in rows], color=INK["upper"])
    ax.set_yticks(range(len(rows)), [_literal(row["name"]) for row in rows])
    ax.invert_yaxis()
    ax.set_xlabel("constant of the layer (upper)")


def _grid(report: Report, ax: Axes) -> None:
    """The proved upper value in each cell: a map of two inputs, steps of one."""
    grid = report.summary["grid"]
    upper = [math.nan if value is None else value for value in grid["upper"]]
    if len(grid["shape"]) == 1:
        lower = [math.nan if value is None else value for value in grid["lower"]]
        ax.stairs(upper, grid["edges"][0], color=INK["upper"], label="upper (proved)")
        ax.stairs(lower, grid["edges"][0], color=INK["lower"], label="lower (attained)")
        ax.legend()
        ax.set(xlabel="x0", ylabel="local constant")
        return
    rows, columns = grid["shape"]
    values = [[upper[i * columns + j] for i in range(rows)] for j in range(columns)]
    mesh = ax.pcolormesh(grid["edges"][0], grid["edges"][1], values, cmap="viridis", rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, label="local constant (upper)")
    ax.set(xlabel="x0", ylabel="x1")


def _balls(report: Report, ax: Axes) -> None:
    """Brackets against the radius, one line per point."""
    for index in dict.fromkeys(row["index"] for row in report.points):
        rows = [row for row in report.points if row["index"] == index and row["upper"] is not None]
        eps = [row["eps"] for row in rows]
        ax.fill_between(
            eps, [row["lower"] for row in rows], [row["upper"] for row in rows], alpha=0.3, color=INK["upper"]
        )
        ax.plot(eps, [row["upper"] for row in rows], color=INK["upper"], marker=".", linewidth=1)
    ax.set(xlabel=f"radius of the ball (l{report.summary['local']['norm']})", ylabel="local constant")


def _radius(report: Report, ax: Axes) -> None:
    """Certified accuracy against eps; what the attack has left above it."""
    count = len(report.points)
    radii = sorted(p["radius"] for p in report.points if p["radius"] > 0)
    shares = [(len(radii) - k) / count for k in range(len(radii) + 1)]
    ax.step([0.0, *radii], shares, where="post", color=INK["upper"], label="certified")
    right = [p for p in report.points if p["status"] in ("certified", "not certified")]
    found = sorted(p["attacked"] for p in right if p["attacked"] is not None)
    if found:
        left = [(len(right) - k) / count for k in range(len(found) + 1)]
        ax.step([0.0, *found], left, where="post", color=INK["lower"], label="left by the attack")
    ax.legend()
    ax.set(xlabel=f"eps (l{report.norm.input})", ylabel="share of samples", ylim=(0, 1.02))


def _jacobian(report: Report, ax: Axes) -> None:
    """Spectral norms of the Jacobian, one histogram per set of points."""
    for group in report.summary["jacobian"]["sets"]:
        name = group["set"]
        values = [row["spectral"] for row in report.points if row["set"] == name and row["spectral"] is not None]
        ax.hist(values, bins=30, alpha=0.5, label=f"{name}, {len(values)} points")
    ax.legend()
    ax.set(xlabel="spectral norm of the Jacobian (measured)", ylabel="points")


def _track(report: Report, ax: Axes) -> None:
    rows = report.summary["track"]["checkpoints"]
    for name in dict.fromkeys(row["series"] for row in rows):
        known = [row for row in rows if row["series"] == name and row["upper"] is not None]
        (line,) = ax.plot([r["step"] for r in known], [r["upper"] for r in known], marker=".", label=_literal(name))
        lower = [row["upper"] if row["lower"] is None else row["lower"] for row in known]
        ax.fill_between(
            [r["step"] for r in known],
            lower,
            [r["upper"] for r in known],
            color=line.get_color(),
            alpha=0.3,
            linewidth=0,
        )
    ax.legend()
    ax.set(xlabel="step", ylabel="Lipschitz constant")


# The first that fits: whether the report has it, and how it is drawn.
PICTURES: tuple[tuple[Callable[[Any], bool], Callable[[Any, Any], None]], ...] = (
    (lambda report: bool((report.summary.get("track") or {}).get("checkpoints")), _track),
    (lambda report: len((report.summary.get("grid") or {}).get("shape", ())) in (1, 2), _grid),
    (lambda report: "local" in report.summary and bool(report.points), _balls),
    (lambda report: report.command == "radius" and bool(report.points), _radius),
    (lambda report: "jacobian" in report.summary and bool(report.points), _jacobian),
    (lambda report: bool(report.layers), _layers),
    (lambda report: any(isinstance(result, Bound) for result in report.results), _results),
)
