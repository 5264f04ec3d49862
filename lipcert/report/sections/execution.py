"""What an execution in floating point adds to the network in real arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from lipcert.report.report import Report
from lipcert.report.tables import Item, Piece, Sentence


def section(report: Report) -> Iterator[Piece]:
    found = report.summary.get("execution")
    if found is None:
        return
    where = f"executed in {found['arithmetic']}: "
    if found.get("error") is None:
        yield Sentence.of(f"{where}its error is not known: {found.get('reason')}", "warning")
    else:
        size = Item(found["error"], "upper", "strong")
        yield Sentence((Item(f"{where}|computed f - f| <= "), size, Item(f" in l{found['norm']}")))
