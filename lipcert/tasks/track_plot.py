"""The picture of `lipcert track`: constants, Jacobians and accuracy against the step, one colour per series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lipcert.report.plots import INK, MARKS, figure
from lipcert.report.sections.track import linear_layers

Rows = Sequence[Mapping[str, Any]]
LINES = ("-", "--", "-.", ":")
MOST_LAYERS = 4  # lines of one series


def track_plot(path: str | Path, found: Mapping[str, Any], *, norm: str) -> None:
    """PNG or SVG of `Report.summary["track"]`: only the panels for which there are values."""
    rows = found["checkpoints"]
    series = {name: [row for row in rows if row["series"] == name] for name in dict.fromkeys(r["series"] for r in rows)}
    panels = [_constants, _layers]
    panels += [_jacobians] if any(row["jacobian"] for row in rows) else []
    panels += [_accuracy] if any(row["accuracy"] is not None for row in rows) else []
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    with figure(path, 4.6 * across, 3.2 * down + 0.3) as drawn:
        axes = drawn.subplots(down, across, squeeze=False).ravel()
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        for panel, axis in zip(panels, axes, strict=False):
            panel(axis, series, norm)
            axis.set_xlabel("step")
            axis.title.set_fontsize(8.5)
        handles = [axes[0].plot([], [], color=INK[k % len(INK)], marker=MARKS[k % len(MARKS)], markersize=4)[0] for k in range(len(series))]  # fmt: skip
        names = [name.replace("$", r"\\$") for name in series]
        if len(series) > 1 or len(names[0]) < 60:
            drawn.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)


def _line(axis: Axes, rows: Rows, values: Sequence[float | None], k: int, **style: Any) -> None:
    numbers = [np.nan if value is None else value for value in values]
    given = {"color": INK[k % len(INK)], "linewidth": 1.3, **style}
    axis.plot([row["step"] for row in rows], numbers, **given)


def _band(axis: Axes, rows: Rows, low: Sequence[float | None], high: Sequence[float | None], k: int) -> None:
    below, above = ([np.nan if value is None else value for value in side] for side in (low, high))
    axis.fill_between([row["step"] for row in rows], below, above, color=INK[k % len(INK)], alpha=0.25, linewidth=0)


def _constants(axis: Axes, series: Mapping[str, Rows], norm: str) -> None:
    for k, rows in enumerate(series.values()):
        lower, upper = [row["lower"] for row in rows], [row["upper"] for row in rows]
        _band(axis, rows, lower, upper, k)
        _line(axis, rows, upper, k, marker=MARKS[k % len(MARKS)], markersize=3)
        _line(axis, rows, [row["methods"].get("product") for row in rows], k, linestyle=":", linewidth=1.0)
    axis.set_title(f"Lipschitz constant, l{norm}: certified bracket; dotted: product of layers")
    _log(axis)


def _layers(axis: Axes, series: Mapping[str, Rows], norm: str) -> None:
    for k, rows in enumerate(series.values()):
        for place, name in enumerate(linear_layers(rows)[:MOST_LAYERS]):
            known = [{layer["name"]: layer["upper"] for layer in row["layers"]}.get(name) for row in rows]
            _line(axis, rows, known, k, linestyle=LINES[place])
    for place in range(max((len(linear_layers(rows)[:MOST_LAYERS]) for rows in series.values()), default=0)):
        axis.plot([], [], color="0.3", linestyle=LINES[place], label=f"layer {place + 1}")
    axis.set_title("constants of the linear layers")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7.5)
    _log(axis)


def _jacobians(axis: Axes, series: Mapping[str, Rows], norm: str) -> None:
    for k, rows in enumerate(series.values()):
        known = [row["jacobian"] or {} for row in rows]
        _band(axis, rows, [j.get("low") for j in known], [j.get("high") for j in known], k)
        _line(axis, rows, [j.get("median") for j in known], k, marker=MARKS[k % len(MARKS)], markersize=3)
    axis.set_title("spectral norm of the Jacobian at the data: median, 5 to 95 %")
    _log(axis)


def _accuracy(axis: Axes, series: Mapping[str, Rows], norm: str) -> None:
    for k, rows in enumerate(series.values()):
        _line(axis, rows, [row["accuracy"] for row in rows], k, marker=MARKS[k % len(MARKS)], markersize=3)
    axis.set_ylim(0, 1.02)
    axis.grid(alpha=0.3)
    axis.set_title("accuracy at the data")


def _log(axis: Axes) -> None:
    """Where the values spread over more than a factor of five."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.get_lines()] or [np.zeros(0)])
    known = values[np.isfinite(values) & (values > 0)]
    if known.size and known.max() > 5 * known.min():
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
