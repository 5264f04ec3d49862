"""A report file read again."""

from __future__ import annotations

from pathlib import Path

from lipcert.errors import LipcertError, UsageError
from lipcert.report.report import Report
from lipcert.terms.files import read_json


def read_report(flag: str, path: str | Path) -> Report:
    """UsageError that names the flag where the file is missing, damaged or of another schema."""
    what = f"{flag} {path}"
    try:
        return Report.from_dict(read_json(path, what))
    except UsageError:
        raise
    except LipcertError as problem:
        text = str(problem)
        raise UsageError(text if text.startswith(what) else f"{what}: not a report of lipcert ({text})") from problem
