"""GitHub workflow commands: one annotation per rule that is not met. The job summary is Markdown (to_markdown)."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from lipcert.gate.formats.to_sarif import relative_uri
from lipcert.gate.verdict import Verdict
from lipcert.terms.printable import printable

LEVELS = {"violated": "error", "not proved": "warning", "met": "notice"}


def to_github(verdicts: Sequence[Verdict]) -> str:
    lines = []
    for verdict in verdicts:
        place = unquote(relative_uri(verdict.model or verdict.report))
        title = f"lipcert: {verdict.rule}"
        said = f"{verdict.status}: {verdict.message}"
        lines.append(f"::{LEVELS[verdict.status]} file={_property(place)},title={_property(title)}::{_data(said)}\n")
    return "".join(lines)


def _data(text: str) -> str:
    """A message cannot end the line and begin a command of its own."""
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
