"""What a lowering rule works with: values (signals, constants, plain Python) and a builder that appends nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from lipcert.blocks.base import Block
from lipcert.network.graph import Add, Concat, Graph, Input, Linear, Node, Nonlinear, Offset, What
from lipcert.operators.linear import Operator, Scale, Select
from lipcert.rigor.constants import Constant, constant
from lipcert.rigor.rounding import all_finite
from lipcert.terms.errors import RefusedModel

MAX_ENTRIES = 2**28  # of one signal: 2 GB


@dataclass(frozen=True)
class Signal:
    """A float tensor that depends on the input: node `node` of the graph, seen in shape `shape`.

    `pad_minus_inf`: entries of this Select node that are padding with -inf (before a max pool); no other rule may read them.
    `hidden`: of `shape`, entries that are -inf, whatever the node holds there (see `masks.py`). `undefined`: those that are
    NaN, of a softmax of nothing; with no entry true it is known to be a number everywhere.
    """

    node: int
    shape: tuple[int, ...]
    pad_minus_inf: Tensor | None = None
    hidden: Tensor | None = None
    undefined: Tensor | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Builder:
    """Appends nodes to a graph. `where` is the name of the captured node being lowered."""

    def __init__(self, shape: Sequence[int], name: str):
        self.nodes: list[Node] = [Node(Input(), (), math.prod(shape), tuple(shape), name)]
        self.where = name
        self.assumptions: list[str] = []
        self.input = Signal(0, tuple(shape))

    def refuse(self, message: str, *, unbounded: bool = False) -> NoReturn:
        where = self.where if "node " in self.where else f"node {self.where}"
        raise RefusedModel(f"{where}: {message}", node=self.where, unbounded=unbounded)

    def assume(self, text: str) -> None:
        if text not in self.assumptions:
            self.assumptions.append(text)

    def append(self, what: What, parents: tuple[int, ...], shape: Sequence[int]) -> Signal:
        size = math.prod(shape)
        if size > MAX_ENTRIES:
            self.refuse(f"a signal of {size} entries is over the limit of {MAX_ENTRIES}")
        self.nodes.append(Node(what, parents, size, tuple(shape), self.where))
        return Signal(len(self.nodes) - 1, tuple(shape))

    def plain(self, signal: Signal) -> Signal:
        if signal.pad_minus_inf is not None:
            self.refuse("padding with -inf is understood before max pooling only")
        if signal.hidden is not None:
            self.refuse("entries that are -inf are understood where a softmax reads them, and nothing else")
        if signal.undefined is not None and bool(signal.undefined.any()):
            self.refuse("a softmax over entries all of which are -inf is NaN")
        return signal

    def linear(self, signal: Signal, operator: Operator, shape: Sequence[int]) -> Signal:
        signal = self.plain(signal)
        if isinstance(operator, Select) and torch.equal(operator.index, torch.arange(operator.in_size)):
            return Signal(signal.node, tuple(shape))
        if isinstance(operator, Scale) and operator.radius is None and bool((operator.factor == 1).all()):
            return Signal(signal.node, tuple(shape))
        return self.append(Linear(operator), (signal.node,), shape)

    def block(self, block: Block, signals: Sequence[Signal], shape: Sequence[int]) -> Signal:
        return self.append(Nonlinear(block), tuple(self.plain(s).node for s in signals), shape)

    def sum(self, signals: Sequence[Signal]) -> Signal:
        shape = signals[0].shape
        return self.append(Add(), tuple(self.plain(s).node for s in signals), shape)

    def concat(self, values: Sequence[Signal | Constant]) -> Signal:
        """Flat concatenation, shape (total,)."""
        parents = [v if isinstance(v, Signal) else self.append(_offset(v), (), v.shape) for v in values]
        return self.append(Concat(), tuple(self.plain(s).node for s in parents), (sum(s.size for s in parents),))

    def offset(self, signal: Signal, value: Constant) -> Signal:
        value = self.expand_constant(value, signal.shape)
        if value.radius is None and not bool((value.centre != 0).any()):
            return signal
        return self.append(_offset(value), (self.plain(signal).node,), signal.shape)

    def scale(self, signal: Signal, factor: Constant, divisor: float | None = None) -> Signal:
        """factor * signal; `divisor`: the factor is the enclosure of 1 / divisor, in every entry."""
        factor = self.expand_constant(factor, signal.shape)
        radius = None if factor.radius is None else factor.radius.reshape(-1)
        return self.linear(signal, Scale(factor.centre.reshape(-1), radius, divisor), signal.shape)

    def constant_node(self, value: Constant) -> Signal:
        return self.append(_offset(value), (), value.shape)

    def expand_constant(self, value: Constant, shape: Sequence[int]) -> Constant:
        self.finite(value)
        return value.map(lambda t: t.expand(tuple(shape)))

    def finite(self, value: Constant) -> Constant:
        for part in (value.centre, value.radius):
            if part is not None and not all_finite(part):
                self.refuse("a constant is not finite (NaN, infinity or an overflow)")
        return value

    def move(self, signal: Signal, function: Callable[[Tensor], Tensor]) -> Signal:
        """A layout function (reshape, slice, pad with zeros, repeat ...): run it on entry numbers, 0 means zero."""
        numbers = torch.arange(1, signal.size + 1, dtype=torch.float64).reshape(signal.shape)
        moved = function(numbers)
        shown = replace(signal, hidden=None, undefined=None)
        found = self.linear(shown, Select(moved.reshape(-1).to(torch.int64) - 1, signal.size), tuple(moved.shape))
        hidden, undefined = (
            None if mask is None else function(mask.to(torch.float64)) != 0
            for mask in (signal.hidden, signal.undefined)
        )
        return found if hidden is None and undefined is None else replace(found, hidden=hidden, undefined=undefined)

    def expand(self, signal: Signal, shape: Sequence[int]) -> Signal:
        if signal.shape == tuple(shape):
            return signal
        return self.move(signal, lambda t: t.expand(tuple(shape)))

    def graph(self, output: Signal) -> Graph:
        """Only what the output needs; the input stays even where nothing reads it."""
        self.plain(output)
        if output.node == 0 and output.shape != self.nodes[0].shape:  # the input, seen in another shape
            output = self.append(Add(), (0,), output.shape)
        needed = {0, output.node}
        for i in range(len(self.nodes) - 1, -1, -1):
            if i in needed:
                needed.update(self.nodes[i].parents)
        order = sorted(needed)
        place = {old: new for new, old in enumerate(order)}
        nodes = []
        for old in order:
            node = self.nodes[old]
            shape = output.shape if old == output.node else node.shape
            nodes.append(Node(node.what, tuple(place[p] for p in node.parents), node.size, shape, node.name))
        return Graph(tuple(nodes), place[output.node])


def _offset(value: Constant) -> Offset:
    radius = None if value.radius is None else value.radius.reshape(-1).clone()
    return Offset(value.centre.reshape(-1).clone(), radius)


def broadcast(builder: Builder, values: Sequence[Any]) -> list[Any]:
    """Signals and constants brought to one shape, as torch broadcasts."""
    values = [v if isinstance(v, Signal) else constant(v) for v in values]
    shape = np.broadcast_shapes(*(v.shape for v in values))
    return [builder.expand(v, shape) if isinstance(v, Signal) else builder.expand_constant(v, shape) for v in values]
