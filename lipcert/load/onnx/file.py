"""Reading an ONNX protobuf from a stranger: sizes before allocation, names made harmless, then onnx's own checker.

Nothing in the file is trusted: names become `t0, t1, ...` and `n0, n1, ...` before any other code sees the graph,
external data is read by us and only from inside the model's folder, and no step recurses on the graph's depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.checker
import onnx.inliner
import onnx.version_converter
import torch
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import GraphProto, ModelProto, NodeProto

from lipcert.load.onnx.structure import (
    MAX_NODES,
    all_nodes,
    check_functions,
    check_structure,
    data_dependent,
    initialisers,
    keep_live,
    real_inputs,
    refuse_subgraphs,
)
from lipcert.load.onnx.tables import spell_out
from lipcert.load.onnx.tensor import FLOAT_BITS, external_files, read_constants, shown, tensor_value, type_name
from lipcert.terms.errors import RefusedModel, UnreadableError, UsageError

MAX_FILE = 2**31 - 1  # protobuf's own limit for one message
OLDEST_OPSET = 7  # below, broadcasting and BatchNormalization meant something else: converted up to 7


@dataclass(frozen=True)
class OnnxGraph:
    """A checked graph: safe names, live nodes only in topological order, no functions, no subgraphs, opset >= 7.

    `labels` maps a safe name to what the file called it, escaped for printing. `constants` are the initialisers.
    """

    nodes: tuple[NodeProto, ...]
    constants: dict[str, torch.Tensor]
    opset: int
    input: str
    output: str
    input_type: int  # TensorProto element type
    dims: tuple[int | str, ...] | None  # int: fixed; str: symbolic; None: no rank given
    raw_input: str  # the names the file itself uses, for onnxruntime
    raw_output: str
    other_inputs: dict[str, tuple[int, tuple[int | str, ...]]]  # dead inputs (raw names), which a runtime wants fed
    labels: dict[str, str]
    float_types: frozenset[int]  # float element types that occur among live constants, casts and the input
    model: ModelProto  # the same graph as a proto with safe names, for a second reader
    files: tuple[str, ...] = ()  # of external data, as the model names them

    def label(self, name: str) -> str:
        return self.labels.get(name) or self.labels.get(name.split("__")[0]) or shown(name)


def looks_like_onnx(path: Path) -> bool:
    """Whether the content parses as a ModelProto with a graph that has nodes or outputs. Runs nothing."""
    try:
        if not path.is_file() or not 0 < path.stat().st_size <= MAX_FILE:
            return False
        if path.open("rb").read(4) == b"PK\x03\x04":
            return False
        model = ModelProto.FromString(path.read_bytes())
    except (OSError, DecodeError, UnicodeDecodeError):
        return False
    return bool(model.graph.node or model.graph.output)


def read_graph(path: Path, input_name: str | None = None, output_name: str | None = None) -> OnnxGraph:
    """Read and check the file; choose input and output. UnreadableError, UsageError or RefusedModel (node named)."""
    model = _parse(path)
    _check_versions(model)
    functions = check_functions(model)
    check_structure(model.graph)
    output = _choose(output_name, [v.name for v in model.graph.output], "output")
    keep_live(model.graph, output)
    if model.graph.sparse_initializer:
        name = shown(model.graph.sparse_initializer[0].values.name)
        raise RefusedModel(f"the initialiser {name!r} is sparse; lipcert reads dense weights only", node=name)
    value = _choose_input(model.graph, input_name, {i.name for i in model.graph.initializer})
    _refuse_output(model.graph, output)
    refuse_subgraphs(model.graph.node, data_dependent(model.graph, value.name))
    for function in functions.values():
        refuse_subgraphs(function.node, frozenset())

    raw_input, raw_output = value.name, output
    others = {v.name: (v.type.tensor_type.elem_type, _dims(v) or ()) for v in real_inputs(model.graph)}
    others.pop(raw_input, None)
    dims = _dims(value)
    live = [v for v in model.graph.input if v.name == raw_input or v.name in initialisers(model.graph)]
    del model.graph.input[:]
    model.graph.input.extend(live)

    labels = _rename(model)
    name_in = next(v.name for v in model.graph.input if v.name not in initialisers(model.graph))
    name_out = model.graph.output[0].name
    files = external_files(model.graph)
    constants = read_constants(model.graph, path.parent, labels)
    spell_out(model.graph, labels)
    model = _standard_form(model, labels)
    keep_live(model.graph, name_out)
    if len(model.graph.node) > MAX_NODES:
        raise UnreadableError(f"{path}: {len(model.graph.node)} nodes; lipcert reads at most {MAX_NODES}")

    used = {name for node in model.graph.node for name in node.input} | {name_out}
    added = {t.name: tensor_value(t, path.parent, t.name) for t in model.graph.initializer if t.name not in constants}
    types = {t.data_type for t in model.graph.initializer if t.name in used} | {value.type.tensor_type.elem_type}
    types |= {
        a.t.data_type for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    types |= {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    return OnnxGraph(
        nodes=tuple(model.graph.node),
        constants={name: tensor for name, tensor in {**constants, **added}.items() if name in used},
        opset=_opset(model),
        input=name_in,
        output=name_out,
        input_type=value.type.tensor_type.elem_type,
        dims=dims,
        raw_input=raw_input,
        raw_output=raw_output,
        other_inputs=others,
        labels=labels,
        float_types=frozenset(types & set(FLOAT_BITS)),
        model=model,
        files=files,
    )


# --- parsing -----------------------------------------------------------------------------------------------------


def _parse(path: Path) -> ModelProto:
    if not path.is_file():
        raise UnreadableError(f"{path}: no such file")
    size = path.stat().st_size
    if size == 0:
        raise UnreadableError(f"{path}: the file is empty")
    if size > MAX_FILE:
        raise UnreadableError(f"{path}: {size} bytes; an ONNX file holds at most {MAX_FILE}")
    try:
        model = ModelProto.FromString(path.read_bytes())
    except (DecodeError, UnicodeDecodeError):
        raise UnreadableError(f"{path}: not an ONNX file, or damaged (protobuf does not parse)") from None
    _check_text(path, model)
    # zero bytes and many short byte strings parse as an empty message, so ask for a graph
    if not model.graph.node and not model.graph.output:
        raise UnreadableError(f"{path}: not an ONNX model (no graph in it)")
    return model


def _check_text(path: Path, model: ModelProto) -> None:
    """Every name is UTF-8 text: protobuf hands out others as bytes, or raises when one is first looked at."""
    stack: list[Message] = [model]
    while stack:
        for field, value in stack.pop().ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                stack += [value] if isinstance(value, Message) else value
            elif field.type == FieldDescriptor.TYPE_STRING:
                for text in [value] if isinstance(value, str | bytes) else value:
                    if not isinstance(text, str):
                        raise UnreadableError(
                            f"{path}: {shown(field.name)} {text[:40]!r} is not UTF-8 text; the file is damaged"
                        )


def _opset(model: ModelProto) -> int:
    return next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


def _check_versions(model: ModelProto) -> None:
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise UnreadableError(
            f"ONNX ir_version {model.ir_version}: the installed onnx package reads 3 to {onnx.IR_VERSION}. Re-export."
        )
    opsets = {o.version for o in model.opset_import if o.domain in ("", "ai.onnx")}
    newest = onnx.defs.onnx_opset_version()
    if len(opsets) != 1:
        raise UnreadableError("the file does not name one version of the standard operator set (opset_import)")
    if not 1 <= (opset := opsets.pop()) <= newest:
        raise UnreadableError(f"ONNX opset {opset}: the installed onnx package knows 1 to {newest}. Re-export.")


# --- which input, which output ------------------------------------------------------------------------------------


def _choose(asked: str | None, names: list[str], what: str) -> str:
    listing = ", ".join(shown(n) for n in names) or "none"
    if asked is not None:
        found = [n for n in names if asked in (n, shown(n))]
        if len(found) != 1:
            raise UsageError(f"--{what}-name {shown(asked)}: the {what}s of this model are: {listing}")
        return found[0]
    if len(names) != 1:
        raise UsageError(f"the model has {len(names)} {what}s ({listing}): choose one with --{what}-name")
    return names[0]


def _dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims: list[int | str] = []
    for dim in value.type.tensor_type.shape.dim:
        fixed = dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0  # some exporters write -1 for "any"
        dims.append(dim.dim_value if fixed else shown(dim.dim_param or "?"))
    return tuple(dims)


def _choose_input(graph: GraphProto, asked: str | None, constants: set[str]) -> onnx.ValueInfoProto:
    """The one input the output depends on. Other live inputs are never fixed silently."""
    values = {v.name: v for v in graph.input if v.name not in constants}
    if not values:
        raise UnreadableError("the graph has no input: it is a constant")
    read = {name for node in all_nodes(graph.node) for name in node.input} | {v.name for v in graph.output}
    live = [name for name in values if name in read]
    name = _choose(asked, live if asked is None and live else list(values), "input")
    value = values[name]
    if value.type.WhichOneof("value") != "tensor_type":
        raise RefusedModel(
            f"the input {shown(name)!r} is not a tensor; lipcert treats one real tensor", node=shown(name)
        )
    kind = value.type.tensor_type.elem_type
    if kind not in FLOAT_BITS:
        raise RefusedModel(f"the input {shown(name)!r} is not real-valued ({type_name(kind)})", node=shown(name))
    if others := [shown(n) for n in live if n != name]:
        raise RefusedModel(
            f"the output also depends on the input {', '.join(others)}: lipcert treats one input and fixes no other. "
            "Export the model with those inputs as constants.",
            node=others[0],
        )
    return value


def _refuse_output(graph: GraphProto, output: str) -> None:
    value = next(v for v in graph.output if v.name == output)
    if value.type.WhichOneof("value") not in ("tensor_type", None):
        kind = value.type.WhichOneof("value").removesuffix("_type").replace("_", " ")
        raise RefusedModel(f"the output {shown(output)!r} is a {kind}, not a tensor", node=shown(output))


# What changed below opset 7 and is converted: explicit broadcasting, consumed_inputs and is_test went away.
_CONVERTED = frozenset("Abs Add BatchNormalization Div Dropout Exp Gemm Log Mul Neg Relu Sigmoid Sqrt Sub Tanh".split())


def _check_old(node: NodeProto, opset: int, label: str) -> None:
    """Before onnx's converter sees a node: it silently drops is_test, whose default below opset 7 is training."""
    versions = {onnx.defs.get_schema(node.op_type, v, node.domain).since_version for v in (opset, OLDEST_OPSET)}
    if len(versions) > 1 and node.op_type not in _CONVERTED:
        raise UnreadableError(f"{label}: {node.op_type} of opset {opset} is not known. Re-export at opset 13 or newer.")
    held = {a.name: a.i for a in node.attribute}
    if node.op_type in ("Dropout", "BatchNormalization") and held.get("is_test") != 1:
        raise RefusedModel(
            f"{label}: is in training mode (is_test is not 1). Export it in evaluation mode.", node=label
        )
    if node.op_type == "BatchNormalization" and any(node.output[1:]):
        raise RefusedModel(
            f"{label}: is in training mode: it declares its statistics as outputs. Export it in evaluation mode.",
            node=label,
        )
    if node.op_type == "BatchNormalization" and held.get("spatial", 1) != 1:
        raise RefusedModel(f"{label}: spatial={held['spatial']} is not known", node=label)


# --- names -------------------------------------------------------------------------------------------------------


def _rename(model: ModelProto) -> dict[str, str]:
    """Give every tensor, node and graph a safe name. Returns safe name -> the file's name, escaped."""
    labels: dict[str, str] = {}

    def fresh(prefix: str, original: str) -> str:
        safe = f"{prefix}{len(labels)}"
        labels[safe] = shown(original)
        return safe

    def rename_nodes(nodes: Iterable[NodeProto], names: dict[str, str]) -> None:
        def tensor(name: str) -> str:
            if name and name not in names:
                names[name] = fresh("t", name)
            return names[name] if name else ""

        for node in nodes:
            node.name = fresh("n", node.name or next(filter(None, node.output), ""))
            node.ClearField("doc_string")
            del node.metadata_props[:]
            node.input[:] = [tensor(n) for n in node.input]
            node.output[:] = [tensor(n) for n in node.output]
            if node.domain == "ai.onnx":
                node.domain = ""
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
                for held in (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors:
                    held.ClearField("name")
                    held.ClearField("doc_string")

    names: dict[str, str] = {}
    graph = model.graph
    declared: list[Any] = [*graph.input, *graph.initializer]
    for item in declared:
        names.setdefault(item.name, f"t{len(labels)}")
        labels.setdefault(names[item.name], shown(item.name))
    rename_nodes(graph.node, names)
    declared += graph.output
    for item in declared:
        item.name = names.setdefault(item.name, item.name)
        item.ClearField("doc_string")
    graph.name = "graph"
    for function in model.functions:
        inner: dict[str, str] = {}
        for name in function.input:
            inner[name] = fresh("t", name)
        rename_nodes(function.node, inner)
        function.input[:] = [inner[n] for n in function.input]
        missing = [n for n in function.output if n not in inner]
        if missing:
            raise UnreadableError(
                f"the model-local function {shown(function.name)} does not make {shown(missing[0])!r}"
            )
        function.output[:] = [inner[n] for n in function.output]
        del function.value_info[:]
    for proto in (model, graph):
        proto.ClearField("doc_string")
    for field in (model.metadata_props, graph.metadata_props, model.training_info):
        del field[:]
    return labels


def _standard_form(model: ModelProto, labels: dict[str, str]) -> ModelProto:
    """onnx's checker, local functions inlined, opsets below 7 converted to 7. Messages carry the file's own names."""

    def readable(error: Exception) -> str:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return shown(re.sub(r"\b[tn]\d+\b", lambda m: labels.get(m[0], m[0]), first))

    for node in model.graph.node:
        if node.domain == "" and not onnx.defs.has(node.op_type, _opset(model), ""):
            label = f"{node.op_type} node {labels[node.name]!r}"
            raise RefusedModel(f"{label}: ONNX opset {_opset(model)} has no operator {node.op_type}", node=label)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.SetInParent()  # the checker wants a shape where the file gives none
    try:
        onnx.checker.check_model(model)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:
        raise UnreadableError(f"onnx does not accept this model: {readable(error)}") from None
    if (opset := _opset(model)) < OLDEST_OPSET:
        for node in model.graph.node:
            _check_old(node, opset, f"{node.op_type} node {labels.get(node.name, node.name)!r}")
        try:
            model = onnx.version_converter.convert_version(model, OLDEST_OPSET)
        except Exception as error:
            raise UnreadableError(
                f"ONNX opset {opset} cannot be converted to {OLDEST_OPSET} ({readable(error)}). Re-export the model."
            ) from None
    return model
