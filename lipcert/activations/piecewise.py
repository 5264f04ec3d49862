"""Piecewise linear and piecewise quadratic rows. Slopes are read off; only products of parameters are rounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.activations.admit import finite, moderate, not_negative, positive
from lipcert.activations.corner import Corner
from lipcert.activations.curve import Curve, Landmark, Pair, always, enclose, exact, hull, kink, real, turn
from lipcert.activations.row import Activation, row
from lipcert.rigor.rounding import mul_down, mul_up

INF = math.inf
ZERO, ONE = exact(0.0), exact(1.0)


def segments(corners: Callable[..., tuple[Pair, ...]], slopes: Callable[..., tuple[Pair, ...]]) -> Curve:
    """The derivative of a continuous piecewise linear function: slopes[i] between corners i - 1 and i.

    A corner at +-inf (a one-sided clamp) is no corner. At x between the two floats that enclose a corner either slope
    may be read, since the corner is then inside every interval that ends at x.
    """

    def at(x: Tensor, *p: Tensor) -> Pair:
        first, *rest = slopes(*p)
        lower, upper = first
        for corner, (low, high) in zip(corners(*p), rest, strict=True):
            beyond = x > corner[0]
            lower, upper = torch.where(beyond, low, lower), torch.where(beyond, high, upper)
        return lower, upper

    def landmarks(*p: Tensor) -> tuple[Landmark, ...]:
        m = slopes(*p)
        return tuple(kink(_finite(c), m[i], m[i + 1]) for i, c in enumerate(corners(*p)))

    return Curve(at, lambda *p: hull(*slopes(*p)), landmarks)


def _finite(corner: Pair) -> Pair:
    """An infinite corner becomes the empty location [inf, -inf]."""
    start, end = corner
    return start.masked_fill(start.isinf(), INF), end.masked_fill(end.isinf(), -INF)


def monotone(function: Callable[..., Tensor], whole: Callable[..., Pair]) -> Curve:
    """The value curve of a monotone function that floats evaluate without rounding."""
    return Curve(lambda x, *p: exact(function(x, *p)), whole)


# relu(x) = max(x, 0); relu6(x) = min(max(x, 0), 6)
RELU = row(
    "relu",
    torch.relu,
    Corner(lambda: (real(0.0), real(1.0))),
    monotone(torch.relu, always(0.0, INF)),
    monotone=True,
    homogeneous=True,
    kinks=lambda: (0.0,),
    exact=True,
)
RELU6 = row(
    "relu6",
    F.relu6,
    segments(lambda: (ZERO, exact(6.0)), lambda: (ZERO, ONE, ZERO)),
    monotone(F.relu6, always(0.0, 6.0)),
    monotone=True,
    kinks=lambda: (0.0, 6.0),
    exact=True,
)


# leaky_relu(x) = x for x > 0, else s x. prelu is the same function with s a tensor, one entry per channel.
def _leaky(x: Tensor, s: float | Tensor) -> Tensor:
    return torch.where(x > 0, x, s * x)


def _leaky_value(x: Tensor, s: Tensor) -> Pair:
    keep, none = x >= 0, s == 0  # 0 * -inf is 0 here
    low, high = torch.where(none, s, mul_down(x, s)), torch.where(none, s, mul_up(x, s))
    return torch.where(keep, x, low), torch.where(keep, x, high)


LEAKY_RELU = row(
    "leaky_relu",
    _leaky,
    Corner(lambda s: (s, real(1.0))),
    Curve(
        _leaky_value,
        lambda s: (torch.where(s > 0, real(-INF), real(0.0)), real(INF)),
        lambda s: (turn(ZERO, ZERO),),
    ),
    parameters={"negative_slope": 0.01},
    homogeneous=True,
    kinks=lambda s: (0.0,),
    refuses=lambda s: finite(negative_slope=s),
)

ABS = row(
    "abs",
    torch.abs,
    Corner(lambda: (real(-1.0), real(1.0))),
    Curve(lambda x: exact(x.abs()), always(0.0, INF), lambda: (turn(ZERO, ZERO),)),
    homogeneous=True,
    kinks=lambda: (0.0,),
    exact=True,
)
NEG = row(
    "neg",
    torch.neg,
    segments(lambda: (), lambda: (exact(-1.0),)),
    monotone(torch.neg, always(-INF, INF)),
    homogeneous=True,
)


# clamp(x) = min(max(x, low), high); low = -inf or high = inf for a one-sided clamp
def _clamp(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    return x.clamp(min=low).clamp(max=high)


def _unordered(low: float | Tensor, high: float | Tensor) -> str | None:
    ordered = (real(low) <= real(high)) & (real(low) < INF) & (real(high) > -INF)
    return None if bool(ordered.all()) else f"needs min <= max, not both infinite of one sign, got {low} and {high}"


CLAMP = row(
    "clamp",
    _clamp,
    segments(lambda low, high: (exact(low), exact(high)), lambda low, high: (ZERO, ONE, ZERO)),
    monotone(_clamp, lambda low, high: (low, high)),
    parameters={"min": -INF, "max": INF},
    monotone=True,
    kinks=lambda low, high: tuple(t for t in (low, high) if bool(real(t).isfinite().any())),
    refuses=_unordered,
)
HARDTANH = replace(CLAMP, name="hardtanh", parameters={"min_val": -1.0, "max_val": 1.0}, exact=True)


# hard sigmoid, clip(alpha x + beta, 0, 1). alpha is taken one ULP outward, corners four, so that alpha = fl(1/6),
# beta = 1/2 also covers torch's relu6(x + 3) / 6, whose slope is the real number 1/6 and whose corners are -3 and 3.
def _hardsigmoid_corners(alpha: Tensor, beta: Tensor) -> tuple[Pair, Pair]:
    return enclose(-beta / alpha, 4.0), enclose((1 - beta) / alpha, 4.0, size=(1 + beta.abs()) / alpha)


def _hardsigmoid_value(x: Tensor, alpha: Tensor, beta: Tensor) -> Pair:
    linear = alpha * x
    lower, upper = enclose(linear + beta, 4.0, size=linear.abs() + beta.abs())
    return lower.clamp(0.0, 1.0), upper.clamp(0.0, 1.0)


HARDSIGMOID = row(
    "hardsigmoid",
    lambda x, alpha, beta: (alpha * x + beta).clamp(0.0, 1.0),
    replace(
        segments(_hardsigmoid_corners, lambda alpha, beta: (ZERO, enclose(alpha, 1.0), ZERO)),
        whole=lambda alpha, beta: (real(0.0), enclose(alpha, 1.0)[1]),
    ),
    Curve(_hardsigmoid_value, always(0.0, 1.0)),
    parameters={"alpha": 1 / 6, "beta": 0.5},
    monotone=True,
    kinks=lambda alpha, beta: (-beta / alpha, (1 - beta) / alpha),
    refuses=lambda alpha, beta: positive(alpha=alpha) or moderate(alpha=alpha, beta=beta),
)


# hard swish, x clip(x + a, 0, c) / d: slope 0, then (2x + a) / d for -a < x < c - a, then c / d. The value falls from
# x = -a to the vertex -a / 2, where it is -a^2 / 4d (or to c - a where that comes first, with value c (c - a) / d), and
# rises after it; for a <= 0 it only rises.
def _hardswish(x: Tensor, a: float | Tensor, c: float | Tensor, d: float | Tensor) -> Tensor:
    return x * torch.relu(x + a).clamp(max=c) / d


def _hardswish_slope(x: Tensor, a: Tensor, c: Tensor, d: Tensor) -> Pair:
    low, high = enclose((2 * x + a) / d, 4.0, size=(2 * x.abs() + a.abs()) / d)
    end = enclose(c / d, 2.0)
    left, right = x <= -a, x > c - a
    low, high = torch.where(right, end[0], low), torch.where(right, end[1], high)
    return torch.where(left, 0.0, low), torch.where(left, 0.0, high)


def _hardswish_slope_marks(a: Tensor, c: Tensor, d: Tensor) -> tuple[Landmark, Landmark]:
    last = enclose((2 * c - a) / d, 4.0, size=(2 * c + a.abs()) / d, tiny=0.0)
    corner = enclose(c - a, 2.0, size=c + a.abs(), tiny=0.0)
    return (
        kink(exact(-a), ZERO, enclose(-a / d, 2.0, tiny=0.0)),
        kink(corner, last, enclose(c / d, 2.0, tiny=0.0)),
    )


def _hardswish_value(x: Tensor, a: Tensor, c: Tensor, d: Tensor) -> Pair:
    low, high = enclose(_hardswish(x, a, c, d), 8.0, size=x.abs() * ((c + a.abs()) / d))
    left = x <= -a  # there 0 exactly, and 0 * -inf is not NaN
    return torch.where(left, 0.0, low), torch.where(left, 0.0, high)


def _hardswish_value_marks(a: Tensor, c: Tensor, d: Tensor) -> tuple[Landmark, Landmark]:
    early = c < a / 2  # the cap is reached before the vertex
    value = torch.where(early, c * (c - a) / d, -(a.clamp(min=0.0) ** 2) / (4 * d))
    size = torch.where(early, c * (c + a.abs()) / d, value.abs())
    place = torch.where(early, c - a, -a / 2)
    lowest = turn(enclose(place, 4.0, size=c + a.abs(), tiny=0.0), enclose(value, 8.0, size=size, tiny=0.0))
    return turn(exact(-a), ZERO), lowest


def _hardswish_values(a: Tensor, c: Tensor, d: Tensor) -> Pair:
    return torch.minimum(_hardswish_value_marks(a, c, d)[1].before[0], real(0.0)), real(INF)


HARDSWISH = row(
    "hardswish",
    _hardswish,
    Curve(
        _hardswish_slope,
        lambda a, c, d: hull(*(pair for m in _hardswish_slope_marks(a, c, d) for pair in (m.before, m.after))),
        _hardswish_slope_marks,
    ),
    Curve(_hardswish_value, _hardswish_values, _hardswish_value_marks),
    parameters={"shift": 3.0, "cap": 6.0, "divisor": 6.0},
    kinks=lambda a, c, d: (-a, c - a),
    ramps=lambda a, c, d: ((ZERO, ZERO), (enclose(2 / d, 1.0), enclose(a / d, 1.0)), (ZERO, enclose(c / d, 1.0))),
    refuses=lambda a, c, d: positive(cap=c, divisor=d) or moderate(shift=a, cap=c, divisor=d),
)


# softshrink(x) = x - k for x > k, x + k for x < -k, else 0
def _softshrink(x: Tensor, k: float | Tensor) -> Tensor:
    return torch.relu(x - k) - torch.relu(-x - k)


SOFTSHRINK = row(
    "softshrink",
    _softshrink,
    segments(lambda k: (exact(-k), exact(k)), lambda k: (ONE, ZERO, ONE)),
    Curve(lambda x, k: enclose(_softshrink(x, k), 1.0, tiny=0.0), always(-INF, INF)),
    parameters={"lambd": 0.5},
    monotone=True,
    kinks=lambda k: (-k, k),
    refuses=lambda k: not_negative(lambd=k) or finite(lambd=k),
)

PIECEWISE: dict[str, Activation] = {
    "relu": RELU,
    "relu6": RELU6,
    "leaky_relu": LEAKY_RELU,
    "prelu": replace(LEAKY_RELU, name="prelu", parameters={"weight": 0.25}),
    "abs": ABS,
    "neg": NEG,
    "clamp": CLAMP,
    "hardtanh": HARDTANH,
    "hardsigmoid": HARDSIGMOID,
    "hardswish": HARDSWISH,
    "softshrink": SOFTSHRINK,
}
