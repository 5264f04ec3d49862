"""`lipcert doctor`."""

from __future__ import annotations

import json as js
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lipcert.cli.run import render, stdout_reserved, write_text
from lipcert.terms.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lipcert.tasks.doctor import Finding

WRONG = 4


def doctor(
    json: Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="The findings for machines.")] = None,
) -> int:
    """Versions, devices, optional parts, and a self-test: what a bug report needs."""
    from lipcert.tasks.doctor import doctor as examine

    with stdout_reserved():
        findings = examine()
    healthy = all(one.ok is not False for one in findings)
    text = js.dumps({"healthy": healthy, "findings": [asdict(one) for one in findings]}, indent=1) + "\n"
    if json == "-":
        sys.stdout.write(text)
    else:
        if json is not None:
            write_text("--json", json, text)
        sys.stdout.write(render(table(findings)))
    return 0 if healthy else WRONG


def table(findings: Sequence[Finding]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, show_header=False)
    for name in ("name", "value"):
        shown.add_column(name, overflow="fold")
    group = ""
    for one in findings:
        if one.group != group:
            group = one.group
            shown.add_row(Text(group, style="bold"))
        style = {True: "green", False: "bold red", None: ""}[one.ok]
        sign = {True: "ok  ", False: "WRONG  ", None: ""}[one.ok] if group == "self-test" else ""
        shown.add_row(Text(f"  {one.name}"), Text(sign + printable(one.value), style=style, overflow="fold"))
    return shown
