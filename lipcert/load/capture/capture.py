"""A `Source` becomes one flat, functional ATen graph with static shapes, or is refused by the gate that found why not.

Gates 1 to 4 of DESIGN section 5 are one function each (`gates.py`); gate 5 (equal to the original) is `parity.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from lipcert.load.capture import gates
from lipcert.load.capture.trace import Unfollowed, trace
from lipcert.load.fingerprint import graph_fingerprint, quiet
from lipcert.load.flat import FlatProgram
from lipcert.load.source import Source

if TYPE_CHECKING:
    from torch.export import ExportedProgram


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


def capture(source: Source, imports: bool = True) -> Captured:
    """Capture twice, check every gate. Raises RefusedModel (naming the node) or UsageError (several outputs).

    `imports`: False raises `Unfollowed` where torch.export would have to be imported.
    """
    with quiet(), torch.no_grad():
        program = _traced(source, imports) or _exported(source)
        return Captured(program, fingerprint(program), source, getattr(source.module, "labels", {}))


def _traced(source: Source, imports: bool) -> FlatProgram | None:
    """By our own trace, which has no gate 1: it follows nothing that writes into a tensor."""
    if not source.ours:
        return None
    try:
        once, again = (trace(source.module, source.example, imports) for _ in range(2))
    except Unfollowed:
        if not imports:
            raise
        return None
    gates.gate_graph(once)
    gates.gate_same_twice(fingerprint(once), fingerprint(again))
    return once


def _exported(source: Source) -> ExportedProgram | FlatProgram:
    from lipcert.load.capture.export import exported

    return exported(source.module, source.example, users=source.format == "module")


def constants(program: ExportedProgram | FlatProgram) -> dict[str, torch.Tensor]:
    """Placeholder name -> stored tensor, in the file's own dtype, for every parameter, buffer and lifted constant."""
    if isinstance(program, FlatProgram):
        return program.constants
    from lipcert.load.capture.export import stored

    return stored(program)


def fingerprint(program: ExportedProgram | FlatProgram) -> str:
    """Equal for equal functions of equal constants, in every process; see `graph_fingerprint`."""
    return graph_fingerprint(program.graph, constants(program))
