"""Constants from l1, l2 or linf to l1, l2 or linf, from l2 constants of the network between two diagonal matrices.

    linf -> .    x = T x', T = diag(t) > 0:   |x'|_2^2 = sum x_i^2 / t_i^2 <= (sum 1 / t_i^2) |x|_inf^2
    . -> l1      y' = U y, U = diag(u) > 0:   |y|_1 = sum |y'_j| / u_j <= sqrt(sum 1 / u_j^2) |y'|_2
    l1 -> .      the largest of the columns: x = e_i xi, for |.|_1 is the gauge of the points +-e_i
    . -> linf    the largest of the rows

so ||f||_{p->q} <= |1/t|_2 |1/u|_2 ||U f T||_{2->2} for each part. The increments of x obey this with any secant slopes in
between, as in lmi.py, whose inequality is proved for the graph U f T. Trusted by `lipcert verify`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.network.graph import Graph, Input, Linear, Node, What
from lipcert.operators.linear import Operator, Scale, Select
from lipcert.rigor.rounding import norm_up, up
from lipcert.terms.query import Norm

Ends = tuple[int | None, int | None]  # the input entry and the output entry that a part is about, None: all


def parts(graph: Graph, norm: Norm) -> list[Ends]:
    """What has to be bounded; the constant is the largest of their constants."""
    n, m = graph.nodes[graph.input].size, graph.nodes[graph.output].size
    inputs: list[int | None] = list(range(n)) if norm.input == "1" else [None]
    outputs: list[int | None] = list(range(m)) if norm.output == "inf" else [None]
    return [(i, j) for i in inputs for j in outputs]


def between(graph: Graph, ends: Ends, t: Tensor | None, u: Tensor | None) -> Graph:
    """U f T, or of one input entry, or one output entry."""
    column, row = ends
    n, m = graph.nodes[graph.input].size, graph.nodes[graph.output].size
    nodes: list[Node] = []

    def put(what: What, parents: tuple[int, ...], size: int, name: str) -> int:
        nodes.append(Node(what, parents, size, (size,), name))
        return len(nodes) - 1

    name = graph.nodes[graph.input].name
    before = _at_input(n, column, t)
    start = put(Input(), (), n if before is None else before.in_size, name)
    first = start if before is None else put(Linear(before), (start,), n, name)
    place: list[int] = []
    for i, node in enumerate(graph.nodes):
        if i == graph.input:
            place.append(first)
            continue
        nodes.append(Node(node.what, tuple(place[p] for p in node.parents), node.size, node.shape, node.name))
        place.append(len(nodes) - 1)
    output = place[graph.output]
    after = _at_output(m, row, u)
    if after is not None:
        output = put(Linear(after), (output,), after.out_size, graph.nodes[graph.output].name)
    return Graph(tuple(nodes), output, start)


def _at_input(n: int, column: int | None, t: Tensor | None) -> Operator | None:
    if column is not None:
        index = torch.full((n,), -1, dtype=torch.int64)
        index[column] = 0
        return Select(index, 1)
    return None if t is None else Scale(t)


def _at_output(m: int, row: int | None, u: Tensor | None) -> Operator | None:
    if row is not None:
        return Select(torch.tensor([row]), m)
    return None if u is None else Scale(u)


def lost(weights: Tensor | None) -> float:
    """|1 / w|_2, rounded up: 1 without weights."""
    return 1.0 if weights is None else float(norm_up(up(1.0 / weights), "2"))
