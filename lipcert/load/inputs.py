"""Which of a model's inputs move, what the others are held at, and what to ask for where that is not said.

Several inputs that move are one vector: x is their entries one after another, in the order of `--input-name A,B`. An
input that is held is a constant of the network: part of the question, in the report, and never invented.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lipcert.terms.errors import UsageError, printable
from lipcert.terms.question import held_words

FLOATS = ("float64", "float32", "float16", "bfloat16")
HOLDABLE = (*FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool")
NO_TENSORS = ("sequence", "map", "optional", "None")  # of ONNX
LARGEST = 2**28  # entries of an input
SIZES = (64, 128, 256, 512, 32, 16, 8, 4, 2, 1)  # tried for an open size, in this order
LONGEST_SAID = 300  # characters of what a file says of itself
SURROGATE = "the model is a surrogate, of which alone anything is proved"
ALONE = ""  # in `InputChoice.shapes`: of the one input that moves


@dataclass(frozen=True)
class Declared:
    """An input as the model declares it. `dims`: a text where a size is open, None where nothing is said. `dtype`: as
    torch calls it, or the format's word for what is no tensor of numbers. `likely`: values the model compares it with.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...] | None
    likely: tuple[int, ...] = ()
    optional: bool = False  # the model has a value of its own for it
    state: bool = False  # kept in the model from call to call, and changed by each

    def is_called(self, text: str) -> bool:
        return text in (self.name, printable(self.name), self.name.encode("unicode_escape").decode())

    @property
    def sizes(self) -> str:
        return "[?]" if self.dims is None else f"[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True)
class InputChoice:
    """What was said. `names`: as typed, A or A,B. `shapes`: whole ones, by name; under `ALONE` of what moves alone."""

    names: str | None = None
    output: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls, input_shape: Any, input_name: Any, output_name: str | None, fix: Mapping[str, Any] | None
    ) -> InputChoice:
        """`input_shape`: a shape, or shapes by name. `input_name`: A, "A,B" or a list."""
        if input_shape is None:
            shapes: dict[str, tuple[int, ...]] = {}
        elif isinstance(input_shape, Mapping):
            shapes = {str(name): tuple(int(n) for n in shape) for name, shape in input_shape.items()}
        else:
            shapes = {ALONE: tuple(int(n) for n in input_shape)}
        names = input_name if input_name is None or isinstance(input_name, str) else ",".join(input_name)
        return cls(names, output_name, shapes, {name: as_value(name, value) for name, value in (fix or {}).items()})

    def moving(self, declared: Sequence[Declared]) -> tuple[str, ...] | None:
        if self.names is None:
            return None
        exact = [one.name for one in declared if one.is_called(self.names)]
        if len(exact) == 1:
            return (exact[0],)
        parts = self.names.split(",")
        found = [[one.name for one in declared if one.is_called(part)] for part in parts]
        wrong = next((part for part, names in zip(parts, found, strict=True) if len(names) != 1), None)
        if wrong is not None:
            raise UsageError(f"--input-name {printable(wrong)}: {listed(declared)}")
        names = tuple(names[0] for names in found)
        if len(set(names)) != len(names):
            raise UsageError(f"--input-name {printable(self.names)}: an input is named twice")
        return names


NOTHING = InputChoice()


def shaped(shape: Sequence[int]) -> InputChoice:
    """The one input in this shape."""
    return InputChoice(shapes={ALONE: tuple(shape)})


@dataclass(frozen=True)
class Part:
    """An input that moves: its entries are `size` of x, in their order."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Chosen:
    """`parts`: what x consists of, in order. `held`: the others by name, in the dtype in which the model takes them."""

    parts: tuple[Part, ...]
    held: Mapping[str, torch.Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape if len(self.parts) == 1 else (sum(part.size for part in self.parts),)

    @property
    def name(self) -> str:
        return ",".join(printable(part.name) for part in self.parts)

    def split(self, x: Any) -> dict[str, Any]:
        """x, a tensor or an array of `shape`, as the inputs that it consists of."""
        if len(self.parts) == 1:
            return {self.parts[0].name: x.reshape(self.parts[0].shape)}
        found, start = {}, 0
        for part in self.parts:
            found[part.name] = x[start : start + part.size].reshape(part.shape)
            start += part.size
        return found

    def described(self) -> dict[str, Any]:
        """The fields of a report's "model" that say more than `input_name` does; none for one input and no others."""
        said: dict[str, Any] = {}
        if len(self.parts) > 1:
            said["parts"] = [{"name": printable(part.name), "shape": list(part.shape)} for part in self.parts]
        if self.held:
            said["fixed"] = {printable(name): fixed_words(value) for name, value in self.held.items()}
        return said


def said_of(inputs: Mapping[str, Any]) -> list[str]:
    """What `Chosen.described` holds in words, for the assumptions of a report."""
    parts = [f"{one['name']} ({'x'.join(map(str, one['shape'])) or 'scalar'})" for one in inputs.get("parts", ())]
    lines = [f"{SURROGATE}: {inputs['surrogate']}"] if inputs.get("surrogate") else []
    lines += [f"the input x is {', '.join(parts)}: their entries one after another"] if parts else []
    return lines + [f"the input {name} is held at {held_words(one)}" for name, one in inputs.get("fixed", {}).items()]


def described(said: Any) -> dict[str, Any]:
    """What `Chosen.described` gave, read again from data that may be anything. ValueError for what is not as it writes."""
    if not isinstance(said, dict) or not {*said} <= {"parts", "fixed", "surrogate"}:
        raise ValueError("inputs")
    parts = [
        {"name": printable(str(one["name"])), "shape": [int(n) for n in one["shape"]]} for one in said.get("parts", [])
    ]
    fixed = {}
    for name, one in said.get("fixed", {}).items():
        values = [v for v in one.get("values", []) if isinstance(v, bool | int | float) and math.isfinite(v)]
        whole = {
            "dtype": printable(str(one["dtype"])),
            "shape": [int(n) for n in one["shape"]],
            "sha256": printable(str(one["sha256"])),
        }
        fixed[printable(str(name))] = whole | ({"values": values} if "values" in one else {})
    other = printable(str(said.get("surrogate", "")))[:LONGEST_SAID]
    found = ("parts", parts), ("fixed", fixed), ("surrogate", other)
    return {key: value for key, value in found if value}


def fixed_words(value: torch.Tensor) -> dict[str, Any]:
    """{"dtype", "shape", "sha256"} of an input that is held, and its "values" as far as they are few or all the same."""
    from lipcert.load.data import fingerprint

    numbers = value.double().numpy() if value.is_floating_point() else value.numpy()
    flat = numbers.reshape(-1)
    same = flat.size > 1 and bool((flat == flat[0]).all()) and len(set(np.signbit(flat))) == 1
    few = flat[:1] if same else flat
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "sha256": fingerprint(numbers),
        **({"values": [v.item() for v in few]} if few.size <= 16 else {}),
    }


def as_value(name: str, value: Any) -> np.ndarray:
    """Of a number, list, array or tensor. UsageError for what holds no finite numbers."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    try:
        found = np.asarray(value)
    except ValueError as problem:
        raise UsageError(f"--fix {printable(name)}: not an array: {problem}") from problem
    if found.dtype.kind not in "fiub" or not np.isfinite(found).all():
        raise UsageError(f"--fix {printable(name)}: finite numbers are needed")
    return found


def listed(declared: Sequence[Declared]) -> str:
    return f"the inputs of this model are: {', '.join(printable(one.name) for one in declared) or 'none'}"
