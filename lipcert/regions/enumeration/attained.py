"""Lower values at points: the Jacobian there, enclosed, as everywhere else where a value is said to be attained."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.forward.directions import directions, norms_below
from lipcert.regions.forward.slope import sweep
from lipcert.terms.query import Norm


def attained(graph: Graph, x: Tensor, norm: Norm, moving: Tensor) -> float:
    """Lower value of ||J(x)|| over the coordinates `moving` (inputs,), x (inputs,)."""
    return float(attained_at(graph, x[None], norm, moving))


def attained_at(graph: Graph, x: Tensor, norm: Norm, moving: Tensor) -> Tensor:
    """(k,) of x (k, inputs)."""
    with torch.no_grad():
        cells = Cells(x, torch.zeros_like(x), "inf", moving[None].expand(len(x), -1))
        chosen = directions(graph, cells, norm)
        swept = sweep(graph, cells, chosen.toward)
        return norms_below(swept.centre, swept.radius, chosen.toward, norm)
