"""`lipcert compare REPORT REPORT ...`."""

from __future__ import annotations

import json as js
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipcert.cli import options as o
from lipcert.cli.paths import report_files
from lipcert.cli.run import render, write_text
from lipcert.report.to_json import for_stdout
from lipcert.terms.errors import UsageError

if TYPE_CHECKING:
    from lipcert.report.comparison import Comparison

FAIL = ("worse", "weaker")


def compare(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT REPORT...", help="Written by --json; the first is compared with.")
    ],
    tolerance: Annotated[float, typer.Option(metavar="PERCENT", help="Moves up to this are none (default 0).")] = 0.0,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="worse|weaker",
            help="Exit 1 if something is worse (brackets apart); or also if less is guaranteed (brackets overlap).",
        ),
    ] = None,
    other_names: Annotated[
        bool, typer.Option("--other-names", help="Inputs and outputs may have other names, as after a new export.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every pair, cell, ball and sample, not only the first that moved.")
    ] = False,
    markdown: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Markdown for a pull request; - is stdout, alone.")
    ] = None,
    json: Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="Every number, for machines.")] = None,
) -> int:
    """What moved between reports of one question, by how much, in the direction that matters."""
    if fail_on is not None and fail_on not in FAIL:
        raise UsageError(f"--fail-on {fail_on}: write {' or '.join(FAIL)}")
    if markdown == "-" and json == "-":
        raise UsageError("--markdown - and --json -: only one of them can have stdout; give a file")
    o.check_not_negative("--tolerance", tolerance)
    from lipcert.report.formats.comparison import comparison_markdown, comparison_table
    from lipcert.tasks.compare import compare as compare_reports

    first, *others = report_files(reports)
    if not others:
        raise UsageError("lipcert compare: give two reports or more; the first is what the others are compared with")
    found = [compare_reports(first, other, tolerance=tolerance / 100, other_names=other_names) for other in others]
    for flag, path, text in (
        ("--markdown", markdown, comparison_markdown(found, everything)),
        ("--json", json, for_stdout(to_json(found))),
    ):
        if path == "-":
            sys.stdout.write(text)
        elif path is not None:
            write_text(flag, path, text)
    if "-" not in (markdown, json):
        sys.stdout.write("\n".join(render(comparison_table(one, everything)) for one in found))
    failed = fail_on is not None and any(one.worse(also_weaker=fail_on == "weaker") for one in found)
    return 1 if failed else 0


def to_json(found: Sequence[Comparison]) -> str:
    """One object, or a list where several reports are compared with the first."""
    rows = [one.to_dict() for one in found]
    return js.dumps(rows[0] if len(rows) == 1 else rows, indent=1, allow_nan=False) + "\n"
