"""Normal form of a network for the l2 methods: incremental ball constraints between affine maps.

    v_k = sum_j A_kj z_j + B_k x,   y = sum_k C_k z_k + D x       (increments: biases drop out)
    sum over a group g of (z - a v)(b v - z) >= 0                  one multiplier per group

A neuron with slopes in [a, b] satisfies the constraint alone; neurons of one group share a multiplier (MATH 4b), and a
block (softmax, sort) satisfies it as a block only. Maxima and sorts of two are rewritten with relu: maxima.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.blocks.base import Axis, Block, Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Add, Graph, Linear, Node, Nonlinear, Offset, What
from lipcert.network.idle import idle
from lipcert.operators.linear import Scale, Select
from lipcert.proofs.maxima import without_maxima
from lipcert.terms.errors import RefusedModel

GROUPINGS = ("neuron", "channel", "layer")


@dataclass(frozen=True, eq=False)
class Layer:
    """One nonlinear node: z = phi(v). Slopes [low, high] and the group of each neuron, (n,) each.

    `node`, `read`: positions of z and v in the graph. `groups` counts from 0 to count - 1.
    """

    node: int
    read: int
    low: Tensor
    high: Tensor
    groups: Tensor
    count: int

    @property
    def size(self) -> int:
        return self.low.numel()

    def sums(self, values: Tensor) -> Tensor:
        """(n,) -> (count,): sums over the groups."""
        if self.count == self.size:
            return values
        return values.new_zeros(self.count).index_add_(0, self.groups, values)

    def spread(self, values: Tensor) -> Tensor:
        """(count,) -> (n,)."""
        return values if self.count == self.size else values[self.groups]


@dataclass(frozen=True, eq=False)
class NormalForm:
    """`graph`: the network with maxima rewritten; `layers` in topological order."""

    graph: Graph
    layers: tuple[Layer, ...]
    grouping: str = "neuron"

    def on(self, device: str) -> NormalForm:
        """The same on a device: for proofs there."""
        if device == "cpu":
            return self
        moved = [
            replace(x, low=x.low.to(device), high=x.high.to(device), groups=x.groups.to(device)) for x in self.layers
        ]
        return NormalForm(self.graph.on(device), tuple(moved), self.grouping)

    @property
    def neurons(self) -> int:
        return sum(layer.size for layer in self.layers)

    @property
    def multipliers(self) -> int:
        return sum(layer.count for layer in self.layers)


@dataclass(frozen=True, eq=False)
class Increment(Block):
    """A nonlinearity of which only the slopes are kept: increments of the neurons that are not fixed."""

    size: int = 0
    name: str = ""

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.name

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [size] and size == self.size


@dataclass(frozen=True, eq=False)
class Constraint:
    """Slopes and groups of one nonlinear node, (n,) each."""

    low: Tensor
    high: Tensor
    groups: Tensor


def constraint(graph: Graph, i: int, multipliers: str, ranges: dict[int, Range] | None) -> Constraint:
    """What is known of the increments of node i. Raises RefusedModel for blocks that have no such form."""
    node = graph.nodes[i]
    assert isinstance(node.what, Nonlinear)
    block = node.what.block
    if isinstance(block, Pointwise):
        low, high = block.slopes(None if ranges is None else (ranges[node.parents[0]],))
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            raise RefusedModel(f"{block.label} at {node.name}: {block.reason}", node=node.name, unbounded=True)
        return Constraint(low, high, _groups(node.shape, node.size, multipliers))
    if isinstance(block, Axis) and block.sector is not None:
        bottom, top = block.sector
        rows = torch.arange(block.outer * block.inner).reshape(block.outer, 1, block.inner)
        groups = rows.expand(block.outer, block.n, block.inner).reshape(-1)
        flat = torch.zeros(node.size, dtype=torch.float64)
        return Constraint(flat + bottom, flat + top, torch.zeros_like(groups) if multipliers == "layer" else groups)
    raise RefusedModel(f"{block.label} at {node.name} has no slope constraint", node=node.name)


def normal_form(graph: Graph, multipliers: str = "neuron", ranges: dict[int, Range] | None = None) -> NormalForm:
    """`multipliers`: what shares one: "neuron", "channel" of a feature map, "layer". `ranges`: local slopes, those of
    `without_maxima(graph)`. Neurons with a = b are linear on the region and become part of the affine maps; idle ones
    are left out.
    """
    old = without_maxima(graph)
    unmoved = idle(old)
    nodes: list[Node] = []
    place: list[int] = []
    layers: list[Layer] = []

    def put(what: What, parents: tuple[int, ...], size: int, name: str) -> int:
        nodes.append(Node(what, parents, size, (size,), name))
        return len(nodes) - 1

    for i, node in enumerate(old.nodes):
        parents = tuple(place[p] for p in node.parents)
        if not isinstance(node.what, Nonlinear):
            nodes.append(Node(node.what, parents, node.size, node.shape, node.name))
            place.append(len(nodes) - 1)
            continue
        found = constraint(old, i, multipliers, ranges)
        if i in unmoved:  # whatever they are, their increments may be taken for zero
            low, high = (torch.where(unmoved[i], 0.0, side) for side in (found.low, found.high))
            found = Constraint(low, high, found.groups)
        free = (found.low < found.high).nonzero().flatten()
        read = parents[0]
        linear = None
        if free.numel() < node.size:
            slope = torch.where(found.low < found.high, 0.0, found.low)
            linear = put(Linear(Scale(slope)), (read,), node.size, node.name) if bool((slope != 0).any()) else None
            read = put(Linear(Select(free, node.size)), (read,), free.numel(), node.name)
        z = None
        if free.numel():
            z = put(Nonlinear(Increment(free.numel(), node.what.block.label)), (read,), free.numel(), node.name)
            groups = torch.unique(found.groups[free], return_inverse=True)[1]
            layers.append(Layer(z, read, found.low[free], found.high[free], groups, int(groups.max()) + 1))
            if free.numel() < node.size:
                index = torch.full((node.size,), -1, dtype=torch.int64)
                index[free] = torch.arange(free.numel())
                z = put(Linear(Select(index, free.numel())), (z,), node.size, node.name)
        if z is None and linear is None:  # constant on the region
            z = put(Offset(torch.zeros(node.size, dtype=torch.float64)), (), node.size, node.name)
        both = tuple(part for part in (z, linear) if part is not None)
        place.append(both[0] if len(both) == 1 else put(Add(), both, node.size, node.name))
    return NormalForm(Graph(tuple(nodes), place[old.output], place[old.input]), tuple(layers), multipliers)


def _groups(shape: Sequence[int], size: int, multipliers: str) -> Tensor:
    if multipliers == "neuron":
        return torch.arange(size)
    if multipliers == "layer":
        return torch.zeros(size, dtype=torch.int64)
    if len(shape) < 3 or math.prod(shape) != size:  # no feature map: a channel is a neuron
        return torch.arange(size)
    channels = torch.arange(shape[0] * shape[1]).reshape(shape[0], shape[1], 1)
    return channels.expand(shape[0], shape[1], size // (shape[0] * shape[1])).reshape(-1)
