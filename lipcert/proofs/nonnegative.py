"""The nonnegative network M >= |J(x)|: |W_m| B ... B |W_1| with B the largest absolute slopes, everything rounded up.

The l1, l2 and linf norms grow with the absolute entries, so ||M|| bounds the Lipschitz constant. With linf at the input
the extreme point is the vector of ones (M is monotone): ||M||_{inf->q} = ||M 1||_q, one forward pass; dually
||M||_{p->1} = ||M' 1||_{p*}, one backward pass. l2: Collatz-Wielandt (norms.perron_upper). Trusted by `lipcert verify`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lipcert.blocks.base import Block
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.selection import Selection
from lipcert.blocks.sort import Sort
from lipcert.network.affine import PULL, PUSH, UPWARD
from lipcert.network.graph import Add, Concat, Graph, Linear, Nonlinear, Offset
from lipcert.network.walk import Rules, backward, forward
from lipcert.proofs.chain import Ranges
from lipcert.rigor.matrix_norms import perron_upper
from lipcert.rigor.rounding import gamma, norm_up, up
from lipcert.terms.query import Norm, P

DENSE_SIDE = 1024  # p -> q with neither end point trick needs the matrix itself


def obstacle(graph: Graph, ranges: Ranges, on_region: bool = False) -> tuple[int, bool, str] | None:
    """The first node that has no such operator: (node, whether it is unbounded, reason)."""
    for i in graph.nonlinear:
        block = block_of(graph, i)
        if not isinstance(block, Pointwise | Selection | Sort):
            return i, False, f"{block.label} at {graph.nodes[i].name} is not elementwise"
        if isinstance(block, Pointwise) and not bool(torch.isfinite(largest_slopes(graph, i, ranges, on_region)).all()):
            return i, True, f"{block.label} at {graph.nodes[i].name}: {block.reason}"
    return None


def block_of(graph: Graph, i: int) -> Block:
    what = graph.nodes[i].what
    assert isinstance(what, Nonlinear)
    return what.block


def largest_slopes(graph: Graph, i: int, ranges: Ranges, on_region: bool = False) -> Tensor:
    """Largest absolute slopes (n,) of a pointwise node: global, or on the ranges of the region."""
    block = block_of(graph, i)
    assert isinstance(block, Pointwise)
    if not on_region:
        slopes = block.largest_slopes()
        if bool(torch.isfinite(slopes).all()):
            return slopes
    return block.largest_slopes((ranges()[graph.nodes[i].parents[0]],))


def absolute_norm(graph: Graph, norm: Norm, ranges: Ranges, on_region: bool = False) -> float | None:
    """Proved upper value of ||M||_{p->q} for a graph without `obstacle`; None where it needs too large a matrix."""
    p, q = norm.input, norm.output
    network = NonnegativeNetwork(graph, ranges, on_region, take_largest=p == "inf")
    if network.in_size == 0 or network.out_size == 0:
        return 0.0
    if p == "inf":
        return float(norm_up(network.mv(torch.ones(1, network.in_size, dtype=torch.float64))[0], q))
    if q == "1":
        dual: P = "inf" if p == "1" else "2"
        return float(norm_up(network.rmv(torch.ones(1, network.out_size, dtype=torch.float64))[0], dual))
    if (p, q) == ("2", "2"):
        return perron_upper(lambda x: network.mv(x[None])[0], lambda y: network.rmv(y[None])[0], network.in_size)
    return _extreme(network, p, q)


def _extreme(network: NonnegativeNetwork, p: P, q: P) -> float | None:
    """1 -> q: the largest column q-norm. 2 -> inf: the largest row 2-norm."""
    if min(network.in_size, network.out_size) > DENSE_SIDE:
        return None
    if network.in_size <= network.out_size:
        matrix = network.mv(torch.eye(network.in_size, dtype=torch.float64)).T
    else:
        matrix = network.rmv(torch.eye(network.out_size, dtype=torch.float64))
    return float(norm_up(matrix, q, 0).max()) if p == "1" else float(norm_up(matrix, "2", 1).max())


class NonnegativeNetwork:
    """M of a network of elementwise activations, selections and sorts.

    `take_largest`: only ||M 1|| is asked for (linf at the input), where a maximum is at most the largest entry of its
    window; else a maximum counts the sum of its window. So does every entry of a sorted group.
    """

    def __init__(self, graph: Graph, ranges: Ranges, on_region: bool, take_largest: bool):
        self.graph, self.take_largest = graph, take_largest
        pointwise = (i for i in graph.nonlinear if isinstance(block_of(graph, i), Pointwise))
        self.slopes = {i: largest_slopes(graph, i, ranges, on_region) for i in pointwise}

    @property
    def in_size(self) -> int:
        return self.graph.nodes[self.graph.input].size

    @property
    def out_size(self) -> int:
        return self.graph.nodes[self.graph.output].size

    def mv(self, x: Tensor) -> Tensor:
        """>= M x for x >= 0, (r, in_size) -> (r, out_size)."""
        out = forward(self.graph, FORWARD, self, start={self.graph.input: x}).get(self.graph.output)
        return x.new_zeros(x.shape[0], self.out_size) if out is None else out

    def rmv(self, y: Tensor) -> Tensor:
        """>= M' y for y >= 0, (r, out_size) -> (r, in_size)."""
        found = backward(self.graph, BACKWARD, {self.graph.output: y}, lambda _, terms: UPWARD.total(terms), self)
        return found.get(self.graph.input, y.new_zeros(y.shape[0], self.in_size))

    def block(self, i: int, u: Tensor) -> Tensor:
        if i in self.slopes:
            return _times_up(self.slopes[i], u)
        block: Selection | Sort = block_of(self.graph, i)  # type: ignore[assignment]
        return _windows(block, u, torch.maximum if self.take_largest else lambda a, b: up(a + b))

    def block_adjoint(self, i: int, z: Tensor) -> Tensor:
        if i in self.slopes:
            return _times_up(self.slopes[i], z)
        block: Selection | Sort = block_of(self.graph, i)  # type: ignore[assignment]
        out = z.new_zeros(z.shape[0], self.graph.nodes[self.graph.nodes[i].parents[0]].size)
        for column in block.windows.T:
            kept = column >= 0
            out.index_add_(1, column[kept], z[:, kept])
        overlap = block.n if isinstance(block, Sort) else block.overlap
        return up(out * (1 + 2 * gamma(overlap + 4)))


def _times_up(slope: Tensor, u: Tensor) -> Tensor:
    return torch.where((slope == 0) | (u == 0), 0.0, up(slope * u))


def _windows(block: Selection | Sort, u: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    total: Tensor | None = None
    for column in block.windows.T:
        entry = torch.where(column >= 0, u.index_select(1, column.clamp(min=0)), 0.0)
        total = entry if total is None else join(total, entry)
    assert total is not None
    return total


def _upward(rules: Rules, kind: type) -> Callable[..., Any]:
    """A rule of parts.PUSH or parts.PULL in upward arithmetic; its state is the arithmetic."""
    return lambda at, *us: rules[kind](replace(at, state=UPWARD), *us)


AFFINE = (Linear, Add, Concat, Offset)
FORWARD: Rules = {kind: _upward(PUSH, kind) for kind in AFFINE} | {  # state: NonnegativeNetwork
    Nonlinear: lambda at, u, *others: at.state.block(at.i, u)
}
BACKWARD: Rules = {kind: _upward(PULL, kind) for kind in AFFINE} | {
    Nonlinear: lambda at, here: [at.state.block_adjoint(at.i, here)] + [None] * (len(at.node.parents) - 1)
}
