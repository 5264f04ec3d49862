"""The tables of a report as pandas DataFrames, one row per result, layer, point, cell or checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lipcert.terms.errors import UsageError

if TYPE_CHECKING:
    from lipcert.report.report import Report

Rows = Sequence[Mapping[str, Any]]


def to_frame(report: Report, which: str | None = None) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise UsageError("to_frame needs pandas; install it with: pip install 'lipcert[pandas]'") from error
    name = main_table(report) if which is None else which
    if name not in TABLES:
        raise UsageError(f"to_frame({name!r}): tables are {', '.join(TABLES)}")
    return pandas.DataFrame(list(TABLES[name](report)))


def main_table(report: Report) -> str:
    """What the command is about: the first table that has rows; results otherwise."""
    return next((name for name in TABLES if name != "results" and TABLES[name](report)), "results")


def _results(report: Report) -> Rows:
    kept = ("method", "side", "rigor", "value", "status", "seconds", "reason", "node")
    return [{key: row[key] for key in kept} for row in report.to_dict()["results"]]


def _points(report: Report) -> Rows:
    """Values that are tables themselves (the results of a ball) are left out; radii get a column per method."""
    rows = []
    for point in report.points:
        row = {key: value for key, value in point.items() if not isinstance(value, Mapping | list)}
        rows.append(row | {f"radius {method}": value for method, value in (point.get("radii") or {}).items()})
    return rows


def _cells(report: Report) -> Rows:
    """The two ends of each cell along each input, and its bracket; the last input is the fastest."""
    grid = report.summary.get("grid")
    if not grid:
        return []
    rows = []
    for place, (low, high, closed) in enumerate(zip(grid["lower"], grid["upper"], grid["closed"], strict=True)):
        row: dict[str, Any] = {}
        rest = place
        for axis in reversed(range(len(grid["shape"]))):
            rest, k = divmod(rest, grid["shape"][axis])
            row |= {f"x{axis} from": grid["edges"][axis][k], f"x{axis} to": grid["edges"][axis][k + 1]}
        rows.append(row | {"lower": low, "upper": high, "closed": closed})
    return rows


def _checkpoints(report: Report) -> Rows:
    rows = []
    for row in (report.summary.get("track") or {}).get("checkpoints", ()):
        flat = {key: row[key] for key in ("series", "step", "path", "status", "lower", "upper", "accuracy", "reason")}
        flat |= row["methods"]
        flat |= {f"jacobian {key}": value for key, value in (row["jacobian"] or {}).items()}
        rows.append(flat | {f"layer {layer['name']}": layer["upper"] for layer in row["layers"]})
    return rows


TABLES: dict[str, Callable[[Any], Rows]] = {
    "checkpoints": _checkpoints,
    "cells": _cells,
    "points": _points,
    "pairs": lambda report: [
        {key: row[key] for key in ("pair", "lower", "upper")} for row in report.summary.get("pairs") or ()
    ],
    "outputs": lambda report: [
        {key: row[key] for key in ("output", "lower", "upper")} for row in report.summary.get("outputs") or ()
    ],
    "layers": lambda report: report.layers,
    "methods": lambda report: report.methods,
    "parts": lambda report: report.parts,
    "results": _results,
}
