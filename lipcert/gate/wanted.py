"""What a gate's rule asks for: a question in part. Unsaid, it means the whole space, the vector output, and the model's
own units; a report that answers something else is not about the rule, and the first field that differs is named."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm, Output
from lipcert.terms.question import Question, Record, effective, frozen, output_words, region_words, thawed

ANY = "any"
KINDS = ("global", "box", "ball", "balls")


@dataclass(frozen=True)
class Wanted:
    """`norm`, `input` None, `region`, `output`, `units` "any": whatever the report has. `region`: a kind, or the whole
    object of a report. `units`: "model", "raw" (some), or (mean, std). `weights`: "none", or "any" norm's. `valid`: inputs that
    a report has to be about, None: all."""

    norm: Norm | None
    region: str | Record
    output: str
    units: str | tuple[tuple[float, ...] | None, tuple[float, ...] | None]
    input: str | None
    execution: str | None = None  # None: whatever; what holds as executed holds in real arithmetic too
    weights: str = "none"
    fixed: str | Record | None = None  # of inputs that are held: "any", or what each of them is held at
    valid: str | tuple[float, float] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], of_values: bool = True) -> Wanted:
        """From the fields of a rule. `of_values`: the rule is about a constant or a radius; others are about any report
        unless they say more. UsageError for fields that make no sense."""
        norm = None if "norm" not in options else Norm.parse(options["norm"])
        return cls(
            norm,
            read_region(options.get("region", "global" if of_values else ANY)),
            _output(options.get("output", "" if of_values else ANY)),
            read_units(options.get("units", "model" if of_values else ANY)),
            options.get("input"),
            execution=_execution(options.get("execution")),
            weights=_weights(options.get("weights", "none" if of_values else ANY)),
            fixed=_fixed(options.get("fixed", None if of_values else ANY)),
            valid=_valid(options.get("valid", None if of_values else ANY)),
        )

    def miss(self, question: Question) -> str | None:
        """The first field in which the question is not the one asked for, in words; None: it is."""
        has, region = question.scope(), thawed(question.region)
        if self.norm not in (None, question.norm):
            return f"its norm is {has['norm']}"
        if question.weighted and self.weights != ANY:
            return f"its norm is {has['norm']}"
        if not self._over(region):
            return f"it is over {has['region']}" + ("" if region["kind"] != "box" else ", not the one asked for")
        if question.output not in self._outputs(question.task):
            return f"its output is {output_words(question.output)}"
        mine = effective(question.mean, 0.0), effective(question.std, 1.0)
        raw = mine != (None, None)
        if (self.units == "model" and raw) or (self.units == "raw" and not raw) or self.units not in (*UNITS, mine):
            return f"it is in {question.units()}"
        if self.input not in (None, question.input_name):
            return f"its input is {question.input_name}"
        if self.execution not in (None, question.execution):
            return f"it is of {has.get('execution', 'real arithmetic')}"
        if not self._counts(question.valid):
            return f"it is about {has['valid']} (a rule about those says `valid`)"
        return self._held(question.fixed)

    def _counts(self, about: tuple[float, float] | None) -> bool:
        """What holds for more inputs holds for those that the rule is about."""
        if self.valid == ANY or about is None:
            return True
        return isinstance(self.valid, tuple) and about[0] <= self.valid[0] and self.valid[1] <= about[1]

    def _held(self, fixed: Record) -> str | None:
        """The first input that is held otherwise than the rule says; a rule that says nothing means none, and one that
        names the input that moves leaves it to the report."""
        if self.fixed == ANY or (self.fixed is None and self.input is not None):
            return None
        wanted = dict(self.fixed) if isinstance(self.fixed, Record) else {}
        for name, said in fixed:
            if name not in wanted:
                return f"it holds the input {name} at {said} (a rule about that says `fixed`, or names its `input`)"
            if not held_at(said, wanted[name]):
                return f"it holds the input {name} at {said}, not at {thawed(wanted[name])}"
        return next((f"it does not hold the input {name}" for name in wanted if name not in dict(fixed)), None)

    def _over(self, region: Mapping[str, Any]) -> bool:
        if isinstance(self.region, str):
            return self.region in (ANY, region.get("kind"))
        wanted = thawed(self.region)
        if wanted.get("kind") == "box" and region.get("kind") == "box":
            sides = [(wanted[side], region.get(side) or []) for side in ("lower", "upper")]
            return all(mine * (len(theirs) if len(mine) == 1 else 1) == theirs for mine, theirs in sides)
        return wanted == dict(region)

    def _outputs(self, task: str) -> Any:
        """Radii are about the class, whatever the functionals behind it: they have no output unless the rule says so."""
        if self.output == ANY or (not self.output and task == "radius"):
            return _Everything()
        return (self.output or "vector",)

    def __str__(self) -> str:
        region = self.region if isinstance(self.region, str) else region_words(thawed(self.region))
        words = [] if self.norm is None else [f"l{self.norm.input} -> l{self.norm.output}"]
        words += [] if region == ANY else [f"over {'the whole input space' if region == 'global' else region}"]
        words += [] if self.output == ANY else [f"output {self.output or 'vector'}"]
        words += ["weighted or not"] if self.weights == ANY and region != ANY else []
        words += [] if self.units == ANY else [f"in {units_words(self.units)}"]
        words += [f"with {', '.join(name for name, _ in self.fixed)} held"] if isinstance(self.fixed, Record) else []
        words += [f"of inputs with entries in {list(self.valid)}"] if isinstance(self.valid, tuple) else []
        words += [] if self.execution is None else [f"executed in {self.execution}"]
        return ", ".join(words + ([] if self.input is None else [f"input {self.input}"]))


UNITS = ("model", "raw", ANY)


def units_words(units: str | tuple[tuple[float, ...] | None, tuple[float, ...] | None]) -> str:
    if isinstance(units, str):
        return "raw units" if units == "raw" else "the model's own units"
    sides = zip(("mean", "std"), units, strict=True)
    said = [f"{name} {', '.join(map(repr, side))}" for name, side in sides if side is not None]
    return f"raw units, {' and '.join(said)}" if said else "the model's own units"


class _Everything:
    def __contains__(self, item: object) -> bool:
        return True


def read_region(value: Any) -> str | Record:
    """ "global", "any", "box", "ball", "balls", "box LO:HI[,LO:HI...]", or the object that reports have."""
    if isinstance(value, Mapping):
        if value.get("kind") not in KINDS or not _plain(value):
            raise UsageError(f"region = {value!r}: write it as reports do, with the kind {', '.join(KINDS)}")
        return frozen(value)
    if value in (ANY, *KINDS):
        return str(value)
    ends = re.fullmatch(r"box\s+(\S+)", value) if isinstance(value, str) else None
    try:
        pairs = [tuple(float(end) for end in part.split(":")) for part in ends[1].split(",")] if ends else []
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 or not -math.inf < pair[0] <= pair[1] < math.inf for pair in pairs):
        raise UsageError(f"region = {value!r}: write global, any, box, ball, balls, or such as 'box -1:1,0:2'")
    lower, upper = zip(*pairs, strict=True)
    return frozen({"kind": "box", "lower": lower, "upper": upper})


def _plain(value: Mapping[str, Any]) -> bool:
    """Boxes with their ends; nothing that JSON does not hold."""
    try:
        frozen(value)
    except ValueError:
        return False
    return value["kind"] != "box" or all(isinstance(value.get(side), list) for side in ("lower", "upper"))


def read_units(value: Any) -> str | tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """ "model", "raw", "any", or {mean, std} with numbers or lists of them."""
    if isinstance(value, Mapping) and value and set(value) <= {"mean", "std"}:
        sides = [value.get(name) for name in ("mean", "std")]
        lists = [side if isinstance(side, list) or side is None else [side] for side in sides]
        if all(side is None or all(_number(v) for v in side) for side in lists):
            return effective(lists[0], 0.0), effective(lists[1], 1.0)
    elif value in UNITS:
        return str(value)
    raise UsageError(f"units = {value!r}: write model, raw, any, or a table such as {{mean = [0.5], std = [0.25]}}")


def held_at(said: str, wanted: Any) -> bool:
    """`said`: what an input is held at, as a question has it. `wanted`: a number, numbers (rounded to the type of the input,
    as the values were), or the sha256 of the values."""
    if isinstance(wanted, str):
        return len(wanted) >= 12 and f"sha256 {wanted}" in said
    numbers = wanted if isinstance(wanted, tuple) else (wanted,)
    values, _, about = said.rpartition(" (")
    kind = AS_HELD.get(re.split("[ ,]", about)[0], int)
    try:
        made = [kind(n) for n in numbers]
    except (OverflowError, ValueError):
        return False
    exact = kind not in (int, bool) or made == list(numbers)
    return exact and values.removesuffix(" everywhere") == ", ".join(map(repr, made))


def _rounded(code: str) -> Callable[[float], float]:
    """To the nearest number of this type of `struct`."""
    return lambda value: float(struct.unpack(code, struct.pack(code, value))[0])


# What becomes of a number in an input of this type; every other type holds whole numbers.
AS_HELD: dict[str, Callable[[Any], Any]] = {
    "float64": float,
    "float32": _rounded("f"),
    "float16": _rounded("e"),
    "bfloat16": float,
    "bool": bool,
}


def _fixed(value: Any) -> str | Record | None:
    if value in (None, ANY):
        return value
    if isinstance(value, Mapping) and value and _plain_numbers(value):
        return frozen(value)
    raise UsageError(f'fixed = {value!r}: write any, or such as {{sr = 16000, h = [0.5, 1.0], state = "sha256 of it"}}')


def _plain_numbers(value: Mapping[str, Any]) -> bool:
    return all(
        isinstance(one, str | bool) or _number(one) or (isinstance(one, list) and all(map(_number, one)))
        for one in value.values()
    )


def _valid(value: Any) -> str | tuple[float, float] | None:
    if value in (None, ANY):
        return value
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    with suppress(OverflowError):
        if numbers and len(value) == 2 and value[0] <= value[1]:
            return float(value[0]), float(value[1])
    raise UsageError(f"valid = {value!r:.200}: write any, or a range such as [0, 1]")


def _weights(value: Any) -> str:
    if value not in ("none", ANY):
        raise UsageError(f"weights = {value!r}: write none or any")
    return str(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _output(value: Any) -> str:
    return value if value in ("", ANY) else str(Output.parse(value))


EXECUTIONS = ("float32", "bfloat16", "float16")


def _execution(value: Any) -> str | None:
    if value not in (None, *EXECUTIONS):
        raise UsageError(f"execution = {value!r}: write {', '.join(EXECUTIONS)}")
    return value
