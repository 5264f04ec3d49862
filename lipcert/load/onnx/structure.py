"""Structure of an ONNX graph, checked on the names the file uses: functions, single assignment, order, dead parts.

Plain loops and dictionaries: nothing here recurses, and nothing grows before it was counted.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from lipcert.load.onnx.tensor import shown
from lipcert.terms.errors import RefusedModel, UnreadableError

MAX_NODES = 20_000
MAX_DEPTH = 20  # of branches within branches
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")


def check_functions(model: ModelProto) -> dict[tuple[str, str, str], onnx.FunctionProto]:
    """Keep the model-local functions that are reachable; refuse recursion (onnx's inliner would not end)."""
    table = {(f.domain, f.name, f.overload): f for f in model.functions}
    if len(table) != len(model.functions):
        raise UnreadableError("two model-local functions have the same name")
    for domain, name, _ in table:
        if domain in ("", "ai.onnx"):
            raise UnreadableError(f"a model-local function redefines the standard operator {shown(name)}")
    calls = {
        key: {(n.domain, n.op_type, n.overload) for n in function.node} & set(table) for key, function in table.items()
    }
    done: set[tuple[str, str, str]] = set()
    while pending := [key for key in calls if key not in done]:  # a call graph without cycles empties leaf by leaf
        leaves = [key for key in pending if calls[key] <= done]
        if not leaves:
            raise UnreadableError(f"the model-local function {shown(pending[0][1])} calls itself")
        done.update(leaves)
    todo = [k for n in all_nodes(model.graph.node) if (k := (n.domain, n.op_type, n.overload)) in table]
    reached: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    while todo:
        key = todo.pop()
        if key not in reached:
            reached[key] = table[key]
            todo.extend(calls[key])
    # inlining copies a body per call: count the nodes first, callees before callers
    cost: dict[tuple[str, str, str], int] = {}
    while len(cost) < len(reached):
        for key in reached:
            if key not in cost and calls[key] <= set(cost):
                cost[key] = sum(cost.get((n.domain, n.op_type, n.overload), 1) for n in reached[key].node)
    total = sum(cost.get((n.domain, n.op_type, n.overload), 1) for n in model.graph.node)
    if total > MAX_NODES:
        raise UnreadableError(f"the graph has {total} nodes; lipcert reads at most {MAX_NODES}")
    kept = list(reached.values())
    del model.functions[:]
    model.functions.extend(kept)
    return {(f.domain, f.name, f.overload): f for f in model.functions}


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            stack.extend(attribute.g.node)
            for graph in attribute.graphs:
                stack.extend(graph.node)


def initialisers(graph: GraphProto) -> set[str]:
    return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}


def real_inputs(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    constants = initialisers(graph)  # up to ir_version 3 every initialiser is also listed as an input
    return [v for v in graph.input if v.name not in constants]


def node_label(node: NodeProto) -> str:
    name = node.name or next((o for o in node.output if o), "")
    return f"{shown(node.op_type)} node {shown(name)!r}" if name else f"{shown(node.op_type)} node"


def check_structure(graph: GraphProto) -> None:
    """Single assignment, every input made before use; the nodes are put into topological order (stable)."""
    made: set[str] = set()
    names = [v.name for v in real_inputs(graph)]
    names += [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    for name in names:
        if name in made or not name:
            raise UnreadableError(f"the tensor {shown(name)!r} is defined twice (or has no name)")
        made.add(name)
    available = set(made)
    for node in graph.node:
        for name in filter(None, node.output):
            if name in made:
                raise UnreadableError(f"{node_label(node)}: the tensor {shown(name)!r} is defined twice")
            made.add(name)
        for text in (node.op_type, *(a.name for a in node.attribute), *filter(None, [node.domain])):
            if not _IDENTIFIER.fullmatch(text):
                raise UnreadableError(f"{node_label(node)}: {shown(text)!r} is not an ONNX identifier")
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in made:
                raise UnreadableError(f"{node_label(node)}: nothing makes its input {shown(name)!r}")
    outputs = [v.name for v in graph.output]
    if len(set(outputs)) != len(outputs):
        raise UnreadableError("two outputs of the graph have the same name")
    for name in outputs:
        if name not in made:
            raise UnreadableError(f"nothing makes the output {shown(name)!r}")

    waiting = {k: {i for i in node.input if i and i not in available} for k, node in enumerate(graph.node)}
    readers: dict[str, list[int]] = {}
    for k, names_in in waiting.items():
        for name in names_in:
            readers.setdefault(name, []).append(k)
    ready = deque(k for k, names_in in waiting.items() if not names_in)
    order: list[int] = []
    while ready:
        k = ready.popleft()
        order.append(k)
        for name in filter(None, graph.node[k].output):
            for reader in readers.get(name, ()):
                waiting[reader].discard(name)
                if not waiting[reader]:
                    ready.append(reader)
    if len(order) < len(graph.node):
        stuck = next(k for k in waiting if waiting[k])
        raise UnreadableError(f"{node_label(graph.node[stuck])}: the graph has a cycle")
    position = {k: i for i, k in enumerate(order)}
    if any(position[k] != k for k in position) and not _sorted_already(graph, available):
        nodes = [graph.node[k] for k in order]
        copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _sorted_already(graph: GraphProto, available: set[str]) -> bool:
    seen = set(available)
    for node in graph.node:
        if any(i and i not in seen for i in node.input):
            return False
        seen.update(node.output)
    return True


def keep_live(graph: GraphProto, output: str) -> None:
    """Drop every node, initialiser and declared output that the chosen output does not need."""
    needed = {output}
    keep: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(o in needed for o in node.output if o):
            keep.append(NodeProto.FromString(node.SerializeToString()))
            needed.update(reads(node))
    del graph.node[:]
    graph.node.extend(reversed(keep))
    for field, name_of in (
        (graph.initializer, lambda t: t.name),
        (graph.sparse_initializer, lambda t: t.values.name),
        (graph.output, lambda v: v.name),
    ):
        wanted = needed if field is not graph.output else {output}
        dead = [k for k, item in enumerate(field) if name_of(item) not in wanted]
        for k in reversed(dead):
            del field[k]
    del graph.value_info[:]
    del graph.quantization_annotation[:]


def reads(node: NodeProto) -> Iterator[str]:
    """Names that a node needs: its inputs, and what its branches read or hand on."""
    yield from filter(None, node.input)
    for inner in all_nodes([node]):
        for graph in branches(inner):
            yield from (value.name for value in graph.output)
        if inner is not node:
            yield from filter(None, inner.input)


def branches(node: NodeProto) -> list[GraphProto]:
    return [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]


def check_branches(nodes: Iterable[NodeProto]) -> None:
    """Of all subgraphs only those of `If` are read: where file and shapes settle the condition, one of them is it."""
    depth = {id(node): (node, 0) for node in nodes}
    stack, count = list(depth.values()), 0
    while stack:
        node, level = stack.pop()
        count += 1
        graphs = branches(node)
        label = node_label(node)
        if graphs and (node.op_type != "If" or node.domain not in ("", "ai.onnx")):
            raise RefusedModel(f"{label}: holds a subgraph, and lipcert reads flat graphs only", node=label)
        if level > MAX_DEPTH or count > MAX_NODES:
            raise UnreadableError(f"{label}: lipcert reads {MAX_NODES} nodes, and branches {MAX_DEPTH} deep")
        for graph in graphs:
            if graph.sparse_initializer or graph.input:
                raise RefusedModel(
                    f"{label}: a branch with inputs or sparse weights of its own is not read", node=label
                )
            stack += [(inner, level + 1) for inner in graph.node]


def refuse_subgraphs(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        if branches(node) or any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            label = node_label(node)
            raise RefusedModel(f"{label}: holds a subgraph, and lipcert reads flat graphs only", node=label)
