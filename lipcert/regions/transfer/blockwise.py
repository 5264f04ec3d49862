"""Matrices on groups of entries: the linearisation of a block that acts token by token, head by head.

z[write[g, c]] = W_g u[read[g, c]] for every group g and each of its copies c: a LayerNorm has one copy per token, the
product of a signal with a constant matrix one per row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.operators.linear import Operator
from lipcert.rigor.rounding import up


@dataclass(frozen=True, eq=False)
class Blockwise(Operator):
    """`weight` (g, m, n); `read` (g, c, n) and `write` (g, c, m) positions, none written twice; `radius` (g, m, n)."""

    weight: Tensor
    read: Tensor
    write: Tensor
    sizes: tuple[int, int]  # of the signals
    radius: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_size", self.sizes[0])
        object.__setattr__(self, "out_size", self.sizes[1])

    def mv(self, x: Tensor) -> Tensor:
        return self._apply(x, self.weight.mT, self.read, self.write, self.out_size)

    def rmv(self, y: Tensor) -> Tensor:
        g, c, n = self.read.shape
        taken = self._apply(y, self.weight, self.write, torch.arange(g * c * n).reshape(g, c, n), g * c * n)
        return y.new_zeros(y.shape[0], self.in_size).index_add_(1, self.read.reshape(-1), taken)

    @staticmethod
    def _apply(x: Tensor, weight: Tensor, read: Tensor, write: Tensor, size: int) -> Tensor:
        g, c, n = read.shape
        r = x.shape[0]
        groups = x[:, read.reshape(-1)].reshape(r, g, c, n).movedim(1, 0).reshape(g, r * c, n)
        image = torch.bmm(groups, weight).reshape(g, r, c, -1).movedim(0, 1).reshape(r, -1)
        out = x.new_zeros(r, size)
        out[:, write.reshape(-1)] = image
        return out

    def absolute(self) -> Blockwise:
        weight = self.weight.abs() if self.radius is None else up(self.weight.abs() + self.radius)
        return Blockwise(weight, self.read, self.write, self.sizes)

    def radius_operator(self) -> Blockwise | None:
        return None if self.radius is None else Blockwise(self.radius, self.read, self.write, self.sizes)

    @property
    def terms(self) -> int:
        return self.weight.shape[2]

    @property
    def terms_adjoint(self) -> int:
        return self.weight.shape[1] * self.read.shape[1]


def along(outer: int, n: int, inner: int) -> Tensor:
    """(outer * inner, n): the positions of each group of a signal seen as (outer, n, inner)."""
    positions = torch.arange(outer * n * inner).reshape(outer, n, inner)
    return positions.movedim(1, 2).reshape(outer * inner, n)
