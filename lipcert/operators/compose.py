"""Closed forms of B A and A + B, where two primitive operators make a primitive one.

Used by norm bounds only. The network itself is never rewritten: each closed form carries an entrywise radius for the
rounding of its coefficients, so it encloses the true composition. `None` means: no closed form, keep the pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lipcert.operators.linear import Adjoint, Conv, Dense, Operator, Scale, Select
from lipcert.rigor.rounding import EPS, TINY, gamma, up


def product_enclosure(a: Tensor, ra: Tensor | None, b: Tensor, rb: Tensor | None) -> tuple[Tensor, Tensor]:
    """Centre and radius of the entrywise (broadcast) product of two enclosures."""
    centre = a * b
    radius = centre.abs() * EPS + TINY
    if ra is not None:
        radius = radius + ra * (b.abs() + (0 if rb is None else rb))
    if rb is not None:
        radius = radius + rb * a.abs()
    return centre, up(radius * (1 + 8 * EPS))


def _select_select(b: Select, a: Select) -> Operator:
    source = torch.where(b.index >= 0, a.index[b.index.clamp(min=0)], b.index) if a.out_size else b.index
    return Select(source, a.in_size)


def _scale_scale(b: Scale, a: Scale) -> Operator:
    if b.exact_signs and a.exact_signs:
        return Scale(b.factor * a.factor)
    return Scale(*product_enclosure(b.factor, b.radius, a.factor, a.radius))


def _per_channel(values: Tensor, batch: int, channels: int) -> Tensor | None:
    """(channels,) if the flat (batch, channels, ...) tensor is constant on each channel."""
    table = values.reshape(batch, channels, -1)
    first = table[:1, :, :1]
    return first[0, :, 0] if table.numel() and bool((table == first).all()) else None


def _scale_conv(b: Scale, a: Conv) -> Operator | None:
    factor = _per_channel(b.factor, a.batch, a.weight.shape[0])
    radius = None if b.radius is None else _per_channel(b.radius, a.batch, a.weight.shape[0])
    if factor is None or (b.radius is not None and radius is None):
        return None
    shape = (-1,) + (1,) * (a.weight.dim() - 1)
    weight, error = product_enclosure(
        a.weight, a.radius, factor.reshape(shape), None if radius is None else radius.reshape(shape)
    )
    return Conv(weight, a.geometry, a.batch, error)


def _conv_scale(b: Conv, a: Scale) -> Operator | None:
    groups = b.geometry.groups
    channels = b.weight.shape[1] * groups
    factor = _per_channel(a.factor, b.batch, channels)
    radius = None if a.radius is None else _per_channel(a.radius, b.batch, channels)
    if factor is None or (a.radius is not None and radius is None):
        return None

    def spread(values: Tensor) -> Tensor:  # (channels,) -> (c_out, c_in / groups, 1, ...)
        rows = values.reshape(groups, 1, -1).expand(groups, b.weight.shape[0] // groups, -1)
        return rows.reshape(b.weight.shape[0], -1, *([1] * (b.weight.dim() - 2)))

    weight, error = product_enclosure(b.weight, b.radius, spread(factor), None if radius is None else spread(radius))
    return Conv(weight, b.geometry, b.batch, error)


def _conv_select(b: Conv, a: Select) -> Operator | None:
    """A zero pad before a convolution is padding of the convolution."""
    if a.pad is None:
        return None
    shape, pads = a.pad
    channels = b.weight.shape[1] * b.geometry.groups
    spatial = len(b.geometry.in_shape)
    if math.prod(shape[:-spatial]) != b.batch * channels or any(side for axis in pads[:-spatial] for side in axis):
        return None
    padded = tuple(n + low + high for n, (low, high) in zip(shape[-spatial:], pads[-spatial:], strict=True))
    if padded != tuple(b.geometry.in_shape):  # reshaped in between
        return None
    if any(low < 0 or high < 0 for low, high in pads):
        return None
    padding = tuple(
        (low + extra[0], high + extra[1])
        for (low, high), extra in zip(b.geometry.padding, pads[-spatial:], strict=True)
    )
    if any(low < 0 or high < 0 for low, high in b.geometry.padding):
        return None
    return Conv(b.weight, replace(b.geometry, in_shape=tuple(shape[-spatial:]), padding=padding), b.batch, b.radius)


def _dense_dense(b: Dense, a: Dense) -> Operator | None:
    (gb, _, nb), (ga, ma, _) = b.weight.shape, a.weight.shape
    if (gb, nb, b.outer, b.inner) != (ga, ma, a.outer, a.inner) or ga > 1:
        return None
    weight = b.weight @ a.weight
    mass = b.absolute().weight @ a.absolute().weight
    radius = gamma(nb + 2) * mass + nb * TINY
    if b.radius is not None:
        radius = radius + b.radius @ a.absolute().weight
    if a.radius is not None:
        radius = radius + b.absolute().weight @ a.radius
    return Dense(weight, a.outer, a.inner, up(radius * (1 + 4 * gamma(nb + 8))))


def _scale_dense(b: Scale, a: Dense) -> Operator | None:
    g, m, _ = a.weight.shape
    table = b.factor.reshape(a.outer, g, m, a.inner)
    if not bool((table == table[:1, :, :, :1]).all()):
        return None
    radius = None
    if b.radius is not None:
        spread = b.radius.reshape(a.outer, g, m, a.inner)
        radius = spread.amax(dim=(0, 3)).reshape(g, m, 1)
    return Dense(*_with_layout(product_enclosure(a.weight, a.radius, table[0, :, :, 0].reshape(g, m, 1), radius), a))


def _dense_scale(b: Dense, a: Scale) -> Operator | None:
    g, _, n = b.weight.shape
    table = a.factor.reshape(b.outer, g, n, b.inner)
    if not bool((table == table[:1, :, :, :1]).all()):
        return None
    radius = None
    if a.radius is not None:
        radius = a.radius.reshape(b.outer, g, n, b.inner).amax(dim=(0, 3)).reshape(g, 1, n)
    return Dense(*_with_layout(product_enclosure(b.weight, b.radius, table[0, :, :, 0].reshape(g, 1, n), radius), b))


def _with_layout(enclosure: tuple[Tensor, Tensor], like: Dense) -> tuple[Tensor, int, int, Tensor]:
    weight, radius = enclosure
    return weight, like.outer, like.inner, radius


COMPOSE: dict[tuple[type, type], Callable[..., Operator | None]] = {
    (Select, Select): _select_select,
    (Scale, Scale): _scale_scale,
    (Scale, Conv): _scale_conv,
    (Conv, Scale): _conv_scale,
    (Conv, Select): _conv_select,
    (Dense, Dense): _dense_dense,
    (Scale, Dense): _scale_dense,
    (Dense, Scale): _dense_scale,
}


def compose(b: Operator, a: Operator) -> Operator | None:
    """The operator x -> b(a(x)) in closed form, enclosing its own rounding, or None."""
    rule = COMPOSE.get((type(b), type(a)))
    if rule is not None:
        return rule(b, a)
    if isinstance(b, Adjoint) and isinstance(a, Scale):  # (B'A)' = A B with A diagonal
        flipped = compose(a, b.of)
        return None if flipped is None else Adjoint(flipped)
    if isinstance(b, Scale) and isinstance(a, Adjoint):
        flipped = compose(a.of, b)
        return None if flipped is None else Adjoint(flipped)
    return None


def _identity_kernel(like: Conv, factor: float) -> Conv | None:
    """factor * identity written with the geometry of `like` (odd kernel, same size out as in)."""
    g = like.geometry
    kernel = like.weight.shape[2:]
    square = like.weight.shape[0] == like.weight.shape[1] * g.groups and like.out_shape == tuple(g.in_shape)
    reach = [low / d for (low, _), d in zip(g.padding, g.dilation, strict=True)]
    if (
        not square
        or any(s != 1 for s in g.stride)
        or any(r != int(r) or not 0 <= r < k for r, k in zip(reach, kernel, strict=True))
    ):
        return None
    weight = torch.zeros_like(like.weight)
    rows = torch.arange(weight.shape[0])
    centre: tuple[Any, ...] = (rows, rows % weight.shape[1], *(int(r) for r in reach))
    weight[centre] = factor
    return Conv(weight, g, like.batch)


def add(parts: list[Operator]) -> Operator | None:
    """The sum of operators with one source in closed form, or None: x + R x, sums of aligned convolutions, x - x."""
    convs = [part for part in parts if isinstance(part, Conv)]
    if convs:
        parts = [
            (_identity_kernel(convs[0], float(part.factor[0])) or part)
            if isinstance(part, Scale) and part.radius is None and bool((part.factor == part.factor[0]).all())
            else part
            for part in parts
        ]
    total = parts[0]
    for part in parts[1:]:
        joined = _add_two(total, part)
        if joined is None:
            return None
        total = joined
    return total


def _sum_enclosure(a: Tensor, ra: Tensor | None, b: Tensor, rb: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Entrywise a + b; exact cancellations and integers stay exact."""
    centre = a + b
    virtual = centre - a
    error = (a - (centre - virtual)) + (b - virtual)  # TwoSum (Knuth): exactly a + b - centre, without overflow
    if ra is None and rb is None and bool((error == 0).all()):
        return centre, None
    radius = centre.abs() * EPS + TINY + (0 if ra is None else ra) + (0 if rb is None else rb)
    return centre, up(radius * (1 + 8 * EPS))


def _add_two(a: Operator, b: Operator) -> Operator | None:
    if isinstance(a, Scale) and isinstance(b, Scale):
        return Scale(*_sum_enclosure(a.factor, a.radius, b.factor, b.radius))
    if isinstance(a, Conv) and isinstance(b, Conv):
        if a.geometry != b.geometry or a.weight.shape != b.weight.shape or a.batch != b.batch:
            return None
        weight, radius = _sum_enclosure(a.weight, a.radius, b.weight, b.radius)
        return Conv(weight, a.geometry, a.batch, radius)
    if isinstance(a, Dense) and isinstance(b, Dense):
        if a.weight.shape != b.weight.shape or (a.outer, a.inner) != (b.outer, b.inner):
            return None
        weight, radius = _sum_enclosure(a.weight, a.radius, b.weight, b.radius)
        return Dense(weight, a.outer, a.inner, radius)
    if isinstance(a, Scale) and isinstance(b, Dense):
        a, b = b, a
    if isinstance(a, Dense) and isinstance(b, Scale):
        g, m, n = a.weight.shape
        if m != n:
            return None
        table = b.factor.reshape(a.outer, g, n, a.inner)
        if b.radius is not None or not bool((table == table[:1, :, :, :1]).all()):
            return None
        diagonal = torch.diag_embed(table[0, :, :, 0])
        weight, radius = _sum_enclosure(a.weight, a.radius, diagonal, None)
        return Dense(weight, a.outer, a.inner, radius)
    return None
