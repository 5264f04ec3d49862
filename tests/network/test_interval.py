"""Interval ranges contain every signal that is sampled, on boxes, balls, the whole space, and where floats overflow."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch
from helpers import exact, f64, matrix, operators, pointwise, product, random_graph, run_exactly

from lipcert.blocks.base import Range
from lipcert.blocks.product import Product
from lipcert.blocks.softmax import Softmax
from lipcert.network.graph import Graph, Input, Linear, Node, Nonlinear
from lipcert.network.intervals import box_of, interval_ranges, linear_range
from lipcert.operators.linear import Dense, Operator, Scale
from lipcert.terms.query import Ball, Box, Region

torch.manual_seed(4)
ALL = dict(operators())


def holds(side: Range, true) -> bool:
    """lower <= true <= upper for Fractions; infinite ends hold everything."""
    for low, t, high in zip(side[0].reshape(-1).tolist(), true, side[1].reshape(-1).tolist(), strict=True):
        if math.isnan(low) or math.isnan(high) or not (low <= t <= high):
            return False
    return True


@pytest.mark.every(5)
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("width", [0.0, 1e-9, 0.5, 20.0])
def test_ranges_hold_every_signal(seed: int, width: float) -> None:
    graph = random_graph(seed, nonlinear=True)
    centre = f64(*graph.input_shape)
    box = Box(centre - width, centre + width * 2)
    found = interval_ranges(graph, box)
    dice = random.Random(seed)
    for t in (0.0, 1.0, 0.37, None):
        part = torch.randint(0, 2, centre.shape).double() if t is None else torch.full_like(centre, t)
        x = torch.minimum(torch.maximum(box.lower + part * (box.upper - box.lower), box.lower), box.upper)
        for i, value in enumerate(run_exactly(graph, exact(x), dice)):
            assert holds(found[i], value)


def test_the_oracle_sees_a_range_too_narrow() -> None:
    graph = Graph((Node(Input(), (), 3, (3,), "x"), Node(Linear(Dense(f64(1, 3, 3))), (0,), 3, (3,), "l")), 1)
    centre = f64(3)
    low, high = interval_ranges(graph, Box(centre, centre))[1]
    true = run_exactly(graph, exact(centre))[1]
    assert holds((low, high), true)
    middle = low / 2 + high / 2
    assert not holds((middle, middle), true)
    assert not holds((low, torch.full_like(high, math.nan)), true)


@pytest.mark.every(5)
@pytest.mark.parametrize("operator", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("ends", ["finite", "half", "whole", "huge"])
def test_linear_ranges_hold_the_exact_products(operator: Operator, ends: str) -> None:
    n = operator.in_size
    low = f64(1, n)
    high = low + f64(1, n).abs()
    if ends == "huge":
        low, high = low * 1e300, low * 1e300 + (high - low) * 1e300
    points = [low, high, torch.where(torch.rand(1, n) < 0.5, low, high)]
    low, high = low.clone(), high.clone()
    if ends in ("half", "whole"):
        low[:, ::2] = -math.inf
        high[:, :: 1 if ends == "whole" else 3] = math.inf
        points += [torch.where(torch.isfinite(p), p * 1e6, p).clamp(low, high) for p in list(points)]
    found = linear_range(operator, low, high)
    dice = random.Random(0)
    for x in points:
        assert holds(found, product(matrix(operator, dice), exact(x)[0]))


def test_what_an_infinite_entry_does_not_reach_stays_finite() -> None:
    operator = Dense(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], dtype=torch.float64))
    line = torch.tensor([[math.inf, 1.0]], dtype=torch.float64)
    low, high = linear_range(operator, -line, line)
    assert low[0, 0] == -math.inf
    assert high[0, 0] == math.inf
    assert float(high[0, 1]) == pytest.approx(2.0)
    low, high = linear_range(Scale(torch.tensor([0.0, -1.0]).double()), -line, line)
    assert float(high[0, 0]) < 1e-300
    assert float(low[0, 1]) == pytest.approx(-1.0)


def test_the_whole_space() -> None:
    nodes = (
        Node(Input(), (), 2, (2,), "x"),
        Node(Linear(Dense(f64(1, 2, 2))), (0,), 2, (2,), "l"),
        Node(pointwise("tanh", 2), (1,), 2, (2,), "tanh"),
        Node(Nonlinear(Softmax(1, 2, 1)), (1,), 2, (2,), "softmax"),
        Node(Nonlinear(Product(2)), (2, 3), 2, (2,), "product"),
    )
    found = interval_ranges(Graph(nodes, 4), None)
    assert not any(bool(side.isnan().any()) for pair in found.values() for side in pair)
    assert float(found[1][1].min()) == math.inf
    assert float(found[4][1].max()) == pytest.approx(1.0)
    assert float(found[4][0].min()) == pytest.approx(-1.0)


def test_overflow_says_nothing_instead_of_zero() -> None:
    """A signal beyond the floats once became NaN, and a product of NaN once became [0, 0]."""
    w = torch.full((1, 1, 2), 1e200, dtype=torch.float64)
    nodes = (
        Node(Input(), (), 2, (2,), "x"),
        Node(Linear(Dense(w)), (0,), 1, (1,), "l"),
        Node(Nonlinear(Product(1)), (1, 1), 1, (1,), "square"),
    )
    centre = torch.full((2,), 1e200, dtype=torch.float64)
    found = interval_ranges(Graph(nodes, 2), Box(centre, centre * 2))
    for low, high in (found[1], found[2]):
        assert not math.isnan(float(low))
        assert float(high) == math.inf
    u, v = nodes[2].what.block.lipschitz("2", (found[1], found[1]))  # type: ignore[union-attr]
    assert (u, v) == (math.inf, math.inf)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_balls_lie_in_their_boxes(norm: str) -> None:
    graph = Graph((Node(Input(), (), 3, (1, 3), "x"),), 0)
    centre = torch.tensor([[1e16, 0.1, -3.0]], dtype=torch.float64)
    region: Region = Ball(centre, 0.7, norm)  # type: ignore[arg-type]
    low, high = box_of(region, graph)
    assert low.shape == (1, 3)
    for c, a, b in zip(centre[0].tolist(), low[0].tolist(), high[0].tolist(), strict=True):
        assert Fraction(a) <= Fraction(c) - Fraction(0.7)
        assert Fraction(c) + Fraction(0.7) <= Fraction(b)
