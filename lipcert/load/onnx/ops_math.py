"""ONNX operators that act entry by entry, products and reductions, as torch operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.load.onnx.node import OnnxNode, Op, Rule


def _unary(function: Callable[[Tensor], Tensor]) -> Rule:
    """Operators whose torch twin is the same function of one tensor."""

    def apply(node: OnnxNode, x: Tensor) -> Tensor:
        return function(x)

    return apply


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    def apply(node: OnnxNode, a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    return apply


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    def apply(node: OnnxNode, *xs: Tensor) -> Tensor:
        return reduce(function, xs)

    return apply


def _mean(node: OnnxNode, *xs: Tensor) -> Tensor:
    return reduce(torch.add, xs) / len(xs)


def _div(node: OnnxNode, a: Tensor, b: Tensor) -> Tensor:
    # integer division of ONNX truncates towards zero (C)
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _mod(node: OnnxNode, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node["fmod"] else torch.remainder(a, b)


def _pow(node: OnnxNode, x: Tensor, y: Tensor) -> Tensor:
    if node.has(1) and y.numel() == 1 and y.dim() <= x.dim() and x.is_floating_point():
        return torch.pow(x, node.scalar(1, "exponent"))
    if x.is_floating_point() and not y.is_floating_point():
        y = y.to(x.dtype)
    return torch.pow(x, y).to(x.dtype)


def _clip(node: OnnxNode, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """min(max(x, low), high): the constant `high` where low > high, and with an infinite bound on the wrong side."""
    if node.version < 11:
        bounds = [node["min"], node["max"]]
        if any(b is not None and math.isnan(b) for b in bounds):
            node.refuse("a bound is NaN")
    else:
        bounds = [None if v is None else node.scalar(i, w) for i, v, w in ((1, low, "minimum"), (2, high, "maximum"))]
    # the schema writes "no bound" as the largest float32; over the reals that is a bound, and it is kept
    least, most = (None if b == out else b for b, out in zip(bounds, (-math.inf, math.inf), strict=True))
    if most == -math.inf or (least == math.inf and most is None):
        node.refuse(f"its bounds make it the constant {-math.inf if most == -math.inf else math.inf}")
    if least is None and most is None:
        return x
    if least is not None and most is not None and least >= most:
        return torch.full(x.shape, most, dtype=x.dtype)
    if not x.is_floating_point():
        return torch.clamp(x, *(None if b is None else int(b) for b in (least, most)))
    return torch.clamp(x, least, most)


def _leaky_relu(node: OnnxNode, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node["alpha"])


def _prelu(node: OnnxNode, x: Tensor, slope: Tensor) -> Tensor:
    try:
        fits = np.broadcast_shapes(x.shape, slope.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        node.refuse(f"slope of shape {list(slope.shape)} does not broadcast to {list(x.shape)}")
    if slope.numel() == 1:
        return F.prelu(x, slope.reshape(1))
    padded = (1,) * (x.dim() - slope.dim()) + tuple(slope.shape)
    if x.dim() >= 2 and padded[1] == slope.numel() == x.shape[1]:
        return F.prelu(x, slope.reshape(-1))  # torch: one slope per entry of axis 1
    return F.relu(x) - slope * F.relu(-x)


def _elu(node: OnnxNode, x: Tensor) -> Tensor:
    return F.elu(x, node["alpha"])


def _selu(node: OnnxNode, x: Tensor) -> Tensor:
    # not F.selu: ONNX rounds alpha and gamma to float32
    return F.elu(x, node["alpha"]) * node["gamma"]


def _celu(node: OnnxNode, x: Tensor) -> Tensor:
    return F.celu(x, node["alpha"])


def _hard_sigmoid(node: OnnxNode, x: Tensor) -> Tensor:
    return torch.clamp(x * node["alpha"] + node["beta"], 0.0, 1.0)


def _gelu(node: OnnxNode, x: Tensor) -> Tensor:
    if node["approximate"] not in ("none", "tanh"):
        node.refuse(f"approximate={node['approximate']!r} is not known")
    return F.gelu(x, approximate=node["approximate"])


def _swish(node: OnnxNode, x: Tensor) -> Tensor:
    return F.silu(x) if node["alpha"] == 1.0 else x * torch.sigmoid(x * node["alpha"])


def _thresholded_relu(node: OnnxNode, x: Tensor) -> Tensor:
    return F.relu(x) if node["alpha"] == 0.0 else F.threshold(x, node["alpha"], 0.0)


def _shrink(node: OnnxNode, x: Tensor) -> Tensor:
    if node["lambd"] < 0:
        node.refuse("a negative lambd is not known")
    if node["bias"] == node["lambd"]:  # softshrink, written with the kinks that a lowering knows
        return F.relu(x - node["lambd"]) - F.relu(-x - node["lambd"])
    node.refuse("jumps where |x| = lambd, for bias differs from lambd", unbounded=True)


def _gemm(node: OnnxNode, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha op(A) op(B) + beta C, with A and B of rank 2 and C broadcast to the product."""
    if a.dim() != 2 or b.dim() != 2:
        node.refuse(f"factors of shape {list(a.shape)} and {list(b.shape)} are not matrices")
    a = a.t() if node["transA"] else a
    alpha, beta = node["alpha"], node["beta"]
    weight = b if node["transB"] else b.t()
    if c is not None and alpha == beta == 1.0 and not node.on_data[1] and tuple(c.shape) == (weight.shape[0],):
        return F.linear(a, weight, c)
    y = F.linear(a, weight) if not node.on_data[1] else torch.matmul(a, weight.t())
    y = y if alpha == 1.0 else y * alpha
    if c is None or beta == 0.0:
        return y
    if np.broadcast_shapes(y.shape, c.shape) != y.shape:
        node.refuse(f"C of shape {list(c.shape)} does not broadcast to {list(y.shape)}")
    return y + (c if beta == 1.0 else c * beta)


def _einsum(node: OnnxNode, *xs: Tensor) -> Tensor:
    return torch.einsum(node["equation"].replace(" ", ""), *xs)


def _cumsum(node: OnnxNode, x: Tensor, axis: Tensor) -> Tensor:
    axes = node.ints(1, "axis")
    if len(axes) != 1:
        node.refuse("its axis is not one number")
    dim = node.axis(axes[0], x.dim())
    if node["reverse"]:
        x = x.flip(dim)
    y = torch.cumsum(x, dim)
    if node["exclusive"]:
        y = y - x
    return y.flip(dim) if node["reverse"] else y


def _reduction(function: Callable[..., Tensor]) -> Rule:
    """Reductions share axes (attribute or input), keepdims and the meaning of no axes. `function`: (x, dims, keep)."""

    def apply(node: OnnxNode, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = node["axes"] if axes is None else node.ints(1, "axes")
        keep, noop = bool(node["keepdims"]), bool(node["noop_with_empty_axes"])
        if not chosen:  # none given, or an empty list
            if noop:
                return function(x.unsqueeze(-1), [x.dim()], False)  # each entry by itself
            chosen = list(range(x.dim()))
        dims = node.axes(list(chosen), x.dim())
        return function(x, dims, keep) if dims else function(x.unsqueeze(-1), [0], False)

    return apply


def _sum_of(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.sum(x, dims, keep, dtype=x.dtype)


def _product_of(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, keep, dtype=x.dtype)
    return x


def _norm(order: float) -> Callable[..., Tensor]:
    def norm(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        return torch.linalg.vector_norm(x, order, dims, keep)

    return norm


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, dims, keep)


_ARITHMETIC = (7, 13, 14)
_SINCE_6 = (6, 13)
_FLOAT_22 = (7, 22)
_REDUCE = (1, 11, 13)
_REDUCE_18 = (1, 11, 13, 18)
_REDUCE_MAX = (1, 11, 12, 13, 18, 20)
_COMPARE = (7, 9, 13)
_AXES = "axes keepdims noop_with_empty_axes"

TABLE: dict[str, Op] = {
    "Abs": Op(_unary(torch.abs), _SINCE_6),
    "Neg": Op(_unary(torch.neg), _SINCE_6),
    "Reciprocal": Op(_unary(torch.reciprocal), _SINCE_6),
    "Sqrt": Op(_unary(torch.sqrt), _SINCE_6),
    "Exp": Op(_unary(torch.exp), _SINCE_6),
    "Log": Op(_unary(torch.log), _SINCE_6),
    "Sin": Op(_unary(torch.sin), _FLOAT_22),
    "Cos": Op(_unary(torch.cos), _FLOAT_22),
    "Tan": Op(_unary(torch.tan), _FLOAT_22),
    "Asin": Op(_unary(torch.asin), _FLOAT_22),
    "Acos": Op(_unary(torch.acos), _FLOAT_22),
    "Atan": Op(_unary(torch.atan), _FLOAT_22),
    "Sinh": Op(_unary(torch.sinh), (9, 22)),
    "Cosh": Op(_unary(torch.cosh), (9, 22)),
    "Asinh": Op(_unary(torch.asinh), (9, 22)),
    "Acosh": Op(_unary(torch.acosh), (9, 22)),
    "Atanh": Op(_unary(torch.atanh), (9, 22)),
    "Erf": Op(_unary(torch.erf), (9, 13)),
    "Floor": Op(_unary(torch.floor), _SINCE_6),
    "Ceil": Op(_unary(torch.ceil), _SINCE_6),
    "Round": Op(_unary(torch.round), (11, 22)),
    "Sign": Op(_unary(torch.sign), (9, 13)),
    "Sigmoid": Op(_unary(torch.sigmoid), _SINCE_6),
    "Tanh": Op(_unary(torch.tanh), _SINCE_6),
    "Relu": Op(_unary(F.relu), (6, 13, 14)),
    "LeakyRelu": Op(_leaky_relu, (6, 16), "alpha"),
    "PRelu": Op(_prelu, (7, 9, 16)),
    "Elu": Op(_elu, (6, 22), "alpha"),
    "Selu": Op(_selu, (6, 22), "alpha gamma"),
    "Celu": Op(_celu, (12,), "alpha"),
    "Softplus": Op(_unary(F.softplus), (1, 22)),
    "Softsign": Op(_unary(F.softsign), (1, 22)),
    "HardSigmoid": Op(_hard_sigmoid, (6, 22), "alpha beta"),
    "HardSwish": Op(_unary(F.hardswish), (14, 22)),
    "Gelu": Op(_gelu, (20,), "approximate"),
    "Mish": Op(_unary(F.mish), (18, 22)),
    "Swish": Op(_swish, (24,), "alpha"),
    "ThresholdedRelu": Op(_thresholded_relu, (10, 22), "alpha"),
    "Shrink": Op(_shrink, (9,), "bias lambd"),
    "IsNaN": Op(_unary(torch.isnan), (9, 13, 20), kind="moves"),
    "Not": Op(_unary(torch.logical_not), (1,), kind="moves"),
    "And": Op(_binary(torch.logical_and), (7,), kind="moves"),
    "Or": Op(_binary(torch.logical_or), (7,), kind="moves"),
    "Xor": Op(_binary(torch.logical_xor), (7,), kind="moves"),
    "Equal": Op(_binary(torch.eq), (7, 11, 13, 19), kind="moves"),
    "Greater": Op(_binary(torch.gt), _COMPARE, kind="moves"),
    "GreaterOrEqual": Op(_binary(torch.ge), (12, 16), kind="moves"),
    "Less": Op(_binary(torch.lt), _COMPARE, kind="moves"),
    "LessOrEqual": Op(_binary(torch.le), (12, 16), kind="moves"),
    "Add": Op(_binary(torch.add), _ARITHMETIC),
    "Sub": Op(_binary(torch.sub), _ARITHMETIC),
    "Mul": Op(_binary(torch.mul), _ARITHMETIC),
    "Div": Op(_div, _ARITHMETIC),
    "Mod": Op(_mod, (10, 13), "fmod"),
    "Pow": Op(_pow, (7, 12, 13, 15)),
    "Min": Op(_variadic(torch.minimum), (6, 8, 12, 13)),
    "Max": Op(_variadic(torch.maximum), (6, 8, 12, 13)),
    "Sum": Op(_variadic(torch.add), (6, 8, 13)),
    "Mean": Op(_mean, (6, 8, 13)),
    "Clip": Op(_clip, (6, 11, 12, 13), "min max", inputs="min max"),
    "Gemm": Op(_gemm, (7, 9, 11, 13), "alpha beta transA transB", inputs="C"),
    "MatMul": Op(_binary(torch.matmul), (1, 9, 13)),
    "Einsum": Op(_einsum, (12,), "equation"),
    "CumSum": Op(_cumsum, (11, 14), "exclusive reverse"),
    "ReduceMean": Op(_reduction(torch.mean), _REDUCE_18, _AXES, inputs="axes"),
    "ReduceSum": Op(_reduction(_sum_of), _REDUCE, _AXES, inputs="axes"),
    "ReduceMax": Op(_reduction(torch.amax), _REDUCE_MAX, _AXES, inputs="axes"),
    "ReduceMin": Op(_reduction(torch.amin), _REDUCE_MAX, _AXES, inputs="axes"),
    "ReduceProd": Op(_reduction(_product_of), _REDUCE_18, _AXES, inputs="axes"),
    "ReduceL1": Op(_reduction(_norm(1)), _REDUCE_18, _AXES, inputs="axes"),
    "ReduceL2": Op(_reduction(_norm(2)), _REDUCE_18, _AXES, inputs="axes"),
    "ReduceSumSquare": Op(
        _reduction(lambda x, dims, keep: _sum_of(x * x, dims, keep)), _REDUCE_18, _AXES, inputs="axes"
    ),
    "ReduceLogSum": Op(
        _reduction(lambda x, dims, keep: torch.log(_sum_of(x, dims, keep))), _REDUCE_18, _AXES, inputs="axes"
    ),
    "ReduceLogSumExp": Op(_reduction(_log_sum_exp), _REDUCE_18, _AXES, inputs="axes"),
}
