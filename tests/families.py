"""Families of random networks for the soundness tests: one function each, seed -> Program."""

from __future__ import annotations

from collections.abc import Callable

import torch
from programs import Maker, Program, Ref

from lipcert.activations import ACTIVATIONS


def mlp(seed: int) -> Program:
    m = Maker("mlp", seed, (1, Maker("size", seed, (1,)).random.randint(1, 6)))
    x = m.input
    for _ in range(m.random.randint(1, 3)):
        x = m.activation(m.linear(x))
    return _end(m, x)


def table(seed: int) -> Program:
    """Every row of the activation table in turn, between two linear layers. A new row is tested by being there."""
    name = sorted(ACTIVATIONS)[seed % len(ACTIVATIONS)]
    m = Maker(f"table {name}", seed, (1, 3))
    return _end(m, m.add(f"row:{name}", m.linear(m.input, 4)))


def conv2d(seed: int) -> Program:
    m = Maker("conv2d", seed, (1, 2, 5, 6))
    x = m.input
    for _ in range(m.random.randint(1, 2)):
        x = m.conv(x)
        if m.random.random() < 0.5:
            x = m.batch_norm(x)
        x = m.activation(x)
    return _end(m, _pool(m, x))


def conv1d(seed: int) -> Program:
    m = Maker("conv1d", seed, (1, 2, 9))
    x = m.conv(m.input)
    x = m.activation(x)
    x = m.transposed(x) if m.random.random() < 0.6 else m.conv(x)
    return _end(m, m.activation(m.batch_norm(x)) if m.random.random() < 0.5 else x)


def conv3d(seed: int) -> Program:
    m = Maker("conv3d", seed, (1, 2, 3, 4, 3))
    x = m.activation(m.conv(m.input))
    if m.random.random() < 0.5 and min(m.shape_of(x)[2:]) >= 2:
        op = m.random.choice(["max_pool3d_with_indices.default", "avg_pool3d.default"])
        x = m.add(op, x, [2, 2, 2], [1, 1, 1])
    return _end(m, x)


def transposed(seed: int) -> Program:
    m = Maker("transposed", seed, (1, 2, 3, 3))
    x = m.transposed(m.input)
    return _end(m, m.conv(m.activation(m.batch_norm(x))))


def residual(seed: int) -> Program:
    """x + f(x), x - W x, a + b with shared layers: every layer object may be used several times."""
    n = Maker("size", seed, (1,)).random.randint(2, 5)
    m = Maker("residual", seed, (1, n))
    shared = m.weight(n, n), m.randn(n)
    own = m.activation
    x = m.input
    for _ in range(m.random.randint(1, 3)):
        inner = m.add("linear.default", x, *shared)
        if m.random.random() < 0.7:
            inner = own(inner)
        if m.random.random() < 0.4:
            inner = m.add("linear.default", inner, *shared)
        op = m.random.choice(["add.Tensor", "sub.Tensor", "add.Tensor"])
        alpha = [m.random.choice([-1, 2, 0.5])] if m.random.random() < 0.3 else []
        x = m.add(op, x, inner) if not alpha else m.add("add.Tensor", m.add("mul.Tensor", inner, alpha[0]), x)
    return _end(m, x)


def residual_conv(seed: int) -> Program:
    m = Maker("residual_conv", seed, (1, 2, 4, 4))
    w = m.weight(2, 2, 3, 3)
    tail = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    x = m.input
    for _ in range(m.random.randint(1, 3)):
        inner = m.add("convolution.default", x, w, None, *tail)
        if m.random.random() < 0.6:
            inner = m.activation(m.batch_norm(inner))
        x = m.add(m.random.choice(["add.Tensor", "sub.Tensor"]), x, inner)
    return _end(m, x)


def dense_concat(seed: int) -> Program:
    m = Maker("dense_concat", seed, (1, 3))
    values = [m.input]
    for _ in range(m.random.randint(1, 3)):
        x = m.random.choice(values)
        y = m.activation(m.linear(x))
        values.append(m.add("cat.default", [x, y, *([x] if m.random.random() < 0.3 else [])], 1))
    return _end(m, values[-1])


def _pool(m: Maker, x: Ref) -> Ref:
    shape, r = m.shape_of(x), m.random
    h, w = shape[2:]
    kind = r.choice(["max", "avg", "adaptive_avg", "adaptive_max", "mean", "amax", "sum", "none"])
    kernel = [r.randint(1, min(3, h)), r.randint(1, min(3, w))]
    stride = [r.randint(1, 2), r.randint(1, 2)]
    padding = [r.randint(0, k // 2) for k in kernel]
    if kind == "max":
        dilation = [r.choice([1, 2]) if (k - 1) * 2 + 1 <= n else 1 for k, n in zip(kernel, (h, w), strict=True)]
        return m.add("max_pool2d_with_indices.default", x, kernel, stride, padding, dilation, r.random() < 0.4)
    if kind == "avg":
        divisor = r.choice([None, None, 3])
        return m.add("avg_pool2d.default", x, kernel, stride, padding, r.random() < 0.4, r.random() < 0.5, divisor)
    if kind == "adaptive_avg":
        return m.add("_adaptive_avg_pool2d.default", x, [r.randint(1, h), r.randint(1, w)])
    if kind == "adaptive_max":
        return m.add("adaptive_max_pool2d.default", x, [r.randint(1, h), r.randint(1, w)])
    if kind == "mean":
        return m.add("mean.dim", x, [2, 3], True)
    if kind == "amax":
        return m.add("amax.default", x, [r.choice([1, 2, 3])], True)
    return m.add("sum.dim_IntList", x, [r.choice([1, 2, 3])], True) if kind == "sum" else x


def pools(seed: int) -> Program:
    m = Maker("pools", seed, (1, 2, 5, 5))
    x = m.input
    for _ in range(m.random.randint(1, 2)):
        x = _pool(m, x)
        if min(m.shape_of(x)[2:]) < 3:
            break
    return _end(m, x)


def layout(seed: int) -> Program:
    """Pads that repeat entries, upsampling, repeats, sums: norms above and below 1 that a layout hides."""
    m = Maker("layout", seed, (1, 4, 4, 4))
    r, x = m.random, m.input
    for _ in range(r.randint(1, 3)):
        shape = m.shape_of(x)
        if len(shape) != 4 or min(shape[2:]) < 2 or m.values[x.index].numel() > 600:
            break
        h, w = shape[2:]
        pads = [r.randint(0, min(h, w) - 1) for _ in range(4)]
        calls = [
            ("reflection_pad2d.default", pads),
            ("replication_pad2d.default", pads),
            ("constant_pad_nd.default", pads, 1.5),
            ("constant_pad_nd.default", [1, -1, 0, 1]),
            ("upsample_nearest2d.default", [h + 1, 2 * w]),
            ("upsample_bilinear2d.default", [h + 2, w + 1], r.random() < 0.5),
            ("upsample_bicubic2d.default", [h + 1, w], r.random() < 0.5),
            ("flip.default", [2, 3]),
            ("roll.default", [1], [3]),
            ("repeat.default", [1, 1, 2, 1]),
            ("permute.default", [0, 1, 3, 2]),
            ("cumsum.default", 3),
            ("tril.default",),
            ("index_select.default", 3, torch.tensor([0, 1, 1, 1])),
            ("slice.Tensor", 2, 0, h, 2),
            ("unfold.default", 3, 2, 1),
            ("sum.dim_IntList", [1], True),
            ("mean.dim", [2], True),
            ("mul.Tensor", m.randn(1, shape[1], 1, 1)),
            ("div.Tensor", m.randn(w).abs() + 0.1),
            ("matmul.default", m.weight(w, 3)),
        ]
        if shape[1] % 4 == 0:
            calls.append(("pixel_shuffle.default", 2))
        if h % 2 == 0 and w % 2 == 0:
            calls.append(("pixel_unshuffle.default", 2))
        op, *rest = r.choice(calls)
        x = m.add(op, x, *rest)
    return _end(m, x)


def patches(seed: int) -> Program:
    m = Maker("patches", seed, (1, 2, 4, 4))
    columns = m.add("im2col.default", m.input, [2, 2], [1, 1], [m.random.randint(0, 1)] * 2, [1, 1])
    x = m.activation(columns)
    if m.shape_of(columns)[2] == 9:
        x = m.add("col2im.default", x, [4, 4], [2, 2], [1, 1], [0, 0], [1, 1])
    return _end(m, x)


def normalising(seed: int) -> Program:
    """Softmax and its kin, layer / group / instance / RMS norm, sorts and extremes along an axis."""
    m = Maker("normalising", seed, (1, 4, 3))
    r = m.random
    x = m.linear(m.input, 3)
    dim = r.choice([1, 2])
    calls = [
        ("_softmax.default", dim, False),
        ("_log_softmax.default", dim, False),
        ("logsumexp.default", [dim], True),
        ("native_layer_norm.default", [3], m.randn(3), m.randn(3), r.choice([1e-5, 1e-2])),
        ("native_layer_norm.default", [4, 3], None, None, 1e-3),
        ("native_group_norm.default", m.randn(4), m.randn(4), 1, 4, 3, 2, 1e-3),
        ("rms_norm.default", [3], m.randn(3), 1e-3),
        ("_native_batch_norm_legit.no_stats", m.randn(4), None, True, 0.1, 1e-3),
        ("sort.default", dim, r.random() < 0.5),
        ("topk.default", 2, dim),
        ("amax.default", [dim], True),
        ("amin.default", [dim], True),
        ("linalg_vector_norm.default", 2, [dim], True),
        ("linalg_vector_norm.default", 1, [dim], True),
        ("max.dim", dim, True),
        ("cumsum.default", dim),
        ("sum.dim_IntList", [dim]),
    ]
    op, *rest = r.choice(calls)
    y = m.add(op, m.add("mul.Tensor", x, r.choice([1.0, 3.0, 0.2])), *rest)
    if m.shape_of(y) == m.shape_of(x) and r.random() < 0.4:
        y = m.add(r.choice(["add.Tensor", "sub.Tensor"]), x, y)  # a sort against the identity: a permutation can be -1
    return _end(m, y)


def products(seed: int) -> Program:
    """Products of bounded signals: gates, attention over bounded values."""
    m = Maker("products", seed, (1, 3, 2))
    r = m.random
    bounded = ["sigmoid.default", "tanh.default", "sin.default", "erf.default", "hardtanh.default"]
    a = m.add(r.choice(bounded), m.linear(m.input, 3))
    b = m.add(r.choice(bounded), m.linear(m.input, 3))
    if r.random() < 0.5:
        y = m.add("mul.Tensor", a, b)
    else:
        weights = m.add("_softmax.default", m.linear(a, 3), 2, False)
        y = m.add("matmul.default", weights, b)
    return _end(m, y)


def spelled(seed: int) -> Program:
    """Activations as exporters spell them: recognised or not, the bound must hold."""
    m = Maker("spelled", seed, (1, 3))
    r = m.random
    x = m.linear(m.input, 3)
    c = r.choice([0.5, 1.0, 1.702, 2.0])
    kind = r.choice(["silu", "gelu", "gelu_tanh", "mish", "hardswish", "softsign", "clip", "maxmin", "where", "leaky"])
    if kind == "silu":
        y = m.add("mul.Tensor", x, m.add("sigmoid.default", m.add("mul.Tensor", x, c)))
    elif kind == "gelu":
        inner = m.add("erf.default", m.add("div.Tensor", x, r.choice([1.5, 2.0**0.5])))
        y = m.add("mul.Tensor", m.add("mul.Tensor", x, 0.5), m.add("add.Tensor", inner, 1.0))
    elif kind == "gelu_tanh":
        cube = m.add("mul.Tensor", m.add("pow.Tensor_Scalar", x, 3), 0.044715)
        inner = m.add("tanh.default", m.add("mul.Tensor", m.add("add.Tensor", x, cube), 0.7978845608))
        y = m.add("mul.Tensor", m.add("mul.Tensor", x, 0.5), m.add("add.Tensor", inner, 1.0))
    elif kind == "mish":
        y = m.add("mul.Tensor", x, m.add("tanh.default", m.add("softplus.default", x)))
    elif kind == "hardswish":
        gate = m.add("clamp.default", m.add("add.Tensor", x, 3.0), 0.0, r.choice([6.0, 4.0]))
        y = m.add("div.Tensor", m.add("mul.Tensor", x, gate), 6.0)
    elif kind == "softsign":
        y = m.add("div.Tensor", x, m.add("add.Tensor", m.add("abs.default", x), c))
    elif kind == "clip":
        y = m.add("clamp_max.default", m.add("clamp_min.default", x, -0.3), 0.8)
    elif kind == "maxmin":
        other = m.linear(m.input, 3)
        y = m.add("cat.default", [m.add("maximum.default", x, other), m.add("minimum.default", x, other)], 1)
    elif kind == "where":
        mask = torch.tensor([[True, False, True]])
        y = m.add("where.self", mask, x, m.add("relu.default", x))
    else:
        minus = m.add("relu.default", m.add("neg.default", x))
        y = m.add("sub.Tensor", m.add("relu.default", x), m.add("mul.Tensor", minus, 0.3))
    return _end(m, y)


def deep(seed: int) -> Program:
    """Many narrow layers, scales that multiply up and down."""
    m = Maker("deep", seed, (1, 3))
    x = m.input
    for k in range(12):
        scale = 10.0 ** m.random.randint(-3, 3)
        x = m.add("linear.default", x, scale * m.randn(3, 3), m.randn(3) if k % 2 else None)
        x = m.add(m.random.choice(["relu.default", "leaky_relu.default", "abs.default"]), x)
    return _end(m, x)


def _end(m: Maker, x: Ref) -> Program:
    """At most six outputs, so that Jacobians by rows stay cheap."""
    flat = m.flat(x)
    if m.shape_of(flat)[1] > 6 or m.random.random() < 0.5:
        flat = m.linear(flat, m.random.randint(1, 4))
    return m.program()


FAMILIES: dict[str, Callable[[int], Program]] = {
    "mlp": mlp,
    "table": table,
    "conv2d": conv2d,
    "conv1d": conv1d,
    "conv3d": conv3d,
    "transposed": transposed,
    "residual": residual,
    "residual_conv": residual_conv,
    "dense_concat": dense_concat,
    "pools": pools,
    "layout": layout,
    "patches": patches,
    "normalising": normalising,
    "products": products,
    "spelled": spelled,
    "deep": deep,
}
