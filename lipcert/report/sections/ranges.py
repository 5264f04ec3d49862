"""The intervals of the outputs on the region."""

from __future__ import annotations

from collections.abc import Iterator

from lipcert.report.report import Report
from lipcert.report.tables import Item, Piece, Sentence, Table

SHOWN = 20


def section(report: Report) -> Iterator[Piece]:
    found = report.summary.get("range")
    if not isinstance(found, dict):
        return
    yield Sentence.of(f"outputs on the region, by {found['method']}; attained: between these values", "dim")
    columns = (found["lower"], found["attained"]["lower"], found["attained"]["upper"], found["upper"])
    sides = ("lower", "upper", "lower", "upper")
    rows = [
        [Item(str(k)), *(Item("?" if v is None else v, side) for v, side in zip(row, sides, strict=True))]  # type: ignore[arg-type]
        for k, row in enumerate(zip(*columns, strict=True))
    ]
    yield Table((">output", ">lower", ">attained", ">attained", ">upper"), rows[:SHOWN])
    if len(rows) > SHOWN:
        yield Sentence.of(f"and {len(rows) - SHOWN} more, in the report", "dim")
