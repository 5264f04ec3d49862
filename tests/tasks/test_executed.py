"""The error of a float32 evaluation at a sample, where attention and normalisation are carried by expansions."""

from __future__ import annotations

import pytest
import torch
from deviating import Builder, random_graph
from thorough import FULL

from lipcert.network.graph import Graph
from lipcert.tasks.radius import executed, margins
from lipcert.terms.errors import RefusedModel


def apart(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    """float32 against float64, whose own error is far below."""
    return (graph.to("cpu", torch.float32).evaluate(x.float()).double() - graph.evaluate(x)).abs()


@pytest.mark.every(2)
@pytest.mark.parametrize("seed", range(200 if FULL else 5))
def test_no_evaluation_errs_by_more(seed: int) -> None:
    graph = random_graph(seed)
    dice = torch.Generator().manual_seed(seed)
    for scale in (0.1, 1.0, 30.0):
        x = torch.randn(1, graph.nodes[0].size, generator=dice, dtype=torch.float64) * scale
        with torch.no_grad():
            try:
                found = executed.execution_error(graph, x)
            except RefusedModel:
                continue
            assert bool((apart(graph, x) <= found).all())
            assert bool((apart(graph, x) <= margins.execution_error(graph, x)).all())


def test_a_large_mean_over_a_small_deviation() -> None:
    """Where a mean of many entries cancels, its rounding over s is what counts: 16 units of the largest entry were too few."""
    built = Builder(1, 512, 0)
    built.normalise(0, eps=1e-12)
    graph = built.graph()
    x = (1000 + 0.01 * torch.randn(1, 512, generator=torch.Generator().manual_seed(0))).double()
    known = x.float().double()
    with torch.no_grad():
        assert bool((apart(graph, known) <= margins.execution_error(graph, known)).all())


def test_deep_transformers_have_a_useful_bound() -> None:
    built = Builder(3, 6, 3)
    u = built.dense(0)
    for _ in range(2):
        u = built.sum(u, built.attention(built.normalise(u), 2))
        u = built.sum(u, built.dense(built.pointwise(built.dense(built.normalise(u)), "gelu_erf")))
    graph = built.graph(3)
    x = torch.randn(1, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        found = executed.execution_error(graph, x)
    assert float(found.max()) < 0.05
    assert bool((apart(graph, x) <= found).all())


def test_forgotten_rounding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executed, "U32", executed.U32 * 1e-3)
    monkeypatch.setattr(executed, "gamma32", lambda n: 1e-12)
    monkeypatch.setattr(executed, "granted", lambda block, us, size: torch.zeros_like(size))
    wrong = 0
    for seed in range(4):
        graph = random_graph(seed)
        x = torch.randn(1, graph.nodes[0].size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            wrong += not bool((apart(graph, x) <= executed.execution_error(graph, x)).all())
    assert wrong > 0
