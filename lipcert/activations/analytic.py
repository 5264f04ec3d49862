"""Exponentials, logarithms, powers, hyperbolic and inverse trigonometric functions: mostly unbounded slopes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.activations.admit import moderate, nonzero
from lipcert.activations.curve import Curve, Landmark, Pair, always, enclose, exact, nearest, pole, real, turn
from lipcert.activations.row import Activation, row

INF = math.inf
ZERO, ONE = exact(0.0), exact(1.0)
HALF_PI, PI = nearest(1.5707963267948966192313), nearest(3.1415926535897932384626)
POSITIVE = (0.0, INF)

EXP_CURVE = Curve(lambda x: enclose(torch.exp(x)), always(0.0, INF))
EXP = row("exp", torch.exp, EXP_CURVE, EXP_CURVE, monotone=True, curvatures_on=EXP_CURVE)
EXPM1 = row(
    "expm1",
    torch.expm1,
    EXP_CURVE,
    Curve(lambda x: enclose(torch.expm1(x)), always(-1.0, INF)),
    monotone=True,
    curvatures_on=EXP_CURVE,
)

# log: 1 / x on x > 0 (|x| so that -0.0 reads as 0); log1p: 1 / (1 + x) on x > -1
LOG = row(
    "log",
    torch.log,
    Curve(lambda x: enclose(1 / x.abs(), 2.0), always(0.0, INF), domain=POSITIVE),
    Curve(lambda x: enclose(torch.log(x)), always(-INF, INF), domain=POSITIVE),
    monotone=True,
    curvatures_on=Curve(lambda x: enclose(-1 / x.abs() / x.abs(), 3.0), always(-INF, 0.0), domain=POSITIVE),
)
LOG1P = row(
    "log1p",
    torch.log1p,
    Curve(lambda x: enclose(1 / (1 + x), 3.0), always(0.0, INF), domain=(-1.0, INF)),
    Curve(lambda x: enclose(torch.log1p(x)), always(-INF, INF), domain=(-1.0, INF)),
    monotone=True,
    curvatures_on=Curve(lambda x: enclose(-1 / (1 + x) / (1 + x), 6.0), always(-INF, 0.0), domain=(-1.0, INF)),
)

# sqrt: 1 / (2 sqrt x); 1 / sqrt x: -1 / (2 x sqrt x), divided twice so that x sqrt x cannot underflow
SQRT = row(
    "sqrt",
    torch.sqrt,
    Curve(lambda x: enclose(0.5 / x.abs().sqrt(), 3.0), always(0.0, INF), domain=POSITIVE),
    Curve(lambda x: enclose(x.abs().sqrt(), 1.0), always(0.0, INF), domain=POSITIVE),
    monotone=True,
    domain=POSITIVE,
    curvatures_on=Curve(lambda x: enclose(-0.25 / x.abs() / x.abs().sqrt(), 4.0), always(-INF, 0.0), domain=POSITIVE),
)
RSQRT = row(
    "rsqrt",
    torch.rsqrt,
    Curve(lambda x: enclose(-0.5 / x.abs() / x.abs().sqrt(), 4.0), always(-INF, 0.0), domain=POSITIVE),
    Curve(lambda x: enclose(1 / x.abs().sqrt(), 3.0), always(0.0, INF), domain=POSITIVE),
    domain=POSITIVE,
    curvatures_on=Curve(
        lambda x: enclose(0.75 / x.abs() / x.abs() / x.abs().sqrt(), 5.0), always(0.0, INF), domain=POSITIVE
    ),
)

# 1 / x: -1 / x^2 away from 0, and nothing finite across it (there difference quotients take every sign)
RECIPROCAL = row(
    "reciprocal",
    torch.reciprocal,
    Curve(lambda x: enclose(-1 / x.abs() / x.abs(), 3.0), always(-INF, INF), lambda: (pole(ZERO),)),
    Curve(lambda x: enclose(1 / x, 1.0), always(-INF, INF), lambda: (pole(ZERO),)),
    curvatures_on=Curve(lambda x: enclose(2 / x / x / x, 4.0), always(-INF, INF), lambda: (pole(ZERO),)),
)

SQUARE = row(
    "square",
    torch.square,
    Curve(lambda x: exact(2 * x), always(-INF, INF)),
    Curve(lambda x: enclose(x * x, 1.0), always(0.0, INF), lambda: (turn(ZERO, ZERO),)),
    curvatures_on=Curve(lambda x: exact(torch.full_like(x, 2.0)), always(2.0, 2.0)),
    ramps=lambda: ((exact(2.0), ZERO),),
)


# x^n, n a nonzero integer: n x^(n - 1) is monotone on each side of 0, where it is 0 (n > 1), 1 (n = 1) or has a pole.
def _power_slope(x: Tensor, n: Tensor) -> Pair:
    return enclose(torch.where(n == 1, torch.ones_like(x), n * torch.pow(x, n - 1)), 12.0)


def _power_slope_marks(n: Tensor) -> tuple[Landmark, ...]:
    return (pole(ZERO),) if n < 0 else (turn(ZERO, ONE if n == 1 else ZERO),)


def _power_bend(x: Tensor, n: Tensor) -> Pair:
    bend = n * (n - 1) * torch.pow(x, n - 2)
    return enclose(torch.where((n == 1) | (n == 2), n * (n - 1) * torch.ones_like(x), bend), 14.0)


def _power_bend_marks(n: Tensor) -> tuple[Landmark, ...]:
    return (pole(ZERO),) if n < 0 else (turn(ZERO, exact(2.0) if n == 2 else ZERO),)


def _power_slopes(n: Tensor) -> Pair:
    if n == 1:
        return ONE
    odd = bool(n % 2 == 1)
    return real(0.0 if odd and n > 0 else -INF), real(INF)


def _power_values(n: Tensor) -> Pair:
    return real(-INF if bool(n % 2 == 1) else 0.0), real(INF)


def _not_integer(n: float | Tensor) -> str | None:
    value = real(n)
    if value.numel() != 1 or not bool((value == value.round()) & (value != 0) & (value.abs() <= 1e6)):
        return f"exponent must be one nonzero integer of a size up to 1e6, got {n}"
    return None


POW_INT = row(
    "pow_int",
    lambda x, n: torch.pow(x, n),
    Curve(_power_slope, _power_slopes, _power_slope_marks),
    Curve(
        lambda x, n: enclose(torch.pow(x, n), 8.0),
        _power_values,
        lambda n: (pole(ZERO),) if n < 0 else (turn(ZERO, ZERO),),
    ),
    parameters={"exponent": 3.0},
    refuses=_not_integer,
    curvatures_on=Curve(_power_bend, lambda n: (real(-INF), real(INF)), _power_bend_marks),
    ramps=lambda n: ((exact(2.0), ZERO),) if bool((n == 2).all()) else (),
)


# x^r on x >= 0, r a nonzero real: r x^(r - 1) is monotone there
def _real_power_slopes(r: Tensor) -> Pair:
    low = torch.where(r < 0, -INF, torch.where(r == 1, real(1.0), real(0.0)))
    return low, torch.where(r < 0, 0.0, torch.where(r == 1, real(1.0), real(INF)))


def _real_power_slope(x: Tensor, r: Tensor) -> Pair:
    # r - 1 is rounded once, which moves x^(r - 1) by |(r - 1) log x| roundings
    lost = ((r - 1) * torch.log(x.abs())).abs().nan_to_num(nan=0.0).clamp(max=800.0)
    value = torch.where(r == 1, torch.ones_like(x), r * torch.pow(x.abs(), r - 1))
    return enclose(value, 12.0 + lost)


def _real_power_bend(x: Tensor, r: Tensor) -> Pair:
    lost = ((r - 2) * torch.log(x.abs())).abs().nan_to_num(nan=0.0).clamp(max=800.0)
    factor = r * (r - 1)  # r - 1 is rounded: relative to r near 1 that may be all of it
    value = factor * torch.pow(x.abs(), r - 2)
    flat = (r == 1) | (r == 2)
    value = torch.where(flat, factor * torch.ones_like(x), value)
    return enclose(value, 16.0 + lost + 4 / (r - 1).abs().clamp(min=1e-300))


POW = row(
    "pow",
    lambda x, r: torch.pow(x, r),
    Curve(_real_power_slope, _real_power_slopes, domain=POSITIVE),
    Curve(lambda x, r: enclose(torch.pow(x.abs(), r)), always(0.0, INF), domain=POSITIVE),
    parameters={"exponent": 2.5},
    curvatures_on=Curve(_real_power_bend, lambda r: (real(-INF), real(INF)), domain=POSITIVE),
    domain=POSITIVE,
    refuses=lambda r: nonzero(exponent=r) or moderate(exponent=r),
)

SINH = row(
    "sinh",
    torch.sinh,
    Curve(lambda x: enclose(torch.cosh(x)), always(1.0, INF), lambda: (turn(ZERO, ONE),)),
    Curve(lambda x: enclose(torch.sinh(x)), always(-INF, INF)),
    monotone=True,
    curvatures_on=Curve(lambda x: enclose(torch.sinh(x)), always(-INF, INF)),
)
COSH = row(
    "cosh",
    torch.cosh,
    Curve(lambda x: enclose(torch.sinh(x)), always(-INF, INF)),
    Curve(lambda x: enclose(torch.cosh(x)), always(1.0, INF), lambda: (turn(ZERO, ONE),)),
    curvatures_on=Curve(lambda x: enclose(torch.cosh(x)), always(1.0, INF), lambda: (turn(ZERO, ONE),)),
)

# asin: 1 / sqrt((1 - x)(1 + x)); acos the negative; acosh: 1 / sqrt((x - 1)(x + 1)); atanh: 1 / ((1 - x)(1 + x))
UNIT = (-1.0, 1.0)


def _asin_slope(x: Tensor) -> Tensor:
    return 1 / ((1 - x) * (1 + x)).sqrt()


ASIN = row(
    "asin",
    torch.asin,
    Curve(lambda x: enclose(_asin_slope(x), 4.0), always(1.0, INF), lambda: (turn(ZERO, ONE),), UNIT),
    Curve(lambda x: enclose(torch.asin(x)), always((-HALF_PI[1], -HALF_PI[0]), HALF_PI), domain=UNIT),
    monotone=True,
    domain=UNIT,
)
ACOS = row(
    "acos",
    torch.acos,
    Curve(lambda x: enclose(-_asin_slope(x), 4.0), always(-INF, -1.0), lambda: (turn(ZERO, exact(-1.0)),), UNIT),
    Curve(lambda x: enclose(torch.acos(x)), always(0.0, PI), domain=UNIT),
    domain=UNIT,
)
ACOSH = row(
    "acosh",
    torch.acosh,
    Curve(lambda x: enclose(1 / (x - 1).sqrt() / (x + 1).sqrt(), 5.0), always(0.0, INF), domain=(1.0, INF)),
    Curve(lambda x: enclose(torch.acosh(x)), always(0.0, INF), domain=(1.0, INF)),
    monotone=True,
    domain=(1.0, INF),
)
ATANH = row(
    "atanh",
    torch.atanh,
    Curve(lambda x: enclose(1 / ((1 - x) * (1 + x)), 4.0), always(1.0, INF), lambda: (turn(ZERO, ONE),), UNIT),
    Curve(lambda x: enclose(torch.atanh(x)), always(-INF, INF), domain=UNIT),
    monotone=True,
    domain=UNIT,
)

ANALYTIC: dict[str, Activation] = {
    "exp": EXP,
    "expm1": EXPM1,
    "log": LOG,
    "log1p": LOG1P,
    "sqrt": SQRT,
    "rsqrt": RSQRT,
    "reciprocal": RECIPROCAL,
    "square": SQUARE,
    "pow_int": POW_INT,
    "pow": POW,
    "sinh": SINH,
    "cosh": COSH,
    "asin": ASIN,
    "acos": ACOS,
    "acosh": ACOSH,
    "atanh": ATANH,
}
