"""What each operator of ONNX does to increments: one row per operator in the table at the foot of this file.

Operators that move entries act on arrays of positions. Nonlinearities state their slopes, with the reason.
"""

from collections.abc import Callable
from fractions import Fraction
from math import floor, isqrt, prod
from typing import Any

import numpy as np

from lipcert_audit.exact import QUOTIENT, Map, diagonal, integers, merged, quotients, stacked
from lipcert_audit.network import SLOPE, TERMS, WHOLE, Layer, Node, Rule, Signal, Table, Value, added, plus, still, tensor


def moving(change: Callable[[Node, np.ndarray], np.ndarray]) -> Rule:
    """`change` acts on any array: on a constant itself, on the positions of a signal."""
    signal = lambda node: node.signal().take(change(node, node.signal().index()))  # noqa: E731
    return lambda node: signal(node) if isinstance(node.inputs[0], Signal) else change(node, node.constant(0))


def reshape(node: Node, x: np.ndarray) -> np.ndarray:
    sizes = node.optional(1)
    if node["allowzero"] and 0 in sizes:
        node.refuse("a size of zero")
    return x.reshape([x.shape[k] if n == 0 else n for k, n in enumerate(sizes)])


def flatten(node: Node, x: np.ndarray) -> np.ndarray:
    return x.reshape(prod(x.shape[: node["axis"]]), -1)


def axes_of(node: Node) -> list[int] | None:
    """An attribute in old opsets, an input in new ones."""
    return node.optional(1, node["axes"])


def cut(node: Node, x: np.ndarray) -> np.ndarray:
    """Slice. Bounds are clamped as Python clamps them, but for a negative step down to the first entry."""
    starts, ends = node.optional(1, node["starts"]), node.optional(2, node["ends"])
    axes, steps = node.optional(3, node["axes"]) or range(len(starts)), node.optional(4) or [1] * len(starts)
    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        where[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(where)]


def cast(node: Node, x: np.ndarray) -> np.ndarray:
    """Of whole numbers only: any other rounds, or may round."""
    if x is not node.inputs[0] or x.dtype != np.int64 or node["to"] not in WHOLE or (abs(x) >= 2**31).any():
        node.refuse("of numbers that are not whole, or large")
    return x


def dropout(node: Node, x: np.ndarray) -> np.ndarray:
    if node.optional(2) or (node.opset == 6 and not node["is_test"]):
        node.refuse("training mode")
    return x


def pad(node: Node) -> Value:
    pads, x = np.reshape(node.optional(1, node["pads"]), (2, -1)).T, node.signal()
    if node["mode"] != b"constant" or (pads < 0).any() or len(node.inputs) > 3:
        node.refuse("mode, negative pads or axes")
    around = np.pad(np.zeros(x.shape), pads.tolist(), constant_values=np.max(node.optional(2, node["value"])))
    return plus(x.take(np.pad(x.index(), pads.tolist(), constant_values=-1)), around)


def concat(node: Node) -> Value:
    if not any(isinstance(v, Signal) for v in node.inputs):
        return np.concatenate([node.constant(k) for k in range(len(node.inputs))], node["axis"])
    signals = [node.change(k) for k in range(len(node.inputs))]
    starts = np.cumsum([0, *(v.size for v in signals)])
    index = np.concatenate([v.index() + s for v, s in zip(signals, starts, strict=False)], node["axis"])
    return Signal(stacked([v.map for v in signals]), (starts[-1],)).take(index)


def add(node: Node) -> Value:
    """Add, Sub, Sum with broadcasting."""
    out = np.broadcast_shapes(*(v.shape for v in node.inputs))
    first, *rest = (v.take(np.broadcast_to(v.index(), out)) for v in map(node.change, range(len(node.inputs))))
    return added([first, *(v.negative() if node.kind == "Sub" else v for v in rest)])


def times(node: Node) -> Value:
    """Mul and Div by a constant."""
    which = 1 if isinstance(node.inputs[1], np.ndarray) else 0
    x, by = node.signal(1 - which), node.constant(which)
    out = np.broadcast_shapes(x.shape, by.shape)
    if node.kind == "Div" and which == 0:
        node.refuse("by a signal")
    value, unit = integers(np.broadcast_to(by, out))
    factor = diagonal(value, unit) if node.kind == "Mul" else diagonal(*quotients(1 << unit, value))
    return x.take(np.broadcast_to(x.index(), out)).times(factor)


def operator(out: tuple, cols: int, row: np.ndarray, col: np.ndarray, value: np.ndarray, unit: int, error: int = 0) -> Map:
    """From arrays that are broadcast together; col -1: no coefficient."""
    row, col, value = (a.ravel() for a in np.broadcast_arrays(row, col, value))
    there = (col >= 0) & (value != 0)
    return merged(prod(out), cols, row[there], col[there], value[there], unit, error)


def matrix(node: Node, x: Signal, weight: np.ndarray, left: bool) -> Signal:
    """x W (left: W x) over the last axes."""
    turned = left and len(x.shape) > 1
    index, weight = x.index().swapaxes(-1, -2) if turned else x.index(), weight if left else weight.T
    n, k = weight.shape
    vectors = index.reshape(-1, 1, index.shape[-1])
    if k != index.shape[-1] or len(vectors) * n * k > TERMS:
        node.refuse(f"constant of shape {weight.shape} for {x.shape}, or too large")
    value, unit = integers(weight)
    row = np.arange(len(vectors) * n).reshape(-1, n, 1)
    made = x.through(operator(row.shape, x.size, row, vectors, value.reshape(1, n, k), unit), (*index.shape[:-1], n))
    return made.take(made.index().swapaxes(-1, -2)) if turned else made


def matmul(node: Node) -> Value:
    left = isinstance(node.inputs[0], np.ndarray)
    x, weight = node.signal(int(left)), node.constant(1 - left)
    if weight.ndim > 1:
        return matrix(node, x, weight, left)
    made = matrix(node, x, weight[None, :] if left else weight[:, None], left)  # a vector: its axis goes
    return made.take(made.index().squeeze(-2 if left and len(x.shape) > 1 else -1))


def gemm(node: Node) -> Value:
    """alpha A' B' + beta C, A or B a constant, C a constant."""
    left, bias = isinstance(node.inputs[0], np.ndarray), node.optional(2, 0.0)
    x, weight = node.signal(int(left)), node.constant(1 - left)
    flips = node["transB" if left else "transA"], node["transA" if left else "transB"]
    made = matrix(node, x.take(x.index().T) if flips[0] else x, weight.T if flips[1] else weight, left)
    both = (made, node["alpha"]), (still(np.broadcast_to(np.asarray(bias), made.shape)), node["beta"])
    return added([v.times(diagonal(*integers(np.full(v.size, by)))) for v, by in both])


def geometry(node: Node, spatial: tuple[int, ...], kernel: list[int]) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """(strides, dilations, pads) of a window."""
    d, mode = len(spatial), node["auto_pad"]
    strides, dilations, pads = node["strides"] or [1] * d, node["dilations"] or [1] * d, node["pads"] or [0] * (2 * d)
    sides = list(zip(pads[:d], pads[d:], strict=True))
    if mode == b"VALID":
        sides = [(0, 0)] * d
    elif mode in (b"SAME_UPPER", b"SAME_LOWER"):
        reach = zip(spatial, strides, dilations, kernel, strict=True)
        needs = [max((-(-n // s) - 1) * s + e * (k - 1) + 1 - n, 0) for n, s, e, k in reach]
        sides = [(v // 2, v - v // 2) if mode == b"SAME_UPPER" else (v - v // 2, v // 2) for v in needs]
    elif mode != b"NOTSET" or min(pads, default=0) < 0:
        node.refuse("auto_pad or negative pads")
    return strides, dilations, sides


def windows(node: Node, index: np.ndarray, kernel: list[int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """index (n, c, *spatial) -> positions (n, c, places, entries of the window), and the shape of the places."""
    if node.attributes.get("ceil_mode"):
        node.refuse("ceil_mode")
    strides, dilations, pads = geometry(node, index.shape[2:], kernel)
    padded = np.pad(index, [(0, 0), (0, 0), *pads], constant_values=-1)
    reach = [e * (k - 1) + 1 for e, k in zip(dilations, kernel, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, index.ndim)))
    view = view[(slice(None), slice(None), *(slice(None, None, s) for s in (*strides, *dilations)))]
    places = view.shape[2 : index.ndim]
    return view.reshape(*index.shape[:2], prod(places), -1), places


def correlation(node: Node, index: np.ndarray, weight: np.ndarray) -> tuple[Map, tuple[int, ...]]:
    """The convolution of the tensor with these positions (n, c, *spatial), and the shape of its result."""
    kernel, groups, outs = list(weight.shape[2:]), node["group"], weight.shape[0]
    if node["kernel_shape"] not in (None, kernel):
        node.refuse("kernel_shape is not that of the weight")
    places, shape = windows(node, index, kernel)
    n, c, p, k = places.shape
    if weight.shape[1] * groups != c or n * outs * p * k * weight.shape[1] > TERMS:
        node.refuse(f"channels, or a size above {TERMS}")
    row = np.arange(n * outs * p).reshape(n, groups, outs // groups, p, 1, 1)
    col = places.reshape(n, groups, 1, c // groups, p, k).swapaxes(3, 4)
    value, unit = integers(weight)
    out = (n, outs, *shape)
    return operator(out, index.size, row, col, value.reshape(1, groups, outs // groups, 1, c // groups, k), unit), out


def biased(node: Node, x: Signal) -> Signal:
    """With one number per channel, or none."""
    return plus(x, np.reshape(node.optional(2, 0.0), (-1, *[1] * (len(x.shape) - 2))))


def conv_transpose(node: Node) -> Value:
    """The transpose of the convolution from its output to its input."""
    x, weight = node.signal(), node.constant(1)
    if node["auto_pad"] != b"NOTSET" or node["output_shape"] is not None:
        node.refuse("auto_pad or output_shape")
    strides, dilations, pads = geometry(node, x.shape[2:], list(weight.shape[2:]))
    more = node["output_padding"] or [0] * len(pads)
    reach = zip(x.shape[2:], strides, more, dilations, weight.shape[2:], pads, strict=True)
    sizes = [s * (n - 1) + a + e * (k - 1) + 1 - sum(sides) for n, s, a, e, k, sides in reach]
    out = (x.shape[0], weight.shape[1] * node["group"], *sizes)
    forward, shape = correlation(node, np.arange(prod(out)).reshape(out), weight)
    if shape != x.shape:
        node.refuse("output_padding, or channels")
    return biased(node, x.through(forward.transposed(), out))


def means(x: Signal, groups: np.ndarray, counts: np.ndarray, out: tuple[int, ...]) -> Signal:
    """Sums over the positions in each row of `groups`, divided by counts (rows, 1)."""
    value, unit, error = quotients(1, counts.astype(object))
    return x.through(operator(out, x.size, np.arange(len(groups)).reshape(-1, 1), groups, value, unit, error), out)


def average_pool(node: Node) -> Value:
    x = node.signal()
    places, shape = windows(node, x.index(), node["kernel_shape"])
    groups = places.reshape(-1, places.shape[-1])
    counts = np.maximum(groups >= 0, node["count_include_pad"]).sum(1, keepdims=True)
    return means(x, groups, counts, (*x.shape[:2], *shape))


def reduce(node: Node) -> Value:
    """ReduceMean, ReduceSum, GlobalAveragePool."""
    x, rank = node.signal(), len(node.signal().shape)
    axes = list(range(2, rank)) if node.kind == "GlobalAveragePool" else axes_of(node)
    axes = [a % rank for a in axes or node.refuse("over all axes")]
    kept = [a for a in range(rank) if a not in axes]
    groups = x.index().transpose(*kept, *axes).reshape(prod(x.shape[a] for a in kept), -1)
    out = tuple(1 if a in axes else n for a, n in enumerate(x.shape) if node["keepdims"] or a not in axes)
    return means(x, groups, np.full((len(groups), 1), 1 if node.kind == "ReduceSum" else groups.shape[1]), out)


def batch_normalization(node: Node) -> Value:
    """scale / sqrt(variance + epsilon) per channel: training mode is refused, and so are its outputs."""
    if node["training_mode"] or node["spatial"] != 1 or (node.opset == 6 and not node["is_test"]):
        node.refuse("training mode")
    x = node.signal()
    scale, bias, mean, variance = (node.constant(k) for k in (1, 2, 3, 4))
    if not (variance > -node["epsilon"]).all():
        node.refuse("a variance that is not positive")
    below = [Fraction(v) + Fraction(node["epsilon"]) for v in variance.tolist()]
    pairs = zip(scale.tolist(), below, strict=True)
    factors = [(-1 if s < 0 else 1) * isqrt(floor(Fraction(s) ** 2 / v * 4**QUOTIENT)) for s, v in pairs]
    channels = x.index() // prod(x.shape[2:]) % x.shape[1]
    factor = diagonal(np.array(factors, dtype=object)[channels.ravel()], QUOTIENT, 1)
    return plus(plus(x, -mean[channels]).times(factor), bias[channels])


def slopes(low: float, high: float, bent: bool = False) -> Rule:
    return lambda node: node.pointwise(low, high, bent)


def leaky(node: Node, slope: Any) -> Value:
    """LeakyRelu, PRelu: slopes 1 and s, and all between at zero: max(s v, v) where s <= 1, which is used where s is kept exactly."""
    if node.kind == "PRelu" and (
        node.opset == 6 or np.broadcast_shapes(np.shape(slope), node.signal().shape) != node.signal().shape
    ):
        node.refuse("slopes that widen the signal")
    bent = np.all(slope <= 1) and np.all(slope * 2.0**SLOPE % 1 == 0)
    return node.pointwise(np.minimum(slope, 1.0), np.maximum(slope, 1.0), bool(bent))


def clip(node: Node) -> Value:
    low, high = node.optional(1, node["min"]), node.optional(2, node["max"])
    if not low <= high or low == np.inf or high == -np.inf:
        node.refuse("an empty interval")
    return node.pointwise(0, 1) if low > -np.inf or high < np.inf else node.signal()


def softmax(node: Node) -> Value:
    x, rank = node.signal(), len(node.signal().shape)
    axis = ((1 if node.opset < 13 else -1) if node["axis"] is None else node["axis"]) % rank
    after = range(axis, rank) if node.opset < 13 else [axis]  # over all axes from `axis` on, in old opsets
    rows = np.moveaxis(x.index(), after, range(rank - len(after), rank))
    rows = rows.reshape(-1, prod(x.shape[a] for a in after))
    low, high = (np.full(x.size, v, dtype=object) for v in (0, 1 << (SLOPE - 1)))
    return node.network.apply(Layer(node.name, "rows", x, x.shape, low, high, rows))


def max_pool(node: Node) -> Value:
    x = node.signal()
    if node["storage_order"]:
        node.refuse("storage_order")
    places, shape = windows(node, x.index(), list(x.shape[2:]) if node.kind == "GlobalMaxPool" else node["kernel_shape"])
    rows, none = places.reshape(-1, places.shape[-1]), np.zeros(0, dtype=object)
    if (rows < 0).all(1).any():
        node.refuse("a window without an entry")
    return node.network.apply(Layer(node.name, "maximum", x, (*x.shape[:2], *shape), none, none, rows))


POOL = {"kernel_shape": None, "strides": None, "pads": None, "auto_pad": b"NOTSET", "ceil_mode": 0, "dilations": None}
CONV = {"kernel_shape": None, "strides": None, "pads": None, "auto_pad": b"NOTSET", "dilations": None, "group": 1}
BATCH = {"epsilon": np.float32(1e-5).item(), "momentum": 0.9, "training_mode": 0, "spatial": 1, "is_test": None}

OPERATORS: Table = {
    "Identity": (moving(lambda n, x: x), {}),
    "Dropout": (moving(dropout), {"ratio": 0.5, "seed": 0, "is_test": None}),
    "Cast": (moving(cast), {"to": None}),
    "Reshape": (moving(reshape), {"allowzero": 0}),
    "Flatten": (moving(flatten), {"axis": 1}),
    "Transpose": (moving(lambda n, x: x.transpose(n["perm"])), {"perm": None}),
    "Squeeze": (moving(lambda n, x: x.squeeze(None if axes_of(n) is None else tuple(axes_of(n)))), {"axes": None}),
    "Unsqueeze": (moving(lambda n, x: np.expand_dims(x, tuple(axes_of(n)))), {"axes": None}),
    "Slice": (moving(cut), {"starts": None, "ends": None, "axes": None}),
    "Gather": (moving(lambda n, x: np.take(x, n.constant(1), axis=n["axis"])), {"axis": 0}),
    "Pad": (pad, {"mode": b"constant", "pads": None, "value": 0.0}),
    "Concat": (concat, {"axis": None}),
    "Constant": (lambda n: tensor(n["value"]), {"value": None}),
    "Shape": (lambda n: np.array(n.inputs[0].shape[n["start"] : n["end"]], dtype=np.int64), {"start": 0, "end": None}),
    **dict.fromkeys(("Add", "Sub", "Sum"), (add, {})),
    **dict.fromkeys(("Mul", "Div"), (times, {})),
    "Neg": (lambda n: n.signal().negative(), {}),
    "MatMul": (matmul, {}),
    "Gemm": (gemm, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, "broadcast": 0}),
    "Conv": (lambda n: biased(n, n.signal().through(*correlation(n, n.signal().index(), n.constant(1)))), CONV),
    "ConvTranspose": (conv_transpose, CONV | {"output_padding": None, "output_shape": None}),
    "AveragePool": (average_pool, POOL | {"count_include_pad": 0}),
    "GlobalAveragePool": (reduce, {"keepdims": 1}),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), (reduce, {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0})),
    "BatchNormalization": (batch_normalization, BATCH),
    "Relu": (slopes(0, 1, True), {}),
    **dict.fromkeys(
        ("Tanh", "Softplus", "Softsign", "Atan"), (slopes(0, 1), {})
    ),  # 1 - t^2, sigmoid, 1 / (1 + |v|)^2, 1 / (1 + v^2)
    "Abs": (slopes(-1, 1, True), {}),
    **dict.fromkeys(("Sin", "Cos"), (slopes(-1, 1), {})),
    "LeakyRelu": (lambda n: leaky(n, n["alpha"]), {"alpha": np.float32(0.01).item()}),
    "PRelu": (lambda n: leaky(n, n.constant(1)), {}),
    "Clip": (clip, {"min": -np.inf, "max": np.inf}),  # a projection to an interval
    "Sigmoid": (slopes(0, 0.25), {}),  # s (1 - s), s in (0, 1)
    "HardSwish": (slopes(-0.5, 1.5), {}),  # v / 3 + 1 / 2 on [-3, 3], else 0 or 1
    "Elu": (lambda n: n.pointwise(min(n["alpha"], 0.0), max(n["alpha"], 1.0)), {"alpha": 1.0}),  # alpha e^v, v < 0
    "Softmax": (softmax, {"axis": None}),  # gradient of log sum exp, convex and 1/2-smooth
    **dict.fromkeys(("MaxPool", "GlobalMaxPool"), (max_pool, POOL | {"storage_order": 0})),
}
