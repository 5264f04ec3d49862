"""Rewriting a lowered graph: an equal graph whose nodes say more. What is here only moves and shares nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import Product
from lipcert.network.graph import Add, Graph, Input, Linear, Node, Nonlinear, Offset, What
from lipcert.operators.linear import Conv, Dense, Scale, Select


class Rewriter:
    """A graph being written from an old one, node by node. `place`: old position -> new."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.place: dict[int, int] = {}

    def put(self, what: What, parents: Sequence[int], size: int, like: Node) -> int:
        """A new node named as `like`, in its shape where the sizes agree."""
        shape = like.shape if math.prod(like.shape) == size else (size,)
        self.nodes.append(Node(what, tuple(parents), size, shape, like.name))
        return len(self.nodes) - 1

    def copy(self, i: int, node: Node) -> int:
        self.place[i] = self.put(node.what, [self.place[p] for p in node.parents], node.size, node)
        return self.place[i]

    def graph(self, old: Graph) -> Graph:
        """What the output needs; the input stays."""
        output, start = self.place[old.output], self.place[old.input]
        needed = {start, output}
        for i in range(len(self.nodes) - 1, -1, -1):
            if i in needed:
                needed.update(self.nodes[i].parents)
        order = sorted(needed)
        at = {before: now for now, before in enumerate(order)}
        nodes = []
        for i in order:
            node = self.nodes[i]
            shape = old.output_shape if i == output else node.shape
            nodes.append(Node(node.what, tuple(at[p] for p in node.parents), node.size, shape, node.name))
        return Graph(tuple(nodes), at[output], at[start])


def block(node: Node) -> Any:
    """The nonlinear block of a node, or None."""
    return node.what.block if isinstance(node.what, Nonlinear) else None


def operator(node: Node) -> Any:
    """The linear operator of a node, or None."""
    return node.what.operator if isinstance(node.what, Linear) else None


def steep(node: Node) -> bool:
    """An elementwise row whose slopes have no finite bound on the line."""
    found = block(node)
    if not isinstance(found, Pointwise):
        return False
    return not all(bool(torch.as_tensor(side).isfinite().all()) for side in found.activation.slopes())


def troubled(graph: Graph) -> bool:
    """There is something that a rewriting may help: products of signals, or rows without a finite slope."""
    return any(isinstance(block(node), Product) or steep(node) for node in graph.nodes)


def uniform(values: Tensor | None) -> bool:
    return values is None or (values.numel() > 0 and bool((values == values.reshape(-1)[0]).all()))


def expands(node: Node) -> bool:
    """A Select that repeats entries and adds no zeros."""
    found = operator(node)
    return isinstance(found, Select) and found.out_size > found.in_size and bool((found.index >= 0).all())


def tidied(graph: Graph) -> Graph:
    """Equal nodes are one; what acts alike on every entry acts before entries are repeated."""
    new = Rewriter()
    known: dict[Any, int] = {}

    def put(what: What, parents: Sequence[int], size: int, like: Node) -> int:
        commutes = isinstance(what, Add) or (isinstance(what, Nonlinear) and isinstance(what.block, Product))
        key = _key(what), tuple(sorted(parents) if commutes else parents), size
        if key not in known:
            known[key] = new.put(what, parents, size, like)
        return known[key]

    for i, node in enumerate(graph.nodes):
        parents = [new.place[p] for p in node.parents]
        if isinstance(node.what, Input):
            new.copy(i, node)
            continue
        source = new.nodes[parents[0]] if parents else None
        together = len(parents) == 2 and isinstance(node.what, Add | Nonlinear)
        if together and _alike(new.nodes[parents[0]], new.nodes[parents[1]], node):
            first, other = (new.nodes[p] for p in parents)
            size = operator(first).in_size
            what = Nonlinear(Product(size)) if isinstance(node.what, Nonlinear) else node.what
            before = put(what, (*first.parents, *other.parents), size, node)
            new.place[i] = put(first.what, [before], node.size, node)
        elif (
            len(parents) == 1
            and source is not None
            and expands(source)
            and (smaller := _resized(node.what, operator(source).in_size))
        ):
            before = put(smaller, source.parents, operator(source).in_size, node)
            new.place[i] = put(source.what, [before], node.size, node)
        else:
            new.place[i] = put(node.what, parents, node.size, node)
    return new.graph(graph)


def _alike(first: Node, other: Node, node: Node) -> bool:
    """A sum or product of two signals that are repeated in the same way."""
    if not (isinstance(node.what, Add) or isinstance(block(node), Product)):
        return False
    return (
        expands(first)
        and expands(other)
        and torch.equal(operator(first).index, operator(other).index)
        and (operator(first).in_size == operator(other).in_size)
    )


def _resized(what: What, size: int) -> What | None:
    """The same elementwise function of a signal of another size, where it is the same in every entry."""
    if isinstance(what, Nonlinear) and isinstance(what.block, Pointwise):
        params = what.block.activation.params
        return None if any(isinstance(p, Tensor) for p in params) else Nonlinear(Pointwise(what.block.activation, size))
    if isinstance(what, Linear) and isinstance(what.operator, Scale):
        scale = what.operator
        if not (uniform(scale.factor) and uniform(scale.radius)):
            return None
        radius = None if scale.radius is None else scale.radius[:1].expand(size).contiguous()
        return Linear(Scale(scale.factor[:1].expand(size).contiguous(), radius, scale.divisor))
    if isinstance(what, Offset) and uniform(what.value) and uniform(what.radius):
        radius = None if what.radius is None else what.radius[:1].expand(size).contiguous()
        return Offset(what.value[:1].expand(size).contiguous(), radius)
    return None


def _key(what: What) -> Any:
    """Equal for nodes that are known to be equal functions of their parents."""
    match what:
        case Linear(Scale() as scale):
            return "scale", _bytes(scale.factor), _bytes(scale.radius), scale.divisor
        case Linear(Select() as select):
            return "select", _bytes(select.index), select.size
        case Linear(Dense() as dense):
            return "dense", _bytes(dense.weight), _bytes(dense.radius), dense.outer, dense.inner
        case Linear(Conv() as conv):
            return "conv", conv.weight.data_ptr(), repr(conv.geometry), conv.batch
        case Offset(value, radius):
            return "offset", _bytes(value), _bytes(radius)
        case Nonlinear(Pointwise() as pointwise):
            params = pointwise.activation.params
            return "row", pointwise.label, tuple(_bytes(p) if isinstance(p, Tensor) else p for p in params)
        case Nonlinear(other):
            plain = {name: value for name, value in vars(other).items() if name != "memo"}
            return type(other).__name__, tuple(
                (k, _bytes(v) if isinstance(v, Tensor) else repr(v)) for k, v in plain.items()
            )
        case Linear(operator):
            return id(operator)
    return type(what).__name__


def _bytes(values: Tensor | None) -> Any:
    if values is None:
        return None
    if values.numel() > 2**18:
        return values.data_ptr(), tuple(values.shape), tuple(values.stride())
    return tuple(values.shape), values.detach().contiguous().numpy().tobytes()


Pass = Callable[[Graph], Graph]
