"""Graphs around the network: input units in front, the output functional behind."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from lipcert.network.graph import Graph, Linear, Node, Offset
from lipcert.operators.linear import Dense, Scale, Select
from lipcert.rigor import constants
from lipcert.rigor.constants import Constant
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Output


def normalised(graph: Graph, mean: Sequence[float] | None, std: Sequence[float] | None) -> Graph:
    """f((x - mean) / std): the same network in raw input units. One value, or one per channel or entry."""
    if mean is None and std is None:
        return graph
    shape = graph.input_shape
    shift = _spread("--mean", mean or (0.0,), shape)
    spread = _spread("--std", std or (1.0,), shape)
    if not bool(torch.isfinite(shift).all()):
        raise UsageError(f"--mean {mean}: means are finite")
    if not bool((torch.isfinite(spread) & (spread > 0)).all()):
        raise UsageError(f"--std {std}: standard deviations are positive and finite")
    factor = constants.reciprocal(Constant(spread))
    old = graph.nodes[0]
    front = [
        Node(old.what, (), old.size, old.shape, old.name),
        Node(Offset(-shift), (0,), old.size, old.shape, "--mean"),
        Node(Linear(Scale(factor.centre, factor.radius)), (1,), old.size, old.shape, "--std"),
    ]
    rest = [Node(n.what, tuple(p + 2 for p in n.parents), n.size, n.shape, n.name) for n in graph.nodes[1:]]
    return Graph((*front, *rest), graph.output + 2)


def _spread(flag: str, values: Sequence[float], shape: Sequence[int]) -> Tensor:
    """(input_size,) from one value, one per channel (axis 1, or the last axis where only that fits), or one per entry."""
    given = torch.tensor(list(values), dtype=torch.float64)
    size = torch.Size(shape).numel()
    count = given.numel()
    if count == 1:
        return given.expand(size).clone()
    if count == size:
        return given
    axes = [axis for axis in range(len(shape)) if shape[axis] == count]
    for axis in (1, len(shape) - 1):
        if axis in axes:
            view = [1] * len(shape)
            view[axis] = count
            return given.reshape(view).expand(tuple(shape)).reshape(-1).clone()
    raise UsageError(
        f"{flag}: {count} values do not fit an input of shape {tuple(shape)}; give 1, one per channel, or {size}"
    )


def with_output(graph: Graph, output: Output) -> Graph:
    """The graph of one logit, or of a difference of two."""
    if output.kind == "vector" or output.many:
        return graph
    size = graph.nodes[graph.output].size
    for index in (output.i, output.j):
        if index is not None and index >= size:
            raise UsageError(f"--output {output}: the model has {size} outputs, counted from 0")
    assert output.i is not None
    if output.kind == "logit":
        operator: Select | Dense = Select(torch.tensor([output.i]), size)
    else:
        operator = Dense(row_of(output, size).reshape(1, 1, size))
    node = Node(Linear(operator), (graph.output,), 1, (1,), f"--output {output}")
    return graph.then(node)


def row_of(output: Output, size: int) -> Tensor:
    """(size,): the functional of one logit, or of a difference of two."""
    row = torch.zeros(size, dtype=torch.float64)
    row[output.i] = 1.0
    if output.j is not None:
        row[output.j] = -1.0
    return row


def functionals(graph: Graph, output: Output) -> list[Output]:
    """Every difference of two logits (`pairs`), or every logit (`each`)."""
    places = range(graph.nodes[graph.output].size)
    if output.kind == "each":
        return [Output("logit", i) for i in places]
    return [Output("pair", i, j) for i, j in combinations(places, 2)]
