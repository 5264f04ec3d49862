"""The inputs of a `.pt2` program, as its JSON describes them: tensors with ranges of sizes, numbers that it was exported with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lipcert.load.call.arguments import Arguments, InputSlot
from lipcert.load.inputs import ALONE, Chosen, Declared, InputChoice
from lipcert.terms.errors import UnreadableError, UsageError, printable


@dataclass(frozen=True)
class TensorInput:
    """A tensor that the program takes. `sizes`: None where dynamic, `lower` to `upper` (None: any) then."""

    name: str
    sizes: tuple[int | None, ...]
    lower: tuple[int, ...]
    upper: tuple[int | None, ...]
    dtype: torch.dtype

    def shape(self, path: Path, wanted: tuple[int, ...] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """As said, else the lowest admitted one, with a note."""
        if wanted is None:
            free = [axis for axis, size in enumerate(self.sizes) if size is None]
            said = f"dynamic axes {free} of the input taken at their lowest size: {self.lower}"
            return self.lower, (said,) if free else ()
        admitted = ", ".join(
            str(size) if size is not None else f"{low}..{'' if high is None else high}"
            for size, low, high in zip(self.sizes, self.lower, self.upper, strict=True)
        )
        fits = len(wanted) == len(self.sizes) and all(
            low <= size and (high is None or size <= high)
            for size, low, high in zip(wanted, self.lower, self.upper, strict=True)
        )
        if not fits:
            raise UsageError(f"{path}: --input-shape {','.join(map(str, wanted))}: the program admits ({admitted})")
        return tuple(wanted), ()


@dataclass(frozen=True)
class NumberInput:
    """What is no tensor: the program holds for this value alone."""

    name: str
    value: Any

    @property
    def declared(self) -> Declared | None:
        kinds = {bool: "bool", int: "int64", float: "float64"}
        kind = kinds.get(type(self.value))
        return None if kind is None else Declared(self.name, kind, (), optional=True)


def entries(path: Path, model: Mapping[str, Any], dtypes: Any) -> list[TensorInput | NumberInput]:
    """In the order in which a call is flattened. `dtypes`: number of a dtype in the file -> dtype."""
    found: list[TensorInput | NumberInput] = []
    for spec in model["graph_module"]["signature"]["input_specs"]:
        if "user_input" in spec:
            ((kind, value),) = spec["user_input"]["arg"].items()
            if kind == "as_tensor":
                found.append(_entry(path, model, value["name"], dtypes))
            elif kind == "as_none":
                found.append(NumberInput("", None))
            else:
                raise UsageError(f"{path}: the program takes an input that is no tensor ({kind}): wrap the model")
        elif "constant_input" in spec:
            ((_, value),) = spec["constant_input"]["value"].items()
            found.append(NumberInput(spec["constant_input"]["name"], value))
    return found


def _entry(path: Path, model: Mapping[str, Any], name: str, dtypes: Any) -> TensorInput:
    meta = model["graph_module"]["graph"]["tensor_values"].get(name)
    if meta is None:
        raise UnreadableError(f"{path}: models/model.json does not describe its input {name}")
    ranges = model.get("range_constraints", {})
    sizes: list[int | None] = []
    lower: list[int] = []
    upper: list[int | None] = []
    for size in meta["sizes"]:
        if "as_int" in size:
            sizes.append(size["as_int"])
            lower.append(size["as_int"])
            upper.append(size["as_int"])
            continue
        symbol = re.fullmatch(r"Symbol\('(\w+)'.*\)|(\w+)", size["as_expr"]["expr_str"])
        limits = ranges.get((symbol[1] or symbol[2]) if symbol else "", {})
        sizes.append(None)
        lower.append(max(1, limits.get("min_val") or 0))
        upper.append(limits.get("max_val"))
    if min(lower, default=1) < 0:
        raise UnreadableError(f"{path}: models/model.json gives its input {name} a negative size")
    return TensorInput(name, tuple(sizes), tuple(lower), tuple(upper), dtypes(path, meta["dtype"]))


def arguments_of(
    path: Path, taken: Sequence[TensorInput | NumberInput], wanted: InputChoice, model: Mapping[str, Any]
) -> tuple[Arguments, tuple[str, ...]]:
    """Of `model`, all of which is checked. Open sizes are at their lowest where nothing is said."""
    declared: list[Declared] = []
    warnings: list[str] = []
    leaves: list[InputSlot] = []
    tensors = [one for one in taken if isinstance(one, TensorInput)]
    names = [one.name for one in tensors]
    for one in taken:
        if isinstance(one, NumberInput):
            declared += [] if one.declared is None else [one.declared]
            leaves.append(InputSlot(one.name, number=True, always=(one.value,)))
            continue
        alone = wanted.shapes.get(ALONE) if wanted.names == one.name or names == [one.name] else None
        shape, said = one.shape(path, wanted.shapes.get(one.name, alone))
        declared.append(Declared(one.name, str(one.dtype).removeprefix("torch."), shape))
        warnings += said
        leaves.append(InputSlot(one.name))
    try:
        whole = next(one for one in model["graph_module"]["module_call_graph"] if not one["fqn"])
        spec = pytree.treespec_loads(whole["signature"]["in_spec"])  # containers of Python only: checked
        positional, keywords = pytree.tree_unflatten(leaves, spec)
    except (LookupError, TypeError, ValueError, StopIteration, AssertionError, NotImplementedError) as problem:
        raise UnreadableError(f"{path}: models/model.json does not say how the program is called") from problem
    return Arguments(tuple(declared), tuple(positional), keywords), tuple(dict.fromkeys(warnings))


def check_numbers(path: Path, taken: Sequence[TensorInput | NumberInput], chosen: Chosen) -> None:
    """What is held may not differ from what the program was exported with."""
    for one in taken:
        if isinstance(one, NumberInput) and one.name in chosen.held and chosen.held[one.name].item() != one.value:
            raise UsageError(
                f"{path}: --fix {printable(one.name)}: the program was exported with {one.value}, and holds for no other value"
            )
