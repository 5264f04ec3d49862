"""`product`: the constant of every signal with respect to the input, in topological order. Any graph, any norms.

An affine part multiplies by a proved norm of its operator as a whole (sum over the signals that it reads), an
elementwise activation by its largest slope, a block by its l_p constant; concatenations take sqrt(sum) (l2), sum (l1),
max (linf). Source: the chain rule; Szegedy et al. 2014, section 4.3, for feed-forward nets.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from lipcert.bound import Bound, Refusal, Result, Side
from lipcert.bounds.problem import Problem
from lipcert.ir import Graph, Nonlinear
from lipcert.parts import Constants, Path, embed, linear_ancestors, node_constants, times, total
from lipcert.query import P

JOINT_SOURCES = 8  # parts that read more signals than this keep the node-by-node bound


class Infinite(Exception):
    """No finite constant at this node."""

    def __init__(self, node: int, reason: str):
        super().__init__(reason)
        self.node, self.reason = node, reason


@dataclass(frozen=True)
class Product:
    name: ClassVar[str] = "product"
    side: ClassVar[Side] = "upper"

    def refuses(self, problem: Problem) -> Refusal | None:
        """The first nonlinearity without a finite constant, found without computing a norm."""
        for i in problem.graph.nonlinear:
            try:
                block_slopes(problem, i, problem.norm.output)
            except Infinite as found:
                return Refusal(self.name, self.side, "unbounded", found.reason, problem.graph.nodes[i].name)
        return None

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        graph = problem.graph
        try:
            constants = signal_constants(problem)
        except Infinite as found:
            node = graph.nodes[found.node]
            return Refusal(self.name, self.side, "unbounded", f"{found.reason}", node.name, time.perf_counter() - start)
        value = constants[graph.output][problem.norm.output]
        seconds = time.perf_counter() - start
        if not math.isfinite(value):
            return Refusal(self.name, self.side, "refused", "the bound overflows float64", None, seconds)
        return Bound(self.name, self.side, "proved", value, seconds)


def signal_constants(problem: Problem) -> dict[int, Constants]:
    """||change of node||_r <= c_r ||change of input||_p for every source, target and the output. Raises Infinite."""
    graph, p, q = problem.graph, problem.norm.input, problem.norm.output
    size = graph.nodes[graph.input].size
    known: dict[int, Constants] = {graph.input: {r: embed(p, r, size) for r in (p, q)}}
    order = [*graph.nonlinear, graph.output]
    for done, i in enumerate(order):
        problem.check_time()
        problem.say("product", done, len(order))
        node = graph.nodes[i]
        if isinstance(node.what, Nonlinear):
            for parent in node.parents:
                known.setdefault(parent, affine_constants(graph, parent, known))
            known[i] = {r: _through_block(problem, i, known, r) for r in (p, q)}
        elif i not in known:
            known[i] = affine_constants(graph, i, known)
    return known


def affine_constants(graph: Graph, target: int, known: dict[int, Constants]) -> Constants:
    """Constants of an affine signal from those of its sources: node by node, and part by part; the least of both."""
    sources, nodes = linear_ancestors(graph, target)
    seeds = {source: known[source] for source in sources}
    if not seeds:  # a constant signal
        return {r: 0.0 for r in known[graph.input]}
    constants = node_constants(graph, nodes, seeds, graph.memo)[target]
    if len(sources) > JOINT_SOURCES or not nodes:
        return constants
    joint: Constants = {}
    for r in constants:
        joint[r] = total(
            min(times(Path(graph, source, target).norm_upper(s, r), c) for s, c in known[source].items())
            for source in sources
        )
    return {r: min(constants[r], joint[r]) for r in constants}


def block_slopes(problem: Problem, i: int, r: P, moving: tuple[bool, ...] | None = None) -> tuple[float, ...]:
    """l_r constants of block i in each parent: global ones where finite, else on the interval ranges. Raises Infinite.
    A parent that never moves (`moving` false) needs no constant."""
    node = problem.graph.nodes[i]
    assert isinstance(node.what, Nonlinear)
    block = node.what.block
    moving = moving or (True,) * len(node.parents)
    slopes = block.lipschitz(r) if problem.region is None else (math.inf,) * len(node.parents)
    if any(slope == math.inf and moves for slope, moves in zip(slopes, moving, strict=True)):
        slopes = block.lipschitz(r, tuple(problem.ranges[parent] for parent in node.parents))
    for slope, moves in zip(slopes, moving, strict=True):
        if not math.isfinite(slope) and moves:
            raise Infinite(i, f"{block.label} at node {node.name}: {block.reason}")
    return slopes


def _through_block(problem: Problem, i: int, known: dict[int, Constants], r: P) -> float:
    parents = [known[parent][r] for parent in problem.graph.nodes[i].parents]
    slopes = block_slopes(problem, i, r, tuple(c > 0 for c in parents))
    return total(times(slope, c) for slope, c in zip(slopes, parents, strict=True))
