"""The numbers of reports as comma-separated values: all digits, one row per result, point, cell, layer or checkpoint."""

from __future__ import annotations

import csv
from io import StringIO
from typing import Any

from lipcert.report.formats import Named, read
from lipcert.report.frames import TABLES, main_table
from lipcert.terms.printable import printable

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet lets a text begin to act


def comma_separated(reports: Named) -> str:
    """The table that each report's command is about; columns of several reports are joined, `report` first."""
    rows = []
    for name, report in read(reports):
        about = {"report": name} if len(reports) > 1 else {}
        rows += [about | dict(row) for row in TABLES[main_table(report)](report)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_inert(column) for column in columns])
    writer.writerows([_inert(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def _inert(value: Any) -> Any:
    """Numbers with all their digits; words in printable characters that no spreadsheet takes for a formula."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    words = printable(str(value) if isinstance(value, str) else " ".join(map(str, value)))
    return f"'{words}" if words.startswith(FORMULA) else words
