"""A report file read again."""

from __future__ import annotations

import json
from pathlib import Path

from lipcert.errors import LipcertError, UsageError
from lipcert.report.report import Report


def read_report(flag: str, path: str | Path) -> Report:
    """UsageError that names the flag where the file is missing, damaged or of another schema."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
        return Report.from_dict(data)
    except OSError as problem:
        raise UsageError(f"{flag} {path}: cannot read it: {problem.strerror}") from problem
    except (ValueError, LipcertError) as problem:
        raise UsageError(f"{flag} {path}: not a report of lipcert ({problem})") from problem
