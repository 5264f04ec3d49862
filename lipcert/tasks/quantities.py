"""What a report says, as named quantities, and what it was asked: the two things that a comparison needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from lipcert.report.comparison import Better, Quantity
from lipcert.report.report import Report
from lipcert.terms.errors import UsageError

Data = Mapping[str, Any]
RIGHT = ("certified", "not certified")

# What is asked, field by field: words, path. Effort (methods, budget, rtol, restarts of an attack) is no question:
# it makes brackets wider or narrower, and they hold all the same.
ALWAYS = (
    ("command", "command"),
    ("input shape", "model.input_shape"),
    ("output shape", "model.output_shape"),
    ("input units (mean, std)", "model.units"),
    ("input norm", "norm.input"),
    ("output norm", "norm.output"),
    ("region", "scope.region"),
    ("output", "scope.output"),
)
NAMES = (("input name", "model.input_name"), ("output name", "model.output_name"))
OF_COMMAND: dict[str, tuple[tuple[str, str], ...]] = {
    "radius": tuple((name, f"summary.asked.{name}") for name in ("samples", "data", "tolerance")),
    "jacobian": tuple(
        (name, f"summary.jacobian.{name}") for name in ("from", "to", "data", "samples", "seed", "around")
    ),
    "local": (
        *((f"grid {name}", f"summary.grid.{name}") for name in ("shape", "edges", "plane")),
        *((f"balls {name}", f"summary.local.{name}") for name in ("radii", "norm", "count", "data")),
    ),
}
# In `question`: the model itself may differ, and names are compared above. Of its options, effort is no question.
OF_THE_MODEL = ("file", "graph", "input_name", "output_name", "options")
EFFORT = ("methods", "rtol", "pairs", "jacobians", "seed", "attack", "budget", "multipliers", "solver")


def question(data: Data, *, names: bool = True) -> dict[str, Any]:
    """Every field of the question, in words. `names`: those of the input and the output as well."""
    command = data["command"]
    fields = ALWAYS + (NAMES if names else ()) + OF_COMMAND.get(command, ())
    asked = {words: _at(data, path) for words, path in fields}
    whole = data.get("question")
    if isinstance(whole, Mapping):
        asked |= {f"question {key}": value for key, value in whole.items() if key not in OF_THE_MODEL}
        options = whole.get("options")
        if isinstance(options, Mapping):
            asked |= {f"option {key}": value for key, value in options.items() if key not in EFFORT}
    return asked


def first_difference(before: Data, after: Data, *, names: bool = True) -> tuple[str, Any, Any] | None:
    """The first field in which two questions differ, with both values; None where they are the same."""
    old, new = question(before, names=names), question(after, names=names)
    for field in dict.fromkeys((*old, *new)):
        if old.get(field) != new.get(field):
            return field, old.get(field), new.get(field)
    return None


def _at(data: Data, path: str) -> Any:
    here: Any = data
    for key in path.split("."):
        here = here.get(key) if isinstance(here, Mapping) else None
    return here


def quantities(data: Data) -> list[Quantity]:
    """Everything the report says that has a place in a comparison. UsageError where that is nothing."""
    command = data["command"]
    if command not in QUANTITIES:
        raise UsageError(f"compare: reports of {', '.join(QUANTITIES)} can be compared, not of {command}")
    return [_sound(quantity) for quantity in QUANTITIES[command](data)]


def _sound(quantity: Quantity) -> Quantity:
    """ValueError where a report says something else than a name and numbers."""
    names, ends = (quantity.group, quantity.name), (quantity.lower, quantity.upper)
    if not all(isinstance(name, str) for name in names) or not isinstance(quantity.word, str | None):
        raise ValueError(f"{str(names)[:80]} is no name")
    for end in ends:
        if end is not None and (isinstance(end, bool) or not isinstance(end, int | float)):
            raise ValueError(f"{quantity.group} {quantity.name}: {str(end)[:80]} is no number")
    return quantity


def _constant(data: Data) -> Iterator[Quantity]:
    report = Report.from_dict(data)
    if report.status is None:
        return
    upper, lower = report.upper, report.lower
    word = None if report.status == "bounded" else report.status
    if report.status == "unbounded":
        lower = upper = math.inf
    yield Quantity("constant", "L", lower, upper, "smaller", word=word)


def _bound(data: Data) -> Iterator[Quantity]:
    yield from _constant(data)
    for row in data["summary"].get("pairs") or ():
        yield Quantity("pairs", row["pair"], row["lower"], row["upper"], "smaller")
    for row in data["summary"].get("outputs") or ():
        yield Quantity("outputs", row["output"], row["lower"], row["upper"], "smaller")
    for row in data["results"]:
        known = row["status"] == "ok" and row["side"] in ("upper", "lower")
        ends = {row["side"]: row["value"]} if known else {}
        word = None if known else row["status"]
        yield Quantity("methods", row["method"], ends.get("lower"), ends.get("upper"), None, word=word)


def _layers(data: Data) -> Iterator[Quantity]:
    seen: dict[str, int] = {}
    for row in data["layers"]:
        count = seen[row["name"]] = seen.get(row["name"], 0) + 1
        name = row["name"] if count == 1 else f"{row['name']} ({count})"
        unbounded = row["status"] == "unbounded"
        lower, upper = (math.inf, math.inf) if unbounded else (row["lower"], row["upper"])
        yield Quantity(
            "layers", name, lower, upper, "smaller", word=None if row["status"] == "bounded" else row["status"]
        )


def _local(data: Data) -> Iterator[Quantity]:
    yield from _constant(data)
    for row in data["points"]:
        yield Quantity("balls", f"#{row['index']} eps {row['eps']!r}", row["lower"], row["upper"], "smaller")
    grid = data["summary"].get("grid")
    if grid:
        for place, (low, high) in enumerate(zip(grid["lower"], grid["upper"], strict=True)):
            yield Quantity("cells", _cell(place, grid["shape"]), low, high, "smaller")


def _cell(place: int, shape: list[int]) -> str:
    """The cell's coordinates; the last axis is the fastest."""
    places = []
    for size in reversed(shape):
        place, rest = divmod(place, size)
        places.append(rest)
    return f"cell {','.join(map(str, reversed(places)))}"


STATISTICS = ("mean", "max")


def _jacobian(data: Data) -> Iterator[Quantity]:
    found = data["summary"]["jacobian"]
    for group in found["sets"]:
        for name, row in group["statistics"].items():
            kind = found["quantities"].get(name)
            if kind is None:
                continue
            better: Better = "larger" if name == "smallest" else "smaller"
            values = {word: row[word] for word in STATISTICS} | {"median": row["quantiles"].get("0.5")}
            for word, value in values.items():
                # "lower": power iteration finds no more than the norm, so that two of them tell of no direction
                direction = None if kind == "lower" else better
                yield Quantity(f"Jacobians, {group['set']}", f"{word} {name}", value, value, direction, True)
    for row in data["summary"].get("laplacian") or ():
        yield Quantity("class graph", f"{row['layer']} between classes", row["ratio"], row["ratio"], "smaller", True)


def _radius(data: Data) -> Iterator[Quantity]:
    points, summary = data["points"], data["summary"]
    if summary.get("accuracy") is not None:
        yield Quantity("accuracy", "accuracy", summary["accuracy"], summary["accuracy"], "larger", True)
    for row in summary["certified"]:
        sure = row["certified_accuracy"]
        most = row["attacked_accuracy"] if row["attacked_accuracy"] is not None else summary.get("accuracy")
        yield Quantity("accuracy", f"robust at eps {row['eps']!r}", sure, most, "larger")
    if points:
        most_each = [_furthest(row) for row in points]
        for word, of in (("mean", _mean), ("median", median)):
            sure, most = of([row["radius"] for row in points]), of(most_each)
            yield Quantity("radius", f"{word} radius", sure, most if math.isfinite(most) else None, "larger")
        for row, far in zip(points, most_each, strict=True):
            yield Quantity("samples", f"#{row['index']}", row["radius"], far if math.isfinite(far) else None, "larger")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _furthest(row: Data) -> float:
    """The true radius is not larger: an attack at this distance, or a class that is wrong already."""
    if row["status"] not in RIGHT:
        return 0.0
    return math.inf if row["attacked"] is None else float(row["attacked"])


QUANTITIES: dict[str, Callable[[Data], Iterator[Quantity]]] = {
    "bound": _bound,
    "layers": _layers,
    "local": _local,
    "jacobian": _jacobian,
    "radius": _radius,
}
