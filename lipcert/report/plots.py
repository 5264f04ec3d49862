"""Pictures of reports: heat maps, histograms, curves. Needs the extra `plots` (matplotlib), which loads when used.

PNG, SVG or PDF by the file's ending, drawn without a display, the same bytes for the same numbers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipcert.terms.errors import UsageError
from lipcert.terms.files import ODD_SHAPE

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
VALUES, RATIOS = "viridis", "Oranges"  # colour maps that print in grey and that colour-blind people can read
NOTHING = "0.85"  # cells without a value
INK = ("#3b6fb6", "#d1603d", "#4b9b69", "#8b62a8", "#a58a2f", "#5a5a5a")
MARKS = ("o", "s", "^", "D", "v", "P")
STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "legend.frameon": False,
    "svg.hashsalt": "lipcert",
}


def check_plot(flag: str, path: str | None) -> None:
    """Before hours of work: an ending that can be drawn, and matplotlib."""
    if path is None:
        return
    if Path(path).suffix.lower() not in ENDINGS:
        raise UsageError(f"{flag} {path}: pictures end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{flag}: needs matplotlib; install it with: pip install 'lipcert[plots]'") from error


@contextmanager
def figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in inches, written to `path` at the end: aside first, then renamed."""
    check_plot("--plot", str(path))
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from lipcert.report.to_json import write_atomically

    kind = Path(path).suffix.lower().removeprefix(".")
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        yield drawn
        memory = io.BytesIO()
        plain = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}[kind]
        drawn.savefig(memory, format=kind, dpi=160, metadata=plain)
    try:
        write_atomically(memory.getvalue(), path)
    except OSError as error:
        raise UsageError(f"--plot {path}: cannot write it: {error.strerror}") from error


def literal(text: str) -> str:
    """Names of files are no formulas."""
    return text.replace("$", r"\$")


# Heat maps.


ONE_COLOUR = 1.002  # upper and attained values this near are the same map


def apart(ratios: Sequence[float | None]) -> bool:
    """Whether the maps of lower and of upper values can be told apart."""
    known = [ratio for ratio in ratios if ratio is not None]
    return len(known) < len(ratios) or max(known, default=1.0) > ONE_COLOUR


@dataclass(frozen=True, eq=False)
class Panel:
    """One map of a grid. `values`: (rows, columns), row 0 at the bottom; NaN where there is no value.

    `scale`: panels of one scale share their colours when the figure is asked to; a ratio has its own.
    """

    title: str
    values: np.ndarray
    scale: str = "value"


def heat_maps(
    path: str | Path,
    panels: Sequence[Panel],
    edges: tuple[np.ndarray, np.ndarray],
    *,
    data: tuple[np.ndarray | None, Any] = (None, None),
    shared: bool = True,
    limits: tuple[float | None, float | None] = (None, None),
    names: tuple[str, str] = ("x0", "x1"),
    title: str | None = None,
) -> None:
    """Maps side by side over the plane, with data over them: points (k, 2), and labels (Rosca et al. 2020, Figure 4).

    `edges`: of the cells, along x and y. `shared`: one colour scale for all panels of the same kind; else each its own. `limits`: ends of the scale of values,
    so that the maps of two models can be set side by side.
    """
    import numpy as np

    x_edges, y_edges = edges
    aspect = min(2.0, max(0.5, float((y_edges[-1] - y_edges[0]) / (x_edges[-1] - x_edges[0]))))
    with figure(path, 0.4 + 3.6 * len(panels), 0.9 + 2.9 * aspect + (0.3 if title else 0.0)) as drawn:
        axes = drawn.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
        for k, (panel, axis) in enumerate(zip(panels, axes, strict=True)):
            family = [p for p in panels if p.scale == panel.scale] if shared else [panel]
            low, high, beyond = colour_range([p.values for p in family])
            if panel.scale == "value":
                low, high = (end if end is not None else own for end, own in zip(limits, (low, high), strict=True))
                high = high if low < high else low + 0.5
                beyond = bool(np.nanmax(panel.values, initial=low) > high)
            colours = RATIOS if panel.scale == "ratio" else VALUES
            axis.set_facecolor(NOTHING)
            shown = np.ma.masked_invalid(panel.values)
            mesh = axis.pcolormesh(x_edges, y_edges, shown, cmap=colours, vmin=low, vmax=high, rasterized=True)
            bar = drawn.colorbar(mesh, ax=axis, shrink=0.85, pad=0.02, extend="max" if beyond else "neither")
            bar.outline.set_visible(False)
            axis.set_title(literal(panel.title))
            axis.set_xlabel(names[0])
            if k == 0:
                axis.set_ylabel(names[1])
            scatter(axis, *data)
            axis.set_xlim(x_edges[0], x_edges[-1])
            axis.set_ylim(y_edges[0], y_edges[-1])
        marks, classes = axes[0].get_legend_handles_labels()
        if 0 < len(classes) <= 12:
            drawn.legend(marks, [f"class {c}" for c in classes], loc="outside lower center", ncols=6, fontsize=8)
        if title:
            drawn.suptitle(literal(title))


def grid_limits(data: Mapping[str, Any], what: str) -> tuple[float, float]:
    """The ends that the maps of a report (JSON data) are coloured by."""
    import numpy as np

    try:
        grid = data["summary"]["grid"]
        maps = [np.array([np.nan if v is None else v for v in grid[name]], dtype=float) for name in ("lower", "upper")]
    except ODD_SHAPE as problem:
        raise UsageError(f"{what}: no report of lipcert local --grid") from problem
    low, high, _ = colour_range(maps)
    return low, high


def colour_range(maps: Sequence[np.ndarray]) -> tuple[float, float, bool]:
    """Ends of a colour scale, and whether a few cells lie beyond it: they would make one colour of all the others."""
    import numpy as np

    finite = np.concatenate([m[np.isfinite(m)].ravel() for m in maps])
    if finite.size == 0:
        return 0.0, 1.0, False
    low, most, high = float(finite.min()), float(np.percentile(finite, 99)), float(finite.max())
    if low < most and high - low > 2 * (most - low):
        return low, most, True
    return (low, high, False) if high > low else (low - 0.5, low + 0.5, False)


def scatter(axis: Axes, points: np.ndarray | None, labels: np.ndarray | None) -> None:
    import numpy as np

    if points is None or len(points) == 0:
        return
    groups = [(None, points)] if labels is None else [(c, points[labels == c]) for c in np.unique(labels)]
    size = 14.0 if len(points) <= 300 else 4.0
    for k, (name, group) in enumerate(groups):
        axis.scatter(
            group[:, 0], group[:, 1], s=size, marker=MARKS[k % len(MARKS)], linewidths=0.6,
            facecolors="white" if k % 2 == 0 else "black", edgecolors="black" if k % 2 == 0 else "white",
            label=None if name is None else str(name),
        )  # fmt: skip


# Histograms and curves.


def histograms(path: str | Path, groups: Mapping[str, Mapping[str, np.ndarray]], *, title: str | None = None) -> None:
    """One row per quantity, in it one outline per set: `groups[quantity][set]` are its values (k,)."""
    import numpy as np

    with figure(
        path,
        6.4,
        0.6 + (1.4 + 0.14 * max(map(len, groups.values()), default=1)) * len(groups) + (0.3 if title else 0.0),
    ) as drawn:
        axes = drawn.subplots(len(groups), 1, squeeze=False)[:, 0]
        for axis, (quantity, sets) in zip(axes, groups.items(), strict=True):
            finite = {name: values[np.isfinite(values)] for name, values in sets.items()}
            everything = np.concatenate(list(finite.values())) if finite else np.zeros(0)
            log = skewed(everything)
            edges = np.exp(bins(np.log(everything[everything > 0]))) if log else bins(everything)
            axis.set_title(literal(quantity), loc="left")
            if log:
                axis.set_xscale("log")
            if all(values.size == 0 for values in finite.values()):
                axis.text(0.5, 0.5, "no values", transform=axis.transAxes, ha="center", va="center", color="0.4")
                axis.set_axis_off()
                continue
            for k, (name, values) in enumerate(finite.items()):
                colour = INK[k % len(INK)]
                axis.hist(values, edges, histtype="stepfilled", color=colour, alpha=0.25 if len(finite) > 1 else 0.6)
                axis.hist(values, edges, histtype="step", color=colour, linewidth=1.2)
                if values.size:
                    middle = float(np.median(values))
                    if middle > 0 or not log:
                        axis.axvline(middle, color=colour, linewidth=1.0, linestyle="--")
                    zeros = int((values == 0).sum()) if log else 0
                    label = f"{name}: median {middle:.3g}, max {values.max():.3g}"
                    label += f", {zeros} at 0" if zeros else ""
                    axis.plot([], [], color=colour, label=label)
            axis.legend(loc="lower left", bbox_to_anchor=(0.3, 0.98), fontsize=7.5, borderaxespad=0.0)
            axis.set_ylabel("points")
        if title:
            drawn.suptitle(literal(title))


def skewed(values: np.ndarray) -> bool:
    """Values of one sign and several orders of magnitude: on a linear axis most of them would be one bar."""
    import numpy as np

    if values.size == 0 or values.min() < 0 or (values > 0).sum() < 0.5 * values.size:
        return False
    return float(values.max()) > 30 * float(np.percentile(values[values > 0], 5))


def bins(values: np.ndarray, most: int = 60) -> np.ndarray:
    """Edges of a histogram: Freedman & Diaconis, at most `most` bins; one bin around equal values."""
    import numpy as np

    if values.size == 0:
        return np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if not high > low * (1 + 1e-9) + 1e-300:
        pad = max(abs(low) * 0.05, 1e-12)
        return np.array([low - pad, high + pad])
    quarter, three = np.percentile(values, [25, 75])
    width = 2 * (three - quarter) / values.size ** (1 / 3)
    count = int(np.clip(np.ceil((high - low) / width), 5, most)) if width > 0 else 20
    return np.linspace(low, high, count + 1)


def curves(
    path: str | Path,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_name: str,
    y_name: str,
    title: str | None = None,
    steps: bool = False,
    log_x: bool = False,
) -> None:
    """Lines over one axis: `lines[name] = (x, y)`; `steps`: values hold until the next x."""
    with figure(path, 5.6, 3.8) as drawn:
        axis = drawn.subplots()
        for k, (name, (x, y)) in enumerate(lines.items()):
            options: dict[str, Any] = {"drawstyle": "steps-post"} if steps else {"marker": "o", "markersize": 3}
            axis.plot(x, y, color=INK[k % len(INK)], label=name, linewidth=1.4, **options)
        axis.set_xlabel(x_name)
        axis.set_ylabel(y_name)
        axis.set_ylim(bottom=0)
        if log_x:
            axis.set_xscale("log")
        if len(lines) > 1:
            axis.legend(fontsize=8)
        if title:
            axis.set_title(literal(title))


# Radii.


def accuracy_curve(path: str | Path, points: Sequence[Mapping[str, Any]], *, norm: str, title: str = "") -> None:
    """Certified accuracy against eps with the attack's curve above it, and the histogram of the radii of `points`."""
    import numpy as np

    radii = np.array([point["radius"] for point in points], dtype=float)
    right = np.array([point["status"] in ("certified", "not certified") for point in points], dtype=bool)
    found = np.array([np.inf if point["attacked"] is None else point["attacked"] for point in points], dtype=float)
    shown, broken = radii[radii > 0], found[right & np.isfinite(found)]
    end = float(np.quantile(broken, 0.9)) if len(broken) else float(shown.max(initial=0.0)) * 1.1
    at = np.linspace(0.0, end or 1.0, 400)
    with figure(path, 9.0, 3.6) as drawn:
        curve, histogram = drawn.subplots(1, 2)
        certified = [float(((radii >= e) & (radii > 0)).mean()) if len(radii) else 0.0 for e in at]
        curve.plot(at, certified, color=INK[0], label="certified")
        if len(broken):
            survived = [float((right & (found > e)).mean()) for e in at]
            curve.plot(at, survived, color=INK[1], label="under attack")
            curve.fill_between(at, certified, survived, color=NOTHING, label="not known")
        curve.set(xlabel=f"eps (l{norm})", ylabel="share of samples", xlim=(0, at[-1]), ylim=(0, 1.02))
        curve.grid(alpha=0.3)
        curve.legend()
        if len(shown):
            histogram.hist(shown, bins=30, color=INK[0])
            histogram.axvline(float(np.median(shown)), color="0.2", linewidth=1, linestyle="--")
        histogram.set(xlabel=f"certified radius (l{norm})", ylabel="samples")
        histogram.set_title(f"{len(shown)} of {len(radii)} certified; dashed: their median")
        histogram.locator_params(axis="x", nbins=6)
        drawn.suptitle(literal(title), fontsize=10)
