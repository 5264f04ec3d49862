"""A report in a notebook: the table of the terminal, as HTML in which nothing of the report is markup."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lipcert.report.report import Report

FORMAT = '<pre style="line-height:1.25;white-space:pre;overflow-x:auto">{code}</pre>'
WIDTH = 110


def notebook_html(report: Report) -> str:
    from lipcert.report.formats.terminal import to_table

    return as_html(to_table(report))


def as_html(table: RenderableType) -> str:
    """`force_jupyter`: in a notebook a console of rich's would show the table by itself, a second time."""
    from rich.console import Console

    plain = {"highlight": False, "markup": False, "emoji": False, "force_jupyter": False}
    console = Console(record=True, file=StringIO(), width=WIDTH, **plain)  # type: ignore[arg-type]
    console.print(table)
    return console.export_html(inline_styles=True, code_format=FORMAT)
