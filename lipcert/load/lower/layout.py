"""Layout operations: every one is a `Select`, found by running the very operation on the entries' numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.load.lower import masks
from lipcert.load.lower.builder import Builder, Signal
from lipcert.load.lower.decisions import Decision, chosen
from lipcert.operators.linear import Select
from lipcert.rigor.constants import Constant, constant
from lipcert.terms.errors import RefusedModel

aten = torch.ops.aten
Rule = Callable[..., Any]


def _moved(target: Any) -> Rule:
    """The rule of a layout operation of one tensor: arguments after the first are static."""

    def rule(b: Builder, x: Signal, *args: Any, **kwargs: Any) -> Any:
        static = [_index(a) for a in args]
        keywords = {name: _index(a) for name, a in kwargs.items()}
        return b.move(x, lambda t: target(t, *static, **keywords))

    return rule


def _pieces(target: Any) -> Rule:
    """An operation that cuts a tensor into a list."""

    def rule(b: Builder, x: Signal, *args: Any, **kwargs: Any) -> list[Signal]:
        count = len(target(torch.empty(x.shape), *args, **kwargs))

        def piece(i: int) -> Callable[[Tensor], Tensor]:
            return lambda t: target(t, *args, **kwargs)[i]

        return [b.move(x, piece(i)) for i in range(count)]

    return rule


def _index(value: Any) -> Any:
    """Index arguments are whole numbers, kept as plain tensors; lists of them may hold None."""
    if isinstance(value, Constant):
        raise RefusedModel("a layout operation with a float argument")
    if isinstance(value, list | tuple):
        return [_index(v) for v in value]
    return value


def _view(b: Builder, x: Signal, shape: Sequence[int]) -> Signal:
    shape = torch.empty(x.shape, device="meta").reshape(tuple(shape)).shape
    hidden, undefined = (None if mask is None else mask.reshape(shape) for mask in (x.hidden, x.undefined))
    return Signal(x.node, tuple(shape), x.pad_minus_inf, hidden, undefined)


def _same(b: Builder, x: Signal, *_: Any, **__: Any) -> Signal:
    return x


def _copy(b: Builder, x: Signal, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Signal:
    return cast(b, x, dtype)


def cast(b: Builder, x: Signal, dtype: torch.dtype | None) -> Signal:
    """A change of dtype is the identity in real arithmetic; to whole numbers it is a step."""
    if dtype is not None and dtype.is_complex:
        b.refuse(f"a signal is cast to {dtype}")
    if dtype is not None and not dtype.is_floating_point:
        b.refuse(f"a signal is cast to {dtype}: a step function, not Lipschitz", unbounded=True)
    if dtype is not None and torch.finfo(dtype).bits < 32:
        b.assume(f"the rounding of the cast to {dtype} at {b.where} is not covered")
    return x


def _cat(b: Builder, values: Sequence[Any], dim: int = 0) -> Signal:
    parts = [v if isinstance(v, Signal) else constant(v) for v in values]
    parts = [part for part in parts if part.shape != (0,)]  # torch.cat skips legacy empty tensors
    flat = b.concat(parts)
    numbers, start = [], 1
    for part in parts:
        size = torch.Size(part.shape).numel()
        numbers.append(torch.arange(start, start + size, dtype=torch.float64).reshape(part.shape))
        start += size
    whole = torch.cat(numbers, dim)
    return b.linear(flat, Select(whole.reshape(-1).to(torch.int64) - 1, flat.size), tuple(whole.shape))


def _pad(b: Builder, x: Signal, pads: Sequence[int], value: Any = 0) -> Signal:
    fill = float(constant(value).centre)
    if fill == -float("inf"):
        x = b.plain(x)
        padded = torch.nn.functional.pad(torch.arange(1, x.size + 1, dtype=torch.float64).reshape(x.shape), list(pads))
        return Signal(x.node, tuple(padded.shape), padded.to(torch.int64).reshape(-1) - 1)
    whole = list(reversed([(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]))
    sides = tuple([(0, 0)] * (len(x.shape) - len(whole)) + [(int(low), int(high)) for low, high in whole])
    numbers = torch.nn.functional.pad(torch.arange(1, x.size + 1, dtype=torch.float64).reshape(x.shape), list(pads))
    index = numbers.to(torch.int64).reshape(-1) - 1
    moved = b.linear(x, Select(index, x.size, (x.shape, sides)), tuple(numbers.shape))
    if fill == 0:
        return moved
    return b.offset(moved, constant(torch.where(numbers > 0, 0.0, fill)))


def _where(b: Builder, condition: Any, x: Any, y: Any) -> Signal:
    """A mask that is known: entries of x where true, of y where false. One that depends on the input is a step."""
    if isinstance(condition, Decision):
        return chosen(b, condition, x, y)
    if isinstance(condition, Signal):
        b.refuse("chooses between signals by a condition on the data: it jumps", unbounded=True)
    mask = constant(condition).centre != 0
    sides = [v if isinstance(v, Signal) else constant(v) for v in (x, y)]
    shape = np.broadcast_shapes(mask.shape, *(s.shape for s in sides))
    mask = mask.expand(shape)
    signals, constants = [], []
    keeps = (mask, ~mask)
    left = [masks.undefined(side, keep, shape) for side, keep in zip(sides, keeps, strict=True)]
    parts = [masks.split(b, masks.defined(side)) for side in sides]
    hidden = [h if h is None else h.expand(shape) & keep for (_, h), keep in zip(parts, keeps, strict=True)]
    for (side, _), keep in zip(parts, keeps, strict=True):
        if isinstance(side, Signal):
            signals.append(b.move(b.expand(side, shape), _keeping(keep, shape)))
        else:
            constants.append(side.map(_keeping(keep, shape)))
    total = b.sum(signals) if len(signals) > 1 else signals[0]
    for value in constants:
        total = b.offset(total, value)
    return masks.hiding(total, masks.together(hidden, shape), masks.together(left, shape))


def _keeping(mask: Tensor, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Entries where the mask is true, zero elsewhere."""
    return lambda t: torch.where(mask, t.expand(tuple(shape)), torch.zeros((), dtype=t.dtype))


def _scatter_into(target: Any) -> Rule:
    """slice_scatter, select_scatter: x with some entries replaced by those of y."""

    def rule(b: Builder, x: Any, y: Any, *args: Any, **kwargs: Any) -> Signal:
        x, y = (v if isinstance(v, Signal) else constant(v) for v in (x, y))
        flat = b.concat([x, y])
        size_x, size_y = torch.Size(x.shape).numel(), torch.Size(y.shape).numel()
        old = torch.arange(1, size_x + 1, dtype=torch.float64).reshape(x.shape)
        new = torch.arange(size_x + 1, size_x + size_y + 1, dtype=torch.float64).reshape(y.shape)
        whole = target(old, new, *args, **kwargs)
        return b.linear(flat, Select(whole.reshape(-1).to(torch.int64) - 1, flat.size), tuple(whole.shape))

    return rule


_MOVES = """permute expand repeat slice.Tensor select.int unsqueeze squeeze.dims squeeze.dim squeeze flip roll unfold
index.Tensor index_select gather tril triu reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
replication_pad2d replication_pad3d _pad_circular upsample_nearest1d upsample_nearest2d upsample_nearest3d
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d pixel_shuffle pixel_unshuffle
channel_shuffle diagonal transpose.int t im2col""".split()
_CUTS = "split_with_sizes split.Tensor unbind.int chunk".split()


def _named(name: str) -> str:
    return f"aten.{name}" if "." in name else f"aten.{name}.default"


def _target(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


LAYOUT: dict[str, Rule] = {
    **{_named(name): _moved(_target(name)) for name in _MOVES},
    **{_named(name): _pieces(_target(name)) for name in _CUTS},
    "aten.view.default": _view,
    "aten._unsafe_view.default": _view,
    "aten.reshape.default": _view,
    "aten.clone.default": _same,
    "aten.alias.default": _same,
    "aten.contiguous.default": _same,
    "aten.detach.default": _same,  # identity in the forward pass, whatever autograd does with it
    "aten.lift_fresh_copy.default": _same,
    "aten._to_copy.default": _copy,
    "aten.to.dtype": lambda b, x, dtype, *_, **__: cast(b, x, dtype),
    "prims.convert_element_type.default": cast,
    "aten.cat.default": _cat,
    "aten.stack.default": lambda b, values, dim=0: _cat(b, [_unsqueeze(b, v, dim) for v in values], dim),
    "aten.constant_pad_nd.default": _pad,
    "aten.where.self": _where,
    "aten.where.Scalar": _where,
    "aten.where.ScalarOther": _where,
    "aten.where.ScalarSelf": _where,
    "aten.masked_fill.Scalar": lambda b, x, mask, value: _where(b, mask, value, x),
    "aten.masked_fill.Tensor": lambda b, x, mask, value: _where(b, mask, value, x),
    "aten.slice_scatter.default": _scatter_into(aten.slice_scatter.default),
    "aten.select_scatter.default": _scatter_into(aten.select_scatter.default),
}


def _unsqueeze(b: Builder, value: Any, dim: int) -> Any:
    if isinstance(value, Signal):
        return b.move(value, lambda t: t.unsqueeze(dim))
    return constant(value).map(lambda t: t.unsqueeze(dim))
