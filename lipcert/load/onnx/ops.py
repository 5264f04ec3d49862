"""The ONNX operators lipcert reads, and those it knows well enough to say why not."""

from __future__ import annotations

from typing import NamedTuple

from lipcert.load.onnx import ops_index as onnx_ops_index
from lipcert.load.onnx import ops_math as onnx_ops_math
from lipcert.load.onnx import ops_nn as onnx_ops_nn
from lipcert.load.onnx import ops_resize as onnx_ops_resize
from lipcert.load.onnx import ops_rnn as onnx_ops_rnn
from lipcert.load.onnx import ops_shape as onnx_ops_shape
from lipcert.load.onnx.node import Op

TABLE: dict[str, Op] = {
    **onnx_ops_math.TABLE,
    **onnx_ops_shape.TABLE,
    **onnx_ops_index.TABLE,
    **onnx_ops_nn.TABLE,
    **onnx_ops_resize.TABLE,
    **onnx_ops_rnn.TABLE,
}


class Reason(NamedTuple):
    text: str
    unbounded: bool = False  # where the input reaches it, the function jumps


_STEP = "its result is a step function of its input"
_STAIRCASE = (
    "rounds values to integers, which is a staircase: bound the float model that this one was quantised from, or its surrogate "
    "without rounding, which `lipcert dequantise MODEL --to FILE` writes"
)
_RANDOM = "draws random numbers"
_SHAPE = "the shape of its result depends on values"

REFUSED: dict[str, Reason] = {
    "ArgMax": Reason(_STEP, unbounded=True),
    "ArgMin": Reason(_STEP, unbounded=True),
    "Hardmax": Reason(_STEP, unbounded=True),
    "QuantizeLinear": Reason(_STAIRCASE, unbounded=True),
    "DynamicQuantizeLinear": Reason(_STAIRCASE, unbounded=True),
    "NonZero": Reason(_SHAPE, unbounded=True),
    "Unique": Reason(_SHAPE, unbounded=True),
    "Compress": Reason(_SHAPE),
    "NonMaxSuppression": Reason(_SHAPE, unbounded=True),
    "RandomNormal": Reason(_RANDOM),
    "RandomNormalLike": Reason(_RANDOM),
    "RandomUniform": Reason(_RANDOM),
    "RandomUniformLike": Reason(_RANDOM),
    "Multinomial": Reason(_RANDOM),
    "Bernoulli": Reason(_RANDOM),
}
