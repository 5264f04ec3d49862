"""nn.Module, from Python: a deep copy in eval mode; the user's object is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lipcert.load.call.arguments import Arguments, one_type
from lipcert.load.call.joined import Joined
from lipcert.load.call.python import is_shape, python_call
from lipcert.load.call.state import changed_by, with_states
from lipcert.load.choose import choose
from lipcert.load.inputs import InputChoice
from lipcert.load.original import Run, references, rows
from lipcert.load.pick import Pick, pick
from lipcert.load.source import Source
from lipcert.terms.errors import RefusedModel, UsageError

WHERE = "module"


def read_module(
    module: torch.nn.Module,
    *,
    input_shape: Any = None,
    input_name: Any = None,
    fix: Mapping[str, Any] | None = None,
    output_name: str | None = None,
) -> Source:
    """`input_shape`: whole shape, batch included, or an example tensor; for several arguments a tuple of these, or a mapping
    by their names; nests of them where an argument is a tuple, list or dict. The dtype is that of the example, else of
    the first floating parameter. Raises UsageError for what is missing, RefusedModel where the module cannot be copied.
    """
    if input_shape is None and fix is None:
        raise UsageError("an nn.Module does not record its input shape: give input_shape, for instance (1, 3, 32, 32)")
    original = copied(module)
    tensors = (*original.parameters(), *original.buffers())
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    wanted = InputChoice.of(None, input_name, output_name, fix)
    arguments = python_call(original, input_shape, wanted, dtype)
    if input_name in (None, "x") and not fix and (isinstance(input_shape, torch.Tensor) or is_shape(input_shape)):
        alone = _alone(original, input_shape, dtype, output_name)
        if arguments.plain and not changed_by(original, (alone.example,), {}):
            return alone
    return _several(original, arguments, wanted)


def copied(module: torch.nn.Module) -> torch.nn.Module:
    try:
        original = copy.deepcopy(module)
    except Exception as problem:
        raise RefusedModel(
            f"the module cannot be copied: {problem}. Give it after construction, outside autograd"
        ) from problem
    return original.cpu().eval().requires_grad_(False)


def _alone(original: torch.nn.Module, given: Any, dtype: torch.dtype, output_name: str | None) -> Source:
    """Called with x and nothing else."""
    if isinstance(given, torch.Tensor):
        given, dtype = tuple(given.shape), given.dtype
    _refuse_integers(dtype)
    example = torch.zeros(tuple(given), dtype=dtype)
    return Source(
        module=original if output_name is None else Pick(original, output_name).eval(),
        example=example,
        format="module",
        input_name="x",
        output_name=output_name or "output",
        references=references("torch", _run(original, lambda result: pick(result, output_name)), example),
    )


def _refuse_integers(dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise UsageError(f"the example input is {dtype}: a Lipschitz constant needs a real-valued input")


def _several(original: torch.nn.Module, arguments: Arguments, wanted: InputChoice) -> Source:
    states = changed_by(original, *arguments.zeros(wanted.fixed))
    arguments = with_states(arguments, original, states)
    chosen = choose(WHERE, arguments.declared, wanted)
    joined = Joined(original, arguments, chosen, wanted.output, states)
    example = torch.zeros(chosen.shape, dtype=one_type(WHERE, chosen))
    return Source(
        module=joined,
        example=example,
        format="module",
        input_name=chosen.name,
        output_name=wanted.output or "output",
        references=references("torch", _run(joined, lambda result: result), example),
        assumptions=chosen.notes,
        inputs=chosen.described(),
    )


def _run(module: torch.nn.Module, output: Callable[[Any], torch.Tensor]) -> Run:
    """On copies, one for each arithmetic."""
    copies: dict[torch.dtype, torch.nn.Module] = {}

    def run(points: np.ndarray, kind: torch.dtype) -> np.ndarray:
        if kind not in copies:
            copies[kind] = copy.deepcopy(module).to(kind)
        return rows(lambda x: output(copies[kind](x)), points, kind)

    return run
