"""Lines below and above: elementwise activations on pre-activation ranges, and the slope products of the adjoint.

On z in [l, u]: low_slope z + low <= s(z) <= high_slope z + high, in real arithmetic: the intercepts carry the rounding, the
slopes are floats and exact. ReLU and its kin by chords (Ehlers 2017; Zhang et al. 2018, CROWN); any other s from the
values of s(z) - m z on pieces, each by the mean value theorem.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.activations.corner import Corner
from lipcert.blocks.base import Range
from lipcert.rigor.rounding import EPS, TINY, add_up, all_finite, gamma, mul_up, sub_up, up

PIECES = 8
HUGE = 1e150  # wider ranges get constant lines


@dataclass(frozen=True, eq=False)
class Loss:
    """What rounding may lose of a functional: `each` (b, size) for each unit of its coefficients, `floor` (b,) through
    underflow, whatever they are."""

    each: Tensor
    floor: Tensor


@dataclass(frozen=True, eq=False)
class Lines:
    """Each (b, size)."""

    low_slope: Tensor
    low: Tensor
    high_slope: Tensor
    high: Tensor

    def __getitem__(self, rows: Tensor) -> Lines:
        return Lines(self.low_slope[rows], self.low[rows], self.high_slope[rows], self.high[rows])

    def to(self, dtype: torch.dtype) -> Lines:
        return Lines(self.low_slope.to(dtype), self.low.to(dtype), self.high_slope.to(dtype), self.high.to(dtype))

    def loss(self, below: Tensor) -> Loss:
        """Of `carry`, on a signal of size `below` (b, size)."""
        steep = torch.maximum(self.low_slope.abs(), self.high_slope.abs())
        own = torch.maximum(self.low.abs(), self.high.abs()) * (4 * gamma(below.shape[1] + 4))
        known = all_finite(below)
        finite = below if known else torch.where(torch.isfinite(below), below, 0.0)
        each = (own + finite * (4 * EPS * steep)) * (1 + 4 * EPS) + TINY
        if not known:
            each = torch.where(~torch.isfinite(below) & (steep != 0), torch.inf, each)
        return Loss(each, TINY * (below.shape[1] + finite.sum(dim=1)))

    def carry(self, row: Tensor, home: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (r, size) of s(z) and those of z that take their place; with the intercepts in beta (r,)."""
        rises = row > 0
        carried = row * torch.where(rises, self.high_slope[home], self.low_slope[home])
        high, low = (torch.where(torch.isfinite(end), end, 0.0) for end in (self.high, self.low))  # else a loss
        return carried, up(beta + (row * torch.where(rises, high[home], low[home])).sum(dim=1))


def lines(activation: Elementwise, lower: Tensor, upper: Tensor) -> Lines:
    if isinstance(activation.row.slopes_on, Corner):
        found = _corner(activation, activation.row.slopes_on, lower, upper)
    else:
        found = _pieces(activation, lower, upper)
    flat_low, flat_high = activation.values_on(lower, upper)
    fine = (lower.abs() < HUGE) & (upper.abs() < HUGE)
    for part in (found.low_slope, found.low, found.high_slope, found.high):
        fine = fine & torch.isfinite(part)
    return Lines(
        torch.where(fine, found.low_slope, 0.0),
        torch.where(fine, found.low, flat_low),
        torch.where(fine, found.high_slope, 0.0),
        torch.where(fine, found.high, flat_high),
    )


def _corner(activation: Elementwise, corner: Corner, lower: Tensor, upper: Tensor) -> Lines:
    """Settled: the line itself. Crossing 0: the chord on the side where s is convex or concave, and on the other a line
    through 0, of the slope of the larger part."""
    left, right = corner.sides(*(torch.as_tensor(p, dtype=torch.float64) for p in activation.params))
    crossing = (lower < 0) & (upper > 0)
    settled = torch.where(lower >= 0, right, left).expand_as(lower)
    run = torch.where(crossing, upper - lower, 1.0)
    chord = (right * upper - left * lower) / run
    ends = [activation.values_on(end, end) for end in (lower, upper)]
    above, below = (
        torch.stack([outward(s[side], chord, end) for s, end in zip(ends, (lower, upper), strict=True)])
        for side, outward in ((1, _over), (0, _under))
    )
    through = torch.where(upper > -lower, right, left).expand_as(lower)
    convex = (right >= left).expand_as(lower)
    zero = torch.zeros_like(lower)
    high_slope = torch.where(convex, chord, through)
    low_slope = torch.where(convex, through, chord)
    return Lines(
        torch.where(crossing, low_slope, settled),
        torch.where(crossing & ~convex, below.amin(dim=0), zero),
        torch.where(crossing, high_slope, settled),
        torch.where(crossing & convex, above.amax(dim=0), zero),
    )


def _over(value: Tensor, slope: Tensor, z: Tensor) -> Tensor:
    """Upper value of value - slope z."""
    return add_up(value, mul_up(-slope, z))


def _under(value: Tensor, slope: Tensor, z: Tensor) -> Tensor:
    return -add_up(-value, mul_up(slope, z))


def _pieces(activation: Elementwise, lower: Tensor, upper: Tensor) -> Lines:
    """One slope m for both lines, that of the chord. On a piece [p, q] with middle c: s(z) - m z lies in
    s(c) - m c + ([slopes of s on the piece] - m) (z - c)."""
    first, last = (activation.values_on(end, end) for end in (lower, upper))
    run = upper - lower
    wide = run > 1e-12 * (lower.abs() + upper.abs()) + 1e-300
    chord = ((last[0] / 2 + last[1] / 2) - (first[0] / 2 + first[1] / 2)) / torch.where(wide, run, 1.0)
    slopes = activation.slopes_on(lower, upper)
    m = torch.where(wide, chord, slopes[0] / 2 + slopes[1] / 2).nan_to_num(0.0, 0.0, 0.0)
    share = torch.linspace(0, 1, PIECES + 1, dtype=lower.dtype).reshape(-1, *[1] * lower.ndim)
    marks = torch.minimum(torch.maximum(lower + run * share, lower), upper)
    marks[0], marks[-1] = lower, upper
    p, q = marks[:-1], marks[1:]
    c = torch.minimum(torch.maximum(p / 2 + q / 2, p), q)
    a, b = activation.slopes_on(torch.minimum(p, q), torch.maximum(p, q))
    value = activation.values_on(c, c)
    reach = up(torch.maximum(q - c, c - p).abs())
    steep = torch.maximum(sub_up(b, m).abs(), sub_up(m, a).abs())
    slack = mul_up(up(steep), reach)
    high = add_up(_over(value[1], m.expand_as(c), c), slack)
    low = -add_up(-_under(value[0], m.expand_as(c), c), slack)
    return Lines(m, low.amin(dim=0), m, high.amax(dim=0))


def above(lower: Tensor, upper: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept of a line above a convex function on [lower, upper], whose values at the ends are at most
    `first` and `last`."""
    run = upper - lower
    slope = torch.where(run > 0, (last - first) / torch.where(run > 0, run, 1.0), 0.0).nan_to_num(0.0, 0.0, 0.0)
    return slope, torch.maximum(_over(first, slope, lower), _over(last, slope, upper))


def products(slope: Range, lower: Tensor, upper: Tensor) -> Lines:
    """Lines for y = s g with s in `slope` (low, high) and g in [lower, upper], as functions of g: max(a g, b g) is convex,
    so its chord lies above; min(a g, b g) is concave (Zhang et al. 2019, RecurJac; Shi et al. 2022)."""
    a, b = slope
    rising = lower >= 0
    crossing = ~rising & (upper > 0)
    high_slope, low_slope = torch.where(rising, b, a), torch.where(rising, a, b)
    high, low = torch.zeros_like(lower), torch.zeros_like(lower)
    if bool(crossing.any()):  # elsewhere the line is one of the two through 0
        chords = _chords(*(end.expand_as(lower)[crossing] for end in (a, b, lower, upper)))
        for whole, part in zip((low_slope, low, high_slope, high), chords, strict=True):
            whole[crossing] = part
    if all(all_finite(part) for part in (low_slope, low, high_slope, high)):
        return Lines(low_slope, low, high_slope, high)
    fine = torch.isfinite(low_slope + low + high_slope + high)
    ends = [mul_up(s, g) for s in slope for g in (lower, upper)]
    ends_low = [-mul_up(-s, g) for s in slope for g in (lower, upper)]
    zero = torch.zeros_like(lower)
    return Lines(
        torch.where(fine, low_slope, zero),
        torch.where(fine, low, torch.stack(ends_low).amin(dim=0)),
        torch.where(fine, high_slope, zero),
        torch.where(fine, high, torch.stack(ends).amax(dim=0)),
    )


def _chords(a: Tensor, b: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slope and intercept below, and above, where lower < 0 < upper."""
    run = upper - lower
    high_slope, low_slope = (b * upper - a * lower) / run, (a * upper - b * lower) / run
    high = torch.maximum(_over(mul_up(a, lower), high_slope, lower), _over(mul_up(b, upper), high_slope, upper))
    low = torch.minimum(_under(-mul_up(-b, lower), low_slope, lower), _under(-mul_up(-a, upper), low_slope, upper))
    return low_slope, low, high_slope, high
