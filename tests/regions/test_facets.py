"""Linear regions of more inputs, by linear programs: against the search by vertices, sampling, and planted errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from test_regions import question, sampled
from thorough import FULL, by_turns
from torch import nn

import lipcert
from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import Norm

pytest.importorskip("numba")
from lipcert.regions.enumeration import tree
from lipcert.regions.enumeration.constant import Bracket, constant, reads


@contextmanager
def by_facets() -> Iterator[None]:
    """Networks of few inputs are searched as those of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "INPUTS", 0)
        yield


def answer(graph: Graph, cells: Cells, norm: Norm, seconds: float = 60.0) -> Bracket:
    return constant(graph, cells, norm, 1e-6, time.monotonic() + seconds)


def test_the_same_as_by_vertices() -> None:
    """Brackets meet, and on boxes they close, of degenerate networks too."""
    for seed in range(2, 300) if FULL else by_turns((2, 5, 10, 14, 22, 34)):
        graph, cells, norm, kind = question(seed)
        if cells.norm == "1":
            continue
        first = answer(graph, cells, norm)
        with by_facets():
            found = answer(graph, cells, norm)
        assert found.lower <= first.upper, seed
        assert first.lower <= found.upper * (1 + 1e-9) + 1e-12, seed
        assert sampled(graph, cells, norm, 200) <= found.upper * (1 + 1e-9) + 1e-12, seed
        if cells.norm == "inf" and kind == "gaussian":
            assert found.upper <= found.lower * (1 + 1e-5) + 1e-9, seed


def many(seed: int, n: int = 11) -> tuple[Graph, Cells]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(n, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    graph = lipcert.load(module, input_shape=(1, n)).graph
    return graph, Cells(torch.randn(1, n).double(), torch.full((1, n), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("norm", [Norm("inf", "inf"), Norm("2", "2"), Norm("1", "2")])
def test_eleven_inputs_close(norm: Norm) -> None:
    for seed in range(20 if FULL else 2):
        graph, cells = many(seed)
        found = answer(graph, cells, norm)
        assert found.closed, (seed, found)
        assert sampled(graph, cells, norm, 2000) <= found.upper * (1 + 1e-9)


def test_an_early_stop_leaves_a_bracket() -> None:
    graph, cells = many(0)
    found = constant(graph, cells, Norm("inf", "inf"), 1e-6, 0.0)
    assert sampled(graph, cells, Norm("inf", "inf"), 500) <= found.upper


def test_dear_norms_are_taken_at_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """inf -> 2 of 16 inputs: 2^15 sign vectors each."""
    right, points = tree.probe, []

    def counted(net: object, memory: object, at: np.ndarray, values: np.ndarray) -> None:
        points.append(len(at))
        right(net, memory, at, values)

    monkeypatch.setattr(tree, "probe", counted)
    graph, cells = many(0, 16)
    answer(graph, cells, Norm("inf", "2"), 0.1)
    assert sum(points) < 100
    points.clear()
    answer(graph, cells, Norm("2", "2"), 0.1)
    assert sum(points) > 1024


def test_more_than_sixteen_inputs_are_refused_with_the_count() -> None:
    graph, cells = many(0, 17)
    with pytest.raises(RefusedModel, match=r"17 inputs move.*at most 16"):
        constant(graph, cells, Norm("2", "2"), 1e-6, None)
    with pytest.raises(RefusedModel, match="at most 7"):
        reads(*many(0))


def test_planted_signs_are_found_out() -> None:
    """Hinges of the first layer called on at the root, on the whole box."""
    graph, cells = many(3)
    norm = Norm("inf", "inf")
    made = reads(graph, cells, 16)
    search = tree.Tree(made, [0, 2], norm, 1e-6)
    (order, number, cell) = search.heap.pop()
    search.heap.append((order, number, tree.replace(cell, sign=np.full_like(cell.sign, -1))))
    search.found.best[:] = 0.0
    assert search.run(None).upper[0] < sampled(graph, cells, norm, 2000)


def test_planted_loss_of_halves_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what waits after a search one cell alone is kept."""
    right = tree.Tree._take

    def careless(self: tree.Tree, outcome: tree.Outcome) -> None:
        right(self, tree.replace(outcome, left=outcome.left[-1:]))

    graph, cells = many(1)
    norm = Norm("inf", "inf")
    monkeypatch.setattr(tree.Tree, "_take", careless)
    monkeypatch.setattr(tree, "FIRST", 2)
    monkeypatch.setattr(tree.Tree, "_sample", lambda self: None)
    assert answer(graph, cells, norm).upper < sampled(graph, cells, norm, 2000)


def test_few_crossing_neurons_of_many_inputs() -> None:
    """40 inputs, 7 neurons that cross on a small ball: all patterns are tried, whichever are met (method jacobian)."""
    torch.manual_seed(0)
    first, last = nn.Linear(40, 30).double(), nn.Linear(30, 3).double()
    with torch.no_grad():
        first.bias[:7] = 1e-4
        first.bias[7:] = first.bias[7:].sign()
    model = lipcert.load(nn.Sequential(first, nn.ReLU(), last), input_shape=(1, 40))
    report = lipcert.bound(
        model, region=lipcert.Ball([0.0] * 40, 0.01, "inf"), norm="2", methods=["jacobian", "regions"]
    )
    slopes = (first.bias > 0).double().repeat(2**7, 1)
    slopes[:, :7] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 7)
    exact = torch.linalg.matrix_norm((last.weight * slopes[:, None]) @ first.weight, ord=2).max()
    assert float(exact) * (1 - 1e-12) <= report.upper <= float(exact) * (1 + 1e-6)
    assert "40 inputs move" in report.results[1].reason
