"""Enclosures of scalar functions of constants: end points of monotone ones, a Lipschitz constant for sine and cosine.

Assumption, as for the table of activations: torch's float64 functions err by at most `SLACK` relative to their value
(SLEEF and MKL state one unit in the last place; SLACK is sixteen half-units), sine and cosine relative to min(1, |x|)
and to 1. A test compares each with 50-digit values over many magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipcert.rigor.constants import (
    FUNCTION,
    SLACK,
    Constant,
    absolute,
    add,
    constant,
    divide,
    executed,
    increasing,
    maximum,
    multiply,
    negative,
    subtract,
)
from lipcert.rigor.rounding import TINY, up
from lipcert.terms.errors import RefusedModel

Rule = Callable[..., Constant]


def _decreasing(function: Callable[[Tensor], Tensor], low: float, high: float) -> Rule:
    flipped = increasing(lambda x: -function(x), low, high)
    return lambda a: negative(flipped(a))


def _wave(function: Callable[[Tensor], Tensor], odd: bool) -> Rule:
    """sin and cos: |f(x) - f(y)| <= |x - y|."""

    def rule(a: Any) -> Constant:
        a = constant(a)
        size = a.centre.abs().clamp(max=1.0) if odd else torch.ones_like(a.centre)
        value = Constant(function(a.centre), up(a.reach() + (SLACK * size + TINY)))
        return executed(value, FUNCTION, torch.ones_like(size))

    return rule


def _exactly(function: Callable[[Tensor], Tensor]) -> Rule:
    """A function that is enclosed at stored numbers only."""

    def rule(a: Any) -> Constant:
        a = constant(a)
        if a.radius is not None:
            raise RefusedModel(f"{getattr(function, '__name__', 'a function')} of a computed constant")
        value = function(a.centre)
        return executed(Constant(value, up(SLACK * value.abs() + TINY)), FUNCTION)

    return rule


def _cosh(a: Any) -> Constant:
    a = constant(a)
    grown = exponential(a)
    return multiply(add(grown, exponential(negative(a))), 0.5)


def _arctan2(y: Any, x: Any) -> Constant:
    y, x = constant(y), constant(x)
    if y.radius is not None or x.radius is not None or bool(((y.centre == 0) & (x.centre == 0)).any()):
        raise RefusedModel("atan2 of computed constants, or of 0 and 0")
    value = torch.atan2(y.centre, x.centre)
    return executed(Constant(value, up(SLACK * value.abs() + TINY)), FUNCTION)


def _log_add_exp(a: Any, b: Any) -> Constant:
    return add(maximum(a, b), increasing(torch.log1p)(exponential(negative(absolute(subtract(a, b))))))


exponential = increasing(torch.exp, least=0.0)
logarithm = increasing(torch.log, TINY)
_LN2, _LN10 = (Constant(torch.tensor(v, dtype=torch.float64), torch.tensor(v * 2.0**-52, dtype=torch.float64)) for v in (math.log(2.0), math.log(10.0)))  # fmt: skip

FUNCTIONS: dict[str, Rule] = {
    "aten.exp.default": exponential,
    "aten.exp2.default": increasing(torch.exp2, least=0.0),
    "aten.expm1.default": increasing(torch.expm1),
    "aten.log.default": logarithm,
    "aten.log2.default": lambda a: divide(logarithm(a), _LN2),
    "aten.log10.default": lambda a: divide(logarithm(a), _LN10),
    "aten.log1p.default": increasing(torch.log1p, -1.0 + 2.0**-53),
    "aten.sigmoid.default": increasing(torch.sigmoid, least=0.0),
    "aten.tanh.default": increasing(torch.tanh),
    "aten.sinh.default": increasing(torch.sinh),
    "aten.cosh.default": _cosh,
    "aten.asinh.default": increasing(torch.asinh),
    "aten.acosh.default": increasing(torch.acosh, 1.0),
    "aten.atanh.default": increasing(torch.atanh, -1.0 + 2.0**-53, 1.0 - 2.0**-53),
    "aten.atan.default": increasing(torch.atan),
    "aten.asin.default": increasing(torch.asin, -1.0, 1.0),
    "aten.acos.default": _decreasing(torch.acos, -1.0, 1.0),
    "aten.erf.default": increasing(torch.erf),
    "aten.erfc.default": _decreasing(torch.erfc, -math.inf, math.inf),
    "aten.sin.default": _wave(torch.sin, True),
    "aten.cos.default": _wave(torch.cos, False),
    "aten.logaddexp.default": _log_add_exp,
    "aten.tan.default": _exactly(torch.tan),
    "aten.atan2.default": _arctan2,
}
