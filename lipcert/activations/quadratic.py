"""Expressions of one scalar that are piecewise quadratic about 0: x h(x), h(x)^2 and h(x) h(x) for homogeneous h."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.activations.curve import Pair, exact
from lipcert.activations.jets import Expression
from lipcert.activations.row import Elementwise, Ramps
from lipcert.rigor.rounding import mul_down, mul_up


def ramps_of(expression: Expression) -> Ramps:
    """The two pieces of s' left and right of 0, s'(x) = m x; (): it is not of these forms, or h has parameters per entry."""
    if len(expression.steps) != 2:
        return ()
    inner, outer = expression.steps
    h = inner.value
    if not isinstance(h, Elementwise) or not h.row.homogeneous or any(isinstance(p, Tensor) for p in h.params):
        return ()
    squared = isinstance(outer.value, Elementwise) and outer.value.name == "square" and outer.reads == (1,)
    power = 2 if squared or (outer.op == "times" and outer.reads == (1, 1)) else 1
    if power == 1 and not (outer.op == "times" and sorted(outer.reads) == [0, 1]):
        return ()
    one = torch.ones((), dtype=torch.float64)
    sides = h.slopes_on(-2 * one, -one), h.slopes_on(one, 2 * one)
    return tuple((_twice(low, high, power), exact(0.0)) for low, high in sides)


def _twice(low: Tensor, high: Tensor, power: int) -> Pair:
    """Enclosure of 2 m^power, m in [low, high]."""
    if power == 1:
        return 2 * low, 2 * high
    near, far = torch.minimum(low.abs(), high.abs()), torch.maximum(low.abs(), high.abs())
    crosses = (low < 0) & (high > 0)
    return 2 * torch.where(crosses, 0.0, mul_down(near, near)), 2 * mul_up(far, far)
