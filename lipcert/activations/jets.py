"""Expressions of one scalar x, and interval Taylor evaluation: enclosures of the value and two derivatives on intervals.

An expression is a list of steps, each reading earlier ones; step 0 is x. Rows of the table keep their own proved ranges:

    (f o u)' = f'(u) u',   (f o u)'' = f''(u) u'^2 + f'(u) u'',   (u w)'' = u'' w + 2 u' w' + u w''

with f', f'' enclosed on the range of u. Slopes are those of Clarke's calculus (chain and product rule, Clarke 1983, 2.3.9
and 2.3.13), so kinks need no case of their own: f'' is unknown there and the first derivative is a hull.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from lipcert.activations.curve import Pair
from lipcert.activations.row import Elementwise
from lipcert.rigor.rounding import down, up


@dataclass(frozen=True)
class Uniform:
    """A coefficient that is the same in every entry: `exact` where it is known exactly, always within [low, high]."""

    low: float
    high: float
    exact: Fraction | None = None

    @staticmethod
    def of(value: Fraction) -> Uniform:
        nearest = float(value)
        if Fraction(nearest) == value:
            return Uniform(nearest, nearest, value)
        return Uniform(math.nextafter(nearest, -math.inf), math.nextafter(nearest, math.inf), value)

    def __str__(self) -> str:
        if self.exact is not None and self.low == self.high:
            return repr(self.low)
        return f"({self.exact})" if self.exact is not None else f"[{self.low!r}, {self.high!r}]"


@dataclass(frozen=True)
class Slot:
    """A coefficient per entry: parameter `centre`, give or take parameter `radius`."""

    centre: int
    radius: int | None = None

    def __str__(self) -> str:
        return f"c{self.centre}" + ("" if self.radius is None else f"+-c{self.radius}")


Coefficient = Uniform | Slot


@dataclass(frozen=True, eq=False)
class Step:
    """op: "scale" and "shift" (by `value`), "add", "times", "max", "min" of two earlier steps, "row" (`value`) of one."""

    op: str
    reads: tuple[int, ...]
    value: Coefficient | Elementwise | None = None


@dataclass(frozen=True, eq=False)
class Expression:
    steps: tuple[Step, ...]  # step k (from 1 on) reads steps below k

    def __str__(self) -> str:
        texts = ["x"]
        for step in self.steps:
            args = [texts[i] for i in step.reads]
            if isinstance(step.value, Elementwise):
                extra = "".join(f", {p!r}" for p in step.value.params)
                texts.append(f"{step.value.name}({args[0]}{extra})")
            elif step.op in ("scale", "shift"):
                texts.append(f"({step.value} * {args[0]})" if step.op == "scale" else f"({args[0]} + {step.value})")
            elif step.op in ("max", "min"):
                texts.append(f"{step.op}({args[0]}, {args[1]})")
            else:
                texts.append(f"({args[0]} {'+' if step.op == 'add' else '*'} {args[1]})")
        return texts[-1]

    def __call__(self, x: Tensor, *params: float | Tensor) -> Tensor:
        """Floating values, differentiable."""
        values = [x]
        for step in self.steps:
            args = [values[i] for i in step.reads]
            match step.op:
                case "scale":
                    values.append(args[0] * _stored(step.value, params))
                case "shift":
                    values.append(args[0] + _stored(step.value, params))
                case "add":
                    values.append(args[0] + args[1])
                case "times":
                    values.append(args[0] * args[1])
                case "max":
                    values.append(torch.maximum(*args))
                case "min":
                    values.append(torch.minimum(*args))
                case _:
                    assert isinstance(step.value, Elementwise)
                    values.append(step.value(args[0]))
        return values[-1]


def needed(steps: Sequence[Step], end: int) -> Expression:
    """The steps that step `end` is made of."""
    kept = {end}
    for k in range(end, 0, -1):
        if k in kept:
            kept.update(steps[k - 1].reads)
    order = sorted(kept - {0})
    at = {0: 0} | {k: n for n, k in enumerate(order, start=1)}
    return Expression(tuple(Step(s.op, tuple(at[r] for r in s.reads), s.value) for s in (steps[k - 1] for k in order)))


def spliced(f: Elementwise, at: int) -> tuple[Step, ...]:
    """The steps of a row, reading step `at` for x and put right behind it: its own steps where it is an expression."""
    if not isinstance(f.row.function, Expression):
        return (Step("row", (at,), f),)
    steps = f.row.function.steps
    return tuple(Step(s.op, tuple(at if r == 0 else r + at for r in s.reads), s.value) for s in steps)


def _stored(value: Coefficient | Elementwise | None, params: tuple[float | Tensor, ...]) -> float | Tensor:
    if isinstance(value, Slot):
        return params[value.centre]
    assert isinstance(value, Uniform)
    return float(value.exact) if value.exact is not None else value.low / 2 + value.high / 2


def bounds(value: Coefficient | Elementwise | None, params: tuple[Tensor, ...]) -> Pair:
    """The coefficient as an enclosure."""
    if isinstance(value, Slot):
        centre = params[value.centre]
        return (
            (centre, centre)
            if value.radius is None
            else (down(centre - params[value.radius]), up(centre + params[value.radius]))
        )
    assert isinstance(value, Uniform)
    low, high = (torch.tensor(side, dtype=torch.float64) for side in (value.low, value.high))
    return low, high


def plus(a: Pair, b: Pair) -> Pair:
    """Ends are never infinite on the inner side (curve.enclose), so no NaN arises."""
    low, high = a[0] + b[0], a[1] + b[1]
    exact = (a[0] == 0) & (a[1] == 0) | (b[0] == 0) & (b[1] == 0)
    return torch.where(exact, low, down(low)), torch.where(exact, high, up(high))


def times(a: Pair, b: Pair) -> Pair:
    """An infinite end stands for large finite numbers, so 0 * inf = 0. Signs survive underflow."""
    corners = [(x * y).nan_to_num(0.0, math.inf, -math.inf) for x in a for y in b]
    low = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
    high = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
    low, high = down(low), up(high)
    positive = (a[0] >= 0) & (b[0] >= 0) | (a[1] <= 0) & (b[1] <= 0)
    negative = (a[0] >= 0) & (b[1] <= 0) | (a[1] <= 0) & (b[0] >= 0)
    return torch.where(positive, low.clamp(min=0.0), low), torch.where(negative, high.clamp(max=0.0), high)


def _squared(a: Pair) -> Pair:
    low, high = times(a, a)
    return low.clamp(min=0.0), high


Jet = tuple[Pair, Pair, Pair]  # value, first and second derivative


def natural(expression: Expression, lo: Tensor, hi: Tensor, params: tuple[Tensor, ...]) -> Jet:
    """Enclosures on [lo, hi] by the rules above, step by step."""
    zero, one = torch.zeros_like(lo), torch.ones_like(lo)
    jets: list[Jet] = [((lo, hi), (one, one), (zero, zero))]
    for step in expression.steps:
        args = [jets[i] for i in step.reads]
        if isinstance(step.value, Elementwise):
            jets.append(_through(step.value, args[0]))
        elif step.op == "scale":
            factor = bounds(step.value, params)
            jets.append(tuple(times(factor, part) for part in args[0]))  # type: ignore[arg-type]
        elif step.op == "shift":
            (value, first, second), by = args[0], bounds(step.value, params)
            jets.append((plus(value, by), first, second))
        elif step.op == "add":
            jets.append(tuple(plus(a, b) for a, b in zip(*args, strict=True)))  # type: ignore[arg-type]
        elif step.op == "times":
            jets.append(_product(*args))
        else:
            jets.append(_larger(args[0], args[1], step.op == "min"))
    return jets[-1]


def _through(f: Elementwise, u: Jet) -> Jet:
    value, first, second = u
    slope = f.slopes_on(*value)
    if f.row.curvatures_on is not None:
        bend = f.row.curvatures_on(*value, *f.params)
    else:  # where the slope is one number the row is affine
        straight = slope[0] == slope[1]
        bend = torch.where(straight, 0.0, -math.inf), torch.where(straight, 0.0, math.inf)
    bent = plus(times(bend, _squared(first)), times(slope, second))
    return f.values_on(*value), times(slope, first), bent


def _product(u: Jet, w: Jet) -> Jet:
    cross = times(u[1], w[1])
    cross = plus(cross, cross)
    return (
        times(u[0], w[0]),
        plus(times(u[1], w[0]), times(u[0], w[1])),
        plus(plus(times(u[2], w[0]), times(u[0], w[2])), cross),
    )


def _larger(u: Jet, w: Jet, minimum: bool) -> Jet:
    """Clarke's gradient of a maximum lies in the hull of those that attain it."""
    sign = -1 if minimum else 1
    low = [sign * side[0] if sign > 0 else -side[1] for side in (u[0], w[0])]
    high = [sign * side[1] if sign > 0 else -side[0] for side in (u[0], w[0])]
    first, other = low[0] > high[1], low[1] > high[0]
    pick = (lambda a, b: torch.minimum(a, b)) if minimum else (lambda a, b: torch.maximum(a, b))
    value = pick(u[0][0], w[0][0]), pick(u[0][1], w[0][1])

    def hull(a: Pair, b: Pair, both: Pair) -> Pair:
        return (
            torch.where(first, a[0], torch.where(other, b[0], both[0])),
            torch.where(first, a[1], torch.where(other, b[1], both[1])),
        )

    joined = torch.minimum(u[1][0], w[1][0]), torch.maximum(u[1][1], w[1][1])
    unknown = torch.full_like(joined[0], -math.inf), torch.full_like(joined[0], math.inf)
    return value, hull(u[1], w[1], joined), hull(u[2], w[2], unknown)


def refined(expression: Expression, lo: Tensor, hi: Tensor, params: tuple[Tensor, ...]) -> tuple[Jet, Jet, Jet]:
    """(on [lo, hi], at lo, at hi). The value is met with what the mean value theorem says from both ends, and so is the
    first derivative: max over [a, b] of F <= F(a) + (b - a) max(F', 0). Their excess falls with the square of b - a."""
    ends = torch.cat([lo[None], lo[None], hi[None]]), torch.cat([hi[None], lo[None], hi[None]])
    whole = natural(expression, *ends, params)
    shape = ends[0].shape
    parts = [tuple((p[0].expand(shape)[k], p[1].expand(shape)[k]) for p in whole) for k in range(3)]
    box, left, right = parts
    width = up(hi - lo)
    first = _met(box[1], left[1], right[1], box[2], width)
    value = _met(box[0], left[0], right[0], first, width)
    return (value, first, box[2]), left, right  # type: ignore[return-value]


def _met(box: Pair, left: Pair, right: Pair, slope: Pair, width: Tensor) -> Pair:
    """F on the interval from F at its ends and the range of F', F Lipschitz wherever that range is finite."""
    rise = up(slope[1].clamp(min=0.0) * width).nan_to_num(math.inf, math.inf)
    fall = up((-slope[0]).clamp(min=0.0) * width).nan_to_num(math.inf, math.inf)
    rise = torch.where(slope[1] <= 0, 0.0, rise)
    fall = torch.where(slope[0] >= 0, 0.0, fall)
    still = torch.isfinite(slope[0]) & torch.isfinite(slope[1])
    most = torch.minimum(up(left[1] + rise), up(right[1] + fall))
    least = torch.maximum(down(left[0] - fall), down(right[0] - rise))
    return torch.where(still, torch.maximum(box[0], least), box[0]), torch.where(
        still, torch.minimum(box[1], most), box[1]
    )
