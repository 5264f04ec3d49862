"""The reports of many models that were asked one question: one file, one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lipcert.report.report import Report, moment
from lipcert.report.to_table import STYLES, notes, table_of_layers, text
from lipcert.terms.collection import SCHEMA
from lipcert.terms.digits import digits
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


def reports_table(found: Reports) -> RenderableType:
    """One row per model (of `layers`: a table per model); then what was said of several of them, once."""
    rows = {"layers": _layers, "inspect": _inspected}.get(found.command, _bounds)(found)
    lines = dict.fromkeys(line for report in found.reports for line in report.assumptions)
    left = [f"interrupted; not asked: {', '.join(found.remaining)}"] if found.remaining else []
    warnings = [f"{_name(report)}: {line}" for report in found.reports for line in report.warnings]
    return Group(rows, *notes("warning", [*warnings, *left], "yellow"), *notes("assumes", lines, "dim"))


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


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        side: Any = "right" if column.startswith(">") else "left"
        table.add_column(Text(column.lstrip(">")), justify=side, overflow="fold")
    return table


def _status(report: Report, status: int) -> Text:
    """A command that asks for no bound has no status of its own."""
    word = report.status or ("read" if status == 0 else "refused")
    return text("unreadable" if status == 2 else word, STYLES.get(report.status, "bold"))


def _bounds(found: Reports) -> RenderableType:
    gated = any(report.max_upper is not None for report in found.reports)
    table = _table("model", ">lower", ">upper", "status", *(["gate"] if gated else []), "why not")
    for report, status in found.asked:
        lower = "-" if report.lower is None else digits(report.lower, "lower")
        upper = "-" if report.upper is None else digits(report.upper, "upper")
        gate = [_gate(report)] if gated else []
        table.add_row(text(_name(report)), text(lower), text(upper), _status(report, status), *gate, text(_why(report)))
    return table


def _gate(report: Report) -> Text:
    words: dict[bool | None, Text] = {True: Text("met", "green"), False: Text("NOT met", "bold red"), None: Text("-")}
    return words[report.gate_met]


def _layers(found: Reports) -> RenderableType:
    blocks: list[RenderableType] = []
    for report, status in found.asked:
        head = text(_name(report), "bold")
        blocks.append(head if report.layers else head.append("  ").append_text(_status(report, status)))
        blocks += [table_of_layers(report.layers)] if report.layers else [text(_why(report))]
        blocks.append(Text())
    return Group(*blocks[:-1])


def _inspected(found: Reports) -> RenderableType:
    table = _table("model", "format", "shape", ">parameters", ">neurons", "methods for an upper value", "why not")
    for report, _ in found.asked:
        model = report.model
        usable = [row["method"] for row in report.methods if row["usable"] and row["side"] == "upper"]
        sizes = [f"{model[name]:,}" if model.get(name) is not None else "" for name in ("parameters", "neurons")]
        shape = " -> ".join("x".join(map(str, model[k] or ())) for k in ("input_shape", "output_shape") if model.get(k))
        cells = [_name(report), model.get("format") or "", shape, *sizes, ", ".join(usable)]
        table.add_row(*map(text, cells), text(_why(report)))
    return table
