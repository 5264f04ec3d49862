"""LipSDP on regions, with slopes on the best ranges: never above what intervals give, never below what is attained."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from helpers import f64
from nets import Layer, Net
from oracles import jacobian
from torch import Tensor

from lipcert.methods import lipsdp
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.problem import Problem
from lipcert.methods.settled import best_ranges
from lipcert.network.graph import Graph
from lipcert.network.intervals import interval_ranges
from lipcert.terms.query import Ball, Box, Norm, Region
from lipcert.terms.result import Bound


def deep(seed: int) -> Graph:
    """Intervals wrap in it: 4 layers of 12."""
    torch.manual_seed(seed)
    maps = [f64(m, n) * math.sqrt(2 / n) for n, m in pairwise([6, 12, 12, 12, 12, 3])]
    layers = tuple(Layer({k: a}, "relu") for k, a in enumerate(maps[:-1]))
    return Net("deep", 6, layers, {4: maps[-1]}, biases=tuple(0.5 * f64(12) for _ in layers)).graph()


def regions(centre: Tensor) -> dict[str, Region]:
    return {
        "box": Box(tuple((centre - 0.15).tolist()), tuple((centre + 0.15).tolist())),
        "l2 ball": Ball(tuple(centre.tolist()), 0.3, "2"),
    }


def value(graph: Graph, region: Region) -> float:
    with torch.no_grad():
        found = Lipsdp("neuron").run(Problem(graph, Norm(), region))
    assert isinstance(found, Bound), found
    return found.value


def attained(graph: Graph, centre: Tensor) -> float:
    """The largest Jacobian norm at points of both regions."""
    points = centre + 0.3 / math.sqrt(6) * (2 * torch.rand(200, 6, dtype=torch.float64) - 1)
    return max(float(torch.linalg.matrix_norm(jacobian(lambda u: graph.evaluate(u[None])[0], x), 2)) for x in points)


@pytest.mark.parametrize("name", ["box", "l2 ball"])
def test_better_ranges_give_a_smaller_constant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gained = 0
    for seed in range(4):
        graph, centre = deep(seed), f64(6)
        region = regions(centre)[name]
        best = value(graph, region)
        assert attained(graph, centre) <= best * (1 + 1e-9)
        with monkeypatch.context() as patch:
            patch.setattr(lipsdp, "best_ranges", interval_ranges)
            plain = value(graph, region)
        assert best <= plain * (1 + 1e-5)
        gained += best < 0.95 * plain
    assert gained >= 2


def test_ranges_that_are_too_narrow_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrowed(graph: Graph, region: Region) -> dict:
        return {i: ((a + b) / 2, (a + b) / 2) for i, (a, b) in best_ranges(graph, region).items()}

    monkeypatch.setattr(lipsdp, "best_ranges", narrowed)
    caught = 0
    for seed in range(4):
        graph, centre = deep(seed), f64(6)
        caught += value(graph, regions(centre)["box"]) < attained(graph, centre)
    assert caught


def test_blocks_without_lines_keep_their_intervals() -> None:
    from lowered import graph_of

    def function(x: Tensor) -> Tensor:
        return torch.ops.aten._softmax.default(torch.relu(x), 0, False)

    graph = graph_of(lambda x: function(x), 4)
    region = Box((-1.0,) * 4, (-0.5, 1.0, 1.0, 1.0))
    ranges = best_ranges(graph, region)
    assert all(
        torch.equal(a, b)
        for i, pair in interval_ranges(graph, region).items()
        for a, b in zip(pair, ranges[i], strict=True)
    )
    assert value(graph, region) <= 0.5 * (1 + 1e-6)
