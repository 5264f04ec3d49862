"""Rows whose derivative is a bump or a step of exponential or algebraic type: sigmoid, tanh, softplus, elu and kin."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lipcert.activations.admit import moderate, not_negative, positive
from lipcert.activations.curve import (
    Curve,
    Landmark,
    Pair,
    always,
    enclose,
    exact,
    hull,
    kink,
    nearest,
    real,
    turn,
)
from lipcert.activations.row import Activation, row

INF = math.inf
ZERO, ONE = exact(0.0), exact(1.0)
HALF_PI = nearest(1.5707963267948966192313)
TWO_OVER_SQRT_PI = nearest(1.1283791670955125738962)  # 2 / sqrt(pi) = erf'(0)


def bump(value: Pair) -> tuple[Landmark, ...]:
    """An even derivative that falls with |x|, from `value` at 0."""
    return (turn(ZERO, value),)


# sigmoid: s' = s (1 - s) = e / (1 + e)^2 with e = exp(-|x|): even, falling in |x|, 1/4 at 0. No cancellation: 8 ULP
# for e, then 2 * 8 e / (1 + e) + roundings.
def _sigmoid_slope(x: Tensor) -> Pair:
    e = torch.exp(-x.abs())
    return enclose(e / (1 + e) ** 2, 24.0)


# s'' = s' (1 - 2 s) = -sign(x) e (1 - e) / (1 + e)^3 is odd. (s' (1 - 2 s))' = s' (1 - 6 s + 6 s^2) is zero where
# s = (1 +- 1 / sqrt 3) / 2: it turns at -+log(2 + sqrt 3), with values +-1 / (6 sqrt 3).
SIGMOID_TURN, SIGMOID_BEND = nearest(1.316957896924816708625), nearest(0.0962250448649376274181)


def _sigmoid_bend(x: Tensor) -> Pair:
    e = torch.exp(-x.abs())
    return enclose(torch.sign(x) * e * torch.expm1(-x.abs()) / (1 + e) ** 3, 64.0)


def wave(place: Pair, height: Pair) -> tuple[Landmark, ...]:
    """An odd curvature that rises to `height` at -`place`, falls to -`height` at `place` and rises to 0."""
    return turn(opposite(place), height), turn(place, opposite(height))


def opposite(pair: Pair) -> Pair:
    return -pair[1], -pair[0]


SIGMOID = row(
    "sigmoid",
    torch.sigmoid,
    Curve(_sigmoid_slope, always(0.0, 0.25), lambda: bump(exact(0.25))),
    Curve(lambda x: enclose(torch.sigmoid(x)), always(0.0, 1.0)),
    monotone=True,
    curvatures_on=Curve(
        _sigmoid_bend, always(opposite(SIGMOID_BEND), SIGMOID_BEND), lambda: wave(SIGMOID_TURN, SIGMOID_BEND)
    ),
)

# logsigmoid(x) = -log(1 + exp(-x)): s' = sigmoid(-x), falling from 1 to 0
LOGSIGMOID = row(
    "logsigmoid",
    F.logsigmoid,
    Curve(lambda x: enclose(torch.sigmoid(-x)), always(0.0, 1.0)),
    Curve(lambda x: enclose(F.logsigmoid(x), 24.0), always(-INF, 0.0)),
    monotone=True,
    curvatures_on=Curve(lambda x: opposite(_sigmoid_slope(x)), always(-0.25, 0.0), lambda: bump(exact(-0.25))),
)


# tanh: s' = 1 / cosh^2 = 4 e / (1 + e)^2 with e = exp(-2 |x|)
def _tanh_slope(x: Tensor) -> Pair:
    e = torch.exp(-2 * x.abs())
    return enclose(4 * e / (1 + e) ** 2, 28.0)


# s'' = -2 tanh / cosh^2, and with t = tanh, (-2 t (1 - t^2))' = -2 (1 - t^2) (1 - 3 t^2): it turns where t^2 = 1/3, with
# values 4 / (3 sqrt 3).
TANH_TURN, TANH_BEND = nearest(0.65847894846240835431252), nearest(0.769800358919501019345532)


def _tanh_bend(x: Tensor) -> Pair:
    e = torch.exp(-2 * x.abs())
    return enclose(-8 * torch.tanh(x) * e / (1 + e) ** 2, 48.0)


TANH = row(
    "tanh",
    torch.tanh,
    Curve(_tanh_slope, always(0.0, 1.0), lambda: bump(ONE)),
    Curve(lambda x: enclose(torch.tanh(x)), always(-1.0, 1.0)),
    monotone=True,
    curvatures_on=Curve(_tanh_bend, always(opposite(TANH_BEND), TANH_BEND), lambda: wave(TANH_TURN, TANH_BEND)),
)


# tanhshrink(x) = x - tanh x: s' = tanh^2, falling to 0 at 0, then rising. The value loses its relative accuracy near 0.
TANHSHRINK = row(
    "tanhshrink",
    lambda x: x - torch.tanh(x),
    Curve(lambda x: enclose(torch.tanh(x) ** 2, 20.0), always(0.0, 1.0), lambda: bump(ZERO)),
    Curve(lambda x: enclose(x - torch.tanh(x), 12.0, size=x.abs()), always(-INF, INF)),
    monotone=True,
)

# softplus(x) = log(1 + exp(beta x)) / beta: s' = sigmoid(beta x), rising from 0 to 1. torch returns x where beta x >
# threshold. With threshold >= 20 that changes the value by less than exp(-threshold) / beta <= 2.1e-9 / beta and is a
# device of evaluation, not of the model (ONNX has no threshold): the row is the smooth function and says so. Below 20
# it is a jump of log1p(exp(-threshold)) / beta downwards, and no finite slope holds across it.
DEVICE = 20.0


def _scaled(x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """y = beta x within +-800, and the ULPs by which functions of the size exp(-|y|) move with the roundings of y."""
    y = (beta * x).clamp(-800.0, 800.0)
    return y, y.abs() + 16.0


def _softplus(x: Tensor, beta: float | Tensor, threshold: float) -> Tensor:
    y = beta * x
    smooth = torch.logaddexp(y, torch.zeros_like(y)) / beta
    return smooth if threshold >= DEVICE else torch.where(y > threshold, x, smooth)


def _softplus_slope(x: Tensor, beta: Tensor, threshold: Tensor) -> Pair:
    y, ulps = _scaled(x, beta)
    low, high = enclose(torch.sigmoid(y), ulps)
    linear = beta * x > _jump(threshold)
    return torch.where(linear, 1.0, low), torch.where(linear, 1.0, high)


def _jump(threshold: Tensor) -> Tensor:
    return threshold.masked_fill(threshold >= DEVICE, INF)


def _softplus_jump(beta: Tensor, threshold: Tensor, before: Pair, after: Pair) -> tuple[Landmark, ...]:
    start, end = enclose(threshold / beta, 4.0)
    device = threshold >= DEVICE
    return (Landmark(start.masked_fill(device, INF), end.masked_fill(device, -INF), before, after, breaks=True),)


def _softplus_value(x: Tensor, beta: Tensor, threshold: Tensor) -> Pair:
    y = beta * x
    ulps = (-y).clamp(0.0, 800.0) + 24.0  # |y| s'(y) / s(y) is at most |y| for y < 0, and 1.3 for y > 0
    low, high = enclose(torch.logaddexp(y, torch.zeros_like(y)) / beta, ulps)
    linear = y > _jump(threshold)
    return torch.where(linear, x, low), torch.where(linear, x, high)


def _softplus_value_marks(beta: Tensor, threshold: Tensor) -> tuple[Landmark, ...]:
    corner = threshold / beta
    after = enclose(corner, 4.0)
    before = enclose(torch.logaddexp(threshold, torch.zeros_like(threshold)) / beta, 24.0)
    return _softplus_jump(beta, threshold, before, after)


def _softplus_values(beta: Tensor, threshold: Tensor) -> Pair:
    """Positive, but for the linear branch down to threshold / beta."""
    return torch.minimum(enclose(threshold / beta, 4.0)[0], real(0.0)), real(INF)


def _softplus_bend(x: Tensor, beta: Tensor, threshold: Tensor) -> Pair:
    """beta e / (1 + e)^2, e = exp(-|beta x|): even, falling from beta / 4. 0 on the linear branch."""
    y, ulps = _scaled(x, beta)
    e = torch.exp(-y.abs())
    low, high = enclose(beta * e / (1 + e) ** 2, ulps + 16.0)
    linear = beta * x > _jump(threshold)
    return torch.where(linear, 0.0, low), torch.where(linear, 0.0, high)


def _softplus_most(beta: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(threshold >= DEVICE, beta / 4, real(INF))


def _softplus_bend_marks(beta: Tensor, threshold: Tensor) -> tuple[Landmark, ...]:
    anything = real(-INF), real(INF)
    return *bump(exact(beta / 4)), *_softplus_jump(beta, threshold, anything, anything)


SOFTPLUS = row(
    "softplus",
    _softplus,
    Curve(
        _softplus_slope,
        lambda beta, threshold: (torch.where(threshold >= DEVICE, 0.0, real(-INF)), real(1.0)),
        lambda beta, threshold: _softplus_jump(beta, threshold, (real(-INF), real(1.0)), ONE),
    ),
    Curve(_softplus_value, _softplus_values, _softplus_value_marks),
    parameters={"beta": 1.0, "threshold": 20.0},
    monotone=False,  # a threshold below 20 makes it jump down
    curvatures_on=Curve(
        _softplus_bend,
        lambda beta, threshold: (torch.where(threshold >= DEVICE, 0.0, real(-INF)), _softplus_most(beta, threshold)),
        _softplus_bend_marks,
    ),
    kinks=lambda beta, threshold: () if threshold >= DEVICE else (threshold / beta,),
    refuses=lambda beta, threshold: positive(beta=beta) or moderate(beta=beta),
    assumption="softplus is log(1 + exp(beta x)) / beta; torch's linear branch for beta x > threshold (>= 20), which "
    "moves the value by less than 2.1e-9 / beta, is taken as a device of evaluation",
)


# softsign(x) = x / (c + |x|), c > 0: s' = c / (c + |x|)^2
def _softsign_value(x: Tensor, c: Tensor) -> Pair:
    return enclose(torch.sign(x) / (1 + c / x.abs()), 4.0)


SOFTSIGN = row(
    "softsign",
    lambda x, c: x / (c + x.abs()),
    Curve(
        lambda x, c: enclose(c / (c + x.abs()) / (c + x.abs()), 4.0),
        lambda c: (real(0.0), _inverse(c)[1]),
        lambda c: bump(_inverse(c)),
    ),
    Curve(_softsign_value, always(-1.0, 1.0)),
    parameters={"offset": 1.0},
    monotone=True,
    refuses=lambda c: positive(offset=c) or moderate(offset=c),
)


def _inverse(c: Tensor) -> Pair:
    return torch.where(c == 1, c, enclose(1 / c, 1.0)[0]), torch.where(c == 1, c, enclose(1 / c, 1.0)[1])


# atan: 1 / (1 + x^2); asinh: 1 / sqrt(1 + x^2); erf: 2 / sqrt(pi) exp(-x^2), where a rounding of x^2 moves the result
# by x^2 of its ULPs
def _erf_slope(x: Tensor) -> Pair:
    square = (x * x).clamp(max=800.0)
    return enclose(TWO_OVER_SQRT_PI[0] * torch.exp(-square), square + 16.0)


# their curvatures: atan'' = -2 x / (1 + x^2)^2 turns where 3 x^2 = 1, erf'' = -2 x erf' where 2 x^2 = 1
ATAN_TURN, ATAN_BEND = nearest(0.57735026918962576450915), nearest(0.64951905283832898507279)
ERF_TURN, ERF_BEND = nearest(0.70710678118654752440084), nearest(0.96788289807657339919139)


def _atan_bend(x: Tensor) -> Pair:
    x = x.clamp(-1e100, 1e100)  # below TINY long before
    square = 1 + x * x
    return enclose(-2 * x / square / square, 12.0)


def _erf_bend(x: Tensor) -> Pair:
    x = x.clamp(-28.0, 28.0)  # exp(-28^2) < 1e-340
    square = x * x
    return enclose(-2 * x * (TWO_OVER_SQRT_PI[0] * torch.exp(-square)), square + 24.0)


ATAN = row(
    "atan",
    torch.atan,
    Curve(lambda x: enclose(1 / (1 + x * x), 4.0), always(0.0, 1.0), lambda: bump(ONE)),
    Curve(lambda x: enclose(torch.atan(x)), always((-HALF_PI[1], -HALF_PI[0]), HALF_PI)),
    monotone=True,
    curvatures_on=Curve(_atan_bend, always(opposite(ATAN_BEND), ATAN_BEND), lambda: wave(ATAN_TURN, ATAN_BEND)),
)
ASINH = row(
    "asinh",
    torch.asinh,
    Curve(lambda x: enclose(1 / torch.hypot(x, torch.ones_like(x)), 12.0), always(0.0, 1.0), lambda: bump(ONE)),
    Curve(lambda x: enclose(torch.asinh(x)), always(-INF, INF)),
    monotone=True,
)
ERF = row(
    "erf",
    torch.erf,
    Curve(_erf_slope, always(0.0, TWO_OVER_SQRT_PI), lambda: bump(TWO_OVER_SQRT_PI)),
    Curve(lambda x: enclose(torch.erf(x)), always(-1.0, 1.0)),
    monotone=True,
    curvatures_on=Curve(_erf_bend, always(opposite(ERF_BEND), ERF_BEND), lambda: wave(ERF_TURN, ERF_BEND)),
)


# elu(x) = k x for x > 0, else k a (exp(i x) - 1), with a = alpha >= 0, k = scale > 0, i = input_scale > 0 (aten.elu):
# the slope rises from 0 to k a i, jumps to k at 0 and stays.
def _elu(x: Tensor, a: float | Tensor, k: float | Tensor, i: float | Tensor) -> Tensor:
    return torch.where(x > 0, k * x, k * a * torch.expm1(i * x.clamp(max=0.0)))


def _elu_slope(x: Tensor, a: Tensor, k: Tensor, i: Tensor) -> Pair:
    y, ulps = _scaled(x.clamp(max=0.0), i)
    low, high = enclose(k * a * i * torch.exp(y), ulps)
    return torch.where(x > 0, k, low), torch.where(x > 0, k, high)


def _elu_value(x: Tensor, a: Tensor, k: Tensor, i: Tensor) -> Pair:
    y = i * x.clamp(max=0.0)
    low, high = enclose(k * a * torch.expm1(y), 24.0)  # |y exp(y) / expm1(y)| <= 1: a rounding of y costs one
    line = enclose(k * x.clamp(min=0.0), 1.0)
    return torch.where(x > 0, line[0], low), torch.where(x > 0, line[1], high)


def _elu_end(a: Tensor, k: Tensor, i: Tensor) -> Pair:
    """The slope k a i at 0 from the left; exactly k where a = i = 1."""
    plain = (a == 1) & (i == 1)
    low, high = enclose(k * a * i, 4.0, tiny=0.0)
    return torch.where(plain, k, low), torch.where(plain, k, high)


ELU = row(
    "elu",
    _elu,
    Curve(
        _elu_slope,
        lambda a, k, i: hull(ZERO, _elu_end(a, k, i), exact(k)),
        lambda a, k, i: (kink(ZERO, _elu_end(a, k, i), exact(k)),),
    ),
    Curve(_elu_value, lambda a, k, i: (enclose(-k * a, 4.0)[0], real(INF))),
    parameters={"alpha": 1.0, "scale": 1.0, "input_scale": 1.0},
    monotone=True,
    kinks=lambda a, k, i: (0.0,),
    refuses=lambda a, k, i: (
        positive(scale=k, input_scale=i) or not_negative(alpha=a) or moderate(alpha=a, scale=k, input_scale=i)
    ),
)

# torch's constants, from Klambauer et al. 2017, section 2
SELU_CONSTANTS = (real(1.6732632423543772848170429916717), real(1.0507009873554804934193349852946), real(1.0))
SELU = row(
    "selu",
    F.selu,
    Curve(
        lambda x: _elu_slope(x, *SELU_CONSTANTS),
        lambda: hull(ZERO, _elu_end(*SELU_CONSTANTS)),
        lambda: (kink(ZERO, _elu_end(*SELU_CONSTANTS), exact(SELU_CONSTANTS[1])),),
    ),
    Curve(lambda x: _elu_value(x, *SELU_CONSTANTS), always(-1.758099340847377, INF)),
    monotone=True,
    kinks=lambda: (0.0,),
)


# celu(x) = x for x > 0, else a (exp(x / a) - 1): elu with input_scale 1 / a, so the slope meets 1 at 0 and has no jump
def _celu(x: Tensor, a: float | Tensor) -> Tensor:
    return torch.where(x > 0, x, a * torch.expm1(x.clamp(max=0.0) / a))


CELU = row(
    "celu",
    _celu,
    Curve(lambda x, a: _elu_slope(x, a, real(1.0), 1 / a), always(0.0, 1.0), lambda a: (kink(ZERO, ONE, ONE),)),
    Curve(lambda x, a: _elu_value(x, a, real(1.0), 1 / a), lambda a: (enclose(-a, 2.0)[0], real(INF))),
    parameters={"alpha": 1.0},
    monotone=True,
    refuses=lambda a: positive(alpha=a) or moderate(alpha=a),
)

SATURATING: dict[str, Activation] = {
    "sigmoid": SIGMOID,
    "logsigmoid": LOGSIGMOID,
    "tanh": TANH,
    "tanhshrink": TANHSHRINK,
    "softplus": SOFTPLUS,
    "softsign": SOFTSIGN,
    "atan": ATAN,
    "asinh": ASINH,
    "erf": ERF,
    "elu": ELU,
    "selu": SELU,
    "celu": CELU,
}
