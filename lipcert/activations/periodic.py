"""sin, cos and tan: ranges decided by which quarter points of the period lie inside the interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations.curve import ULP, Pair, enclose, real
from lipcert.activations.row import Activation, row

INF = math.inf
REAL_LINE = (-INF, INF)


def meets(lo: Tensor, hi: Tensor, period: Tensor | float, phase: float = 0.0, kept: bool = True) -> Tensor:
    """Whether some phase * period + k * period (k an integer; `kept` false: k not 0) may lie in [lo, hi].

    Never false when one does: the quotients are widened by more than their roundings, so beyond 1e15 periods the answer
    is always true. `period` may carry a relative error of two ULP (multiples of pi). It is positive.
    """
    a, b = lo / period, hi / period
    low = torch.ceil(a - phase - 8 * ULP * (a.abs().clamp(max=1e300) + phase))
    high = torch.floor(b - phase + 8 * ULP * (b.abs().clamp(max=1e300) + phase))
    some = low <= high
    return some if kept else some & ~((low == 0) & (high == 0))


@dataclass(frozen=True)
class Wave:
    """Range of a sine wave of period 2 pi that is 1 at 2 pi (peak + k), -1 half a period later, monotone between."""

    function: Callable[[Tensor], Tensor]
    peak: float
    domain: tuple[float, float] = REAL_LINE

    def whole(self) -> Pair:
        return real(-1.0), real(1.0)

    def __call__(self, lo: Tensor, hi: Tensor) -> Pair:
        (a, b), (c, d) = enclose(self.function(lo)), enclose(self.function(hi))
        top = torch.where(meets(lo, hi, 2 * math.pi, self.peak), 1.0, torch.maximum(b, d))
        bottom = torch.where(meets(lo, hi, 2 * math.pi, (self.peak + 0.5) % 1.0), -1.0, torch.minimum(a, c))
        return _known(lo, hi, bottom.clamp(-1.0, 1.0), top.clamp(-1.0, 1.0))


def _known(lo: Tensor, hi: Tensor, lower: Tensor, upper: Tensor) -> Pair:
    known = (lo <= hi) & (lower <= upper)
    return torch.where(known, lower, -INF), torch.where(known, upper, INF)


@dataclass(frozen=True)
class BetweenPoles:
    """Range of a function of tan x on an interval without a pole (pi / 2 + k pi); (-inf, inf) with one.

    tan' = 1 + tan^2 has its least value 1 at k pi and is monotone from there to the poles; tan rises."""

    function: Callable[[Tensor], Tensor]
    low: float | None  # the value at k pi where the function turns there
    domain: tuple[float, float] = REAL_LINE

    def whole(self) -> Pair:
        return real(-INF), real(INF)

    def __call__(self, lo: Tensor, hi: Tensor) -> Pair:
        (a, b), (c, d) = enclose(self.function(lo), 24.0), enclose(self.function(hi), 24.0)
        lower, upper = torch.minimum(a, c), torch.maximum(b, d)
        if self.low is not None:
            lower = torch.where(meets(lo, hi, math.pi), self.low, lower.clamp(min=self.low))
        broken = meets(lo, hi, math.pi, 0.5)
        return _known(lo, hi, torch.where(broken, -INF, lower), torch.where(broken, INF, upper))


PERIODIC: dict[str, Activation] = {
    "sin": row(
        "sin", torch.sin, Wave(torch.cos, 0.0), Wave(torch.sin, 0.25), curvatures_on=Wave(lambda x: -torch.sin(x), 0.75)
    ),
    "cos": row(
        "cos",
        torch.cos,
        Wave(lambda x: -torch.sin(x), 0.75),
        Wave(torch.cos, 0.0),
        curvatures_on=Wave(lambda x: -torch.cos(x), 0.5),
    ),
    "tan": row("tan", torch.tan, BetweenPoles(lambda x: 1 + torch.tan(x) ** 2, 1.0), BetweenPoles(torch.tan, None)),
}
