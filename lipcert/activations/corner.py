"""s(x) = r x for x > 0, l x for x <= 0: ReLU, LeakyReLU, PReLU and abs in closed form.

They fill most networks, so they are worth fewer passes over memory than `curve.py` makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations.curve import ULP, UNDERFLOW, Pair, real

REAL_LINE = (-math.inf, math.inf)


@dataclass(frozen=True)
class Corner:
    """Slopes on an interval. `sides(*p)` are the exact slopes (l, r)."""

    sides: Callable[..., tuple[Tensor, Tensor]]
    domain: tuple[float, float] = REAL_LINE

    def whole(self, *params: Tensor) -> Pair:
        left, right = self.sides(*params)
        return torch.minimum(left, right), torch.maximum(left, right)

    def __call__(self, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        p = [real(value) for value in params]
        left, right = self.sides(*p)
        low, high = self.whole(*p)
        one_side = torch.where(hi < 0, left, right)
        both, unknown = (lo <= 0) & (hi >= 0), ~(lo <= hi)
        lower, upper = torch.where(both, low, one_side), torch.where(both, high, one_side)
        return torch.where(unknown, -math.inf, lower), torch.where(unknown, math.inf, upper)

    def chords(self, center: Tensor, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        """The chord from c to x has slope l + (r - l) w(x), w the share of the segment that lies right of 0. w rises
        with x (relu is convex), so the extremes are at lo and hi. An end at c stands for both limits there."""
        p = [real(value) for value in params]
        left, right = self.sides(*p)
        low, high = self.whole(*p)
        least = torch.where(
            (lo >= 0) & (center > 0), 1.0, (_share(center, lo, 0.0) * (1 - 4 * ULP) - UNDERFLOW).clamp(min=0.0)
        )
        most = torch.where(
            (hi <= 0) & (center < 0), 0.0, (_share(center, hi, 1.0) * (1 + 4 * ULP) + UNDERFLOW).clamp(max=1.0)
        )
        a, b = left + (right - left) * least, left + (right - left) * most
        slack = torch.where((left == 0) & (right == 1), 0.0, 4 * ULP * (left.abs() + right.abs()))
        lower, upper = torch.maximum(torch.minimum(a, b) - slack, low), torch.minimum(torch.maximum(a, b) + slack, high)
        unknown = ~(lo <= hi) | center.isnan()
        return torch.where(unknown, -math.inf, lower), torch.where(unknown, math.inf, upper)


def _share(center: Tensor, end: Tensor, otherwise: float) -> Tensor:
    """(relu(c) - relu(e)) / (c - e), three roundings, or a safe value where a difference overflows or c = e."""
    run = center - end
    return torch.where(run.isfinite() & (run != 0), (center.relu() - end.relu()) / run, otherwise)
