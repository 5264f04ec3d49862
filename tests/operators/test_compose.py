"""Closed forms of products and sums enclose the exact ones; geometry that does not match gives None."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import exact, f64, matrix

from lipcert.operators.compose import COMPOSE, add, compose
from lipcert.operators.conv_norm import ConvGeometry
from lipcert.operators.linear import Adjoint, Conv, Dense, Operator, Scale, Select

torch.manual_seed(2)


def conv(shape=(4,), weight=(2, 2, 3), stride=1, pads=None, dilation=1, groups=1, batch=1, radius=False, ints=False):
    w = torch.randint(-3, 4, weight).double() if ints else f64(*weight)
    axes = len(shape)
    geometry = ConvGeometry(shape, (stride,) * axes, pads or ((1, 1),) * axes, (dilation,) * axes, groups)
    return Conv(w, geometry, batch, w.abs() * 1e-6 if radius else None)


def per_channel(values: torch.Tensor, batch: int, inner: int) -> torch.Tensor:
    return values[None, :, None].expand(batch, -1, inner).reshape(-1).clone()


def dense(g=1, m=3, n=2, outer=1, inner=1, radius=False) -> Dense:
    w = f64(g, m, n)
    return Dense(w, outer, inner, w.abs() * 1e-6 if radius else None)


def zero_pad(shape: tuple[int, ...], sides: tuple[tuple[int, int], ...]) -> Select:
    numbers = torch.arange(1, np.prod(shape) + 1).double().reshape(shape)
    flat = [side for axis in reversed(sides) for side in axis]
    index = torch.nn.functional.pad(numbers, flat).reshape(-1).long() - 1
    return Select(index, int(np.prod(shape)), (shape, sides))


def scale(n: int, radius: bool = False) -> Scale:
    return Scale(f64(n), f64(n).abs() * 1e-6 if radius else None)


ROW = torch.tensor([1.5, -0.3], dtype=torch.float64)
SIGNS = Scale(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
PAD = zero_pad((1, 2, 4), ((0, 0), (0, 0), (2, 1)))
CLOSED: dict[str, tuple[Operator, Operator]] = {
    "select select": (Select(torch.tensor([1, -1, 0, 1]), 2), Select(torch.tensor([2, -1]), 3)),
    "select of nothing": (Select(torch.tensor([-1, -1]), 0), Select(torch.tensor([], dtype=torch.int64), 3)),
    "scale scale": (scale(3), scale(3, True)),
    "scale scale tiny": (Scale(f64(2) * 1e-200), Scale(f64(2) * 1e-200)),
    "signs signs": (SIGNS, SIGNS),
    "scale conv": (Scale(per_channel(ROW, 1, 4), per_channel(ROW.abs() * 1e-9, 1, 4)), conv(radius=True)),
    "scale conv batch": (Scale(per_channel(ROW, 2, 2)), conv(stride=2, batch=2)),
    "conv scale": (conv(groups=2, weight=(4, 1, 3)), Scale(per_channel(ROW, 1, 4))),
    "conv scale radius": (conv(radius=True, batch=2), Scale(per_channel(ROW, 2, 4), per_channel(ROW.abs(), 2, 4))),
    "conv pad": (conv((7,), pads=((0, 3),)), PAD),
    "conv pad 2d": (
        conv((5, 4), (1, 2, 2, 2), pads=((0, 0), (1, 0)), stride=2),
        zero_pad((1, 2, 3, 3), ((0, 0), (0, 0), (2, 0), (0, 1))),
    ),
    "dense dense": (dense(m=2, n=3), dense(radius=True)),
    "dense dense outer inner": (dense(m=2, n=3, outer=2, inner=2, radius=True), dense(outer=2, inner=2)),
    "scale dense": (scale(3, True), dense(radius=True)),
    "scale dense groups": (
        Scale(f64(1, 2, 3, 1).expand(2, 2, 3, 2).reshape(-1).clone()),
        dense(g=2, outer=2, inner=2),
    ),
    "dense scale": (dense(radius=True), scale(2, True)),
    "dense scale inner": (dense(inner=3), Scale(f64(2).repeat_interleave(3), torch.rand(6).double() * 1e-9)),
    "adjoint scale": (Adjoint(conv(weight=(2, 1, 3))), Scale(per_channel(ROW, 1, 4))),
    "scale adjoint": (scale(2), Adjoint(dense(m=3, n=2))),
}
OPEN: dict[str, tuple[Operator, Operator]] = {
    "scale differs inside a channel": (Scale(torch.arange(1.0, 9.0).double()), conv()),
    "radius differs inside a channel": (Scale(per_channel(ROW, 1, 4), torch.rand(8).double()), conv()),
    "scale differs by batch": (Scale(torch.arange(1.0, 17.0).double()), conv(batch=2)),
    "conv scale": (conv(), Scale(torch.arange(1.0, 9.0).double())),
    "pad of channels": (conv((4,)), zero_pad((1, 1, 4), ((0, 0), (1, 0), (0, 0)))),
    "crop": (conv((3,)), Select(torch.tensor([0, 1, 2, 4, 5, 6]), 8, ((1, 2, 4), ((0, 0), (0, 0), (0, -1))))),
    "select without a pad": (conv((4,)), Select(torch.arange(8).flip(0), 8)),
    "reshaped after the pad": (
        conv((6, 5), (1, 2, 3, 3), pads=((0, 0), (0, 0))),
        zero_pad((1, 2, 3, 4), ((0, 0), (0, 0), (1, 1), (1, 1))),
    ),
    "other layout": (dense(n=3, m=2, outer=3), dense(outer=1, inner=3)),
    "groups": (dense(g=2, m=2, n=3), dense(g=2)),
    "scale differs by row": (Scale(torch.arange(1.0, 7.0).double()), dense(outer=2)),
    "dense scale": (dense(inner=2), Scale(torch.arange(1.0, 5.0).double())),
}


def encloses(found: Operator, true: np.ndarray) -> bool:
    centre, radius = matrix(found), found.radius_operator()
    slack = abs(centre) * 0 if radius is None else matrix(radius)
    return centre.shape == true.shape and bool((abs(true - centre) <= slack).all())


def times(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    if B.shape[1] == 0:
        return np.full((B.shape[0], A.shape[1]), Fraction(0), dtype=object)
    return B @ A


@pytest.mark.parametrize(("b", "a"), CLOSED.values(), ids=CLOSED.keys())
def test_products_enclose_every_exact_product(b: Operator, a: Operator) -> None:
    dice = random.Random(0)
    found = compose(b, a)
    assert found is not None
    for how in (None, *[dice] * 4):
        assert encloses(found, times(matrix(b, how), matrix(a, how)))


@pytest.mark.parametrize(("b", "a"), OPEN.values(), ids=OPEN.keys())
def test_what_does_not_match_has_no_closed_form(b: Operator, a: Operator) -> None:
    assert b.in_size == a.out_size
    assert compose(b, a) is None


def test_every_rule_has_a_case() -> None:
    assert {(type(b), type(a)) for b, a in CLOSED.values()} >= set(COMPOSE)


def test_pairs_without_a_rule_stay_apart() -> None:
    assert compose(conv(), conv((4,), (2, 2, 3))) is None
    assert compose(Select(torch.tensor([0]), 8), conv()) is None
    assert compose(Adjoint(dense()), Adjoint(dense(m=3, n=3))) is None


def test_signs_stay_exact() -> None:
    assert compose(SIGNS, SIGNS).radius_operator() is None  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["scale scale", "dense dense", "conv scale"])
def test_the_oracle_sees_a_wrong_coefficient_and_a_small_radius(name: str) -> None:
    b, a = CLOSED[name]
    found = compose(b, a)
    A, B = matrix(a), matrix(b)
    true = times(B, A)
    place = next(p for p in np.ndindex(true.shape) if true[p] != 0)
    true[place] *= Fraction(101, 100) * 10
    assert not encloses(found, true)
    plain_b, plain_a = Dense(f64(1, 3, 3)), Dense(f64(1, 3, 3))
    close = compose(plain_b, plain_a)
    bare = Dense(close.weight, 1, 1, close.radius * 1e-3)
    assert not encloses(bare, times(matrix(plain_b), matrix(plain_a)))


ID = Scale(torch.ones(8, dtype=torch.float64))
SQUARE = conv(weight=(2, 2, 3))
SUMS: dict[str, list[Operator]] = {
    "scales": [scale(3), scale(3, True), scale(3)],
    "convs": [conv(), conv(radius=True)],
    "conv and identity": [SQUARE, ID],
    "identity and conv": [ID, SQUARE],
    "conv and a multiple": [conv(), Scale(torch.full((8,), -0.3, dtype=torch.float64)), conv()],
    "grouped conv and identity": [
        conv((3,), (4, 2, 3), groups=2, batch=2),
        Scale(torch.ones(24, dtype=torch.float64)),
    ],
    "dilated conv and identity": [conv(dilation=2, pads=((2, 2),)), ID],
    "asymmetric conv and identity": [conv(weight=(2, 2, 3), pads=((2, 0),)), ID],
    "conv 2d and identity": [
        conv((3, 2), (2, 2, 3, 5), pads=((1, 1), (2, 2))),
        Scale(torch.ones(12, dtype=torch.float64)),
    ],
    "denses": [dense(outer=2, inner=2), dense(outer=2, inner=2, radius=True)],
    "dense and scale": [dense(m=2, n=2, inner=2), Scale(torch.tensor([2.0, 2.0, 0.1, 0.1], dtype=torch.float64))],
    "scale and dense": [
        Scale(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)),
        dense(g=2, m=2, n=2, radius=True),
    ],
}
NO_SUM: dict[str, list[Operator]] = {
    "strides": [conv((4,), (2, 1, 3)), conv((4,), (4, 1, 1), pads=((0, 0),), stride=2, groups=1)],
    "kernels": [conv(), conv(weight=(2, 2, 1), pads=((0, 0),))],
    "batch": [conv(batch=2, shape=(2,)), conv()],
    "even kernel, pad out of the grid": [
        conv((3,), (2, 2, 2), dilation=2, pads=((1, 1),)),
        Scale(torch.ones(6, dtype=torch.float64)),
    ],
    "layout": [dense(m=3, n=2, outer=3, inner=1), dense(m=3, n=2, inner=3)],
    "scale with radius": [dense(m=2, n=2), scale(2, True)],
    "scale differs by column": [dense(m=2, n=2, outer=2), Scale(torch.arange(1.0, 5.0).double())],
    "select": [Select(torch.tensor([0, 1]), 2), scale(2)],
    "conv and diagonal": [conv(), Scale(torch.arange(1.0, 9.0).double())],
}


@pytest.mark.parametrize("parts", SUMS.values(), ids=SUMS.keys())
def test_sums_enclose_every_exact_sum(parts: list[Operator]) -> None:
    dice = random.Random(0)
    found = add(parts)
    assert found is not None
    for how in (None, *[dice] * 4):
        assert encloses(found, sum((matrix(p, how) for p in parts[1:]), start=matrix(parts[0], how)))


@pytest.mark.parametrize("parts", NO_SUM.values(), ids=NO_SUM.keys())
def test_sums_that_do_not_align_have_no_closed_form(parts: list[Operator]) -> None:
    assert add(parts) is None


@pytest.mark.parametrize("make", [conv, dense, lambda: scale(4)])
def test_what_is_taken_away_from_itself_is_exactly_zero(make) -> None:
    a = make()
    minus = {
        Conv: lambda: Conv(-a.weight, a.geometry, a.batch),
        Dense: lambda: Dense(-a.weight, a.outer, a.inner),
        Scale: lambda: Scale(-a.factor),
    }[type(a)]()
    found = add([a, minus])
    assert found.radius_operator() is None
    assert not matrix(found).any()
    assert found.norm_upper("2", "2") == 0.0


def test_whole_numbers_add_up_exactly() -> None:
    assert add([conv(ints=True), conv(ints=True), ID]).radius_operator() is None  # type: ignore[union-attr]


def test_sums_of_very_different_sizes() -> None:
    big, small = (Scale(torch.tensor(v, dtype=torch.float64)) for v in ([1e300, 1.0], [1e-300, 2.0**-60]))
    assert encloses(add([big, small]), matrix(big) + matrix(small))
    assert exact(add([big, small]).factor)[1] == 1
