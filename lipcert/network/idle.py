"""Neurons that cannot matter, read off the zeros of the coefficients: nothing that moves reaches them, or what they do
reaches no output. Pruned networks are full of them, and LipSDP has no finite best multiplier for them.

Entry i of A u can move only if some A_ij != 0 with u_j moving. The coefficients are replaced by 0 and 1 before anything is
multiplied: matrix products may flush subnormal numbers to zero. Trusted by `lipcert verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lipcert.blocks.pointwise import Pointwise
from lipcert.network.affine import PULL, PUSH, Arithmetic
from lipcert.network.graph import Graph, Input, Nonlinear
from lipcert.network.walk import Rules, Visit, backward, forward
from lipcert.operators.linear import Adjoint, Operator


def pattern(operator: Operator) -> Operator:
    """1 where a coefficient of some member of the enclosure is not zero, else 0."""
    if isinstance(operator, Adjoint):
        return Adjoint(pattern(operator.of))
    absolute = operator.absolute()
    changed: dict[str, Any] = {
        name: (value != 0).double()
        for name, value in vars(absolute).items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return replace(absolute, **changed)


def _largest(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).amax(dim=0)


PATTERN = Arithmetic(  # 0-1 signals (1, n): may this entry differ from zero?
    apply=lambda op, x: (pattern(op).mv(x) != 0).double(),
    total=_largest,
    join=lambda terms: torch.cat(terms, dim=1),
    cut=lambda x, start, stop: x[:, start:stop],
    zeros=lambda like, n: like.new_zeros(1, n),
)


def idle(graph: Graph) -> dict[int, Tensor]:
    """For each pointwise node the neurons (n,) whose increments are zero or without effect on the output."""
    moves = forward(graph, MOVES, PATTERN, keep=True)
    heard: dict[int, Tensor] = {}

    def total(at: Visit, masks: Sequence[Tensor]) -> Tensor:
        heard[at.i] = _largest(masks)
        return heard[at.i]

    end = torch.ones(1, graph.nodes[graph.output].size, dtype=torch.float64)
    backward(graph, HEARD, {graph.output: end}, total, PATTERN)
    found = {}
    for i in graph.nonlinear:
        node = graph.nodes[i]
        if isinstance(node.what, Nonlinear) and isinstance(node.what.block, Pointwise):
            none = torch.zeros(1, node.size, dtype=torch.float64)
            found[i] = ((moves.get(i, none) == 0) | (heard.get(i, none) == 0)).reshape(-1)
    return found


def _moved(at: Visit, *masks: Tensor | None) -> Tensor | None:
    read = [mask for mask in masks if mask is not None]
    if not any(bool(mask.any()) for mask in read):
        return None
    return read[0] if isinstance(at.what.block, Pointwise) else read[0].new_ones(1, at.node.size)


def _listened(at: Visit, here: Tensor) -> list[Tensor | None]:
    if not bool(here.any()):
        return [None] * len(at.node.parents)
    whole = isinstance(at.what.block, Pointwise)
    return [here if whole else here.new_ones(1, at.graph.nodes[parent].size) for parent in at.node.parents]


MOVES: Rules = PUSH | {
    Input: lambda at: torch.ones(1, at.node.size, dtype=torch.float64),
    Nonlinear: _moved,
}
HEARD: Rules = PULL | {Nonlinear: _listened}
