"""What `lipcert jacobian` found: one table per set of points, one per class, one of the class graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lipcert.report.report import Report
from lipcert.report.tables import Item, Piece, Sentence, Table, known

WORDS = {
    "spectral": "spectral norm",
    "frobenius": "Frobenius norm",
    "l1": "l1 norm",
    "linf": "linf norm",
    "smallest": "smallest singular value",
}
SHOWN = {"0.05": "5 %", "0.5": "median", "0.95": "95 %"}
PLACES = {"data": "at the data", "around": "around the data", "between": "between the data", "box": "in the box"}
SHOWN_ENTRIES = 20
COUNT = 4  # significant digits of what is measured


def section(report: Report) -> Iterator[Piece]:
    if "jacobian" not in report.summary:
        return
    found = report.summary["jacobian"]
    outputs, inputs = found["size"][1], found["size"][0]
    for group in found["sets"]:
        place = PLACES[group["set"]] + (f" (noise {found['around']:g})" if group["set"] == "around" else "")
        of = f"{group['measured']} of {group['points']}" if group["measured"] < group["points"] else group["points"]
        least = ", norms are at least these" if "lower" in found["quantities"].values() else ""
        yield from _title(f"Jacobians {outputs} x {inputs} {place}, {of} points{least}")
        yield _statistics(group, found["quantities"])
        if group.get("classes"):
            yield from _title(f"per class, {place}: means, and the largest spectral norm")
            yield _classes(group["classes"], found["quantities"])
    if found.get("proved"):
        yield from _proved(found["proved"])
    if report.summary.get("laplacian"):
        yield from _title("class graph of each layer: weight of the edges between classes, of nearest neighbours")
        yield _class_graphs(report.summary["laplacian"])


def _title(words: str) -> Iterator[Piece]:
    yield Sentence.of("")
    yield Sentence.of(words, "strong")


def _statistics(group: Mapping[str, Any], quantities: Mapping[str, str | None]) -> Table:
    rows = []
    for name, word in WORDS.items():
        row = group["statistics"][name]
        if quantities[name] is not None:
            values = [row["mean"], *(row["quantiles"].get(q) for q in SHOWN), row["max"]]
            worst = Item("" if row["worst"] is None else f"#{row['worst']}")
            rows.append([Item(word), *(known(value, count=COUNT) for value in values), worst])
    return Table(("", ">mean", *(f">{q}" for q in SHOWN.values()), ">max", ">worst"), rows)


def _classes(classes: Sequence[Mapping[str, Any]], quantities: Mapping[str, str | None]) -> Table:
    names = [name for name in WORDS if quantities[name] is not None]
    rows = []
    for row in classes:
        first = row[names[0]]
        values = [*(row[name]["mean"] for name in names), row["spectral"]["max"]]
        count = Item(str(first["count"] + first["missing"]))
        rows.append([Item(str(row["label"])), count, *(known(value, count=COUNT) for value in values)])
    return Table(("class", ">points", *(f">{name}" for name in names), ">max spectral"), rows)


def _class_graphs(layers: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in layers:
        share = "" if row["ratio"] is None else f"{100 * row['ratio']:.2f} %"
        counts = Item(str(row["samples"])), Item(str(row["neighbours"]))
        rows.append((Item(row["layer"]), *counts, known(row["between"], count=COUNT), Item(share)))
    return Table(("layer", ">samples", ">neighbours", ">between classes", ">of all"), rows)


def _proved(found: Mapping[str, Any]) -> Iterator[Piece]:
    """The two numbers of the box, and each entry of a Jacobian that is not too large to be shown."""
    yield from _title(f"proved on all of the box, by {found['method']} ({found['cells']} cells), l2")
    rows = [
        [Item(word), known(found[name]["lower"]), known(found[name]["upper"])]
        for name, word in (("smallest", "smallest singular value"), ("bilipschitz", "K: |f(x) - f(y)| >= K |x - y|"))
    ]
    yield Table(("", ">at least", ">at most"), rows)
    entries = [(i, j) for i in range(len(found["lower"])) for j in range(len(found["inputs"]))]
    rows = [
        [
            Item(f"d output {i} / d input {found['inputs'][j]}"),
            *(known(found[side][i][j]) for side in ("lower", "upper")),
            Item(found["monotone"][i][j]),
        ]
        for i, j in entries[:SHOWN_ENTRIES]
    ]
    yield Table(("", ">at least", ">at most", "output in this input"), rows)
    if len(entries) > SHOWN_ENTRIES:
        yield Sentence.of(f"and {len(entries) - SHOWN_ENTRIES} more entries, in the report", "dim")
