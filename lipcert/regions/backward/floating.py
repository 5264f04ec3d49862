"""Backward linear bounds in float32, with gradients: what proposes slopes and prices. Nothing here is a bound of anything.

The same walk as `linear.py`, without its rounding terms: there the proposal is carried again, and what it gives is proved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.network.affine import PLAIN, split
from lipcert.network.graph import Add, Concat, Graph, Linear, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, backward
from lipcert.operators.linear import Adjoint
from lipcert.regions.backward.lines import Lines
from lipcert.regions.cells import Cells
from lipcert.terms.query import P

FAST = torch.float32


@dataclass(eq=False)
class Walking:
    """`lines` by node and `prices` by signal, (r, size); `beta` (r,) so far; `rows`: the coefficients that met each node."""

    lines: Mapping[int, Lines]
    prices: Mapping[int, Tensor]
    beta: Tensor
    rows: dict[int, Tensor] = field(default_factory=dict)


def fast(graph: Graph) -> Graph:
    """The graph in float32, kept."""
    key = ("fast", graph.output)
    if key not in graph.memo:
        graph.memo[key] = graph.to("cpu", FAST)
    return graph.memo[key]


@dataclass(frozen=True, eq=False)
class Moving:
    """Centres and radii (r, n) in float32."""

    centre: Tensor
    radius: Tensor
    norm: P

    @classmethod
    def of(cls, cells: Cells) -> Moving:
        return cls(cells.centre.to(FAST), cells.radius.to(FAST), cells.norm)

    def most(self, row: Tensor) -> Tensor:
        """(r,): max of row'x."""
        match self.norm:
            case "inf":
                away = (row.abs() * self.radius).sum(dim=1)
            case "2":
                away = torch.linalg.vector_norm(row * self.radius, dim=1)
            case "1":
                away = (row.abs() * self.radius).amax(dim=1) if row.shape[1] else row.sum(dim=1)
        return (row * self.centre).sum(dim=1) + away

    def where(self, row: Tensor) -> Tensor:
        """(r, n): a point at which `most` is attained."""
        match self.norm:
            case "inf":
                step = row.sign()
            case "2":
                scaled = row * self.radius
                step = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp(min=torch.finfo(FAST).tiny)
            case "1":
                most = (row.abs() * self.radius).argmax(dim=1, keepdim=True) if row.shape[1] else None
                step = row * 0 if most is None else torch.zeros_like(row).scatter(1, most, row.gather(1, most).sign())
        return self.centre + step * self.radius


def carried(graph: Graph, target: int, seeds: Tensor, ball: Moving, state: Walking) -> Tensor:
    """About the largest values (r,) of seeds'z of node `target`, seeds (r, size), each on its own ball. `graph`: of `fast`."""
    found = backward(graph, FLOATING, {target: seeds}, _arrived, state)
    row = found.get(graph.input)
    if row is None:
        state.rows[graph.input] = torch.zeros_like(ball.centre)
        return state.beta
    return state.beta + ball.most(row)


def _arrived(at: Visit, parts: Sequence[Tensor]) -> Tensor:
    row = parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(dim=0)
    price = at.state.prices.get(at.i)
    row = row if price is None else row + price
    at.state.rows[at.i] = row.detach()
    return row


def _offset(at: Visit, row: Tensor) -> list[Tensor]:
    at.state.beta = at.state.beta + row @ at.what.value
    return [row] * len(at.node.parents)


def _nonlinear(at: Visit, row: Tensor) -> list[Tensor]:
    lines = at.state.lines[at.i]
    rising, falling = row.clamp(min=0.0), row.clamp(max=0.0)
    at.state.beta = at.state.beta + (rising * lines.high).sum(dim=1) + (falling * lines.low).sum(dim=1)
    return [rising * lines.high_slope + falling * lines.low_slope]


FLOATING: Rules = {  # state: Walking
    Linear: lambda at, row: [Adjoint(at.what.operator).mv(row)],
    Add: lambda at, row: [row] * len(at.node.parents),
    Concat: lambda at, row: [PLAIN.cut(row, a, b) for a, b in split(at)],
    Offset: _offset,
    Nonlinear: _nonlinear,
}
