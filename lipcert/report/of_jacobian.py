"""What `lipcert jacobian` found, as tables: one per set of points, one per class, one of the class graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lipcert.terms.printable import printable

WORDS = {
    "spectral": "spectral norm",
    "frobenius": "Frobenius norm",
    "l1": "l1 norm",
    "linf": "linf norm",
    "smallest": "smallest singular value",
}
SHOWN = {"0.05": "5 %", "0.5": "median", "0.95": "95 %"}
PLACES = {"data": "at the data", "around": "around the data", "between": "between the data", "box": "in the box"}


def jacobian_tables(summary: Mapping[str, Any]) -> Iterator[RenderableType]:
    found = summary["jacobian"]
    outputs, inputs = found["size"][1], found["size"][0]
    for group in found["sets"]:
        place = PLACES[group["set"]] + (f" (noise {found['around']:g})" if group["set"] == "around" else "")
        of = f"{group['measured']} of {group['points']}" if group["measured"] < group["points"] else group["points"]
        least = ", norms are at least these" if "lower" in found["quantities"].values() else ""
        yield _title(f"Jacobians {outputs} x {inputs} {place}, {of} points{least}")
        yield _statistics(group, found["quantities"])
        if group.get("classes"):
            yield _title(f"per class, {place}: means, and the largest spectral norm")
            yield _classes(group["classes"], found["quantities"])
    if summary.get("laplacian"):
        yield _title("class graph of each layer: weight of the edges between classes, of nearest neighbours")
        yield _class_graphs(summary["laplacian"])


def _title(words: str) -> Text:
    return Text(f"\n{words}", style="bold")


def _statistics(group: Mapping[str, Any], quantities: Mapping[str, str | None]) -> Table:
    table = _table("", "mean", *SHOWN.values(), "max", "worst")
    for name, word in WORDS.items():
        row = group["statistics"][name]
        if quantities[name] is None:
            continue
        cells = [row["mean"], *(row["quantiles"].get(q) for q in SHOWN), row["max"]]
        table.add_row(word, *map(number, cells), "" if row["worst"] is None else f"#{row['worst']}")
    return table


def _classes(classes: list[Mapping[str, Any]], quantities: Mapping[str, str | None]) -> Table:
    names = [name for name in WORDS if quantities[name] is not None]
    table = _table("class", "points", *names, "max spectral")
    for row in classes:
        first = row[names[0]]
        cells = [number(row[name]["mean"]) for name in names] + [number(row["spectral"]["max"])]
        table.add_row(printable(str(row["label"])), str(first["count"] + first["missing"]), *cells)
    return table


def _class_graphs(layers: list[Mapping[str, Any]]) -> Table:
    table = _table("layer", "samples", "neighbours", "between classes", "of all")
    for row in layers:
        share = "" if row["ratio"] is None else f"{100 * row['ratio']:.2f} %"
        table.add_row(
            printable(row["layer"]), str(row["samples"]), str(row["neighbours"]), number(row["between"]), share
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for k, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if k == 0 else "right", no_wrap=k == 0, overflow="fold")
    return table


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
