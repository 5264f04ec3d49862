"""Ranges of one-variable functions: a curve is read at the two ends of an interval and at its landmarks inside.

Between two neighbouring landmarks a curve is continuous and monotone (each row of the table says why), so on [lo, hi]
it takes no value outside the hull of its values at lo and hi and of its one-sided limits at the landmarks in [lo, hi].
Landmarks carry enclosures of their location and of their limits, and a reading at x is an enclosure: the result is one.

Assumption, stated here once and in every report that uses it: torch's elementary functions (exp, expm1, log, log1p,
sin, cos, tan, asin, acos, atan, sinh, cosh, tanh, asinh, acosh, atanh, erf, erfc, pow, sigmoid, softplus, hypot) are
accurate to 8 ULP relative in float64, and lose less than UNDERFLOW where they underflow. `+ - * /` and sqrt are IEEE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.rigor.rounding import EPS, down, up

ULP = 2 * EPS  # 2^-52: one unit in the last place of x is between ULP |x| / 2 and ULP |x|
UNDERFLOW = (
    1e-200  # absolute slack for underflow; the parameters of inexact rows lie within 1e-30 .. 1e30, see `moderate`
)
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


def enclose(v: Tensor, ulps: float | Tensor = 8.0, size: Tensor | None = None, tiny: float = UNDERFLOW) -> Pair:
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
    breaks: bool = False  # a pole, or a jump of the function itself: its chords are not between slopes

    def inside(self, lo: Tensor, hi: Tensor) -> Tensor:
        return (lo <= self.end) & (hi >= self.start)


def turn(at: Pair, value: Pair) -> Landmark:
    return Landmark(*at, value, value, turns=True)


def kink(at: Pair, before: Pair, after: Pair) -> Landmark:
    return Landmark(*at, before, after)


def pole(at: Pair) -> Landmark:
    """Nothing finite can be said of an interval that contains this point."""
    anything = (real(-math.inf), real(math.inf))
    return Landmark(*at, anything, anything, breaks=True)


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
        p = tuple(real(value) for value in params)
        return self.between(lo, hi, self.at(lo, *p), self.at(hi, *p), p)

    def between(self, lo: Tensor, hi: Tensor, at_lo: Pair, at_hi: Pair, p: tuple[Tensor, ...]) -> Pair:
        """The range, from the readings at both ends."""
        lower, upper = hull(at_lo, at_hi)
        for mark in self.landmarks(*p):
            inside = mark.inside(lo, hi)
            low, high = hull(mark.before, mark.after)
            lower = torch.where(inside, torch.minimum(lower, low), lower)
            upper = torch.where(inside, torch.maximum(upper, high), upper)
        bottom, top = self.whole(*p)
        return _known(lo, hi, self.domain, torch.maximum(lower, bottom), torch.minimum(upper, top))

    def shape(
        self, lo: Tensor, hi: Tensor, first: Pair, last: Pair, p: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Pair, Pair]:
        """On the open interval (lo, hi), from the readings at its ends: masks `no valley` (the curve certainly never
        falls and then rises) and `no peak`, and enclosures of its limits at lo from the right and hi from the left."""
        known = (lo <= hi) & (lo >= self.domain[0]) & (hi <= self.domain[1])
        path: list[tuple[Tensor, Landmark]] = []
        for mark in self.landmarks(*p):
            at_lo, at_hi = ((x == mark.start) & (x == mark.end) for x in (lo, hi))
            first, last = _select(at_lo, mark.after, first), _select(at_hi, mark.before, last)
            inside = mark.inside(lo, hi)
            known = known & ~inside if mark.breaks else known
            path.append((inside & ~at_lo & ~at_hi, mark))
        walk = _Walk(first, known)
        for inside, mark in path:
            walk.to(mark.before, inside)
            if not mark.turns:
                walk.to(mark.after, inside)
        walk.to(last, known)
        return known & ~walk.valley, known & ~walk.peak, first, last


class _Walk:
    """Follows a curve along its levels; a step that is not certainly flat or one-way counts as both ways."""

    def __init__(self, level: Pair, like: Tensor):
        self.level = level
        self.rose = self.fell = self.valley = self.peak = torch.zeros_like(like)

    def to(self, level: Pair, where: Tensor) -> None:
        up, down = where & ~(self.level[0] >= level[1]), where & ~(self.level[1] <= level[0])
        self.valley, self.peak = self.valley | (self.fell & up), self.peak | (self.rose & down)
        self.rose, self.fell = self.rose | up, self.fell | down
        self.level = _select(where, level, self.level)


def _select(mask: Tensor, yes: Pair, no: Pair) -> Pair:
    return torch.where(mask, yes[0], no[0]), torch.where(mask, yes[1], no[1])


def _known(lo: Tensor, hi: Tensor, domain: tuple[float, float], lower: Tensor, upper: Tensor) -> Pair:
    known = (lo <= hi) & (lower <= upper)  # false for NaN
    if domain != (-math.inf, math.inf):
        known = known & (lo >= domain[0]) & (hi <= domain[1])
    return torch.where(known, lower, -math.inf), torch.where(known, upper, math.inf)


def chords(slope: Curve, value: Curve, center: Tensor, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
    """Enclosure of q(x) = (s(x) - s(c)) / (x - c) over x in [lo, hi], x != c, from the curves of s' and s.

    q(x) is the mean of s' between c and x, hence in the range of s'. Let s' have no valley between c and an end e.
    Where q(x) < s'(c), s' has fallen below s'(c) before x, so s' >= s'(t) between c and every t beyond x, so
    q(t) >= s'(t): q falls from x on. Hence q >= min(s'(c), q(e)). Likewise q <= max(s'(c), q(e)) where s' has no peak.
    For s' monotone (ReLU, convex s) both hold and the range is exact."""
    p = tuple(real(x) for x in params)
    slope_c, value_c = slope.at(center, *p), value.at(center, *p)
    sides = []
    for end, is_left in ((torch.minimum(lo, center), True), (torch.maximum(hi, center), False)):
        slope_e = slope.at(end, *p)
        span = (end, center, slope_e, slope_c, p) if is_left else (center, end, slope_c, slope_e, p)
        lower, upper = slope.between(*span)
        no_valley, no_peak, first, last = slope.shape(*span)
        near = last if is_left else first
        low, high, usable = _quotient(value.at(end, *p), value_c, end - center)
        sides.append(
            (
                torch.where(usable & no_valley, torch.maximum(lower, torch.minimum(near[0], low)), lower),
                torch.where(usable & no_peak, torch.minimum(upper, torch.maximum(near[1], high)), upper),
            )
        )
    return hull(*sides)


def _quotient(s: Pair, c: Pair, run: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Enclosure of (s - c) / run, and whether it is one: not for run = 0, nor where a difference overflows."""
    rise = s[0] - c[1], s[1] - c[0]
    a, b = rise[0] / run, rise[1] / run
    low, high = enclose(torch.minimum(a, b), 4.0)[0], enclose(torch.maximum(a, b), 4.0)[1]
    return low, high, (low <= high) & run.isfinite() & rise[0].isfinite() & rise[1].isfinite()
