"""A `Source` becomes one flat, functional ATen graph with static shapes, or is refused by the gate that found why not.

Gates 1 to 4 of DESIGN section 5 are one function each; gate 5 (equal to the original) is `lipcert.load.capture.parity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from lipcert.load.capture import decompose
from lipcert.load.fingerprint import graph_fingerprint, quiet
from lipcert.load.flat import FlatProgram
from lipcert.load.source import Source
from lipcert.terms.errors import LipcertError, RefusedModel, UsageError

NODE_LIMIT = 20_000  # torch.export needs 1 ms or more for each node; published networks stay below 5 000
ELEMENT_LIMIT = 2**31  # entries of one signal or constant: 16 GB of float64

aten = torch.ops.aten
_CHECKS = (aten._assert_tensor_metadata.default,)  # torch's own assertions on dtype and device; static here
_UNINITIALISED = (aten.empty.memory_format, aten.empty_permuted.default, aten.empty_strided.default)
_UNREPEATABLE = {
    torch.Tag.nondeterministic_seeded: "draws random numbers (dropout in training mode?)",
    torch.Tag.data_dependent_output: "takes a number out of a tensor, so the graph would depend on the data",
    torch.Tag.dynamic_output_shape: "has an output whose shape depends on the data",
}


@dataclass(frozen=True)
class Captured:
    """`program`: functional, decomposed by `decompose.table()`, one user input, one output.

    `fingerprint`: sha256 of graph and constants, equal in every process. `source`: what was captured. `labels`: step of
    the module -> what the file calls it.
    """

    program: ExportedProgram | FlatProgram
    fingerprint: str
    source: Source
    labels: Mapping[str, str] = field(default_factory=dict)


def capture(source: Source) -> Captured:
    """Export twice, check every gate. Raises RefusedModel (naming the node) or UsageError (several outputs)."""
    with quiet(), torch.no_grad():
        exported = _following(torch.export.export, source.module, (source.example,), strict=False)
        gate_length(exported)
        gate_one_output(exported)
        program = _following(exported.run_decompositions, decompose.table())
        if _writes_into_input(program):
            return capture(replace(source, module=OnClone(source.module)))
        _drop_checks(program)
        gate_no_mutation(program)
        gate_repeatable(program)
        gate_static(program)
        gate_size(program)
        if source.format == "module":
            # torch.export undoes what its trace does to Python attributes; a call does not
            source.module(source.example.clone())
        again = _following(torch.export.export, source.module, (source.example,), strict=False)
        gate_same_twice(fingerprint(exported), fingerprint(again))
        return Captured(program, fingerprint(program), source, getattr(source.module, "labels", {}))


def _following(step: Callable[..., ExportedProgram], *arguments: Any, **options: Any) -> ExportedProgram:
    """One step of torch.export, its failures told in one line."""
    try:
        return step(*arguments, **options)
    except LipcertError:
        raise
    except RecursionError as problem:
        raise RefusedModel(f"capture: nested too deeply for torch.export (limit: {NODE_LIMIT} nodes)") from problem
    except Exception as problem:
        raise RefusedModel(f"capture: torch.export cannot follow the model: {_reason(problem)}") from problem


class OnClone(torch.nn.Module):
    """forward(x) = module(a copy of x): a module that changes its input in place is a function all the same."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> Any:
        return self.module(x.clone())


def _writes_into_input(program: ExportedProgram) -> bool:
    return any(spec.kind is OutputKind.USER_INPUT_MUTATION for spec in program.graph_signature.output_specs)


def _drop_checks(program: ExportedProgram) -> None:
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in _CHECKS:
            graph.erase_node(node)


def _reason(problem: BaseException) -> str:
    """The first line that says something, with what usually lies behind it."""
    text = str(problem)
    if "data-dependent" in text.lower() or type(problem).__name__.startswith(("GuardOnDataDependent", "DataDependent")):
        return f"it branches on, or takes numbers out of, the values of a tensor ({_first_line(text)})"
    return f"{type(problem).__name__}: {_first_line(text)}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")[:300]


# Gates. Each takes what it judges and returns nothing, or raises.


def gate_length(program: ExportedProgram) -> None:
    """At most `NODE_LIMIT` nodes."""
    if len(program.graph.nodes) > NODE_LIMIT:
        raise RefusedModel(f"capture: {len(program.graph.nodes)} nodes; lipcert treats up to {NODE_LIMIT}")


def gate_one_output(program: ExportedProgram) -> None:
    """One user input and one tensor out."""
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
    for spec in program.graph_signature.output_specs:
        if spec.kind not in (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION):
            raise RefusedModel(
                f"{spec.target}: changed by every call ({spec.kind.name.lower()}), so the model is not a function of "
                "its input alone (a counter, or BatchNorm in training mode?)",
                node=spec.target,
            )
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            raise RefusedModel(f"{spec.target}: the model writes into its own input", node=spec.target)


def gate_repeatable(program: ExportedProgram) -> None:
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


def gate_static(program: ExportedProgram) -> None:
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


def gate_size(program: ExportedProgram) -> None:
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


def _calls(program: ExportedProgram) -> list[torch.fx.Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def _values(node: torch.fx.Node) -> list[Any]:
    value = node.meta.get("val")
    return list(value) if isinstance(value, tuple | list) else [value]


# Constants and fingerprint.


def constants(program: ExportedProgram | FlatProgram) -> dict[str, torch.Tensor]:
    """Placeholder name -> stored tensor, in the file's own dtype, for every parameter, buffer and lifted constant."""
    if isinstance(program, FlatProgram):
        return program.constants
    found: dict[str, torch.Tensor] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            continue
        if spec.target in program.state_dict and spec.persistent is not False:
            found[spec.arg.name] = program.state_dict[spec.target]
        elif isinstance(program.constants.get(spec.target), torch.Tensor):
            found[spec.arg.name] = program.constants[spec.target]
        else:
            raise RefusedModel(f"{spec.target}: a constant that is not a tensor", node=spec.arg.name)
    return found


def fingerprint(program: ExportedProgram) -> str:
    """Equal for equal functions of equal constants, in every process; see `graph_fingerprint`."""
    return graph_fingerprint(program.graph, constants(program))
