"""Random cells, points in them, quotients and Jacobians taken by torch: what slopes are held against."""

from __future__ import annotations

import itertools
import math

import torch
from helpers import pointwise
from torch import Tensor

from lipcert.network.graph import Graph, Input, Linear, Node, Offset
from lipcert.operators.linear import Dense
from lipcert.regions.cells import Cells
from lipcert.regions.forward.directions import ORDER

NORMS = [("1", "1"), ("2", "2"), ("inf", "inf"), ("1", "2"), ("2", "inf"), ("inf", "2"), ("inf", "1"), ("2", "1")]


def cells_of(graph: Graph, count: int, dice: torch.Generator, norm: str = "inf") -> Cells:
    """Regions of all sizes, some with sides of no width."""
    n = graph.nodes[graph.input].size
    centre = torch.randn(count, n, generator=dice, dtype=torch.float64)
    size = 10 ** (torch.rand(count, 1, generator=dice, dtype=torch.float64) * 3.5 - 3)
    if norm != "inf":
        return Cells(centre, size.expand(-1, n).contiguous(), norm)  # type: ignore[arg-type]
    radius = size * torch.rand(count, n, generator=dice, dtype=torch.float64)
    radius[::5] *= torch.rand(len(radius[::5]), n, generator=dice) < 0.6
    return Cells.boxes(centre - radius, centre + radius)


def points_in(cells: Cells, dice: torch.Generator) -> Tensor:
    t = torch.rand(cells.centre.shape, generator=dice, dtype=torch.float64) * 2 - 1
    if torch.rand((), generator=dice) < 0.3:
        t = t.sign()
    if cells.norm != "inf":
        t = t / torch.linalg.vector_norm(t, ord=ORDER[cells.norm], dim=1, keepdim=True).clamp(min=1.0)
    return cells.centre + cells.radius * t * (1 - 1e-12)


def ratios(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor, p: str, q: str) -> Tensor:
    noise = 1e-11 * (1 + fa.abs().amax(dim=1) + fb.abs().amax(dim=1))
    apart = torch.linalg.vector_norm(a - b, ord=ORDER[p], dim=1)
    gap = torch.linalg.vector_norm(fa - fb, ord=ORDER[q], dim=1) - noise * fa.shape[1]
    return torch.where(apart > 0, gap / apart, 0.0).nan_to_num(0.0, 0.0, 0.0)


def chain(sizes: list[int], name: str, scale: float = 1.5) -> Graph:
    nodes = [Node(Input(), (), sizes[0], (sizes[0],), "x")]
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        weight = torch.randn(1, m, n, dtype=torch.float64) * scale / math.sqrt(n)
        nodes.append(Node(Linear(Dense(weight)), (len(nodes) - 1,), m, (m,), f"a{k}"))
        nodes.append(Node(Offset(torch.randn(m, dtype=torch.float64) * 0.3), (len(nodes) - 1,), m, (m,), f"b{k}"))
        if k + 2 < len(sizes):
            nodes.append(Node(pointwise(name, m), (len(nodes) - 1,), m, (m,), f"z{k}"))
    return Graph(tuple(nodes), len(nodes) - 1)


def jacobians(graph: Graph, x: Tensor) -> Tensor:
    with torch.enable_grad():
        at = x.clone().requires_grad_(True)
        y = graph.evaluate(at)
        return torch.stack([torch.autograd.grad(c.sum(), at, retain_graph=True)[0] for c in y.T], dim=1)
