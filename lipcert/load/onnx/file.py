"""Reading an ONNX protobuf from a stranger: sizes before allocation, names made harmless, then onnx's own checker.

Nothing in the file is trusted: names become `t0, t1, ...` and `n0, n1, ...` before any other code sees the graph,
external data is read by us and only from inside the model's folder, and no step recurses on the graph's depth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.checker
import onnx.inliner
import onnx.version_converter
import torch
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import GraphProto, ModelProto, NodeProto

from lipcert.load.inputs import LONGEST_SAID, NOTHING, Chosen, InputChoice
from lipcert.load.onnx.choice import (
    Runs,
    choose_inputs,
    choose_output,
    expose,
    fed_beside,
    hold,
    real_first,
    refuse_output,
)
from lipcert.load.onnx.rename import rename
from lipcert.load.onnx.structure import (
    MAX_NODES,
    check_branches,
    check_functions,
    check_structure,
    initialisers,
    keep_live,
    reads,
    real_inputs,
    refuse_subgraphs,
)
from lipcert.load.onnx.tables import spell_out
from lipcert.load.onnx.tensor import FLOAT_BITS, external_files, read_constants, shown, tensor_value
from lipcert.terms.errors import RefusedModel, UnreadableError
from lipcert.terms.printable import printable

MAX_FILE = 2**31 - 1  # protobuf's own limit for one message
SURROGATE = "lipcert.surrogate"  # metadata of a file that `lipcert dequantise` wrote
OLDEST_OPSET = 7  # below, broadcasting and BatchNormalization meant something else: converted up to 7


@dataclass(frozen=True)
class OnnxGraph:
    """A checked graph: safe names, live nodes only in topological order, no functions, no subgraphs, opset >= 7.

    `labels` maps a safe name to what the file called it, escaped for printing. `constants` are the initialisers.
    """

    nodes: tuple[NodeProto, ...]
    constants: dict[str, torch.Tensor]
    opset: int
    inputs: tuple[str, ...]  # those that move, in the order of `chosen.parts`
    input_types: tuple[int, ...]  # their TensorProto element types
    output: str
    chosen: Chosen  # with the names the file itself uses, for onnxruntime
    raw_output: str
    fed: dict[str, torch.Tensor]  # what else a runtime wants fed (raw names): inputs that are held, and dead ones
    labels: dict[str, str]
    float_types: frozenset[int]  # float element types that occur among live constants, casts and the input
    model: ModelProto  # the same graph as a proto with safe names, for a second reader
    files: tuple[str, ...] = ()  # of external data, as the model names them
    surrogate: str = ""  # what its metadata say that it is the surrogate of

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


def read_graph(path: Path, wanted: InputChoice = NOTHING, runs: Runs | None = None) -> OnnxGraph:
    """Read and check the file; choose inputs and output. `runs`: whether a runtime takes inputs of these shapes.
    UnreadableError, UsageError or RefusedModel (node named)."""
    model = parse(path)
    _check_versions(model)
    surrogate = printable(next((one.value for one in model.metadata_props if one.key == SURROGATE), ""))[:LONGEST_SAID]
    functions = check_functions(model)
    check_structure(model.graph)
    if model.graph.sparse_initializer:
        name = shown(model.graph.sparse_initializer[0].values.name)
        raise RefusedModel(f"the initialiser {name!r} is sparse; lipcert reads dense weights only", node=name)
    expose(model.graph, wanted.output)
    outputs = [v.name for v in model.graph.output]
    output = None if wanted.output is None and len(outputs) > 1 else choose_output(wanted.output, outputs)
    if output is not None:
        keep_live(model.graph, output)
        refuse_output(model.graph, output)
    chosen = choose_inputs(path, model.graph, wanted, () if output is not None else real_first(model.graph), runs)
    assert output is not None
    check_branches(model.graph.node)
    for function in functions.values():
        refuse_subgraphs(function.node)
    raw, raw_output = [part.name for part in chosen.parts], output
    kinds = {v.name: v.type.tensor_type.elem_type for v in real_inputs(model.graph)}
    fed = fed_beside(model.graph, chosen)
    hold(model.graph, chosen, kinds)
    live = {v.name: v for v in model.graph.input if v.name in raw or v.name in initialisers(model.graph)}
    del model.graph.input[:]
    model.graph.input.extend([*(live.pop(name) for name in raw), *live.values()])

    labels = rename(model)
    names_in = tuple(v.name for v in model.graph.input if v.name not in initialisers(model.graph))
    name_out = model.graph.output[0].name
    files = external_files(model.graph)
    constants = read_constants(model.graph, path.parent, labels)
    spell_out(model.graph, labels)
    model = _standard_form(model, labels)
    keep_live(model.graph, name_out)
    if len(model.graph.node) > MAX_NODES:
        raise UnreadableError(f"{path}: {len(model.graph.node)} nodes; lipcert reads at most {MAX_NODES}")

    used = {name for node in model.graph.node for name in reads(node)} | {name_out}
    added = {t.name: tensor_value(t, path.parent, t.name) for t in model.graph.initializer if t.name not in constants}
    return OnnxGraph(
        nodes=tuple(model.graph.node),
        constants={name: tensor for name, tensor in {**constants, **added}.items() if name in used},
        opset=_opset(model),
        inputs=names_in,
        input_types=tuple(kinds[name] for name in raw),
        output=name_out,
        chosen=chosen,
        raw_output=raw_output,
        fed=fed,
        labels=labels,
        float_types=_float_types(model.graph, used) | {kinds[name] for name in raw},
        model=model,
        files=files,
        surrogate=surrogate,
    )


def _float_types(graph: GraphProto, used: set[str]) -> frozenset[int]:
    """Of live constants and casts."""
    types = {t.data_type for t in graph.initializer if t.name in used}
    types |= {a.t.data_type for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    types |= {a.i for n in graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    return frozenset(types & set(FLOAT_BITS))


# --- parsing -----------------------------------------------------------------------------------------------------


def parse(path: Path) -> ModelProto:
    """The message, whose names are text; UnreadableError. Nothing else in it is checked."""
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
