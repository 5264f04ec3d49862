"""Choosing one output of a module that has several."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lipcert.terms.errors import UsageError

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Pick(torch.nn.Module):
    """forward(x) -> the output called `name`: a key ("logits"), a path ("['aux'][0]") or a number ("1")."""

    def __init__(self, module: torch.nn.Module, name: str):
        super().__init__()
        self.module = module
        self.name = name

    def forward(self, x: torch.Tensor) -> Any:
        return pick(self.module(x), self.name)


def pick(result: Any, name: str | None, beside: Mapping[str, Any] = NOTHING) -> Any:
    """The tensor called `name` among the results of a call; None where there must be only one. `beside`: others that
    can be named."""
    named = {_label(path): value for path, value in pytree.tree_flatten_with_path(result)[0]}
    if name is None and len(named) == 1:
        return next(iter(named.values()))
    leaves = dict(beside) | dict(named) | {str(number): value for number, value in enumerate(named.values())}
    named |= {label: value for label, value in beside.items() if label not in named}
    if name not in leaves:
        listed = ", ".join(f"{label} {_shape(value)}" for label, value in named.items())
        what = f"--output-name {name}" if name is not None else "the model has several outputs"
        raise UsageError(f"{what}: choose one of {listed} with --output-name")
    return leaves[name]


def _label(path: tuple[Any, ...]) -> str:
    if len(path) == 1:
        return str(getattr(path[0], "idx", getattr(path[0], "key", path[0])))
    return pytree.keystr(path)


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__
