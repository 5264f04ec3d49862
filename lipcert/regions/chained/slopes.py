"""The constants of blocks near a centre: where each signal is known by its centre, a box, and a length.

A rule gives, for one norm r, a constant k_j in each parent with ||dphi||_r <= sum_j k_j ||du_j||_r wherever u - a stays within
the box and |u - a|_2 <= length. Blocks without a rule have their constants on the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import Block, Range
from lipcert.blocks.normalise import Normalise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.softmax import Softmax
from lipcert.network.graph import Enclosure
from lipcert.operators.linear import Select
from lipcert.rigor.constants import Constant, add, mean, multiply, square_root, subtract
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import add_up, div_up, mul_up, norm_up, sqrt_down, sqrt_up, sub_down, sub_up
from lipcert.terms.query import P


@dataclass(frozen=True, eq=False)
class Near:
    """Where a signal is on the region: within `range` (lower, upper), (1, size) each, and within `length` of a in l2."""

    centre: Enclosure  # (1, size): a, and the rounding of a since the last block
    range: Range
    length: float = math.inf

    @property
    def at(self) -> Tensor:
        return self.centre.centre

    def reach(self) -> Tensor:
        """(1, size): upper values of |u - a| entry by entry."""
        lower, upper = self.range
        away = torch.maximum(sub_up(upper, self.at), sub_up(self.at, lower))
        return away.clamp(min=0.0).nan_to_num(math.inf, math.inf)

    def met(self, entry: float, length: float) -> Near:
        """The same, where every entry stays within `entry` of the centre, and all of them within `length`. The range keeps a,
        which rounding may have put beside it: a segment from a to u must not leave where slopes are known."""
        lower, upper = self.range
        lower, upper = torch.minimum(lower, self.at), torch.maximum(upper, self.at)
        if math.isfinite(entry):  # else nothing is known by it
            lower = torch.maximum(lower, sub_down(self.at, entry))
            upper = torch.minimum(upper, add_up(self.at, entry))
        return Near(self.centre, (lower, upper), min(self.length, length))


def slopes(block: Block, r: P, *signals: Near) -> tuple[float, ...]:
    rule = RULES.get(type(block))
    known = block.lipschitz(r, tuple(u.range for u in signals))
    if rule is None:
        return known
    found = rule(block, r, *signals)
    return tuple(min(a, b) if b == b else a for a, b in zip(known, found, strict=True))


def _normalise(block: Normalise, r: P, u: Near) -> tuple[float, ...]:
    """J = (I - z z' / n) P / s, so ||J||_2 <= 1 / s (normalise.py), and s = |(P u, (n eps)^(1/2))| / n^(1/2) is 1 / n^(1/2)-Lipschitz in
    u: s >= s_c - |u - a| / n^(1/2) in each group. l1 and linf: times n^(1/2)."""
    groups, n = block.outer * block.inner, block.n
    if n == 0 or groups == 0 or (n == 1 and block.centred):
        return (0.0,)

    def grouped(side: Tensor) -> Tensor:
        return side.reshape(block.outer, n, block.inner).movedim(1, 2).reshape(groups, n)

    at = Constant(grouped(u.at))
    v = subtract(at, mean(at, 1, True)) if block.centred else at
    s = square_root(add(mean(multiply(v, v), 1, True), block.eps)).lower[:, 0]
    away = norm_up(grouped(u.reach()), "2", 1).clamp(max=u.length)
    least = sub_down(s, div_up(away, sqrt_down(float(n))))
    if not bool((least > 0).all()):  # NaN too
        return (math.inf,)
    slope = float(div_up(1.0, float(least.min())))
    return (slope if r == "2" or n == 1 else mul_up(slope, sqrt_up(float(n))),)


def _softmax(block: Softmax, r: P, u: Near) -> tuple[float, ...]:
    """0 <= J = diag(s) - s s' <= diag(s), and rows sum to 2 s_i (1 - s_i) in absolute value, J being symmetric."""
    if block.n <= 1:
        return (0.0,)
    _, most = block.values_on(u.range)
    largest = float(most.max())
    row = mul_up(2 * largest, 1.0 if largest >= 1 else float(sub_up(1.0, largest))) if largest < 0.5 else 0.5
    return (min(row, largest) if r == "2" else row,)


def _matmul(block: MatMul, r: P, u: Near, v: Near) -> tuple[float, ...]:
    """||dU V||_F <= ||V||_2 ||dU||_F and ||U dV||_F <= ||U||_2 ||dV||_F for each pair, ||V||_2 <= ||V_c||_2 + min(||R||_2, length)."""
    if r != "2":
        return (math.inf, math.inf)
    return _largest(v, block.batch, block.k, block.n), _largest(u, block.batch, block.m, block.k)


def _largest(w: Near, batch: int, rows: int, columns: int) -> float:
    """Upper value of the largest spectral norm of the matrices of a signal."""
    if 0 in (batch, rows, columns):
        return 0.0
    shape = (batch, rows, columns)
    centre = matrix_norms_upper(w.at.reshape(shape), None, "2", "2")
    away = matrix_norms_upper(w.reach().reshape(shape), None, "2", "2").clamp(max=w.length)
    return float(add_up(centre, away).max())


def repeated(block: Block, r: P, other: Near, copies: Select) -> float:
    """The constant of a product in w, where one factor is S w, S repeating entries, and the other factor `other`:
    the columns of diag(u) S have disjoint supports, so its norm is the largest of their l_r norms."""
    if not isinstance(block, Product) or r == "inf":
        return math.inf
    lower, upper = other.range
    size = torch.maximum(lower.abs(), upper.abs())[0]
    top = float(size.max()) if len(size) else 0.0
    if top == 0 or not math.isfinite(top):
        return top
    scaled = div_up(size, top)  # against overflow of the squares
    scaled = mul_up(scaled, scaled) if r == "2" else scaled
    kept = copies.index >= 0
    sums = scaled.new_zeros(copies.in_size).index_add_(0, copies.index[kept], scaled[kept])
    grown = mul_up(float(sums.max()), 1 + 4 * len(size) * 2.0**-53) if copies.in_size else 0.0
    return mul_up(top, sqrt_up(grown) if r == "2" else grown)


RULES: dict[type, Callable[..., tuple[float, ...]]] = {Normalise: _normalise, Softmax: _softmax, MatMul: _matmul}
