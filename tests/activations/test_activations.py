"""Every row of the table against mpmath, an oracle that shares no formula with it.

`violations` samples intervals of all sizes around every kink and turning point; each claim has a planted error that it
must catch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch.nn import functional as F

from lipcert.activations import ACTIVATIONS, Activation, Elementwise
from lipcert.activations.curve import Curve, chords, no_landmarks
from lipcert.terms.errors import RefusedModel

mp.dps = 60
INF = math.inf
RESOLUTION = mpf(10) ** -50  # relative accuracy of the oracle


def step(x, low, at, high):
    return low if x < 0 else high if x > 0 else at


def trunc(x):
    return mpmath.floor(x) if x >= 0 else mpmath.ceil(x)


def nearest_even(x):
    low = mpmath.floor(x)
    half = x - low - mpf(1) / 2
    return low + (1 if half > 0 or (half == 0 and int(low) % 2) else 0)


def clip(x, low, high):
    return min(max(x, low), high)


def sigma(x):
    return 1 / (1 + mpmath.exp(-x))


def log1p_exp(x):
    return max(x, mpf(0)) + mpmath.log1p(mpmath.exp(-abs(x)))


def softplus(x, beta, threshold):
    return x if threshold < 20 and beta * x > threshold else log1p_exp(beta * x) / beta


def elu(x, a, k, i):
    return k * x if x > 0 else k * a * mpmath.expm1(i * x)


def erfc(y):
    return mpmath.erfc(y) if abs(y) < 1e6 else mpf(0 if y > 0 else 2)  # mpmath overflows beyond 1e15


def modulo(x, c, rounded):
    with mp.workdps(700):  # x / c may have 600 digits before the point
        return x - c * rounded(x / c)


SELU = mpf(1.6732632423543772848170429916717), mpf(1.0507009873554804934193349852946)
F32 = {"k": float(torch.tensor(0.5).sqrt()), "tanh": float(torch.tensor(2 / math.pi).sqrt())}

# name -> oracle (x, *params), parameter choices besides the defaults
ORACLE: dict[str, tuple[Callable, list[tuple]]] = {
    "relu": (lambda x: max(x, mpf(0)), []),
    "relu6": (lambda x: clip(x, mpf(0), mpf(6)), []),
    "leaky_relu": (lambda x, s: x if x > 0 else s * x, [(0.0,), (-0.3,), (2.0,), (1.0,), (1e-40,)]),
    "prelu": (lambda x, s: x if x > 0 else s * x, [(-1.5,)]),
    "abs": (abs, []),
    "neg": (lambda x: -x, []),
    "clamp": (clip, [(-1.0, INF), (-INF, 0.3), (0.25, 0.5), (2.0, 2.0)]),
    "hardtanh": (clip, [(0.0, 20.0)]),
    "hardsigmoid": (lambda x, a, b: clip(a * x + b, mpf(0), mpf(1)), [(0.2, 0.5), (0.1, -0.7), (3.0, 1.5)]),
    "hardswish": (
        lambda x, a, c, d: x * clip(x + a, mpf(0), c) / d,
        [(1.0, 0.3, 2.0), (-1.0, 2.0, 0.7), (0.1, 8.0, 1.0)],
    ),
    "softshrink": (lambda x, k: x - k if x > k else x + k if x < -k else mpf(0), [(0.0,), (0.1,)]),
    "sigmoid": (sigma, []),
    "logsigmoid": (lambda x: -log1p_exp(-x), []),
    "tanh": (mpmath.tanh, []),
    "tanhshrink": (lambda x: x - mpmath.tanh(x), []),
    "softplus": (softplus, [(5.0, INF), (0.3, 100.0), (1.0, 3.0), (2.0, -1.0)]),
    "softsign": (lambda x, c: x / (c + abs(x)), [(0.1,), (7.0,)]),
    "atan": (mpmath.atan, []),
    "asinh": (mpmath.asinh, []),
    "erf": (mpmath.erf, []),
    "elu": (elu, [(0.3, 1.0, 1.0), (2.5, 1.3, 0.7), (0.0, 1.0, 1.0)]),
    "selu": (lambda x: elu(x, *SELU, 1), []),
    "celu": (lambda x, a: x if x > 0 else a * mpmath.expm1(x / a), [(0.3,), (4.0,)]),
    "gelu_erf": (lambda x, k, c: c * x * erfc(-k * x) / 2, [(F32["k"], 1.0), (2.0, 0.3)]),
    "gelu_tanh": (
        lambda x, k, b: x * sigma(2 * k * (x + b * x**3)),
        [(F32["tanh"], 0.044715), (1.0, 0.0), (0.5, 10.0), (3.0, 1e3), (1e-3, 1e-8)],
    ),
    "silu": (lambda x, a: x * sigma(a * x), [(1.702,), (0.01,), (50.0,)]),
    "quick_gelu": (lambda x, a: x * sigma(a * x), []),
    "mish": (lambda x: x * mpmath.tanh(log1p_exp(x)), []),
    "exp": (mpmath.exp, []),
    "expm1": (mpmath.expm1, []),
    "log": (mpmath.log, []),
    "log1p": (mpmath.log1p, []),
    "sqrt": (mpmath.sqrt, []),
    "rsqrt": (lambda x: 1 / mpmath.sqrt(x), []),
    "reciprocal": (lambda x: 1 / x, []),
    "square": (lambda x: x * x, []),
    "pow_int": (lambda x, n: x ** int(n), [(1.0,), (2.0,), (4.0,), (7.0,), (-1.0,), (-2.0,), (-3.0,)]),
    "pow": (lambda x, r: x**r, [(0.5,), (1.0,), (0.3,), (1.7,), (-0.5,), (-2.0,)]),
    "sinh": (mpmath.sinh, []),
    "cosh": (mpmath.cosh, []),
    "asin": (mpmath.asin, []),
    "acos": (mpmath.acos, []),
    "acosh": (mpmath.acosh, []),
    "atanh": (mpmath.atanh, []),
    "sin": (mpmath.sin, []),
    "cos": (mpmath.cos, []),
    "tan": (mpmath.tan, []),
    "floor": (mpmath.floor, []),
    "ceil": (mpmath.ceil, []),
    "round": (nearest_even, []),
    "trunc": (trunc, []),
    "sign": (lambda x: step(x, mpf(-1), mpf(0), mpf(1)), []),
    "heaviside": (lambda x, v: step(x, mpf(0), v, mpf(1)), [(0.0,), (1.0,)]),
    "frac": (lambda x: x - trunc(x), []),
    "fmod": (lambda x, c: modulo(x, c, trunc), [(0.3,), (-2.0,)]),
    "remainder": (lambda x, c: modulo(x, c, mpmath.floor), [(0.3,), (-2.0,)]),
    "hardshrink": (lambda x, k: x if abs(x) > k else mpf(0), [(0.0,)]),
    "threshold": (lambda x, t, v: x if x > t else v, [(0.1, 0.1), (1.0, -2.0), (-1.0, 3.0)]),
}
# Real constants that floats only approach: the float row must also enclose the function with the true constant.
TRUE_CONSTANTS = {
    "hardsigmoid": (mpf(1) / 6, mpf(1) / 2),
    "gelu_erf": (1 / mp.sqrt(2), mpf(1)),
    "gelu_tanh": (mp.sqrt(2 / mp.pi), mpf("0.044715")),
}


def bound_params(name: str) -> list[tuple[float, ...]]:
    return [tuple(ACTIVATIONS[name].parameters.values()), *ORACLE[name][1]]


CASES = [(name, p) for name in ORACLE for p in bound_params(name)]
IDS = [f"{name}{p if p else ''}" for name, p in CASES]


def exactly(p: tuple[float, ...]) -> tuple:
    return tuple(mpf(v) for v in p)


def column(values) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def special_points(e: Elementwise) -> list[float]:
    """Kinks, turning points of s and s', poles, jumps, inside the domain."""
    points = [0.0, 1.0, -1.0, math.pi / 2, 2.5, *(float(k) for k in e.kinks())]
    for curve in (ACTIVATIONS[e.name].slopes_on, ACTIVATIONS[e.name].values_on):
        if isinstance(curve, Curve):
            points += [
                float(m.start) for m in curve.landmarks(*(torch.tensor(p, dtype=torch.float64) for p in e.params))
            ]
    low, high = e.row.domain
    return [p for p in points if low <= p <= high and math.isfinite(p)]


def intervals(e: Elementwise, count: int, seed: int = 0) -> list[tuple[float, float]]:
    draw = random.Random(f"{e.name}{e.params}{seed}")
    low, high = e.row.domain
    special, found = special_points(e), []
    while len(found) < count:
        center = draw.choice(special) if draw.random() < 0.6 else draw.gauss(0, 1) * 10 ** draw.uniform(-9, 3)
        width = draw.choice([0.0, 0.0, *(10 ** draw.uniform(*r) for r in ((-17, -6), (-6, -1), (-1, 1), (0, 4)))])
        where = draw.choice([0.0, 0.0, 1.0, draw.random()])
        lo, hi = center - where * width, center + (1 - where) * width
        if draw.random() < 0.1:
            lo, hi = draw.choice([(-INF, hi), (lo, INF), (-INF, INF), (lo - 1e10, hi), (lo, hi + 1e10)])
        lo, hi = max(lo, low), min(hi, high)
        if draw.random() < 0.2:
            lo = math.nextafter(lo, hi)
        if lo <= hi and not (lo == hi and math.isinf(lo)):
            found.append((lo, hi))
    return found


def inner_points(e: Elementwise, lo: float, hi: float, draw: random.Random) -> list[float]:
    a = lo if lo > -INF else -max(1e12, 2 * abs(hi) if hi < INF else 0.0)
    b = hi if hi < INF else max(1e12, 2 * abs(a))
    points = {a, b, a + draw.random() * (b - a), math.nextafter(a, b)}
    points |= {q for s in special_points(e) for q in (s, math.nextafter(s, INF)) if a <= q <= b}
    if b - a > 50:
        points |= {c for c in (draw.gauss(0, 3), a + draw.random() * 40) if a <= c <= b}
    low, high = e.row.domain
    return sorted(p for p in points if a <= p <= b and low <= p <= high)


def value_or_none(f, x: float, p: tuple):
    try:
        v = f(mpf(x), *p)
    except (ZeroDivisionError, ValueError):
        return None  # a pole, or the open end of the domain
    return v if isinstance(v, mpf | int) and mpmath.isfinite(v) else None


def violations(e: Elementwise, f: Callable, p: tuple | None = None, count: int = 40) -> list[str]:
    """Values, difference quotients and chords of the oracle that fall outside what the row claims."""
    p = exactly(e.params) if p is None else p
    draw = random.Random(1)
    spans = intervals(e, count)
    inner = [inner_points(e, lo, hi, draw) for lo, hi in spans]
    centers = [draw.choice(points) for points in inner]
    lo, hi = column(s[0] for s in spans), column(s[1] for s in spans)
    claims = [e.slopes_on(lo, hi), e.values_on(lo, hi), e.chords_on(column(centers), lo, hi)]
    slopes, values, chords = ([(mpf(a), mpf(b)) for a, b in zip(*(t.tolist() for t in c), strict=True)] for c in claims)
    found = []

    def check(kind: str, span, claim, value, slack) -> None:
        if not claim[0] - slack <= value <= claim[1] + slack:
            found.append(f"{kind} on {span}: {mpmath.nstr(value, 20)} outside {[mpmath.nstr(c, 20) for c in claim]}")

    for i, span in enumerate(spans):
        known = [(x, v) for x in inner[i] if (v := value_or_none(f, x, p)) is not None]
        for _, v in known:
            check("value", span, values[i], v, RESOLUTION * abs(v))
        v_center = value_or_none(f, centers[i], p)
        pairs = [*pairwise(known), *((known[0], last) for last in known[-1:])]
        for (x, v), (y, w) in pairs:
            if x != y:
                slack = RESOLUTION * (abs(v) + abs(w)) / abs(mpf(y) - mpf(x))
                check("slope", span, slopes[i], (w - v) / (mpf(y) - mpf(x)), slack)
        for x, v in known:
            if x != centers[i] and v_center is not None:
                run = mpf(x) - mpf(centers[i])
                check("chord", span, chords[i], (v - v_center) / run, RESOLUTION * (abs(v) + abs(v_center)) / abs(run))
    return found


def test_every_row_has_an_oracle_and_its_own_name():
    assert set(ORACLE) == set(ACTIVATIONS) == set(TORCH) == set(CONSTANTS)
    assert all(row.name == name for name, row in ACTIVATIONS.items())


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_slopes_values_and_chords_enclose_the_oracle(name, params):
    assert violations(Elementwise(ACTIVATIONS[name], params), ORACLE[name][0]) == []


@pytest.mark.parametrize("name", TRUE_CONSTANTS)
def test_rounded_constants_also_cover_the_real_ones(name):
    e = Elementwise(ACTIVATIONS[name], tuple(ACTIVATIONS[name].parameters.values()))
    assert violations(e, ORACLE[name][0], TRUE_CONSTANTS[name]) == []


# Sizes at which sums of parameters round and products come near underflow.
EXTREME = [
    *(("leaky_relu", (s,)) for s in (1e300, -1e-300, 5e-324)),
    *(("hardsigmoid", p) for p in ((1e-30, 0.0), (1e30, 1e30), (1e-3, -1e5), (7.0, -1e-30))),
    *(("hardswish", p) for p in ((1e30, 1e-30, 1e30), (-1e30, 1e30, 1e-30), (3.0, 1e-20, 1.0), (0.0, 6.0, 6.0))),
    *(("softplus", p) for p in ((1e-30, 20.0), (1e30, INF), (1e30, -50.0), (1e-30, 19.0))),
    *(("elu", p) for p in ((1e30, 1e30, 1e30), (1e-30, 1e-30, 1e-30), (1e30, 1.0, 1e-30), (0.0, 1e30, 1.0))),
    *((name, (s,)) for name in ("softsign", "celu", "silu") for s in (1e-30, 1e30, 3e-7)),
    *(("gelu_erf", p) for p in ((1e30, 1e-30), (1e-30, 1e30), (1e30, 1e30))),
    *(("gelu_tanh", p) for p in ((1e-30, 0.0), (1e30, 1e30), (1e30, 0.0), (5.0, 2.5e25))),
    *(("pow", (r,)) for r in (1e-30, 300.0, -300.7, 1.0000000000000002, 0.9999999999999999)),
    *(("pow_int", (float(n),)) for n in (101, -100, 1000000, -999999)),
    *((name, (c,)) for name in ("fmod", "remainder") for c in (1e-30, -1e30, 1e-7)),
    *((name, (k,)) for name in ("softshrink", "hardshrink") for k in (1e300, 5e-324)),
    *(("threshold", p) for p in ((1e300, -1e300), (-5e-324, 5e-324))),
    *(("clamp", p) for p in ((-1e300, 1e300), (5e-324, 5e-324))),
]


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "params"), EXTREME)
def test_extreme_parameters_are_enclosed_or_refused(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    assert violations(e, ORACLE[name][0], count=30) == []
    assert not e.row.monotone or e.slopes()[0] >= 0


# Planted errors ------------------------------------------------------------------------------------------------------


def planted(name: str, params: tuple | None = None, **change) -> list[str]:
    row = replace(ACTIVATIONS[name], **change)
    e = Elementwise(row, tuple(row.parameters.values()) if params is None else params)
    return violations(e, ORACLE[name][0], count=150)


def shrunk(function, factor: float):
    def on(*args):
        lower, upper = function(*args)
        return torch.where(lower > 0, lower / factor, lower * factor), torch.where(
            upper > 0, upper * factor, upper / factor
        )

    return on


@pytest.mark.every(4)
@pytest.mark.parametrize(
    "name", ["relu", "silu", "gelu_erf", "gelu_tanh", "mish", "tanh", "elu", "sin", "exp", "hardswish"]
)
@pytest.mark.parametrize("claim", ["slopes_on", "values_on", "chords_on"])
def test_a_claim_that_is_one_part_in_1e10_too_small_is_caught(name, claim):
    assert planted(name, **{claim: shrunk(getattr(ACTIVATIONS[name], claim), 1 - 1e-10)})


@pytest.mark.parametrize("name", ["relu6", "silu", "gelu_erf", "gelu_tanh", "mish", "tanh", "erf", "selu", "hardswish"])
def test_a_forgotten_landmark_is_caught(name):
    assert planted(name, slopes_on=replace(ACTIVATIONS[name].slopes_on, landmarks=no_landmarks))


FOLKLORE = [
    ("silu", None, (0.0, 1.0)),
    ("leaky_relu", (2.0,), (0.0, 1.0)),
    ("gelu_tanh", None, (-0.12890414518515, 1.12890414518516)),  # those of the erf form
    ("erf", None, (0.0, 1.0)),
]


@pytest.mark.parametrize(("name", "params", "wrong"), FOLKLORE)
def test_slopes_taken_from_folklore_are_caught(name, params, wrong):
    right = ACTIVATIONS[name].slopes_on

    def slopes_on(*args):
        lower, upper = right(*args)
        return lower.clamp(min=wrong[0]), upper.clamp(max=wrong[1])

    assert planted(name, params, slopes_on=slopes_on)


@pytest.mark.parametrize("name", ["tanh", "gelu_erf", "silu", "hardtanh", "softsign"])
def test_chords_from_a_wrong_shape_are_caught(name):
    slope, value = ACTIVATIONS[name].slopes_on, ACTIVATIONS[name].values_on
    blind = BlindCurve(slope.at, slope.whole, slope.landmarks, slope.domain)
    assert planted(name, chords_on=partial(chords, blind, value))


class BlindCurve(Curve):
    """Overlooks every peak."""

    def shape(self, lo, hi, *readings):
        no_valley, _, first, last = super().shape(lo, hi, *readings)
        return no_valley, lo <= hi, first, last


# Function ------------------------------------------------------------------------------------------------------------

# torch's own function with the row's default parameters
TORCH: dict[str, Callable] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "prelu": lambda x: F.prelu(x, column([0.25])),
    "abs": torch.abs,
    "neg": torch.neg,
    "clamp": lambda x: x,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "softshrink": F.softshrink,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "erf": torch.erf,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu_erf": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": F.mish,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "square": torch.square,
    "pow_int": lambda x: x**3,
    "pow": lambda x: x**2.5,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asin": torch.asin,
    "acos": torch.acos,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "sign": torch.sign,
    "heaviside": lambda x: torch.heaviside(x, column([0.5])),
    "frac": torch.frac,
    "fmod": lambda x: torch.fmod(x, 1.0),
    "remainder": lambda x: torch.remainder(x, 1.0),
    "hardshrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
}


def grid(row: Activation, count: int = 4001, reach: float = 40.0) -> torch.Tensor:
    low, high = max(row.domain[0], -reach), min(row.domain[1], reach)
    return torch.linspace(low, high, count, dtype=torch.float64)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_function_is_torchs(name):
    row = ACTIVATIONS[name]
    x = grid(row)
    tolerance = {"softplus": 3e-9}.get(name, 1e-14)  # torch's linear branch, see the row's assumption
    torch.testing.assert_close(
        row.function(x, *row.parameters.values()), TORCH[name](x), rtol=tolerance, atol=tolerance, equal_nan=True
    )


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_function_is_the_oracles_and_lies_in_its_own_values(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    x = grid(e.row, 53) + (0.0137 if e.row.domain == (-INF, INF) else 0.0)
    for point, value in zip(x.tolist(), e(x).tolist(), strict=True):
        exact = value_or_none(ORACLE[name][0], point, exactly(params))
        if exact is not None and abs(exact) < 1e300:
            assert abs(value - exact) <= 4e-14 * max(abs(exact), abs(point)) + 1e-200


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_autograd_agrees_with_the_slopes_at_points(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    x = (grid(e.row, 401, reach=9.0)[1:-1] * 0.999 + 1e-5 * (e.row.domain[1] == INF)).requires_grad_()
    (slope,) = torch.autograd.grad(e(x).sum() + 0 * x.sum(), x)  # a constant has no graph of its own
    lower, upper = e.slopes_on(x.detach(), x.detach())
    slack = 1e-12 * slope.abs() + 1e-13
    assert not slope.isnan().any()
    assert ((slope >= lower - slack) & (slope <= upper + slack)).all()


# Tightness -----------------------------------------------------------------------------------------------------------

# Value of x - tanh x near 0: its relative accuracy is lost, |error| <= 12 ULP |x|.
LOOSE_VALUES = {"tanhshrink", "frac", "fmod", "remainder"}


def thin(lower: torch.Tensor, upper: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    return ((upper - lower) <= 1e-6 * scale) | ~(upper - lower).isfinite()


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_points_have_thin_ranges(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    x = grid(e.row, 2003)[1:-1] + 1e-7
    x = x[(x > e.row.domain[0]) & (x < e.row.domain[1])]
    for claim, loose in ((e.slopes_on, set()), (e.values_on, LOOSE_VALUES)):
        lower, upper = claim(x, x)
        relative = torch.maximum(lower.abs(), upper.abs()) + (x.abs() if name in loose else 0.0) + 1e-190
        assert thin(lower, upper, relative).all()


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_interval_ranges_are_attained(name, params):
    """Both ends are taken, to 1e-6, by the thin range at some point of a fine grid that includes the special points."""
    e = Elementwise(ACTIVATIONS[name], params)
    special = column(special_points(e))
    for lo, hi in [s for s in intervals(e, 60, seed=3) if 1e-6 < s[1] - s[0] < 50.0]:
        ends = (column([lo]), column([hi]))
        x = torch.linspace(lo, hi, 4001, dtype=torch.float64).clamp(lo, hi)
        x = torch.cat((x, special[(special >= lo) & (special <= hi)]))
        for claim in (e.slopes_on, e.values_on):
            (lower, upper), (below, above) = claim(*ends), claim(x, x)
            size = torch.maximum(below.abs().max(), above.abs().max())
            if not e.row.continuous and claim == e.values_on:
                continue  # jumps are counted in where they may lie in the interval
            if math.isfinite(lower) and math.isfinite(upper) and size.isfinite():
                assert lower >= below.min() - 1e-5 * size
                assert upper <= above.max() + 1e-5 * size


def test_chords_of_relu_are_the_closed_form():
    e = Elementwise(ACTIVATIONS["relu"])
    generator = torch.Generator().manual_seed(0)
    low, center, high = torch.rand(3, 1000, generator=generator, dtype=torch.float64).mul(4).sub(2).sort(dim=0).values
    lower, upper = e.chords_on(center, low, high)
    positive = center > 0
    torch.testing.assert_close(
        torch.where(positive, torch.where(low < 0, center / (center - low), 1.0), 0.0), lower, rtol=1e-14, atol=0
    )
    negative = torch.where(high > 0, high / (high - center), 0.0)
    torch.testing.assert_close(torch.where(positive, 1.0, negative), upper, rtol=1e-14, atol=0)


MONOTONE_SIDES = {"leaky_relu", "abs", "elu", "softplus", "exp", "square", "relu"}


@pytest.mark.parametrize("name", [*sorted(MONOTONE_SIDES), "tanh", "sigmoid", "hardtanh", "relu6", "softsign", "erf"])
def test_chords_are_attained(name):
    """Both ends where s' is monotone (here: convex s); the lower end wherever s' has one peak."""
    row = ACTIVATIONS[name]
    e = Elementwise(row, tuple(row.parameters.values()))
    center, low, high = column([0.0, 0.2, 0.0, 0.1]), column([-1.0, -0.8, -0.5, -0.2]), column([2.0, 1.5, 0.7, 0.2])
    lower, upper = e.chords_on(center, low, high)
    x = low + (high - low) * torch.linspace(0, 1, 20001, dtype=torch.float64)[:, None]
    x[(x - center).abs() < 1e-6] = math.nan
    quotient = (e(x) - e(center)) / (x - center)
    torch.testing.assert_close(quotient.nan_to_num(nan=INF).amin(0), lower, rtol=1e-3, atol=1e-3)
    if name in MONOTONE_SIDES:
        torch.testing.assert_close(quotient.nan_to_num(nan=-INF).amax(0), upper, rtol=1e-3, atol=1e-3)


# Constants -----------------------------------------------------------------------------------------------------------


def extremes(f: Callable, near: float) -> tuple[mpf, mpf]:
    """Extremes of f' from the root of f'' near `near`; the lower one is 1 - upper (f(x) - f(-x) = x)."""
    top = mpmath.diff(f, mpmath.findroot(lambda x: mpmath.diff(f, x, 2), near))
    return 1 - top, top


def default_oracle(name: str) -> Callable:
    p = TRUE_CONSTANTS.get(name, exactly(tuple(ACTIVATIONS[name].parameters.values())))
    return lambda x: ORACLE[name][0](x, *p)


def mish_extremes() -> tuple[mpf, mpf]:
    f = default_oracle("mish")
    return tuple(mpmath.diff(f, mpmath.findroot(lambda x: mpmath.diff(f, x, 2), t)) for t in (-2.25, 1.5))


UNIT, LINE, RISING = (0, 1), (-INF, INF), (0, INF)
CONSTANTS: dict[str, Callable[[], tuple]] = {
    **dict.fromkeys(
        ["relu", "relu6", "clamp", "hardtanh", "softshrink", "logsigmoid", "tanh", "tanhshrink"], lambda: UNIT
    ),
    **dict.fromkeys(["softplus", "softsign", "atan", "asinh", "elu", "celu", "threshold"], lambda: UNIT),
    **dict.fromkeys(["exp", "expm1", "log", "log1p", "sqrt", "pow_int", "pow", "acosh", "hardshrink"], lambda: RISING),
    **dict.fromkeys(["floor", "ceil", "round", "trunc", "sign", "heaviside"], lambda: RISING),
    **dict.fromkeys(["reciprocal", "square", "cosh", "tan"], lambda: LINE),
    **dict.fromkeys(["sinh", "asin", "atanh"], lambda: (1, INF)),
    **dict.fromkeys(["abs", "sin", "cos"], lambda: (-1, 1)),
    **dict.fromkeys(["frac", "fmod", "remainder"], lambda: (-INF, 1)),
    "leaky_relu": lambda: (mpf(0.01), 1),
    "prelu": lambda: (mpf(0.25), 1),
    "neg": lambda: (-1, -1),
    "rsqrt": lambda: (-INF, 0),
    "acos": lambda: (-INF, -1),
    "hardsigmoid": lambda: (0, mpf(1) / 6),
    "hardswish": lambda: (mpf(-1) / 2, mpf(3) / 2),
    "sigmoid": lambda: (0, mpf(1) / 4),
    "erf": lambda: (0, 2 / mp.sqrt(mp.pi)),
    "selu": lambda: (0, SELU[0] * SELU[1]),
    "gelu_erf": lambda: extremes(default_oracle("gelu_erf"), 1.4),
    "gelu_tanh": lambda: extremes(default_oracle("gelu_tanh"), 1.4),
    "silu": lambda: extremes(default_oracle("silu"), 2.4),
    "quick_gelu": lambda: extremes(default_oracle("quick_gelu"), 1.4),
    "mish": mish_extremes,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_global_slopes_are_the_known_constants_rounded_outward(name):
    row = ACTIVATIONS[name]
    claimed = Elementwise(row, tuple(row.parameters.values())).slopes()
    known = CONSTANTS[name]()
    assert all(isinstance(c, float) for c in claimed)
    assert claimed[0] <= known[0]
    assert known[1] <= claimed[1]
    for c, k in zip(claimed, known, strict=True):
        assert c == k or abs(c - k) <= 1e-12 * max(1, abs(k))


@pytest.mark.parametrize(
    ("name", "params", "known"),
    [
        ("leaky_relu", (2.0,), (1.0, 2.0)),
        ("leaky_relu", (-0.3,), (-0.3, 1.0)),
        ("prelu", (-3.0,), (-3.0, 1.0)),
        ("elu", (2.0, 1.5, 3.0), (0.0, 9.0)),
        ("elu", (0.2, 1.5, 1.0), (0.0, 1.5)),
        ("softplus", (7.0, 20.0), (0.0, 1.0)),
        ("softplus", (1.0, 5.0), (-INF, 1.0)),
        ("softsign", (0.25,), (0.0, 4.0)),
        ("hardsigmoid", (0.2, 0.5), (0.0, 0.2)),
        ("hardswish", (1.0, 0.5, 1.0), (-1.0, 0.5)),
        ("gelu_erf", (3.0, 2.0), (-0.257808290370309573, 2.257808290370309573)),
        ("silu", (9.0,), (-0.0998393201288669170, 1.0998393201288669170)),
        ("gelu_tanh", (1.0, 0.0), (-0.0998393201288669170, 1.0998393201288669170)),  # x sigmoid(2x)
        ("pow_int", (1.0,), (1.0, 1.0)),
        ("pow_int", (2.0,), (-INF, INF)),
        ("pow", (-0.5,), (-INF, 0.0)),
        ("threshold", (1.0, 0.0), (0.0, INF)),
        ("hardshrink", (0.0,), (1.0, 1.0)),
    ],
)
def test_global_slopes_follow_the_parameters(name, params, known):
    assert Elementwise(ACTIVATIONS[name], params).slopes() == pytest.approx(known, rel=1e-12, abs=0)


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_global_slopes_are_those_of_the_whole_domain_and_contain_local_ones(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    a, b = e.slopes()
    low, high = e.slopes_on(column([e.row.domain[0]]), column([e.row.domain[1]]))
    assert low.item() >= a
    assert high.item() <= b
    spans = intervals(e, 100, seed=5)
    lower, upper = e.slopes_on(column(s[0] for s in spans), column(s[1] for s in spans))
    assert lower.dtype == upper.dtype == torch.float64
    assert (lower >= a).all()
    assert (upper <= b).all()
    assert (lower <= upper).all()


@pytest.mark.parametrize("name", ["gelu_erf", "gelu_tanh", "silu", "mish"])
def test_derivatives_have_no_other_turning_points(name):
    """The count of turning points is proved in the comments; here s'' changes sign nowhere else (mpmath)."""
    f = default_oracle(name)
    x = [mpf(i) / 8 - 12 for i in range(193)]
    signs = [mpmath.sign(mpmath.diff(f, t, 2)) for t in x]
    changes = sum(a != b for a, b in pairwise(signs))
    assert changes == 2


@pytest.mark.parametrize("q", [0.0, 1e-9, 1e-3, 0.0702, 1.0, 17.0, 1e6, 1e20])
def test_gelu_tanh_turns_once_on_each_side_for_every_ratio_of_coefficients(q):
    e = Elementwise(ACTIVATIONS["gelu_tanh"], (1.0, q))
    scale = 3.0 / (1 + q) ** (1 / 3)
    x = torch.linspace(0, 4 * scale, 20001, dtype=torch.float64)
    slope = sum(e.slopes_on(x, x)) / 2
    peak = int(slope.argmax())
    assert (slope[: peak + 1].diff() > -1e-13).all()
    assert (slope[peak:].diff() < 1e-13).all()
    assert slope.max() <= e.slopes()[1] <= slope.max() + 1e-6


# Flags ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_monotone_and_homogeneous_are_true_where_claimed(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    x = grid(e.row)
    y = e(x)
    if e.row.monotone:
        assert (y.diff() >= -1e-12 * y[1:].abs().clamp(max=1e300)).all()
        assert e.slopes()[0] >= 0
    if e.row.homogeneous:
        torch.testing.assert_close(e(3.7 * x), 3.7 * y)


def test_flags_are_not_forgotten():
    rising = {n for n, r in ACTIVATIONS.items() if all(Elementwise(r, p).slopes()[0] >= 0 for p in bound_params(n))}
    # no: a parameter of the other sign turns them around; these rows are monotone for some parameters only
    assert rising - {n for n, r in ACTIVATIONS.items() if r.monotone} == set()
    linear = {n for n, p in CASES if (e := Elementwise(ACTIVATIONS[n], p)) and _looks_homogeneous(e)}
    homogeneous = {n for n, r in ACTIVATIONS.items() if r.homogeneous}
    assert homogeneous <= linear
    # homogeneous for one choice of parameters only
    assert linear - homogeneous <= {"clamp", "softshrink", "elu", "pow_int", "pow", "hardshrink", "threshold"}


def _looks_homogeneous(e: Elementwise) -> bool:
    x = grid(e.row)[:-1]
    return bool(torch.allclose(e(0.37 * x), 0.37 * e(x), rtol=1e-9, atol=0))


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_kinks_are_where_the_slope_jumps(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    if not e.continuous or e.row.domain != (-INF, INF) or name in ("reciprocal", "tan", "pow_int"):
        return
    x = grid(e.row, 3001, reach=9.0) + 0.00017
    x = x.sort().values
    middle = sum(e.slopes_on(x, x)) / 2
    spread = e.slopes_on(x[:-1], x[1:])
    jump = (spread[1] - spread[0]) > 0.05 + 0.2 * middle[1:].abs()  # steeper than any smooth default changes in 0.006
    steep = {("silu", 50.0), ("gelu_tanh", 0.5), ("gelu_tanh", 3.0), ("softsign", 0.1)}
    if (name, params[0] if params else None) in steep:
        return
    at = x[:-1][jump].tolist()
    near = [k for k in map(float, e.kinks()) if abs(k) < 9]
    assert all(any(t <= k <= t + 0.0061 for k in near) for t in at)
    for k in near:
        left, right = (
            e.slopes_on(column([s]), column([s])) for s in (k - 1e-9 * (1 + abs(k)), k + 1e-9 * (1 + abs(k)))
        )
        smooth_here = (name, params) in {
            ("leaky_relu", (1.0,)),
            ("elu", (1.0, 1.0, 1.0)),
            ("softshrink", (0.0,)),
            ("clamp", (2.0, 2.0)),
            ("hardshrink", (0.0,)),
        }
        assert smooth_here or abs(left[0].item() - right[0].item()) > 1e-6


def test_continuous_is_false_exactly_for_the_rows_that_jump():
    jumping = {n for n, r in ACTIVATIONS.items() if not r.continuous}
    steps = {"floor", "ceil", "round", "trunc", "sign", "heaviside", "frac", "fmod", "remainder"}
    assert jumping == steps | {"hardshrink", "threshold"}
    assert Elementwise(ACTIVATIONS["threshold"], (0.2, 0.2)).continuous
    assert not Elementwise(ACTIVATIONS["threshold"], (0.2, 0.0)).continuous
    assert not Elementwise(ACTIVATIONS["floor"]).continuous


# Edges ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_nothing_finite_is_said_of_nan_or_of_points_outside_the_domain(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    low, high = e.row.domain
    lo, hi, center = [math.nan, 0.5, math.nan], [0.75, math.nan, math.nan], [0.6, 0.6, 0.6]
    if low > -INF:
        lo, hi, center = [*lo, low - 0.5], [*hi, low + 0.5], [*center, low + 0.25]
    if high < INF:
        lo, hi, center = [*lo, high - 0.5], [*hi, high + 0.5], [*center, high - 0.25]
    lo, hi, center = column(lo), column(hi), column(center)
    for claim in (e.slopes_on(lo, hi), e.values_on(lo, hi), e.chords_on(center, lo, hi)):
        assert (claim[0] == -INF).all()
        assert (claim[1] == INF).all()


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_inverted_intervals_say_nothing(name, params):
    e = Elementwise(ACTIVATIONS[name], params)
    for claim in (e.slopes_on, e.values_on):
        lower, upper = claim(column([0.75]), column([0.25]))
        assert lower.item() == -INF
        assert upper.item() == INF


def test_float32_ends_are_refused():
    with pytest.raises(TypeError, match="float64"):
        Elementwise(ACTIVATIONS["relu"]).slopes_on(torch.zeros(2), torch.ones(2))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("leaky_relu", (math.nan,)),
        ("leaky_relu", (INF,)),
        ("celu", (-1.0,)),
        ("elu", (1.0, -1.0, 1.0)),
        ("elu", (-1.0, 1.0, 1.0)),
        ("softplus", (0.0, 20.0)),
        ("softplus", (1e-40, 20.0)),
        ("clamp", (1.0, 0.0)),
        ("clamp", (INF, INF)),
        ("gelu_erf", (-0.7, 1.0)),
        ("gelu_tanh", (0.8, -0.04)),
        ("silu", (-1.0,)),
        ("hardsigmoid", (0.0, 0.5)),
        ("softsign", (0.0,)),
        ("pow_int", (2.5,)),
        ("pow_int", (0.0,)),
        ("heaviside", (2.0,)),
        ("remainder", (0.0,)),
        ("softshrink", (-0.5,)),
    ],
)
def test_parameters_that_no_row_proves_are_refused(name, params):
    with pytest.raises(RefusedModel, match=name):
        Elementwise(ACTIVATIONS[name], params)


def test_wrong_number_of_parameters_is_an_error():
    with pytest.raises(TypeError, match="negative_slope"):
        Elementwise(ACTIVATIONS["leaky_relu"])


TENSOR_PARAMS = [n for n, r in ACTIVATIONS.items() if r.parameters and n not in ("gelu_tanh", "pow_int", "softplus")]


@pytest.mark.parametrize("name", TENSOR_PARAMS)
def test_one_parameter_per_channel_equals_one_call_per_channel(name):
    choices = [p for p in bound_params(name) if all(map(math.isfinite, p))][:3]
    choices = choices or [(-1.0, 1.0)]
    row = ACTIVATIONS[name]
    stacked = Elementwise(row, tuple(column(c).reshape(-1, 1) for c in zip(*choices, strict=True)))
    low, high = row.domain
    lo = torch.linspace(-3, 2, 11, dtype=torch.float64).clamp(low, high).expand(len(choices), 11)
    hi = lo + 0.7
    both = [stacked.slopes_on(lo, hi), stacked.values_on(lo, hi), stacked.chords_on(lo + 0.3, lo, hi)]
    for i, params in enumerate(choices):
        one = Elementwise(row, params)
        single = [one.slopes_on(lo[i], hi[i]), one.values_on(lo[i], hi[i]), one.chords_on(lo[i] + 0.3, lo[i], hi[i])]
        for many, alone in zip(both, single, strict=True):
            torch.testing.assert_close(torch.stack(many)[:, i], torch.stack(alone), rtol=1e-13, atol=1e-13)
        assert [float(s.reshape(-1)[min(i, s.numel() - 1)]) for s in stacked.slopes()] == list(one.slopes())
        torch.testing.assert_close(stacked(lo)[i], one(lo[i]), rtol=1e-15, atol=1e-15)


def test_softplus_states_its_assumption():
    assert "2.1e-9" in ACTIVATIONS["softplus"].assumption
    assert float(mpmath.log1p(mpmath.exp(-20))) < 2.1e-9
