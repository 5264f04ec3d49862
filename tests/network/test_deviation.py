"""Rounding of an evaluation, bounded in a norm: against exact arithmetic, and what it gives deep networks."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from helpers import exact, f64, pointwise, random_graph, run_exactly
from torch import Tensor

from lipcert.blocks.product import Product
from lipcert.methods.deviation import evaluate_within
from lipcert.methods.problem import Problem
from lipcert.methods.sampled import Sampled, gap_below
from lipcert.network.graph import Enclosure, Graph, Input, Linear, Node, Nonlinear
from lipcert.operators.linear import Dense, Scale
from lipcert.terms.query import Norm

ORDERS = {"1": lambda v: sum(v), "2": lambda v: math.sqrt(sum(x * x for x in v)), "inf": lambda v: max(v, default=0.0)}


def apart(y: Tensor, true: np.ndarray, q: str) -> float:
    """||y - true||_q, the differences taken exactly."""
    return ORDERS[q]([abs(float(d)) for d in exact(y) - true])


@pytest.mark.every(5)
@pytest.mark.parametrize("seed", range(100))
def test_the_true_value_lies_within(seed: int) -> None:
    graph = random_graph(seed, nonlinear=True)
    x = f64(1, graph.nodes[0].size)
    for q in ("1", "2", "inf"):
        y, error = evaluate_within(graph, x, q)
        for _ in range(3):
            true = run_exactly(graph, exact(x[0]), random.Random(seed))[graph.output]
            assert apart(y[0], true, q) <= error * (1 + 1e-12)


def test_the_oracle_sees_a_wrong_value() -> None:
    graph = Graph((Node(Input(), (), 3, (3,), "x"), Node(Linear(Dense(f64(1, 4, 3))), (0,), 4, (4,), "linear")), 1)
    x = f64(1, 3)
    y, error = evaluate_within(graph, x, "2")
    true = run_exactly(graph, exact(x[0]))[1]
    assert 0 < error < 1e-13
    assert apart(y[0] * (1 + 1e-12), true, "2") > error


def deep(layers: int, width: int) -> Graph:
    """Orthogonal layers with ReLU: each has norm 1, its absolute coefficients about sqrt(2 width / pi)."""
    nodes = [Node(Input(), (), width, (width,), "x")]
    for _ in range(layers):
        weight = torch.linalg.qr(f64(width, width)).Q
        scale = torch.full((width,), math.sqrt(2.0), dtype=torch.float64)
        for what in (Linear(Dense(weight[None])), Linear(Scale(scale)), pointwise("relu", width)):
            nodes.append(Node(what, (len(nodes) - 1,), width, (width,), f"n{len(nodes)}"))
    return Graph(tuple(nodes), len(nodes) - 1)


@pytest.mark.parametrize("norm", ["2", "1:2"])
def test_deep_networks_keep_a_lower_bound(norm: str) -> None:
    """Enclosed entry by entry the difference of two outputs drowns in rounding; in the norm it does not."""
    graph = deep(24, 64)
    p, q = norm.split(":") if ":" in norm else (norm, norm)
    problem = Problem(graph, Norm(p, q))
    a = f64(1, 64)
    b = a + 1e-3 * f64(1, 64)
    fa, fb = (graph.enclose(Enclosure(point)) for point in (a, b))
    assert not bool(((fa.lower > fb.upper) | (fa.upper < fb.lower)).any())
    seen = float(torch.linalg.vector_norm(graph.evaluate(a) - graph.evaluate(b)))
    assert 0.9 * seen < gap_below(problem, a, b)[0] < seen
    assert Sampled(points=4, rounds=2).run(problem).value > 0


def test_what_has_no_constant_says_nothing() -> None:
    nodes = (
        Node(Input(), (), 2, (2,), "x"),
        Node(Nonlinear(Product(2)), (0, 0), 2, (2,), "square"),
    )
    assert evaluate_within(Graph(nodes, 1), f64(1, 2), "2")[1] == math.inf
    huge = Linear(Scale(torch.full((2,), 1e300, dtype=torch.float64)))
    graph = Graph((nodes[0], Node(huge, (0,), 2, (2,), "a"), Node(huge, (1,), 2, (2,), "b")), 2)
    assert evaluate_within(graph, f64(1, 2), "2")[1] == math.inf
