"""The arguments of an nn.Module's forward: told by its signature, and by the shapes or examples that are given for them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lipcert.load.call.arguments import Arguments, InputSlot
from lipcert.load.inputs import Declared, InputChoice
from lipcert.terms.errors import UsageError

_NUMBERS = {int: "int64", float: "float64", bool: "bool", "int": "int64", "float": "float64", "bool": "bool"}


def python_call(module: torch.nn.Module, given: Any, wanted: InputChoice, dtype: torch.dtype) -> Arguments:
    """`given`: a shape or a tensor (of the first argument), a tuple or list of them (one for each argument), or a mapping of
    names of arguments; for an argument that takes a tuple, list or dict, such a nest of shapes or tensors. `dtype`: where
    no tensor says it.

    A mapping none of whose keys is an argument is the dict that the one argument takes. UsageError for what does not fit.
    """
    parameters = {
        name: one
        for name, one in inspect.signature(module.forward).parameters.items()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    reader = _Nests(str(dtype).removeprefix("torch."))
    named = _by_name(given, list(parameters), wanted)
    for name in named:
        if name not in parameters:
            raise UsageError(f"--input-shape {name}: forward takes {', '.join(parameters) or 'nothing'}")
    keywords, positional = {}, []
    for name, one in parameters.items():
        optional = one.default is not inspect.Parameter.empty
        if name in named:
            nest = reader.nest(name, named[name])
        else:
            nest = reader.unsaid(name, one.annotation, optional, wanted)
        if one.kind is one.POSITIONAL_ONLY:
            positional.append(nest)
        else:
            keywords[name] = nest
    return Arguments(tuple(reader.declared), tuple(positional), keywords)


def _by_name(given: Any, names: list[str], wanted: InputChoice) -> dict[str, Any]:
    if given is None or not names:
        return {}
    if isinstance(given, Mapping):
        return dict(given) if {*given} & {*names} else {names[0]: dict(given)}
    if not isinstance(given, torch.Tensor) and not is_shape(given) and isinstance(given, tuple | list):
        if len(given) > len(names):
            raise UsageError(f"--input-shape: {len(given)} examples, where forward takes {', '.join(names)}")
        return dict(zip(names, given, strict=False))
    first = (
        wanted.names if wanted.names in names else next((name for name in names if name not in wanted.fixed), names[0])
    )
    return {first: given}


def is_shape(value: Any) -> bool:
    """(1, 3): whole numbers."""
    return isinstance(value, tuple | list | torch.Size) and all(isinstance(n, int | np.integer) for n in value)


class _Nests:
    def __init__(self, dtype: str):
        self.dtype = dtype
        self.declared: list[Declared] = []

    def nest(self, name: str, example: Any) -> Any:
        if isinstance(example, torch.Tensor):
            self.declared.append(Declared(name, str(example.dtype).removeprefix("torch."), tuple(example.shape)))
            return InputSlot(name)
        if is_shape(example):
            self.declared.append(Declared(name, self.dtype, tuple(int(n) for n in example)))
            return InputSlot(name)
        if isinstance(example, Mapping):
            return {key: self.nest(f"{name}.{key}", one) for key, one in example.items()}
        if isinstance(example, tuple | list):
            parts = [self.nest(f"{name}.{k}", one) for k, one in enumerate(example)]
            return tuple(parts) if isinstance(example, tuple) else parts
        raise UsageError(f"--input-shape {name}: a shape, a tensor, or a tuple, list or dict of them, not {example!r}")

    def unsaid(self, name: str, annotation: Any, optional: bool, wanted: InputChoice) -> Any:
        """An argument of no known shape. A single number that it is held at is handed over as a number."""
        value = wanted.fixed.get(name)
        kind = self.dtype if value is None or value.dtype.kind == "f" else str(value.dtype)
        if annotation in _NUMBERS:
            kind = _NUMBERS[annotation]
        number = annotation in _NUMBERS or (value is not None and value.ndim == 0 and annotation is not torch.Tensor)
        self.declared.append(Declared(name, kind, () if number else None, optional=optional))
        return InputSlot(name, number=number)
