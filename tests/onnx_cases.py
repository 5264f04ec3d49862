"""Small graphs of one node each: the table behind test_onnx_ops. A row gives one graph per schema version in range."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lipcert.load.onnx.ops import TABLE

X = "x"  # stands for the network's input among a node's inputs
_RNG = np.random.default_rng(7)


@dataclass(frozen=True, eq=False)
class Case:
    op: str
    inputs: tuple[Any, ...]  # X, an array (initialiser), or None (left out)
    shape: tuple[int, ...]
    low: int = 1  # schema versions for which the row makes sense
    high: int = 99
    domain: tuple[float, float] = (-3.0, 3.0)  # range of the input's entries
    outputs: int = 1
    read: int = 0  # which output is the network's
    integral: bool = False  # the node's result is an integer tensor, cast to float and multiplied by x
    kinks: bool = False  # steps: keep the input away from integers
    attributes: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 2e-5

    def __str__(self) -> str:
        text = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}({text})".replace(" ", "")[:90]


def f(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def i(*values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def scalar(value: float, kind: Any = np.float32) -> np.ndarray:
    return np.array(value, dtype=kind)


def unary(op: str, domain: tuple[float, float] = (-3.0, 3.0), **attributes: Any) -> Case:
    return Case(op, (X,), (2, 3, 4), domain=domain, attributes=attributes)


def case(op: str, *inputs: Any, shape: tuple[int, ...] = (2, 3, 4), **options: Any) -> Case:
    known = {k: options.pop(k) for k in list(options) if k in Case.__dataclass_fields__ and k != "attributes"}
    return Case(op, inputs, shape, attributes=options, **known)


IMAGE = (1, 2, 7, 6)
SMALL = (1, 2, 5, 5)
B = np.array([True, False, True])


def rows() -> Iterator[Case]:
    # --- entry by entry
    for op in [
        "Abs",
        "Neg",
        "Exp",
        "Sin",
        "Cos",
        "Atan",
        "Sinh",
        "Cosh",
        "Asinh",
        "Erf",
        "Sigmoid",
        "Tanh",
        "Relu",
        "Softplus",
        "Softsign",
        "HardSwish",
        "Mish",
    ]:
        yield unary(op)
    yield unary("Softplus", (-40.0, 40.0))
    yield unary("Sigmoid", (-40.0, 40.0))
    yield unary("Tan", (-1.2, 1.2))
    for op in ("Asin", "Acos", "Atanh"):
        yield unary(op, (-0.9, 0.9))
    yield unary("Acosh", (1.1, 4.0))
    for op in ("Sqrt", "Log", "Reciprocal"):
        yield unary(op, (0.2, 4.0))
    for op in ("Floor", "Ceil", "Round", "Sign"):
        yield Case(op, (X,), (2, 3, 4), kinks=True)
    yield unary("Identity")
    for alpha in ({}, {"alpha": 0.3}, {"alpha": 2.5}, {"alpha": -0.5}):
        yield unary("LeakyRelu", **alpha)
    for alpha in ({}, {"alpha": 0.7}):
        for op in ("Elu", "Celu", "ThresholdedRelu"):
            yield unary(op, **alpha)
        yield unary("Swish", **alpha)
    yield unary("Selu")
    yield unary("Selu", alpha=1.5, gamma=0.8)
    yield unary("HardSigmoid")
    yield unary("HardSigmoid", alpha=0.35, beta=0.4)
    yield unary("Gelu", approximate="none")
    yield unary("Gelu", approximate="tanh")
    yield unary("Gelu")
    yield unary("ThresholdedRelu", alpha=0.0)
    yield unary("Shrink", lambd=0.7, bias=0.7)
    yield unary("Shrink", lambd=0.0, bias=0.0)
    for slope in (f(1), f(3, 1), f(2, 3, 4), f(4), f(1, 3, 1), scalar(0.3)):
        yield case("PRelu", X, slope)
    yield case("PRelu", X, f(2, 1, 1), shape=IMAGE)
    yield case("PRelu", X, f(5), shape=(2, 5))
    for bounds in ({"min": -0.5, "max": 1.25}, {"max": 0.5}, {}):
        yield case("Clip", X, high=6, **bounds)
    for low_high in (
        (scalar(-0.5), scalar(1.25)),
        (None, scalar(0.5)),
        (scalar(0.5), None),
        (scalar(1.0), scalar(0.5)),
    ):
        yield case("Clip", X, *low_high, low=11)
    yield case("Clip", X, low=11)

    # --- two and more operands
    for op in ("Add", "Sub", "Mul", "Div"):
        for other in (f(2, 3, 4), f(4), f(3, 1), scalar(1.7), f(5, 2, 3, 4)):
            yield case(op, X, other)
        yield case(op, f(3, 1), X, domain=(0.5, 3.0))
        yield case(op, X, X, domain=(0.5, 3.0))
    for op in ("Min", "Max", "Sum", "Mean"):
        yield case(op, X, f(2, 3, 4))
        yield case(op, X, f(2, 3, 4), f(2, 3, 4))
        yield case(op, X, f(3, 1), f(4), low=8)
        yield case(op, X)
    for power in (2.0, 3.0, 0.5, -1.0):
        yield case("Pow", X, scalar(power), domain=(0.3, 2.0))
    yield case("Pow", X, np.array([1.0, 2.0, 3.0, 0.5], np.float32), domain=(0.3, 2.0))
    yield case("Pow", X, i(2), low=12)
    yield case("Pow", np.array([2.0], np.float32), X)
    yield case("Mod", X, scalar(1.5), fmod=1, kinks=True)
    for transposes in ({}, {"transA": 1}, {"transB": 1}, {"transA": 1, "transB": 1}):
        a = (4, 2) if "transA" in transposes else (2, 4)
        w = f(3, 4) if "transB" in transposes else f(4, 3)
        yield case("Gemm", X, w, f(3), shape=a, **transposes)
        yield case("Gemm", X, w, f(2, 1), shape=a, alpha=0.5, beta=1.5, **transposes)
        yield case("Gemm", X, w, scalar(0.5), shape=a, alpha=2.0, **transposes)
        yield case("Gemm", X, w, shape=a, low=11, beta=0.3, **transposes)
        left, right = ((3, 5) if "transA" in transposes else (5, 3)), ((2, 3) if "transB" in transposes else (3, 2))
        yield case("Gemm", f(*left), X, f(1, 2), shape=right, **transposes)
    for shape, other in (
        ((2, 4), f(4, 3)),
        ((4,), f(4, 3)),
        ((3, 2, 4), f(4, 5)),
        ((3, 2, 4), f(3, 4, 5)),
        ((2, 4), f(4)),
    ):
        yield case("MatMul", X, other, shape=shape)
    yield case("MatMul", f(3, 2), X, shape=(2, 4))
    for equation, other in (
        ("bij,bjk->bik", f(2, 4, 5)),
        ("bij,jk->bik", f(4, 5)),
        ("bij->bji", None),
        ("...ij,...j->...i", f(2, 4)),
        ("bij , kj -> bk", f(5, 4)),
        ("bii->bi", None),
    ):
        shape = (2, 3, 3) if "ii" in equation else (2, 3, 4)
        yield case("Einsum", *((X,) if other is None else (X, other)), shape=shape, equation=equation)
    for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        yield case(op, i(1, 5, 3), i(2, 2, 3), shape=(2, 3), integral=True, low=9 if op in ("Greater", "Less") else 7)
        yield case(op, X, f(3), shape=(2, 3), integral=True, low=7 if op != "Equal" else 11)
    for op in ("And", "Or", "Xor"):
        yield case(op, B, np.array([True, True, False]), shape=(2, 3), integral=True)
    yield case("Not", B, shape=(2, 3), integral=True)
    yield case("IsNaN", f(2, 3), shape=(2, 3), integral=True, low=9)
    yield case("Where", B, X, f(3), shape=(2, 3))
    yield case("Where", B, scalar(2.0), X, shape=(2, 3))
    for axis, flags in ((0, {}), (1, {"exclusive": 1}), (-1, {"reverse": 1}), (2, {"exclusive": 1, "reverse": 1})):
        yield case("CumSum", X, scalar(axis, np.int64), **flags)

    # --- reductions
    for name in ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]:
        op, domain = f"Reduce{name}", (0.2, 2.0)
        axes_until = 12 if name == "Sum" else 17
        for axes, keep in (([1], 1), ([0, 2], 0), ([-1], 1), (None, 1), (None, 0)):
            given = {} if axes is None else {"axes": axes}
            yield case(op, X, domain=domain, high=axes_until, keepdims=keep, **given)
            yield case(op, *((X,) if axes is None else (X, i(*axes))), domain=domain, low=axes_until + 1, keepdims=keep)
        yield case(op, X, i(), domain=domain, low=axes_until + 1, keepdims=1)
        if name in ("Mean", "Sum", "Max", "Min", "Prod"):
            yield case(op, X, i(), domain=domain, low=axes_until + 1, noop_with_empty_axes=1)
            yield case(op, X, domain=domain, low=axes_until + 1, noop_with_empty_axes=1)
    # --- creation and types
    yield case("Constant", value=numpy_helper.from_array(f(2, 3)), shape=(2, 3), integral=True)
    yield case("Constant", value_float=1.5, shape=(2, 3), integral=True, low=12)
    yield case("Constant", value_ints=[1, 2, 3], shape=(2, 3), integral=True, low=12)
    yield case("ConstantOfShape", i(2, 3), shape=(2, 3), integral=True)
    yield case(
        "ConstantOfShape",
        i(2, 3),
        shape=(2, 3),
        integral=True,
        value=numpy_helper.from_array(np.array([2.5], np.float32)),
    )
    yield case("ConstantOfShape", i(3), shape=(2, 3), integral=True, value=numpy_helper.from_array(i(4)))
    yield case("Shape", X, shape=(5, 2), integral=True)
    yield case("Shape", X, shape=(5, 3, 1, 2), integral=True, low=15, start=1, end=-1)
    yield case("Shape", X, shape=(5, 3, 2, 2), integral=True, low=15, start=-3, end=2)
    yield case("Size", X, shape=(2, 3), integral=True)
    yield case("Range", scalar(1, np.int64), scalar(7, np.int64), scalar(2, np.int64), shape=(2, 3), integral=True)
    yield case("Range", scalar(7.0), scalar(1.0), scalar(-2.0), shape=(2, 3), integral=True)
    yield case("EyeLike", X, shape=(3, 3), integral=True)
    yield case("EyeLike", X, shape=(3, 4), integral=True, k=1)
    yield case(
        "OneHot",
        i(1, -1, 7),
        scalar(3, np.int64),
        np.array([0.5, 2.0], np.float32),
        shape=(3, 3),
        integral=True,
        low=11,
    )
    yield case(
        "OneHot", i(1, 0, 2), scalar(3, np.int64), np.array([0.0, 1.0], np.float32), shape=(3, 3), integral=True, axis=0
    )
    yield case("Cast", X, to=TensorProto.FLOAT)
    yield case("Cast", X, to=TensorProto.DOUBLE)
    yield case("Cast", i(1, 2, 3, 4), to=TensorProto.FLOAT, integral=True)
    yield case("Cast", i(0, 2, 0, 4), to=TensorProto.BOOL, integral=True)
    yield case("Cast", np.array([1.7, -1.7, 0.5, 4.0], np.float32), to=TensorProto.INT64, integral=True)
    yield case("CastLike", X, f(1))
    yield case("CastLike", i(1, 2, 3, 4), f(1), integral=True)
    levels = _RNG.integers(-100, 100, (3, 4)).astype(np.int8)
    yield case("DequantizeLinear", levels, scalar(0.05), scalar(3, np.int8), shape=(3, 4), integral=True)
    yield case("DequantizeLinear", levels, scalar(0.05), shape=(3, 4), integral=True)
    yield case(
        "DequantizeLinear", levels.astype(np.uint8), scalar(0.05), scalar(200, np.uint8), shape=(3, 4), integral=True
    )
    yield case(
        "DequantizeLinear", levels, np.abs(f(4)), np.array([1, -2, 3, 0], np.int8), shape=(3, 4), integral=True, low=13
    )
    yield case(
        "DequantizeLinear",
        levels,
        np.abs(f(3)),
        np.array([1, -2, 3], np.int8),
        shape=(3, 4),
        integral=True,
        low=13,
        axis=0,
    )

    # --- shapes
    for wanted in (i(6, 4), i(0, -1), i(-1), i(4, 0, -1), i(1, 2, 3, 4)):
        yield case("Reshape", X, wanted)
    yield case("Reshape", X, i(2, -1, 1), low=14, allowzero=1)
    for axis in ({}, {"axis": 0}, {"axis": 2}, {"axis": 3}):
        yield case("Flatten", X, **axis)
    yield case("Flatten", X, axis=-1, low=11)
    for axes in ([0], [0, 2]):
        yield case("Squeeze", X, shape=(1, 3, 1, 2), high=12, axes=axes)
        yield case("Squeeze", X, i(*axes), shape=(1, 3, 1, 2), low=13)
        yield case("Unsqueeze", X, shape=(3, 2), high=12, axes=axes)
        yield case("Unsqueeze", X, i(*axes), shape=(3, 2), low=13)
    yield case("Squeeze", X, shape=(1, 3, 1, 2))
    yield case("Squeeze", X, i(-2), shape=(1, 3, 1, 2), low=13)
    yield case("Unsqueeze", X, i(-1, 0), shape=(3, 2), low=13)
    yield case("Transpose", X)
    yield case("Transpose", X, perm=[1, 2, 0])
    yield case("Expand", X, i(2, 3, 4), shape=(3, 1))
    yield case("Expand", X, i(3, 1), shape=(1, 4))
    yield case("Expand", X, i(1), shape=(3, 4))
    yield case("Tile", X, i(2, 1, 3))
    for axis in (0, 1, -1):
        other = [2, 3, 4]
        other[axis] = 5
        yield case("Concat", X, f(*other), X, axis=axis, low=4 if axis >= 0 else 11)
    for read in (0, 1):
        yield case("Split", X, outputs=2, read=read, axis=2, high=13)
        yield case("Split", X, outputs=2, read=read, axis=2, high=11, split=[1, 3])
        yield case("Split", X, i(1, 3), outputs=2, read=read, axis=-1, low=13)
        yield case("Split", X, outputs=2, read=read, axis=2, low=18, num_outputs=2)
        yield case("Split", X, outputs=2, read=read, axis=0, shape=(5, 2), low=18, num_outputs=2)
    far = np.iinfo(np.int64).max
    for starts, ends, axes, steps in (
        ([1], [3], [2], [1]),
        ([0, -2], [2, far], [1, 2], [1, 1]),
        ([-1], [-far], [2], [-1]),
        ([3], [0], [2], [-2]),
        ([0], [-1], [-1], [2]),
        ([5], [-9], [1], [-1]),
        ([-1], [-3], [1], [-1]),
    ):
        yield case("Slice", X, i(*starts), i(*ends), i(*axes), i(*steps), low=10)
        if steps == [1] * len(steps):
            yield case("Slice", X, high=9, starts=starts, ends=ends, axes=axes)
    yield case("Slice", X, i(0, 1), i(1, 3), low=10)
    yield case("Slice", X, i(1), i(3), None, i(1), low=10, shape=(4, 2))
    yield case("Slice", X, high=9, starts=[0, 1], ends=[1, -1])
    for mode in ("constant", "reflect", "edge", "wrap"):
        since = 19 if mode == "wrap" else 1
        amounts = [0, 0, 1, 2, 0, 0, 3, 1]
        yield case("Pad", X, shape=IMAGE, high=10, low=since, mode=mode, pads=amounts)
        yield case("Pad", X, i(*amounts), shape=IMAGE, low=max(since, 11), mode=mode)
        yield case("Pad", X, i(2, 1), None, i(-1), shape=IMAGE, low=max(since, 18), mode=mode)
        yield case("Pad", X, i(0, 1, 2, 1, 2, 0), shape=(2, 3, 4), low=max(since, 11), mode=mode)
    yield case("Pad", X, shape=IMAGE, high=10, pads=[0, 1, -1, 2, 0, 0, 2, -2], value=1.5)
    yield case("Pad", X, i(0, 1, -1, 2, 0, 0, 2, -2), scalar(1.5), shape=IMAGE, low=11)
    for mode in ("DCR", "CRD"):
        yield case("DepthToSpace", X, shape=(1, 8, 2, 3), low=11, blocksize=2, mode=mode)
    yield case("DepthToSpace", X, shape=(1, 8, 2, 3), blocksize=2)
    yield case("SpaceToDepth", X, shape=(1, 2, 4, 6), blocksize=2)
    for upper, k in ((1, None), (0, None), (1, 1), (0, -1)):
        yield case("Trilu", X, *(() if k is None else (scalar(k, np.int64),)), upper=upper)

    # --- gathers, scatters and sorts
    for axis, index in ((0, i(1, 0, 1)), (2, i([0, 3], [2, 2])), (1, scalar(2, np.int64))):
        yield case("Gather", X, index, axis=axis)
    yield case("Gather", X, i(-1, 0), axis=1, low=11)
    yield case("Gather", X, scalar(-1, np.int64), axis=-1, low=11)
    yield case("Gather", f(4, 3), i(1, 1), shape=(2, 3), integral=True)
    yield case("GatherElements", X, i([[0, 1, 0, 2]], [[2, -1, 1, 0]]), axis=1)
    yield case("GatherND", X, i([0, 1], [1, -1]))
    yield case("GatherND", X, i([[0, 1, 2]], [[1, 2, 3]]))
    updates = f(2, 4)
    yield case("ScatterND", X, i([0, 1], [1, -1]), updates)
    yield case("ScatterND", f(2, 3, 4), i([0, 1], [1, 2]), X, shape=(2, 4))
    yield case("ScatterND", X, i([0, 1], [0, 1]), updates, low=16, reduction="add")
    yield case("ScatterElements", X, i([[0, 1, 0, 2]], [[2, 2, 1, 0]]), f(2, 1, 4), axis=1)
    yield case("ScatterElements", X, i([[0, 1, 0, 2], [0, -1, 0, 2]]), f(1, 2, 4), axis=1, low=16, reduction="add")

    for axis in (-1, 1):
        yield case("TopK", X, high=9, outputs=2, k=2, axis=axis)
        yield case("TopK", X, i(2), low=10, outputs=2, axis=axis)
    for options in ({}, {"largest": 0}, {"axis": 0, "largest": 0}):
        yield case("TopK", X, i(2), low=11, outputs=2, **options)
    yield case("TopK", X, i(1), low=11, outputs=2, sorted=0)
    yield case("TopK", X, i(4), low=11, outputs=2)

    # --- windows
    for options in (
        {},
        {"pads": [1, 0, 2, 1]},
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"dilations": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
        {"auto_pad": "VALID", "kernel_shape": [3, 2]},
    ):
        yield case("Conv", X, f(4, 2, 3, 2), f(4), shape=IMAGE, **options)
        yield case("Conv", X, f(4, 1, 3, 2), shape=IMAGE, group=2, **options)
    yield case("Conv", X, f(4, 3, 3), f(4), shape=(2, 3, 8), pads=[1, 2])
    yield case("Conv", X, f(2, 2, 2, 2, 2), shape=(1, 2, 4, 3, 3), pads=[1, 0, 0, 0, 1, 0])
    for options in (
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"strides": [2, 3], "output_padding": [1, 2]},
        {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 1]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"dilations": [2, 2]},
        {"strides": [2, 2], "output_shape": [11, 10], "kernel_shape": [3, 2]},
        {"strides": [2, 2], "auto_pad": "VALID"},
    ):
        yield case("ConvTranspose", X, f(2, 4, 3, 2), f(4), shape=SMALL, **options)
        yield case("ConvTranspose", X, f(2, 2, 3, 2), shape=SMALL, group=2, **options)
    yield case("ConvTranspose", X, f(2, 4, 4, 4), shape=SMALL, strides=[2, 2], auto_pad="SAME_UPPER")
    yield case("ConvTranspose", X, f(3, 2, 3), f(2), shape=(2, 3, 5), strides=[2])
    for options in (
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [0, 1, 2, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 3], "strides": [1, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "VALID"},
    ):
        yield case("MaxPool", X, shape=IMAGE, **options)
        yield case("AveragePool", X, shape=IMAGE, **options)
        yield case("AveragePool", X, shape=IMAGE, count_include_pad=1, **options)
    for options in (
        {"kernel_shape": [3, 3], "strides": [2, 2]},
        {"kernel_shape": [2, 2], "strides": [3, 3]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [0, 1, 1, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ):
        yield case("MaxPool", X, shape=IMAGE, low=10, ceil_mode=1, **options)
        yield case("AveragePool", X, shape=IMAGE, low=10, ceil_mode=1, **options)
        yield case("AveragePool", X, shape=IMAGE, low=10, ceil_mode=1, count_include_pad=1, **options)
    yield case("MaxPool", X, shape=IMAGE, low=10, kernel_shape=[2, 2], dilations=[2, 3])
    yield case("MaxPool", X, shape=IMAGE, low=10, kernel_shape=[3, 2], dilations=[2, 2], pads=[1, 1, 2, 0])
    yield case("MaxPool", X, shape=(2, 3, 8), kernel_shape=[3], strides=[2], pads=[1, 1])
    yield case("MaxPool", X, shape=(2, 3, 8), low=10, kernel_shape=[3], strides=[3], ceil_mode=1)
    yield case("MaxPool", X, shape=(2, 3, 9), low=10, kernel_shape=[2], strides=[2], dilations=[2], pads=[0, 1])
    yield case("AveragePool", X, shape=(2, 3, 8), kernel_shape=[3], strides=[2], pads=[1, 1])
    yield case("MaxPool", X, shape=(1, 2, 4, 4, 4), kernel_shape=[2, 2, 2])
    yield case("AveragePool", X, shape=(1, 2, 4, 4, 4), kernel_shape=[2, 2, 2], pads=[1, 0, 0, 0, 1, 0])
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        yield case(op, X, shape=IMAGE)
        yield case(op, X, shape=(2, 3, 5))

    # --- normalisations
    statistics = (f(2), f(2), f(2), np.abs(f(2)) + 0.1)
    yield case("BatchNormalization", X, *statistics, shape=IMAGE)
    yield case("BatchNormalization", X, *statistics, shape=(3, 2), epsilon=1e-3, momentum=0.5)
    yield case("InstanceNormalization", X, f(2), f(2), shape=IMAGE)
    yield case("InstanceNormalization", X, f(3), f(3), shape=(2, 3, 4), epsilon=0.1)
    yield case("LayerNormalization", X, f(4), f(4))
    yield case("LayerNormalization", X, f(3, 4), f(3, 4), axis=1, epsilon=0.01)
    yield case("LayerNormalization", X, f(1), None, axis=-2)
    yield case("LayerNormalization", X, f(4))
    yield case("GroupNormalization", X, f(6), f(6), shape=(1, 6, 2, 2), num_groups=3)
    yield case("GroupNormalization", X, f(4), f(4), shape=(2, 4, 5), low=21, num_groups=2, epsilon=0.01)
    yield case("RMSNormalization", X, f(4))
    yield case("RMSNormalization", X, f(3, 4), axis=1, epsilon=0.1)
    yield case("RMSNormalization", X, f(1), axis=-2)
    yield case("LRN", X, shape=(1, 6, 3, 3), size=3)
    yield case("LRN", X, shape=(1, 6, 3, 3), size=5, alpha=0.5, beta=0.6, bias=2.0)
    for axis in (1, -1):
        for p in (1, 2):
            yield case("LpNormalization", X, axis=axis, p=p)
    yield case("MeanVarianceNormalization", X, shape=IMAGE)
    yield case("MeanVarianceNormalization", X, axes=[1, 2])
    for op in ("Softmax", "LogSoftmax"):
        for axis in ({}, {"axis": 0}, {"axis": 1}, {"axis": 2}):
            yield case(op, X, **axis)
        yield case(op, X, axis=-1, low=11)
        yield case(op, X, axis=-2, low=13)
    yield case("Dropout", X)
    yield case("Dropout", X, high=10, ratio=0.3)
    yield case("Dropout", X, scalar(0.3), low=12)
    yield case("Dropout", X, scalar(0.3), scalar(False, np.bool_), low=12, seed=3)

    # --- resizing
    roi = np.array([], np.float32)
    for mode in ("nearest", "linear"):
        yield case("Upsample", X, shape=SMALL, high=7, mode=mode, scales=[1.0, 1.0, 2.0, 3.0])
        yield case("Upsample", X, np.array([1, 1, 2, 1.5], np.float32), shape=(1, 2, 4, 4), low=9, mode=mode)
        yield case("Resize", X, np.array([1, 1, 2, 2], np.float32), shape=SMALL, high=10, mode=mode)
        yield case("Resize", X, np.array([1, 1, 0.5, 0.5], np.float32), shape=(1, 2, 4, 4), high=10, mode=mode)
        yield case("Resize", X, np.array([1, 1, 1.5, 3], np.float32), shape=(1, 2, 4, 4), high=10, mode=mode)
        yield case("Resize", X, roi, np.array([1, 1, 1.5, 3], np.float32), shape=(1, 2, 4, 4), low=11, mode=mode)
        yield case("Resize", X, roi, np.array([1, 1, 0.75, 1], np.float32), shape=(1, 2, 8, 4), low=11, mode=mode)
    places = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    for place in places:
        options = {"shape": (1, 2, 4, 4), "low": 11, "coordinate_transformation_mode": place}
        for mode in ("nearest", "linear", "cubic"):
            yield case("Resize", X, roi, np.array([1, 1, 2, 2], np.float32), mode=mode, **options)
            yield case("Resize", X, roi, np.array([1, 1, 0.5, 0.5], np.float32), mode=mode, **options)
        yield case("Resize", X, None, None, i(1, 2, 8, 3), mode="linear", **{**options, "low": 13})
        yield case("Resize", X, None, None, i(1, 2, 6, 5), mode="cubic", **{**options, "low": 13})
        for how in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
            yield case(
                "Resize", X, roi, np.array([1, 1, 2, 2], np.float32), mode="nearest", nearest_mode=how, **options
            )
    smooth = {"low": 18, "antialias": 1, "exclude_outside": 1}
    yield case("Resize", X, None, None, i(1, 2, 3, 9), shape=(1, 2, 7, 5), mode="linear", **smooth)
    yield case("Resize", X, None, None, i(1, 2, 4, 3), shape=(1, 2, 9, 8), mode="cubic", **smooth)
    yield case(
        "Resize", X, None, np.array([0.5, 0.75], np.float32), shape=(1, 1, 8, 8), mode="linear", axes=[2, 3], **smooth
    )
    for mode in ("nearest", "linear"):
        yield case("Resize", X, None, np.array([2, 4], np.float32), shape=(1, 2, 4, 4), low=18, mode=mode, axes=[2, 3])
        yield case("Resize", X, None, None, i(8, 8), shape=(1, 2, 4, 4), low=18, mode=mode, axes=[-2, -1])
        yield case(
            "Resize",
            X,
            None,
            np.array([1, 1, 2, 2], np.float32),
            shape=(1, 2, 4, 4),
            low=19,
            mode=mode,
            coordinate_transformation_mode="half_pixel_symmetric",
        )
    yield case(
        "Resize",
        X,
        roi,
        np.array([1, 1, 2, 2], np.float32),
        shape=(1, 2, 4, 4),
        low=11,
        mode="cubic",
        cubic_coeff_a=-0.5,
        exclude_outside=1,
    )

    # --- recurrent
    steps, batch, width, hidden = 3, 2, 4, 5
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            w, r = f(d, gates * hidden, width), f(d, gates * hidden, hidden)
            b, h0 = f(d, 2 * gates * hidden), f(d, batch, hidden)
            rest = (None, h0, f(d, batch, hidden)) if op == "LSTM" else (None, h0)
            options = {"shape": (steps, batch, width), "hidden_size": hidden, "direction": direction}
            outputs = 3 if op == "LSTM" else 2
            for read in range(outputs):
                yield case(op, X, w, r, b, *rest, outputs=outputs, read=read, **options)
            yield case(op, X, w, r, **options)
            yield case(op, X, w, r, b, np.array([steps] * batch, np.int32), **options)
        if op == "GRU":
            yield case(op, X, w, r, b, linear_before_reset=1, **options)
        w, r, b = f(1, gates * hidden, width), f(1, gates * hidden, hidden), f(1, 2 * gates * hidden)
        yield case(op, X, w, r, b, shape=(batch, steps, width), hidden_size=hidden, layout=1, low=14)


def graphs() -> Iterator[tuple[Case, int]]:
    """(case, opset): for each operator every schema version that the op table claims, and for each row the oldest and
    the newest version it fits; with LIPCERT_ALL_OPSETS=1 each row at each version."""
    newest, everything = onnx.defs.onnx_opset_version(), os.environ.get("LIPCERT_ALL_OPSETS") == "1"
    seen: set[tuple[str, int]] = set()
    for row in rows():
        opsets = [max(v, 7) for v in TABLE[row.op].versions if row.low <= v <= row.high and max(v, 7) <= newest]
        versions = {onnx.defs.get_schema(row.op, opset, "").since_version: opset for opset in opsets}
        for version, opset in versions.items():
            if everything or (row.op, version) not in seen or version in (min(versions), max(versions)):
                seen.add((row.op, version))
                yield row, opset


def model(row: Case, opset: int) -> onnx.ModelProto:
    """x -> node -> y, float32; where the node makes constants, y = x * cast(result)."""
    names, constants = [], []
    for k, given in enumerate(row.inputs):
        if isinstance(given, str):
            names.append("x")
        elif given is None:
            names.append("")
        else:
            names.append(f"c{k}")
            constants.append(numpy_helper.from_array(given, f"c{k}"))
    while names and not names[-1]:
        names.pop()
    made = [f"out{k}" for k in range(row.outputs)]
    nodes = [helper.make_node(row.op, names, made, name="node", **row.attributes)]
    result = made[row.read]
    if row.integral:
        nodes.append(helper.make_node("Cast", [result], ["as_float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", ["x", "as_float"], ["y"]))
        result = "y"
    out_type = TensorProto.DOUBLE if row.attributes.get("to") == TensorProto.DOUBLE else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, row.shape)],
        [helper.make_tensor_value_info(result, out_type, None)],
        constants,
    )
    ir = max(4, min(helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True), 13))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def sample(row: Case, rng: np.random.Generator) -> np.ndarray:
    low, high = row.domain
    x = rng.uniform(low, high, row.shape)
    if row.kinks:  # 0.1 to 0.4 above an integer multiple of a half
        x = np.floor(2 * x) / 2 + rng.uniform(0.1, 0.4, row.shape)
    return x.astype(np.float32)
