"""One ONNX node as an op function sees it, and the row of the op table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import torch

from lipcert.terms.errors import RefusedModel


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """`attributes`: the file's values over the schema's defaults of that version (float32 defaults kept exactly).

    `known[i]`: the value of input i where it follows from shapes and integers alone, or is a constant of the file that
    was only moved, never computed with; None otherwise. `on_data[i]`: input i depends on the model's input.
    """

    op: str
    label: str  # as the file names it, escaped
    version: int  # since_version of the schema that applies
    attributes: Mapping[str, Any]
    known: tuple[torch.Tensor | None, ...] = ()
    on_data: tuple[bool, ...] = ()
    outputs: tuple[bool, ...] = (True,)  # which outputs somebody reads
    declared: tuple[str, ...] = ()  # schema names of the outputs that the node gives a name, read or not
    elem_types: tuple[int, ...] = ()  # TensorProto element type of each input, 0 where it is left out
    notes: list[str] = field(default_factory=list)  # assumptions, shared by all nodes of a model
    held: dict[str, torch.Tensor] = field(default_factory=dict)
    numbers: dict[int, list] = field(default_factory=dict)  # inputs that were read as numbers, not as tensors
    looked_at: set[str] = field(default_factory=set)  # attributes that the rule asked for

    def __str__(self) -> str:
        return f"{self.op} node {self.label!r}"

    def refuse(self, why: str, unbounded: bool = False) -> NoReturn:
        raise RefusedModel(f"{self}: {why}", node=str(self), unbounded=unbounded)

    def assume(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def __getitem__(self, name: str) -> Any:
        """Attribute `name`, its default where the file does not give it, None where there is no default."""
        self.looked_at.add(name)
        return self.attributes.get(name)

    def has(self, index: int) -> bool:
        return index < len(self.known) and self.known[index] is not None

    def ints(self, index: int, what: str) -> list[int]:
        """Input `index` as a list of integers that do not depend on the input."""
        if not self.has(index) or self.known[index].is_floating_point():  # type: ignore[union-attr]
            self.refuse(f"its {what} is not a constant")
        return self._numbers(index)

    def floats(self, index: int, what: str) -> list[float]:
        """Input `index` as exact float64 numbers."""
        if not self.has(index):
            self.refuse(f"its {what} is not a constant of the file")
        return self._numbers(index)

    def _numbers(self, index: int) -> list:
        if index not in self.numbers:
            with torch._C._DisableTorchDispatch():  # a traced tensor has no numbers; the known one has
                self.numbers[index] = self.known[index].reshape(-1).tolist()  # type: ignore[union-attr]
        return self.numbers[index]

    def scalar(self, index: int, what: str) -> float:
        values = self.floats(index, what)
        if len(values) != 1 or math.isnan(values[0]):
            self.refuse(f"its {what} is not one number")
        return values[0]

    def axes(self, values: list[int], rank: int) -> list[int]:
        """Axes counted from the front, each in range and none twice."""
        axes = [v + rank if v < 0 else v for v in values]
        if any(not 0 <= a < rank for a in axes) or len(set(axes)) != len(axes):
            self.refuse(f"axes {values} do not fit a tensor of rank {rank}")
        return axes

    def axis(self, value: int, rank: int) -> int:
        return self.axes([value], rank)[0]

    def hold(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A constant that this node adds to the graph (an index, an interpolation matrix), made once while building."""
        if name not in self.held:
            with torch._C._DisableTorchDispatch():
                self.held[name] = make()
        return self.held[name]


# compute: arithmetic. moves: copies, rearranges, compares or creates entries without rounding, so that it may be folded
# on float constants too. shape: reads its input's shape only.
Kind = Literal["compute", "moves", "shape"]


Rule = Callable[..., Any]  # (node, *input tensors) -> tensor, or a tuple of tensors


@dataclass(frozen=True)
class Op:
    """What a rule claims, in the words of onnx's schemas; a test compares the claims with every schema in `versions`.

    A node that gives an attribute, an optional input or a further output which is claimed by none of these is refused
    by name, and so is a node whose rule did not look at a given attribute that it claims to read.
    """

    function: Rule
    versions: tuple[int, ...]  # since_versions of the schemas that the function was tested with; others are refused
    attributes: str = ""  # what the function reads
    kind: Kind = "compute"
    ignored: Mapping[str, str] = field(default_factory=dict)  # attribute -> why it cannot change the function
    refused: str = ""  # attributes that are refused by name
    inputs: str = ""  # optional inputs that the function uses, or refuses itself
    outputs: str = ""  # outputs after the first that may be declared: given, or refused where somebody reads them
