"""The network that a quantised ONNX file (pairs of QuantizeLinear and DequantizeLinear) is without its rounding.

A pair computes s (clip(round(x / s) + z, low, high) - z) for the levels low .. high of its type: a staircase, which has no
Lipschitz constant. Without `round` it is clip(x, s (low - z), s (high - z)), which this writes in its place, with both ends rounded to
the type of the scale. At every pair the two differ by at most s / 2, and by the rounding of the ends. Integers that are
dequantised alone (weights) stay as they are. The result is another model, and says so in its metadata.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lipcert.load.onnx.tensor import shown
from lipcert.terms.errors import RefusedModel, UnreadableError

KEY = "lipcert.surrogate"  # of the metadata
LEVELS: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
}
CLIP_TAKES_INPUTS = 11  # opset


@dataclass(frozen=True)
class Quantiser:
    """`scale`: a number, or one for each entry of `axis`. `low`, `high`: the ends of x, in the type of the scale."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int
    low: np.ndarray
    high: np.ndarray


def dequantised(path: Path) -> tuple[bytes, int]:
    """(the surrogate as a file, how many pairs it replaces). RefusedModel names a quantiser that is not half of a pair.

    UnreadableError where the file is no ONNX model, or has weights in other files, which the surrogate would have to be beside.
    """
    content = path.read_bytes()
    try:
        model = ModelProto.FromString(content)
    except Exception as problem:
        raise UnreadableError(f"{path}: not an ONNX file, or damaged (protobuf does not parse)") from problem
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UnreadableError(
            f"{path}: its weights lie in other files; save it as one (onnx.save_model with all in it) first"
        )
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    replaced = _without_rounding(model.graph, opset)
    if not replaced:
        raise RefusedModel(f"{path}: it has no pair of QuantizeLinear and DequantizeLinear to replace")
    said = f"dequantised from {path.name} (sha256 {hashlib.sha256(content).hexdigest()}): {replaced} roundings left out"
    helper.set_model_props(model, {**{one.key: one.value for one in model.metadata_props}, KEY: said})
    return model.SerializeToString(), replaced


def stated(model: ModelProto) -> str:
    """What a file says that it is the surrogate of; nothing for other files."""
    return shown(next((one.value for one in model.metadata_props if one.key == KEY), ""))


def _without_rounding(graph: GraphProto, opset: int) -> int:
    nodes = list(graph.node)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: one.t
        for node in nodes
        if node.op_type == "Constant"
        for one in node.attribute
        if one.name == "value"
    }
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    replaced = 0
    away: set[int] = set()  # by identity: two nodes may be equal
    for node in nodes:
        if id(node) in away:
            continue
        if node.op_type != "QuantizeLinear" or node.domain:
            kept.append(node)
            continue
        half = _quantiser(node, constants)
        pairs = readers.get(node.output[0], [])
        odd = next((other for other in pairs if not _undoes(other, half, constants)), None)
        if odd is not None or node.output[0] in outputs or not pairs:
            reader = "an output of the model" if odd is None else f"{odd.op_type} node {shown(odd.name)!r}"
            raise RefusedModel(
                f"{_label(node)}: its integers are read by {reader}; only pairs of QuantizeLinear and DequantizeLinear "
                "of the same scale and zero point are dequantised",
                node=_label(node),
            )
        for other in pairs:
            kept += _clipped(graph, node, other, half, constants, opset)
            away.add(id(other))
        replaced += 1
    ordered = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(ordered)
    return replaced


def _label(node: NodeProto) -> str:
    return f"{node.op_type} node {shown(node.name or node.output[0])!r}"


def _quantiser(node: NodeProto, constants: dict[str, TensorProto]) -> Quantiser:
    scale, zero, axis, kind = _numbers(node, constants)
    if kind not in LEVELS:
        raise RefusedModel(
            f"{_label(node)}: levels of type {TensorProto.DataType.Name(kind)} are not dequantised", node=_label(node)
        )
    ends = (scale.astype(np.float64) * (end - zero.astype(np.float64)) for end in LEVELS[kind])
    low, high = (end.astype(scale.dtype) for end in ends)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (scale > 0).all()):
        raise RefusedModel(f"{_label(node)}: a scale is not above 0, or its levels overflow", node=_label(node))
    return Quantiser(scale, zero, axis, low, high)


def _numbers(node: NodeProto, constants: dict[str, TensorProto]) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Scale, zero point, axis, element type of the levels, of either half of a pair."""
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    missing = next((name for name in list(node.input)[1:] if name and name not in constants), None)
    if missing is not None or given.get("block_size"):
        what = "blocks" if missing is None else f"a scale or zero point {shown(missing)!r} that is no constant"
        raise RefusedModel(f"{_label(node)}: {what}, which is not dequantised", node=_label(node))
    scale = numpy_helper.to_array(constants[node.input[1]])
    if len(node.input) > 2 and node.input[2]:
        proto = constants[node.input[2]]
        return scale, numpy_helper.to_array(proto), int(given.get("axis", 1)), proto.data_type
    kind = int(given.get("output_dtype") or TensorProto.UINT8)
    return scale, np.zeros(scale.shape, np.int64), int(given.get("axis", 1)), kind


def _undoes(node: NodeProto, half: Quantiser, constants: dict[str, TensorProto]) -> bool:
    if node.op_type != "DequantizeLinear" or node.domain or node.input[0] in node.input[1:]:
        return False
    scale, zero, axis, _ = _numbers(node, constants)
    same = scale.dtype == half.scale.dtype and np.array_equal(scale, half.scale) and np.array_equal(zero, half.zero)
    return same and (scale.size == 1 or axis == half.axis)


def _clipped(
    graph: GraphProto, node: NodeProto, other: NodeProto, half: Quantiser, constants: dict[str, TensorProto], opset: int
) -> Iterator[NodeProto]:
    x, y = node.input[0], other.output[0]
    if x in constants:
        values = numpy_helper.to_array(constants[x])
        shape = [1] * values.ndim
        if half.scale.size > 1:
            shape[half.axis] = half.scale.size
        low, high = (end.reshape(shape if end.size > 1 else ()) for end in (half.low, half.high))
        graph.initializer.append(numpy_helper.from_array(np.clip(values, low, high).astype(values.dtype), y))
        return
    if half.scale.size > 1:
        raise RefusedModel(
            f"{_label(node)}: a scale for each channel of a signal is not dequantised", node=_label(node)
        )
    low, high = (end.reshape(()) for end in (half.low, half.high))
    if opset < CLIP_TAKES_INPUTS:
        yield helper.make_node("Clip", [x], [y], node.name, min=float(low), max=float(high))
        return
    ends = [f"{y}__low", f"{y}__high"]
    graph.initializer.extend(numpy_helper.from_array(end, name) for end, name in zip((low, high), ends, strict=True))
    yield helper.make_node("Clip", [x, *ends], [y], node.name)
