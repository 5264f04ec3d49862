"""Neurons that cannot matter, read off the zeros of the coefficients: nothing that moves reaches them, or what they do
reaches no output. Pruned networks are full of them, and LipSDP has no finite best multiplier for them.

Entry i of A u can move only if some A_ij != 0 with u_j moving. The coefficients are replaced by 0 and 1 before anything is
multiplied: matrix products may flush subnormal numbers to zero. Trusted by `lipcert verify`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lipcert.blocks import Pointwise
from lipcert.ir import Graph, Input, Nonlinear
from lipcert.linops import Adjoint, Operator
from lipcert.parts import Arithmetic, pull, push


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


def _largest(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).amax(dim=0)


PATTERN = Arithmetic(  # 0-1 signals (1, n): may this entry differ from zero?
    apply=lambda op, x: (pattern(op).mv(x) != 0).double(),
    total=_largest,
    join=lambda terms: torch.cat(terms, dim=1),
    cut=lambda x, start, stop: x[:, start:stop],
    zeros=lambda like, n: like.new_zeros(1, n),
)


def idle(graph: Graph) -> dict[int, Tensor]:
    """For each pointwise node the neurons (n,) whose increments are zero or without effect on the output."""
    moves: dict[int, Tensor] = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node.what, Input):
            moves[i] = torch.ones(1, node.size, dtype=torch.float64)
        elif isinstance(node.what, Nonlinear):
            read = [moves[parent] for parent in node.parents if parent in moves]
            if not any(bool(mask.any()) for mask in read):
                continue
            moves[i] = read[0] if isinstance(node.what.block, Pointwise) else read[0].new_ones(1, node.size)
        else:
            push(graph, [i], moves, PATTERN)
    heard: dict[int, Tensor] = {graph.output: torch.ones(1, graph.nodes[graph.output].size, dtype=torch.float64)}
    for i in range(len(graph.nodes) - 1, -1, -1):
        if i not in heard:
            continue
        node, here = graph.nodes[i], heard[i]
        if isinstance(node.what, Nonlinear):
            through = {
                parent: here if isinstance(node.what.block, Pointwise) else here.new_ones(1, graph.nodes[parent].size)
                for parent in (node.parents if bool(here.any()) else ())
            }
        elif isinstance(node.what, Input):
            continue
        else:
            through = {k: mask for k, mask in pull(graph, [i], {i: here}, PATTERN).items() if k != i}
        for parent, mask in through.items():
            heard[parent] = _largest([heard[parent], mask]) if parent in heard else mask
    found = {}
    for i in graph.nonlinear:
        node = graph.nodes[i]
        if isinstance(node.what, Nonlinear) and isinstance(node.what.block, Pointwise):
            none = torch.zeros(1, node.size, dtype=torch.float64)
            found[i] = ((moves.get(i, none) == 0) | (heard.get(i, none) == 0)).reshape(-1)
    return found
