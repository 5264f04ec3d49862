"""Sections that the page shows as they are: lines and tables of `report/sections`, without a picture of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lipcert.report.report import Report
from lipcert.report.sections import SECTIONS
from lipcert.report.tables import Piece, Sentence, Table

AS_THEY_ARE = {
    "outputs": "Each output by itself",
    "pairs": "Differences of two outputs",
    "track": "Along training",
    "ranges": "Outputs on the region",
    "execution": "As it is executed",
}


def neutral(report: Report) -> list[dict[str, Any]]:
    """A title and its pieces, for each of them that says something."""
    found = [{"title": title, "pieces": list(_pieces(SECTIONS[name](report)))} for name, title in AS_THEY_ARE.items()]
    return [one for one in found if one["pieces"]]


def _pieces(pieces: Iterable[Piece]) -> Iterator[dict[str, Any]]:
    for piece in pieces:
        if isinstance(piece, Sentence):
            words = "".join(item.words for item in piece.items)
            if words:
                yield {"line": words, "tone": piece.items[0].tone}
        elif isinstance(piece, Table):
            shown = [k for k, name in enumerate(piece.columns) if not _only_pictures(piece, k)]
            yield {
                "head": [piece.columns[k].removeprefix(">") for k in shown],
                "numbers": [place for place, k in enumerate(shown) if piece.columns[k].startswith(">")],
                "rows": [[row[k].words for k in shown] for row in piece.rows],
            }


def _only_pictures(table: Table, column: int) -> bool:
    """Bars of block characters, or nothing at all."""
    return all(row[column].tone == "picture" or not row[column].words for row in table.rows)
