"""Directed rounding against exact rationals: every upper value is one, and no further out than promised."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lipcert.rigor import rounding as r

LARGEST = 1.7976931348623157e308
finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
positive = st.floats(min_value=5e-324, max_value=LARGEST)
vectors = st.lists(st.floats(min_value=0.0, max_value=1e300), min_size=0, max_size=40)

EXACT = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}


def is_upper(value: float, exact: Fraction, ulps: int = 2) -> bool:
    """value >= exact, and at most `ulps` floats above it."""
    if value == math.inf:
        return exact > Fraction(LARGEST) or r.down(LARGEST) < exact
    inward = value
    for _ in range(ulps):
        inward = math.nextafter(inward, -math.inf)
    return Fraction(value) >= exact and (inward == -math.inf or Fraction(inward) <= exact)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=150, deadline=None)
@given(a=finite, b=finite)
@example(a=1e-200, b=1e-200)
@example(a=-LARGEST, b=-LARGEST)
@example(a=LARGEST, b=LARGEST)
@example(a=0.0, b=3.0)
@example(a=5e-324, b=1e300)
def test_float_operations_are_directed(name, a, b):
    if name == "div" and b == 0:
        return
    exact = EXACT[name](Fraction(a), Fraction(b))
    upper, lower = getattr(r, f"{name}_up")(a, b), getattr(r, f"{name}_down")(a, b)
    assert is_upper(upper, exact)
    assert is_upper(-lower, -exact)
    if name == "mul" and a > 0 and b > 0:
        assert upper > 0
        assert lower >= 0


@settings(max_examples=80, deadline=None)
@given(values=st.lists(st.tuples(finite, finite), min_size=1, max_size=20))
def test_tensors_round_as_floats_do(values):
    a, b = tensor(*(x for x, _ in values)), tensor(*(y if y else 1.0 for _, y in values))
    for name in EXACT:
        for way in ("up", "down"):
            operation = getattr(r, f"{name}_{way}")
            expected = [operation(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
            assert operation(a, b).tolist() == expected
            assert operation(a, b.tolist()[0]).tolist() == [operation(x, b.tolist()[0]) for x in a.tolist()]
    assert r.power_of_two_scale(a).tolist() == [r.power_of_two_scale(x) for x in a.tolist()]


@settings(max_examples=150, deadline=None)
@given(values=st.lists(st.floats(min_value=0, max_value=LARGEST), min_size=1, max_size=20))
@example(values=[7600948972553121.0])  # torch's root is not the nearest float
def test_tensor_roots_enclose(values):
    upper, lower = r.sqrt_up(tensor(*values)).tolist(), r.sqrt_down(tensor(*values)).tolist()
    for x, above, below in zip(values, upper, lower, strict=True):
        assert Fraction(below) ** 2 <= Fraction(x) <= Fraction(above) ** 2
        assert above <= math.sqrt(x) * (1 + 6 * r.EPS)


@settings(max_examples=150, deadline=None)
@given(x=st.floats(min_value=0, max_value=LARGEST))
@example(x=5e-324)
def test_square_roots_enclose(x):
    assert Fraction(r.sqrt_down(x)) ** 2 <= Fraction(x) <= Fraction(r.sqrt_up(x)) ** 2
    assert r.sqrt_up(x) <= math.sqrt(x) * (1 + 3 * r.EPS)


def test_the_oracle_notices_rounding_to_nearest():
    """Planted error: the plain float sum and product are not upper values."""
    pairs = [(0.1, 0.7), (0.3, 0.6), (1.1, 2.2), (0.1, 0.1), (1e16, -1.1), (1 / 3, 1 / 7)]
    assert not all(is_upper(a + b, Fraction(a) + Fraction(b)) for a, b in pairs)
    assert not all(is_upper(a * b, Fraction(a) * Fraction(b)) for a, b in pairs)
    assert not is_upper(0.0, Fraction(1e-200) ** 2)  # underflow
    assert not is_upper(r.up(r.up(r.up(1.0))), Fraction(1))  # and one that is too far out


@pytest.mark.parametrize("operation", [r.add_up, r.mul_up, r.div_up, r.add_down, r.mul_down])
def test_infinity_and_nan_pass(operation):
    for make in (float, lambda x: tensor(x)):
        assert math.isnan(float(operation(make(math.nan), make(1.0))))
    assert r.add_up(math.inf, 1.0) == r.mul_up(math.inf, 2.0) == r.sqrt_up(math.inf) == r.up(math.inf) == math.inf
    assert r.div_up(1.0, 0.0) == math.inf


def test_zeros_stay_exact():
    assert r.mul_up(0.0, 3.0) == r.add_up(0.0, 0.0) == r.sqrt_up(0.0) == r.div_up(0.0, 2.0) == 0.0
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    for p in ("1", "2", "inf"):
        assert r.norm_up(zeros, p, 0).tolist() == [0.0] * 3
        assert float(r.norm_up(zeros[:0], p)) == 0.0


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match="float64"):
        r.mul_up(torch.ones(2), 2.0)


@settings(max_examples=150, deadline=None)
@given(values=vectors)
@example(values=[5e-324, 1e300])
@example(values=[1e-170] * 5)
@example(values=[3.0, 4.0])
def test_sums_and_norms_enclose(values):
    t, exact = tensor(*values), [Fraction(v) for v in values]
    slack = 1 + Fraction(len(values) + 10, 2**52)
    least = 4 * Fraction(5e-324)
    total = sum(exact, Fraction(0))
    assert total <= Fraction(float(r.sum_up(t))) <= total * slack + least
    assert total >= Fraction(float(r.sum_down(t))) >= total / slack - least
    squares = sum((v**2 for v in exact), Fraction(0))
    upper, lower = float(r.norm_up(t, "2")), float(r.norm_down(t, "2"))
    assert Fraction(lower) ** 2 <= squares <= Fraction(upper) ** 2
    assert Fraction(upper) <= Fraction(lower) * slack**3 + least
    assert float(r.norm_up(t, "inf")) == max(values, default=0.0) == float(r.norm_down(t, "inf"))


@given(n=st.integers(0, 2**52))
def test_gamma_is_an_upper_value(n):
    nu = Fraction(n, 2**53)
    assert is_upper(r.gamma(n), nu / (1 - nu))


def test_gamma_of_too_many_roundings_is_infinite():
    assert r.gamma(2**53) == math.inf


@given(x=st.floats(min_value=5e-324, max_value=LARGEST))
def test_scales_are_powers_of_two_with_a_normal_inverse(x):
    s = r.power_of_two_scale(x)
    assert math.frexp(s)[0] == 0.5
    assert s * (1 / s) == 1.0
    assert 2.0**-1021 <= s <= 2.0**1021
    assert x / s < 8
    assert x / s >= 1 or s == 2.0**-1021


def test_norms_along_dimensions():
    t = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    for p, order in (("1", 1), ("2", 2), ("inf", math.inf)):
        for dim in (0, 1, (0, 2), None):
            expected = torch.linalg.vector_norm(t, order, dim)
            upper = r.norm_up(t, p, dim)
            assert upper.shape == expected.shape
            assert bool((upper >= expected).all())
            torch.testing.assert_close(upper, expected, rtol=1e-13, atol=0)
            assert bool((r.norm_down(t, p, dim) <= expected).all())
