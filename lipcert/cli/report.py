"""`lipcert report REPORT ... --html FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli.run import write_text
from lipcert.terms.files import read_json


def report(
    reports: Annotated[
        list[Path],
        typer.Argument(metavar="REPORT...", help="Written by --json: reports, and verdicts of lipcert gate."),
    ],
    html: Annotated[str, typer.Option("--html", metavar="FILE|-", help="The page; - is stdout.")],
) -> int:
    """One self-contained HTML page of reports and verdicts: pictures, values, and how to check them again."""
    from lipcert.report.page.write import html_page

    page = html_page([(str(path), read_json(path, str(path))) for path in reports])
    if html == "-":
        sys.stdout.write(page)
    else:
        write_text("--html", html, page)
        print(f"wrote {html}", file=sys.stderr)
    return 0
