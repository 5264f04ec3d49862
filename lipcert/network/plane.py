"""A network restricted to a 2-D plane of its inputs: two coordinates move, or the plane through three points.

f o (affine map), so every method for few inputs applies. The constants are those of f along the plane, never of f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipcert.network.graph import Graph, Linear, Node, Offset
from lipcert.operators.linear import Dense, Select
from lipcert.rigor.rounding import gamma
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm


@dataclass(frozen=True, eq=False)
class Plane:
    """x = origin + u first + v second. `stretch`: ||u first + v second|| is within these factors of ||(u, v)||."""

    graph: Graph
    origin: Tensor  # (n,)
    basis: Tensor  # (2, n)
    stretch: tuple[float, float]
    words: dict[str, Any]

    def coordinates(self, x: Tensor) -> Tensor:
        """(k, 2) of the nearest points of the plane, floating."""
        return torch.linalg.lstsq(self.basis.T, (x - self.origin).T).solution.T

    def points(self, uv: Tensor) -> Tensor:
        return self.origin + uv @ self.basis


def through_coordinates(graph: Graph, i: int, j: int, x: Tensor) -> Plane:
    """Coordinates i and j move, the others stay as in x (n,). Exact, in every norm."""
    n = x.numel()
    if i == j or not (0 <= i < n and 0 <= j < n):
        raise UsageError(f"--plane {i},{j}: two different inputs, counted from 0 to {n - 1}")
    index = torch.full((n,), -1)
    index[i], index[j] = 0, 1
    origin = x.clone()
    origin[[i, j]] = 0.0
    front = Node(Linear(Select(index, 2)), (0,), n, graph.input_shape, "--plane")
    basis = torch.zeros(2, n, dtype=torch.float64)
    basis[0, i] = basis[1, j] = 1.0
    words = {"coordinates": [i, j], "through": origin.tolist()}
    return Plane(_composed(graph, front, origin), origin, basis, (1.0, 1.0), words)


def through_points(graph: Graph, x: Tensor, norm: Norm) -> Plane:
    """The plane through the three rows of x (3, n); u runs from the first to the second. For l2 inputs: distances in
    the plane are then those of (u, v), up to the rounding of the basis, which is in `stretch`."""
    if norm.input != "2":
        raise UsageError("--through: planes through three points are for l2 inputs: give --norm 2 or --norm-in 2")
    first, second = x[1] - x[0], x[2] - x[0]
    first = first / torch.linalg.vector_norm(first).clamp(min=1e-300)
    second = second - (second @ first) * first
    if float(torch.linalg.vector_norm(second)) <= 1e-9 * float(torch.linalg.vector_norm(x[2] - x[0])):
        raise UsageError("--through: the three points lie on one line")
    second = second / torch.linalg.vector_norm(second)
    second = second - (second @ first) * first
    basis = torch.stack([first, second / torch.linalg.vector_norm(second)])
    n = x.shape[1]
    # ||B'B - I|| <= the sum of its entries, with their rounding
    gap = (basis @ basis.T - torch.eye(2, dtype=torch.float64)).abs() + 2 * gamma(n + 2) * basis.abs() @ basis.abs().T
    off = float(gap.sum()) * 1.01
    front = Node(Linear(Dense(basis.T[None].contiguous())), (0,), n, graph.input_shape, "--plane")
    words = {"origin": x[0].tolist(), "basis": basis.tolist(), "points": x.tolist()}
    return Plane(_composed(graph, front, x[0]), x[0], basis, (1 - off, 1 + off), words)


def _composed(graph: Graph, front: Node, origin: Tensor) -> Graph:
    """The old input, which nothing precedes, becomes origin + front(u, v)."""
    old = graph.nodes[graph.input]
    assert graph.input == 0
    start = [
        Node(old.what, (), 2, (1, 2), old.name),
        front,
        Node(Offset(origin), (1,), old.size, old.shape, "--through"),
    ]
    rest = [Node(n.what, tuple(p + 2 for p in n.parents), n.size, n.shape, n.name) for n in graph.nodes[1:]]
    return Graph((*start, *rest), graph.output + 2)


def parse_plane(text: str) -> tuple[int, int]:
    parts: Sequence[str] = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--plane {text}: write two input numbers such as 3,17")
    return int(parts[0]), int(parts[1])
