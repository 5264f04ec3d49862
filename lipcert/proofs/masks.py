"""Two linear operators in a row, where the second reads the padding of the first (MATH section 12).

On the torus the first would put something in the place of padded zeros, so its output t = v, cut to its window, is a signal
of its own. Of it t (v - t) >= 0 is kept, an equality inside the window and, with t = 0, outside: the constraint of slopes
in [0, 1]. With one multiplier for each channel that is not above what a cut of the network there would give, the product of
both parts' constants: it is one choice of multipliers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Graph, Node, Nonlinear
from lipcert.proofs.maxima import RELU


class Unmasked(Exception):
    """The node reads the padding of another linear operator."""

    def __init__(self, node: Node):
        super().__init__(node.name)
        self.node = node


@dataclass(frozen=True, eq=False)
class Mask(Pointwise):
    """The identity, of which only slopes in [0, 1] are kept."""

    def __call__(self, u: Tensor) -> Tensor:  # type: ignore[override]
        return u

    def slopes(self, ranges: tuple[Range, ...] | None = None) -> Range:
        low = torch.zeros(self.size, dtype=torch.float64)
        return low, low + 1.0


def masked(graph: Graph, fault: Node) -> Graph:
    """The same function with a mask on what this node reads."""
    at = next(i for i, node in enumerate(graph.nodes) if node is fault)
    (read,) = fault.parents
    source = graph.nodes[read]
    mask = Node(Nonlinear(Mask(RELU, source.size)), (read,), source.size, source.shape, f"{fault.name} (padding)")
    moved = lambda i: i + (i >= at)  # noqa: E731
    nodes = [*graph.nodes[:at], mask]
    for i, node in enumerate(graph.nodes[at:], start=at):
        parents = (at,) if i == at else tuple(moved(p) for p in node.parents)
        nodes.append(Node(node.what, parents, node.size, node.shape, node.name))
    return Graph(tuple(nodes), moved(graph.output), moved(graph.input))


def is_mask(node: Node) -> bool:
    return isinstance(node.what, Nonlinear) and isinstance(node.what.block, Mask)
