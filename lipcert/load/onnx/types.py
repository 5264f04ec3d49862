"""Element types of an ONNX graph: what the file calls each tensor, while we hold every float in float64.

A cast rounds a constant to the type that it names, so the type that it comes from must be known too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnx import NodeProto, TensorProto
from onnx.defs import OpSchema

_FORMAL = re.compile(r"tensor\((\w+)\)")
_OTHERS: dict[int, tuple[int, ...]] = {  # each float type that holds all values of another
    TensorProto.FLOAT16: (),
    TensorProto.BFLOAT16: (),
    TensorProto.FLOAT: (TensorProto.FLOAT16, TensorProto.BFLOAT16),
    TensorProto.DOUBLE: (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT),
}


def widens(source: int, target: int) -> bool:
    """Whether a cast between two float types changes no value."""
    return source == target or source in _OTHERS.get(target, ())


def made_types(proto: NodeProto, schema: OpSchema, given: Sequence[int]) -> list[int]:
    """Element type of each output: the type variable of the schema, bound by the inputs. 0 where it is not known."""
    bound: dict[str, int] = {}
    for i, kind in enumerate(given):
        if kind:
            bound.setdefault(schema.inputs[min(i, len(schema.inputs) - 1)].type_str, kind)
    stated = _stated(proto, bound)
    types = []
    for i in range(len(proto.output)):
        name = schema.outputs[min(i, len(schema.outputs) - 1)].type_str
        types.append(stated if i == 0 and stated else bound.get(name, _concrete(name)))
    return types


def _stated(proto: NodeProto, bound: dict[str, int]) -> int:
    """The output type of an operator that says it in an attribute, 0 for all others."""
    held = {a.name: a for a in proto.attribute}
    if proto.op_type == "Cast":
        return held["to"].i
    if proto.op_type == "ConstantOfShape":
        return held["value"].t.data_type if "value" in held else TensorProto.FLOAT
    if proto.op_type == "Constant":
        if "value" in held:
            return held["value"].t.data_type
        return TensorProto.FLOAT if {"value_float", "value_floats"} & set(held) else TensorProto.INT64
    if proto.op_type == "EyeLike":
        return held["dtype"].i if "dtype" in held else bound.get("T1", 0)
    if proto.op_type == "DequantizeLinear":
        given = held["output_dtype"].i if "output_dtype" in held else 0
        return given or bound.get("T2", TensorProto.FLOAT)
    return 0


def _concrete(name: str) -> int:
    match = _FORMAL.fullmatch(name)
    return dict(TensorProto.DataType.items()).get(match[1].upper(), 0) if match else 0
