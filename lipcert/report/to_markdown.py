"""Markdown: the verdicts as a table, for a merge request or a job summary."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from lipcert.report.plain import printable
from lipcert.verdict import Verdict, passed

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
        row = (SIGNS[verdict.status], escaped(verdict.rule), f"{verdict.status}: {said}", escaped(verdict.report or ""))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Neither HTML nor Markdown, no line break, no mention of a person."""
    text = html.escape(printable(text).replace("\\", "&#92;"), quote=True).replace("&amp;#92;", "&#92;")
    text = re.sub(r"([`*_{}\[\]()!|~])", lambda found: f"&#{ord(found[1])};", text)
    return text.replace("@", "&#64;").replace("://", "&#58;//").replace("www.", "www&#46;")
