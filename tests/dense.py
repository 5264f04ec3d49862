"""Random dense networks and their gradients by autograd."""

from __future__ import annotations

import itertools
import math

import torch
from helpers import pointwise
from torch import Tensor

from lipcert.network.graph import Graph, Input, Linear, Node, Offset
from lipcert.operators.linear import Dense

DUAL = {"1": math.inf, "2": 2.0, "inf": 1.0}


def chain(seed: int, sizes: list[int], name: str, scale: float = 1.5) -> Graph:
    dice = torch.Generator().manual_seed(seed)
    nodes = [Node(Input(), (), sizes[0], (sizes[0],), "x")]
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        weight = torch.randn(1, m, n, generator=dice, dtype=torch.float64) * scale / math.sqrt(max(1, n))
        shift = torch.randn(m, generator=dice, dtype=torch.float64) * 0.3
        nodes.append(Node(Linear(Dense(weight)), (len(nodes) - 1,), m, (m,), f"a{k}"))
        nodes.append(Node(Offset(shift), (len(nodes) - 1,), m, (m,), f"b{k}"))
        if k + 2 < len(sizes):
            nodes.append(Node(pointwise(name, m), (len(nodes) - 1,), m, (m,), f"z{k}"))
    return Graph(tuple(nodes), len(nodes) - 1)


def gradients(graph: Graph, x: Tensor) -> Tensor:
    """(r, outputs, n)"""
    with torch.enable_grad():
        at = x.clone().requires_grad_(True)
        y = graph.evaluate(at)
        return torch.stack([torch.autograd.grad(c.sum(), at, retain_graph=True)[0] for c in y.T], dim=1)
