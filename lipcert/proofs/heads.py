"""Matrices of a dense layer behind maps. Where it reads sums over the window of each channel, the same for all (a global average
pool), the matrix is a product of a small one and a row of weights, and never formed: of ResNet-50 it would have 10^8 entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.affine import Path
from lipcert.network.graph import Enclosure, Graph, Linear, Offset
from lipcert.operators.linear import Dense

Taps = tuple[
    Tensor, Tensor | None, Tensor | None
]  # (m, channels, T), their radius, and the weights that they are times


@dataclass(frozen=True, eq=False)
class Pooled:
    """`matrix` (m, channels) after sums over windows: entry (i, c T + t) of the whole is matrix[i, c] weights[t]. `weights` (T,) are exact."""

    matrix: Enclosure
    weights: Tensor


def pooling(graph: Graph, source: int, read: int, channels: int) -> tuple[int, Tensor] | None:
    """The node of the sums over the windows of `source`, behind which nothing else of it comes to `read`, and their weights."""
    node, first = read, source
    while node != source:
        what, parents = graph.nodes[node].what, graph.nodes[node].parents
        if not isinstance(what, Linear | Offset) or len(parents) != 1:
            return None
        node, first = parents[0], node
    what = graph.nodes[first].what
    if first == source or not isinstance(what, Linear) or not isinstance(what.operator, Dense):
        return None
    sums = what.operator
    alike = sums.weight.shape[:2] == (1, 1) and sums.outer == channels and sums.inner == 1 and sums.radius is None
    return (first, sums.weight[0, 0].double()) if alike else None


def matrix(graph: Graph, source: int, read: int) -> Enclosure:
    if source == read:
        return Enclosure(torch.eye(graph.nodes[source].size, dtype=torch.float64))
    return Path(graph, source, read).dense()


def taps_of(part: Enclosure | Pooled, channels: int) -> Taps:
    """What a row reads of each channel of a map."""
    whole, window = (part.matrix, part.weights) if isinstance(part, Pooled) else (part, None)
    shape = (whole.centre.shape[0], channels, -1)
    return whole.centre.reshape(shape), None if whole.radius is None else whole.radius.reshape(shape), window
