"""Gated rows x g(x): GELU in both forms, SiLU (quick GELU), Mish. Their derivatives have exactly two turning points.

Constants were computed with mpmath to 40 digits from the equations given here and are enclosed by neighbouring floats.
x g(x) is 0 in the limit wherever g underflows, so 0 * inf is read as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.activations.admit import moderate, not_negative, positive
from lipcert.activations.curve import ULP, Curve, Landmark, Pair, always, enclose, nearest, real, turn
from lipcert.activations.row import Activation, row
from lipcert.terms.errors import RefusedModel

INF = math.inf
INV_SQRT_PI = 0.56418958354775628694808


def _gate(x: Tensor, gate: Tensor) -> Tensor:
    """x * gate with 0 * inf = 0."""
    return (x * gate).nan_to_num(nan=0.0, posinf=INF, neginf=-INF)


def _turns(places: tuple[Pair, ...], values: tuple[Pair, ...], k: Tensor, c: Tensor) -> tuple[Landmark, ...]:
    """Turning points y of g, seen as turning points y / k of c g(k x); k, c > 0."""
    return tuple(
        turn((enclose(y[0] / k, 2.0)[0], enclose(y[1] / k, 2.0)[1]), _times(v, c))
        for y, v in zip(places, values, strict=True)
    )


def _times(pair: Pair, c: Tensor) -> Pair:
    return enclose(pair[0] * c, 2.0)[0], enclose(pair[1] * c, 2.0)[1]


# gelu_erf(x) = c x (1 + erf(k x)) / 2; torch: k = 1 / sqrt 2, c = 1. With y = k x: s' = c G(y),
# G(y) = (1 + erf y) / 2 + y exp(-y^2) / sqrt pi, G' = 2 (1 - y^2) exp(-y^2) / sqrt pi: G falls from 0 to G(-1), rises
# to G(1) = 1 - G(-1), falls to 1. The value is (c / k) y (1 + erf y) / 2, which turns at the one zero of G.
GELU_LOW, GELU_HIGH = nearest(-0.128904145185154786340744), nearest(1.128904145185154786340744)  # G(-1), G(1)
GELU_ZERO = nearest(-0.531596885149393222726191)  # G(y) = 0
GELU_VALUE = nearest(-0.120187793415505508385263)  # y (1 + erf y) / 2 there
INV_SQRT_PI = 0.56418958354775628694808


def _gelu(x: Tensor, k: float | Tensor, c: float | Tensor) -> Tensor:
    return x * (0.5 * c * torch.erfc(-k * x))  # 1 + erf(y) = erfc(-y), without cancellation


def _gelu_slope(x: Tensor, k: Tensor, c: Tensor) -> Pair:
    y = (k * x).clamp(-28.0, 28.0)  # exp(-28^2) < 1e-340
    square = y * y
    cumulative = 0.5 * torch.erfc(-y)
    density = INV_SQRT_PI * y * torch.exp(-square)
    # y carries two roundings (k = fl(1 / sqrt 2), k x): they move erfc(-y), y < 0, by less than 2 y^2 + 1 of its ULPs
    return enclose(c * (cumulative + density), 24.0 + 4.0 * square, size=c * (cumulative + density.abs()))


def _gelu_value(x: Tensor, k: Tensor, c: Tensor) -> Pair:
    y = (k * x).clamp(-28.0, 28.0)
    return enclose(_gate(x, 0.5 * c * torch.erfc(-y)), 24.0 + 4.0 * y * y)


# s'' = c k G'(k x), and G'' = -4 y (2 - y^2) exp(-y^2) / sqrt pi: G' rises to 2 / sqrt pi at 0 and dips at +-sqrt 2.
GELU_DIP, GELU_TOP, GELU_BOTTOM = (
    nearest(1.414213562373095048801689), nearest(1.128379167095512573896159), nearest(-0.152709514177164314421873)
)  # fmt: skip


def _gelu_bend(x: Tensor, k: Tensor, c: Tensor) -> Pair:
    square = (k * x).clamp(-28.0, 28.0) ** 2
    density = 2 * INV_SQRT_PI * c * k * torch.exp(-square)
    return enclose((1 - square) * density, 32.0 + 4.0 * square, size=(1 + square) * density)


def dips(place: Pair, bottom: Pair, top: Pair, k: Tensor, c: Tensor) -> tuple[Landmark, ...]:
    """An even curve c g(k x) that is `bottom` at -`place` and `place`, `top` at 0, and monotone between."""
    left = -place[1], -place[0]
    return _turns((left, (real(0.0), real(0.0)), place), (bottom, top, bottom), k, c)


GELU_ERF = row(
    "gelu_erf",
    _gelu,
    Curve(
        _gelu_slope,
        lambda k, c: (_times(GELU_LOW, c)[0], _times(GELU_HIGH, c)[1]),
        lambda k, c: _turns((nearest(-1.0), nearest(1.0)), (GELU_LOW, GELU_HIGH), k, c),
    ),
    Curve(
        _gelu_value,
        lambda k, c: (_times(GELU_VALUE, c / k)[0], real(INF)),
        lambda k, c: _turns((GELU_ZERO,), (_times(GELU_VALUE, 1 / k),), k, c),
    ),
    parameters={"k": 0.70710678118654752440, "c": 1.0},
    refuses=lambda k, c: positive(k=k, c=c) or moderate(k=k, c=c),
    curvatures_on=Curve(
        _gelu_bend,
        lambda k, c: (_times(GELU_BOTTOM, c * k)[0], _times(GELU_TOP, c * k)[1]),
        lambda k, c: dips(GELU_DIP, GELU_BOTTOM, GELU_TOP, k, c * k),
    ),
)


# silu(x) = x sigmoid(a x), a > 0 (quick GELU: a = 1.702). With y = a x: s' = G(y) = g (1 + y (1 - g)), g = sigmoid(y),
# G' = g (1 - g) (2 - y tanh(y / 2)), and y tanh(y / 2) is even and rises with |y|: G falls, rises between the two roots
# of y tanh(y / 2) = 2, falls. Values: (1 / a) y g, turning where 1 + y (1 - g) = 0, with value (1 + y) / a.
SILU_TURN = 2.399357280515467667832740
SILU_LOW, SILU_HIGH = nearest(-0.099839320128866916958185), nearest(1.099839320128866916958185)
SILU_ZERO, SILU_VALUE = nearest(-1.278464542761073795109359), nearest(-0.278464542761073795109359)


def _silu(x: Tensor, a: float | Tensor) -> Tensor:
    return x * torch.sigmoid(a * x)


def _silu_slope(x: Tensor, a: Tensor) -> Pair:
    y = (a * x).clamp(-800.0, 800.0)
    e = torch.exp(-y.abs())
    gate, bend = torch.sigmoid(y), y * e / (1 + e) ** 2
    return enclose(gate + bend, 32.0 + 2.0 * y.abs(), size=gate + bend.abs())


def _silu_value(x: Tensor, a: Tensor) -> Pair:
    y = (a * x).clamp(-800.0, 800.0)
    return enclose(_gate(x, torch.sigmoid(y)), 16.0 + y.abs())


# s'' = a G'(a x). With y = 2u and t = tanh u, G' = (1 - t^2) (1 - u t) / 2, which turns at 0 and where
# u (3 t^2 - 1) = 3 t: for u > 0 that needs 3 t^2 > 1, and u rises while 3 t / (3 t^2 - 1) falls, so it is one u.
SILU_DIP, SILU_BOTTOM = nearest(3.435840993535110688951641), nearest(-0.0369143731998931856382918)


def _silu_bend(x: Tensor, a: Tensor) -> Pair:
    y = (a * x).clamp(-800.0, 800.0).abs()
    e = torch.exp(-y)
    density = a * e / (1 + e) ** 2
    return enclose(density * (2 - y * torch.tanh(y / 2)), 48.0 + 2.0 * y, size=density * (2 + y))


SILU = row(
    "silu",
    _silu,
    Curve(
        _silu_slope,
        always(SILU_LOW, SILU_HIGH),
        lambda a: _turns((nearest(-SILU_TURN), nearest(SILU_TURN)), (SILU_LOW, SILU_HIGH), a, real(1.0)),
    ),
    Curve(
        _silu_value,
        lambda a: (enclose(SILU_VALUE[0] / a, 2.0)[0], real(INF)),
        lambda a: _turns((SILU_ZERO,), (SILU_VALUE,), a, 1 / a),
    ),
    parameters={"slope": 1.0},
    refuses=lambda a: positive(slope=a) or moderate(slope=a),
    curvatures_on=Curve(
        _silu_bend,
        lambda a: (_times(SILU_BOTTOM, a)[0], a / 2),
        lambda a: dips(SILU_DIP, SILU_BOTTOM, (real(0.5), real(0.5)), a, a),
    ),
)

# mish(x) = x T(x), T = tanh(log(1 + e^x)). With e = e^x: T = (e^2 + 2e) / (e^2 + 2e + 2) and
# T' = 4e (1 + e) / (e^2 + 2e + 2)^2. s' = T + x T' and s'' = T' (2 + x r) with
# r = T'' / T' = 1 + e / (1 + e) - 4e (1 + e) / (e^2 + 2e + 2). With t = 1 + e > 1, r falls: dr/de has the sign of
# (t^2 + 1)^2 - 4 t^2 (t^2 + 2t - 1) = -3t^4 - 8t^3 + 6t^2 + 1 < 0. r = -1/10 at x = 0. For x > 0, r < 0 and x r falls
# from 0 to -inf: one root of x r = -2. For x < 0 a root needs r > 0, and there (x r)' = r + x r' > 0: one root. So s'
# falls, rises between the two roots, falls; its one zero lies between them.
MISH_TURNS = nearest(-2.256376396360793120005749), nearest(1.490571179485428459294419)
MISH_LOW, MISH_HIGH = nearest(-0.112526122389462556407328), nearest(1.088498161251727861228294)
MISH_ZERO, MISH_VALUE = nearest(-1.192431214515495212137588), nearest(-0.308843413017250406628760)


def _mish_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """T and T' from e = exp(-|x|), numerator and denominator divided by exp(2x) for x > 0. No cancellation."""
    e = torch.exp(-x.abs())
    right = x > 0
    top = torch.where(right, 1 + 2 * e, e * (e + 2))
    bottom = torch.where(right, 1 + 2 * e * (1 + e), 2 + e * (e + 2))
    return top / bottom, torch.where(right, e, 1.0) * (4 * e * (1 + e) / bottom**2)


def _mish_slope(x: Tensor) -> Pair:
    gate, slope = _mish_parts(x)
    bend = _gate(x, slope)
    return enclose(gate + bend, 72.0, size=gate + bend.abs())


MISH = row(
    "mish",
    F.mish,
    Curve(
        _mish_slope,
        always(MISH_LOW, MISH_HIGH),
        lambda: (turn(MISH_TURNS[0], MISH_LOW), turn(MISH_TURNS[1], MISH_HIGH)),
    ),
    Curve(
        lambda x: enclose(_gate(x, _mish_parts(x)[0]), 32.0),
        always(MISH_VALUE, INF),
        lambda: (turn(MISH_ZERO, MISH_VALUE),),
    ),
)


# gelu_tanh(x) = x (1 + tanh(k (x + b x^3))) / 2, k > 0, b >= 0; torch: k = sqrt(2 / pi), b = 0.044715. With t = k x and
# q = b / k^2 it is F(t) / k, F = t (1 + tanh h) / 2, h = t + q t^3. G = F' = (1 + tanh h) / 2 + t h' / (2 cosh^2 h) has
# G(-t) = 1 - G(t), and G' cosh^2 h = 1 + 6 q t^2 - t (1 + 3 q t^2)^2 tanh h. For t > 0 that is zero where
# t tanh h = (1 + 2w) / (1 + w)^2, w = 3 q t^2: the left side rises, the right side falls, so G turns at one t > 0 and
# at its mirror image. G(-u) = 0 where u h'(u) (1 + tanh h(u)) = 1, whose left side rises: F turns once.
@dataclass(frozen=True)
class GeluTanh:
    """Turning points in t and extremes for one q, each an enclosure (lower, upper)."""

    turn: tuple[float, float]
    high: tuple[float, float]  # G at the turning point t > 0
    zero: tuple[float, float]  # F turns at t = -zero
    value: tuple[float, float]  # F there


MARGIN = 64 * ULP  # covers the roundings of q and of both sides of the two equations


@lru_cache(maxsize=256)
def gelu_tanh_facts(q: float) -> GeluTanh:
    def h(t: float) -> float:
        return t * (1 + q * t * t)

    def w(t: float) -> float:
        return 3 * q * t * t

    t0, t1 = _root(lambda t: (t * math.tanh(h(t)), (1 + 2 * w(t)) / (1 + w(t)) ** 2))
    u0, u1 = _root(lambda u: (u * (1 + w(u)) * (1 + math.tanh(h(u))), 1.0))

    def slope(rising: float, falling: float) -> float:
        return (1 + math.tanh(h(rising)) + rising * (1 + w(rising)) / math.cosh(h(falling)) ** 2) / 2

    def depth(rising: float, falling: float) -> float:
        return rising / (1 + math.exp(2 * h(falling)))

    return GeluTanh(
        turn=(t0, t1),
        high=(slope(t0, t1) * (1 - MARGIN), slope(t1, t0) * (1 + MARGIN)),
        zero=(u0, u1),
        value=(-depth(u1, u0) * (1 + MARGIN), -depth(u0, u1) * (1 - MARGIN)),
    )


def _root(sides: Callable[[float], tuple[float, float]]) -> tuple[float, float]:
    """Enclosure of the one t in (0, 2) with left(t) = right(t), left / right rising and both positive.

    Both signs are checked with MARGIN to spare, so the enclosure holds whatever the bisection did."""
    low, high = 0.0, 2.0
    while low < (middle := (low + high) / 2) < high:
        left, right = sides(middle)
        low, high = (low, middle) if left > right else (middle, high)
    width = 64 * ULP
    while width < 1e-6:
        start, end = low * (1 - width), high * (1 + width)
        (left0, right0), (left1, right1) = sides(start), sides(end)
        if left0 * (1 + MARGIN) < right0 and left1 > right1 * (1 + MARGIN):
            return start, end
        width *= 2
    raise RefusedModel("gelu_tanh: the turning points of its derivative could not be enclosed")


def _facts(k: Tensor, b: Tensor) -> GeluTanh:
    return gelu_tanh_facts(b.item() / k.item() ** 2)


def _floats(pair: tuple[float, float]) -> Pair:
    return real(pair[0]), real(pair[1])


def _one_minus(pair: tuple[float, float]) -> Pair:
    return nearest(1 - pair[1])[0], nearest(1 - pair[0])[1]


def _gelu_tanh_parts(x: Tensor, k: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """2h clamped to +-800, and t h'(t) = k x (1 + 3 b x^2); three and four roundings."""
    x = x.clamp(-1e100, 1e100)  # saturated long before
    cube = b * x * x
    return (2 * k * x * (1 + cube)).clamp(-800.0, 800.0), (k * x * (1 + 3 * cube)).clamp(-1e200, 1e200)


def _gelu_tanh_slope(x: Tensor, k: Tensor, b: Tensor) -> Pair:
    y, inner = _gelu_tanh_parts(x, k, b)
    e = torch.exp(-y.abs())
    gate, bend = torch.sigmoid(y), 2 * inner * e / (1 + e) ** 2
    return enclose(gate + bend, 40.0 + 8.0 * y.abs(), size=gate + bend.abs())


def _gelu_tanh_value(x: Tensor, k: Tensor, b: Tensor) -> Pair:
    y, _ = _gelu_tanh_parts(x, k, b)
    return enclose(_gate(x, torch.sigmoid(y)), 16.0 + 4.0 * y.abs())


def _gelu_tanh_slope_turns(k: Tensor, b: Tensor) -> tuple[Landmark, ...]:
    f = _facts(k, b)
    places = _floats((-f.turn[1], -f.turn[0])), _floats(f.turn)
    return _turns(places, (_one_minus(f.high), _floats(f.high)), k, real(1.0))


def _gelu_tanh_value_turns(k: Tensor, b: Tensor) -> tuple[Landmark, ...]:
    f = _facts(k, b)
    return _turns((_floats((-f.zero[1], -f.zero[0])),), (_floats(f.value),), k, 1 / k)


GELU_TANH = row(
    "gelu_tanh",
    lambda x, k, b: x * torch.sigmoid(2 * k * x * (1 + b * x * x)),
    Curve(
        _gelu_tanh_slope,
        lambda k, b: (_one_minus(_facts(k, b).high)[0], real(_facts(k, b).high[1])),
        _gelu_tanh_slope_turns,
    ),
    Curve(
        _gelu_tanh_value,
        lambda k, b: (_gelu_tanh_value_turns(k, b)[0].before[0], real(INF)),
        _gelu_tanh_value_turns,
    ),
    parameters={"k": 0.79788456080286535588, "cubic": 0.044715},
    refuses=lambda k, b: (
        _single(k, b) or positive(k=k) or not_negative(cubic=b) or moderate(k=k, cubic=b) or _tame(k, b)
    ),
)


def _single(*params: float | Tensor) -> str | None:
    return None if all(real(p).numel() == 1 for p in params) else "coefficients must be single numbers"


def _tame(k: float | Tensor, b: float | Tensor) -> str | None:
    return None if bool(real(b) <= 1e24 * real(k) ** 2) else "cubic is too large for k"


GATED: dict[str, Activation] = {
    "gelu_erf": GELU_ERF,
    "gelu_tanh": GELU_TANH,
    "silu": SILU,
    "quick_gelu": replace(SILU, name="quick_gelu", parameters={"slope": 1.702}),
    "mish": MISH,
}
