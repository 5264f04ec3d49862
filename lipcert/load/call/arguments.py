"""What a call takes, as a nest of tuples, lists and dicts whose leaves are inputs by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from lipcert.load.inputs import FLOATS, Chosen, Declared
from lipcert.terms.errors import UsageError

NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True)
class InputSlot:
    """An input in its place. `number`: handed over as a number of Python. `always`: (value,) where the file fixes it."""

    name: str
    number: bool = False
    always: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Arguments:
    """`declared`: all inputs. `positional`, `keywords`: nests of `InputSlot`. What is optional and not said is left out."""

    declared: tuple[Declared, ...]
    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """One tensor, and nothing to leave out: a module that is called with x alone."""
        needed = [one for one in self.declared if not one.optional]
        return (
            len(needed) == 1 and needed[0].dtype in FLOATS and _is_tensor((*self.positional, *self.keywords.values()))
        )

    def call(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(positional, keywords) of a call with these values of inputs."""
        given = {name: nest for name, nest in self.keywords.items() if _said(nest, values)}
        return pytree.tree_map_only(
            InputSlot, lambda leaf: _value(leaf, values), (self.positional, given), is_leaf=_is_slot
        )

    def zeros(self, held: Mapping[str, np.ndarray] = NOTHING) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call with what is held and otherwise zeros of the declared shapes, as far as they are known."""
        values: dict[str, Any] = {}
        for one in self.declared:
            shape = None if one.dims is None else [d if isinstance(d, int) else 1 for d in one.dims]
            kind = getattr(torch, one.dtype)
            if one.name in held:
                value = torch.from_numpy(np.array(held[one.name])).to(kind)
                if shape is not None and value.numel() in (1, math.prod(shape)):
                    value = value.expand(shape) if value.numel() == 1 else value.reshape(shape)
                values[one.name] = value
            elif shape is not None and not one.optional:
                values[one.name] = torch.zeros(shape, dtype=kind)
        return self.call(
            {name: v.item() if name in self.numbers and v.numel() == 1 else v for name, v in values.items()}
        )

    @property
    def numbers(self) -> set[str]:
        """Inputs that are handed over as numbers of Python, not as tensors."""
        return {leaf.name for leaf in slots((self.positional, dict(self.keywords))) if leaf.number}


def slots(nest: Any) -> list[InputSlot]:
    return [leaf for leaf in pytree.tree_leaves(nest, is_leaf=_is_slot) if isinstance(leaf, InputSlot)]


def _is_slot(value: Any) -> bool:
    return isinstance(value, InputSlot)


def _is_tensor(nests: Sequence[Any]) -> bool:
    required = [nest for nest in nests if nest is not None]
    return bool(required) and isinstance(required[0], InputSlot) and not required[0].number


def _said(nest: Any, values: Mapping[str, Any]) -> bool:
    return all(leaf.name in values or leaf.always for leaf in slots(nest))


def _value(leaf: InputSlot, values: Mapping[str, Any]) -> Any:
    return leaf.always[0] if leaf.always else values[leaf.name]


def one_type(path: object, chosen: Chosen) -> torch.dtype:
    """Of the inputs that move, which are one vector."""
    kinds = {part.dtype for part in chosen.parts}
    if len(kinds) > 1:
        raise UsageError(f"{path}: --input-name {chosen.name}: inputs of different types ({', '.join(sorted(kinds))})")
    return getattr(torch, kinds.pop())
