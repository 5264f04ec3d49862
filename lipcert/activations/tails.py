"""Value and slope of an expression for all |x| >= T, by series in t = |x| (series.py): one rule per row, at the foot.

A row without a rule is known by its ranges alone: bounded values, bounded slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from lipcert.activations.corner import Corner
from lipcert.activations.curve import Pair
from lipcert.activations.jets import Coefficient, Expression, Slot, Uniform
from lipcert.activations.row import Elementwise
from lipcert.activations.series import Ends, Monomial, Series, Unknown

ONE, HALF, ZERO = Fraction(1), Fraction(1, 2), Fraction(0)


@dataclass(frozen=True)
class Tail:
    value: Series
    slope: Series

    def __add__(self, other: Tail) -> Tail:
        return Tail(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other: Tail) -> Tail:
        return Tail(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def scaled(self, factor: float | Fraction | Ends) -> Tail:
        ends = factor if isinstance(factor, tuple) else (Fraction(factor), Fraction(factor))
        return Tail(self.value.scaled(ends), self.slope.scaled(ends))

    def plus(self, by: float | Fraction | Ends) -> Tail:
        ends = by if isinstance(by, tuple) else (Fraction(by), Fraction(by))
        return Tail(self.value + Series.constant(self.value.T, ends), self.slope)

    def to(self, r: Fraction) -> Tail:
        return Tail(self.value.to(r), (self.value.to(r - 1) * self.slope).scaled((r, r)))

    def exp(self) -> Tail:
        e = self.value.exp()
        return Tail(e, e * self.slope)

    def log(self) -> Tail:
        return Tail(self.value.log(), self.value.to(-ONE) * self.slope)

    @property
    def heads(self) -> int:
        """The sign of a value that grows without end, 0 for others."""
        return self.value.sign if self.value.growth > 0 else 0


def tail(expression: Expression, T: Fraction, side: int, numbers: tuple[float, ...]) -> Tail:
    """The expression at x = side * t, t >= T; the slope with respect to x. `numbers`: its parameters at one entry.
    Raises Unknown."""
    x = Series(T, ((Monomial((), ONE), (Fraction(side), Fraction(side))),))
    known = [Tail(x, Series.constant(T, (ONE, ONE)))]
    for step in expression.steps:
        args = [known[i] for i in step.reads]
        if isinstance(step.value, Elementwise):
            known.append(RULES.get(step.value.name, plain)(args[0], step.value))
        elif step.op == "scale":
            known.append(args[0].scaled(_ends(step.value, numbers)))
        elif step.op == "shift":
            known.append(args[0].plus(_ends(step.value, numbers)))
        elif step.op == "add":
            known.append(args[0] + args[1])
        elif step.op == "times":
            known.append(args[0] * args[1])
        else:
            known.append(_larger(args[0], args[1], step.op == "min"))
    return known[-1]


def _ends(value: Coefficient | None, numbers: tuple[float, ...]) -> Ends:
    if isinstance(value, Slot):
        centre = Fraction(numbers[value.centre])
        radius = ZERO if value.radius is None else Fraction(numbers[value.radius])
        return centre - radius, centre + radius
    assert isinstance(value, Uniform)
    return (value.exact, value.exact) if value.exact is not None else (Fraction(value.low), Fraction(value.high))


def _larger(u: Tail, w: Tail, minimum: bool) -> Tail:
    gap = (u + w.scaled(-1)).value
    sign = gap.sign
    if not gap.terms and gap.rest is None:
        return u
    if sign:
        return u if (sign > 0) != minimum else w
    a, b = (floats(side) for side in (u.value.range(), w.value.range()))
    c, d = (floats(side) for side in (u.slope.range(), w.slope.range()))
    pick = min if minimum else max
    return Tail(
        _within(u.value.T, pick(a[0], b[0]), pick(a[1], b[1])), _within(u.value.T, min(c[0], d[0]), max(c[1], d[1]))
    )


def floats(ends: tuple[Fraction | None, Fraction | None]) -> tuple[float, float]:
    """Rounded outward."""
    return _outward(ends[0], -1), _outward(ends[1], 1)


def _outward(x: Fraction | None, side: int) -> float:
    if x is None:
        return side * math.inf
    try:
        nearest = float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf
    return nearest if Fraction(nearest) == x else math.nextafter(nearest, side * math.inf)


def _within(T: Fraction, low: float, high: float) -> Series:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise Unknown
    return Series.bounded(T, (Fraction(low), Fraction(high)))


def _on(f: Callable[[Tensor, Tensor], Pair], u: Series) -> tuple[float, float]:
    low, high = floats(u.range())
    a, b = f(torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))
    return float(a), float(b)


def plain(u: Tail, f: Elementwise) -> Tail:
    """Affine from T on, or bounded, or at most as steep as anywhere."""
    T = u.value.T
    low, high = _on(f.slopes_on, u.value)
    if low == high and math.isfinite(low):
        if isinstance(f.row.slopes_on, Corner):  # through the origin
            return u.scaled(low)
        if low == 0:
            return Tail(_within(T, *_on(f.values_on, u.value)), Series(T))
        inside = floats(u.value.range())
        at = inside[0] if math.isfinite(inside[0]) else inside[1]
        point = torch.tensor([at], dtype=torch.float64)
        a, b = (float(end) for end in f.values_on(point, point))
        moved = u.scaled(low)
        gap = Fraction(a) - Fraction(low) * Fraction(at), Fraction(b) - Fraction(low) * Fraction(at)
        return Tail(moved.value + Series.bounded(T, gap), moved.slope)
    slope = u.slope * _within(T, low, high)
    a, b = _on(f.values_on, u.value)
    if math.isfinite(a) and math.isfinite(b):
        return Tail(Series.bounded(T, (Fraction(a), Fraction(b))), slope)
    zero = torch.zeros(1, dtype=torch.float64)
    start = _within(T, *(float(end) for end in f.values_on(zero, zero)))
    everywhere = f.slopes()
    return Tail(start + u.value * _within(T, float(everywhere[0]), float(everywhere[1])), slope)


def _number(f: Elementwise, place: int) -> Fraction:
    return Fraction(float(f.params[place]))


def sigmoid(u: Tail) -> Tail:
    if u.heads < 0:
        e = u.exp()
        return e * e.plus(1).to(-ONE)
    return u.scaled(-1).exp().plus(1).to(-ONE)


def tanh(u: Tail) -> Tail:
    return sigmoid(u.scaled(2)).scaled(2).plus(-1)


def softplus(u: Tail, beta: Fraction) -> Tail:
    """u + log(1 + exp(-b u)) / b far to the right."""
    v = u.scaled(beta)
    if u.heads > 0:
        e = v.scaled(-1).exp()
        return u + Tail(e.value.log1p(), e.plus(1).value.to(-ONE) * e.slope).scaled(1 / beta)
    e = v.exp()
    if u.heads < 0:
        return Tail(e.value.log1p(), e.plus(1).value.to(-ONE) * e.slope).scaled(1 / beta)
    return e.plus(1).log().scaled(1 / beta)


def erf(u: Tail, f: Elementwise) -> Tail:
    from lipcert.activations.saturating import TWO_OVER_SQRT_PI

    density = (u.value * u.value).scaled((-ONE, -ONE)).exp()
    slope = (density * u.slope).scaled((Fraction(float(TWO_OVER_SQRT_PI[0])), Fraction(float(TWO_OVER_SQRT_PI[1]))))
    if u.heads and density.growth < 0:  # |erf(u) - sign u| <= exp(-u^2)
        end = Series.constant(u.value.T, (Fraction(u.heads), Fraction(u.heads)))
        return Tail(end + (density * Series.bounded(u.value.T, (ZERO, ONE))).scaled((Fraction(-u.heads),) * 2), slope)
    return Tail(plain(u, f).value, slope)


def _around(f: Elementwise, place: int) -> Ends:
    """A parameter whose default stands for a real number (1 / sqrt 2, sqrt(2 / pi))."""
    value = float(f.params[place])
    return Fraction(math.nextafter(value, -math.inf)), Fraction(math.nextafter(value, math.inf))


def _gelu_erf(u: Tail, f: Elementwise) -> Tail:
    from lipcert.activations import ACTIVATIONS

    gate = erf(u.scaled(_around(f, 0)), Elementwise(ACTIVATIONS["erf"])).plus(1)
    return (u * gate).scaled(_number(f, 1) / 2)


def _gelu_tanh(u: Tail, f: Elementwise) -> Tail:
    inner = u + u.to(Fraction(3)).scaled(_number(f, 1))
    return u * sigmoid(inner.scaled(_around(f, 0)).scaled(2))


def _otherwise(rule: Callable[[Tail, Elementwise], Tail]) -> Callable[[Tail, Elementwise], Tail]:
    """The rule where it can be used, else the row's ranges."""

    def run(u: Tail, f: Elementwise) -> Tail:
        try:
            return rule(u, f)
        except (Unknown, OverflowError, ZeroDivisionError):
            return plain(u, f)

    return run


def _softplus_row(u: Tail, f: Elementwise) -> Tail:
    from lipcert.activations.saturating import DEVICE

    if float(f.params[1]) < DEVICE:
        raise Unknown
    return softplus(u, _number(f, 0))


def _atan(u: Tail, f: Elementwise) -> Tail:
    return Tail(plain(u, f).value, (u.value * u.value + Series.constant(u.value.T, (ONE, ONE))).to(-ONE) * u.slope)


def _asinh(u: Tail, f: Elementwise) -> Tail:
    return Tail(plain(u, f).value, (u.value * u.value + Series.constant(u.value.T, (ONE, ONE))).to(-HALF) * u.slope)


Rule = Callable[[Tail, Elementwise], Tail]
RULES: dict[str, Rule] = {
    name: _otherwise(rule)
    for name, rule in {
        "exp": lambda u, f: u.exp(),
        "expm1": lambda u, f: u.exp().plus(-1),
        "log": lambda u, f: u.log(),
        "log1p": lambda u, f: u.plus(1).log(),
        "sqrt": lambda u, f: u.to(HALF),
        "rsqrt": lambda u, f: u.to(-HALF),
        "reciprocal": lambda u, f: u.to(-ONE),
        "square": lambda u, f: u * u,
        "pow_int": lambda u, f: u.to(_number(f, 0)),
        "pow": lambda u, f: u.to(_number(f, 0)),
        "sigmoid": lambda u, f: sigmoid(u),
        "tanh": lambda u, f: tanh(u),
        "softplus": _softplus_row,
        "logsigmoid": lambda u, f: softplus(u.scaled(-1), ONE).scaled(-1),
        "silu": lambda u, f: u * sigmoid(u.scaled(_number(f, 0))),
        "mish": lambda u, f: u * tanh(softplus(u, ONE)),
        "gelu_tanh": _gelu_tanh,
        "gelu_erf": _gelu_erf,
        "erf": erf,
        "atan": _atan,
        "asinh": _asinh,
        "sinh": lambda u, f: (u.exp() + u.scaled(-1).exp().scaled(-1)).scaled(HALF),
        "cosh": lambda u, f: (u.exp() + u.scaled(-1).exp()).scaled(HALF),
    }.items()
}
