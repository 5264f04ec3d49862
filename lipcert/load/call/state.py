"""Tensors inside a module that a call changes: inputs like any other, once they are said."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lipcert.load.call.arguments import Arguments
from lipcert.load.call.joined import read_state
from lipcert.load.inputs import Declared

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def changed_by(module: torch.nn.Module, positional: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of the tensors (buffers and attributes) of `module` that such a call changes, tried on a copy with noise added to
    what is real. None where it does not run: capture will say why. Not the statistics of a BatchNorm in training mode,
    which nobody means: gate 1 refuses them."""
    trial = copy.deepcopy(module)
    before = {name: tensor.clone() for name, tensor in _tensors(trial).items()}
    draw = torch.Generator().manual_seed(0)

    def noisy(tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(tensor.shape, generator=draw, dtype=torch.float64)
        return tensor + noise.to(tensor.dtype) if tensor.is_floating_point() else tensor

    positional, keywords = pytree.tree_map_only(torch.Tensor, noisy, (tuple(positional), dict(keywords)))
    try:
        with torch.no_grad():
            trial(*positional, **keywords)
    except Exception:
        return ()
    after = _tensors(trial)
    changed = [name for name, tensor in before.items() if name in after and not _same(tensor, after[name])]
    return tuple(name for name in changed if name.rpartition(".")[2] not in _STATISTICS)


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for prefix, part in module.named_modules():
        for name, value in (*part._buffers.items(), *vars(part).items()):
            if isinstance(value, torch.Tensor):
                found[f"{prefix}.{name}" if prefix else name] = value
    return found


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def with_states(arguments: Arguments, module: torch.nn.Module, names: Sequence[str]) -> Arguments:
    stored = {name: read_state(module, name) for name in names}
    more = [
        Declared(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), state=True)
        for name, tensor in stored.items()
    ]
    return replace(arguments, declared=(*arguments.declared, *more))
