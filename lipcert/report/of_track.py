"""What `lipcert track` found, as tables: one row per checkpoint, and the constants of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lipcert.report.radius_table import percent
from lipcert.terms.digits import digits
from lipcert.terms.printable import printable
from lipcert.terms.result import Side

COUNT = 4  # significant digits: what moves along training moves by more
MOST_LAYERS = 8  # columns of the second table


def track_tables(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    rows = found["checkpoints"]
    for name in dict.fromkeys(row["series"] for row in rows):
        series = [row for row in rows if row["series"] == name]
        yield Text()
        yield Text(printable(f"{name}: {len(series)} checkpoints"), style="bold", overflow="fold")
        yield _constants(series, found["methods"])
        layers = linear_layers(series)
        if layers:
            yield Text("constants of the linear layers (upper)", style="dim")
            yield _layers(series, layers)
    if not found["complete"]:
        yield Text("the track is not complete", style="yellow")


def linear_layers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The linear layers (those with an attained value) that every bounded checkpoint has, in their order."""
    known = [
        [layer["name"] for layer in row["layers"] if layer["lower"] is not None and layer["upper"] is not None]
        for row in rows
        if row["layers"] and row["upper"] is not None
    ]
    return [name for name in (known[0] if known else []) if all(name in names for names in known)]


def _constants(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Table:
    measured = any(row["jacobian"] for row in rows)
    labelled = any(row["accuracy"] is not None for row in rows)
    # a method that gives the upper value of every row, or a lower one, has no column of its own
    ends = [(row["lower"], row["upper"]) for row in rows]
    given = {name: [row["methods"].get(name) for row in rows] for name in methods}
    extra = [
        name
        for name, values in given.items()
        if any(v is not None and v not in pair for v, pair in zip(values, ends, strict=True))
    ]
    columns = ["step", "lower", "upper", *extra]
    columns += ["|J| median", "|J| max"] if measured else []
    columns += ["accuracy"] if labelled else []
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(Text(column), justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for row in rows:
        cells = [str(row["step"]), value(row["lower"], "lower"), value(row["upper"], "upper")]
        cells += [value(row["methods"].get(name), "upper") for name in extra]
        jacobian = row["jacobian"] or {}
        cells += [value(jacobian.get(key), "estimate") for key in ("median", "max")] if measured else []
        cells += [percent(row["accuracy"])] if labelled else []
        why = "" if row["status"] == "bounded" else f"{row['status']}: {row['reason']}"
        table.add_row(*cells, Text(printable(why), style="yellow", overflow="fold"))
    return table


def _layers(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    shown = names[:MOST_LAYERS]
    for column in ("step", *shown, *(["..."] if len(names) > len(shown) else [])):
        table.add_column(Text(printable(column), overflow="fold"), justify="right", overflow="fold")
    for row in rows:
        known = {layer["name"]: layer["upper"] for layer in row["layers"]}
        table.add_row(str(row["step"]), *(value(known.get(name), "upper") for name in shown))
    return table


def value(number: float | None, side: Side) -> str:
    return "-" if number is None else digits(number, side, COUNT)
