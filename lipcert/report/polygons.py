"""The linear regions of a network in a plane: polygons coloured by the norm of the Jacobian, and how much area has which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipcert.report.plots import NOTHING, VALUES, colour_range, figure, literal, scatter

if TYPE_CHECKING:
    import numpy as np

LINE = 0.25  # points: between a few regions; thinner between many


def polygon_map(
    path: str | Path,
    pieces: Mapping[str, Any],
    edges: tuple[np.ndarray, np.ndarray],
    *,
    data: tuple[np.ndarray | None, Any] = (None, None),
    limits: tuple[float | None, float | None] = (None, None),
    names: tuple[str, str] = ("x0", "x1"),
    title: str | None = None,
) -> None:
    """`pieces`: "polygons", corners (k, 2) of each in order, with its "norms", and "histogram": "edges", and the share of the
    area in each bar, "size". `edges`: their first and last are the ends of the picture. `data`: points over the map, and their
    labels."""
    import numpy as np
    from matplotlib.collections import PolyCollection

    polygons, norms = pieces["polygons"], pieces["norms"]
    (left, right), (below, above) = ((float(e[0]), float(e[-1])) for e in edges)
    low, high, beyond = colour_range([np.array(norms)])
    low, high = (end if end is not None else own for end, own in zip(limits, (low, high), strict=True))
    high = high if low < high else low + 0.5
    aspect = min(2.0, max(0.5, (above - below) / (right - left)))
    line = LINE * min(1.0, 30 / max(1.0, len(polygons) ** 0.5))
    with figure(path, 9.2, 1.0 + 6.0 * aspect) as drawn:
        axis, bars = drawn.subplots(1, 2, width_ratios=(6.0, 1.4))
        cells = PolyCollection([np.array(p) for p in polygons], cmap=VALUES, linewidths=line, rasterized=True)
        cells.set_array(np.array(norms))
        cells.set_clim(low, high)
        if line > LINE / 2:
            cells.set_edgecolor((1.0, 1.0, 1.0, 0.5))
        else:  # lines would be all that is seen: no gaps between neighbours instead
            cells.set_edgecolor("face")
        axis.set_facecolor(NOTHING)
        axis.add_collection(cells)
        axis.set(xlim=(left, right), ylim=(below, above), xlabel=names[0], ylabel=names[1])
        scatter(axis, *data)
        marks, classes = axis.get_legend_handles_labels()
        if 0 < len(classes) <= 12:
            drawn.legend(marks, [f"class {c}" for c in classes], loc="outside lower center", ncols=6, fontsize=8)
        bar = drawn.colorbar(cells, ax=axis, pad=0.02, extend="max" if beyond else "neither")
        bar.outline.set_visible(False)
        bar.set_label("norm of the Jacobian")
        _shares(bars, pieces["histogram"], (low, high), cells)
        if title:
            drawn.suptitle(literal(title))


def _shares(axis: Any, histogram: Mapping[str, Sequence[float]], ends: tuple[float, float], cells: Any) -> None:
    """Bars on their side, beside the colours."""
    import numpy as np

    edges, share = np.array(histogram["edges"]), 100 * np.array(histogram["size"])
    middle = (edges[:-1] + edges[1:]) / 2
    axis.barh(
        middle, share, height=np.diff(edges), color=cells.cmap(cells.norm(middle)), edgecolor="0.6", linewidth=0.3
    )
    inside = ends[0] <= edges[0] and edges[-1] <= ends[1]
    axis.set(ylim=ends if inside else (min(ends[0], edges[0]), max(ends[1], edges[-1])), xlabel="% of the area")
    if inside:  # the colour bar beside it has the same numbers
        axis.tick_params(labelleft=False)
