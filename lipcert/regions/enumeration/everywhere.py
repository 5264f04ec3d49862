"""The constant of a piecewise linear network on the whole space, exactly, by a projective change of variables.

With hinges l min(v, 0) + r max(v, 0) alone, F(y, s) = s f(y / s) is the same network with every bias b replaced by b s: its
hinges are positively homogeneous. For s > 0 the Jacobian of f at x = y / s is that of F in y. Outside of the cube
|x_i| <= c, s = c / |x|_inf < 1 and |s x|_inf = c, so (y, s) lies in one of the 2 n boxes

    c / 2 <= +-y_i <= c,   |y_j| <= c for the others,   0 <= s <= 1,

one for each side of the cube; unbounded regions are ordinary cells there. Any c > 0 is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Add, Graph, Input, Linear, Node, Offset
from lipcert.operators.linear import Dense, Select
from lipcert.regions.enumeration.attained import attained
from lipcert.regions.enumeration.constant import MARGIN, Bracket, check_inputs
from lipcert.regions.enumeration.hinges import hinged
from lipcert.regions.enumeration.program import Program, program
from lipcert.regions.enumeration.tree import Tree
from lipcert.terms.query import Norm

NEARLY = (1e-4, 1e-7, 1e-10)  # values of s for points at infinity

Tell = Callable[[float, float], None]


def homogeneous(graph: Graph) -> Graph:
    """(y, s) -> s f(y / s), s > 0, as a graph of hinges with no offsets."""
    old = hinged(graph)
    n = old.nodes[old.input].size
    nodes = [
        Node(Input(), (), n + 1, (1, n + 1), "(y, s)"),
        Node(Linear(Select(torch.arange(n), n + 1)), (0,), n, (1, n), "y"),
        Node(Linear(Select(torch.tensor([n]), n + 1)), (0,), 1, (1,), "s"),
    ]
    place: list[int] = []
    for i, node in enumerate(old.nodes):
        parents = tuple(place[p] for p in node.parents)
        if i == old.input:
            place.append(1)
            continue
        if isinstance(node.what, Offset):
            value, slack = (None if t is None else t.reshape(1, -1, 1) for t in (node.what.value, node.what.radius))
            assert value is not None
            nodes.append(Node(Linear(Dense(value, radius=slack)), (2,), node.size, node.shape, node.name))
            if parents:
                nodes.append(Node(Add(), (*parents, len(nodes) - 1), node.size, node.shape, node.name))
        else:
            nodes.append(Node(node.what, parents, node.size, node.shape, node.name))
        place.append(len(nodes) - 1)
    return Graph(tuple(nodes), place[old.output])


def everywhere(graph: Graph, norm: Norm, rtol: float, deadline: float | None, *, report: Tell | None = None) -> Bracket:
    """The bracket of sup ||J||_{p->q} over the whole space, closed to `rtol` unless the deadline comes first.

    Raises RefusedModel as `program` does, and where there are too many inputs."""
    check_inputs(graph)
    n = graph.nodes[graph.input].size
    upper, best, lower, point = 0.0, 0.0, 0.0, torch.zeros(n, dtype=torch.float64)
    counts = np.zeros(5, dtype=np.int64)
    for part, made in enumerate(_parts(graph)):
        ends = None if deadline is None else _share(deadline, 2 if part == 0 else 2 * n + 1 - part)
        tree = Tree(
            made, [0, made.layers[-1].size], norm, MARGIN * rtol, threads=torch.get_num_threads(), still=part > 0
        )
        tree.found.best = np.maximum(tree.found.best, best)
        found = tree.run(ends)
        upper, best = max(upper, float(found.upper[0])), max(best, float(found.best[0]))
        counts += np.array([found.cells, found.leaves, found.open, found.stuck, found.cramped])
        for at in _in_space(made.point(found.witness)[0], n):
            value = attained(graph, at, norm, torch.ones(n, dtype=torch.bool))
            if value > lower:
                lower, point = value, at
        if report is not None:
            report(max(upper, best), lower)
    return Bracket(upper, lower, point, upper <= lower * (1 + rtol), *counts.tolist())


def _parts(graph: Graph) -> Iterator[Program]:
    """The cube, and the boxes around it."""
    n = graph.nodes[graph.input].size
    zero, one = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    c = _size(program(graph, zero, one))
    yield program(graph, zero, c * one)
    around = homogeneous(graph)
    for i in range(n):
        for side in (1.0, -1.0):
            centre, radius = torch.zeros(n + 1, dtype=torch.float64), torch.full((n + 1,), c, dtype=torch.float64)
            centre[i], radius[i] = 0.75 * side * c, 0.25 * c
            centre[n] = radius[n] = 0.5
            yield program(around, centre, radius)


def _size(made: Program) -> float:
    """A power of two about as large as where the first hinges are."""
    first = made.layers[0]
    slopes = np.zeros(first.size)
    for source, matrix, _ in first.blocks:
        slopes += np.abs(matrix).sum(axis=1) if source < 0 else 0.0
    some = (slopes > 0) & (first.bias != 0)
    far = float(np.median(np.abs(first.bias[some]) / (slopes[some] / made.scale.max()))) if some.any() else 1.0
    return float(2.0 ** np.clip(np.round(np.log2(8.0 * far)), -20, 20))


def _share(deadline: float, parts: int) -> float:
    """Until when one of the parts that are left may run."""
    now = time.monotonic()
    return now + (deadline - now) / parts


def _in_space(at: Tensor, n: int) -> list[Tensor]:
    """x of (x), or y / s of (y, s); at infinity, s = 0, points on the way there."""
    if len(at) == n:
        return [at]
    return [at[:n] / s for s in ([float(at[n])] if at[n] > 0 else NEARLY)]
