"""`lipcert report REPORT ... --html FILE`."""

from __future__ import annotations

import json as js
import sys
from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli.run import write_text
from lipcert.terms.errors import UsageError
from lipcert.terms.files import read_json
from lipcert.terms.printable import plain, printable


def report(
    reports: Annotated[
        list[Path],
        typer.Argument(metavar="REPORT...", help="Written by --json: reports, and verdicts of lipcert gate."),
    ],
    html: Annotated[str, typer.Option("--html", metavar="FILE|-", help="The page; - is stdout, alone.")],
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="What was written, for machines.")
    ] = None,
) -> int:
    """One self-contained HTML page of reports and verdicts: pictures, values, and how to check them again."""
    if html == "-" and json == "-":
        raise UsageError("--html - and --json -: only one of them can have stdout; give a file")
    from lipcert.report.page.write import html_page

    page = html_page([(str(path), read_json(path, str(path))) for path in reports])
    if html == "-":
        sys.stdout.write(page)
    else:
        write_text("--html", html, page)
        print(f"wrote {printable(html)}", file=sys.stderr)
    if json is not None:
        said = js.dumps(plain({"html": html, "reports": [str(path) for path in reports]}), indent=1) + "\n"
        if json == "-":
            sys.stdout.write(said)
        else:
            write_text("--json", json, said)
    return 0
