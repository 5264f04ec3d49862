"""A network along a ray x = a + t d, t >= T: every signal as a sum of powers of t with enclosed coefficients.

    u(t) = sum_p t^p c_p(t),  c_p(t) in centre_p +- radius_p for all t >= T

Affine nodes act on the coefficients; products multiply sums. A nonlinearity whose argument has a known sign far out is
affine, bounded or a power there; elsewhere it is only known to lie between 0 and its argument, or in its range.
What has no rule raises `NoRule`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.activations.corner import Corner
from lipcert.activations.jets import Expression, Uniform
from lipcert.blocks.base import Block
from lipcert.blocks.normalise import Norm2, Normalise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.radial import Radial
from lipcert.blocks.selection import Selection
from lipcert.blocks.softmax import LogSumExp, Softmax
from lipcert.blocks.sort import Sort
from lipcert.network.graph import (
    Add,
    Concat,
    Enclosure,
    Graph,
    Input,
    Linear,
    Nonlinear,
    Offset,
    enclose_linear,
    enclose_stack,
    enclose_sum,
)
from lipcert.network.idle import pattern
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Operator

T = 2.0**20
Powers = dict[float, Enclosure]  # power of t -> coefficients (1, n)


class NoRule(Exception):
    """Nothing can be said of a signal."""


def superlinear(graph: Graph, a: Tensor, d: Tensor) -> bool:
    """Some output grows at least as t^p, p > 1, along a + t d: its leading coefficient has a sign."""
    try:
        out = along(graph, a, d)
    except NoRule:
        return False
    lead, power = _lead(out)
    return bool(((power > 1) & (lead != 0)).any())


def apart(graph: Graph, a: Tensor, b: Tensor, d: Tensor) -> bool:
    """Some output of the rays a + t d and b + t d differs by at least c t^p, c > 0, p > 0."""
    try:
        one, other = along(graph, a, d), along(graph, b, d)
    except NoRule:
        return False
    gap = _sum([one, _scaled(other, -1.0)])
    lead, power = _lead(gap)
    return bool(((power > 0) & (lead != 0)).any())


def along(graph: Graph, a: Tensor, d: Tensor) -> Powers:
    """The output for t >= T."""
    return forward(graph, POWERS, (a, d))[graph.output]


def _stack(at: Visit, *us: Powers) -> Powers:
    return {p: enclose_stack(*(_part(u, p) for u in us)) for p in sorted({p for u in us for p in u})}


def _offset(at: Visit, *us: Powers) -> Powers:
    value, slack = at.what.value, at.what.radius
    constant = {0.0: Enclosure(value[None], None if slack is None else slack[None])}
    return _sum([us[0], constant]) if us else constant


def _nonlinear(at: Visit, *us: Powers) -> Powers:
    found = _block(at.what.block, list(us))
    if len(found) > 8 or max(found, default=0.0) > 8:
        raise NoRule  # powers of powers
    if not all(bool(torch.isfinite(c.centre).all() & torch.isfinite(c.reach()).all()) for c in found.values()):
        raise NoRule
    return found


def _linear(operator: Operator, u: Enclosure) -> Enclosure:
    """Entries that nothing but zeros reaches are exactly 0: powers of t that do not occur."""
    y = enclose_linear(operator, u)
    reached = pattern(operator).mv(_nonzero(u)) != 0
    return Enclosure(torch.where(reached, y.centre, 0.0), torch.where(reached, y.reach(), 0.0))


def _part(u: Powers, p: float) -> Enclosure:
    some = next(iter(u.values()))
    return u.get(p, Enclosure(torch.zeros_like(some.centre)))


def _pair(low: Tensor, high: Tensor) -> Enclosure:
    """The interval; exactly 0 where both ends are."""
    centre = low / 2 + high / 2
    radius = torch.maximum(high - centre, centre - low)
    radius = torch.nextafter(radius * (1 + 1e-15), torch.full_like(radius, math.inf))
    return Enclosure(centre, torch.where((low == 0) & (high == 0), 0.0, radius))


def _sum(args: list[Powers]) -> Powers:
    out: Powers = {}
    for p in sorted({p for arg in args for p in arg}):
        parts = [arg[p] for arg in args if p in arg]
        total = enclose_sum(*parts)
        moved = torch.stack([_nonzero(part) != 0 for part in parts]).any(dim=0)
        out[p] = Enclosure(torch.where(moved, total.centre, 0.0), torch.where(moved, total.reach(), 0.0))
    return out


def _scaled(u: Powers, factor: float) -> Powers:
    return {p: _pair(*_outward(*(end * factor for end in _ends(c)))) for p, c in u.items()}


def _outward(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    inf = torch.full_like(low, math.inf)
    still = (low == 0) & (high == 0)
    return torch.where(still, 0.0, torch.nextafter(low, -inf)), torch.where(still, 0.0, torch.nextafter(high, inf))


def _ends(u: Enclosure) -> tuple[Tensor, Tensor]:
    """Lower and upper, exactly 0 where the coefficient is."""
    some = _nonzero(u) != 0
    return torch.where(some, u.lower, 0.0), torch.where(some, u.upper, 0.0)


def _lead(u: Powers) -> tuple[Tensor, Tensor]:
    """(sign, power) of the leading term of each entry; sign 0 where it is open. Lower terms matter less from T on only if
    the lead outweighs them, which t -> inf brings about whatever they are."""
    some = next(iter(u.values())).centre
    sign, power = torch.zeros_like(some), torch.full_like(some, -math.inf)
    open_ = torch.ones_like(some, dtype=torch.bool)
    for p in sorted(u, reverse=True):
        low, high = _ends(u[p])
        settled = open_ & ((low > 0) | (high < 0))
        sign = torch.where(settled, torch.where(low > 0, 1.0, -1.0), sign)
        power = torch.where(settled, p, power)
        open_ = open_ & (low == 0) & (high == 0)
    return sign, power


def _range(u: Powers) -> tuple[Tensor, Tensor]:
    """Values for t >= T, infinite ends included: the lead against all the rest at T."""
    some = next(iter(u.values())).centre
    low, high = torch.zeros_like(some), torch.zeros_like(some)
    top, mass = torch.zeros_like(some), torch.zeros_like(some)
    sign, power = _lead(u)
    for p, c in u.items():
        c_low, c_high = _ends(c)
        size = torch.maximum(c_low.abs(), c_high.abs())
        leads = power == p
        top = torch.where(leads, torch.minimum(c_low.abs(), c_high.abs()) * T**p, top)
        mass = mass + torch.where(leads, 0.0, size * T**p)
        grows = p > 0
        low = low + torch.where(c_low < 0, -math.inf if grows else c_low * T**p, torch.where(c_low > 0, c_low * (T**p if grows else (1.0 if p == 0 else 0.0)), 0.0))  # fmt: skip
        high = high + torch.where(c_high > 0, math.inf if grows else c_high * T**p, torch.where(c_high < 0, c_high * (T**p if grows else (1.0 if p == 0 else 0.0)), 0.0))  # fmt: skip
    sure = (sign != 0) & (power >= 0) & (top > 2 * mass)  # lower powers fall behind further as t grows
    least = top - 2 * mass
    low = torch.where(sure & (sign > 0), torch.maximum(low, least * (1 - 1e-12)), low)
    high = torch.where(sure & (sign < 0), torch.minimum(high, -least * (1 - 1e-12)), high)
    low, high = low - 1e-12 * low.abs(), high + 1e-12 * high.abs()
    return low.nan_to_num(-math.inf, math.inf, -math.inf), high.nan_to_num(math.inf, math.inf, -math.inf)


def _times(u: Powers, v: Powers) -> Powers:
    products: list[Powers] = []
    for p, a in u.items():
        for q, b in v.items():
            corners = torch.stack([x * y for x in _ends(a) for y in _ends(b)])
            products.append({p + q: _pair(*_outward(corners.amin(0), corners.amax(0)))})
    return _sum(products)


def _mixed(slope: tuple[Tensor, Tensor], u: Powers) -> Powers:
    """theta(t) u(t) for theta in `slope`."""
    out: Powers = {}
    for p, c in u.items():
        corners = torch.stack([s * end for s in slope for end in _ends(c)])
        out[p] = _pair(*_outward(corners.amin(0), corners.amax(0)))
    return out


def _block(block: Block, args: list[Powers]) -> Powers:
    match block:
        case Pointwise():
            return _row(block.activation, args[0])
        case Product():
            return _times(args[0], args[1])
        case MatMul():
            products: list[Powers] = []
            for p, a in args[0].items():
                for q, b in args[1].items():
                    low, high = block.values_on((a.lower, a.upper), (b.lower, b.upper))
                    some = block(_nonzero(a), _nonzero(b)) != 0
                    products.append({p + q: _pair(torch.where(some, low, 0.0), torch.where(some, high, 0.0))})
            return _sum(products)
        case Softmax():
            return {0.0: _pair(*_softmax(block, args[0]))}
        case Selection() | Sort():
            return _chosen(block, args[0])
        case Normalise() | Radial():
            return {0.0: _pair(*block.values_on(_range(args[0])))}
        case Norm2() | LogSumExp() if set(args[0]) <= {0.0}:
            return {0.0: _pair(*block.values_on((args[0][0.0].lower, args[0][0.0].upper)))}
    raise NoRule


def _nonzero(u: Enclosure) -> Tensor:
    return ((u.centre != 0) | (u.reach() != 0)).double()


def _softmax(block: Softmax, u: Powers) -> tuple[Tensor, Tensor]:
    """Where one score is above all others from T on, its weight is at least 1 / (1 + sum exp(-gap)), the gaps at T."""
    views = {p: tuple(block._view(end) for end in _ends(c)) for p, c in u.items()}
    centre: Tensor = sum((a + b) / 2 * T**p for p, (a, b) in views.items())
    best = centre.argmax(dim=2, keepdim=True)
    gaps: Powers = {}
    for p, (a, b) in views.items():
        low, high = a.gather(2, best) - b, b.gather(2, best) - a
        gaps[p] = _pair(*_outward(low.reshape(1, -1), high.reshape(1, -1)))
    least = block._view(_range(gaps)[0])
    others = torch.ones_like(least, dtype=torch.bool).scatter_(2, best, False)
    weight = torch.where(others, torch.exp(-least.clamp(min=-700.0)) * (1 + 1e-10) + 1e-300, 0.0)
    rest = weight.sum(dim=2, keepdim=True)
    settled = (~others | (least > 0)).all(dim=2, keepdim=True)
    low = torch.where(settled & ~others, (1 / (1 + rest)) * (1 - 1e-10), 0.0)
    high = torch.where(settled & others, weight.clamp(max=1.0), 1.0)
    return low.reshape(1, -1), high.reshape(1, -1)


def _chosen(block: Selection | Sort, u: Powers) -> Powers:
    """A maximum, as every entry of a sorted group, is a convex combination of its window; with a lone entry, that entry."""
    out: Powers = {}
    for p, c in u.items():
        low = high = None
        for column in block.windows.T:
            place, here = column.clamp(min=0), column >= 0
            a = torch.where(here, c.lower[:, place], math.inf)
            b = torch.where(here, c.upper[:, place], -math.inf)
            low, high = (a, b) if low is None or high is None else (torch.minimum(low, a), torch.maximum(high, b))
        assert low is not None
        assert high is not None
        out[p] = _pair(low, high)
    return out


def _row(f: Elementwise, u: Powers) -> Powers:
    if isinstance(f.row.function, Expression):
        return _expression(f, f.row.function, u)
    if f.name == "square":
        return _times(u, u)
    if f.name == "pow_int" and float(f.params[0]) in (3.0, 4.0, 5.0):
        out = u
        for _ in range(int(float(f.params[0])) - 1):
            out = _times(out, u)
        return out
    low, high = _range(u)
    if f.name in ("exp", "cosh", "sinh", "expm1") and bool((low > 0).any()):
        raise NoRule  # faster than any power
    slope = f.slopes_on(low, high)
    value = f.values_on(low, high)
    zero = torch.zeros_like(low)
    bounded = torch.isfinite(value[0]) & torch.isfinite(value[1])
    whole = tuple(torch.as_tensor(s, dtype=torch.float64).reshape(-1).expand_as(low) for s in f.slopes())
    if isinstance(f.row.slopes_on, Corner):
        return _mixed(slope, u)
    # f(u) = f(s) + theta (u - s), s the finite end of the range, or 0
    start = torch.where(torch.isfinite(low), low, torch.where(torch.isfinite(high), high, zero))
    theta = tuple(
        torch.where(torch.isfinite(low) | torch.isfinite(high), a, b) for a, b in zip(slope, whole, strict=True)
    )
    theta = tuple(torch.where(bounded, 0.0, t) for t in theta)
    if not all(bool(torch.isfinite(t).all()) for t in theta):
        raise NoRule
    at = f.values_on(start, start)
    moved = torch.stack([s * start for s in theta])
    base = at[0] - moved.amax(0), at[1] - moved.amin(0)
    base = torch.where(bounded, value[0], base[0]), torch.where(bounded, value[1], base[1])
    return _sum([_mixed((theta[0], theta[1]), u), {0.0: _pair(*_outward(*base))}])


def _expression(f: Elementwise, expression: Expression, u: Powers) -> Powers:
    known = [u]
    for step in expression.steps:
        args = [known[i] for i in step.reads]
        if isinstance(step.value, Elementwise):
            known.append(_row(step.value, args[0]))
        elif step.op in ("add", "times"):
            known.append(_sum(args) if step.op == "add" else _times(args[0], args[1]))
        elif isinstance(step.value, Uniform):
            like = next(iter(u.values())).centre
            ends = torch.full_like(like, step.value.low), torch.full_like(like, step.value.high)
            known.append(_mixed(ends, args[0]) if step.op == "scale" else _sum([args[0], {0.0: _pair(*ends)}]))
        else:
            raise NoRule
    return known[-1]


POWERS: Rules = {  # state: the ends a + t d of the ray
    Input: lambda at: {0.0: Enclosure(at.state[0]), 1.0: Enclosure(at.state[1])},
    Linear: lambda at, u: {p: _linear(at.what.operator, c) for p, c in u.items()},
    Add: lambda at, *us: _sum(list(us)),
    Concat: _stack,
    Offset: _offset,
    Nonlinear: _nonlinear,
}
