"""`seqlip`: an estimate of the l2 constant of a feed-forward network (Virmaux & Scaman 2018, section 5). Never a bound.

With W_i = U_i S_i V_i' the constant is at most the product over the hidden layers of

    max over slopes d in [a, b]^n of || S_{i+1}^(1/2) V_{i+1}' diag(d) U_i S_i^(1/2) ||    (whole powers at both ends)

but a maximum over 2^n vertices is not computed: the ascent below stops at a local one, so the value may lie on either
side of the constant.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lipcert.blocks.pointwise import Pointwise
from lipcert.methods.problem import L2, Cost, Method, Problem, RangesOf
from lipcert.network.affine import Path, linear_ancestors
from lipcert.network.graph import Graph, Nonlinear
from lipcert.proofs.chain import Infinite
from lipcert.proofs.segments import slopes
from lipcert.terms.result import Bound, Refusal, Result, Side

ENTRIES = 2**25  # of one weight matrix


@dataclass(frozen=True)
class Seqlip(Method):
    """`starts`: singular directions from which each factor is climbed."""

    starts: int = 8

    name: ClassVar[str] = "seqlip"
    side: ClassVar[Side] = "estimate"
    norms = L2
    cost = Cost.SWEEPS
    on_request = True

    def refuses(self, problem: Problem) -> Refusal | None:
        if (problem.norm.input, problem.norm.output) != ("2", "2"):
            return self._refusal(f"SeqLip estimates the l2 constant, not {problem.norm}")
        graph = problem.graph
        before = graph.input
        ends = [(i, graph.nodes[i].parents[0]) for i in graph.nonlinear]
        for i, read in [*ends, (graph.output, graph.output)]:
            what = graph.nodes[i].what
            if isinstance(what, Nonlinear) and i != read and not isinstance(what.block, Pointwise):
                return self._refusal(f"{what.block.label} is not elementwise", graph.nodes[i].name)
            if linear_ancestors(graph, read)[0] != (before,):
                return self._refusal("the network is not feed-forward here", graph.nodes[i].name)
            if graph.nodes[before].size * graph.nodes[read].size > ENTRIES:
                return self._refusal(f"a matrix of more than {ENTRIES} entries", graph.nodes[i].name)
            before = i
        return None

    def run(self, problem: Problem) -> Result:
        begin = time.perf_counter()
        refusal = self.refuses(problem)
        if refusal is not None:
            return refusal
        graph = problem.graph
        ranges = RangesOf(problem)
        try:
            hidden = [slopes(graph, i, ranges, problem.region is not None) for i in graph.nonlinear]
        except Infinite as found:
            return Refusal(self.name, self.side, "refused", found.reason, graph.nodes[found.node].name)
        weights = _weights(graph)
        value = 1.0 if hidden else _norm(weights[0])
        right: Tensor | None = None
        for k, (low, high) in enumerate(hidden):
            problem.check_time()
            if right is None:
                right = weights[k]  # any U S V' has the norms of U S
            U, S, V = torch.linalg.svd(weights[k + 1], full_matrices=False)
            last = k + 1 == len(hidden)
            left = (S if last else S.sqrt())[:, None] * V
            value *= climb(left, low, high, right, self.starts)
            right = U * S.sqrt()
        seconds = time.perf_counter() - begin
        if not math.isfinite(value):
            return self._refusal("the estimate overflows float64")
        return Bound(self.name, self.side, "numeric", value, seconds)

    def _refusal(self, reason: str, node: str | None = None) -> Refusal:
        return Refusal(self.name, self.side, "refused", reason, node)


def _weights(graph: Graph) -> list[Tensor]:
    sources = (graph.input, *graph.nonlinear)
    reads = (*(graph.nodes[i].parents[0] for i in graph.nonlinear), graph.output)
    return [
        torch.eye(graph.nodes[s].size, dtype=torch.float64) if s == t else Path(graph, s, t).dense().centre
        for s, t in zip(sources, reads, strict=True)
    ]


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2)) if matrix.numel() else 0.0


def climb(left: Tensor, low: Tensor, high: Tensor, right: Tensor, starts: int) -> float:
    """A local maximum of ||left diag(d) right||_2 over low <= d <= high. left (r, n), right (n, s).

    For the leading singular pair (u, v) of one d, u' left diag(d) right v is largest at a vertex, which is the next d:
    the norm never falls.
    """
    if 0 in (*left.shape, *right.shape):
        return 0.0
    U, _, V = torch.linalg.svd(left @ ((low + high) / 2)[:, None].mul(right), full_matrices=False)
    best = 0.0
    for k in range(min(starts, V.shape[0])):
        u, v, value = U[:, k], V[k], -1.0
        for _ in range(200):
            d = torch.where((u @ left) * (right @ v) >= 0, high, low)
            vectors, sizes, rows = torch.linalg.svd(left @ (d[:, None] * right), full_matrices=False)
            if not float(sizes[0]) > value * (1 + 1e-12):
                break
            value, u, v = float(sizes[0]), vectors[:, 0], rows[0]
        best = max(best, value)
    return best
