"""Activations whose slopes have both signs (SiLU, GELU, Mish) as the sum of one that rises and one that falls.

An absolutely continuous s with s' in [a, b], a <= 0 <= b, is r + f with r' = max(s', 0) in [0, b] and f' = min(s', 0) in [a, 0].
For LipSDP nothing is lost: increments of a group lie in balls about a v / 2 and b v / 2 of radii |a| |v| / 2 and b |v| / 2, whose
sum is the ball of s, about (a + b) v / 2 of radius (b - a) |v| / 2 (MATH section 4b).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Add, Graph, Node, Nonlinear


@dataclass(frozen=True, eq=False)
class OneSign(Pointwise):
    """The rising or the falling part of an activation. Only its slopes are known."""

    rises: bool = True

    def __call__(self, u: Tensor) -> Tensor:  # type: ignore[override]
        raise NotImplementedError

    def slopes(self, ranges: tuple[Range, ...] | None = None) -> Range:
        low, high = super().slopes(ranges)
        return (low.clamp(min=0.0), high.clamp(min=0.0)) if self.rises else (low.clamp(max=0.0), high.clamp(max=0.0))


def of_one_sign(graph: Graph, but: Collection[int]) -> Graph:
    """The network with all slopes of one sign, but for nodes `but`."""
    if not any(_both(node) for i, node in enumerate(graph.nodes) if i not in but):
        return graph
    nodes: list[Node] = []
    place: list[int] = []
    for i, node in enumerate(graph.nodes):
        parents = tuple(place[p] for p in node.parents)
        if i in but or not _both(node):
            nodes.append(Node(node.what, parents, node.size, node.shape, node.name))
        else:
            activation = node.what.block.activation  # type: ignore[union-attr]
            for rises in (True, False):
                part = Nonlinear(OneSign(activation, node.size, rises))
                nodes.append(Node(part, parents, node.size, node.shape, node.name))
            nodes.append(Node(Add(), (len(nodes) - 2, len(nodes) - 1), node.size, node.shape, node.name))
        place.append(len(nodes) - 1)
    return Graph(tuple(nodes), place[graph.output], place[graph.input])


def falling(node: Node) -> bool:
    """Whether this is the second part of an activation."""
    return isinstance(node.what, Nonlinear) and isinstance(node.what.block, OneSign) and not node.what.block.rises


def _both(node: Node) -> bool:
    block = node.what.block if isinstance(node.what, Nonlinear) else None
    if not isinstance(block, Pointwise):
        return False
    low, high = block.slopes()
    return bool((low < 0).any() and (high > 0).any())
