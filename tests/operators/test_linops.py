"""Primitive operators against matrices written out in exact arithmetic."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch
from helpers import NORMS, exact, f64, floats, matrix, norm_below, operators, product

from lipcert.network.affine import apply_up
from lipcert.network.graph import Enclosure, enclose_linear
from lipcert.operators import linear as linops
from lipcert.operators.conv_norm import ConvGeometry
from lipcert.operators.linear import Adjoint, Conv, Dense, Operator, Scale, Select, copies_factor

torch.manual_seed(1)
ALL = dict(operators())
TINIEST = Fraction(1, 2**1074)

case = pytest.mark.parametrize("operator", ALL.values(), ids=ALL.keys())


def gamma(n: int) -> Fraction:
    return Fraction(n, 2**53) / (1 - Fraction(n, 2**53))


def test_every_operator_class_has_factories() -> None:
    classes = {c for c in vars(linops).values() if isinstance(c, type) and issubclass(c, Operator)} - {Operator}
    assert classes == {Select, Scale, Dense, Conv, Adjoint}
    assert {type(a) for a in ALL.values()} == classes
    assert {type(a.of) for a in ALL.values() if isinstance(a, Adjoint)} == classes


@case
def test_mv_and_rmv_are_the_matrix_up_to_the_stated_rounding(operator: Operator) -> None:
    A = matrix(operator)
    assert A.shape == (operator.out_size, operator.in_size)
    for M, apply, terms in ((A, operator.mv, operator.terms), (A.T, operator.rmv, operator.terms_adjoint)):
        x = f64(2, M.shape[1])
        got = apply(x)
        assert got.shape == (2, M.shape[0])
        for row, given in zip(exact(got), exact(x), strict=True):
            true, mass = product(M, given), product(abs(M), abs(given))
            for value, t, m in zip(row, true, mass, strict=True):
                assert abs(value - t) <= gamma(terms + 1) * m + terms * TINIEST
                assert terms or value == t, "terms = 0 promises that nothing is computed"


@case
def test_the_rounding_bound_holds_where_numbers_are_tiny(operator: Operator) -> None:
    A = matrix(operator)
    x = f64(1, operator.in_size) * 1e-310
    got, given = exact(operator.mv(x))[0], exact(x)[0]
    for value, t, m in zip(got, product(A, given), product(abs(A), abs(given)), strict=True):
        assert abs(value - t) <= gamma(operator.terms + 1) * m + operator.terms * TINIEST


@case
def test_pattern_counts_the_terms_that_may_be_other_than_0(operator: Operator) -> None:
    ceiling, counted = matrix(operator.absolute()), matrix(operator.pattern())
    assert ((counted > 0) | (matrix(operator) == 0)).all()
    assert ((counted > 0) <= (ceiling > 0)).all()
    assert (counted.sum(axis=1) <= max(1, operator.terms)).all()


@case
def test_absolute_and_radius_dominate_every_member(operator: Operator) -> None:
    stored, dice = matrix(operator), random.Random(0)
    ceiling = matrix(operator.absolute())
    radius = operator.radius_operator()
    slack = None if radius is None else matrix(radius)
    for _ in range(4):
        A = matrix(operator, dice)
        assert (abs(A) <= ceiling).all()
        assert (stored == A).all() if slack is None else (abs(A - stored) <= slack).all()


@pytest.mark.every(5)
@case
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("q", NORMS)
def test_norms_are_upper_bounds_of_every_member(operator: Operator, p: str, q: str) -> None:
    dice = random.Random(0)
    bound = operator.norm_upper(p, q)
    for _ in range(3):
        below = norm_below(floats(matrix(operator, dice)), p, q)
        assert below <= bound * (1 + 1e-12)


@pytest.mark.every(4)
@case
@pytest.mark.parametrize("p", NORMS)
def test_norms_without_copies_are_exact(operator: Operator, p: str) -> None:
    if operator.radius_operator() is None and not isinstance(operator, Conv | Adjoint):
        below = norm_below(floats(matrix(operator)), p, p)
        assert operator.norm_upper(p, p) <= below * (1 + 1e-8)


@case
def test_apply_up_and_enclosures_hold_the_exact_product(operator: Operator) -> None:
    dice = random.Random(0)
    for scale in (1.0, 1e-310, 1e150):
        centre = f64(1, operator.in_size) * scale
        rho = f64(1, operator.in_size).abs() * scale * 1e-12
        top = exact(apply_up(operator, centre.abs()))[0]
        found = [enclose_linear(operator, Enclosure(centre, r)) for r in (None, rho)]
        assert all(f.radius is None or bool((f.radius >= 0).all()) for f in found)
        for _ in range(3):
            A = matrix(operator, dice)
            assert (product(abs(A), abs(exact(centre)[0])) <= top).all()
            moved = exact(centre)[0] + exact(rho)[0] * dice.choice([-1, 1])
            for f, x in zip(found, (exact(centre)[0], moved), strict=True):
                true = product(A, x)
                assert (exact(f.lower)[0] <= true).all()
                assert (true <= exact(f.upper)[0]).all()


def test_a_negated_signal_keeps_its_radius() -> None:
    """The radius once went through the signs of the operator: lower > upper."""
    flip = Scale(-torch.ones(2, dtype=torch.float64))
    found = enclose_linear(flip, Enclosure(torch.zeros(1, 2).double(), torch.ones(1, 2).double()))
    assert bool((found.lower <= -1).all())
    assert bool((found.upper >= 1).all())


def test_large_coefficients_meet_subnormal_signals() -> None:
    operator = Dense(torch.full((1, 1, 1), 1.1e308, dtype=torch.float64))
    x = torch.full((1, 1), 3.3e-311, dtype=torch.float64)
    found = enclose_linear(operator, Enclosure(x))
    true = Fraction(1.1e308) * Fraction(float(x))
    assert Fraction(float(found.lower)) <= true <= Fraction(float(found.upper))
    assert Fraction(float(found.centre)) != true


@pytest.mark.parametrize("spoil", ["radius", "coefficient"])
def test_the_oracle_sees_a_radius_too_small_and_a_coefficient_off(spoil: str) -> None:
    operator = Dense(f64(1, 8, 8))
    x = f64(1, 8)
    found = enclose_linear(operator, Enclosure(x))
    A = matrix(operator)
    if spoil == "radius":  # below the rounding that really happens
        found = Enclosure(found.centre, found.radius * 1e-4)
    else:
        A[0, 0] *= 1 + Fraction(1, 2**40)
    true = product(A, exact(x)[0])
    assert not ((exact(found.lower)[0] <= true).all() and (true <= exact(found.upper)[0]).all())


def test_the_oracle_sees_a_norm_too_small() -> None:
    A = floats(matrix(ALL["dense"]))
    for p in NORMS:
        for q in NORMS:
            assert norm_below(A, p, q) > 0.99 * norm_below(A, p, q)
            x = f64(1, A.shape[1])
            order = {"1": 1.0, "2": 2.0, "inf": float("inf")}
            ratio = torch.linalg.vector_norm(x @ A.T, order[q]) / torch.linalg.vector_norm(x, order[p])
            assert float(ratio) <= norm_below(A, p, q) * (1 + 1e-12)


@pytest.mark.parametrize(("p", "q"), [(p, q) for p in NORMS for q in NORMS])
def test_copies_factor_is_the_norm_of_repeated_blocks(p: str, q: str) -> None:
    A = f64(1, 2, 2)
    one = norm_below(A[0], p, q)
    many = norm_below(floats(matrix(Dense(A, 3))), p, q)
    assert many <= copies_factor(3, p, q) * one * (1 + 1e-12)
    if p == q:
        assert copies_factor(3, p, q) == 1.0


@case
def test_other_dtypes_evaluate_the_same_matrix(operator: Operator) -> None:
    moved = operator.to("cpu", torch.float32)
    x = f64(2, operator.in_size)
    assert moved.mv(x.float()).dtype == torch.float32
    assert torch.allclose(moved.mv(x.float()).double(), operator.mv(x), atol=1e-4)
    assert moved.memo is not operator.memo
    assert type(moved) is type(operator)
    assert moved.in_size == operator.in_size


def test_overflowing_coefficients_give_no_finite_norm() -> None:
    huge = Scale(torch.tensor([1e308, 1.0], dtype=torch.float64), torch.tensor([1.7e308, 0.0], dtype=torch.float64))
    assert huge.norm_upper("2", "2") == float("inf")


def test_transposed_convolutions_agree_with_torch() -> None:
    w = f64(2, 3, 3)
    x = f64(2, 2, 5)
    for stride, pad, dilation, extra in ((1, 0, 1, 0), (2, 1, 1, 1), (3, 2, 1, 2), (2, 1, 2, 1)):
        y = torch.nn.functional.conv_transpose1d(x, w, None, stride, pad, extra, 1, dilation)
        geometry = ConvGeometry((y.shape[2],), (stride,), ((pad, pad),), (dilation,))
        operator = Adjoint(Conv(w, geometry, 1))
        assert torch.allclose(operator.mv(x.reshape(2, -1)).reshape(y.shape), y, rtol=1e-12, atol=1e-12)
