"""A module whose code is not ours, captured by torch.export, decomposed by `decompose.table()`; and once more, by our own trace
where that can follow it (gate 3 asks for the same steps, and a second export takes as long as the first)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from lipcert.load.capture import decompose, gates
from lipcert.load.capture.trace import CHECKS, Unfollowed, retrace, trace
from lipcert.load.fingerprint import graph_fingerprint, same_steps
from lipcert.load.flat import FlatProgram
from lipcert.terms.errors import LipcertError, RefusedModel


def exported(module: torch.nn.Module, example: torch.Tensor, users: bool) -> ExportedProgram | FlatProgram:
    """The program of `module(x)`, all gates passed. `users`: the object itself, which a call may change."""
    once = _following(torch.export.export, module, (example,), strict=False)
    gates.gate_length(once)
    gates.gate_one_output(once)
    program = _retraced(once) or decomposed(once)
    if isinstance(program, ExportedProgram):
        if _writes_into_input(program):
            return exported(OnClone(module), example, users)
        gates.gate_no_mutation(program)
    gates.gate_graph(program)
    if users:
        module(example.clone())  # torch.export undoes what its trace does to Python attributes; a call does not
    if isinstance(program, FlatProgram) and traced_alike(program, module, example):
        return program
    again = _following(torch.export.export, module, (example,), strict=False)
    gates.gate_same_twice(*(graph_fingerprint(found.graph, stored(found)) for found in (once, again)))
    return program


def _retraced(program: ExportedProgram) -> FlatProgram | None:
    """Decomposed by our own trace: five times faster, and followed only where nothing is written to."""
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        return None
    try:
        return retrace(program, stored(program))
    except Unfollowed:
        return None


def traced_alike(program: FlatProgram, module: torch.nn.Module, example: torch.Tensor) -> bool:
    """Our own trace of the module takes the same steps with the same constants. False says nothing: it sees less than torch.export."""
    try:
        again = trace(_apart(module), example)
    except Exception:  # a module whose code is not ours
        return False
    return same_steps(program.graph, program.constants, again.graph, again.constants)


def _apart(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of the Python objects with the same tensors: what a trace leaves in attributes has no values."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """By torch, which makes functions of what writes into tensors."""
    found = _following(program.run_decompositions, decompose.table())
    drop_checks(found)
    return found


def _following(step: Callable[..., ExportedProgram], *arguments: Any, **options: Any) -> ExportedProgram:
    """One step of torch.export, its failures told in one line."""
    try:
        return step(*arguments, **options)
    except LipcertError:
        raise
    except RecursionError as problem:
        raise RefusedModel(
            f"capture: nested too deeply for torch.export (limit: {gates.NODE_LIMIT} nodes)"
        ) from problem
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


def drop_checks(program: ExportedProgram) -> None:
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in CHECKS:
            graph.erase_node(node)


def _reason(problem: BaseException) -> str:
    """The first line that says something, with what usually lies behind it."""
    text = str(problem)
    if "data-dependent" in text.lower() or type(problem).__name__.startswith(("GuardOnDataDependent", "DataDependent")):
        return f"it branches on, or takes numbers out of, the values of a tensor ({_first_line(text)})"
    return f"{type(problem).__name__}: {_first_line(text)}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")[:300]


def stored(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Placeholder name -> tensor, for every parameter, buffer and lifted constant."""
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
