"""`Report.plot(ax=None)`: one picture for each kind of report, on one matplotlib Axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipcert.report.plots import INK, STYLE
from lipcert.terms.digits import digits
from lipcert.terms.errors import UsageError
from lipcert.terms.result import Bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lipcert.report.report import Report

OF_SIDE = {"upper": INK[0], "lower": INK[1], "estimate": INK[3]}
MARKS = {"upper": "<", "lower": ">", "estimate": "o"}  # they point to where the constant is
MOST_BARS = 40
LEFT = "no adversarial input known"
LONGEST = 32  # characters of the name of a layer


Limits = tuple[float | None, float | None]


def draw(report: Report, ax: Any = None, limits: Limits = (None, None)) -> Any:
    """UsageError where matplotlib is missing, or the report has nothing to show."""
    picture = next((picture for has, picture in PICTURES if has(report)), None)
    if picture is None:
        raise UsageError(f"plot: a report of {report.command} without values has no picture")
    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise UsageError("plot needs matplotlib; install it with: pip install 'lipcert[plots]'") from error
        with pyplot.rc_context(STYLE):
            ax = pyplot.subplots(layout="constrained")[1]
    elif not callable(getattr(ax, "plot", None)) or not hasattr(ax, "set_title"):
        raise UsageError(f"plot: ax is one matplotlib Axes, such as pyplot.subplots()[1], not a {type(ax).__name__}")
    picture(report, ax)
    if limits != (None, None):
        _colour(ax, *limits)
    if not ax.get_title():
        path = report.model.get("path")
        ax.set_title(
            _literal(f"{Path(str(path)).name if path else 'module'}, l{report.norm.input} to l{report.norm.output}"),
            fontsize=9,
        )
    return ax


def _literal(text: str) -> str:
    """Names of files are no formulas."""
    return text.replace("$", r"\$")


def _results(report: Report, ax: Axes) -> None:
    """Each method's value; shaded, where the constant must lie."""
    known = [r for r in report.results if isinstance(r, Bound)]
    for place, result in enumerate(known):
        colour, mark = OF_SIDE[result.side], MARKS[result.side]
        first = place == [r.side for r in known].index(result.side)
        name = result.side if first else None
        ax.plot([result.value], [place], linestyle="none", color=colour, marker=mark, markersize=7, label=name)
        words = digits(result.value, result.side, 4)
        ax.annotate(words, (result.value, place), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yticks(range(len(known)), [r.method for r in known])
    ax.set_ylim(len(known) - 0.5, -0.7)
    ax.margins(x=0.12)
    values = [r.value for r in known]
    if min(values) > 0 and max(values) > 3 * min(values):
        ax.set_xscale("log")
        _plain_ticks(ax)
    if report.lower is not None and report.upper is not None:
        span = ax.axvspan if report.lower < report.upper else lambda at, _, **style: ax.axvline(at, **style)
        span(report.lower, report.upper, color="0.5", alpha=0.25, linewidth=0.0, zorder=0, label="where it lies")
        ax.axvline(report.upper, color="0.7", linewidth=1, zorder=0)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
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
    bars = ax.barh(range(len(rows)), [row["upper"] for row in rows], color=OF_SIDE["upper"])
    ax.bar_label(bars, [digits(row["upper"], "upper", 4) for row in rows], padding=3, fontsize=8)
    ax.set_yticks(range(len(rows)), [_literal(f"{_short(row['name'])}  {row['kind']}") for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.margins(x=0.12)
    left = len(report.layers) - len(rows)
    ax.set_xlabel("constant of the layer (upper)" + (f"; {left} more are not shown" if left else ""))


def _short(name: str) -> str:
    """Its end says more than its beginning."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def _grid(report: Report, ax: Axes) -> None:
    """The proved upper value in each cell: a map of two inputs, steps of one."""
    grid = report.summary["grid"]
    upper = [math.nan if value is None else value for value in grid["upper"]]
    if len(grid["shape"]) == 1:
        lower = [math.nan if value is None else value for value in grid["lower"]]
        ax.stairs(upper, grid["edges"][0], color=OF_SIDE["upper"], label="upper (proved)")
        ax.stairs(lower, grid["edges"][0], color=OF_SIDE["lower"], label="lower (attained)")
        ax.legend()
        ax.set(xlabel="x0", ylabel="local constant")
        return
    rows, columns = grid["shape"]
    values = [[upper[i * columns + j] for i in range(rows)] for j in range(columns)]
    mesh = ax.pcolormesh(grid["edges"][0], grid["edges"][1], values, cmap="viridis", rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, label="local constant (upper)")
    ax.set(xlabel="x0", ylabel="x1")


def _colour(ax: Axes, low: float | None, high: float | None) -> None:
    from matplotlib.collections import QuadMesh

    maps = [drawn for drawn in ax.collections if isinstance(drawn, QuadMesh)]
    if not maps:
        raise UsageError("plot: vmin and vmax are the ends of a colour scale; only a map of two inputs has one")
    if low is not None and high is not None and not low < high:
        raise UsageError(f"plot: vmin {low:g} is not below vmax {high:g}")
    maps[-1].set_clim(low, high)


def _balls(report: Report, ax: Axes) -> None:
    """Brackets against the radius, one line per point."""
    samples = list(dict.fromkeys(row["index"] for row in report.points))
    named = len(samples) <= len(INK)
    for k, index in enumerate(samples):
        rows = [row for row in report.points if row["index"] == index and row["upper"] is not None]
        eps, colour = [row["eps"] for row in rows], INK[k if named else 0]
        ax.fill_between(eps, [row["lower"] for row in rows], [row["upper"] for row in rows], alpha=0.3, color=colour)
        name = f"sample {index}" if named else None
        ax.plot(eps, [row["upper"] for row in rows], color=colour, marker=".", linewidth=1, label=name)
    if named and len(samples) > 1:
        ax.legend(fontsize=8)
    ax.set(xlabel=f"radius of the ball (l{report.summary['local']['norm']})", ylabel="local constant")


def _radius(report: Report, ax: Axes) -> None:
    """Certified accuracy against eps; what the attack has left above it."""
    count = len(report.points)
    radii = sorted(p["radius"] for p in report.points if p["radius"] > 0)
    shares = [(len(radii) - k) / count for k in range(len(radii) + 1)]
    ax.fill_between([0.0, *radii], shares, step="post", color=OF_SIDE["upper"], alpha=0.25, linewidth=0)
    ax.step([0.0, *radii], shares, where="post", color=OF_SIDE["upper"], linewidth=2.5, label="certified")
    right = [p for p in report.points if p["status"] in ("certified", "not certified")]
    # without an attack, exact radii name a nearest input of another class; both curves are then one
    found = sorted(p["attacked"] for p in right if p["attacked"] is not None)
    if found:
        left = [(len(right) - k) / count for k in range(len(found) + 1)]
        ax.step([0.0, *found], left, where="post", color=OF_SIDE["lower"], linewidth=1.2, linestyle="--", label=LEFT)
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
    for k, name in enumerate(dict.fromkeys(row["series"] for row in rows)):
        known = [row for row in rows if row["series"] == name and row["upper"] is not None]
        (line,) = ax.plot(
            [r["step"] for r in known],
            [r["upper"] for r in known],
            marker=".",
            label=_literal(name),
            color=INK[k % len(INK)],
        )
        lower = [row["upper"] if row["lower"] is None else row["lower"] for row in known]
        ax.fill_between(
            [r["step"] for r in known],
            lower,
            [r["upper"] for r in known],
            color=line.get_color(),
            alpha=0.3,
            linewidth=0,
        )
    ax.legend(title="certified bracket", fontsize=8, title_fontsize=8)
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
