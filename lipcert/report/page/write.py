"""Reports and verdicts -> one HTML page. Nothing of a report is markup, and the page may load and run nothing else.

Three walls between a hostile name and the reader: jinja2 escapes every value, `printable` makes control characters
visible before that, and the page's own policy (Content-Security-Policy) allows the one style and the one script that
are written here, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from lipcert.report.page.sections import section
from lipcert.terms.errors import LipcertError, UnreadableError
from lipcert.terms.files import ODD_SHAPE, odd
from lipcert.terms.printable import printable
from lipcert.terms.version import __version__

Given = tuple[str, Mapping[str, Any]]  # the name of a file and its JSON object
GATE = "lipcert.gate/1"
OF_A_VERDICT = ("rule", "status", "message", "report", "samples")  # what the page shows of it


def html_page(files: Sequence[Given]) -> str:
    """One page of reports (lipcert.report/1) and of verdicts (lipcert.gate/1), in the order given.

    UnreadableError where a file is neither, or not as its schema says.
    """
    reports = [given for given in files if given[1].get("schema") != GATE]
    sections, gates = [], []
    for number, (name, data) in enumerate(reports, 1):
        try:
            sections.append(section(name, data, number))
        except (LipcertError, *ODD_SHAPE) as problem:
            raise UnreadableError(f"{name}: not as the schema of a report says: {odd(problem)}") from problem
    for number, (name, data) in enumerate((given for given in files if given[1].get("schema") == GATE), 1):
        try:
            rows = data["verdicts"]
            verdicts = [{key: row[key] for key in OF_A_VERDICT} | {"step": row.get("step")} for row in rows]
            gates.append({"id": f"gate-{number}", "file": name, "passed": data["passed"] is True, "verdicts": verdicts})
        except ODD_SHAPE as problem:
            raise UnreadableError(f"{name}: not as the schema of verdicts says: {odd(problem)}") from problem
    style, script = _text("page.css"), _text("page.js")
    shown = {
        "title": ", ".join(dict.fromkeys(s["title"] for s in sections)) or "gate",
        "sections": sections,
        "gates": gates,
        "style": Markup(style),
        "style_hash": _hash(style),
        "script": Markup(script),
        "script_hash": _hash(script),
        "version": __version__,
    }
    try:
        page = _template().render(shown)
    except (jinja2.UndefinedError, *ODD_SHAPE) as problem:  # what is read only where it is written down
        names = ", ".join(name for name, _ in files)
        raise UnreadableError(f"{names}: not as the schema says: {odd(problem)}") from problem
    return page.strip() + "\n"


def _text(name: str) -> str:
    return resources.files("lipcert.report.page").joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    """As a policy names the style or script that is allowed."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_visible, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("page.html"))


def _visible(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
