"""`lipcert gate REPORT ...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lipcert.cli.paths import report_files
from lipcert.cli.run import write_text
from lipcert.gate.formats.to_github import to_github
from lipcert.gate.formats.to_junit import to_junit
from lipcert.gate.formats.to_markdown import to_markdown
from lipcert.gate.formats.to_sarif import to_sarif
from lipcert.gate.formats.to_verdicts import to_verdicts, verdict_table
from lipcert.gate.given import read_reports
from lipcert.gate.policy import read_policy, write_template
from lipcert.gate.rules import judge
from lipcert.gate.verdict import passed
from lipcert.report.to_json import for_stdout
from lipcert.terms.errors import UnwritableError, UsageError
from lipcert.terms.files import reason
from lipcert.terms.printable import printable


def gate(
    reports: Annotated[
        list[Path] | None, typer.Argument(metavar="REPORT...", help="Reports written by --json; folders, patterns.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Rules in TOML (default gate.toml, or [tool.lipcert.gate] of pyproject.toml).")
    ] = None,
    baseline: Annotated[
        list[Path] | None, typer.Option(metavar="REPORT", help="What to compare with; may be repeated.")
    ] = None,
    init: Annotated[bool, typer.Option("--init", help="Write a commented policy and stop.")] = False,
    junit: Annotated[str | None, typer.Option(metavar="FILE", help="JUnit XML.")] = None,
    sarif: Annotated[str | None, typer.Option(metavar="FILE", help="SARIF 2.1.0.")] = None,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="Markdown.")] = None,
    json: Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="The verdicts for machines.")] = None,
    github: Annotated[
        bool, typer.Option("--github", help="GitHub annotations on stdout, and the job summary.")
    ] = False,
) -> int:
    """Reports against a policy: every rule met, violated or not proved."""
    if init:
        target = policy or Path("gate.toml")
        write_template(target)
        print(f"wrote {printable(str(target))}", file=sys.stderr)
        return 0
    if not reports:
        raise UsageError("lipcert gate: give the reports to judge, as written by --json")
    rules = read_policy(policy)
    given, before = (
        [one for path in report_files(paths) for one in read_reports(path)] for paths in (reports, baseline or ())
    )
    for file in (*given, *before):
        if file.verdicts:
            print(f"lipcert: {printable(file.path)}: verdicts of a gate, no report: skipped", file=sys.stderr)
    verdicts = judge(rules, given, before)
    for flag, path, emit in (
        ("--junit", junit, to_junit),
        ("--sarif", sarif, to_sarif),
        ("--markdown", markdown, to_markdown),
        ("--json", json if json != "-" else None, to_verdicts),
    ):
        if path is not None:
            write_text(flag, path, emit(verdicts))
    if github:
        getattr(sys.stdout, "command", sys.stdout.write)(to_github(verdicts))
        if os.environ.get("GITHUB_STEP_SUMMARY"):
            append("GITHUB_STEP_SUMMARY", os.environ["GITHUB_STEP_SUMMARY"], to_markdown(verdicts))
    elif json == "-":
        sys.stdout.write(for_stdout(to_verdicts(verdicts)))
    else:
        sys.stdout.write(verdict_table(verdicts))
    return 0 if passed(verdicts) else 1


def append(name: str, path: str, text: str) -> None:
    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UnwritableError(f"{name} {path}: cannot write it: {reason(error)}") from error
