"""Scores that are -inf: entries that a softmax gives the weight 0, exactly, and that nothing else may read.

A signal that holds some is finite where they are (`Signal.hidden` says where), and its softmax is that of the others: for each
number of them one block over the rows that show so many, its results put back into their places with zeros between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.blocks.softmax import Softmax
from lipcert.load.lower.builder import Builder, Signal
from lipcert.network.graph import Nonlinear
from lipcert.operators.linear import Select
from lipcert.rigor.constants import Constant, constant
from lipcert.rigor.rounding import all_finite

MINUS_INF = -float("inf")
SUMS = ("aten.add.Tensor", "aten.sub.Tensor")
# what may be done to a constant that holds -inf, with a result that is right
MOVES = frozenset(
    f"aten.{name}"
    for name in """add.Tensor sub.Tensor where.self where.Scalar where.ScalarOther where.ScalarSelf masked_fill.Scalar
    masked_fill.Tensor constant_pad_nd.default view.default _unsafe_view.default reshape.default expand.default repeat.default
    slice.Tensor select.int unsqueeze.default squeeze.dims squeeze.dim squeeze.default permute.default transpose.int t.default
    cat.default stack.default clone.default alias.default detach.default contiguous.default index.Tensor index_select.default
    _to_copy.default to.dtype lift_fresh_copy.default full.default full_like.default scalar_tensor.default copy.default
    tril.default triu.default flip.default roll.default gather.default split_with_sizes.default split.Tensor unbind.int
    zeros_like.default eq.Tensor eq.Scalar ne.Scalar ne.Tensor isneginf.default isinf.default logical_not.default""".split()
)


def infinite(value: Any) -> bool:
    """Whether a constant holds -inf (or a worse one) anywhere."""
    if isinstance(value, list | tuple):
        return any(infinite(v) for v in value)
    return isinstance(value, Constant) and not all_finite(value.centre)


def checked(b: Builder, name: str, args: Sequence[Any], value: Constant) -> Constant:
    """A folded constant: finite but for -inf, which has no radius and comes from -inf, not from an overflow of a sum."""
    if all_finite(value.centre):
        return b.finite(value)
    hidden = value.centre == MINUS_INF
    if name in SUMS and bool(hidden.any()):
        given = [constant(a).centre == MINUS_INF for a in args[:2]]
        hidden = hidden & together(given, value.shape)
    if value.radius is not None and bool(hidden.any()):
        value = Constant(value.centre, torch.where(hidden, 0.0, value.radius))
    b.finite(Constant(torch.where(hidden, 0.0, value.centre), value.radius))
    return value


def split(b: Builder, value: Any) -> tuple[Any, Tensor | None]:
    """(finite in every entry, where it was -inf): of a signal or a constant."""
    if isinstance(value, Signal):
        return (value, None) if value.hidden is None else (replace(value, hidden=None), value.hidden)
    value = constant(value)
    hidden = value.centre == MINUS_INF
    if not bool(hidden.any()):
        return value, None
    return Constant(torch.where(hidden, 0.0, value.centre), value.radius), hidden


def together(parts: Sequence[Tensor | None], shape: Sequence[int]) -> Any:
    """Where any of them is -inf, each broadcast to `shape`."""
    found: Tensor | None = None
    for part in parts:
        if part is not None:
            wide = part.expand(tuple(shape))
            found = wide if found is None else found | wide
    return found


def hiding(signal: Signal, hidden: Tensor | None, undefined: Tensor | None = None) -> Signal:
    if undefined is not None and bool(undefined.any()):
        signal = replace(signal, undefined=undefined)
    return signal if hidden is None or not bool(hidden.any()) else replace(signal, hidden=hidden)


def undefined(value: Any, keep: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Entries of a signal that are NaN, as far as they are kept."""
    if not isinstance(value, Signal) or value.undefined is None:
        return None
    return value.undefined.expand(tuple(shape)) & keep


def defined(value: Any) -> Any:
    return replace(value, undefined=None) if isinstance(value, Signal) else value


def is_nan(b: Builder, x: Signal) -> Tensor:
    """Of a softmax: it is NaN where all scores were -inf, and nowhere else."""
    what = b.nodes[x.node].what
    if x.undefined is None and not (isinstance(what, Nonlinear) and isinstance(what.block, Softmax)):
        b.refuse("asks for NaN: understood of the result of a softmax only")
    return torch.zeros(x.shape, dtype=torch.bool) if x.undefined is None else x.undefined


def scaled(b: Builder, x: Any, y: Any) -> tuple[Signal, Constant, Tensor] | None:
    """(finite signal, factor, where -inf) of a product in which a signal holds -inf: positive factors leave it there."""
    signal, factor = (x, y) if isinstance(x, Signal) else (y, x)
    if not isinstance(signal, Signal) or signal.hidden is None or isinstance(factor, Signal):
        return None
    factor = b.finite(constant(factor))
    shape = np.broadcast_shapes(signal.shape, factor.shape)
    hidden = signal.hidden.expand(shape)
    if not bool((factor.lower.expand(shape)[hidden] > 0).all()):
        b.refuse("multiplies -inf by a number that is not positive")
    return replace(signal, hidden=None), factor, hidden


def softmax(b: Builder, x: Signal, dim: int, safe: bool) -> Signal:
    """Of a signal that holds -inf. `safe`: a row of nothing else is 0 (aten._safe_softmax); else its softmax is NaN."""
    assert x.hidden is not None
    b.plain(replace(x, hidden=None))
    shape, n = x.shape, x.shape[dim]
    hidden = x.hidden.movedim(dim, -1).reshape(-1, n)
    places = torch.arange(x.size).reshape(shape).movedim(dim, -1).reshape(-1, n)
    counts = (~hidden).sum(1)
    nothing = torch.zeros(x.size, dtype=torch.bool)
    nothing[places[counts == 0].reshape(-1)] = not safe
    plain = Signal(x.node, (x.size,))
    parts: list[Signal] = []
    source = torch.full((x.size,), -1)
    ones = torch.zeros(x.size, dtype=torch.float64)
    start = 0
    for count in sorted(set(counts.tolist()) - {0}):
        rows = counts == count
        index = places[rows][~hidden[rows]]
        if count == 1:
            ones[index] = 1.0
            continue
        scores = b.linear(plain, Select(index, x.size), (len(index),))
        parts.append(b.block(Softmax(int(rows.sum()), count, 1), [scores], (len(index),)))
        source[index] = start + torch.arange(len(index))
        start += len(index)
    if not parts:
        return replace(b.constant_node(Constant(ones.reshape(shape))), undefined=nothing.reshape(shape))
    flat = parts[0] if len(parts) == 1 else b.concat(parts)
    whole = b.offset(b.linear(flat, Select(source, flat.size), shape), Constant(ones.reshape(shape)))
    return replace(whole, undefined=nothing.reshape(shape))
