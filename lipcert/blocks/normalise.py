"""Euclidean length along an axis, and division by a deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.base import SLACK, Axis, Range, down
from lipcert.rigor.rounding import div_up, gamma, mul_up, norm_down, norm_up, sqrt_up, up
from lipcert.terms.query import P


@dataclass(frozen=True, eq=False)
class Norm2(Axis):
    """Euclidean norm along the axis: gradient u / ||u||, dual norms 1 (l2), sqrt(n) (linf), 1 (l1)."""

    label = "norm2"
    reduces = True

    def function(self, u: Tensor) -> Tensor:
        return torch.linalg.vector_norm(u, dim=2)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (self.group(p, p),)

    def group(self, p: P, q: P) -> float:
        """Onto one number: the dual norm of the gradient, whatever q."""
        return sqrt_up(float(self.n)) if p == "inf" and self.n > 1 else 1.0

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        inside = (lower <= 0) & (upper >= 0)
        small = torch.where(inside, 0.0, torch.minimum(lower.abs(), upper.abs()))
        large = torch.maximum(lower.abs(), upper.abs())
        return norm_down(small, "2", 2), norm_up(large, "2", 2)  # scaled: squares neither overflow nor underflow


@dataclass(frozen=True, eq=False)
class Normalise(Axis):
    """z = (u - mean(u)) / sqrt(var(u) + eps) along the axis (layer, group, instance norm); without the mean for RMS norm.

    With c = P u (P the centring projection, or I) and s^2 = |c|^2 / n + eps the Jacobian is (I - c c' / (n s^2)) P / s:
    eigenvalues 1 / s across c and eps / s^3 along c, both largest at c = 0. So the l2 constant is exactly 1 / sqrt(eps)
    (0 for n = 1 with a mean). l1 and linf: times sqrt(n).
    """

    eps: float = 1e-5
    centred: bool = True

    label = "normalise"

    @property
    def reason(self) -> str:  # type: ignore[override]
        return f"its eps is {self.eps}: the slope at equal entries is 1 / sqrt(eps)"

    def function(self, u: Tensor) -> Tensor:
        c = u - u.mean(dim=2, keepdim=True) if self.centred else u
        return c / torch.sqrt((c * c).mean(dim=2, keepdim=True) + self.eps)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        if self.n == 1 and self.centred:
            return (0.0,)
        if self.eps <= 0:
            return (math.inf,)
        value = div_up(1.0, math.nextafter(math.sqrt(self.eps), 0.0))
        return (value if p == "2" or self.n == 1 else mul_up(value, sqrt_up(float(self.n))),)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        slack = SLACK + 4 * gamma(self.n + 8)
        if self.centred:
            mass = torch.maximum(lower.abs(), upper.abs())
            pad = slack * (mass + mass.mean(dim=2, keepdim=True))
            lower, upper = lower - upper.mean(dim=2, keepdim=True) - pad, upper - lower.mean(dim=2, keepdim=True) + pad
        inside = (lower <= 0) & (upper >= 0)
        small = torch.where(inside, 0.0, torch.minimum(lower.abs(), upper.abs()))
        large = torch.maximum(lower.abs(), upper.abs())
        least = torch.sqrt((small * small).mean(dim=2, keepdim=True) + self.eps) * (1 - slack)
        most = torch.sqrt((large * large).mean(dim=2, keepdim=True) + self.eps) * (1 + slack)
        least = torch.where(torch.isinf(least), 0.0, least)  # the squares overflowed
        limit = math.sqrt(self.n) * (1 + slack)  # |z_i| <= sqrt(n) always
        low = torch.where(lower < 0, lower / least, lower / most)
        high = torch.where(upper > 0, upper / least, upper / most)
        pads = slack * torch.maximum(low.abs(), high.abs())
        low, high = down(low - pads).nan_to_num(-limit), up(high + pads).nan_to_num(limit)
        return low.clamp(min=-limit), high.clamp(max=limit)
