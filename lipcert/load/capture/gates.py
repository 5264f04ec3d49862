"""Gates 1, 2 and 4 of DESIGN section 5, and a limit of size: each takes a captured graph and returns nothing, or raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lipcert.terms.errors import RefusedModel, UsageError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from lipcert.load.flat import FlatProgram

NODE_LIMIT = 20_000  # torch.export needs 1 ms or more for each node; published networks stay below 5 000
ELEMENT_LIMIT = 2**31  # entries of one signal or constant: 16 GB of float64

aten = torch.ops.aten
_UNINITIALISED = (aten.empty.memory_format, aten.empty_permuted.default, aten.empty_strided.default)
_UNREPEATABLE = {
    torch.Tag.nondeterministic_seeded: "draws random numbers (dropout in training mode?)",
    torch.Tag.data_dependent_output: "takes a number out of a tensor, so the graph would depend on the data",
    torch.Tag.dynamic_output_shape: "has an output whose shape depends on the data",
}


def gate_graph(program: ExportedProgram | FlatProgram) -> None:
    """What every captured graph must be, however it was captured."""
    gate_length(program)
    gate_repeatable(program)
    gate_static(program)
    gate_size(program)


def gate_length(program: ExportedProgram | FlatProgram) -> None:
    """At most `NODE_LIMIT` nodes."""
    if len(program.graph.nodes) > NODE_LIMIT:
        raise RefusedModel(f"capture: {len(program.graph.nodes)} nodes; lipcert treats up to {NODE_LIMIT}")


def gate_one_output(program: ExportedProgram) -> None:
    """One user input and one tensor out."""
    from torch.export.graph_signature import OutputKind

    outputs = [spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    results: Any = program.graph.output_node().args[0]
    values = [
        value for value, spec in zip(results, program.graph_signature.output_specs, strict=True) if spec in outputs
    ]
    if len(values) == 1 and isinstance(getattr(values[0], "meta", {}).get("val"), torch.Tensor):
        return
    shapes = (tuple(value.meta["val"].shape) if isinstance(value, torch.fx.Node) else value for value in values)
    listed = ", ".join(f"{number} {shape}" for number, shape in enumerate(shapes))
    raise UsageError(f"the model has {len(outputs)} outputs ({listed}): choose one with --output-name")


def gate_no_mutation(program: ExportedProgram) -> None:
    """Gate 1: no call may change a buffer, a parameter or the input: y would depend on the calls before."""
    from torch.export.graph_signature import OutputKind

    for spec in program.graph_signature.output_specs:
        if spec.kind not in (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION):
            raise RefusedModel(
                f"{spec.target}: changed by every call ({spec.kind.name.lower()}), so the model is not a function of "
                "its input alone (a counter, or BatchNorm in training mode?)",
                node=spec.target,
            )
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            raise RefusedModel(f"{spec.target}: the model writes into its own input", node=spec.target)


def gate_repeatable(program: ExportedProgram | FlatProgram) -> None:
    """Gate 2: no random numbers, no values or shapes that depend on data, no memory that nobody wrote."""
    for node in _calls(program):
        if node.target in _UNINITIALISED:
            raise RefusedModel(f"node {node.name} ({node.target}): reads memory that nothing wrote", node=node.name)
        for tag in getattr(node.target, "tags", ()):
            if tag in _UNREPEATABLE and not _indexes_by_position(node):
                raise RefusedModel(f"node {node.name} ({node.target}): {_UNREPEATABLE[tag]}", node=node.name)


def gate_same_twice(first: str, second: str) -> None:
    """Gate 3: two captures are identical."""
    if first != second:
        raise RefusedModel("two captures of the model differ: it keeps state between calls outside its buffers")


def gate_static(program: ExportedProgram | FlatProgram) -> None:
    """Gate 4: plain ATen operators on tensors of fixed shape; no symbolic numbers, no nested graphs."""
    for node in program.graph.nodes:
        where = f"node {node.name} ({node.target})"
        if node.op == "get_attr":
            raise RefusedModel(f"{where}: a nested graph (cond, while, map)", node=node.name)
        if node.op == "call_function" and not _plain(node.target):
            raise RefusedModel(f"{where}: not a plain ATen operator (control flow, or a custom one)", node=node.name)
        for value in _values(node):
            if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
                raise RefusedModel(f"{where}: a number that depends on the data", node=node.name)
            if isinstance(value, torch.Tensor) and any(isinstance(size, torch.SymInt) for size in value.shape):
                raise RefusedModel(f"{where}: a shape that is not fixed", node=node.name)


def gate_size(program: ExportedProgram | FlatProgram) -> None:
    """No signal or constant of more than `ELEMENT_LIMIT` entries: evaluating it would not end, or not fit."""
    for node in program.graph.nodes:
        for value in _values(node):
            if isinstance(value, torch.Tensor) and value.numel() > ELEMENT_LIMIT:
                raise RefusedModel(
                    f"node {node.name} ({node.target}): a tensor of shape {tuple(value.shape)}, more than the "
                    f"{ELEMENT_LIMIT} entries lipcert treats",
                    node=node.name,
                )


def _plain(target: Any) -> bool:
    if getattr(target, "__module__", "") == "_operator" and target.__name__ == "getitem":
        return True
    return isinstance(target, torch._ops.OpOverload) and target.namespace in ("aten", "prims")


def _indexes_by_position(node: torch.fx.Node) -> bool:
    """`x[indices]` has a shape that depends on data only where an index is a mask."""
    if node.target not in (aten.index.Tensor, aten.index_put.default):
        return False
    indices = [index.meta["val"].dtype for index in node.args[1] if index is not None]  # type: ignore[union-attr]
    return not {torch.bool, torch.uint8} & set(indices)


def _calls(program: ExportedProgram | FlatProgram) -> list[torch.fx.Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def _values(node: torch.fx.Node) -> list[Any]:
    value = node.meta.get("val")
    return list(value) if isinstance(value, tuple | list) else [value]
