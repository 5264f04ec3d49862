"""Where things stand in the pictures of the page: numbers in, coordinates out. What is drawn is in page.html."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# viridis at equal steps (Smith & van der Walt, 2015): readable in grey and by colour-blind people
VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
ORANGES = ("#fff5eb", "#fee6ce", "#fdd0a2", "#fdae6b", "#fd8d3c", "#f16913", "#d94801", "#a63603", "#7f2704")
SHADES = 40
LOG_FROM = 3.0  # values further apart than this factor stand on a logarithmic axis
CLOSE = 0.01  # of a value: how near its bracket the ends of an axis come
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 10.0, 34.0  # margins of a picture, in its own units
WIDTH, HEIGHT = 420.0, 250.0


def short(value: float) -> str:
    """Three digits, for axes."""
    return f"{value:.3g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Ruler:
    """One axis for a set of values: `place(value)` in 0..100."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float]) -> Ruler:
        known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(known), max(known)
        log = low > 0 and high / low > LOG_FROM
        if log:
            return cls(low / 1.2, high * 1.2, True)
        low = 0.0 if low < 0.5 * high else low
        # a bracket that is closed is a mark, not the width of the page
        pad = max(0.08 * (high - low), abs(high) * CLOSE) if high > low else abs(high) * 0.1 or 1.0
        return cls(max(0.0, low - pad), high + pad, False)

    def place(self, value: float) -> float:
        change: Callable[[float], float] = math.log if self.log else float
        low, high = change(self.low), change(self.high)
        return round(min(100.0, max(0.0, 100 * (change(value) - low) / (high - low))), 2)


def frame(x: tuple[float, float], y: tuple[float, float], x_name: str, y_name: str) -> dict[str, Any]:
    """Axes of a picture of WIDTH x HEIGHT."""
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "x_name": x_name,
        "y_name": y_name,
        "x_ticks": [(round(across(v, x), 1), short(v)) for v in ticks(*x)],
        "y_ticks": [(round(upward(v, y), 1), short(v)) for v in ticks(*y)],
    }


def across(value: float, x: tuple[float, float]) -> float:
    return LEFT + (value - x[0]) / ((x[1] - x[0]) or 1.0) * (WIDTH - LEFT - RIGHT)


def upward(value: float, y: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (value - y[0]) / ((y[1] - y[0]) or 1.0) * (HEIGHT - TOP - BOTTOM)


def steps(at: Sequence[float], shares: Sequence[float], x: tuple[float, float]) -> str:
    """An SVG path: `shares[k]` holds from `at[k]` to the next."""
    points = []
    for k, (where, share) in enumerate(zip(at, shares, strict=True)):
        end = at[k + 1] if k + 1 < len(at) else x[1]
        height = f"{upward(share, (0.0, 1.0)):.1f}"
        points += [f"{across(where, x):.1f},{height}", f"{across(min(end, x[1]), x):.1f},{height}"]
    return "M" + " L".join(points)


def accuracy_curve(points: Sequence[Mapping[str, Any]], norm: str) -> dict[str, Any] | None:
    """Certified accuracy against eps, and above it what an attack has left."""
    radii = sorted(p["radius"] for p in points if p["radius"] > 0)
    if not radii:
        return None
    right = [p for p in points if p["status"] in ("certified", "not certified")]
    found = sorted(p["attacked"] for p in right if p["attacked"] is not None)
    end = (found[int(0.9 * (len(found) - 1))] if found else radii[-1]) * 1.1 or 1.0
    x, n = (0.0, end), len(points)
    picture = {**frame(x, (0.0, 1.0), f"eps (l{norm})", "share of samples"), "attacked": None}
    at = [0.0, *(r for r in radii if r <= end)]
    picture["certified"] = steps(at, [1 - (n - len(radii) + k) / n for k in range(len(at))], x)
    if found:
        at = [0.0, *(f for f in found if f <= end)]
        picture["attacked"] = steps(at, [(len(right) - k) / n for k in range(len(at))], x)
    return picture


def histogram(values: Sequence[float], name: str, count: int = 24) -> dict[str, Any] | None:
    """Bars of equal width over the finite values."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    low, high = min(known), max(known)
    if not high > low:
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    counts = [0] * count
    for value in known:
        counts[min(count - 1, int((value - low) / (high - low) * count))] += 1
    return bars([low + (high - low) * k / count for k in range(count + 1)], counts, name)


def bars(edges: Sequence[float], counts: Sequence[int], name: str) -> dict[str, Any]:
    x, y = (edges[0], edges[-1]), (0.0, float(max(counts)) or 1.0)
    picture = frame(x, y, name, "count")
    ground = upward(0.0, y)
    picture["bars"] = [
        {
            "x": round(across(a, x), 1),
            "y": round(upward(n, y), 1),
            "width": round(max(0.5, across(b, x) - across(a, x) - 0.6), 1),
            "height": round(ground - upward(n, y), 1),
            "words": f"{short(a)} to {short(b)}: {n}",
        }
        for a, b, n in zip(edges, edges[1:], counts, strict=False)
        if n
    ]
    return picture


def shade(share: float, colours: Sequence[str]) -> str:
    """The colour at `share` of the way, between its neighbours."""
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    k = min(int(place), len(colours) - 2)
    mixed = (
        round(int(colours[k][i : i + 2], 16) * (1 - place + k) + int(colours[k + 1][i : i + 2], 16) * (place - k))
        for i in (1, 3, 5)
    )
    return "#" + "".join(f"{part:02x}" for part in mixed)


def heat_map(
    title: str, values: Sequence[float | None], edges: Sequence[Sequence[float]], ratio: bool
) -> dict[str, Any]:
    """A map of a grid of two inputs, one path per shade. Values: last axis fastest, so the second input runs first."""
    known = sorted(value for value in values if value is not None)
    low, high = (known[0], known[-1]) if known else (0.0, 1.0)
    high = max(high, low * (1 + 1e-9) or 1.0)
    x, y = (edges[0][0], edges[0][-1]), (edges[1][0], edges[1][-1])
    colours = ORANGES if ratio else VIRIDIS
    paths: dict[str, list[str]] = {}
    for place, value in enumerate(values):
        i, j = divmod(place, len(edges[1]) - 1)
        left, right = across(edges[0][i], x), across(edges[0][i + 1], x)
        base, top = upward(edges[1][j], y), upward(edges[1][j + 1], y)
        share = None if value is None else round(SHADES * (value - low) / (high - low)) / SHADES
        colour = "" if share is None else shade(share, colours)
        paths.setdefault(colour, []).append(f"M{left:.1f} {base:.1f}H{right:.1f}V{top:.1f}H{left:.1f}Z")
    return frame(x, y, "x0", "x1") | {
        "title": title,
        "paths": [(colour, "".join(pieces)) for colour, pieces in paths.items()],
        "legend": [shade(k / 19, colours) for k in range(20)],
        "low": short(low),
        "high": short(high),
    }
