"""What many rules append: a row of the table of activations, a product of two signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import Product
from lipcert.load.lower.builder import Builder, Signal
from lipcert.load.lower.recognise import gated
from lipcert.rigor.constants import Constant


@dataclass(frozen=True)
class Unread:
    """A result that no rule gives (indices of a maximum, statistics of a norm): a refusal once something reads it."""

    what: str
    steps: bool = False


POSITIONS = Unread("positions of a maximum or a sort: a step function of the input", steps=True)


def pointwise(b: Builder, x: Signal, name: str, **given: Any) -> Signal:
    """Append a row of the activation table with its parameters by name (others keep the row's defaults)."""
    row = ACTIVATIONS[name]
    unknown = set(given) - set(row.parameters)
    if unknown:
        b.refuse(f"{name} has no parameter {sorted(unknown)}")
    params = []
    for key, default in row.parameters.items():
        value = given.get(key)
        value = default if value is None else value
        if isinstance(value, Constant):
            if value.radius is not None:
                b.refuse(f"parameter {key} of {name} is computed, not stored")
            value = (
                value.centre.expand(x.shape).reshape(-1).clone() if value.centre.numel() > 1 else float(value.centre)
            )
        params.append(value if isinstance(value, torch.Tensor) else float(value))
    if row.assumption:
        b.assume(row.assumption)
    return b.block(Pointwise(Elementwise(row, tuple(params)), x.size), [x], x.shape)


def product(b: Builder, x: Signal, y: Signal) -> Signal:
    """x * y of two signals of one shape: a square, a gated activation that exporters spelled out, or a true product."""
    if x.node == y.node:
        return pointwise(b, x, "square")
    known = gated(b.nodes, x.node, y.node)
    if known is not None:
        root, name, given, factor = known
        z = pointwise(b, Signal(root, x.shape), name, **given)
        return b.scale(z, factor)
    return b.block(Product(x.size), [x, y], x.shape)


def reduced_shape(x: Signal, dims: Sequence[int], keepdim: bool) -> tuple[int, ...]:
    gone = {d % max(1, len(x.shape)) for d in dims}
    return tuple(1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone)


def all_dims(x: Signal, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(x.shape)))
    return [dim] if isinstance(dim, int) else list(dim)
