"""The whole question that an answer belongs to: a frozen value that hashes, prints itself in words, and compares whole.

Reports carry it. Whatever reuses a result (resumed runs, baselines, gates, certificates) compares all of it, and names
the first field that differs. It holds everything that a stored value depends on: not resources (device, threads, budget),
and nothing that only chooses what is shown of the values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lipcert.terms.query import NORMS, Norm

LONG = 60  # characters of a value in a message


class Record(tuple[tuple[str, Any], ...]):
    """A JSON object, frozen: its items in the order of their names."""

    __slots__ = ()


def frozen(value: Any) -> Any:
    """JSON data as a value that hashes. ValueError for what JSON does not hold."""
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("a name is no text")
        return Record((name, frozen(value[name])) for name in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{value!r} is no JSON value")


def thawed(value: Any) -> Any:
    if isinstance(value, Record):
        return {name: thawed(item) for name, item in value}
    return [thawed(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Difference:
    """The first field in which two questions differ, and what each of them has there."""

    field: str
    mine: Any
    other: Any

    def __str__(self) -> str:
        return f"its {LABELS.get(self.field, self.field)} is {short(self.other)}, here it is {short(self.mine)}"


@dataclass(frozen=True)
class Question:
    """`task`: bound, layers, inspect, grid, balls, jacobian, radius. `file`: sha256 of the model file. `graph`: sha256 of
    the network as lowered, units included. `fixed`: what inputs are held at, by name, each in
    words with its digest. `mean`, `std`: the units,
    None for the model's own. `region`: the report's object. `options`: seeds, tolerances, digests of data, radii, planes
    and the like, as far as the task's values depend on them. Fields are compared in this order.
    """

    task: str
    file: str | None
    input_name: str | None
    input_shape: tuple[int, ...]
    fixed: Record
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    output_name: str | None
    graph: str
    norm: Norm
    region: Record
    output: str
    options: Record

    @classmethod
    def of(
        cls,
        task: str,
        model: Mapping[str, Any],
        graph: str,
        norm: Norm,
        region: Mapping[str, Any],
        output: str,
        options: Mapping[str, Any],
    ) -> Question:
        """`model`: the "model" object of a report. `options`: JSON data."""
        units = model.get("units") or {}
        return cls(
            task,
            model.get("sha256"),
            model.get("input_name"),
            tuple(model.get("input_shape") or ()),
            frozen(_held(model)),
            _numbers(units.get("mean")),
            _numbers(units.get("std")),
            model.get("output_name"),
            graph,
            norm,
            frozen(region),
            output,
            frozen(options),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON data; `from_dict` is the inverse."""
        found = {field.name: thawed(getattr(self, field.name)) for field in fields(self)}
        return found | {"norm": {"input": self.norm.input, "output": self.norm.output}}

    @classmethod
    def from_dict(cls, data: Any) -> Question:
        """ValueError that names the field for whatever `to_dict` does not write."""
        if not isinstance(data, Mapping):
            raise ValueError("it is no JSON object")
        for name in dict.fromkeys([*READERS, *data]):
            if name not in READERS or name not in data:
                raise ValueError(f"the field {name!r} is {'missing' if name in READERS else 'unknown'}")
        found = {}
        for name, reads in READERS.items():
            try:
                found[name] = reads(data[name])
            except (ValueError, TypeError, KeyError) as problem:
                raise ValueError(f"its field {name!r} is not as this version writes it") from problem
        return cls(**found)

    def first_difference(self, other: Question) -> Difference | None:
        """None: the same question, in every field."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine == theirs:
                continue
            if field.name == "options":
                mine, theirs = dict(mine), dict(theirs)
                name = next(k for k in [*mine, *theirs] if k not in mine or k not in theirs or mine[k] != theirs[k])
                return Difference(name, thawed(mine.get(name)), thawed(theirs.get(name)))
            return Difference(field.name, _shown(mine), _shown(theirs))
        return None

    def of_any_model(self) -> Question:
        """The same question about whatever network: what a baseline of another checkpoint is asked."""
        return replace(self, file=None, graph="")

    @property
    def raw(self) -> bool:
        """Whether the input is in other units than the model's own."""
        return (effective(self.mean, 0.0), effective(self.std, 1.0)) != (None, None)

    @property
    def execution(self) -> str | None:
        """The format of an execution that the answer covers beside real arithmetic."""
        found = dict(self.options).get("execution")
        return found if isinstance(found, str) else None

    @property
    def valid(self) -> tuple[float, float] | None:
        """The range of entries of the inputs that count; None: all do. What cannot be read is (nan, nan), in which nothing lies."""
        found = dict(self.options).get("valid")
        try:
            low, high = map(float, found if isinstance(found, tuple) else ())
        except (TypeError, ValueError, OverflowError):
            low = high = math.nan
        return None if found is None else (low, high)

    def scope(self) -> dict[str, str]:
        """Field by field in words: what the numbers are about, in the order in which people ask."""
        return {
            "file": f"sha256 {self.file[:12]}" if self.file else "no file",
            "input_name": f"{self.input_name}, shape {'x'.join(map(str, self.input_shape)) or 'scalar'}"
            + "".join(f", {name} held at {_short_digest(said)}" for name, said in self.fixed),
            "units": self.units(),
            "output_name": f"{self.output_name}, {output_words(self.output)}",
            "norm": f"l{self.norm.input} -> l{self.norm.output}{self.weighted}",
            "region": region_words(thawed(self.region)),
            **({} if self.valid is None else {"valid": "only inputs with entries in [{!r}, {!r}]".format(*self.valid)}),
            **({} if self.execution is None else {"execution": f"real arithmetic, and executed in {self.execution}"}),
        }

    @property
    def weighted(self) -> str:
        """Words behind the norm; empty where it is not weighted."""
        given = thawed(dict(self.options).get("weights"))
        if not isinstance(given, Mapping):
            return ""
        sides = [
            f"W_{side} {_weight(given[name])}" for side, name in (("in", "input"), ("out", "output")) if given.get(name)
        ]
        return f", weighted: {', '.join(sides)}"

    def units(self) -> str:
        if not self.raw:
            return "the model's own units"
        mean, std = ("none" if side is None else short(list(side)) for side in (self.mean, self.std))
        return f"raw units: (x - mean) / std goes in, mean {mean}, std {std}"

    def __str__(self) -> str:
        words = self.scope()
        return (
            f"{words['norm']}, over {words['region']}, output {words['output_name']}, input {words['input_name']}, in {words['units']}"
            + "".join(f", {words[name]}" for name in ("valid", "execution") if name in words)
        )

    def at_odds(self, report: Mapping[str, Any]) -> str | None:
        """The field of a report (JSON data of any shape) that says something else than its question; None: all agree."""
        model = report.get("model")
        units = (model.get("units") if isinstance(model, Mapping) else None) or {}
        scope = report.get("scope")
        said = {
            "command": (COMMANDS.get(self.task, self.task), report.get("command")),
            "model.sha256": (self.file, _part(model, "sha256")),
            "model.input_name": (self.input_name, _part(model, "input_name")),
            "model.output_name": (self.output_name, _part(model, "output_name")),
            "model.units.mean": (thawed(self.mean), _part(units, "mean")),
            "model.fixed": (thawed(self.fixed), _held(model)),
            "model.weights": (thawed(dict(self.options).get("weights")), _part(model, "weights")),
            "model.units.std": (thawed(self.std), _part(units, "std")),
            "norm": ({"input": self.norm.input, "output": self.norm.output}, report.get("norm")),
            "scope.region": (thawed(self.region), _part(scope, "region")),
            "scope.output": (self.output, _part(scope, "output")),
        }
        return next((place for place, (mine, theirs) in said.items() if mine != theirs), None)


def _held(model: Any) -> dict[str, str]:
    said = _part(model, "fixed")
    return {name: held_words(one) for name, one in said.items()} if isinstance(said, Mapping) else {}


def held_words(said: Any) -> str:
    """What an input is held at, of a report's `model.fixed`: "0.0 everywhere (float32 2x1x128, sha256 ..)"."""
    sizes, values = _part(said, "shape"), _part(said, "values")
    sizes = sizes if isinstance(sizes, list | tuple) else []
    shape, values = "x".join(map(str, sizes)), values if isinstance(values, list | tuple) else []
    kind = f"{_part(said, 'dtype')}{f' {shape}' if shape else ''}, sha256 {_part(said, 'sha256')}"
    if not values:
        return f"given values ({kind})"
    many = len(values) == 1 and sizes and math.prod(sizes) > 1
    return f"{', '.join(map(repr, values))}{' everywhere' if many else ''} ({kind})"


def _short_digest(said: Any) -> str:
    return re.sub(r"(sha256 [0-9a-f]{12})[0-9a-f]+", r"\1", str(said))


def effective(values: Sequence[float] | None, neutral: float) -> tuple[float, ...] | None:
    """Equal values count once, and those that change nothing not at all: --std 1 says "the model's own units"."""
    if values is None or not values:
        return None
    found = tuple(values) if len(set(values)) > 1 else (float(values[0]),)
    return None if found == (neutral,) else found


def _part(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _weight(side: Any) -> str:
    """A diagonal or a matrix of weights, as far as it fits on a line."""
    values = _part(side, "values")
    words = f"{_part(side, 'kind')} {values}" if values else f"{_part(side, 'kind')} of size {_part(side, 'size')}"
    return (
        words
        if len(words) <= LONG
        else f"{_part(side, 'kind')} of size {_part(side, 'size')}, sha256 {str(_part(side, 'sha256'))[:12]}"
    )


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, Norm) else thawed(value)


def short(value: Any) -> str:
    """A value in a message: whole where it is short."""
    text = repr(value)
    return text if len(text) <= LONG else f"{text[: LONG - 10]} ... {text[-5:]}"


def region_words(region: Mapping[str, Any]) -> str:
    """A region of a report in words; boxes of few inputs with their ends."""
    kind = region.get("kind")
    if kind == "box":
        ends = list(dict.fromkeys(zip(region.get("lower") or (), region.get("upper") or (), strict=False)))
        shown = ",".join(f"{low!r}:{high!r}" for low, high in ends)
        return f"the box {shown}" if 0 < len(ends) <= 4 else "a box"
    if kind == "balls":
        return f"l{region['norm']} balls of radius {region['radius']!r} around {region['count']} points"
    if kind == "ball":
        return f"the l{region['norm']} ball of radius {region['radius']!r}"
    return "the whole input space"


def output_words(output: str) -> str:
    if output == "vector":
        return "the whole vector"
    if output == "each":
        return "every entry by itself"
    if output == "pairs":
        return "every difference of two entries"
    return f"the difference of entries {output}" if "-" in output else f"entry {output}"


# Readers of JSON: strict, for a file may hold anything.


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _numbers(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        raise ValueError
    return tuple(float(v) for v in value)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(v) is not int or v < 0 for v in value):
        raise ValueError
    return tuple(value)


def _norm(value: Any) -> Norm:
    if not isinstance(value, Mapping) or set(value) != {"input", "output"} or not {*value.values()} <= {*NORMS}:
        raise ValueError
    return Norm(value["input"], value["output"])


def _record(value: Any) -> Record:
    if not isinstance(value, Mapping):
        raise ValueError
    return frozen(value)


READERS: dict[str, Callable[[Any], Any]] = {
    "task": _text,
    "file": _text_or_none,
    "input_name": _text_or_none,
    "input_shape": _shape,
    "fixed": _record,
    "mean": _numbers,
    "std": _numbers,
    "output_name": _text_or_none,
    "graph": _text,
    "norm": _norm,
    "region": _record,
    "output": _text,
    "options": _record,
}
COMMANDS = {"grid": "local", "balls": "local"}  # tasks whose command has another name
LABELS = {
    "file": "model file (sha256)",
    "graph": "network as read (sha256 of its graph)",
    "mean": "--mean",
    "std": "--std",
    "input_name": "--input-name",
    "output_name": "--output-name",
    "input_shape": "--input-shape",
    "output": "--output",
    "valid": "--valid",
    "execution": "--execution",
}


FLAGS = {  # how the command line says each field
    "input_name": "--input-name, --input-shape",
    "units": "--mean, --std",
    "output_name": "--output-name, --output",
    "norm": "--norm",
    "valid": "--valid",
    "execution": "--execution",
}
