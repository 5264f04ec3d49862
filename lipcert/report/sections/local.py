"""What `lipcert local` found: the spread over the cells of a grid, or one row per ball."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lipcert.report.report import Report
from lipcert.report.tables import Item, Piece, Sentence, Table, known

MOST_ROWS = 40
REST = {"flat": "slivers", "open": "parts that are not cut to the end"}
QUANTILES = {"least": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "largest": 1.0}


def section(report: Report) -> Iterator[Piece]:
    if "grid" in report.summary:
        yield from _grid(report.summary["grid"])
    if "regions" in report.summary:
        yield from _regions(report.summary["regions"])
    if "local" in report.summary:
        yield from _balls(report.summary["local"], report.points)


def _grid(grid: Mapping[str, Any]) -> Iterator[Piece]:
    size, done, closed = "x".join(map(str, grid["shape"])), sum(grid["done"]), sum(grid["closed"])
    yield Sentence.of("")
    yield Sentence.of(f"{size} cells: {done} bounded, {closed} closed to {100 * grid['rtol']:g} %", "strong")
    rows = []
    for name in ("lower", "upper", "ratio"):
        values = sorted(value for value in grid[name] if value is not None)
        places = [round(q * (len(values) - 1)) for q in QUANTILES.values()]
        side = "lower" if name == "lower" else "upper"
        rows.append([Item(name), *(known(values[k] if values else None, side) for k in places)])  # type: ignore[arg-type]
    yield Table(("over the cells", *(f">{name}" for name in QUANTILES)), rows)


def _regions(found: Mapping[str, Any]) -> Iterator[Piece]:
    rest = [f"{found[name]:,} {words}" for name, words in REST.items() if found[name]]
    yield Sentence.of("")
    yield Sentence.of("; ".join([f"{found['count']:,} linear regions on the box", *rest]), "strong")
    if "quantiles" in found:
        row = [Item("norm of the Jacobian"), *(known(found["quantiles"][name], "upper") for name in QUANTILES)]
        yield Table(("over the area", *(f">{name}" for name in QUANTILES)), [row])


def _balls(found: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Iterator[Piece]:
    yield Sentence.of("")
    yield Sentence.of(f"l{found['norm']} balls around {found['count']} points", "strong")
    rows = []
    for row in points[:MOST_ROWS]:
        why = "; ".join(f"{r['method']}: {r['status']}" for r in row["results"] if r["status"] != "ok")
        bracket = Item(row["lower"], "lower"), known(row["upper"], "upper")
        rows.append(
            (Item(f"#{row['index']}"), Item(f"{row['eps']:g}"), *bracket, Item(row["method"] or "-"), Item(why))
        )
    yield Table((">point", ">eps", ">lower", ">upper", "upper by", "not used"), rows)
    if len(points) > MOST_ROWS:
        yield Sentence.of(f"... and {len(points) - MOST_ROWS} more, in the --json report", "dim")
