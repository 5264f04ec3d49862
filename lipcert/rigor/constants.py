"""Constant subgraphs in float64 with an entrywise error enclosure that travels with the operator.

Weight norm, spectral norm, folded scales, BatchNorm statistics: the network's coefficient is the real number that the
stored weights define, so what we compute of it carries a radius. Here: what a constant is, and the arithmetic; scalar
functions are in `functions`, matrices in `matrices`, casts in `casts`, and `folding` chooses among them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lipcert.rigor.arithmetic import folding
from lipcert.rigor.rounding import EPS, TINY, down, gamma, rounded, up
from lipcert.terms.errors import RefusedModel

SLACK = 16 * EPS  # relative error granted to sqrt, exp, tanh and the like
FUNCTION = 16  # roundings granted to a runtime's own


@dataclass(frozen=True, eq=False)
class Constant:
    """|true - centre| <= radius entry by entry; radius None: exact. Shapes as in the graph."""

    centre: Tensor  # float64
    radius: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.centre.shape)

    def reach(self) -> Tensor:
        return torch.zeros_like(self.centre) if self.radius is None else self.radius

    @property
    def lower(self) -> Tensor:
        if self.radius is None:
            return self.centre
        exact = (self.radius == 0) | (self.radius == self.centre)  # the difference is the centre, or 0
        least = self.centre - self.radius
        return torch.where(exact, least, down(least))

    @property
    def upper(self) -> Tensor:
        if self.radius is None:
            return self.centre
        return torch.where(self.radius == 0, self.centre, up(self.centre + self.radius))

    def map(self, function: Callable[[Tensor], Tensor]) -> Constant:
        """A function that only moves entries (reshape, slice, transpose, expand)."""
        return Constant(function(self.centre), None if self.radius is None else function(self.radius))


def constant(value: Any) -> Constant:
    """A number, a tensor or a constant as a constant; anything else (a signal) is refused."""
    if isinstance(value, Constant):
        return value
    if isinstance(value, Tensor):
        if value.dtype in (torch.int64, torch.uint64) and bool((value.abs() > 2**53).any()):
            raise RefusedModel("an integer constant beyond 2^53 has no exact float64 value")
        return Constant(value.to(torch.float64))
    if not isinstance(value, float | int):
        raise RefusedModel(f"an argument that is not a constant number or tensor, but a {type(value).__name__}")
    return Constant(torch.tensor(float(value), dtype=torch.float64))


def from_range(lower: Tensor, upper: Tensor) -> Constant:
    centre = lower / 2 + upper / 2
    return cut(Constant(centre, up(torch.maximum(upper - centre, centre - lower))), lower >= 0)


def cut(value: Constant, positive: Tensor) -> Constant:
    """Where the number is known not to be negative, an enclosure that reaches below 0 starts at 0: its root exists."""
    below = positive & (value.lower < 0)
    if value.radius is None or not bool(below.any()):
        return value
    half = up(value.upper / 2)  # centre = radius: the lower end is 0 exactly
    return Constant(torch.where(below, half, value.centre), torch.where(below, half, value.radius))


def _positive(*values: Constant) -> Tensor:
    return functools.reduce(torch.logical_and, [v.lower >= 0 for v in values])


def from_ends(lower: Tensor, upper: Tensor) -> Constant:
    """Like `from_range`, exact where the two are one."""
    return Constant(lower) if torch.equal(lower, upper) else from_range(lower, upper)


def _rounded(centre: Tensor, radius: Tensor, ops: int = 1) -> Constant:
    return Constant(centre, up((radius + gamma(ops) * centre.abs()) * (1 + 8 * EPS)) + TINY)


def executed(value: Constant, ops: int = 1, mass: Tensor | None = None) -> Constant:
    """The value, with what a runtime's own arithmetic may make of it where constants are `folded_in` that: `ops` roundings
    of a sum of absolute terms `mass` (default: the value). Twice that, for it may order the operations otherwise."""
    how = folding()
    if how is None:
        return value
    reach = value.reach()
    size = (value.centre.abs() if mass is None else mass) + reach
    more = up((reach + 2 * how.gamma(ops) * size + how.underflow) * (1 + 8 * EPS))
    same = (reach == 0) & (rounded(value.centre, how.dtype) == value.centre) & (ops == 1)
    return _exact_where(same, Constant(value.centre, more))


Made = TypeVar("Made", bound=Callable[..., Constant])


def _rounds(function: Made) -> Made:
    """A function whose result a runtime rounds once."""

    @functools.wraps(function)
    def found(*args: Any, **kwargs: Any) -> Constant:
        return executed(function(*args, **kwargs))

    return cast(Made, found)


@_rounds
def add(a: Any, b: Any, alpha: float = 1) -> Constant:
    a, b = constant(a), constant(b)
    if alpha != 1:
        b = multiply(b, alpha)
    centre = a.centre + b.centre
    virtual = centre - a.centre
    error = (a.centre - (centre - virtual)) + (b.centre - virtual)  # TwoSum
    if a.radius is None and b.radius is None and bool((error == 0).all()):
        return Constant(centre)
    reach = a.reach() + b.reach()
    exact = (error == 0) & (reach == 0)
    return cut(_exact_where(exact, _rounded(centre, reach + error.abs())), _positive(a, b))


def negative(a: Any) -> Constant:
    a = constant(a)
    return Constant(-a.centre, a.radius)


def subtract(a: Any, b: Any, alpha: float = 1) -> Constant:
    return add(a, negative(b), alpha)


def _power_of_two(x: Tensor) -> bool:
    return bool((torch.frexp(x).mantissa.abs() == 0.5).all()) if x.numel() else True


def _normal(x: Tensor) -> bool:
    return bool(((x == 0) | ((x.abs() >= TINY) & torch.isfinite(x))).all())


def _exact_where(exact: Tensor, value: Constant) -> Constant:
    """Entries that were computed without rounding have no radius: whole numbers stay whole numbers."""
    if bool(exact.all()):
        return Constant(value.centre)
    return Constant(value.centre, torch.where(exact, 0.0, value.reach()))


def _product_is_exact(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Where a b = p in real numbers (Dekker's product; False outside the range where its steps are exact)."""
    a, b, p = torch.broadcast_tensors(a, b, p)

    def halves(x: Tensor) -> tuple[Tensor, Tensor]:
        big = x * (2.0**27 + 1)
        high = big - (big - x)
        return high, x - high

    (ah, al), (bh, bl) = halves(a), halves(b)
    error = ((ah * bh - p) + ah * bl + al * bh) + al * bl
    zero = ((a == 0) | (b == 0)) & (p == 0)
    sizes = [(t.abs() > 1e-120) & (t.abs() < 1e120) for t in (a, b, p)]
    return zero | ((error == 0) & (a * b == p) & sizes[0] & sizes[1] & sizes[2])


@_rounds
def multiply(a: Any, b: Any) -> Constant:
    square = a is b
    a, b = constant(a), constant(b)
    centre = a.centre * b.centre
    if a.radius is None and b.radius is None:
        trivial = any(
            bool(((side.abs() == 1) | (side == 0)).all()) or _power_of_two(side) for side in (a.centre, b.centre)
        )
        if trivial and _normal(centre) and bool(((centre == 0) == ((a.centre == 0) | (b.centre == 0))).all()):
            return Constant(centre)
    radius = a.reach() * (b.centre.abs() + b.reach()) + a.centre.abs() * b.reach()
    exact = _product_is_exact(a.centre, b.centre, centre) & (a.reach() == 0) & (b.reach() == 0)
    value = _exact_where(exact, _rounded(centre, radius * (1 + 8 * EPS)))
    return cut(value, torch.ones_like(exact) if square else _positive(a, b))


@_rounds
def reciprocal(b: Any) -> Constant:
    b = constant(b)
    if bool(((b.lower <= 0) & (b.upper >= 0)).any()):
        raise RefusedModel("a constant divides by zero, or by a number that cannot be told from zero")
    if b.radius is None and _power_of_two(b.centre):
        return Constant(1 / b.centre)
    ends = torch.stack([1 / b.lower, 1 / b.upper])
    return from_range(down(ends.amin(0)), up(ends.amax(0)))


@_rounds
def divide(a: Any, b: Any) -> Constant:
    a, b = constant(a), constant(b)
    if a.radius is None and b.radius is None and not bool((b.centre == 0).any()):
        quotient = a.centre / b.centre  # correctly rounded
        if _power_of_two(b.centre) and _normal(quotient) and bool(((quotient == 0) == (a.centre == 0)).all()):
            return Constant(quotient)
        whole = _product_is_exact(quotient, b.centre, a.centre)
        return _exact_where(whole, _rounded(quotient, torch.zeros_like(quotient)))
    return multiply(a, reciprocal(b))


def increasing(
    function: Callable[[Tensor], Tensor], low: float = -math.inf, high: float = math.inf, least: float = -math.inf
) -> Callable[[Any], Constant]:
    """Enclosure through the end points of an increasing function, defined from `low` to `high`, nowhere below `least`."""

    def rule(a: Any) -> Constant:
        a = constant(a)
        if bool(((a.lower < low) | (a.upper > high)).any()):
            raise RefusedModel(f"a constant leaves the domain of {getattr(function, '__name__', 'a function')}")
        first, last = function(a.lower), function(a.upper)
        first, last = first - SLACK * first.abs() - TINY, last + SLACK * last.abs() + TINY
        return executed(from_range(down(first).clamp(min=least), up(last)), FUNCTION)

    return rule


def power(a: Any, exponent: Any) -> Constant:
    a, e = constant(a), constant(exponent)
    if e.centre.numel() == 1 and e.radius is None:
        n = float(e.centre)
        if n == 0.5:
            return square_root(a)
        if n == -0.5:
            return reciprocal(square_root(a))
        if n == 0.0:
            return Constant(torch.ones_like(a.centre))
        if math.isfinite(n) and n == int(n) and 0 < abs(n) <= 64:
            result = a
            for _ in range(int(abs(n)) - 1):
                result = multiply(result, a)
            return result if n > 0 else reciprocal(result)
    if bool((a.lower > TINY).all()) and bool(torch.isfinite(e.centre).all()):  # x^e = exp(e log x)
        return increasing(torch.exp, least=0.0)(multiply(e, increasing(torch.log)(a)))
    raise RefusedModel(f"a constant raised to the power {exponent}")


def absolute(a: Any) -> Constant:
    a = constant(a)
    size = Constant(a.centre.abs(), a.radius)  # ||x| - |c|| <= |x - c|
    return cut(size, torch.ones_like(size.centre, dtype=torch.bool))


def _sum_of(a: Constant, n: int, centre: Tensor, mass: Tensor, reach: Tensor) -> Constant:
    if a.radius is None and n <= 1:
        return Constant(centre)
    found = Constant(centre, up((reach + gamma(n) * mass) * (1 + 4 * gamma(n + 8)) + TINY))
    return executed(found, n, mass)


def total(a: Any, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Constant:
    a = constant(a)
    dims = list(range(a.centre.dim())) if dim in (None, []) else [dim] if isinstance(dim, int) else list(dim)
    n = math.prod(a.centre.shape[d] for d in dims)
    whole = bool((a.centre == a.centre.round()).all()) and float(a.centre.abs().sum()) < 2**52
    centre = a.centre.sum(dims, keepdim=keepdim)
    if a.radius is None and whole and folding() is None:  # integers add up exactly
        return Constant(centre)
    sizes, reaches = (t.sum(dims, keepdim=keepdim) for t in (a.centre.abs(), a.reach()))
    return cut(_sum_of(a, n, centre, sizes, reaches), ~(a.lower < 0).sum(dims, keepdim=keepdim).bool())


def mean(a: Any, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Constant:
    summed = total(a, dim, keepdim)
    return divide(summed, constant(a).centre.numel() / max(1, summed.centre.numel()))


def variance(a: Any, dim: Any = None, correction: float | None = 1, keepdim: bool = False) -> Constant:
    """Mean square deviation with the divisor n - correction."""
    a = constant(a)
    middle = mean(a, dim, True)
    deviation = subtract(a, middle)
    n = a.centre.numel() // max(1, middle.centre.numel())
    return divide(
        total(multiply(deviation, deviation), dim, keepdim), float(n - (1 if correction is None else correction))
    )


def matmul(a: Any, b: Any) -> Constant:
    a, b = constant(a), constant(b)
    n = a.centre.shape[-1]
    centre = a.centre @ b.centre
    mass_a, mass_b = a.centre.abs(), b.centre.abs()
    radius = gamma(n + 1) * (mass_a @ mass_b) + a.reach() @ (mass_b + b.reach()) + mass_a @ b.reach()
    found = Constant(centre, up(radius * (1 + 4 * gamma(n + 8)) + n * TINY))
    return executed(found, n + 1, mass_a @ mass_b)


def _root_of_squares(a: Constant) -> Constant:
    """The root of a number that is not negative, whatever its enclosure says."""
    least, most = (torch.sqrt(end.clamp(min=0.0)) for end in (a.lower, a.upper))
    return executed(from_range(down(least - SLACK * least - TINY).clamp(min=0.0), up(most + SLACK * most + TINY)))


def norm2(a: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Constant:
    if ord == 2:
        return _root_of_squares(total(multiply(a, a), dim, keepdim))
    if ord == 1:
        return total(absolute(a), dim, keepdim)
    raise RefusedModel(f"a constant norm of order {ord}")


def maximum(a: Any, b: Any) -> Constant:
    a, b = constant(a), constant(b)
    if a.radius is None and b.radius is None:
        return Constant(torch.maximum(a.centre, b.centre))
    return from_range(torch.maximum(a.lower, b.lower), torch.maximum(a.upper, b.upper))


def minimum(a: Any, b: Any) -> Constant:
    return negative(maximum(negative(a), negative(b)))


def clamp(a: Any, min: Any = None, max: Any = None) -> Constant:
    result = constant(a)
    if min is not None:
        result = maximum(result, min)
    return result if max is None else minimum(result, max)


square_root = increasing(torch.sqrt, 0.0, least=0.0)

ARITHMETIC: dict[str, Callable[..., Constant]] = {
    "aten.add.Tensor": add,
    "aten.add.Scalar": add,
    "aten.sub.Tensor": subtract,
    "aten.sub.Scalar": subtract,
    "aten.rsub.Scalar": lambda a, b, alpha=1: subtract(b, a, alpha),
    "aten.mul.Tensor": multiply,
    "aten.mul.Scalar": multiply,
    "aten.div.Tensor": divide,
    "aten.div.Scalar": divide,
    "aten.neg.default": negative,
    "aten.abs.default": absolute,
    "aten.reciprocal.default": reciprocal,
    "aten.sqrt.default": square_root,
    "aten.rsqrt.default": lambda a: reciprocal(square_root(a)),
    "aten.relu.default": lambda a: maximum(a, 0.0),
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power,
    "aten.square.default": lambda a: multiply(a, a),
    "aten.sum.default": total,
    "aten.sum.dim_IntList": total,
    "aten.mean.default": mean,
    "aten.mean.dim": mean,
    "aten.var.correction": lambda a, dim=None, *, correction=None, keepdim=False: variance(a, dim, correction, keepdim),
    "prims.var.default": lambda a, dims, correction=1: variance(a, dims, correction),
    "aten.hypot.default": lambda a, b: _root_of_squares(add(multiply(a, a), multiply(b, b))),
    "prims.hypot.default": lambda a, b: _root_of_squares(add(multiply(a, a), multiply(b, b))),
    "aten.mm.default": matmul,
    "aten.bmm.default": matmul,
    "aten.mv.default": matmul,
    "aten.dot.default": matmul,
    "aten.vdot.default": matmul,
    "aten.matmul.default": matmul,
    "aten.linear.default": lambda a, w, b=None: (
        matmul(a, constant(w).map(lambda t: t.T)) if b is None else add(matmul(a, constant(w).map(lambda t: t.T)), b)
    ),
    "aten.addmm.default": lambda c, a, b, beta=1, alpha=1: add(multiply(matmul(a, b), alpha), multiply(c, beta)),
    "aten.linalg_vector_norm.default": norm2,
    "aten.norm.ScalarOpt_dim": lambda a, p, dim, keepdim=False: norm2(a, p if p is not None else 2, dim, keepdim),
    "aten.norm.Scalar": lambda a, p=2: norm2(a, p),
    "aten.maximum.default": maximum,
    "aten.minimum.default": minimum,
    "aten.clamp.default": clamp,
    "aten.clamp_min.default": lambda a, low: clamp(a, min=low),
    "aten.clamp_max.default": lambda a, high: clamp(a, max=high),
}
