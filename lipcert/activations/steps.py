"""Functions with jumps. No finite slope holds across a jump; between two jumps the slope is 0 or 1.

A jump at an end of the interval counts as inside (the generalised slope there is infinite).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipcert.activations.admit import finite, moderate, nonzero, not_negative
from lipcert.activations.curve import Curve, Landmark, Pair, enclose, exact, real
from lipcert.activations.periodic import meets
from lipcert.activations.row import Activation, row

INF = math.inf
REAL_LINE = (-INF, INF)


@dataclass(frozen=True)
class Slopes:
    """`between` jumps; its hull with `across`, the infinite slope of the jumps, where one may be inside."""

    jumps: Callable[..., Tensor]  # (lo, hi, *p) -> mask, never false when a jump is inside
    between: float
    across: float
    domain: tuple[float, float] = REAL_LINE

    def whole(self, *params: Tensor) -> Pair:
        return real(min(self.between, self.across)), real(max(self.between, self.across))

    def __call__(self, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        p = [real(value) for value in params]
        jump, ordered = self.jumps(lo, hi, *p), lo <= hi
        bottom, top = self.whole(*p)
        lower, upper = torch.where(jump, bottom, self.between), torch.where(jump, top, self.between)
        return torch.where(ordered, lower, -INF), torch.where(ordered, upper, INF)


@dataclass(frozen=True)
class Sawtooth:
    """Values of a function that rises between its jumps and stays within `whole`."""

    function: Callable[..., Tensor]
    jumps: Callable[..., Tensor]
    whole: Callable[..., Pair]

    def __call__(self, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        p = [real(value) for value in params]
        bottom, top = self.whole(*p)
        jump, size, ordered = self.jumps(lo, hi, *p), top - bottom, lo <= hi
        lower = torch.maximum(enclose(self.function(lo, *p), 4.0, size=size)[0], bottom)
        upper = torch.minimum(enclose(self.function(hi, *p), 4.0, size=size)[1], top)
        lower, upper = torch.where(jump, bottom, lower), torch.where(jump, top, upper)
        return torch.where(ordered, lower, -INF), torch.where(ordered, upper, INF)


def at_integers(lo: Tensor, hi: Tensor) -> Tensor:
    return meets(lo, hi, 1.0)


def at_halves(lo: Tensor, hi: Tensor) -> Tensor:
    return meets(lo, hi, 1.0, 0.5)


def at_multiples(lo: Tensor, hi: Tensor, period: Tensor) -> Tensor:
    return meets(lo, hi, period.abs())


def at_nonzero_multiples(lo: Tensor, hi: Tensor, period: Tensor | float = 1.0) -> Tensor:
    return meets(lo, hi, period.abs() if isinstance(period, Tensor) else period, kept=False)


def _stairs(name: str, function: Callable[..., Tensor], jumps: Callable[..., Tensor]) -> Activation:
    values = Curve(lambda x: exact(function(x)), lambda: (real(-INF), real(INF)))
    return row(name, function, Slopes(jumps, 0.0, INF), values, monotone=True, continuous=False)


# frac and fmod jump at the multiples of the period but for 0, remainder (the sign of the divisor) at all of them; the
# jumps go down, between them the slope is 1
FRAC = row(
    "frac",
    torch.frac,
    Slopes(at_nonzero_multiples, 1.0, -INF),
    Sawtooth(torch.frac, at_nonzero_multiples, lambda: (real(-1.0), real(1.0))),
    continuous=False,
)
FMOD = row(
    "fmod",
    torch.fmod,
    Slopes(at_nonzero_multiples, 1.0, -INF),
    Sawtooth(torch.fmod, at_nonzero_multiples, lambda c: (-c.abs(), c.abs())),
    parameters={"divisor": 1.0},
    continuous=False,
    refuses=lambda c: nonzero(divisor=c) or moderate(divisor=c),
)
REMAINDER = row(
    "remainder",
    torch.remainder,
    Slopes(at_multiples, 1.0, -INF),
    Sawtooth(torch.remainder, at_multiples, lambda c: (c.clamp(max=0.0), c.clamp(min=0.0))),
    parameters={"divisor": 1.0},
    continuous=False,
    refuses=lambda c: nonzero(divisor=c) or moderate(divisor=c),
)


def _jump(at: Tensor, lower: Tensor, upper: Tensor) -> Landmark:
    return Landmark(at, at, (lower, upper), (lower, upper), breaks=True)


# sign(x) = -1, 0, 1; heaviside(x) = 0, v at 0, 1, with 0 <= v <= 1
def _step(name: str, function: Callable[..., Tensor], low: float, **facts: Any) -> Activation:
    slope = Curve(
        lambda x, *v: exact(torch.zeros_like(x)),
        lambda *v: (real(0.0), real(INF)),
        lambda *v: (_jump(real(0.0), real(0.0), real(INF)),),
    )
    value = Curve(lambda x, *v: exact(function(x, *v)), lambda *v: (real(low), real(1.0)))
    return row(name, function, slope, value, monotone=True, continuous=False, kinks=lambda *v: (0.0,), **facts)


def _heaviside(x: Tensor, v: float | Tensor) -> Tensor:
    return torch.where(x == 0, v, (x > 0).to(x.dtype))


def _not_between(v: float | Tensor) -> str | None:
    return None if bool(((real(v) >= 0) & (real(v) <= 1)).all()) else f"the value at 0 must lie in [0, 1], got {v}"


# hardshrink(x) = x for |x| > k, else 0: jumps up at -k and k, or the identity for k = 0
def _hardshrink(x: Tensor, k: float | Tensor) -> Tensor:
    return torch.where(x.abs() > k, x, 0.0)


def _hardshrink_top(k: Tensor) -> Tensor:
    return torch.where(k > 0, INF, real(1.0))


HARDSHRINK = row(
    "hardshrink",
    _hardshrink,
    Curve(
        lambda x, k: exact((x.abs() > k).double()),
        lambda k: (torch.where(k > 0, 0.0, real(1.0)), _hardshrink_top(k)),
        lambda k: (_jump(-k, real(0.0), _hardshrink_top(k)), _jump(k, real(0.0), _hardshrink_top(k))),
    ),
    Curve(lambda x, k: exact(_hardshrink(x, k)), lambda k: (real(-INF), real(INF))),
    parameters={"lambd": 0.5},
    monotone=True,
    continuous=False,
    kinks=lambda k: (-k, k),
    refuses=lambda k: not_negative(lambd=k) or finite(lambd=k),
)


# threshold(x) = x for x > t, else v: a jump of t - v at t, none where v = t (then it is max(x, t))
def _threshold(x: Tensor, t: float | Tensor, v: float | Tensor) -> Tensor:
    return torch.where(x > t, x, v)


def _threshold_slopes(t: Tensor, v: Tensor) -> Pair:
    return torch.where(v > t, -INF, real(0.0)), torch.where(v < t, INF, real(1.0))


THRESHOLD = row(
    "threshold",
    _threshold,
    Curve(
        lambda x, t, v: exact((x > t).double()),
        _threshold_slopes,
        lambda t, v: (_jump(t, *_threshold_slopes(t, v)),),
    ),
    Curve(
        lambda x, t, v: exact(_threshold(x, t, v)),
        lambda t, v: (torch.minimum(t, v), real(INF)),
        lambda t, v: (Landmark(t, t, exact(v), exact(t), turns=True),),
    ),
    parameters={"threshold": 0.0, "value": 0.0},
    continuous=False,
    kinks=lambda t, v: (t,),
    refuses=lambda t, v: finite(threshold=t, value=v),
)

STEPS: dict[str, Activation] = {
    "floor": _stairs("floor", torch.floor, at_integers),
    "ceil": _stairs("ceil", torch.ceil, at_integers),
    "round": _stairs("round", torch.round, at_halves),
    "trunc": _stairs("trunc", torch.trunc, at_nonzero_multiples),
    "sign": _step("sign", torch.sign, -1.0),
    "heaviside": _step("heaviside", _heaviside, 0.0, parameters={"value": 0.5}, refuses=_not_between),
    "frac": FRAC,
    "fmod": FMOD,
    "remainder": REMAINDER,
    "hardshrink": HARDSHRINK,
    "threshold": THRESHOLD,
}
