"""Nonlinear operations: rows of the activation table and the blocks. What is not listed is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lipcert.blocks.base import Axis
from lipcert.blocks.normalise import Norm2, Normalise
from lipcert.blocks.selection import Selection
from lipcert.blocks.softmax import LogSoftmax, LogSumExp, Softmax
from lipcert.blocks.sort import Sort
from lipcert.load.lower import masks
from lipcert.load.lower.builder import Builder, Signal, broadcast
from lipcert.load.lower.decisions import COMPARISONS, PLAIN_ROWS, both, compared, decision, opposite
from lipcert.load.lower.functions import logarithm
from lipcert.load.lower.pooling import adaptive_max_pool, extreme, extreme_with_index, max_pool
from lipcert.load.lower.signals import POSITIONS, Unread, all_dims, pointwise, product, reduced_shape
from lipcert.rigor import constants
from lipcert.rigor.constants import Constant, constant


def _row(name: str, *keys: str) -> Callable[..., Signal]:
    """The rule of an elementwise operation whose arguments are the row's parameters under the given names."""

    def rule(b: Builder, x: Signal, *args: Any, **kwargs: Any) -> Signal:
        given = {key: value if value is None or isinstance(value, float | int) else constant(value)
                 for key, value in zip(keys, args, strict=False)}  # fmt: skip
        if len(args) > len(keys) or kwargs:
            b.refuse(f"{name} with arguments {args[len(keys) :]} {kwargs}")
        return pointwise(b, x, name, **given)

    return rule


def _clamp(b: Builder, x: Signal, min: Any = None, max: Any = None) -> Signal:
    """Bounds may be numbers or constant tensors: clamp(x, c) = c + relu(x - c) where they differ by entry."""
    low, high = (None if v is None else constant(v) for v in (min, max))
    if all(v is None or (v.centre.numel() == 1 and v.radius is None) for v in (low, high)):
        # torch.clamp with min > max is max everywhere, and so is min(max(x, low), high)
        return pointwise(b, x, "clamp", min=low, max=high)
    if low is not None:
        x = maximum(b, x, low)
    return x if high is None else _minimum(b, x, high)


def maximum(b: Builder, x: Any, y: Any) -> Signal:
    x, y = broadcast(b, [x, y])
    if isinstance(x, Signal) and isinstance(y, Signal):
        return _choose(b, x, y, False)
    signal, value = (x, y) if isinstance(x, Signal) else (y, x)
    return b.offset(pointwise(b, b.offset(signal, constants.negative(value)), "relu"), value)


def _minimum(b: Builder, x: Any, y: Any) -> Signal:
    x, y = broadcast(b, [x, y])
    if isinstance(x, Signal) and isinstance(y, Signal):
        return _choose(b, x, y, True)
    signal, value = (x, y) if isinstance(x, Signal) else (y, x)  # min(x, c) = c - relu(c - x)
    flipped = b.offset(b.scale(signal, constant(-1.0)), value)
    return b.offset(b.scale(pointwise(b, flipped, "relu"), constant(-1.0)), value)


def _choose(b: Builder, x: Signal, y: Signal, minimum: bool) -> Signal:
    both = b.concat([x, y])
    windows = torch.stack([torch.arange(x.size), torch.arange(x.size) + x.size], dim=1)
    return b.block(Selection(windows, both.size, minimum), [both], x.shape)


def _axis(b: Builder, x: Signal, dims: Sequence[int]) -> tuple[Signal, int, list[int]]:
    """x with `dims` moved last and joined: (rows, n) flat; n; the axes that stay."""
    dims = sorted({d % max(1, len(x.shape)) for d in dims})
    rest = [d for d in range(len(x.shape)) if d not in dims]
    n = math.prod(x.shape[d] for d in dims)
    return b.move(x, lambda t: t.permute(*rest, *dims).reshape(-1, n)) if x.shape else x, n, rest


def _along(kind: type[Axis], **options: Any) -> Callable[..., Signal]:
    """Softmax and the like: along one axis, same shape out."""

    def rule(b: Builder, x: Signal, dim: int, half_to_float: bool = False) -> Signal:
        if not x.shape:
            return b.block(kind(1, 1, 1, **options), [x], x.shape)
        d = dim % len(x.shape)
        outer, inner = math.prod(x.shape[:d]), math.prod(x.shape[d + 1 :])
        return b.block(kind(outer, x.shape[d], inner, **options), [x], x.shape)

    return rule


def _softmax(safe: bool) -> Callable[..., Signal]:
    def rule(b: Builder, x: Signal, dim: int, half_to_float: bool = False) -> Signal:
        return _along(Softmax)(b, x, dim) if x.hidden is None else masks.softmax(b, x, dim % len(x.shape), safe)

    return rule


def _logsumexp(b: Builder, x: Signal, dim: Any, keepdim: bool = False) -> Signal:
    if dim == []:
        b.refuse("logsumexp along no axis")
    dims = all_dims(x, dim)
    flat, n, _ = _axis(b, x, dims)
    return b.block(LogSumExp(x.size // max(1, n), n, 1), [flat], reduced_shape(x, dims, keepdim))


def _vector_norm(b: Builder, x: Signal, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Signal:
    dims = all_dims(x, dim)
    shape = reduced_shape(x, dims, keepdim)
    flat, n, _rest = _axis(b, x, dims)
    if ord == 2:
        return b.block(Norm2(x.size // max(1, n), n, 1), [flat], shape)
    if ord == 1:
        from lipcert.load.lower.windows import along_axis

        summed = along_axis(b, pointwise(b, flat, "abs"), Constant(torch.ones(1, n, dtype=torch.float64)), -1)
        return Signal(summed.node, shape)
    if ord == math.inf:
        return extreme(False)(b, pointwise(b, x, "abs"), dims, keepdim)
    b.refuse(f"a vector norm of order {ord}")


def _affine(b: Builder, x: Signal, weight: Any, bias: Any, shape: Sequence[int]) -> Signal:
    if weight is not None:
        x = b.scale(x, constant(weight).map(lambda t: t.reshape(tuple(shape))))
    return x if bias is None else b.offset(x, constant(bias).map(lambda t: t.reshape(tuple(shape))))


def _layer_norm(b: Builder, x: Signal, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Signal, ...]:
    n = math.prod(shape)
    z = b.block(Normalise(x.size // max(1, n), n, 1, eps=eps), [x], x.shape)
    return (_affine(b, z, weight, bias, shape),)


def _rms_norm(b: Builder, x: Signal, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Signal:
    n = math.prod(shape)
    if eps is None:
        b.refuse("RMS norm without eps takes the machine epsilon of the run's dtype: state eps in the model")
    z = b.block(Normalise(x.size // max(1, n), n, 1, eps=eps, centred=False), [x], x.shape)
    return _affine(b, z, weight, None, shape)


def _group_norm(b: Builder, x: Signal, weight: Any, bias: Any, *sizes: Any) -> tuple[Signal, ...]:
    """`sizes`: batch, channels, entries of a channel, groups, eps, as ATen orders them."""
    batch, channels, rest, groups, eps = sizes
    n = channels // groups * rest
    z = b.block(Normalise(batch * groups, n, 1, eps=eps), [x], x.shape)
    return (_affine(b, z, weight, bias, (1, channels, *([1] * (len(x.shape) - 2)))),)


def _instance_norm(
    b: Builder, x: Signal, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple[Signal, ...]:
    """Statistics of the signal itself, per channel over the batch and space axes."""
    order = [1, 0, *range(2, len(x.shape))]
    turned = b.move(x, lambda t: t.permute(*order))
    n = x.size // max(1, x.shape[1])
    z = b.block(Normalise(x.shape[1], n, 1, eps=eps), [turned], turned.shape)
    z = b.move(z, lambda t: t.permute(*order))
    return (_affine(b, z, weight, bias, (1, x.shape[1], *([1] * (len(x.shape) - 2)))),)


def _exponential(b: Builder, base: Any, x: Signal) -> Signal:
    """c^x = exp(x log c) of positive constants c."""
    if isinstance(base, Signal):
        b.refuse("a signal raised to the power of a signal")
    if not bool((constant(base).lower > 0).all()):
        b.refuse("a constant that is not positive, raised to the power of a signal")
    logs, x = broadcast(b, [logarithm(base), x])
    return pointwise(b, b.scale(x, logs), "exp")


def _power(b: Builder, x: Any, exponent: Any) -> Signal:
    if isinstance(exponent, Signal):
        return _exponential(b, x, exponent)
    value = constant(exponent)
    if value.centre.numel() != 1 or value.radius is not None:
        b.refuse("a power with an exponent per entry")
    n = float(value.centre)
    if n == 0 or not math.isfinite(n):
        b.refuse(f"a signal to the power {n}")
    special = {1.0: None, 2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
    if n in special:
        name = special[n]
        return x if name is None else pointwise(b, x, name)
    return pointwise(b, x, "pow_int", exponent=n) if n == int(n) else pointwise(b, x, "pow", exponent=n)


def _glu(b: Builder, x: Signal, dim: int = -1) -> Signal:
    half = x.shape[dim] // 2
    u, v = b.move(x, lambda t: t.narrow(dim, 0, half)), b.move(x, lambda t: t.narrow(dim, half, half))
    return product(b, u, pointwise(b, v, "sigmoid"))


def _logaddexp(b: Builder, x: Any, y: Any) -> Signal:
    sides = broadcast(b, [x, y])
    both = b.concat([b.constant_node(s) if isinstance(s, Constant) else s for s in sides])
    return b.block(
        LogSumExp(1, 2, sides[0].size if isinstance(sides[0], Signal) else both.size // 2), [both], sides[0].shape
    )


def _sort(b: Builder, x: Signal, dim: int = -1, descending: bool = False, **_: Any) -> tuple[Signal, Unread]:
    return _along(Sort, descending=descending)(b, x, dim), POSITIONS


def _topk(
    b: Builder, x: Signal, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Signal, Unread]:
    if not sorted:
        b.refuse("topk with sorted=False leaves the order of its results open")
    ordered = _along(Sort, descending=largest)(b, x, dim)
    return b.move(ordered, lambda t: t.narrow(dim, 0, k)), POSITIONS


def _gelu(b: Builder, x: Signal, approximate: str = "none") -> Signal:
    return pointwise(b, x, {"none": "gelu_erf", "tanh": "gelu_tanh"}[approximate])


def _never(what: str) -> Callable[..., Any]:
    def rule(b: Builder, *_: Any, **__: Any) -> Any:
        b.refuse(f"{what}: a step function of the input, not Lipschitz", unbounded=True)

    return rule


NONLINEAR: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}.default": _row(name) for name in PLAIN_ROWS},
    **{f"aten.{name}": compared(name.partition(".")[0]) for name in COMPARISONS},
    "aten.bitwise_not.default": lambda b, x: opposite(b, decision(b, x)),
    "aten.bitwise_and.Tensor": lambda b, x, y: both(b, x, y),
    "aten.bitwise_or.Tensor": lambda b, x, y: opposite(
        b, both(b, opposite(b, decision(b, x)), opposite(b, decision(b, y)))
    ),
    "aten.logical_not.default": lambda b, x: opposite(b, decision(b, x)),
    "aten.logical_and.default": lambda b, x, y: both(b, x, y),
    "aten.logical_or.default": lambda b, x, y: opposite(
        b, both(b, opposite(b, decision(b, x)), opposite(b, decision(b, y)))
    ),
    "aten.argmax.default": _never("takes the position of a maximum"),
    "aten.argmin.default": _never("takes the position of a minimum"),
    "aten.gelu.default": _gelu,
    "aten.softplus.default": _row("softplus", "beta", "threshold"),
    "aten.hardsigmoid.default": _row("hardsigmoid"),
    "aten.hardtanh.default": _row("hardtanh", "min_val", "max_val"),
    "aten.leaky_relu.default": _row("leaky_relu", "negative_slope"),
    "aten._prelu_kernel.default": _row("prelu", "weight"),
    "aten.elu.default": _row("elu", "alpha", "scale", "input_scale"),
    "aten.celu.default": _row("celu", "alpha"),
    "aten.threshold.default": _row("threshold", "threshold", "value"),
    "aten.log_sigmoid_forward.default": lambda b, x: (pointwise(b, x, "logsigmoid"),),
    "aten.clamp.default": _clamp,
    "aten.clamp.Tensor": _clamp,
    "aten.clamp_min.default": lambda b, x, low: _clamp(b, x, min=low),
    "aten.clamp_max.default": lambda b, x, high: _clamp(b, x, max=high),
    "aten.maximum.default": maximum,
    "aten.minimum.default": _minimum,
    "aten.amax.default": extreme(False),
    "aten.amin.default": extreme(True),
    "aten.max.default": extreme(False),
    "aten.min.default": extreme(True),
    "aten.max.dim": extreme_with_index(False),
    "aten.min.dim": extreme_with_index(True),
    "aten.max_pool2d_with_indices.default": max_pool(2),
    "aten.max_pool3d_with_indices.default": max_pool(3),
    "aten.adaptive_max_pool2d.default": adaptive_max_pool(2),
    "aten.adaptive_max_pool3d.default": adaptive_max_pool(3),
    "aten._softmax.default": _softmax(safe=False),
    "aten._safe_softmax.default": _softmax(safe=True),
    "aten.isnan.default": masks.is_nan,
    "aten._log_softmax.default": _along(LogSoftmax),
    "aten.logsumexp.default": _logsumexp,
    "aten.logaddexp.default": _logaddexp,
    "aten.linalg_vector_norm.default": _vector_norm,
    "aten.native_layer_norm.default": _layer_norm,
    "aten.native_group_norm.default": _group_norm,
    "aten.rms_norm.default": _rms_norm,
    "aten._native_batch_norm_legit.no_stats": _instance_norm,
    "aten.pow.Tensor_Scalar": _power,
    "aten.pow.Tensor_Tensor": _power,
    "aten.pow.Scalar": _power,
    "aten.glu.default": _glu,
    "aten.sort.default": _sort,
    "aten.topk.default": _topk,
}
