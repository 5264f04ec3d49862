"""Which inputs of an ONNX graph move and what the others are held at; which output is bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import onnx.helper
import torch
from onnx import GraphProto, TensorProto

from lipcert.load.choose import choose
from lipcert.load.inputs import Chosen, Declared, InputChoice
from lipcert.load.onnx.structure import reads, real_inputs
from lipcert.load.onnx.tensor import shown, tensor_value, type_name
from lipcert.terms.errors import RefusedModel, UnreadableError, UsageError

Runs = Callable[[Mapping[str, tuple[int, ...]], Mapping[str, torch.Tensor]], bool]
TORCH: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def choose_output(asked: str | None, names: list[str]) -> str:
    if asked is None and len(names) == 1:
        return names[0]
    found = [n for n in names if asked in (n, shown(n))]
    if len(found) != 1:
        listing = ", ".join(shown(n) for n in names) or "none"
        raise UsageError(f"--output-name {shown(asked or '')}: the outputs of this model are: {listing}")
    return found[0]


def real_first(graph: GraphProto) -> list[str]:
    """The outputs, tensors of floats before labels, maps and sequences: the first one is suggested."""

    def real(value: onnx.ValueInfoProto) -> bool:
        kind = value.type.tensor_type.elem_type
        return value.type.WhichOneof("value") in ("tensor_type", None) and (
            kind == 0 or (kind in TORCH and TORCH[kind].is_floating_point)
        )

    return [value.name for value in sorted(graph.output, key=lambda value: not real(value))]


def expose(graph: GraphProto, asked: str | None) -> None:
    """A tensor inside the graph that is asked for by its name becomes an output: the network as far as this node."""
    if asked is None or any(asked in (v.name, shown(v.name)) for v in graph.output):
        return
    made = [name for node in graph.node for name in node.output if name and asked in (name, shown(name))]
    if len(made) == 1:
        known = [v for v in graph.value_info if v.name == made[0] and v.type.WhichOneof("value")]
        kinds = [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)]
        floats = [k for k in kinds if k in TORCH and TORCH[k].is_floating_point] or [TensorProto.FLOAT]
        graph.output.append(known[0] if known else onnx.helper.make_tensor_value_info(made[0], floats[0], None))


def dims_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims: list[int | str] = []
    for dim in value.type.tensor_type.shape.dim:
        fixed = dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0  # some exporters write -1 for "any"
        dims.append(dim.dim_value if fixed else shown(dim.dim_param or "?"))
    return tuple(dims)


def choose_inputs(
    path: Path, graph: GraphProto, wanted: InputChoice, outputs: Sequence[str], runs: Runs | None
) -> Chosen:
    """The inputs that move, and what the others that the output depends on are held at: never silently."""
    values = real_inputs(graph)
    if not values:
        raise UnreadableError("the graph has no input: it is a constant")
    read = {name for node in graph.node for name in reads(node)} | {v.name for v in graph.output}
    declared = [Declared(v.name, _dtype(v), dims_of(v), _compared(graph, v.name)) for v in values]
    return choose(path, declared, wanted, [v.name for v in values if v.name in read], outputs, runs)


def _dtype(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return str(kind).removesuffix("_type").replace("_", " ")
    elem = value.type.tensor_type.elem_type
    return str(TORCH[elem]).removeprefix("torch.") if elem in TORCH else type_name(elem)


def _compared(graph: GraphProto, name: str) -> tuple[int, ...]:
    """Whole numbers that the file compares an input with: likely values of a sample rate or a mode."""
    constants = {t.name: t for t in graph.initializer}
    constants |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    found = []
    for node in graph.node:
        others = [i for i in node.input if i != name]
        if node.op_type == "Equal" and name in node.input and len(others) == 1 and others[0] in constants:
            tensor = constants[others[0]]
            if tensor.data_type == TensorProto.INT64 and not tensor.external_data and tensor.ByteSize() < 1000:
                found += [int(v) for v in tensor_value(tensor, None, "a number").reshape(-1)]
    return tuple(found)


def fed_beside(graph: GraphProto, chosen: Chosen) -> dict[str, torch.Tensor]:
    """What a runtime wants beside x: what is held, and zeros for inputs on which nothing depends."""
    moving = {part.name for part in chosen.parts}
    dead = [v for v in real_inputs(graph) if v.name not in moving and v.name not in chosen.held]
    kinds = {v.name: TORCH.get(v.type.tensor_type.elem_type) for v in dead}
    sizes = {v.name: [d if isinstance(d, int) else 1 for d in dims_of(v) or ()] for v in dead}
    return dict(chosen.held) | {n: torch.zeros(sizes[n], dtype=kind) for n, kind in kinds.items() if kind is not None}


def hold(graph: GraphProto, chosen: Chosen, kinds: Mapping[str, int]) -> None:
    """Inputs that are held become initialisers."""
    for name, value in chosen.held.items():
        bits = value.contiguous().view(torch.int16) if value.dtype == torch.bfloat16 else value.contiguous()
        raw = bits.numpy().tobytes()
        graph.initializer.append(TensorProto(name=name, data_type=kinds[name], dims=list(value.shape), raw_data=raw))


def refuse_output(graph: GraphProto, output: str) -> None:
    value = next(v for v in graph.output if v.name == output)
    if value.type.WhichOneof("value") not in ("tensor_type", None):
        kind = value.type.WhichOneof("value").removesuffix("_type").replace("_", " ")
        raise RefusedModel(f"the output {shown(output)!r} is a {kind}, not a tensor", node=shown(output))
