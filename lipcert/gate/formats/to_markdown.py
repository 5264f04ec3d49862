"""Markdown: the verdicts as a table, for a merge request or a job summary."""

from __future__ import annotations

from collections.abc import Sequence

from lipcert.gate.steps import step
from lipcert.gate.verdict import Verdict, passed
from lipcert.terms.markdown import escaped

SIGNS = {"met": "✅", "violated": "❌", "not proved": "⚠️"}
SHOWN = 20


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    title = "gate met" if passed(list(verdicts)) else "gate NOT met"
    lines = [f"### lipcert: {title}", "", "| | rule | verdict | report |", "|---|---|---|---|"]
    for verdict in verdicts:
        said = escaped(verdict.message)
        if verdict.samples:
            more = f" and {len(verdict.samples) - SHOWN} more" if len(verdict.samples) > SHOWN else ""
            said += f"; samples {', '.join(map(str, verdict.samples[:SHOWN]))}{more}"
        if (what := step(verdict.check, verdict.status)) is not None:
            said += f". {escaped(what)}"
        row = (SIGNS[verdict.status], escaped(verdict.rule), f"{verdict.status}: {said}", escaped(verdict.report or ""))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"
