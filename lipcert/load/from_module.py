"""nn.Module, from Python: a deep copy in eval mode; the user's object is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lipcert.load.inputs import InputChoice
from lipcert.load.original import references, rows
from lipcert.load.pick import Pick, pick
from lipcert.load.source import Source
from lipcert.terms.errors import RefusedModel, UsageError


def read_module(
    module: torch.nn.Module,
    *,
    input_shape: Any = None,
    input_name: Any = None,
    fix: Mapping[str, Any] | None = None,
    output_name: str | None = None,
) -> Source:
    """`input_shape`: whole shape, batch included, or an example tensor. The dtype is that of the example, else of the
    first floating parameter. Raises UsageError without a shape, RefusedModel where the module cannot be copied.
    """
    named = input_shape if isinstance(input_shape, Mapping) else None
    InputChoice.of(named, None, None, fix).alone("a module")
    if input_name not in (None, "x"):
        raise UsageError(f"--input-name {input_name}: a module is read with one tensor that moves, which is called x")
    if input_shape is None:
        raise UsageError("an nn.Module does not record its input shape: give input_shape, for instance (1, 3, 32, 32)")
    try:
        original = copy.deepcopy(module)
    except Exception as problem:
        raise RefusedModel(
            f"the module cannot be copied: {problem}. Give it after construction, outside autograd"
        ) from problem
    original = original.cpu().eval().requires_grad_(False)
    if isinstance(input_shape, torch.Tensor):
        shape, dtype = tuple(input_shape.shape), input_shape.dtype
    else:
        tensors = (*original.parameters(), *original.buffers())
        shape = tuple(input_shape)
        dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    if not dtype.is_floating_point:
        raise UsageError(f"the example input is {dtype}: a Lipschitz constant needs a real-valued input")
    copies = {dtype: copy.deepcopy(original)}

    def run(points: np.ndarray, kind: torch.dtype) -> np.ndarray:
        if kind not in copies:
            copies[kind] = copy.deepcopy(original).to(kind)
        return rows(lambda x: pick(copies[kind](x), output_name), points, kind)

    example = torch.zeros(shape, dtype=dtype)
    return Source(
        module=original if output_name is None else Pick(original, output_name).eval(),
        example=example,
        format="module",
        input_name="x",
        output_name=output_name or "output",
        references=references("torch", run, example),
    )
