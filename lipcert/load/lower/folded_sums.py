"""Linear operators and products of constants, with their rounding."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipcert.rigor.constants import ARITHMETIC, Constant, constant, executed, multiply
from lipcert.rigor.rounding import TINY, gamma, up

aten = torch.ops.aten


def _linear(target: Any, terms: Callable[..., int]) -> Callable[..., Constant]:
    def rule(a: Any, *rest: Any, **options: Any) -> Constant:
        a = constant(a)
        n = terms(a.centre, *rest) + 4  # a division by the count, and the rounding of the sum of sizes
        size, reach = target(a.centre.abs(), *rest, **options), target(a.reach(), *rest, **options)
        radius = up((reach + gamma(n) * size) * (1 + 4 * gamma(n)) + n * TINY)
        return executed(Constant(target(a.centre, *rest, **options), radius), n, size)

    return rule


def _convolution(x: Any, weight: Any, bias: Any, *geometry: Any) -> Constant:
    x, w = constant(x), constant(weight)
    n = w.centre.numel() + 2

    def apply(u: Tensor, v: Tensor) -> Tensor:
        return aten.convolution.default(u, v, None, *geometry)

    size = apply(x.centre.abs(), w.centre.abs())
    reach = apply(x.reach(), w.centre.abs() + w.reach()) + apply(x.centre.abs(), w.reach())
    y = Constant(apply(x.centre, w.centre), up((reach + gamma(n) * size) * (1 + 4 * gamma(n)) + n * TINY))
    y = executed(y, n, size)
    if bias is None:
        return y
    return ARITHMETIC["aten.add.Tensor"](y, constant(bias).map(lambda t: t.reshape(-1, *[1] * (y.centre.dim() - 2))))


def _product(a: Any, dim: Any = None, keepdim: bool = False) -> Constant:
    value = constant(a)
    whole = value.map(lambda t: t.reshape(-1)) if dim is None else value.map(lambda t: t.movedim(dim, -1))
    if not whole.shape[-1]:
        return Constant(torch.ones(whole.shape[:-1], dtype=torch.float64))
    parts = [whole.map(lambda t, i=i: t[..., i]) for i in range(whole.shape[-1])]  # type: ignore[misc]
    total = functools.reduce(multiply, parts)
    return total.map(lambda t: t.unsqueeze(dim)) if keepdim and dim is not None else total


LINEAR: dict[str, Callable[..., Constant]] = {
    "aten.cumsum.default": _linear(aten.cumsum.default, lambda x, dim: x.shape[dim] if x.dim() else 1),
    **{f"aten.avg_pool{d}d.default": _linear(getattr(aten, f"avg_pool{d}d").default, lambda x, kernel, *_: math.prod(kernel) ** 3) for d in (1, 2, 3)},
    **{f"aten._adaptive_avg_pool{d}d.default": _linear(getattr(aten, f"_adaptive_avg_pool{d}d").default, lambda x, *_: math.prod(x.shape[2:])) for d in (2, 3)},
    "aten.col2im.default": _linear(aten.col2im.default, lambda x, size, kernel, *_: math.prod(kernel)),
    "aten.convolution.default": _convolution,
    "aten.prod.default": _product,
    "aten.prod.dim_int": _product,
}  # fmt: skip
