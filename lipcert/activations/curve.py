"""Ranges of one-variable functions: a curve is read at the two ends of an interval and at its landmarks inside.

Between two neighbouring landmarks a curve is continuous and monotone (each row of the table says why), so on [lo, hi]
it takes no value outside the hull of its values at lo and hi and of its one-sided limits at the landmarks in [lo, hi].
Landmarks carry enclosures of their location and of their limits, and a reading at x is an enclosure: the result is one.

Assumption, stated here once and in every report that uses it: torch's elementary functions (exp, expm1, log, log1p,
sin, cos, tan, asin, acos, atan, sinh, cosh, tanh, asinh, acosh, atanh, erf, erfc, pow, sigmoid, softplus, hypot) are
accurate to 8 ULP relative in float64, and lose less than TINY where they underflow. `+ - * /` and sqrt are IEEE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.rounding import EPS, down, up

ULP = 2 * EPS  # 2^-52: one unit in the last place of x is between ULP |x| / 2 and ULP |x|
TINY = 1e-200  # absolute slack for underflow; the parameters of inexact rows lie within 1e-30 .. 1e30, see `moderate`
MAX = 1.7976931348623157e308  # largest float: beyond it a value is only known to overflow

Pair = tuple[Tensor, Tensor]  # enclosure: lower <= true value <= upper, entry by entry


def real(value: float | Tensor) -> Tensor:
    """A parameter or constant as a float64 tensor (Python numbers become 0-dimensional)."""
    return torch.as_tensor(value, dtype=torch.float64)


def exact(value: float | Tensor) -> Pair:
    """Enclosure of a number that the float represents exactly."""
    v = real(value)
    return v, v


def nearest(value: float | Tensor) -> Pair:
    """Enclosure of a constant rounded to the nearest float, as every decimal literal is."""
    v = real(value)
    return down(v), up(v)


def enclose(v: Tensor, ulps: float | Tensor = 8.0, size: Tensor | None = None, tiny: float = TINY) -> Pair:
    """v - e, v + e with e = ulps * ULP * size + tiny, `size` = |v| unless cancellation makes it more.

    Callers give `ulps` with room for the roundings made here. An overflow is known only to lie beyond MAX.
    """
    e = (v.abs() if size is None else size).mul(ulps * ULP).add_(tiny).clamp_(max=MAX)
    return (v - e).clamp_(max=MAX), (v + e).clamp_(min=-MAX)


def hull(*pairs: Pair) -> Pair:
    """The smallest enclosure that contains them all."""
    lower, upper = pairs[0]
    for a, b in pairs[1:]:
        lower, upper = torch.minimum(lower, a), torch.maximum(upper, b)
    return lower, upper


@dataclass(frozen=True)
class Landmark:
    """A turning point, kink, jump or pole somewhere in [start, end], with its limits from the left and the right."""

    start: Tensor
    end: Tensor
    before: Pair
    after: Pair
    turns: bool = False  # an extremum: the curve is not monotone across it

    def inside(self, lo: Tensor, hi: Tensor) -> Tensor:
        return (lo <= self.end) & (hi >= self.start)


def turn(at: Pair, value: Pair) -> Landmark:
    return Landmark(*at, value, value, turns=True)


def kink(at: Pair, before: Pair, after: Pair) -> Landmark:
    return Landmark(*at, before, after)


def pole(at: Pair) -> Landmark:
    """Nothing finite can be said of an interval that contains this point."""
    anything = (real(-math.inf), real(math.inf))
    return Landmark(*at, anything, anything, turns=True)


def no_landmarks(*params: Tensor) -> tuple[Landmark, ...]:
    return ()


def always(lower: float | Pair, upper: float | Pair) -> Callable[..., Pair]:
    """The same global range for all parameters; an end that is itself an enclosure is rounded outward."""
    low = real(lower if isinstance(lower, float) else lower[0])
    high = real(upper if isinstance(upper, float) else upper[1])
    return lambda *params: (low, high)


@dataclass(frozen=True)
class Curve:
    """`at(x, *p)` encloses the curve at x (any float64 tensor, +-inf included; at a landmark either limit will do);
    `landmarks(*p)` in ascending order; `whole(*p)` encloses the range over the domain."""

    at: Callable[..., Pair]
    whole: Callable[..., Pair]
    landmarks: Callable[..., tuple[Landmark, ...]] = no_landmarks
    domain: tuple[float, float] = (-math.inf, math.inf)

    def __call__(self, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        """Range on [lo, hi]: float64 tensors of one shape, broadcast with the parameters. (-inf, inf) where lo > hi,
        where an end is NaN or outside the domain, and where nothing finite holds."""
        p = [real(value) for value in params]
        lower, upper = hull(self.at(lo, *p), self.at(hi, *p))
        for mark in self.landmarks(*p):
            inside = mark.inside(lo, hi)
            low, high = hull(mark.before, mark.after)
            lower = torch.where(inside, torch.minimum(lower, low), lower)
            upper = torch.where(inside, torch.maximum(upper, high), upper)
        bottom, top = self.whole(*p)
        return _known(lo, hi, self.domain, torch.maximum(lower, bottom), torch.minimum(upper, top))

    def trend(self, lo: Tensor, hi: Tensor, *params: float | Tensor) -> tuple[Tensor, Tensor]:
        """Masks: certainly nondecreasing on [lo, hi], certainly nonincreasing."""
        p = [real(value) for value in params]
        last = self.at(lo, *p)
        rising = falling = (lo <= hi) & (lo >= self.domain[0]) & (hi <= self.domain[1])
        for mark in self.landmarks(*p):
            inside = mark.inside(lo, hi)
            if mark.turns:
                rising, falling = rising & ~inside, falling & ~inside
                continue
            rising = rising & (~inside | ((last[1] <= mark.before[0]) & (mark.before[1] <= mark.after[0])))
            falling = falling & (~inside | ((last[0] >= mark.before[1]) & (mark.before[0] >= mark.after[1])))
            last = torch.where(inside, mark.after[0], last[0]), torch.where(inside, mark.after[1], last[1])
        end = self.at(hi, *p)
        return rising & (last[1] <= end[0]), falling & (last[0] >= end[1])


def _known(lo: Tensor, hi: Tensor, domain: tuple[float, float], lower: Tensor, upper: Tensor) -> Pair:
    known = (lo <= hi) & (lower <= upper)  # false for NaN
    if domain != (-math.inf, math.inf):
        known = known & (lo >= domain[0]) & (hi <= domain[1])
    return torch.where(known, lower, -math.inf), torch.where(known, upper, math.inf)


def chords(slope: Curve, value: Curve, center: Tensor, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
    """Enclosure of (s(x) - s(c)) / (x - c) over x in [lo, hi], x != c, from the curves of s' and s.

    Where s' is nondecreasing between c and an end e, s is convex there, its chords from c grow with x, and the chord to
    e is the extreme one (the largest for e > c, the smallest for e < c); where s' is nonincreasing, the mirror image.
    The other extreme, and everything else, is the range of s' (mean value theorem)."""
    left, right = torch.minimum(lo, center), torch.maximum(hi, center)
    return hull(
        _side(slope, value, center, left, left, center, params),
        _side(slope, value, center, right, center, right, params),
    )


def _side(slope: Curve, value: Curve, c: Tensor, e: Tensor, lo: Tensor, hi: Tensor, params: tuple) -> Pair:
    lower, upper = slope(lo, hi, *params)
    rising, falling = slope.trend(lo, hi, *params)
    p = [real(x) for x in params]
    (s_low, s_high), (c_low, c_high) = value.at(e, *p), value.at(c, *p)
    run = e - c
    ends = ((s_low - c_high) / run, (s_high - c_low) / run)  # swapped where run < 0
    quotient = enclose(torch.minimum(*ends), 4.0)[0], enclose(torch.maximum(*ends), 4.0)[1]
    # NaN at e = c; an overflow in a difference says nothing
    usable = (quotient[0] <= quotient[1]) & run.isfinite() & (s_low - c_high).isfinite() & (s_high - c_low).isfinite()
    caps, floors = (rising, falling) if e is hi else (falling, rising)
    return (
        torch.where(usable & floors, torch.maximum(lower, quotient[0]), lower),
        torch.where(usable & caps, torch.minimum(upper, quotient[1]), upper),
    )
