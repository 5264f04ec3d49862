"""What `lipcert local` found, as tables: the spread over the cells of a grid, or one row per ball."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lipcert.terms.digits import digits
from lipcert.terms.printable import printable

MOST_ROWS = 40
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


def local_tables(summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    if "grid" in summary:
        yield from _grid(summary["grid"])
    if "local" in summary:
        yield from _balls(summary["local"], points)


def _grid(grid: Mapping[str, Any]) -> Iterator[RenderableType]:
    size, done, closed = "x".join(map(str, grid["shape"])), sum(grid["done"]), sum(grid["closed"])
    words = f"\n{size} cells: {done} bounded, {closed} closed to {100 * grid['rtol']:g} %"
    yield Text(words, style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for name in ("over the cells", "least", "25 %", "median", "75 %", "95 %", "largest"):
        table.add_column(Text(name), justify="left" if name == "over the cells" else "right")
    for name in ("lower", "upper", "ratio"):
        known = sorted(value for value in grid[name] if value is not None)
        cells = [_shown(known[round(q * (len(known) - 1))], name) if known else "-" for q in QUANTILES]
        table.add_row(name, *cells)
    yield table


def _balls(found: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    yield Text(f"\nl{found['norm']} balls around {found['count']} points", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for name in ("point", "eps", "lower", "upper", "upper by", "not used"):
        table.add_column(Text(name), justify="left" if name in ("upper by", "not used") else "right", overflow="fold")
    for row in points[:MOST_ROWS]:
        why = "; ".join(f"{r['method']}: {r['status']}" for r in row["results"] if r["status"] != "ok")
        upper = "-" if row["upper"] is None else digits(row["upper"], "upper")
        lower = digits(row["lower"], "lower")
        table.add_row(f"#{row['index']}", f"{row['eps']:g}", lower, upper, row["method"] or "-", printable(why))
    yield table
    if len(points) > MOST_ROWS:
        yield Text(f"... and {len(points) - MOST_ROWS} more, in the --json report", style="dim")


def _shown(value: float, name: str) -> str:
    return digits(value, "lower" if name == "lower" else "upper")
