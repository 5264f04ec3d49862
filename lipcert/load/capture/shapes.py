"""Shape, dtype and layout of an operator's results, for arguments on the meta device.

torch has such functions for all operators, but most of them are Python that imports sympy and dynamo (3 s) at its first
call. Here: views and copies are asked of torch (C++); products have their formula; what makes no more entries than it
reads is run on ones of the same layout, as long as they are few. The rest is torch's, where `imports` allows it.
A wrong shape would be seen twice: lowering compares every node's shape with its own, and parity the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

aten = torch.ops.aten
FEW = 2**22  # entries: 32 MiB of float64, some milliseconds


class NoShape(Exception):
    """Only torch's own Python would know."""


def results(func: Any, args: Any, kwargs: dict[str, Any], imports: bool = True) -> Any:
    """`func(*args, **kwargs)` on the meta device."""
    if func in _PRODUCTS and (shape := _PRODUCTS[func](*args)) is not None:
        return torch.empty(shape, dtype=args[0].dtype, device="meta")
    if _is_small(func, args):
        return tree_map(_to_meta, func(*tree_map(_ones, args), **tree_map(_ones, kwargs)))
    if not (imports or func.is_view or func in _IN_C):
        raise NoShape(str(func))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    return func(*args, **kwargs)


def _is_small(func: Any, args: Any) -> bool:
    """At most `FEW` entries are read, and as many written."""
    if any(argument.name == "device" for argument in func._schema.arguments):
        return False
    shapes = [value.shape for value in _tensors(args)]
    if sum(map(math.prod, shapes)) > FEW:
        return False
    if torch.Tag.pointwise not in func.tags:
        return func in _NO_LARGER
    try:
        return math.prod(np.broadcast_shapes(*shapes)) <= FEW  # torch's own imports sympy
    except ValueError:
        return True  # torch says what is wrong, before it computes anything


def _tensors(args: Any) -> list[Tensor]:
    found = []
    for value in args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _ones(value: Any) -> Any:
    """Integers may divide; no operator of the lists reads an index."""
    if not isinstance(value, Tensor):
        return value
    held = 1 + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True)) if value.numel() else 0
    return torch.ones(held, dtype=value.dtype).as_strided(value.shape, value.stride())


def _to_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


# Shapes of products; None where the arguments do not fit, so that torch says so.


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[int, ...] | None:
    if not x.dim() or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        return None
    return (*x.shape[:-1], weight.shape[0])


def _matmul(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    """Of vectors, matrices and stacks of them, as numpy.matmul."""
    if not a.dim() or not b.dim() or a.shape[-1] != b.shape[max(-2, -b.dim())] or a.dtype != b.dtype:
        return None
    try:
        stacked = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        return None
    return (*stacked, *(a.shape[-2:-1] if a.dim() > 1 else ()), *(b.shape[-1:] if b.dim() > 1 else ()))


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *geometry: Any,
) -> tuple[int, ...] | None:
    """Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016), relationships 8 and 14."""
    stride, padding, dilation, transposed, output_padding, groups = geometry  # as aten::convolution has them
    n = x.dim() - 2
    if n < 1 or weight.dim() != x.dim() or min(*stride, *dilation, groups, *x.shape, *weight.shape) < 1:
        return None
    every = [values * n if len(values) == 1 else values for values in (stride, padding, dilation, output_padding)]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    reads = weight.shape[0] if transposed else weight.shape[1] * groups
    if any(len(values) != n for values in every) or x.shape[1] != reads or channels % groups or reads % groups:
        return None
    if bias is not None and tuple(bias.shape) != (channels,):
        return None
    sizes = []
    for size, kernel, step, pad, apart, more in zip(x.shape[2:], weight.shape[2:], *every, strict=True):
        reach = apart * (kernel - 1)
        made = (
            (size - 1) * step - 2 * pad + reach + more + 1 if transposed else (size + 2 * pad - reach - 1) // step + 1
        )
        if made < 1:
            return None
        sizes.append(made)
    return (x.shape[0], channels, *sizes)


_PRODUCTS: dict[Any, Callable[..., tuple[int, ...] | None]] = {
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.bmm.default: _matmul,
    aten.convolution.default: _convolution,
}

# C++ from end to end.
_IN_C = frozenset(
    {
        aten.clone.default,
        aten.constant_pad_nd.default,
        aten.index_select.default,
        aten.full.default,
        aten._to_copy.default,
        aten.repeat.default,
        aten.empty.memory_format,
        aten.arange.start_step,
        aten.zeros.default,
        aten.ones.default,
        aten.scalar_tensor.default,
    }
)

# No result has more entries than the arguments together, and the work is in proportion to them (or to them times log).
_NO_LARGER = frozenset(
    getattr(getattr(aten, name), overload)
    for name, overload in (line.split(".") for line in """
        cat.default sum.dim_IntList sum.default mean.dim mean.default amax.default amin.default max.dim min.dim
        var.correction cumsum.default prod.dim_int any.dim all.dim argmax.default argmin.default
        _softmax.default _log_softmax.default logsumexp.default _safe_softmax.default
        native_layer_norm.default native_group_norm.default _native_batch_norm_legit_no_training.default
        _native_batch_norm_legit.no_stats rms_norm.default glu.default
        avg_pool2d.default avg_pool3d.default
        max_pool2d_with_indices.default max_pool3d_with_indices.default
        flip.default sort.default topk.default tril.default triu.default linalg_vector_norm.default
        hardswish.default hardsigmoid.default _prelu_kernel.default log_sigmoid_forward.default
    """.split())
)  # fmt: skip
