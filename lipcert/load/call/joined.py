"""A module of x alone, made of one that takes several inputs, some of which are held, and of what its calls change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lipcert.load.call.arguments import Arguments
from lipcert.load.inputs import Chosen
from lipcert.load.pick import pick


class Joined(torch.nn.Module):
    """forward(x): x is split into the inputs that move, the others are held, and one output is taken.

    `states`: tensors inside the module that every call changes, by their paths. Each call finds them at the values of
    the inputs of these names and leaves them as it found them, so that the module is a function; what they become are
    outputs of the same names. `others`: what else is put back, numbers that calls change.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        arguments: Arguments,
        chosen: Chosen,
        output_name: str | None = None,
        states: Sequence[str] = (),
        others: Sequence[str] = (),
    ):
        super().__init__()
        self.training = False  # not `eval()`, which exported programs do not have
        self.module = module
        self.arguments, self.chosen, self.output_name = arguments, chosen, output_name
        self.states, self.others = tuple(states), tuple(others)
        self.numbers = {name: chosen.held[name].item() for name in arguments.numbers if name in chosen.held}
        self.held: dict[str, str] = {}  # input -> buffer
        for number, (name, value) in enumerate(chosen.held.items()):
            if name not in self.numbers:
                self.held[name] = f"held_{number}"
                self.register_buffer(self.held[name], value.clone())

    def forward(self, x: torch.Tensor) -> Any:
        parts = self.chosen.parts  # one alone is x itself: the graph has no node more than the module's own
        values: dict[str, Any] = ({parts[0].name: x} if len(parts) == 1 else self.chosen.split(x)) | self.numbers
        values |= {name: getattr(self, buffer) for name, buffer in self.held.items()}
        positional, keywords = self.arguments.call(values)
        with at_states(self.module, {name: values[name] for name in self.states}, self.others):
            result = self.module(*positional, **keywords)
            after = {name: read_state(self.module, name) for name in self.states}
        return pick(result, self.output_name, after)


@contextmanager
def at_states(module: Any, values: Mapping[str, torch.Tensor], others: Sequence[str]) -> Iterator[None]:
    """The module with copies of these values in it; afterwards it is as before."""
    before = {name: read_state(module, name) for name in (*values, *others)}
    try:
        for name, value in values.items():
            write_state(module, name, value.clone())
        yield
    finally:
        for name, value in before.items():
            write_state(module, name, value)


def read_state(module: Any, path: str) -> Any:
    for word in path.split("."):
        module = getattr(module, word)
    return module


def write_state(module: Any, path: str, value: Any) -> None:
    *owners, last = path.split(".")
    setattr(read_state(module, ".".join(owners)) if owners else module, last, value)
