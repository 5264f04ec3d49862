"""What `lipcert track` found: one row per checkpoint, and the constants of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lipcert.report.report import Report
from lipcert.report.tables import Item, Piece, Sentence, Table, known, percent

COUNT = 4  # significant digits: what moves along training moves by more
MOST_LAYERS = 8  # columns of the second table


def section(report: Report) -> Iterator[Piece]:
    if "track" not in report.summary:
        return
    found = report.summary["track"]
    rows = found["checkpoints"]
    for name in dict.fromkeys(row["series"] for row in rows):
        series = [row for row in rows if row["series"] == name]
        yield Sentence.of("")
        yield Sentence.of(f"{name}: {len(series)} checkpoints", "strong")
        yield _constants(series, found["methods"])
        layers = linear_layers(series)
        if layers:
            yield Sentence.of("constants of the linear layers (upper)", "dim")
            yield _layers(series, layers)
    if not found["complete"]:
        yield Sentence.of("the track is not complete", "warning")


def linear_layers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The linear layers (those with an attained value) that every bounded checkpoint has, in their order."""
    named = [
        [layer["name"] for layer in row["layers"] if layer["lower"] is not None and layer["upper"] is not None]
        for row in rows
        if row["layers"] and row["upper"] is not None
    ]
    return [name for name in (named[0] if named else []) if all(name in names for names in named)]


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
    columns = [">step", ">lower", ">upper", *(f">{name}" for name in extra)]
    columns += [">|J| median", ">|J| max"] if measured else []
    columns += [">accuracy"] if labelled else []
    table = []
    for row in rows:
        cells = [Item(str(row["step"])), known(row["lower"], "lower", COUNT), known(row["upper"], "upper", COUNT)]
        cells += [known(row["methods"].get(name), "upper", COUNT) for name in extra]
        jacobian = row["jacobian"] or {}
        cells += [known(jacobian.get(key), count=COUNT) for key in ("median", "max")] if measured else []
        cells += [Item(percent(row["accuracy"]))] if labelled else []
        why = "" if row["status"] == "bounded" else f"{row['status']}: {row['reason']}"
        table.append([*cells, Item(why, tone="warning")])
    return Table((*columns, ""), table)


def _layers(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    shown = names[:MOST_LAYERS]
    table = []
    for row in rows:
        uppers = {layer["name"]: layer["upper"] for layer in row["layers"]}
        table.append([Item(str(row["step"])), *(known(uppers.get(name), "upper", COUNT) for name in shown)])
    more = [">..."] if len(names) > len(shown) else []
    return Table((">step", *(f">{name}" for name in shown), *more), [[*r, *(Item() for _ in more)] for r in table])
