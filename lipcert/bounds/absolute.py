"""`absolute`: |J| <= |W_m| B ... B |W_1| entry by entry, B the largest absolute slopes; all in nonnegative arithmetic.

The l1, l2 and linf norms grow with the absolute entries, so the norm of the nonnegative operator M on the right is an
upper bound. With linf at the input the extreme point is the vector of ones (M is monotone): ||M||_{inf->q} = ||M 1||_q,
one forward pass; dually ||M||_{p->1} = ||M' 1||_{p*}, one backward pass. l2: Collatz-Wielandt (norms.perron_upper).
Exact for nonnegative weights, never worse than `product` for l1 and linf on elementwise networks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lipcert.blocks import Pointwise, Selection
from lipcert.bound import Bound, Refusal, Result, Side
from lipcert.bounds.problem import Problem
from lipcert.ir import Nonlinear
from lipcert.norms import perron_upper
from lipcert.parts import UPWARD, pull, push
from lipcert.query import P
from lipcert.rounding import gamma, norm_up, up

DENSE_SIDE = 1024  # p -> q with neither end point trick needs the matrix itself


@dataclass(frozen=True)
class Absolute:
    name: ClassVar[str] = "absolute"
    side: ClassVar[Side] = "upper"

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        refusal = self.refuses(problem)
        if refusal is not None:
            return refusal
        value = self._norm(problem, AbsoluteNetwork(problem))
        seconds = time.perf_counter() - start
        if value is None:
            small = f"more than {DENSE_SIDE} inputs and outputs"
            return Refusal(
                self.name, self.side, "refused", f"norm {problem.norm} needs a matrix with {small}", None, seconds
            )
        if not math.isfinite(value):
            return Refusal(self.name, self.side, "refused", "the bound overflows float64", None, seconds)
        return Bound(self.name, self.side, "proved", value, seconds)

    def refuses(self, problem: Problem) -> Refusal | None:
        for i in problem.graph.nonlinear:
            node = problem.graph.nodes[i]
            assert isinstance(node.what, Nonlinear)
            block = node.what.block
            if not isinstance(block, Pointwise | Selection):
                reason = f"{block.label} at node {node.name} is not elementwise"
                return Refusal(self.name, self.side, "refused", reason, node.name)
            if isinstance(block, Pointwise) and not bool(torch.isfinite(_slopes(problem, i)).all()):
                reason = f"{block.label} at node {node.name}: {block.reason}"
                return Refusal(self.name, self.side, "unbounded", reason, node.name)
        return None

    def _norm(self, problem: Problem, network: AbsoluteNetwork) -> float | None:
        p, q = problem.norm.input, problem.norm.output
        if network.in_size == 0 or network.out_size == 0:
            return 0.0
        if p == "inf":
            return float(norm_up(network.mv(torch.ones(1, network.in_size, dtype=torch.float64))[0], q))
        if q == "1":
            dual: P = "inf" if p == "1" else "2"
            return float(norm_up(network.rmv(torch.ones(1, network.out_size, dtype=torch.float64))[0], dual))
        if (p, q) == ("2", "2"):
            return perron_upper(lambda x: network.mv(x[None])[0], lambda y: network.rmv(y[None])[0], network.in_size)
        return self._extreme(network, p, q)

    def _extreme(self, network: AbsoluteNetwork, p: P, q: P) -> float | None:
        """1 -> q: the largest column q-norm. 2 -> inf: the largest row 2-norm."""
        if min(network.in_size, network.out_size) > DENSE_SIDE:
            return None
        if network.in_size <= network.out_size:
            matrix = network.mv(torch.eye(network.in_size, dtype=torch.float64)).T
        else:
            matrix = network.rmv(torch.eye(network.out_size, dtype=torch.float64))
        return float(norm_up(matrix, q, 0).max()) if p == "1" else float(norm_up(matrix, "2", 1).max())


def _slopes(problem: Problem, i: int) -> Tensor:
    """Largest absolute slopes of a pointwise node, global or on the region's ranges."""
    node = problem.graph.nodes[i]
    assert isinstance(node.what, Nonlinear) and isinstance(node.what.block, Pointwise)
    if problem.region is None:
        slopes = node.what.block.largest_slopes()
        if bool(torch.isfinite(slopes).all()):
            return slopes
    return node.what.block.largest_slopes((problem.ranges[node.parents[0]],))


class AbsoluteNetwork:
    """The nonnegative operator M >= |J(x)| of a network of elementwise activations and selections."""

    def __init__(self, problem: Problem):
        self.problem, self.graph = problem, problem.graph
        self.slopes = {
            i: _slopes(problem, i)
            for i in self.graph.nonlinear
            if isinstance(self.graph.nodes[i].what.block, Pointwise)  # type: ignore[union-attr]
        }
        # with linf at the input only ||M 1|| is asked for, and a maximum is at most the largest entry of its window
        self.take_largest = problem.norm.input == "inf"

    @property
    def in_size(self) -> int:
        return self.graph.nodes[self.graph.input].size

    @property
    def out_size(self) -> int:
        return self.graph.nodes[self.graph.output].size

    def mv(self, x: Tensor) -> Tensor:
        """>= M x for x >= 0, (r, in_size) -> (r, out_size)."""
        values: dict[int, Tensor] = {self.graph.input: x}
        for i, node in enumerate(self.graph.nodes):
            if isinstance(node.what, Nonlinear):
                parent = values.get(node.parents[0])
                if parent is not None:
                    values[i] = self._block(i, parent)
            elif i != self.graph.input:
                push(self.graph, [i], values, UPWARD)
        out = values.get(self.graph.output)
        return x.new_zeros(x.shape[0], self.out_size) if out is None else out

    def rmv(self, y: Tensor) -> Tensor:
        """>= M' y for y >= 0, (r, out_size) -> (r, in_size)."""
        waiting: dict[int, list[Tensor]] = {self.graph.output: [y]}
        for i in range(len(self.graph.nodes) - 1, -1, -1):
            if i not in waiting or i == self.graph.input:
                continue
            here = UPWARD.total(waiting.pop(i))
            node = self.graph.nodes[i]
            if isinstance(node.what, Nonlinear):
                pieces = {node.parents[0]: self._block_adjoint(i, here)}
            else:
                pieces = pull(self.graph, [i], {i: here}, UPWARD)
            for parent, piece in pieces.items():
                if parent != i:
                    waiting.setdefault(parent, []).append(piece)
        at_input = waiting.get(self.graph.input)
        return y.new_zeros(y.shape[0], self.in_size) if at_input is None else UPWARD.total(at_input)

    def _block(self, i: int, u: Tensor) -> Tensor:
        if i in self.slopes:
            return _times_up(self.slopes[i], u)
        block: Selection = self.graph.nodes[i].what.block  # type: ignore[union-attr,assignment]
        return _windows(block, u, torch.maximum if self.take_largest else lambda a, b: up(a + b))

    def _block_adjoint(self, i: int, z: Tensor) -> Tensor:
        if i in self.slopes:
            return _times_up(self.slopes[i], z)
        block: Selection = self.graph.nodes[i].what.block  # type: ignore[union-attr,assignment]
        out = z.new_zeros(z.shape[0], block.in_size)
        for column in block.windows.T:
            kept = column >= 0
            out.index_add_(1, column[kept], z[:, kept])
        return up(out * (1 + 2 * gamma(block.overlap + 4)))


def _times_up(slope: Tensor, u: Tensor) -> Tensor:
    return torch.where((slope == 0) | (u == 0), 0.0, up(slope * u))


def _windows(block: Selection, u: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    total: Tensor | None = None
    for column in block.windows.T:
        entry = torch.where(column >= 0, u.index_select(1, column.clamp(min=0)), 0.0)
        total = entry if total is None else join(total, entry)
    assert total is not None
    return total
