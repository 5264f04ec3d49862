"""Nonlinear operations: rows of the activation table and the blocks. What is not listed is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks import Axis, LogSoftmax, LogSumExp, Norm2, Normalise, Pointwise, Product, Selection, Softmax, Sort
from lipcert.lower import constants
from lipcert.lower.builder import Builder, Signal, broadcast
from lipcert.lower.constants import Constant, constant
from lipcert.lower.functions import logarithm
from lipcert.lower.recognise import exact_constant, gated, read


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


def _reduced_shape(x: Signal, dims: Sequence[int], keepdim: bool) -> tuple[int, ...]:
    gone = {d % max(1, len(x.shape)) for d in dims}
    return tuple(1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone)


def _all_dims(x: Signal, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(x.shape)))
    return [dim] if isinstance(dim, int) else list(dim)


def _logsumexp(b: Builder, x: Signal, dim: Any, keepdim: bool = False) -> Signal:
    if dim == []:
        b.refuse("logsumexp along no axis")
    dims = _all_dims(x, dim)
    flat, n, _ = _axis(b, x, dims)
    return b.block(LogSumExp(x.size // max(1, n), n, 1), [flat], _reduced_shape(x, dims, keepdim))


def _vector_norm(b: Builder, x: Signal, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Signal:
    dims = _all_dims(x, dim)
    shape = _reduced_shape(x, dims, keepdim)
    flat, n, _rest = _axis(b, x, dims)
    if ord == 2:
        return b.block(Norm2(x.size // max(1, n), n, 1), [flat], shape)
    if ord == 1:
        from lipcert.lower.affine import along_axis

        summed = along_axis(b, pointwise(b, flat, "abs"), Constant(torch.ones(1, n, dtype=torch.float64)), -1)
        return Signal(summed.node, shape)
    if ord == math.inf:
        return _extreme(False)(b, pointwise(b, x, "abs"), dims, keepdim)
    b.refuse(f"a vector norm of order {ord}")


def _extreme(minimum: bool) -> Callable[..., Signal]:
    def rule(b: Builder, x: Signal, dim: Any = None, keepdim: bool = False) -> Signal:
        dims = _all_dims(x, dim)
        gone = sorted({d % max(1, len(x.shape)) for d in dims})
        rest = [d for d in range(len(x.shape)) if d not in gone]
        numbers = torch.arange(x.size).reshape(x.shape)
        windows = numbers.permute(*rest, *gone).reshape(-1, math.prod(x.shape[d] for d in gone)) if x.shape else numbers
        windows = windows.reshape(-1, max(1, windows.shape[-1] if windows.dim() else 1)).contiguous()
        return b.block(Selection(windows, x.size, minimum), [x], _reduced_shape(x, dims, keepdim))

    return rule


def _extreme_with_index(minimum: bool) -> Callable[..., tuple[Signal, Unread]]:
    return lambda b, x, dim, keepdim=False: (_extreme(minimum)(b, x, dim, keepdim), POSITIONS)


def pooling_windows(
    shape: Sequence[int], spans: Sequence[Sequence[tuple[int, int]]], dilation: Sequence[int]
) -> Tensor:
    """(planes * prod(out), prod(kernel)) entry numbers of pooling windows over the last len(spans) axes, -1 outside."""
    dims = len(spans)
    spatial, planes = list(shape[-dims:]), math.prod(shape[:-dims])
    flat = torch.zeros([1] * (2 * dims), dtype=torch.int64)
    inside = torch.ones([1] * (2 * dims), dtype=torch.bool)
    for axis, (n, windows, d) in enumerate(zip(spatial, spans, dilation, strict=True)):
        reach = windows[0][1] - windows[0][0] if windows else 1
        places = torch.tensor([start for start, _ in windows])[:, None] + torch.arange(0, reach, d)[None, :]
        view = [1] * (2 * dims)
        view[axis], view[dims + axis] = places.shape
        places = places.reshape(view)
        flat = flat * n + places
        inside = inside & (places >= 0) & (places < n)
    window = torch.where(inside, flat, torch.full_like(flat, -1)).reshape(-1, math.prod(flat.shape[dims:]))
    offsets = torch.arange(planes)[:, None, None] * math.prod(spatial)
    return torch.where(window[None] >= 0, window[None] + offsets, window[None]).reshape(-1, window.shape[1])


def _max_pool(dims: int) -> Callable[..., tuple[Signal, Unread]]:
    def rule(
        b: Builder,
        x: Signal,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> tuple[Signal, Unread]:
        from lipcert.lower.affine import pool_spans

        kernel, padding, dilation, stride = (
            tuple(v) * (dims if len(v) == 1 else 1) for v in (kernel, padding, dilation, stride or kernel)
        )
        spans = [
            pool_spans(n, k, s, p, d, ceil_mode)
            for n, k, s, p, d in zip(x.shape[-dims:], kernel, stride, padding, dilation, strict=True)
        ]
        windows = pooling_windows(x.shape, spans, dilation)
        return _select_windows(b, x, windows, (*x.shape[:-dims], *(len(s) for s in spans))), POSITIONS

    return rule


def _adaptive_max_pool(dims: int) -> Callable[..., tuple[Signal, Unread]]:
    def rule(b: Builder, x: Signal, size: Sequence[int]) -> tuple[Signal, Unread]:
        numbers = torch.arange(x.size).reshape(-1, *x.shape[-dims:])
        rows = []
        grids = [
            [(i * n // m, -((-(i + 1) * n) // m)) for i in range(m)] for n, m in zip(x.shape[-dims:], size, strict=True)
        ]
        for cell in _cells(grids):
            rows.append(numbers[(slice(None), *(slice(a, z) for a, z in cell))].reshape(numbers.shape[0], -1))
        width = max(r.shape[1] for r in rows)
        rows = [torch.nn.functional.pad(r, (0, width - r.shape[1]), value=-1) for r in rows]
        windows = torch.stack(rows, dim=1).reshape(-1, width)
        return _select_windows(b, x, windows, (*x.shape[:-dims], *size)), POSITIONS

    return rule


def _cells(grids: list[list[tuple[int, int]]]) -> list[tuple[tuple[int, int], ...]]:
    cells: list[tuple[tuple[int, int], ...]] = [()]
    for spans in grids:
        cells = [(*cell, span) for cell in cells for span in spans]
    return cells


def _select_windows(b: Builder, x: Signal, windows: Tensor, shape: Sequence[int]) -> Signal:
    if x.pad_minus_inf is not None:
        pad = x.pad_minus_inf
        windows = torch.where(windows >= 0, pad[windows.clamp(min=0)], windows)
        x = Signal(x.node, (b.nodes[x.node].size,))
    if bool((windows < 0).all(dim=1).any()):
        b.refuse("a pooling window lies in the padding only")
    return b.block(Selection(windows.contiguous(), b.nodes[x.node].size), [x], shape)


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


def _group_norm(
    b: Builder, x: Signal, weight: Any, bias: Any, batch: int, channels: int, rest: int, groups: int, eps: float
) -> tuple[Signal, ...]:
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


@dataclass(frozen=True)
class Decision(Signal):
    """A signal of booleans: 1 where true, 0 where false. `gap`: where it is known, the signal whose sign it is."""

    gap: Signal | None = None


def _compared(kind: str) -> Callable[..., Decision]:
    """A comparison as a step of the difference: it jumps, unless what is chosen by it hides that."""

    def rule(b: Builder, x: Any, y: Any) -> Decision:
        if isinstance(x, Decision) or isinstance(y, Decision):
            b.refuse("compares the outcomes of comparisons")
        x, y = broadcast(b, [x, y])
        if kind in ("lt", "le"):
            x, y = y, x
        if not isinstance(x, Signal):
            gap = b.offset(b.scale(y, constant(-1.0)), x)
        elif isinstance(y, Signal):
            gap = b.sum([x, b.scale(y, constant(-1.0))])
        else:
            gap = b.offset(x, constants.negative(y))
        if kind in ("eq", "ne"):
            z = pointwise(b, pointwise(b, gap, "sign"), "square")
            z = z if kind == "ne" else b.offset(b.scale(z, constant(-1.0)), constant(1.0))
        else:
            z = pointwise(b, gap, "heaviside", value=1.0 if kind in ("ge", "le") else 0.0)
            return Decision(z.node, z.shape, gap=gap)
        return Decision(z.node, z.shape)

    return rule


def _decision(b: Builder, x: Any) -> Decision:
    if not isinstance(x, Decision):
        b.refuse("a logical operation on values that are not outcomes of comparisons")
    return x


def _opposite(b: Builder, x: Decision) -> Decision:
    z = b.offset(b.scale(Signal(x.node, x.shape), constant(-1.0)), constant(1.0))
    return Decision(z.node, z.shape)


def _both(b: Builder, x: Any, y: Any) -> Decision:
    x, y = broadcast(b, [Signal(s.node, s.shape) for s in (_decision(b, x), _decision(b, y))])
    z = product(b, x, y)
    return Decision(z.node, z.shape)


def chosen(b: Builder, condition: Decision, x: Any, y: Any) -> Signal:
    """x where the condition holds, else y: y + condition (x - y). Where both are affine in what is compared and meet at
    the threshold that is y + k relu(gap), without a jump."""
    if condition.gap is not None and (slope := _bend(b, condition.gap, x, y)) is not None:
        bent = b.scale(pointwise(b, condition.gap, "relu"), exact_constant(slope))
        return _plus(b, bent, y if isinstance(y, Signal) else constant(y))
    step, x, y = broadcast(b, [Signal(condition.node, condition.shape), x, y])
    if not isinstance(x, Signal) and not isinstance(y, Signal):
        return b.offset(b.scale(step, constants.subtract(x, y)), y)
    gap = _difference(b, x, y)
    return _plus(b, product(b, step, gap), y)


def _bend(b: Builder, gap: Signal, x: Any, y: Any) -> Fraction | None:
    """k with x - y = k gap exactly, for uniform affine functions x, y, gap of one signal."""
    at = read(b.nodes, gap.node, activations=False)
    sides = []
    for value in (x, y):
        if isinstance(value, Signal):
            link = read(b.nodes, value.node, at.node, activations=False)
            if link.node != at.node or value.shape != gap.shape:
                return None
            sides.append((link.scale, link.shift))
        else:
            number = constant(value)
            if number.centre.numel() != 1 or number.radius is not None:
                return None
            sides.append((Fraction(0), Fraction(float(number.centre))))
    slope, shift = sides[0][0] - sides[1][0], sides[0][1] - sides[1][1]
    return slope / at.scale if at.scale != 0 and shift * at.scale == slope * at.shift else None


def _difference(b: Builder, x: Any, y: Any) -> Signal:
    if isinstance(y, Signal):
        return _plus(b, b.scale(y, constant(-1.0)), x)
    return b.offset(x, constants.negative(y))


def _plus(b: Builder, x: Signal, y: Any) -> Signal:
    return b.sum([x, y]) if isinstance(y, Signal) else b.offset(x, y)


_PLAIN_ROWS = """relu silu mish sigmoid tanh erf abs atan asinh sin cos tan exp expm1 log log1p sqrt rsqrt reciprocal
square sinh cosh asin acos acosh atanh floor ceil round trunc sign hardswish selu relu6""".split()

_COMPARISONS = "gt.Scalar gt.Tensor lt.Scalar lt.Tensor ge.Scalar ge.Tensor le.Scalar le.Tensor eq.Scalar eq.Tensor ne.Scalar ne.Tensor".split()

NONLINEAR: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}.default": _row(name) for name in _PLAIN_ROWS},
    **{f"aten.{name}": _compared(name.partition(".")[0]) for name in _COMPARISONS},
    "aten.bitwise_not.default": lambda b, x: _opposite(b, _decision(b, x)),
    "aten.bitwise_and.Tensor": lambda b, x, y: _both(b, x, y),
    "aten.bitwise_or.Tensor": lambda b, x, y: _opposite(
        b, _both(b, _opposite(b, _decision(b, x)), _opposite(b, _decision(b, y)))
    ),
    "aten.logical_not.default": lambda b, x: _opposite(b, _decision(b, x)),
    "aten.logical_and.default": lambda b, x, y: _both(b, x, y),
    "aten.logical_or.default": lambda b, x, y: _opposite(
        b, _both(b, _opposite(b, _decision(b, x)), _opposite(b, _decision(b, y)))
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
    "aten.amax.default": _extreme(False),
    "aten.amin.default": _extreme(True),
    "aten.max.default": _extreme(False),
    "aten.min.default": _extreme(True),
    "aten.max.dim": _extreme_with_index(False),
    "aten.min.dim": _extreme_with_index(True),
    "aten.max_pool2d_with_indices.default": _max_pool(2),
    "aten.max_pool3d_with_indices.default": _max_pool(3),
    "aten.adaptive_max_pool2d.default": _adaptive_max_pool(2),
    "aten.adaptive_max_pool3d.default": _adaptive_max_pool(3),
    "aten._softmax.default": _along(Softmax),
    "aten._safe_softmax.default": _along(Softmax),
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
