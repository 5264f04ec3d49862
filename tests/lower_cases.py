"""The cases of test_lower: (name, function of x and constants, input shape, constants), and what must be refused.

Functions call `torch.ops.aten`, so that the exported graph holds the very overload that a rule is for.
"""

# ruff: noqa: B008
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from helpers import f64

A = torch.ops.aten
torch.manual_seed(3)


def positive(x: torch.Tensor) -> torch.Tensor:
    return x * x * 0.3 + 0.1


def inside(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) * 0.9


I = lambda *values: torch.tensor(values)  # noqa: E731, E741
D = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
Case = tuple[str, Callable[..., Any], tuple[int, ...], tuple[torch.Tensor, ...]]
CASES: list[Case] = []


def case(name: str, function: Callable[..., Any], shape: tuple[int, ...], *constants: torch.Tensor) -> None:
    CASES.append((name, function, shape, constants))


# Arithmetic, both ways of broadcasting.
for op in (A.add.Tensor, A.sub.Tensor, A.mul.Tensor, A.div.Tensor):
    case(f"{op} signal constant", lambda x, c, op=op: op(x, c), (2, 1, 3), D(1.5, -2.0, 0.3))
    case(f"{op} constant wider", lambda x, c, op=op: op(x, c), (3,), f64(2, 1, 3))
    case(f"{op} constant signal", lambda x, c, op=op: op(c, positive(x)), (3, 1), D(1.5, -2.0))
    case(f"{op} two signals", lambda x, op=op: op(x, positive(x[0])), (2, 3))
    case(f"{op} whole numbers", lambda x, c, op=op: op(x, c), (2, 3), I(1, 2, 3))
for op in (A.add.Scalar, A.sub.Scalar, A.mul.Scalar, A.div.Scalar):
    case(f"{op}", lambda x, op=op: op(x, -0.7), (2, 3))
    case(f"{op} int", lambda x, op=op: op(x, 3), ())
for op in (A.add.Tensor, A.sub.Tensor):
    case(f"{op} alpha", lambda x, c, op=op: op(x, c, alpha=2.5), (2, 3), f64(3))
    case(f"{op} alpha signal", lambda x, c, op=op: op(c, x, alpha=-3), (2, 3), f64(3))
case("add alpha int constant", lambda x, c: A.add.Tensor(c, x, alpha=3), (2, 3), I(1, 2, 3))
case("rsub scalar", lambda x: A.rsub.Scalar(x, 2.0), (2, 3))
case("rsub scalar alpha", lambda x: A.rsub.Scalar(x, 2.0, 3), (2, 3))
case("rsub tensor", lambda x, c: A.rsub.Tensor(x, c, alpha=0.5), (2, 3), f64(3))
case("neg", lambda x: A.neg.default(x), (2, 3))
case("x - x", lambda x: x - x, (2, 3))
case("x + x + x", lambda x: x + x + x, (1,))
case("square by mul", lambda x: x * x, (2, 3))
case("scale by zero", lambda x: x * 0.0, (2,))

# Products.
case("linear", lambda x, w, b: A.linear.default(x, w, b), (2, 3, 4), f64(5, 4), f64(5))
case("linear no bias", lambda x, w: A.linear.default(x, w), (4,), f64(5, 4))
case("linear weight depends", lambda x, c: A.linear.default(c, x), (5, 4), f64(2, 4))
case("linear both", lambda x: A.linear.default(x, x), (3, 4))
case("mm", lambda x, w: A.mm.default(x, w), (3, 4), f64(4, 2))
case("mm left", lambda x, w: A.mm.default(w, x), (4, 3), f64(2, 4))
case("mm both", lambda x: A.mm.default(x, x), (3, 3))
case("bmm", lambda x, w: A.bmm.default(x, w), (3, 2, 4), f64(3, 4, 2))
case("bmm left", lambda x, w: A.bmm.default(w, x), (3, 4, 2), f64(3, 2, 4))
case("bmm both", lambda x: A.bmm.default(x, x.transpose(1, 2)), (2, 2, 3))
case("mv", lambda x, w: A.mv.default(w, x), (4,), f64(2, 4))
case("mv matrix depends", lambda x, w: A.mv.default(x, w), (2, 4), f64(4))
case("dot", lambda x, w: A.dot.default(x, w), (4,), f64(4))
case("matmul vector", lambda x, w: A.matmul.default(x, w), (2, 3, 4), f64(4))
case("matmul from a vector", lambda x, w: A.matmul.default(x, w), (4,), f64(2, 4, 3))
case("matmul broadcast", lambda x, w: A.matmul.default(x, w), (2, 1, 3, 4), f64(5, 4, 2))
case("matmul broadcast left", lambda x, w: A.matmul.default(w, x), (2, 1, 3, 4), f64(5, 2, 3))
case("matmul left 2d", lambda x, w: A.matmul.default(w, x), (5, 3, 4), f64(2, 3))
case("matmul both broadcast", lambda x: A.matmul.default(x[:, :1], x.transpose(-1, -2)), (2, 3, 2, 2))
case("addmm", lambda x, w, b: A.addmm.default(b, x, w), (3, 4), f64(4, 2), f64(2))
case("addmm beta alpha", lambda x, w, b: A.addmm.default(b, x, w, beta=0.5, alpha=-2), (3, 4), f64(4, 2), f64(2))
case("linear bias depends", lambda x, c, w: A.linear.default(c, w, x), (4,), f64(2, 3), f64(4, 3))
case("addmm bias depends", lambda x, w, v: A.addmm.default(x, v, w, beta=3), (3, 2), f64(4, 2), f64(3, 4))
case("addmv", lambda x, w, b: A.addmv.default(b, w, x, alpha=2), (4,), f64(3, 4), f64(3))
case("baddbmm", lambda x, w, b: A.baddbmm.default(b, x, w, beta=2), (3, 2, 4), f64(3, 4, 2), f64(3, 2, 2))

# Convolutions: (input, weight, bias?, stride, padding, dilation, transposed, output_padding, groups).
CONVOLUTIONS: list[tuple] = [
    ((1, 2, 5), (3, 2, 3), True, [1], [1], [1], False, [0], 1),
    ((2, 2, 6), (3, 2, 3), False, [2], [0], [2], False, [0], 1),
    ((1, 2, 5), (3, 2, 2), True, [1], [0], [1], False, [0], 1),
    ((1, 2, 5), (2, 3, 3), True, [2], [1], [1], True, [1], 1),
    ((3, 4, 3), (4, 1, 2), True, [3], [0], [2], True, [2], 2),
    ((1, 2, 4, 5), (4, 2, 3, 2), True, [2, 1], [1, 0], [1, 2], False, [0, 0], 1),
    ((3, 4, 3, 3), (4, 2, 1, 3), False, [1, 2], [0, 1], [1, 1], False, [0, 0], 2),
    ((1, 2, 1, 1), (3, 2, 1, 1), True, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
    ((2, 4, 3, 2), (4, 2, 3, 3), True, [2, 1], [1, 1], [1, 1], True, [1, 0], 2),
    ((2, 4, 3, 2), (4, 1, 2, 2), True, [1, 1], [0, 0], [1, 1], True, [0, 0], 4),
    ((1, 2, 3, 3, 2), (2, 1, 2, 2, 2), True, [1, 2, 1], [1, 0, 0], [1, 1, 1], False, [0, 0, 0], 2),
    ((1, 2, 2, 2, 2), (2, 1, 2, 2, 2), True, [2, 1, 1], [0, 0, 1], [1, 1, 1], True, [1, 0, 0], 1),
]
for shape, weight, bias, *rest in CONVOLUTIONS:
    out = weight[1] * rest[-1] if rest[3] else weight[0]
    constants = (f64(*weight), f64(out)) if bias else (f64(*weight),)
    case(
        f"convolution {shape} {weight} {rest}",
        lambda x, w, b=None, rest=rest: A.convolution.default(x, w, b, *rest),
        shape,
        *constants,
    )
case("convolution, one stride for all axes", lambda x, w: A.convolution.default(x, w, None, [2], [1], [1], False, [0], 1),
     (1, 2, 4, 5), f64(3, 2, 3, 3))  # fmt: skip

# Normalisation.
stats = (f64(3), f64(3), f64(3), f64(3).abs() + 0.1)
BN = A._native_batch_norm_legit_no_training.default
for shape in ((2, 3), (1, 3, 4), (2, 3, 2, 2), (1, 3, 1, 2, 1)):
    case(f"batch norm {shape}", lambda x, w, b, m, v: BN(x, w, b, m, v, 0.1, 1e-5)[0], shape, *stats)
case("batch norm bare", lambda x, m, v: BN(x, None, None, m, v, 0.9, 1e-3)[0], (2, 3, 2), *stats[2:])
LN = A.native_layer_norm.default
case("layer norm", lambda x, w, b: LN(x, [4], w, b, 1e-5)[0], (2, 3, 4), f64(4), f64(4))
case("layer norm two axes", lambda x, b: LN(x, [3, 4], None, b, 1e-2)[0], (2, 3, 4), f64(3, 4))
case("layer norm bare", lambda x: LN(x, [4], None, None, 1e-5)[0], (4,))
GN = A.native_group_norm.default
case("group norm", lambda x, w, b: GN(x, w, b, 2, 4, 6, 2, 1e-5)[0], (2, 4, 2, 3), f64(4), f64(4))
case("group norm bare", lambda x: GN(x, None, None, 3, 4, 1, 4, 1e-1)[0], (3, 4, 1))
RMS = A.rms_norm.default
case("rms norm", lambda x, w: RMS(x, [4], w, 1e-5), (2, 3, 4), f64(4))
case("rms norm bare", lambda x: RMS(x, [3, 4], None, 1e-5), (2, 3, 4))
IN = A._native_batch_norm_legit.no_stats
case("instance norm", lambda x, w, b: IN(x, w, b, True, 0.1, 1e-5)[0], (1, 3, 2, 4), f64(3), f64(3))
case("batch statistics", lambda x: IN(x, None, None, True, 0.0, 1e-3)[0], (2, 3, 4))

# Pools.
for ceil in (False, True):
    for include in (False, True):
        case(f"avg_pool2d ceil={ceil} include={include}",
             lambda x, c=ceil, i=include: A.avg_pool2d.default(x, [3, 2], [2, 2], [1, 1], c, i), (2, 2, 5, 4))  # fmt: skip
        case(f"avg_pool1d ceil={ceil} include={include}",
             lambda x, c=ceil, i=include: A.avg_pool1d.default(x, [3], [2], [1], c, i), (2, 2, 6))  # fmt: skip
    case(f"max_pool2d ceil={ceil}", lambda x, c=ceil: A.max_pool2d_with_indices.default(x, [3, 2], [2, 2], [1, 0], [1, 2],
         c)[0], (2, 2, 6, 5))  # fmt: skip
    case(f"max_pool2d overlapping ceil={ceil}", lambda x, c=ceil: A.max_pool2d_with_indices.default(x, [3], [2], [1], [1],
         c)[0], (3, 4, 5))  # fmt: skip
    case(f"max_pool3d ceil={ceil}", lambda x, c=ceil: A.max_pool3d_with_indices.default(x, [2], [2], [1], [1], c)[0],
         (1, 2, 3, 3, 2))  # fmt: skip
case("avg_pool2d default stride, unbatched", lambda x: A.avg_pool2d.default(x, [2, 3]), (2, 4, 6))
case("avg_pool2d divisor", lambda x: A.avg_pool2d.default(x, [2], [1], [1], False, True, 7), (1, 2, 3, 4))
case("avg_pool2d divisor ceil", lambda x: A.avg_pool2d.default(x, [3], [2], [0], True, False, 5), (1, 1, 4, 6))
case("avg_pool3d", lambda x: A.avg_pool3d.default(x, [2], [1], [1], True, False), (1, 2, 3, 2, 2))
case("avg_pool 1x1", lambda x: A.avg_pool2d.default(x, [1, 1]), (1, 1, 1, 1))
case("adaptive_avg_pool2d", lambda x: A._adaptive_avg_pool2d.default(x, [3, 2]), (2, 2, 5, 4))
case("adaptive_avg_pool2d larger", lambda x: A._adaptive_avg_pool2d.default(x, [4, 1]), (2, 3, 2))
case("adaptive_avg_pool3d", lambda x: A._adaptive_avg_pool3d.default(x, [2, 1, 3]), (1, 2, 3, 2, 4))
case("adaptive_max_pool2d", lambda x: A.adaptive_max_pool2d.default(x, [3, 2])[0], (2, 2, 5, 4))
case("adaptive_max_pool3d", lambda x: A.adaptive_max_pool3d.default(x, [2, 1, 3])[0], (1, 2, 3, 2, 4))
case("max pool after a pad with -inf", lambda x: A.max_pool2d_with_indices.default(
     A.constant_pad_nd.default(x, [1, 0, 0, 1], -math.inf), [2, 2], [1, 1])[0], (1, 2, 3, 3))  # fmt: skip
case("max pool default stride", lambda x: A.max_pool2d_with_indices.default(x, [2, 2])[0], (1, 2, 5, 4))

# Interpolation.
for align in (False, True):
    case(f"linear1d {align}", lambda x, a=align: A.upsample_linear1d.default(x, [7], a), (1, 2, 3))
    case(f"bilinear2d {align}", lambda x, a=align: A.upsample_bilinear2d.default(x, [5, 2], a), (1, 2, 3, 4))
    case(f"trilinear3d {align}", lambda x, a=align: A.upsample_trilinear3d.default(x, [3, 2, 4], a), (1, 1, 2, 3, 2))
    case(f"bicubic2d {align}", lambda x, a=align: A.upsample_bicubic2d.default(x, [5, 7], a), (1, 2, 3, 4))
case("bilinear2d scales", lambda x: A.upsample_bilinear2d.default(x, [7, 5], False, 2.4, 1.3), (1, 2, 3, 4))
case("antialiased bilinear2d", lambda x: A._upsample_bilinear2d_aa.default(x, [2, 7], False), (1, 2, 5, 4))
case("antialiased bicubic2d", lambda x: A._upsample_bicubic2d_aa.default(x, [3, 2], False), (1, 2, 7, 9))
case("bicubic2d scales", lambda x: A.upsample_bicubic2d.default(x, [7, 5], False, 2.4, 1.3), (2, 1, 3, 4))
case("linear1d from one", lambda x: A.upsample_linear1d.default(x, [3], True), (1, 2, 1))
for exact in ("upsample_nearest", "_upsample_nearest_exact"):
    case(f"{exact}1d", lambda x, n=exact: getattr(A, n + "1d").default(x, [7]), (1, 2, 3))
    case(f"{exact}2d", lambda x, n=exact: getattr(A, n + "2d").default(x, [5, 2], 1.7, None), (1, 2, 3, 4))
    case(f"{exact}3d", lambda x, n=exact: getattr(A, n + "3d").default(x, [3, 2, 4]), (1, 1, 2, 3, 2))

# Sums along axes.
for name, op in (("sum", A.sum.dim_IntList), ("mean", A.mean.dim), ("amax", A.amax.default), ("amin", A.amin.default)):
    case(f"{name} last", lambda x, op=op: op(x, [-1]), (2, 3, 4))
    case(f"{name} keepdim", lambda x, op=op: op(x, [1], True), (2, 3, 4))
    case(f"{name} unordered axes", lambda x, op=op: op(x, [2, 0], True), (2, 3, 4))
    case(f"{name} axes", lambda x, op=op: op(x, [-3, 2]), (2, 3, 4))
    case(f"{name} no axes", lambda x, op=op: op(x, []), (2, 3))
    case(f"{name} scalar", lambda x, op=op: op(x, [0]), ())
case("sum all", lambda x: A.sum.default(x), (2, 3))
case("sum to another float", lambda x: A.sum.dim_IntList(x, [0], dtype=torch.float64), (2, 3))
case("mean all", lambda x: A.mean.default(x), (2, 3))
case("sum no axis given", lambda x: A.sum.dim_IntList(x, None), (2, 3))
case("cumsum", lambda x: A.cumsum.default(x, -2), (2, 3, 4))
case("cumsum scalar", lambda x: A.cumsum.default(x, 0), ())
case("max all", lambda x: A.max.default(x), (2, 3))
case("min all", lambda x: A.min.default(x), (2, 3))
case("max.dim", lambda x: A.max.dim(x, -1, True)[0], (2, 3, 4))
case("min.dim", lambda x: A.min.dim(x, 0)[0], (2, 3, 4))
case("maximum", lambda x, c: A.maximum.default(x, c), (2, 3), f64(3))
case("maximum signals", lambda x: A.maximum.default(x[:1], x), (2, 3))
case("minimum", lambda x, c: A.minimum.default(c, x), (2, 3), f64(3))
case("minimum signals", lambda x: A.minimum.default(x, x[:, :1]), (2, 3))
case("logsumexp", lambda x: A.logsumexp.default(x, [1]), (2, 3, 4))
case("logsumexp keepdim", lambda x: A.logsumexp.default(x, [-1, 0], True), (2, 3, 4))
case("logaddexp", lambda x, c: A.logaddexp.default(x, c), (2, 3), f64(3))
case("logaddexp constant first", lambda x, c: A.logaddexp.default(c, x), (2, 1), f64(3))
case("logaddexp signals", lambda x: A.logaddexp.default(x, x[:1]), (2, 3))
for order in (1, 2, 2.0, math.inf):
    case(f"vector norm {order}", lambda x, o=order: A.linalg_vector_norm.default(x, o, [1]), (2, 3, 4))
    case(f"vector norm {order} keepdim", lambda x, o=order: A.linalg_vector_norm.default(x, o, [2, 0], True), (2, 3, 4))
    case(f"vector norm {order} all", lambda x, o=order: A.linalg_vector_norm.default(x, o), (2, 3))
for op in (A._softmax.default, A._log_softmax.default):
    for d in (0, 1, -1):
        case(f"{op} {d}", lambda x, d=d, op=op: op(x, d, False), (2, 3, 4))
    case(f"{op} scalar", lambda x, op=op: op(x, 0, False), ())
case("safe softmax", lambda x: A._safe_softmax.default(x, -1), (2, 3))


def no_nan(x: torch.Tensor) -> torch.Tensor:
    s = A._softmax.default(x, -1, False)
    return A.where.self(A.isnan.default(s), torch.zeros_like(x), s)


case("softmax without NaN", no_nan, (2, 3))
case("sort", lambda x: A.sort.default(x, 1)[0], (2, 3, 2))
case("sort descending", lambda x: A.sort.default(x, 0, True)[0], (4, 3))
case("topk", lambda x: A.topk.default(x, 2, 1)[0], (2, 3, 2))
case("topk smallest", lambda x: A.topk.default(x, 3, -1, False)[0], (2, 4))
case("glu", lambda x: A.glu.default(x), (2, 4))
case("glu axis", lambda x: A.glu.default(x, 0), (4, 3))

# Rows of the activation table.
WHERE = {"log": positive, "log1p": positive, "sqrt": positive, "rsqrt": positive, "reciprocal": positive, "asin": inside,
         "acos": inside, "atanh": inside, "acosh": lambda x: positive(x) + 1, "tan": inside}  # fmt: skip
for name in [
    "relu",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "erf",
    "abs",
    "atan",
    "asinh",
    "sin",
    "cos",
    "tan",
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "square",
    "sinh",
    "cosh",
    "asin",
    "acos",
    "acosh",
    "atanh",
    "floor",
    "ceil",
    "round",
    "trunc",
    "sign",
    "hardswish",
    "selu",
    "relu6",
    "hardsigmoid",
    "gelu",
    "softplus",
    "leaky_relu",
    "elu",
    "celu",
    "hardtanh",
]:
    case(name, lambda x, n=name: getattr(A, n).default(WHERE.get(n, lambda t: 3 * t)(x)), (2, 3))
case("gelu tanh", lambda x: A.gelu.default(x, approximate="tanh"), (2, 3))
case("softplus beta", lambda x: A.softplus.default(x, 2.0, 20), (2, 3))
case("leaky slope", lambda x: A.leaky_relu.default(x, -0.3), (2, 3))
case("elu given", lambda x: A.elu.default(x, 0.7, 1.2, 0.5), (2, 3))
case("celu given", lambda x: A.celu.default(x, 0.7), (2, 3))
case("hardtanh given", lambda x: A.hardtanh.default(x, -0.2, 0.7), (2, 3))
case("threshold", lambda x: A.threshold.default(x, 0.3, 0.3), (2, 3))
case("prelu", lambda x, w: A._prelu_kernel.default(x, w), (2, 3, 2), f64(1, 3, 1))
case("prelu one", lambda x, w: A._prelu_kernel.default(x, w), (2, 3, 2), f64(1))
case("log_sigmoid", lambda x: A.log_sigmoid_forward.default(x)[0], (2, 3))
case("clamp", lambda x: A.clamp.default(x, -0.3, 0.4), (2, 3))
case("clamp low", lambda x: A.clamp.default(x, min=0.1), (2, 3))
case("clamp high", lambda x: A.clamp.default(x, max=0.1), (2, 3))
case("clamp tensors", lambda x, a, b: A.clamp.Tensor(x, a, b), (2, 3), D(-0.1, -0.2, -0.3), D(0.5, 0.1, 0.0))
case("clamp crossed tensors", lambda x, a, b: A.clamp.Tensor(x, a, b), (2, 3), D(0.5, -0.2, 0.3), D(-0.5, 0.1, 0.0))
case("clamp one tensor", lambda x, a: A.clamp.Tensor(x, None, a), (2, 3), D(0.2))
case("clamp_min", lambda x: A.clamp_min.default(x, 0.2), (2, 3))
case("clamp_max", lambda x: A.clamp_max.default(x, 0.2), (2, 3))
for n in (1, 2, 3, 4, 5, 0.5, -0.5, -1, -2):
    case(f"pow {n}", lambda x, n=n: A.pow.Tensor_Scalar(positive(x) if n < 1 else x, n), (2, 3))
case("pow 1.5", lambda x: A.pow.Tensor_Scalar(positive(x), 1.5), (2, 3))
case("pow of a number", lambda x: A.pow.Scalar(0.3, x), (2, 3))
case("pow of constants", lambda x, c: A.pow.Tensor_Tensor(c, x), (2, 3), D(2.0, 1.0, 0.25))
case("pow tensor", lambda x, n: A.pow.Tensor_Tensor(x, n), (2, 3), D(3.0))

# Layout.
case("permute", lambda x: A.permute.default(x, [2, 0, -2]), (2, 3, 4))
case("transpose", lambda x: A.transpose.int(x, -1, 0), (2, 3, 4))
case("t", lambda x: A.t.default(x), (2, 3))
case("expand", lambda x: A.expand.default(x, [4, -1, 2, 3]), (2, 1, 3))
case("repeat", lambda x: A.repeat.default(x, [2, 1, 3]), (2, 2))
case("slice", lambda x: A.slice.Tensor(x, 1, -3, 2**63 - 1, 2), (2, 5))
case("slice empty", lambda x: A.cat.default([A.slice.Tensor(x, 0, 2, 1), x]), (4, 2))
case("select", lambda x: A.select.int(x, -1, -2), (2, 3))
case("unsqueeze", lambda x: A.unsqueeze.default(x, -1), (2, 3))
case("squeeze.dims", lambda x: A.squeeze.dims(x, [0, 1, -1]), (1, 3, 1))
case("squeeze.dim", lambda x: A.squeeze.dim(x, 1), (1, 3, 1))
case("squeeze", lambda x: A.squeeze.default(x), (1, 3, 1))
case("flip", lambda x: A.flip.default(x, [0, -1]), (2, 3))
case("roll", lambda x: A.roll.default(x, [2, -1], [1, 0]), (3, 4))
case("roll flat", lambda x: A.roll.default(x, [2]), (3, 4))
case("unfold", lambda x: A.unfold.default(x, 1, 3, 2), (2, 6))
case("index", lambda x, i: A.index.Tensor(x, [None, i]), (2, 3), I(-1, 0, 0))
case("index pairs", lambda x, i, j: A.index.Tensor(x, [i, j]), (2, 3), I(1, 0), I(2, 2))
case("index 2d", lambda x, i: A.index.Tensor(x, [i]), (3, 2), I([0, 2], [1, 1]))
case("index_select", lambda x, i: A.index_select.default(x, 1, i), (2, 3), I(2, 0, 2))
case("gather", lambda x, i: A.gather.default(x, 1, i), (2, 3), I([0, 0], [2, 1]))
case("tril", lambda x: A.tril.default(x, -1), (2, 3, 3))
case("triu", lambda x: A.triu.default(x, 1), (3, 4))
case("reflection_pad1d", lambda x: A.reflection_pad1d.default(x, [2, 1]), (1, 2, 3))
case("reflection_pad2d", lambda x: A.reflection_pad2d.default(x, [1, 0, 2, 1]), (2, 3, 3))
case("reflection_pad3d", lambda x: A.reflection_pad3d.default(x, [1, 0, 1, 1, 0, 1]), (1, 1, 2, 2, 2))
case("replication_pad1d", lambda x: A.replication_pad1d.default(x, [2, 3]), (1, 2, 3))
case("replication_pad2d", lambda x: A.replication_pad2d.default(x, [1, 0, 2, 1]), (1, 2, 2, 3))
case("replication_pad3d", lambda x: A.replication_pad3d.default(x, [1, 0, 1, 1, 0, 1]), (1, 1, 2, 1, 2))
case("circular pad", lambda x: A._pad_circular.default(x, [1, 2, 0, 1]), (1, 2, 2, 3))
case("pixel_shuffle", lambda x: A.pixel_shuffle.default(x, 2), (1, 8, 2, 3))
case("pixel_unshuffle", lambda x: A.pixel_unshuffle.default(x, 2), (1, 2, 4, 2))
case("channel_shuffle", lambda x: A.channel_shuffle.default(x, 2), (1, 6, 2))
case("diagonal", lambda x: A.diagonal.default(x, 1, 0, 2), (3, 2, 4))
case("im2col", lambda x: A.im2col.default(x, [2, 2], [1, 2], [1, 0], [2, 1]), (1, 2, 4, 4))
case("col2im", lambda x: A.col2im.default(x, [4, 4], [2, 2], [1, 2], [1, 0], [2, 1]), (1, 8, 6))
case("col2im unbatched", lambda x: A.col2im.default(x, [3, 3], [2, 2], [1, 1], [0, 0], [1, 1]), (4, 4))
for name, cut in (
    ("split", lambda x: A.split.Tensor(x, 2, 1)),
    ("split sizes", lambda x: A.split_with_sizes.default(x, [1, 3, 1], -1)),
    ("unbind", lambda x: A.unbind.int(x, 1)),
    ("chunk", lambda x: A.chunk.default(x, 3, 1)),
):
    case(name, lambda x, cut=cut: cut(x)[-1] * 2 + cut(x)[1].sum(), (2, 5))
for view in (A.view.default, A.reshape.default, A._unsafe_view.default):
    case(f"{view}", lambda x, v=view: v(x, [3, -1]), (2, 3, 2))
case("clone", lambda x: A.clone.default(x, memory_format=torch.contiguous_format), (2, 3))
case("alias", lambda x: A.alias.default(x), (2, 3))
case("detach", lambda x: A.detach.default(x), (2, 3))
case("contiguous", lambda x: A.contiguous.default(A.permute.default(x, [1, 0])), (2, 3))
case("lift_fresh_copy", lambda x: A.lift_fresh_copy.default(x), (2, 3))
case("_to_copy", lambda x: A._to_copy.default(x, dtype=torch.float64), (2, 3))
case("to", lambda x: A.to.dtype(x, torch.float64), (2, 3))
case("convert_element_type", lambda x: torch.ops.prims.convert_element_type.default(x, torch.float64), (2, 3))
case("cat", lambda x, c: A.cat.default([x, c, x], -1), (2, 3), f64(2, 1))
case("cat front", lambda x: A.cat.default([x, x * 2], 0), (2, 3))
case("cat one", lambda x: A.cat.default([x]), (2, 3))
case("stack", lambda x, c: A.stack.default([x, c], 1), (2, 3), f64(2, 3))
case("stack last", lambda x: A.stack.default([x, x], -1), (2, 3))
case("pad", lambda x: A.constant_pad_nd.default(x, [1, 2, 0, 1]), (2, 3))
case("pad value", lambda x: A.constant_pad_nd.default(x, [1, 2], -0.5), (2, 3))
case("pad crop", lambda x: A.constant_pad_nd.default(x, [-1, 2, 1, -1], 3.0), (2, 4))
MASK = torch.tensor([[True, False, True], [False, False, True]])
case("where", lambda x, m, c: A.where.self(m, x, c), (2, 3), MASK, f64(3))
case("where signals", lambda x, m: A.where.self(m, x[:1], x * 2), (2, 3), MASK)
case("where wide mask", lambda x, m: A.where.self(m, x, -x), (3,), MASK)
case("where scalar other", lambda x, m: A.where.ScalarOther(m, x, 0.3), (2, 3), MASK)
case("where scalar self", lambda x, m: A.where.ScalarSelf(m, 0.3, x), (2, 3), MASK)
case("masked_fill", lambda x, m: A.masked_fill.Scalar(x, m, -7.5), (2, 3), MASK)
case("masked_fill tensor", lambda x, m, v: A.masked_fill.Tensor(x, m, v), (2, 3), MASK, torch.tensor(0.25).double())
case("slice_scatter", lambda x, c: A.slice_scatter.default(x, c, 1, 0, 3, 2), (2, 3), f64(2, 2))
case("slice_scatter into a constant", lambda x, c: A.slice_scatter.default(c, x, 1, 1, 3), (2, 2), f64(2, 4))
case("select_scatter", lambda x, c: A.select_scatter.default(x, c, 0, -1), (2, 3), f64(3))

# Constant subgraphs in front of a signal.
W = f64(3, 4)
CONSTANT: dict[str, Callable[..., torch.Tensor]] = {
    "weight norm": lambda w: w * (torch.ones(3, 1, dtype=torch.float64) / A.linalg_vector_norm.default(w, 2, [1], True)),
    "sums": lambda w: A.sum.dim_IntList(w, [1], True) + A.mean.dim(w, [0]) - A.sum.default(w) / A.mean.default(w),
    "matmul": lambda w: A.mm.default(A.mm.default(w, A.permute.default(w, [1, 0])), w),
    "addmm": lambda w: A.addmm.default(w, A.mm.default(w, A.t.default(w)), w, beta=0.5, alpha=-2),
    "functions": lambda w: A.exp.default(w) * A.sigmoid.default(w) - A.tanh.default(w) + A.relu.default(w),
    "roots": lambda w: A.sqrt.default(w.abs()) + A.rsqrt.default(w.abs() + 1) + A.log.default(w.abs() + 0.1),
    "powers": lambda w: A.pow.Tensor_Scalar(w, 3) + A.pow.Tensor_Scalar(w, 2) + A.reciprocal.default(w) + A.square.default(w),
    "power -2": lambda w: A.pow.Tensor_Scalar(w, -2) + A.pow.Tensor_Scalar(w.abs(), -0.5) + A.pow.Tensor_Scalar(w, 0),
    "clamped": lambda w: A.clamp.default(w, -0.5, 0.5) + A.clamp_min.default(w, 0.1) + A.clamp_max.default(w, 0.1),
    "extremes": lambda w: A.maximum.default(w, -w) + A.minimum.default(w, w * w) + A.amax.default(w, [0]),
    "layout": lambda w: A.cat.default([w[1:], w[:1]]).flip(1) + A.constant_pad_nd.default(w[:, :2].exp(), [1, 1], -1.0),
    "masked": lambda w: A.where.self(w > 0, w, w * 0.5) + A.where.ScalarOther(w > 0.5, w, 0.25),
    "created": lambda w: torch.arange(4, dtype=torch.float64) * torch.full((3, 1), 0.1, dtype=torch.float64)
    + torch.eye(3, 4, dtype=torch.float64) + torch.zeros_like(w) + torch.ones(4),
    "whole numbers": lambda w: w * torch.arange(1, 13).reshape(3, 4) / A.floor_divide.default(torch.arange(7, 19), 3).reshape(3, 4),
    "norms": lambda w: A.linalg_vector_norm.default(w, 1, [0]) + A.linalg_vector_norm.default(w),
    "linear": lambda w: A.linear.default(w, torch.eye(4, dtype=torch.float64), w[0]) + A.rsub.Scalar(w, 1.0, 2),
    "steps": lambda w: torch.round(w) + torch.floor(w) + torch.sign(w) + torch.cumsum(torch.ones(4, dtype=torch.int64), 0),
    "floats scattered": lambda w: A.slice_scatter.default(w, A.full.default((3, 1), 0.25, dtype=torch.float64), 1, 1, 2),
    "sum of whole numbers": lambda w: w + A.sum.default(w, dtype=torch.int64),
}  # fmt: skip
for name, function in CONSTANT.items():
    case(f"constants: {name}", lambda x, w, f=function: x * f(w), (3, 4), W)

# Refusals: (name, function, shape, unbounded, a word of the message).
REFUSED: list[tuple[str, Callable[..., Any], tuple[int, ...], bool, str]] = [
    ("argmax", lambda x: A.argmax.default(x).double(), (3,), True, "maximum"),
    ("argmin", lambda x: A.argmin.default(x, 0).double() + x, (3,), True, "minimum"),
    ("indices of max", lambda x: A.max.dim(x, 0)[1].double() + x, (3,), True, "positions"),
    ("indices of sort", lambda x: A.sort.default(x)[1] * x, (3,), True, "positions"),
    ("indices of topk", lambda x: A.gather.default(x, 0, A.topk.default(x, 2)[1]), (3,), True, "positions"),
    ("indices of max pool", lambda x: A.max_pool2d_with_indices.default(x, [2])[1] * 1.0, (1, 2, 2), True, "positions"),
    ("bool arithmetic", lambda x: A.add.Tensor(x > 0, x > 1).double(), (3,), False, "threshold"),
    ("sum of outcomes", lambda x: A.sum.default(x > 0).double(), (3,), False, "threshold"),
    ("int cast", lambda x: A._to_copy.default(x, dtype=torch.int64) * 1.0, (3,), True, "int64"),
    ("bool cast", lambda x: A._to_copy.default(x, dtype=torch.bool) * 1.0, (3,), True, "bool"),
    ("prims int cast", lambda x: torch.ops.prims.convert_element_type.default(x, torch.int32) * 1.0, (3,), True, "int32"),
    ("complex cast", lambda x: A._to_copy.default(x, dtype=torch.complex128).real, (3,), False, "complex"),
    ("sum to int", lambda x: A.sum.dim_IntList(x, [0], dtype=torch.int64) * 1.0, (3,), True, "int64"),
    ("sum all to int", lambda x: A.sum.default(x, dtype=torch.int32) * 1.0, (3,), True, "int32"),
    ("mean as complex", lambda x: A.mean.default(x, dtype=torch.complex128).real, (3,), False, "complex"),
    ("cumsum to int", lambda x: A.cumsum.default(x, 0, dtype=torch.int64) * 1.0, (3,), True, "int64"),
    ("unsorted topk", lambda x: A.topk.default(x, 2, 0, True, False)[0], (5,), False, "sorted"),
    ("unknown op", lambda x: A.special_bessel_j0.default(x), (3,), False, "no rule"),
    ("fmod", lambda x: A.fmod.Scalar(x, 1.0), (3,), False, "no rule"),
    ("round decimals", lambda x: A.round.decimals(x, decimals=1), (3,), False, "no rule"),
    ("div rounding", lambda x: A.div.Tensor_mode(x, x * 2, rounding_mode="floor"), (3,), False, "no rule"),
    ("view as bits", lambda x: A.view.dtype(x, torch.int64) * 1.0, (3,), False, "no rule"),
    ("pow of signals", lambda x: A.pow.Tensor_Tensor(x, x), (3,), False, "power"),
    ("pow of minus two", lambda x: A.pow.Scalar(-2.0, x), (3,), False, "power"),
    ("pow 0", lambda x: A.pow.Tensor_Scalar(x, 0), (3,), False, "power"),
    ("pow inf", lambda x: A.pow.Tensor_Scalar(x, math.inf), (3,), False, "power"),
    ("pow nan", lambda x: A.pow.Tensor_Scalar(x, math.nan), (3,), False, "power"),
    ("norm of order 3", lambda x: A.linalg_vector_norm.default(x, 3), (3,), False, "order 3"),
    ("norm of order 0", lambda x: A.linalg_vector_norm.default(x, 0), (3,), False, "order 0"),
    ("divide by zero", lambda x: x / torch.zeros(3), (3,), False, "zero"),
    ("times infinity", lambda x: x * math.inf, (3,), False, "finite"),
    ("plus nan", lambda x: x + math.nan, (3,), False, "finite"),
    ("fill with -inf", lambda x: A.constant_pad_nd.default(x, [1, 1], -math.inf), (3,), False, "-inf"),
    ("fill with inf", lambda x: A.constant_pad_nd.default(x, [1, 1], math.inf), (3,), False, "finite"),
    ("pad with -inf twice", lambda x: A.max_pool2d_with_indices.default(A.constant_pad_nd.default(
        A.constant_pad_nd.default(x, [1, 0], -math.inf), [0, 1], -math.inf), [2, 2])[0], (1, 2, 2), False, "-inf"),
    ("-inf then relu", lambda x: A.relu.default(A.constant_pad_nd.default(x, [1, 1], -math.inf)), (3,), False, "-inf"),
    ("a pool of padding only", lambda x: A.max_pool2d_with_indices.default(
        A.constant_pad_nd.default(x, [2, 0], -math.inf), [1, 2])[0], (1, 2, 2), False, "padding"),
    ("a kernel that depends", lambda x: A.convolution.default(torch.ones(1, 2, 3).double(), x, None, [1], [0], [1],
        False, [0], 1), (2, 2, 1), False, "kernel"),
    ("a bias that depends", lambda x: A.convolution.default(x, torch.ones(2, 2, 1).double(), x[0, :, 0], [1], [0], [1],
        False, [0], 1), (1, 2, 3), False, "constant"),
    ("statistics of layer norm", lambda x: A.native_layer_norm.default(x, [3], None, None, 1e-5)[1], (3,), False, "reads"),
    ("rms norm without eps", lambda x: A.rms_norm.default(x, [3]), (3,), False, "eps"),
    ("a slope that depends", lambda x: A._prelu_kernel.default(x, x), (3,), False, "constant"),
    ("logsumexp of nothing", lambda x: A.logsumexp.default(x, []), (3,), False, "no axis"),
    ("crossed clamp", lambda x: A.clamp.default(x, 0.5, -0.5), (3,), False, "min <= max"),
    ("two results", lambda x: (x, x * 2), (3,), False, "outputs"),
]  # fmt: skip
for name in ("gt", "lt", "ge", "le", "eq", "ne"):  # steps, multiplied with what they compare
    case(f"compare {name}", lambda x, op=getattr(A, name): op.Scalar(x, 0.5) * x, (3,))
    case(f"compare {name} tensor", lambda x, op=getattr(A, name): op.Tensor(x, x * 2) * x, (3,))
for word, op in (("var", A.var), ("std", A.std)):
    case(f"{word} of all", lambda x, op=op: op.default(x), (2, 3))
    case(f"{word} along", lambda x, op=op: op.dim(x, [1], True, True), (2, 3))
    case(f"{word} corrected", lambda x, op=op: op.correction(x, [1], correction=0, keepdim=True), (2, 3))
for op in (A.var_mean, A.std_mean):
    case(f"{op} first", lambda x, op=op: op.correction(x, [1], correction=1)[0], (2, 3))
    case(f"{op} second", lambda x, op=op: op.correction(x, [1], correction=1)[1], (2, 3))
LOW = lambda x: A.gt.Scalar(x, -0.5)  # noqa: E731
HIGH = lambda x: A.lt.Scalar(x, 0.5)  # noqa: E731
for op in (A.logical_and.default, A.logical_or.default, A.bitwise_and.Tensor, A.bitwise_or.Tensor):
    case(f"{op}", lambda x, op=op: op(LOW(x), HIGH(x)) * x, (3,))
for op in (A.logical_not.default, A.bitwise_not.default):
    case(f"{op}", lambda x, op=op: op(LOW(x)) * x, (3,))
case("where of numbers", lambda x: A.where.Scalar(LOW(x), 2.0, -1.0) * x, (3,))
