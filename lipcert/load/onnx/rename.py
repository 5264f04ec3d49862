"""Safe names for every tensor, node and graph of an ONNX file, before any other code sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from lipcert.load.onnx.structure import branches
from lipcert.load.onnx.tensor import shown
from lipcert.terms.errors import UnreadableError


class _Names:
    """`labels`: safe name -> the file's name, escaped. `hoisted`: weights of branches, which become the graph's."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self.hoisted: list[TensorProto] = []

    def fresh(self, prefix: str, original: str) -> str:
        safe = f"{prefix}{len(self.labels)}"
        self.labels[safe] = shown(original)
        return safe

    def nodes(self, nodes: Iterable[NodeProto], names: dict[str, str]) -> None:
        def tensor(name: str) -> str:
            if name and name not in names:
                names[name] = self.fresh("t", name)
            return names[name] if name else ""

        for node in nodes:
            node.name = self.fresh("n", node.name or next(filter(None, node.output), ""))
            node.ClearField("doc_string")
            del node.metadata_props[:]
            node.input[:] = [tensor(n) for n in node.input]
            node.output[:] = [tensor(n) for n in node.output]
            if node.domain == "ai.onnx":
                node.domain = ""
            for inner in branches(node):
                self.branch(inner, dict(names))
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
                for held in (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors:
                    held.ClearField("name")
                    held.ClearField("doc_string")

    def branch(self, inner: GraphProto, names: dict[str, str]) -> None:
        """`names`: those that it sees. Its own are its own, and its weights become the graph's."""
        for tensor in inner.initializer:
            names[tensor.name] = self.fresh("t", tensor.name)
            tensor.name = names[tensor.name]
            tensor.ClearField("doc_string")
            self.hoisted.append(tensor)
        names |= {name: self.fresh("t", name) for node in inner.node for name in node.output if name}
        self.nodes(inner.node, names)
        for value in inner.output:
            value.name = names.get(value.name, value.name)
            value.ClearField("doc_string")
        inner.name = self.fresh("n", "branch")
        inner.ClearField("doc_string")
        del inner.initializer[:]
        del inner.value_info[:]
        del inner.metadata_props[:]
        del inner.quantization_annotation[:]

    def function(self, function: onnx.FunctionProto) -> None:
        inner: dict[str, str] = {}
        for name in function.input:
            inner[name] = self.fresh("t", name)
        self.nodes(function.node, inner)
        function.input[:] = [inner[n] for n in function.input]
        missing = [n for n in function.output if n not in inner]
        if missing:
            raise UnreadableError(
                f"the model-local function {shown(function.name)} does not make {shown(missing[0])!r}"
            )
        function.output[:] = [inner[n] for n in function.output]
        del function.value_info[:]


def rename(model: ModelProto) -> dict[str, str]:
    """In place. Returns safe name -> the file's name, escaped."""
    state, graph = _Names(), model.graph
    names: dict[str, str] = {}
    inputs: list[Any] = [*graph.input, *graph.initializer]
    for item in inputs:
        names.setdefault(item.name, f"t{len(state.labels)}")
        state.labels.setdefault(names[item.name], shown(item.name))
    state.nodes(graph.node, names)
    for item in inputs + list(graph.output):
        item.name = names.setdefault(item.name, item.name)
        item.ClearField("doc_string")
    graph.initializer.extend(state.hoisted)
    graph.name = "graph"
    for function in model.functions:
        state.function(function)
    model.ClearField("doc_string")
    graph.ClearField("doc_string")
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del model.training_info[:]
    return state.labels
