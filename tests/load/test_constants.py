"""Constant subgraphs: the enclosure holds the number that the exact inputs define."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import pytest
import torch
from helpers import exact, f64, member

from lipcert.load.lower.functions import FUNCTIONS
from lipcert.rigor import constants as k
from lipcert.rigor.constants import Constant
from lipcert.terms.errors import RefusedModel

MP = mpmath.mp.clone()
MP.dps = 60
SCALES = (1.0, 1e-310, 1e-160, 1e150)


def values(scale: float, uncertain: bool) -> Constant:
    centre = f64(2, 3) * scale
    centre[0, 0] = 0.0
    centre[0, 1] = scale
    return Constant(centre, centre.abs() * 1e-12 if uncertain else None)


def holds(found: Constant, true: Any) -> bool:
    flat = list(true.reshape(-1)) if hasattr(true, "reshape") else true
    ends = zip(found.lower.reshape(-1).tolist(), flat, found.upper.reshape(-1).tolist(), strict=True)
    return all(low <= t <= high for low, t, high in ends)


EXACT: dict[str, tuple[Callable[..., Constant], Callable[..., Any]]] = {
    "add": (k.add, lambda a, b: a + b),
    "add alpha": (lambda a, b: k.add(a, b, 0.3), lambda a, b: a + Fraction(0.3) * b),
    "subtract": (k.subtract, lambda a, b: a - b),
    "multiply": (k.multiply, lambda a, b: a * b),
    "square": (lambda a, b: k.power(a, 2), lambda a, b: a * a),
    "cube": (lambda a, b: k.power(b, 3.0), lambda a, b: b * b * b),
    "times a power of two": (lambda a, b: k.multiply(a, 0.125), lambda a, b: a / 8),
    "times 0.1": (lambda a, b: k.multiply(a, 0.1), lambda a, b: a * Fraction(0.1)),
    "divide by 3": (lambda a, b: k.divide(a, 3), lambda a, b: a / 3),
    "divide by 4": (lambda a, b: k.divide(a, 4.0), lambda a, b: a / 4),
    "absolute": (lambda a, b: k.absolute(a), lambda a, b: abs(a)),
    "negative": (lambda a, b: k.negative(a), lambda a, b: -a),
    "sum": (lambda a, b: k.total(a), lambda a, b: [sum(a.reshape(-1))]),
    "sum rows": (lambda a, b: k.total(a, [1], True), lambda a, b: a.sum(1)),
    "mean": (lambda a, b: k.mean(a, [0]), lambda a, b: a.sum(0) / 2),
    "mean all": (lambda a, b: k.mean(a), lambda a, b: [sum(a.reshape(-1)) / 6]),
    "matmul": (lambda a, b: k.matmul(a, b.map(lambda t: t.T)), lambda a, b: a @ b.T),
    "maximum": (k.maximum, lambda a, b: _each(max, a, b)),
    "minimum": (k.minimum, lambda a, b: _each(min, a, b)),
    "clamp": (lambda a, b: k.clamp(a, -0.1, 0.3), lambda a, b: _each(lambda u, _: max(Fraction(-0.1), min(Fraction(0.3), u)), a, b)),
    "l1": (lambda a, b: k.norm2(a, 1, [1]), lambda a, b: abs(a).sum(1)),
}  # fmt: skip


def _each(function: Callable, a: Any, b: Any) -> list:
    return [function(u, v) for u, v in zip(a.reshape(-1), b.reshape(-1), strict=True)]


@pytest.mark.every(6)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("scale", "ra", "rb"), itertools.product(SCALES, (False, True), (False, True)))
def test_arithmetic_encloses_the_exact_value(name: str, scale: float, ra: bool, rb: bool) -> None:
    rule, true = EXACT[name]
    if name == "cube" and scale > 1:
        scale = 1e90
    a, b = values(scale, ra), values(scale, rb)
    dice = random.Random(0)
    found = rule(a, b)
    assert found.radius is None or bool((found.radius >= 0).all())
    for _ in range(3):
        u, v = member(a.centre, a.radius, dice), member(b.centre, b.radius, dice)
        assert holds(found, true(u, v))


@pytest.mark.parametrize("scale", SCALES)
def test_reciprocals_and_quotients(scale: float) -> None:
    if scale == 1e-310:
        return
    b = Constant(f64(2, 3).abs() * scale + scale)
    near = Constant(b.centre, b.centre * 1e-9)
    for c, how in ((b, None), (near, random.Random(0))):
        v = member(c.centre, c.radius, how)
        assert holds(k.reciprocal(c), _each(lambda u, _: 1 / u, v, v))
        a = f64(2, 3)
        assert holds(k.divide(a, c), _each(lambda u, w: u / w, exact(a), v))


def mp(x: torch.Tensor) -> list:
    return [MP.mpf(float(v)) for v in x.reshape(-1)]


SMOOTH: dict[str, tuple[Callable, Callable, Callable]] = {
    "aten.sqrt.default": (torch.Tensor.abs, MP.sqrt, torch.sqrt),
    "aten.rsqrt.default": (lambda t: t.abs() + 1e-3, lambda v: 1 / MP.sqrt(v), torch.rsqrt),
    "aten.exp.default": (lambda t: t * 20, MP.exp, torch.exp),
    "aten.sigmoid.default": (lambda t: t * 30, lambda v: 1 / (1 + MP.exp(-v)), torch.sigmoid),
    "aten.tanh.default": (lambda t: t, MP.tanh, torch.tanh),
    "aten.log.default": (lambda t: t.abs() + 1e-9, MP.log, torch.log),
    "aten.relu.default": (lambda t: t, lambda v: max(v, 0), torch.relu),
    "aten.reciprocal.default": (lambda t: t.abs() + 0.1, lambda v: 1 / v, torch.reciprocal),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_functions_in_sixty_digits(name: str) -> None:
    where, true, floating = SMOOTH[name]
    x = where(torch.cat([f64(200), f64(200) * 1e-3, 1 + f64(50) * 1e-8]))
    found = (k.ARITHMETIC | FUNCTIONS)[name](x)
    assert torch.allclose(found.centre, floating(x), rtol=1e-13)
    for low, v, high in zip(found.lower.tolist(), mp(x), found.upper.tolist(), strict=True):
        assert MP.mpf(low) <= true(v) <= MP.mpf(high)
    width = (found.upper - found.lower) / found.centre.abs().clamp(min=1e-30)
    assert float(width.max()) <= 1e-13 or name == "aten.relu.default"


def test_vector_norms() -> None:
    for scale in (1e-140, 1.0, 1e140):
        x = f64(3, 4) * scale
        found = k.norm2(x, 2, [1], True)
        for i in range(3):
            true = MP.sqrt(MP.fsum(v * v for v in mp(x[i])))
            assert MP.mpf(float(found.lower[i, 0])) <= true <= MP.mpf(float(found.upper[i, 0]))


def test_the_norm_of_a_row_that_may_be_zero() -> None:
    found = k.norm2(Constant(torch.zeros(2, 3).double(), torch.full((2, 3), 1e-12, dtype=torch.float64)), 2, [1])
    assert bool((found.lower <= 0).all())
    assert bool((found.upper >= 1e-12 * math.sqrt(3)).all())
    assert bool((found.upper <= 1e-11).all())


def test_exact_results_have_no_radius() -> None:
    whole = torch.randint(-9, 9, (3, 4)).double()
    for found in (k.add(whole, 3), k.multiply(whole, 2.0), k.total(whole), k.divide(whole, 8), k.negative(whole),
                  k.multiply(whole, -1), k.clamp(whole, -1, 1), k.reciprocal(torch.tensor(4.0))):  # fmt: skip
        assert found.radius is None


def test_the_oracle_sees_a_radius_too_small() -> None:
    a, b = f64(5, 5), f64(5, 5)
    found = k.matmul(a, b)
    true = exact(a) @ exact(b)
    assert holds(found, true)
    assert not holds(Constant(found.centre, found.radius * 1e-4), true)
    assert not holds(k.add(a, 0.1), exact(a) + Fraction(1, 10) + Fraction(1, 10**15))


@pytest.mark.parametrize(
    ("rule", "args"),
    [
        (k.reciprocal, (torch.zeros(2),)),
        (k.reciprocal, (Constant(torch.tensor([1e-3]).double(), torch.tensor([1e-2]).double()),)),
        (k.divide, (1.0, torch.tensor([1.0, 0.0]))),
        (k.square_root, (torch.tensor([-1.0]),)),
        (FUNCTIONS["aten.log.default"], (torch.tensor([0.0]),)),
        (k.power, (-torch.ones(2), 1.5)),
        (k.power, (torch.ones(2), math.inf)),
        (k.power, (torch.ones(2), math.nan)),
        (k.power, (-torch.ones(2), torch.tensor([1.0, 2.0]))),
        (k.norm2, (torch.ones(2), 3)),
        (k.constant, (torch.tensor([2**53 + 1]),)),
        (k.constant, (object(),)),
    ],
)
def test_what_is_not_enclosed_is_refused(rule: Callable, args: tuple) -> None:
    with pytest.raises(RefusedModel):
        rule(*args)


def test_whole_numbers_stay_exact_and_products_that_round_do_not() -> None:
    positions = torch.arange(20).double()
    for found in (k.multiply(positions, 3.0), k.divide(k.multiply(positions, 3.0), 3.0), k.multiply(positions, 0.1)):
        assert (found.radius is None) == bool((found.centre == found.centre.round()).all())
    mixed = k.multiply(torch.tensor([3.0, 0.1], dtype=torch.float64), torch.tensor([5.0, 0.3], dtype=torch.float64))
    assert mixed.radius is not None
    assert mixed.radius[0] == 0
    assert mixed.radius[1] > 0
    assert mixed.lower[0] == mixed.upper[0] == 15.0
    quotient = k.divide(torch.tensor([6.0, 1.0]).double(), torch.tensor([3.0, 3.0]).double())
    assert (quotient.lower[0], quotient.upper[0]) == (2.0, 2.0)
    assert quotient.lower[1] < quotient.upper[1]
    for scale in (1.0, 1e-130, 1e130, 1e-308):  # against fractions
        a, b = f64(200) * scale, torch.cat([f64(100), torch.randint(-9, 9, (100,)).double()])
        found = k.multiply(a, b)
        for x, y, c, r in zip(a.tolist(), b.tolist(), found.centre.tolist(), found.reach().tolist(), strict=True):
            assert r > 0 or Fraction(x) * Fraction(y) == Fraction(c)
