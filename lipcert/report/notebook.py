"""A report in a notebook: the table of the terminal, as HTML in which nothing of the report is markup."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lipcert.report.report import Report

FORMAT = '<pre style="line-height:1.25;white-space:pre;overflow-x:auto">{code}</pre>'
WIDTH = 110


def notebook_html(report: Report) -> str:
    from rich.console import Console

    from lipcert.report.formats.terminal import to_table

    console = Console(record=True, file=StringIO(), width=WIDTH, highlight=False, markup=False, emoji=False)
    console.print(to_table(report))
    return console.export_html(inline_styles=True, code_format=FORMAT)
