"""All tables of one report for MATLAB (version 5 of its files): a struct of columns each, numbers as double columns (NaN where there is
none), text as cells; a grid has its maps as arrays besides."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lipcert.report.formats import Named, read
from lipcert.report.frames import TABLES
from lipcert.terms.errors import UsageError
from lipcert.terms.printable import printable

LONGEST = 63  # characters of a MATLAB name


def to_mat(reports: Named) -> bytes:
    """Variables `upper`, `lower`, `norm_in`, `norm_out`, and a struct for each table that has rows."""
    from scipy.io import savemat

    if len(reports) != 1:
        raise UsageError("a .mat file holds one report; give one at a time")
    ((_, report),) = read(reports)
    found: dict[str, Any] = {
        "command": printable(report.command),
        "model": printable(str(report.model.get("path") or "module")),
        "norm_in": report.norm.input,
        "norm_out": report.norm.output,
        "upper": _number(report.upper),
        "lower": _number(report.lower),
    }
    for name, table in TABLES.items():
        rows = [dict(row) for row in table(report)]
        if rows:
            found[name] = _struct(rows)
    if report.summary.get("grid"):
        found["maps"] = _maps(report.summary["grid"])
    target = io.BytesIO()
    savemat(target, found, long_field_names=True, do_compression=True)
    return target.getvalue()


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _struct(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns by names that MATLAB takes; two that become one are told apart by a number."""
    import numpy as np

    found: dict[str, Any] = {}
    for column in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(column) for row in rows]
        name = _identifier(column, found)
        if all(value is None or isinstance(value, int | float) for value in values):
            found[name] = np.array([[_number(value)] for value in values])
        else:
            cells = np.empty((len(values), 1), dtype=object)
            cells[:, 0] = ["" if value is None else printable(str(value)) for value in values]
            found[name] = cells
    return found


def _identifier(column: str, taken: Mapping[str, Any]) -> str:
    plain = re.sub(r"\W", "_", column, flags=re.ASCII)[: LONGEST - 4] or "column"
    plain = plain if plain[0].isalpha() else f"c_{plain}"
    name, count = plain, 1
    while name in taken:
        count += 1
        name = f"{plain}_{count}"
    return name


def _maps(grid: Mapping[str, Any]) -> dict[str, Any]:
    """(cells along input 0, along input 1, ...) of each end, and the edges of the cells."""
    import numpy as np

    maps = {name: np.array([_number(v) for v in grid[name]]).reshape(grid["shape"]) for name in ("lower", "upper")}
    return maps | {f"edges_{k}": np.array(edges, dtype=float) for k, edges in enumerate(grid["edges"])}
