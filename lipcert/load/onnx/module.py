"""An OnnxGraph as a torch module: constants folded where folding is exact, shapes and integers static, floats float64.

Arithmetic on float constants stays in `forward` on buffers, because a later stage encloses its rounding error.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import onnx
import onnx.helper
import torch
from onnx import AttributeProto, NodeProto
from torch import Tensor

from lipcert.load.capture.trace import Trace, Unfollowed, unsplit
from lipcert.load.onnx.file import OnnxGraph
from lipcert.load.onnx.node import OnnxNode, Op
from lipcert.load.onnx.ops import REFUSED, TABLE
from lipcert.load.onnx.structure import reads
from lipcert.load.onnx.tensor import FLOAT_BITS, shown, tensor_value
from lipcert.load.onnx.types import made_types
from lipcert.terms.added import ADD
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError

STEPS_OF_TREES = "is a step function: decision trees jump at their thresholds, so no Lipschitz constant exists"
MAX_ENTRIES = 2**28  # of one tensor; 2 GiB in float64
MAX_FOLDED = 2**22  # entries that folding may create out of fewer

# Float arithmetic on shapes (an exported `int(0.5 * height)`), followed for sizes only; never part of the network.
_SHAPE_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "Sqrt", "Reciprocal", "Pow"})
_TO_INTEGER = frozenset({"Floor", "Ceil", "Round"})
_SHAPE_ENTRIES = 64


class NodeModule(torch.nn.Module):
    """One node. A module of its own, so that an exported graph names the node in `nn_module_stack`."""

    def __init__(self, function: Any, node: OnnxNode, inputs: tuple[str, ...], outputs: tuple[str, ...]):
        super().__init__()
        self.function, self.node, self.inputs, self.outputs = function, node, inputs, outputs
        self.last_use: tuple[str, ...] = ()

    def forward(self, *args: Tensor | None) -> Any:
        return self.function(self.node, *args)


Sources = tuple[tuple[str, int, int, tuple[int, ...]], ...]


def split(x: Tensor, sources: Sources) -> dict[str, Tensor]:
    """One input is x itself, several are parts of it."""
    if len(sources) == 1:
        return {sources[0][0]: x}
    return {name: x[start:stop].reshape(shape) for name, start, stop, shape in sources}


def sources_of(graph: OnnxGraph) -> Sources:
    stops = list(accumulate(part.size for part in graph.chosen.parts))
    parts = zip(graph.inputs, graph.chosen.parts, stops, strict=True)
    return tuple((name, stop - part.size, stop, part.shape) for name, part, stop in parts)


class OnnxModule(torch.nn.Module):
    """forward(x): x of the fixed input shape, float64 -> output, float64. `labels`: step -> the file's node name.

    `sources`: the graph's names of the inputs that x consists of, with where they begin, where they end, and their shapes.
    """

    def __init__(self, sources: Sources, output: str, steps: list[NodeModule], constants: dict[str, Tensor]):
        super().__init__()
        self.sources, self.output = sources, output
        self.order = steps
        self.steps = torch.nn.ModuleDict({f"{s.node.op}_{k}": s for k, s in enumerate(steps)})
        self.labels = {f"{s.node.op}_{k}": str(s.node) for k, s in enumerate(steps)}
        for name, tensor in constants.items():
            self.register_buffer(name, tensor)
        seen = {output}
        for step in reversed(steps):  # tensors are dropped after their last reader
            step.last_use = tuple(n for n in dict.fromkeys(step.inputs) if n and n not in seen)
            seen.update(step.inputs)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        held = split(x, self.sources)
        inputs = set(held)
        for step in self.order:
            args = [self._argument(held, step, i, name) for i, name in enumerate(step.inputs)]
            result = step(*args)
            results = result if isinstance(result, tuple) else (result,)
            held.update(zip(step.outputs, results, strict=False))
            for name in step.last_use:
                held.pop(name, None)
        if self.output in held and self.output not in inputs:
            return held[self.output]
        return (held[self.output] if self.output in inputs else getattr(self, self.output)).clone()

    def _argument(self, held: dict[str, Tensor], step: NodeModule, i: int, name: str) -> Tensor | None:
        if not name:
            return None
        if name in held:
            return held[name]
        known = step.node.known[i]
        if known is not None and (not known.is_floating_point() or i in step.node.numbers):
            return known  # read as numbers while building
        return getattr(self, name)


@dataclass(frozen=True, eq=False)
class Value:
    """`shape`: a tensor without values. `known`: its value, where that follows from file and shapes; `exact` without
    rounding.

    `elem_type`: what the file calls its type (TensorProto); here every float is a float64.
    """

    shape: Tensor
    known: Tensor | None = None
    exact: bool = True
    on_data: bool = False
    elem_type: int = 0


@dataclass(frozen=True, eq=False)
class Built:
    module: OnnxModule
    output_shape: tuple[int, ...]
    depends_on_input: bool
    assumptions: tuple[str, ...]
    signal_types: frozenset[int]  # element types of the floats that depend on the input


@dataclass
class _Build:
    graph: OnnxGraph
    mode: Trace  # for shapes: what it writes down is not used
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[NodeModule] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    read: frozenset[str] = frozenset()  # the tensors that somebody reads


def build(graph: OnnxGraph, imports: bool = True) -> Built:
    """The module for inputs of the shapes chosen. RefusedModel names the node that no rule claims. `imports`: see
    `lipcert.load.capture.shapes.results`; where False, `Unfollowed` may be raised."""
    read = frozenset(n for p in graph.nodes for n in reads(p)) | {graph.output}
    state = _Build(graph, Trace(imports), read=read)
    sources = sources_of(graph)
    x = state.mode.placeholder("x", torch.empty(graph.chosen.shape, dtype=torch.float64, device="meta"))
    with unsplit(), state.mode:
        signals = split(x, sources)
    for name, elem_type in zip(graph.inputs, graph.input_types, strict=True):
        state.values[name] = Value(signals[name], on_data=True, elem_type=elem_type)
    elem_types = {t.name: t.data_type for t in graph.model.graph.initializer}
    for name, tensor in graph.constants.items():
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            label = graph.label(name)
            raise RefusedModel(f"the tensor {label!r} holds NaN", node=label)
        state.values[name] = Value(tensor, tensor, elem_type=elem_types[name])
    for proto in graph.nodes:
        _add_any(state, proto)
    out = state.values[graph.output]
    if not out.shape.is_floating_point():
        label = graph.label(graph.output)
        raise RefusedModel(
            f"the output {label!r} is not real-valued ({out.shape.dtype})", node=label, unbounded=out.on_data
        )
    steps = _live(state.steps, graph.output)
    constants = _buffers(state, steps)
    module = OnnxModule(sources, graph.output, steps, constants)
    types = {v.elem_type for v in state.values.values() if v.on_data} & set(FLOAT_BITS)
    return Built(module, tuple(out.shape.shape), out.on_data, tuple(state.notes), frozenset(types))


# --- one node ----------------------------------------------------------------------------------------------------


def _node(state: _Build, proto: NodeProto) -> tuple[OnnxNode, Op]:
    graph = state.graph
    label = f"{proto.op_type} node {graph.label(proto.name)!r}"
    on_data = tuple(bool(n) and state.values[n].on_data for n in proto.input)
    if proto.domain:
        why = STEPS_OF_TREES if proto.op_type.startswith("TreeEnsemble") else "is not known"
        text = f"{label}: the operator {proto.op_type} of domain {proto.domain!r} {why}"
        raise RefusedModel(text, node=label, unbounded=why == STEPS_OF_TREES and any(on_data))
    if proto.op_type in REFUSED:
        reason = REFUSED[proto.op_type]
        text = f"{label}: {reason.text}"
        read = next((name for name, depends in zip(proto.input, on_data, strict=True) if depends), None)
        if reason.unbounded and read is not None and read not in graph.inputs:
            text += f"; the network before it can be asked for{ADD}--output-name {shlex.quote(graph.label(read))}"
        raise RefusedModel(text, node=label, unbounded=reason.unbounded and any(on_data))
    op = TABLE.get(proto.op_type)
    if op is None:
        raise RefusedModel(f"{label}: lipcert has no rule for the operator {proto.op_type}", node=label)
    schema = onnx.defs.get_schema(proto.op_type, graph.opset, "")
    if schema.deprecated or schema.since_version not in op.versions:
        raise RefusedModel(
            f"{label}: version {schema.since_version} of {proto.op_type} is not known (known: "
            f"{', '.join(map(str, op.versions))})",
            node=label,
        )
    attributes = {name: _default(a.default_value) for name, a in schema.attributes.items() if a.default_value.name}
    for attribute in proto.attribute:
        if attribute.name not in (*op.attributes.split(), *op.ignored):
            raise RefusedModel(f"{label}: the attribute {attribute.name} is not known", node=label)
        attributes[attribute.name] = _attribute(attribute, label)
    _refuse_unclaimed(proto, op, schema, label)
    node = OnnxNode(
        op=proto.op_type,
        label=graph.label(proto.name),
        version=schema.since_version,
        attributes=attributes,
        on_data=on_data,
        outputs=tuple(n in state.read for n in proto.output),
        declared=tuple(formal_name(schema.outputs, i) for i, n in enumerate(proto.output) if n),
        elem_types=tuple(state.values[n].elem_type if n else 0 for n in proto.input),
        notes=state.notes,
    )
    return node, op


def formal_name(formals: Sequence[Any], position: int) -> str:
    """The schema's name of an input or output; the last one may stand for many."""
    return formals[min(position, len(formals) - 1)].name


def _refuse_unclaimed(proto: NodeProto, op: Op, schema: Any, label: str) -> None:
    """Optional inputs and further outputs that the rule says nothing about."""
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    for i, name in enumerate(proto.input):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        if name and formal.option == optional and formal.name not in op.inputs.split():
            raise RefusedModel(f"{label}: the input {formal.name} is not known", node=label)
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    for i, name in enumerate(proto.output):
        formal = schema.outputs[min(i, len(schema.outputs) - 1)]
        if i and name and formal.option != variadic and formal.name not in op.outputs.split():
            raise RefusedModel(f"{label}: declares the output {formal.name}, which is not known", node=label)


def _refuse_unread(proto: NodeProto, node: OnnxNode, op: Op) -> None:
    """After the rule has run: an attribute of the file that nobody looked at could decide the function."""
    for attribute in proto.attribute:
        if attribute.name not in node.looked_at and attribute.name not in op.ignored:
            node.refuse(f"the attribute {attribute.name} has no meaning beside the others that are given")


def _default(attribute: AttributeProto) -> Any:
    return _attribute(attribute, "default")


def _attribute(attribute: AttributeProto, label: str) -> Any:
    kind = attribute.type
    if attribute.ref_attr_name:
        raise UnreadableError(f"{label}: the attribute {attribute.name} refers to a function's attribute")
    if kind == AttributeProto.FLOAT:
        return attribute.f  # a float32 number, exact in Python's float
    if kind == AttributeProto.INT:
        return attribute.i
    if kind == AttributeProto.STRING:
        return shown(attribute.s.decode("utf-8", "replace"))
    if kind == AttributeProto.FLOATS:
        return tuple(attribute.floats)
    if kind == AttributeProto.INTS:
        return tuple(attribute.ints)
    if kind == AttributeProto.STRINGS:
        return tuple(shown(s.decode("utf-8", "replace")) for s in attribute.strings)
    if kind == AttributeProto.TENSOR:
        return tensor_value(attribute.t, None, f"{label}.{attribute.name}")
    raise RefusedModel(
        f"{label}: the attribute {attribute.name} holds a {AttributeProto.AttributeType.Name(kind)}", node=label
    )


def _add_any(state: _Build, proto: NodeProto) -> None:
    """A node, or the branch of an `If` that file and shapes settle, with what it hands on under the names of the `If`."""
    if proto.op_type != "If":
        return _add(state, proto)
    label = f"If node {state.graph.label(proto.name)!r}"
    condition = state.values[proto.input[0]]
    if condition.known is None or not condition.exact or condition.known.numel() != 1:
        why = "branches on the input" if condition.on_data else "has a condition that the file does not settle"
        raise RefusedModel(f"{label}: {why}", node=label, unbounded=condition.on_data)
    taken = "then_branch" if bool(condition.known.reshape(-1)[0]) else "else_branch"
    (branch,) = (a.g for a in proto.attribute if a.name == taken)
    for inner in branch.node:
        _add_any(state, inner)
    for made, name in zip(branch.output, proto.output, strict=False):
        if name:
            _add(state, onnx.helper.make_node("Identity", [made.name], [name], name=proto.name))
    return None


def _add(state: _Build, proto: NodeProto) -> None:
    node, op = _node(state, proto)
    inputs = [state.values[name] if name else None for name in proto.input]
    present = [v for v in inputs if v is not None]
    whole = all(v.known is not None for v in present)
    exact = whole and all(v.exact for v in present)
    integral = whole and (node.op in _TO_INTEGER or (node.op == "Cast" and node["to"] not in FLOAT_BITS))
    if integral and not exact:
        _refuse_near_integers(node, present)
    node = replace(node, known=tuple(v.known if v and (v.exact or integral) else None for v in inputs))

    with unsplit(), state.mode:
        shapes = _evaluate(node, op, [v.shape if v else None for v in inputs])
    _refuse_unread(proto, node, op)
    elem_types = made_types(proto, onnx.defs.get_schema(proto.op_type, state.graph.opset, ""), node.elem_types)
    for made in shapes:
        if made is not None and made.numel() > MAX_ENTRIES:
            node.refuse(f"makes a tensor of shape {list(made.shape)}; lipcert holds at most {MAX_ENTRIES} entries")

    largest = max([v.shape.numel() for v in present], default=0)
    small = all(made is None or made.numel() <= max(MAX_FOLDED, largest) for made in shapes)
    floats = any(made is not None and made.is_floating_point() for made in shapes)
    folds = small and (op.kind == "shape" or ((exact or integral) and (op.kind == "moves" or integral or not floats)))
    on_data = op.kind != "shape" and any(v.on_data for v in present)
    known: list[Tensor | None] = [None] * len(shapes)
    if folds:
        arguments = [None if v is None else v.shape if op.kind == "shape" else v.known for v in inputs]
        known = [k if k is None else k.contiguous() for k in _evaluate(node, op, arguments)]
    elif whole and (node.op in _SHAPE_ARITHMETIC or op.kind == "moves") and _few(shapes):
        known = _evaluate(node, op, [v.known if v else None for v in inputs])
    for name, made, value, elem in zip(proto.output, shapes, known, elem_types, strict=False):
        if name and made is not None:
            state.values[name] = Value(value if folds and value is not None else made, value, folds, on_data, elem)
    if not folds:
        state.steps.append(NodeModule(op.function, node, tuple(proto.input), tuple(proto.output)))


def _few(shapes: list[Tensor | None]) -> bool:
    return all(m is None or m.numel() <= _SHAPE_ENTRIES for m in shapes)


def _evaluate(node: OnnxNode, op: Op, arguments: list[Tensor | None]) -> list[Tensor | None]:
    try:
        result = op.function(node, *arguments)
    except (LipcertError, Unfollowed):
        raise
    except (ImportError, OSError) as error:  # torch imports more of itself at a call, which a sandbox does not allow
        raise Unfollowed(str(error)) from error
    except Exception as error:  # torch raises a dozen types for shapes that do not fit
        sizes = [None if a is None else list(a.shape) for a in arguments]
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnreadableError(f"{node}: cannot be evaluated on inputs of shape {sizes}: {shown(first)}") from None
    return list(result) if isinstance(result, tuple) else [result]


def _refuse_near_integers(node: OnnxNode, values: list[Value]) -> None:
    """A size that is rounded to an integer must not hang on the rounding of the float arithmetic before it."""
    for value in values:
        assert value.known is not None
        for v in value.known.reshape(-1).tolist():
            gap = abs(v - round(v)) if math.isfinite(v) else 0.0
            half = abs(gap - 0.5)
            if not math.isfinite(v) or 0 < gap < 1e-4 * max(1.0, abs(v)) or (node.op == "Round" and half < 1e-4):
                node.refuse(f"the size {v} is too close to a step to be rounded safely")


# --- what is left ------------------------------------------------------------------------------------------------


def _live(steps: list[NodeModule], output: str) -> list[NodeModule]:
    needed, kept = {output}, []
    for step in reversed(steps):
        if any(name in needed for name in step.outputs if name):
            kept.append(step)
            needed.update(filter(None, step.inputs))
    return kept[::-1]


def _buffers(state: _Build, steps: list[NodeModule]) -> dict[str, Tensor]:
    """The float constants that forward reads; each finite."""
    made = {name for step in steps for name in step.outputs}
    wanted = {name: None for step in steps for i, name in enumerate(step.inputs) if name and i not in step.node.numbers}
    wanted[state.graph.output] = None
    buffers = {}
    for name in wanted:
        value = state.values[name]
        if name in made or value.known is None or not value.exact or not value.known.is_floating_point():
            continue
        if bool(value.known.isnan().any()) or bool(
            (value.known == math.inf).any()
        ):  # -inf: the lowering says where it may be
            label = state.graph.label(name)
            raise RefusedModel(f"the tensor {label!r} holds an infinite value", node=label)
        buffers[name] = value.known
    return buffers
