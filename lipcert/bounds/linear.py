"""`linear`: the constant on a region from backward linear bounds and the linear-relaxed adjoint (ranges/relaxed.py).

A convex region has Lipschitz constant sup ||J(x)||_{p->q} over it, J any generalised Jacobian (Clarke 1983, 2.6.5); the
rows of J are gradients of the outputs. For many inputs and deep networks, where interval Jacobians wrap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lipcert.blocks import Range
from lipcert.bound import Bound, Refusal, Result, Side
from lipcert.bounds.jacobian import no_region
from lipcert.bounds.problem import Problem
from lipcert.ir import Graph
from lipcert.ir import Linear as LinearNode
from lipcert.norms import matrix_norms_upper
from lipcert.query import Norm
from lipcert.ranges.adjoint import gradients, obstacle, slopes_on
from lipcert.ranges.backward import linear_ranges
from lipcert.ranges.cells import Cells
from lipcert.ranges.relaxed import at_vertices, gradient_norms
from lipcert.rounding import norm_up

WORK = 1e11  # flops of the rows of J
REFINED = 2e10  # and of bounding intermediate gradients too
DENSE = 2**20  # entries of J


@dataclass(frozen=True)
class Linear:
    """`vertices`: of the neurons whose slope is not settled on the region, that many of the most important are tried at
    both ends of their slope."""

    vertices: int = 6

    name: ClassVar[str] = "linear"
    side: ClassVar[Side] = "upper"

    def refuses(self, problem: Problem) -> Refusal | None:
        if (reason := no_region(problem)) is not None:
            return Refusal(self.name, self.side, "refused", reason)
        graph = problem.graph
        if (blocked := obstacle(graph)) is not None:
            node, reason = blocked
            return Refusal(self.name, self.side, "refused", f"{reason} (node {node})", node)
        if graph.nodes[graph.output].size * 6 * flops(graph) > WORK:
            reason = (
                f"{graph.nodes[graph.output].size} outputs are one row of J each, too many for a network of this size"
            )
            return Refusal(self.name, self.side, "refused", reason)
        return None

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        if (refusal := self.refuses(problem)) is not None:
            return refusal
        graph = problem.graph
        refine = rows_of_gradients(graph) * flops(graph) <= REFINED
        cost = max(1, 6 * graph.nodes[graph.output].size * flops(graph))  # no linear node at all: 0
        vertices = int(math.log2(max(1.0, WORK / cost)))
        value = float(
            linear_on(
                graph, Cells.of(problem.region), problem.norm, refine=refine, vertices=min(self.vertices, vertices)
            )
        )
        seconds = time.perf_counter() - start
        if not math.isfinite(value):
            reason = "no bounded slope is known on this region, or the enclosure overflows"
            return Refusal(self.name, self.side, "refused", reason, None, seconds)
        return Bound(self.name, self.side, "proved", value, seconds)


def flops(graph: Graph) -> int:
    return sum(node.what.operator.flops for node in graph.nodes if isinstance(node.what, LinearNode))


def rows_of_gradients(graph: Graph) -> int:
    """Functionals that refining takes, for all outputs."""
    return 2 * graph.nodes[graph.output].size * sum(graph.nodes[i].size for i in graph.nonlinear[:-2])


def linear_on(graph: Graph, cells: Cells, norm: Norm, *, refine: bool = False, vertices: int = 0) -> Tensor:
    """Proved upper values (b,) of the Lipschitz constant on each cell, inf where none is known. Elementwise activations
    only (adjoint.obstacle). `vertices`: so many neurons whose slope is not settled are tried at both ends."""
    b, m, n = len(cells), graph.nodes[graph.output].size, cells.centre.shape[1]
    if 0 in (b, m, n):
        return cells.centre.new_zeros(b)
    slopes = slopes_on(graph, linear_ranges(graph, cells)[0])
    value = _norms(graph, slopes, norm, cells.moving, refine)
    if vertices and bool((value > 0).any()):
        cornered = at_vertices(graph, slopes, vertices)
        patterns = next(iter(cornered.values()))[0].shape[0] // b if cornered else 1
        if patterns > 1:
            each = _norms(graph, cornered, norm, cells.moving.repeat_interleave(patterns, dim=0), refine)
            value = torch.minimum(value, each.reshape(b, patterns).amax(dim=1))
    return value


def _norms(graph: Graph, slopes: Mapping[int, Range], norm: Norm, moving: Tensor, refine: bool) -> Tensor:
    """Upper values (b,) of ||J||_{p->q} over the slopes."""
    (b, n), m = moving.shape, graph.nodes[graph.output].size
    seeds = torch.eye(m, dtype=torch.float64)[None].expand(b, m, m)
    rows = gradient_norms(graph, seeds, slopes, norm.input, moving, refine)
    value = norm_up(rows, norm.output, 1)  # ||J v||_q <= || (||g_j||_* ||v||_p)_j ||_q
    if norm.output != "inf" and m > 1 and b * m * n <= DENSE:
        J = gradients(graph, seeds, slopes)
        centre, radius = (part.reshape(b, m, n) * moving.to(J.centre)[:, None] for part in (J.centre, J.reach()))
        if bool(torch.isfinite(radius).all()):
            value = torch.minimum(value, matrix_norms_upper(centre, radius, norm.input, norm.output))
    return value.nan_to_num(math.inf, math.inf)
