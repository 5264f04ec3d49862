"""`lipcert report REPORT ... --html FILE`, or `--out FILE` in the format of its suffix."""

from __future__ import annotations

import json as js
import sys
from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli.paths import report_files
from lipcert.cli.run import write_text
from lipcert.terms.collection import members
from lipcert.terms.errors import UsageError
from lipcert.terms.files import read_json
from lipcert.terms.printable import plain, printable

OTHERS = {  # endings that say another format
    ".pdf": "; a browser prints it as PDF",
    **dict.fromkeys((".png", ".svg", ".json"), ""),
    **dict.fromkeys((".md", ".csv", ".txt", ".mat"), ", or --out for this one"),
}


def report(
    reports: Annotated[
        list[Path],
        typer.Argument(metavar="REPORT...", help="Written by --json: reports, and (in HTML) verdicts of lipcert gate."),
    ],
    html: Annotated[str | None, typer.Option("--html", metavar="FILE|-", help="The page; - is stdout, alone.")] = None,
    out: Annotated[
        list[str] | None,
        typer.Option(
            "--out", metavar="FILE", help="As .html, .md, .csv, .txt or .mat, by its suffix; may be repeated."
        ),
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="What was written, for machines.")
    ] = None,
) -> int:
    """Reports as one self-contained HTML page, as Markdown, as comma-separated values, as text, or for MATLAB."""
    from lipcert.report.formats import FORMATS, written

    if html == "-" and json == "-":
        raise UsageError("--html - and --json -: only one of them can have stdout; give a file")
    if html is None and not out:
        raise UsageError("report: say what to write: --html FILE, or --out FILE.md, FILE.csv, FILE.txt, FILE.mat")
    if html is not None and (suffix := Path(html).suffix.lower()) in OTHERS:
        raise UsageError(f"--html {html}: the page is HTML: give a name in .html" + OTHERS[suffix])
    wanted = [("--html", html, ".html")] if html is not None else []
    for path in out or ():
        suffix = Path(path).suffix.lower()
        if suffix not in FORMATS:
            raise UsageError(f"--out {path}: the suffix says the format: one of {', '.join(FORMATS)}")
        wanted.append(("--out", path, suffix))
    named = [one for path in report_files(reports) for one in members(str(path), read_json(path, str(path)))]
    for flag, path, suffix in wanted:
        content = written(suffix, named)
        if path == "-":
            sys.stdout.write(str(content))
        else:
            write_text(flag, path, content)
            print(f"wrote {printable(path)}", file=sys.stderr)
    if json is not None:
        about = {"html": html, "out": out or [], "reports": [str(path) for path in reports]}
        said = js.dumps(plain(about), indent=1) + "\n"
        if json == "-":
            sys.stdout.write(said)
        else:
            write_text("--json", json, said)
    return 0
