"""`lipcert.reports/1`: one file with the reports of many models, as `lipcert bound a.onnx b.onnx models/ --json F` writes it.

Each of them is a whole `lipcert.report/1`, and whatever reads reports reads these one by one. A run that was cut short says
so, and names the models that were not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lipcert.terms.errors import UnreadableError
from lipcert.terms.files import ODD_SHAPE

SCHEMA = "lipcert.reports/1"
UNASKED = "the run was interrupted before this model was asked"


def is_collection(data: Mapping[str, Any]) -> bool:
    return data.get("schema") == SCHEMA


def members(name: str, data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, JSON object) of each report in the file `name`; any other file is one. UnreadableError where a collection is
    not as its schema says."""
    if not is_collection(data):
        yield name, data
        return
    try:
        reports = [dict(report) for report in data["reports"]]
        paths = [(report.get("model") or {}).get("path") for report in reports]
    except ODD_SHAPE as problem:
        raise UnreadableError(f"{name}: its reports are not as {SCHEMA} says") from problem
    if not reports and not unasked(data):
        raise UnreadableError(f"{name}: it holds no report")
    for place, (report, path) in enumerate(zip(reports, paths, strict=True)):
        yield f"{name} ({path if isinstance(path, str) else place})", report


def unasked(data: Mapping[str, Any]) -> list[str]:
    """The models of an interrupted run that it did not come to. Where the file does not say that it is complete, there
    is at least one."""
    left = data.get("remaining")
    names = [str(one) for one in left] if isinstance(left, list) else []
    return names or ([] if data.get("complete") is True else ["?"])
