"""Warnings, what is trusted, what is assumed, and options that were not typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lipcert.report.report import Report
from lipcert.report.tables import Item, Piece, Sentence, Tone


def section(report: Report) -> Iterator[Piece]:
    labelled: tuple[tuple[str, Tone, list[str]], ...] = (
        ("warning", "warning", list(report.warnings)),
        ("trusts", "dim", list(report.summary.get("trusted") or ())),
        ("assumes", "dim", list(report.assumptions)),
        ("default", "dim", [_default(row) for row in report.defaults]),
    )
    for label, tone, lines in labelled:
        for line in lines:
            yield Sentence((Item(f"{label}: ", tone=tone), Item(line)))


def _default(row: Mapping[str, Any]) -> str:
    values = row["value"] if isinstance(row["value"], list) else [row["value"]]
    return f"{row['option']} {', '.join(map(str, values))} from {row['from']}"
