"""`lipcert export REPORT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli.run import write_text
from lipcert.terms.errors import UsageError
from lipcert.terms.files import read_json
from lipcert.terms.printable import printable


def export(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="A report written by --json.")],
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE|-", help="One table, for a spreadsheet; - is stdout.")
    ] = None,
    mat: Annotated[str | None, typer.Option("--mat", metavar="FILE", help="All tables, for MATLAB.")] = None,
    table: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which table is the CSV: results, layers, points, cells, ... (default: its own)."
        ),
    ] = None,
) -> int:
    """The numbers of a report as CSV or as a .mat file."""
    if csv is None and mat is None:
        raise UsageError("lipcert export: give --csv FILE or --mat FILE")
    from lipcert.report.export import to_csv, to_mat
    from lipcert.report.report import Report

    found = Report.from_dict(read_json(report, str(report)))
    text = None if csv is None else to_csv(found, table)
    if csv == "-":
        sys.stdout.write(text or "")
    elif csv is not None:
        write_text("--csv", csv, text or "")
    if mat is not None:
        write_text("--mat", mat, to_mat(found))
    for path in (csv, mat):
        if path not in (None, "-"):
            print(f"wrote {printable(str(path))}", file=sys.stderr)
    return 0
