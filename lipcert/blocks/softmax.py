"""Softmax and its relatives along an axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import SLACK, Axis, Range, down
from lipcert.rigor.rounding import EPS, TINY, gamma, sqrt_up, up
from lipcert.terms.query import P


def _softmax_range(lower: Tensor, upper: Tensor) -> Range:
    """s_i = e_i / (e_i + sum_{j != i} e_j): increasing in u_i, decreasing in the others.

    fl(u - top) is off by EPS |u - top|, at most 800 EPS unless exp underflows; TINY stands for what underflows.
    """
    top = torch.nan_to_num(upper.amax(dim=2, keepdim=True), posinf=0.0, neginf=0.0)
    slack = SLACK + 1024 * EPS + gamma(lower.shape[2] + 8)
    low = (torch.exp(lower - top) * (1 - slack) - TINY).clamp(min=0)
    high = torch.exp(upper - top) * (1 + slack) + TINY
    others_high = (high.sum(dim=2, keepdim=True) - high).clamp(min=0) + slack * high.sum(dim=2, keepdim=True)
    others_low = ((low.sum(dim=2, keepdim=True) - low) - slack * low.sum(dim=2, keepdim=True)).clamp(min=0)
    least = (low / (low + others_high)).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
    most = (high / (high + others_low)).nan_to_num(1.0, 1.0, 1.0)
    return down(least * (1 - 2 * slack)).clamp(min=0), up(most * (1 + 2 * slack)).clamp(max=1)


ROOT = sqrt_up(2.0)
SOFTMAX: dict[tuple[P, P], float] = {
    **dict.fromkeys((("1", "1"), ("2", "2"), ("inf", "inf")), 0.5),
    ("1", "2"): ROOT / 4,
    ("2", "inf"): ROOT / 4,
    ("1", "inf"): 0.25,
    ("2", "1"): ROOT / 2,
    ("inf", "2"): ROOT / 2,
    ("inf", "1"): 1.0,
}


@dataclass(frozen=True, eq=False)
class Softmax(Axis):
    """Jacobian J = diag(s) - s s'. l2: at most 1/2 (Gao & Pavel 2017, Prop. 4). l1, linf: row sums 2 s_i (1 - s_i) <= 1/2.

    Mixed, exactly: entries are at most s (1 - s) <= 1/4 (1 -> inf), columns s_j (e_j - s) at most s (1 - s) sqrt 2 (1 -> 2, and
    2 -> inf as J = J'). For x = +-1, + with probability m, (J x)_i = s_i (x_i - E x): |.|_1 = 4 m (1 - m) <= 1 (inf -> 1) and
    |.|_2 <= 2 sqrt 2 m (1 - m) <= 1 / sqrt 2 (inf -> 2, 2 -> 1). All are attained at s = (1/2, 1/2).
    """

    label = "softmax"
    sector = (0.0, 0.5)  # the gradient of log-sum-exp, convex and 1/2-smooth (Baillon & Haddad 1977)

    def function(self, u: Tensor) -> Tensor:
        return torch.softmax(u, dim=2)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (0.5 if self.n > 1 else 0.0,)

    def group(self, p: P, q: P) -> float:
        return SOFTMAX[p, q] if self.n > 1 else 0.0

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        return _softmax_range(lower, upper)


@dataclass(frozen=True, eq=False)
class LogSoftmax(Axis):
    """Jacobian I - 1 s', convex in s, so the extremes are at s = e_j: the columns other than j are unit vectors and
    column j is -1 outside j. l2: sqrt(n) (A A' = I + 1 1' on the n - 1 other rows). linf: 2 (1 - s_i) <= 2.
    l1: column j sums to 1 + (n - 2) s_j <= n - 1. Mixed: columns have |.|_2^2 = (1 - s_j)^2 + (n - 1) s_j^2 <= max(1, n - 1),
    rows e_i - s at most sqrt 2, entries 1. From linf: |x_i - x_j| <= 2 at n - 1 places. 2 -> 1: J' y = y - (sum y) e_j for
    signs y, at most sqrt((n - 1) + (n - 1)^2).
    """

    label = "log_softmax"

    def function(self, u: Tensor) -> Tensor:
        return torch.log_softmax(u, dim=2)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        if self.n <= 1:
            return (0.0,)
        return ({"1": float(max(1, self.n - 1)), "2": sqrt_up(float(self.n)), "inf": 2.0}[p],)

    def group(self, p: P, q: P) -> float:
        if p == q or self.n <= 1:
            return self.lipschitz(p)[0]
        n, rest = float(self.n), float(self.n - 1)
        to: dict[tuple[P, P], float] = {("1", "2"): sqrt_up(rest), ("1", "inf"): 1.0, ("2", "inf"): ROOT}
        return (to | {("2", "1"): sqrt_up(n * rest), ("inf", "2"): 2 * sqrt_up(rest), ("inf", "1"): 2 * rest})[p, q]

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        least, most = (torch.log(side) for side in _softmax_range(lower, upper))
        return down(least - SLACK * (least.abs() + 1)), up(most + SLACK * (most.abs() + 1)).clamp(max=0)


@dataclass(frozen=True, eq=False)
class LogSumExp(Axis):
    """Gradient s, s >= 0, sum s = 1: ||s||_2 <= 1, dual of linf: ||s||_1 = 1, dual of l1: max s <= 1. Over the
    `outer * inner` groups the map is block diagonal with scalar outputs, so the same constants hold."""

    label = "logsumexp"
    reduces = True

    def function(self, u: Tensor) -> Tensor:
        return torch.logsumexp(u, dim=2)

    def group(self, p: P, q: P) -> float:
        return 1.0

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (1.0,)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        least, most = torch.logsumexp(lower, dim=2), torch.logsumexp(upper, dim=2)
        slack = SLACK + gamma(self.n + 8)
        return down(least - slack * (least.abs() + 1)), up(most + slack * (most.abs() + 1))
