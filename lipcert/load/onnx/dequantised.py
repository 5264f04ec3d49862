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
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from lipcert.load.onnx.file import SURROGATE, parse
from lipcert.load.onnx.structure import all_nodes, check_structure, node_label
from lipcert.load.onnx.tensor import shown
from lipcert.terms.errors import RefusedModel, UnreadableError

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
    model = parse(path)
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UnreadableError(
            f"{path}: its weights lie in other files; save it as one (onnx.save_model with all in it) first"
        )
    check_structure(model.graph)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    replaced = _without_rounding(model.graph, opset)
    if not replaced:
        raise RefusedModel(f"{path}: it has no pair of QuantizeLinear and DequantizeLinear to replace")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    said = f"dequantised from {path.name} (sha256 {digest}), roundings left out: {replaced}"
    helper.set_model_props(model, {**{one.key: one.value for one in model.metadata_props}, SURROGATE: said})
    return model.SerializeToString(), replaced


@dataclass(frozen=True, eq=False)
class Around:
    """What the nodes of a graph read: `constants`, and `names` that are taken."""

    graph: GraphProto
    constants: dict[str, TensorProto]
    names: set[str]
    opset: int

    @classmethod
    def of(cls, graph: GraphProto, opset: int) -> Around:
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.output:
                constants.update((node.output[0], one.t) for one in node.attribute if one.name == "value")
        names = {name for node in all_nodes(graph.node) for name in (*node.input, *node.output)}
        return cls(graph, constants, names | constants.keys() | {one.name for one in graph.input}, opset)

    def values(self, name: str, node: NodeProto) -> np.ndarray:
        """Of a constant that `node` reads."""
        tensor = self.constants[name]
        if tensor.data_location == TensorProto.EXTERNAL:
            raise UnreadableError(f"{node_label(node)}: its constant {shown(name)!r} lies in another file")
        try:
            return numpy_helper.to_array(tensor)
        except Exception as problem:  # numpy's, of many kinds
            raise UnreadableError(
                f"{node_label(node)}: its constant {shown(name)!r} holds other data than its type and shape say"
            ) from problem

    def fresh(self, name: str) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def _without_rounding(graph: GraphProto, opset: int) -> int:
    around = Around.of(graph, opset)
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    replaced = 0
    away: set[str] = set()  # what the other halves made
    for node in graph.node:
        if node.output and node.output[0] in away:
            continue
        if node.op_type != "QuantizeLinear" or node.domain:
            kept.append(node)
            continue
        half = _quantiser(node, around)
        pairs = readers.get(node.output[0], [])
        odd = next((other for other in pairs if not _undoes(other, half, around)), None)
        if odd is not None or node.output[0] in outputs or not pairs:
            last = "an output of the model" if node.output[0] in outputs else "nothing"
            reader = last if odd is None else node_label(odd)
            raise RefusedModel(
                f"{node_label(node)}: its integers are read by {reader}; only pairs of QuantizeLinear and DequantizeLinear "
                "of the same scale and zero point are dequantised",
                node=node_label(node),
            )
        for other in pairs:
            kept += _clipped(node, other, half, around)
            away.add(other.output[0])
        replaced += 1
    ordered = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(ordered)
    return replaced


def _quantiser(node: NodeProto, around: Around) -> Quantiser:
    scale, zero, axis, kind = _numbers(node, around)
    if kind not in LEVELS:
        said = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else str(kind)
        raise _not(node, f"levels of type {said}")
    ends = (scale.astype(np.float64) * (end - zero.astype(np.float64)) for end in LEVELS[kind])
    low, high = (end.astype(scale.dtype) for end in ends)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (scale > 0).all()):
        raise RefusedModel(f"{node_label(node)}: a scale is not above 0, or its levels overflow", node=node_label(node))
    return Quantiser(scale, zero, axis, low, high)


def _numbers(node: NodeProto, around: Around) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Scale, zero point, axis, element type of the levels, of either half of a pair."""
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    axis, blocks, kind = (
        given.get(name, usual) for name, usual in (("axis", 1), ("block_size", 0), ("output_dtype", 0))
    )
    whole = all(isinstance(one, int) for one in (axis, blocks, kind))
    if not (2 <= len(node.input) <= 3 and len(node.output) == 1 and whole and all([*node.input[:2], *node.output])):
        raise UnreadableError(f"{node_label(node)}: not as the operator is defined")
    if blocks:
        raise _not(node, "blocks")
    names = [name for name in node.input[1:] if name]
    if (missing := next((name for name in names if name not in around.constants), None)) is not None:
        raise _not(node, f"a scale or zero point {shown(missing)!r} that is no constant")
    scale, *rest = (around.values(name, node) for name in names)
    zero = rest[0] if rest else np.zeros(scale.shape, np.int64)
    if scale.ndim > 1 or scale.size == 0 or zero.size != scale.size or scale.dtype.kind != "f":
        raise _not(node, f"scales {list(scale.shape)} of {scale.dtype} with zero points {list(zero.shape)}")
    return (
        scale,
        zero.reshape(scale.shape),
        axis,
        around.constants[names[1]].data_type if rest else kind or TensorProto.UINT8,
    )


def _not(node: NodeProto, what: str) -> RefusedModel:
    return RefusedModel(f"{node_label(node)}: {what}, which is not dequantised", node=node_label(node))


def _undoes(node: NodeProto, half: Quantiser, around: Around) -> bool:
    if node.op_type != "DequantizeLinear" or node.domain or node.input[0] in node.input[1:]:
        return False
    scale, zero, axis, _ = _numbers(node, around)
    same = scale.dtype == half.scale.dtype and np.array_equal(scale, half.scale) and np.array_equal(zero, half.zero)
    return same and (scale.size == 1 or axis == half.axis)


def _clipped(node: NodeProto, other: NodeProto, half: Quantiser, around: Around) -> Iterator[NodeProto]:
    x, y = node.input[0], other.output[0]
    many = half.scale.size > 1
    if x in around.constants:
        values = around.values(x, node)
        if many and not (-values.ndim <= half.axis < values.ndim and values.shape[half.axis] == half.scale.size):
            raise _not(node, f"{half.scale.size} scales along axis {half.axis} of {list(values.shape)}")
        shape = [1] * values.ndim
        if many:
            shape[half.axis] = half.scale.size
        low, high = (end.reshape(shape if many else ()) for end in (half.low, half.high))
        clipped = np.clip(values, low, high).astype(values.dtype)
        around.graph.initializer.append(numpy_helper.from_array(clipped, y))
        return
    if many:
        raise _not(node, "a scale for each channel of a signal")
    low, high = (end.reshape(()) for end in (half.low, half.high))
    if around.opset < CLIP_TAKES_INPUTS:
        yield helper.make_node("Clip", [x], [y], node.name, min=float(low), max=float(high))
        return
    ends = [around.fresh(f"{y}__{side}") for side in ("low", "high")]
    around.graph.initializer.extend(
        numpy_helper.from_array(end, name) for end, name in zip((low, high), ends, strict=True)
    )
    yield helper.make_node("Clip", [x, *ends], [y], node.name)
