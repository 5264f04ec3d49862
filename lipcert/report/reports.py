"""The reports of many models that were asked one question: one file, one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lipcert.report.report import Report, moment
from lipcert.report.sections import bounds
from lipcert.report.sections.parts import shapes
from lipcert.report.tables import Item, Piece, Sentence, Table, known
from lipcert.terms.collection import SCHEMA
from lipcert.terms.printable import plain
from lipcert.terms.result import Refusal
from lipcert.terms.version import __version__


@dataclass
class Reports:
    """`asked`: (report, exit status) in the order of the files. `remaining`: files that were not asked, for the run was
    interrupted."""

    command: str
    asked: list[tuple[Report, int]] = field(default_factory=list)
    remaining: Sequence[str] = ()
    status: int = 0
    created: str = field(default_factory=moment)

    @property
    def reports(self) -> list[Report]:
        return [report for report, _ in self.asked]

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON data as the shipped schema says (`lipcert/report/schema/lipcert.reports-1.json`)."""
        return {
            "schema": SCHEMA,
            "tool": {"name": "lipcert", "version": __version__},
            "command": self.command,
            "created": self.created,
            "exit": self.status,
            "complete": not self.remaining,
            "remaining": plain(list(self.remaining)),
            "reports": [report.to_dict() for report in self.reports],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"


def pieces_of_many(found: Reports) -> Iterator[Piece]:
    """One row per model (of `layers`: a table per model); then what was said of several of them, once."""
    yield from {"layers": _layers, "inspect": _inspected}.get(found.command, _bounds)(found)
    for report in found.reports:
        for line in report.warnings:
            yield Sentence((Item("warning: ", tone="warning"), Item(f"{_name(report)}: {line}")))
    if found.remaining:
        yield Sentence.of(f"interrupted; not asked: {', '.join(found.remaining)}", "warning")
    for line in dict.fromkeys(line for report in found.reports for line in report.assumptions):
        yield Sentence((Item("assumes: ", tone="dim"), Item(line)))


def _name(report: Report) -> str:
    return str(report.model.get("path") or "module")


def _why(report: Report) -> str:
    """The first reason for which there is no upper value."""
    if report.contradictions or report.attacked_inside:
        return "SELF-CHECK FAILED"
    if report.status in ("bounded", None):
        return ""
    reasons = [r.reason for r in report.results if isinstance(r, Refusal) and r.side == "upper"]
    return reasons[0] if reasons else ""


def _status(report: Report, status: int) -> Item:
    """A command that asks for no bound has no status of its own."""
    word = "unreadable" if status == 2 else report.status or ("read" if status == 0 else "refused")
    return Item(word, tone=bounds.TONES.get(report.status, ""))


def _bounds(found: Reports) -> Iterator[Piece]:
    gated = any(report.max_upper is not None for report in found.reports)
    rows = []
    for report, status in found.asked:
        gate = [GATES[report.gate_met]] if gated else []
        ends = known(report.lower, "lower"), known(report.upper, "upper")
        rows.append([Item(_name(report)), *ends, _status(report, status), *gate, Item(_why(report))])
    yield Table(("model", ">lower", ">upper", "status", *(["gate"] if gated else []), "why not"), rows)


GATES = {True: Item("met", tone="good"), False: Item("NOT met", tone="bad"), None: Item("-")}


def _layers(found: Reports) -> Iterator[Piece]:
    for report, status in found.asked:
        if report.layers:
            yield Sentence.of(_name(report), "strong")
            yield from bounds.layers(report)
        else:
            head = Item(_name(report), tone="strong"), Item("  "), _status(report, status), Item(f"  {_why(report)}")
            yield Sentence(head)


def _inspected(found: Reports) -> Iterator[Piece]:
    rows = []
    for report, _ in found.asked:
        model = report.model
        usable = [row["method"] for row in report.methods if row["usable"] and row["side"] == "upper"]
        sizes = [f"{model[name]:,}" if model.get(name) is not None else "" for name in ("parameters", "neurons")]
        cells = [_name(report), model.get("format") or "", shapes(model), *sizes, ", ".join(usable), _why(report)]
        rows.append([Item(cell) for cell in cells])
    columns = "model", "format", "shape", ">parameters", ">neurons", "methods for an upper value", "why not"
    yield Table(columns, rows)
