"""`where` and comparisons: a choice between two branches of one signal, where that is a function of a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lipcert.load.lower.builder import Builder, Signal, broadcast
from lipcert.load.lower.recognise import exact_constant, is_direct, is_far_softplus, read
from lipcert.load.lower.signals import pointwise, product
from lipcert.rigor import constants
from lipcert.rigor.arithmetic import folding
from lipcert.rigor.constants import constant


@dataclass(frozen=True)
class Decision(Signal):
    """A signal of booleans: 1 where true, 0 where false. `gap`: where it is known, the signal whose sign it is."""

    gap: Signal | None = None


def compared(kind: str) -> Callable[..., Decision]:
    """A comparison as a step of the difference: it jumps, unless what is chosen by it hides that."""

    def rule(b: Builder, x: Any, y: Any) -> Decision:
        if isinstance(x, Decision) or isinstance(y, Decision):
            b.refuse("compares the outcomes of comparisons")
        x, y = broadcast(b, [x, y])
        if kind in ("lt", "le"):
            x, y = y, x
        if not isinstance(x, Signal):
            gap = b.offset(b.scale(y, constant(-1.0)), x)
        elif isinstance(y, Signal):
            gap = b.sum([x, b.scale(y, constant(-1.0))])
        else:
            gap = b.offset(x, constants.negative(y))
        if kind in ("eq", "ne"):
            z = pointwise(b, pointwise(b, gap, "sign"), "square")
            z = z if kind == "ne" else b.offset(b.scale(z, constant(-1.0)), constant(1.0))
        else:
            z = pointwise(b, gap, "heaviside", value=1.0 if kind in ("ge", "le") else 0.0)
            return Decision(z.node, z.shape, gap=gap)
        return Decision(z.node, z.shape)

    return rule


def decision(b: Builder, x: Any) -> Decision:
    if not isinstance(x, Decision):
        b.refuse("a logical operation on values that are not outcomes of comparisons")
    return x


def opposite(b: Builder, x: Decision) -> Decision:
    z = b.offset(b.scale(Signal(x.node, x.shape), constant(-1.0)), constant(1.0))
    return Decision(z.node, z.shape)


def both(b: Builder, x: Any, y: Any) -> Decision:
    x, y = broadcast(b, [Signal(s.node, s.shape) for s in (decision(b, x), decision(b, y))])
    z = product(b, x, y)
    return Decision(z.node, z.shape)


def chosen(b: Builder, condition: Decision, x: Any, y: Any) -> Signal:
    """x where the condition holds, else y: y + condition (x - y). Where both are affine in what is compared and meet at
    the threshold that is y + k relu(gap), without a jump."""
    if condition.gap is not None and (slope := _bend(b, condition.gap, x, y)) is not None:
        bent = b.scale(pointwise(b, condition.gap, "relu"), exact_constant(slope))
        return _plus(b, bent, y if isinstance(y, Signal) else constant(y))
    if _is_softplus(b, condition.gap, x, y):
        return y
    step, x, y = broadcast(b, [Signal(condition.node, condition.shape), x, y])
    if not isinstance(x, Signal) and not isinstance(y, Signal):
        return b.offset(b.scale(step, constants.subtract(x, y)), y)
    return _plus(b, product(b, step, _difference(b, x, y)), y)


def _bend(b: Builder, gap: Signal, x: Any, y: Any) -> Fraction | None:
    """k with x - y = k gap exactly, for uniform affine functions x, y, gap of one signal."""
    at = read(b.nodes, gap.node, activations=False)
    sides = []
    for value in (x, y):
        if isinstance(value, Signal):
            link = read(b.nodes, value.node, at.node, activations=False)
            if link.node != at.node or value.shape != gap.shape:
                return None
            if folding() is not None and not is_direct(b.nodes, value.node, at.node):
                return None
            sides.append((link.scale, link.shift))
        else:
            number = constant(value)
            if number.centre.numel() != 1 or number.radius is not None:
                return None
            sides.append((Fraction(0), Fraction(float(number.centre))))
    slope, shift = sides[0][0] - sides[1][0], sides[0][1] - sides[1][1]
    return slope / at.scale if at.scale != 0 and shift * at.scale == slope * at.shift else None


def _is_softplus(b: Builder, gap: Signal | None, x: Any, y: Any) -> bool:
    if gap is None or not isinstance(x, Signal) or not isinstance(y, Signal) or not gap.shape == x.shape == y.shape:
        return False
    return is_far_softplus(b.nodes, gap.node, x.node, y.node)


def _difference(b: Builder, x: Any, y: Any) -> Signal:
    if isinstance(y, Signal):
        return _plus(b, b.scale(y, constant(-1.0)), x)
    return b.offset(x, constants.negative(y))


def _plus(b: Builder, x: Signal, y: Any) -> Signal:
    return b.sum([x, y]) if isinstance(y, Signal) else b.offset(x, y)


PLAIN_ROWS = """relu silu mish sigmoid tanh erf abs atan asinh sin cos tan exp expm1 log log1p sqrt rsqrt reciprocal
square sinh cosh asin acos acosh atanh floor ceil round trunc sign hardswish selu relu6""".split()
COMPARISONS = "gt.Scalar gt.Tensor lt.Scalar lt.Tensor ge.Scalar ge.Tensor le.Scalar le.Tensor eq.Scalar eq.Tensor ne.Scalar ne.Tensor".split()
