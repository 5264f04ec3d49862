"""Affine operations: sums, scales, matrix products, convolutions, BatchNorm, average pooling, linear interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lipcert.blocks.product import MatMul
from lipcert.load.lower import masks
from lipcert.load.lower.builder import Builder, Signal, broadcast
from lipcert.load.lower.decisions import Decision, chosen
from lipcert.load.lower.layout import cast as _cast
from lipcert.load.lower.signals import pointwise, product
from lipcert.load.lower.windows import (
    adaptive_avg_pool,
    along_axis,
    avg_pool,
    cubic_matrix,
    fold,
    interpolation,
    linear_matrix,
    pool_spans,
    smoothed_matrix,
    stored_weight,
)
from lipcert.operators.conv_norm import ConvGeometry
from lipcert.operators.linear import Adjoint, Conv, Dense, Scale
from lipcert.rigor import constants
from lipcert.rigor.constants import Constant, constant


def _add(b: Builder, x: Any, y: Any, alpha: Any = 1) -> Signal:
    (x, gone), (y, lost) = masks.split(b, x), masks.split(b, y)
    if gone is not None or lost is not None:
        shape = np.broadcast_shapes(x.shape, y.shape)
        if lost is not None and not alpha > 0:
            b.refuse("subtracts -inf")
        return masks.hiding(_add(b, x, y, alpha), masks.together([gone, lost], shape))
    x, y = broadcast(b, [x, y])
    if alpha != 1:
        y = b.scale(y, constant(alpha)) if isinstance(y, Signal) else constants.multiply(y, alpha)
    if isinstance(x, Signal) and isinstance(y, Signal):
        return b.sum([x, y])
    return b.offset(x, y) if isinstance(x, Signal) else b.offset(y, x)


def negate(b: Builder, x: Any) -> Any:
    return b.scale(x, constant(-1.0)) if isinstance(x, Signal) else constants.negative(x)


def _sub(b: Builder, x: Any, y: Any, alpha: Any = 1) -> Signal:
    return _add(b, x, negate(b, y), alpha)


def _rsub(b: Builder, x: Any, y: Any, alpha: Any = 1) -> Signal:
    return _add(b, y, negate(b, x), 1) if alpha == 1 else _add(b, y, b.scale(x, constant(-alpha)))


def _mul(b: Builder, x: Any, y: Any) -> Signal:
    for decision, other in ((x, y), (y, x)):
        if isinstance(decision, Decision) and not isinstance(other, Decision):
            return chosen(b, decision, other, 0.0)
    if (part := masks.scaled(b, x, y)) is not None:
        return masks.hiding(_mul(b, part[0], part[1]), part[2])
    x, y = broadcast(b, [x, y])
    if isinstance(x, Signal) and isinstance(y, Signal):
        return product(b, x, y)
    return b.scale(x, y) if isinstance(x, Signal) else b.scale(y, x)


def _div(b: Builder, x: Any, y: Any) -> Signal:
    if (part := masks.scaled(b, x, y)) is not None and part[0].node == x.node:
        return masks.hiding(_div(b, part[0], part[1]), part[2])
    x, y = broadcast(b, [x, y])
    if not isinstance(y, Signal):
        uniform = y.radius is None and y.centre.numel() > 0 and bool((y.centre == y.centre.reshape(-1)[0]).all())
        return b.scale(x, constants.reciprocal(y), float(y.centre.reshape(-1)[0]) if uniform else None)
    inverse = pointwise(b, y, "reciprocal")
    return product(b, x, inverse) if isinstance(x, Signal) else b.scale(inverse, x)


def _linear(b: Builder, x: Any, weight: Any, bias: Any = None) -> Signal:
    y: Any
    if not isinstance(weight, Signal) and not isinstance(x, Signal):
        y = constants.matmul(x, constant(weight).map(lambda t: t.transpose(-1, -2)))
    elif isinstance(weight, Signal) or not isinstance(x, Signal):
        flipped = b.move(weight, lambda t: t.transpose(-1, -2)) if isinstance(weight, Signal) else None
        y = matmul(b, x, flipped if flipped is not None else constant(weight).map(lambda t: t.transpose(-1, -2)))
    else:
        w, radius = stored_weight(b.finite(constant(weight)))
        if w.dim() == 1:
            return matmul(b, x, constant(weight))
        shape = (*x.shape[:-1], w.shape[0])
        y = b.linear(x, Dense(w[None], math.prod(x.shape[:-1]), 1, None if radius is None else radius[None]), shape)
    return y if bias is None else _add(b, y, bias)


def matmul(b: Builder, x: Any, y: Any) -> Signal:
    """torch.matmul of (.., m, k) and (.., k, n), either side a signal, batch dimensions broadcast."""
    x, y = (v if isinstance(v, Signal) else b.finite(constant(v)) for v in (x, y))
    left, right = len(x.shape) == 1, len(y.shape) == 1
    x = _reshape(b, x, (1, *x.shape)) if left else x
    y = _reshape(b, y, (*y.shape, 1)) if right else y
    (m, k), n = x.shape[-2:], y.shape[-1]
    batch = tuple(np.broadcast_shapes(x.shape[:-2], y.shape[:-2]))
    shape = (*batch, m, n)
    if isinstance(x, Signal) and isinstance(y, Signal):
        x, y = b.expand(x, (*batch, m, k)), b.expand(y, (*batch, k, n))
        result = b.block(MatMul(math.prod(batch), m, k, n), [x, y], shape)
    elif isinstance(y, Signal):
        result = _matrix_times_signal(b, x, y, batch, shape)
    else:  # x W = (W' x')'
        flipped = y.map(lambda t: t.transpose(-1, -2))
        if len(y.shape) == 2:
            w, radius = stored_weight(flipped)
            rows = math.prod(x.shape[:-1])
            result = b.linear(x, Dense(w[None], rows, 1, None if radius is None else radius[None]), (*x.shape[:-1], n))
        else:
            turned = b.move(x, lambda t: t.transpose(-1, -2))
            result = _matrix_times_signal(b, flipped, turned, batch, (*batch, n, m))
            result = b.move(result, lambda t: t.transpose(-1, -2))
    final = tuple(
        size for size, drop in zip(result.shape, [False] * len(batch) + [left, right], strict=True) if not drop
    )
    return Signal(result.node, final)


def _matrix_times_signal(b: Builder, a: Constant, x: Signal, batch: tuple[int, ...], shape: Sequence[int]) -> Signal:
    if len(a.shape) > 2 and math.prod(a.shape[:-2]) > 1:
        a = a.map(lambda t: t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:]))
        outer = 1
    else:
        a = a.map(lambda t: t.reshape(1, *t.shape[-2:]))
        outer = math.prod(batch)
    x = b.expand(x, (*batch, *x.shape[-2:]))
    w, radius = stored_weight(a)
    return b.linear(x, Dense(w, outer, x.shape[-1], radius), shape)


def _reshape(b: Builder, value: Any, shape: Sequence[int]) -> Any:
    if isinstance(value, Signal):
        return Signal(b.plain(value).node, tuple(shape))
    return value.map(lambda t: t.reshape(tuple(shape)))


def _addmm(b: Builder, bias: Any, x: Any, y: Any, beta: Any = 1, alpha: Any = 1) -> Signal:
    out = matmul(b, x, y) if isinstance(x, Signal) or isinstance(y, Signal) else constants.matmul(x, y)
    return _add(b, _times(b, out, alpha), _times(b, bias, beta))


def _times(b: Builder, value: Any, factor: float) -> Any:
    if factor == 1:
        return value
    return b.scale(value, constant(factor)) if isinstance(value, Signal) else constants.multiply(value, factor)


def _convolution(b: Builder, x: Any, weight: Any, bias: Any, *geometry: Any) -> Signal:
    """`geometry`: stride, padding, dilation, transposed, output_padding, groups, as ATen orders them."""
    *lists, transposed, output_padding, groups = geometry
    if not isinstance(x, Signal) or isinstance(weight, Signal):
        b.refuse("a convolution whose kernel depends on the input")
    w, radius = stored_weight(b.finite(constant(weight)))
    dims = w.dim() - 2
    stride, padding, dilation, extra = (
        tuple(values) * (dims if len(values) == 1 else 1) for values in (*lists, output_padding)
    )
    batched = x if len(x.shape) == dims + 2 else Signal(b.plain(x).node, (1, *x.shape))
    count, spatial = batched.shape[0], batched.shape[2:]
    sides = tuple((p, p) for p in padding)
    operator: Conv | Adjoint
    if transposed:
        large = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + e + 1
            for n, s, p, d, k, e in zip(spatial, stride, padding, dilation, w.shape[2:], extra, strict=True)
        )
        operator = Adjoint(Conv(w, ConvGeometry(large, stride, sides, dilation, groups), count, radius))
        channels, out = w.shape[1] * groups, large
        if operator.of.out_shape != tuple(spatial):  # type: ignore[attr-defined]
            b.refuse(f"transposed convolution with output_padding {extra}")
    else:
        operator = Conv(w, ConvGeometry(tuple(spatial), stride, sides, dilation, groups), count, radius)
        channels, out = w.shape[0], operator.out_shape
    shape = (count, channels, *out)
    y = b.linear(batched, operator, shape)
    if bias is not None:
        y = _add(b, y, constant(bias).map(lambda t: t.reshape(-1, *([1] * dims))))
    return y if batched is x else Signal(y.node, shape[1:])


def _batch_norm(
    b: Builder, x: Signal, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> tuple[Signal, None, None]:
    """weight (x - mean) / sqrt(var + eps) + bias per channel: one scale with an enclosure, and an offset."""
    factor = constants.reciprocal(constants.square_root(constants.add(var, eps)))
    factor = factor if weight is None else constants.multiply(factor, weight)
    shift = constants.negative(constants.multiply(mean, factor))
    shift = shift if bias is None else constants.add(shift, bias)

    def wide(value: Constant) -> Constant:
        return value.map(lambda t: t.reshape(1, -1, *([1] * (len(x.shape) - 2))))

    return b.offset(b.scale(x, wide(factor)), wide(shift)), None, None


def _gather_last(b: Builder, x: Signal, dims: Sequence[int]) -> tuple[Signal, list[int]]:
    """x with the given axes last and joined into one."""
    rest = [d for d in range(len(x.shape)) if d not in dims]
    joined = b.move(x, lambda t: t.permute(*rest, *dims).reshape(*[t.shape[d] for d in rest], -1))
    return joined, rest


def _reduce(average: bool) -> Callable[..., Signal]:
    def rule(b: Builder, x: Signal, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Signal:
        dims = list(range(len(x.shape))) if dim in (None, []) else [dim] if isinstance(dim, int) else list(dim)
        dims = sorted(d % len(x.shape) for d in dims) if x.shape else []
        if not dims:
            return _cast(b, x, dtype)
        x = _cast(b, x, dtype)
        n = math.prod(x.shape[d] for d in dims)
        joined, rest = _gather_last(b, x, dims)
        y = along_axis(b, joined, Constant(torch.ones(1, n, dtype=torch.float64)), -1)
        if average:  # the exact divisor is what tells a mean from a sum with rounded weights
            y = b.scale(y, constants.reciprocal(float(n)), float(n))
        kept = [1 if d in dims else x.shape[d] for d in range(len(x.shape))]
        return Signal(y.node, tuple(kept if keepdim else [x.shape[d] for d in rest]))

    return rule


def _variance(root: bool, mean_too: bool = False) -> Callable[..., Any]:
    """sum (x - mean x)^2 / (n - correction) over some axes, or its root: a norm of the centred signal."""

    def rule(
        b: Builder, x: Signal, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None
    ) -> Any:
        correction = (1 if unbiased else 0) if correction is None else correction
        dims = list(range(len(x.shape))) if dim in (None, []) else [dim] if isinstance(dim, int) else list(dim)
        n = math.prod(x.shape[d] for d in dims)
        if n - correction <= 0:
            b.refuse(f"the variance of {n} entries with correction {correction}")
        mean = _reduce(True)(b, x, dims, True)
        centred = _sub(b, x, mean)
        total = _reduce(False)(b, pointwise(b, centred, "square"), dims, keepdim)
        divisor = float(n - correction)
        spread = b.scale(total, constants.reciprocal(divisor), divisor)
        spread = pointwise(b, spread, "sqrt") if root else spread
        return (spread, mean if keepdim else _reshape(b, mean, spread.shape)) if mean_too else spread

    return rule


def _corrected(root: bool, mean_too: bool = False) -> Callable[..., Any]:
    rule = _variance(root, mean_too)
    return lambda b, x, dim=None, correction=None, keepdim=False: rule(
        b, x, dim, keepdim=keepdim, correction=1 if correction is None else correction
    )


def _cumsum(b: Builder, x: Signal, dim: int, dtype: Any = None) -> Signal:
    x = _cast(b, x, dtype)
    if not x.shape:
        return x
    n = x.shape[dim]
    return along_axis(b, x, Constant(torch.ones(n, n, dtype=torch.float64).tril()), dim)


AFFINE: dict[str, Callable[..., Any]] = {
    "aten.add.Tensor": _add,
    "aten.add.Scalar": _add,
    "aten.sub.Tensor": _sub,
    "aten.sub.Scalar": _sub,
    "aten.rsub.Scalar": _rsub,
    "aten.rsub.Tensor": _rsub,
    "aten.neg.default": negate,
    "aten.mul.Tensor": _mul,
    "aten.mul.Scalar": _mul,
    "aten.div.Tensor": _div,
    "aten.div.Scalar": _div,
    "aten.linear.default": _linear,
    "aten.matmul.default": matmul,
    "aten.mm.default": matmul,
    "aten.bmm.default": matmul,
    "aten.mv.default": matmul,
    "aten.dot.default": matmul,
    "aten.addmm.default": _addmm,
    "aten.baddbmm.default": _addmm,
    "aten.addmv.default": _addmm,
    "aten.convolution.default": _convolution,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.avg_pool1d.default": avg_pool(1),
    "aten.avg_pool2d.default": avg_pool(2),
    "aten.avg_pool3d.default": avg_pool(3),
    "aten._adaptive_avg_pool2d.default": adaptive_avg_pool(2),
    "aten._adaptive_avg_pool3d.default": adaptive_avg_pool(3),
    "aten.upsample_linear1d.default": interpolation(1, 1, linear_matrix),
    "aten.upsample_bilinear2d.default": interpolation(2, 1, linear_matrix),
    "aten.upsample_trilinear3d.default": interpolation(3, 1, linear_matrix),
    "aten.upsample_bicubic2d.default": interpolation(2, 2, cubic_matrix),
    "aten._upsample_bilinear2d_aa.default": interpolation(2, 1, smoothed_matrix("_upsample_bilinear2d_aa")),
    "aten._upsample_bicubic2d_aa.default": interpolation(2, 2, smoothed_matrix("_upsample_bicubic2d_aa")),
    "aten.sum.default": lambda b, x, dtype=None: _reduce(False)(b, x, None, False, dtype),
    "aten.sum.dim_IntList": _reduce(False),
    "aten.mean.default": lambda b, x, dtype=None: _reduce(True)(b, x, None, False, dtype),
    "aten.mean.dim": _reduce(True),
    "aten.var.correction": _corrected(False),
    "aten.std.correction": _corrected(True),
    "aten.var_mean.correction": _corrected(False, True),
    "aten.std_mean.correction": _corrected(True, True),
    "aten.var.dim": _variance(False),
    "aten.std.dim": _variance(True),
    "aten.var.default": lambda b, x, unbiased=True: _variance(False)(b, x, None, unbiased),
    "aten.std.default": lambda b, x, unbiased=True: _variance(True)(b, x, None, unbiased),
    "aten.cumsum.default": _cumsum,
    "aten.col2im.default": fold,
}
__all__ = ["AFFINE", "Scale", "along_axis", "matmul", "pool_spans"]
