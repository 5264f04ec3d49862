"""Maxima, and sorts of two entries, with relu: max(u, w) = w + relu(u - w), min(u, w) = u - relu(u - w)
(MATH section 4).

For LipSDP this says more of a sort of two than its block does: the sum of both entries stays, only the gap is uncertain.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.base import Block
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.selection import Selection
from lipcert.blocks.sort import Sort
from lipcert.network.graph import Add, Graph, Linear, Node, Nonlinear, What
from lipcert.operators.linear import Scale, Select

RELU = Elementwise(ACTIVATIONS["relu"], ())

Put = Callable[[What, tuple[int, ...], int, str], int]  # appends a node: what, parents, size, name


def without_maxima(graph: Graph, kept: Callable[[Block], bool] | None = None, maps: bool = False) -> Graph:
    """The same function with every Selection written as a tournament of maxima of two, and every Sort of two as one gap; but
    for blocks that are `kept`. `maps`: what is as large as the node has its shape (and would share multipliers by it)."""

    def rewritten(node: Node) -> bool:
        return _rewritten(node) and not (kept is not None and kept(node.what.block))  # type: ignore[union-attr]

    if not any(rewritten(node) for node in graph.nodes):
        return graph
    nodes: list[Node] = []
    place: list[int] = []

    def put(what: What, parents: tuple[int, ...], size: int, name: str) -> int:
        nodes.append(Node(what, parents, size, node.shape if maps and size == node.size else (size,), name))
        return len(nodes) - 1

    for node in graph.nodes:
        parents = tuple(place[p] for p in node.parents)
        if not rewritten(node):
            nodes.append(Node(node.what, parents, node.size, node.shape, node.name))
            place.append(len(nodes) - 1)
        elif isinstance(block := node.what.block, Sort):  # type: ignore[union-attr]
            first, second = torch.arange(node.size).reshape(block.outer, 2, block.inner).unbind(1)
            low, high = (second, first) if block.descending else (first, second)
            place.append(compared(put, parents[0], node, low.reshape(-1), high.reshape(-1)))
        else:
            place.append(_tournament(put, parents[0], node, block))  # type: ignore[arg-type]
    return Graph(tuple(nodes), place[graph.output], place[graph.input])


def sorts(graph: Graph) -> int:
    """How many sorts there are among its nonlinearities."""
    return sum(isinstance(node.what, Nonlinear) and isinstance(node.what.block, Sort) for node in graph.nodes)


def _rewritten(node: Node) -> bool:
    block = node.what.block if isinstance(node.what, Nonlinear) else None
    return isinstance(block, Selection) or (isinstance(block, Sort) and block.n == 2)


def compared(put: Put, u: int, node: Node, low: Tensor, high: Tensor) -> int:
    """(u_low, u_high) <- (min, max): with d = relu(u_low - u_high) they are u_low - d and u_high + d. `node`: for its
    size and name. `low`, `high`: entries of u, each at most once."""
    k, name, size = low.numel(), node.name, node.size
    a = put(Linear(Select(low, size)), (u,), k, name)
    b = put(Linear(Select(high, size)), (u,), k, name)
    minus = put(Linear(Scale(-torch.ones(k, dtype=torch.float64))), (b,), k, name)
    gap = put(Add(), (a, minus), k, name)
    d = put(Nonlinear(Pointwise(RELU, k)), (gap,), k, name)
    spread = torch.full((size,), -1)
    spread[low], spread[high] = torch.arange(k), torch.arange(k)
    sign = torch.ones(size, dtype=torch.float64)
    sign[low] = -1.0
    there = put(Linear(Select(spread, k)), (d,), size, name)
    return put(Add(), (u, put(Linear(Scale(sign)), (there,), size, name)), size, name)


def _tournament(put: Put, u: int, node: Node, block: Selection) -> int:
    n, name = node.size, node.name
    minus = Scale(-torch.ones(n, dtype=torch.float64))
    entries = [put(Linear(Select(column, block.in_size)), (u,), n, name) for column in _filled(block.windows)]
    if block.minimum:
        entries = [put(Linear(minus), (e,), n, name) for e in entries]
    while len(entries) > 1:
        pairs = list(zip(entries[::2], entries[1::2], strict=False))
        rest = entries[len(pairs) * 2 :]
        joined = []
        for v, w in pairs:
            difference = put(Add(), (v, put(Linear(minus), (w,), n, name)), n, name)
            positive = put(Nonlinear(Pointwise(RELU, n)), (difference,), n, name)
            joined.append(put(Add(), (w, positive), n, name))
        entries = joined + rest
    return put(Linear(minus), (entries[0],), n, name) if block.minimum else entries[0]


def _filled(windows: Tensor) -> list[Tensor]:
    """Columns of a window table with absent entries replaced by a present one of the same row (a maximum is the same)."""
    present = windows.gather(1, (windows >= 0).int().argmax(dim=1, keepdim=True))
    table = torch.where(windows >= 0, windows, present)
    unique: list[Tensor] = []
    for column in table.T:
        if not any(torch.equal(column, other) for other in unique):
            unique.append(column.contiguous())
    return unique
