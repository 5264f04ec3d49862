"""Normalisations in every spelling are one block with the exact l2 constant; sound in all norms, globally and on boxes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from helpers import f64
from lowered import graph_of, same

from lipcert.methods import METHODS
from lipcert.methods.problem import Problem
from lipcert.network.graph import Graph
from lipcert.terms.query import Box, Norm
from lipcert.terms.result import Bound

T = torch.Tensor
EPS = 1e-3
ROOT = 1 / math.sqrt(EPS)
W = torch.tensor([1.0, 2.0, 0.5, -1.0], dtype=torch.float64)


def mean(x: T) -> T:
    return x.mean(-1, keepdim=True)


def total(x: T) -> T:
    return x.sum(-1, keepdim=True)


def centred(x: T) -> T:
    return x - mean(x)


def lp_pool(x: T) -> T:
    return torch.nn.functional.lp_pool1d(x, 2.0, 2)


# name -> (function of (1, 3, 4), exact l2 constant, the blocks)
SPELLED: dict[str, tuple[Callable[[T], T], float, list[str]]] = {
    "rms, rsqrt": (lambda x: x * torch.rsqrt(mean(x.pow(2)) + EPS), ROOT, ["normalise"]),
    "rms, sqrt and div": (lambda x: x / torch.sqrt(mean(x**2) + EPS), ROOT, ["normalise"]),
    "rms, weight": (lambda x: W * (x * (mean(x * x) + EPS) ** -0.5), 2 * ROOT, ["normalise"]),
    "rms, other axis": (lambda x: x / torch.sqrt((x**2).mean(1, keepdim=True) + EPS), ROOT, ["normalise"]),
    "rms, all axes": (lambda x: x / torch.sqrt((x**2).mean() + EPS), ROOT, ["normalise"]),
    "l2 with eps": (lambda x: x / torch.sqrt(total(x**2) + EPS), ROOT, ["norm scaling"]),
    "l2, norm + eps": (lambda x: x / (x.norm(dim=-1, keepdim=True) + EPS), 1 / EPS, ["norm scaling"]),
    "F.normalize": (lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(EPS), 1 / EPS, ["norm scaling"]),
    "F.normalize, axis 1": (lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(EPS), 1 / EPS, ["norm scaling"]),
    "layer norm": (lambda x: centred(x) / torch.sqrt(mean(centred(x) ** 2) + EPS), ROOT, ["normalise"]),
    "layer norm, var": (
        lambda x: centred(x) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + EPS), ROOT, ["normalise"]
    ),
    "layer norm, E x^2 - (E x)^2": (
        lambda x: centred(x) / torch.sqrt(mean(x * x) - mean(x) ** 2 + EPS), ROOT, ["normalise"]
    ),
    "layer norm, native": (lambda x: torch.ops.aten.native_layer_norm.default(x, [4], W.abs(), None, EPS)[0], 2 * ROOT, ["normalise"]),
    "squash": (
        lambda x: total(x**2) / (1 + total(x**2)) * x / torch.sqrt(total(x**2) + 1e-9), 0.649519, ["norm scaling"]
    ),
    "norm with eps": (lambda x: torch.sqrt((x**2).sum(-1) + EPS), 1.0, ["norm2", "sqrt((square(abs(x)) + 0.001))"]),
    "norm": (lambda x: torch.sqrt((x**2).sum(-1)), 1.0, ["norm2"]),
    "root mean square": (lambda x: torch.sqrt((x**2).mean(-1)), 0.5, ["norm2"]),
    "deviation": (lambda x: x.std(-1), 1 / math.sqrt(3), ["norm2"]),
    "lp pool": (lp_pool, 1.0, ["norm2"]),
    "radial basis": (lambda x: torch.exp(-(x**2).sum(-1)), math.sqrt(2 / math.e), []),
    "softmax": (lambda x: torch.exp(x) / total(torch.exp(x)), 0.5, ["softmax"]),
    "softmax, shifted": (
        lambda x: (lambda e: e / total(e))(torch.exp(x - x.amax(-1, keepdim=True))), 0.5, ["softmax"]
    ),
    "log-sum-exp": (lambda x: torch.log(torch.exp(x).sum(-1)), 1.0, ["logsumexp"]),
}  # fmt: skip


def kinds(graph: Graph) -> list[str]:
    return [graph.nodes[i].what.block.label for i in graph.nonlinear]  # type: ignore[union-attr]


def attained(graph: Graph, points: T, norm: str) -> float:
    """The largest Jacobian norm at the points."""
    p = {"1": 1, "2": 2, "inf": math.inf}[norm]
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: graph.evaluate(x[None])[0]))(points)
    return float(torch.linalg.matrix_norm(jacobians, p).max())


def upper(graph: Graph, norm: str, region: Box | None, method: str) -> float:
    with torch.no_grad():
        found = METHODS[method].run(Problem(graph, Norm.parse(norm), region))
    return found.value if isinstance(found, Bound) else math.inf


@pytest.mark.every(2)
@pytest.mark.parametrize("name", SPELLED)
def test_one_block_with_the_exact_constant(name: str) -> None:
    function, exact, blocks = SPELLED[name]
    graph = graph_of(function, 1, 3, 4)
    assert not blocks or kinds(graph) == blocks or blocks[0] == "norm2"
    points = torch.cat([f64(40, 12) * s for s in (1e-4, 0.01, 0.1, 0.3, 1.0)])
    assert same(graph, function, (1, 3, 4), (), points.reshape(-1, 1, 3, 4)) < 1e-9
    assert exact * (1 - 1e-5) <= upper(graph, "2", None, "product") <= exact * 1.001
    for norm in ("1", "inf"):
        assert attained(graph, points, norm) <= upper(graph, norm, None, "product") * (1 + 1e-9)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", SPELLED)
def test_sound_on_boxes(name: str) -> None:
    graph = graph_of(SPELLED[name][0], 1, 3, 4)
    g = torch.Generator().manual_seed(len(name))
    for radius in (0.01, 0.3):
        centre = torch.randn(12, generator=g, dtype=torch.float64)
        low, high = centre - radius, centre + radius
        corners = torch.where(torch.rand(64, 12, generator=g) < 0.5, low, high)
        points = torch.cat([corners, low + (high - low) * torch.rand(64, 12, generator=g, dtype=torch.float64)])
        box = Box(low.reshape(1, 3, 4), high.reshape(1, 3, 4))
        values = Problem(graph, Norm(), box).ranges[graph.output]
        out = graph.evaluate(points)
        assert bool(((out >= values[0] - 1e-12) & (out <= values[1] + 1e-12)).all())
        for norm in ("1", "2", "inf"):
            for method in ("product", "jacobian"):
                assert attained(graph, points, norm) <= upper(graph, norm, box, method) * (1 + 1e-9), (norm, method)


def test_near_misses_are_not_normalisations() -> None:
    """Other groups, other signals, another divisor: still the right function, not a block with a wrong constant."""
    for function in (
        lambda x: x / torch.sqrt((x**2).mean(1, keepdim=True).flip(-1) + EPS),
        lambda x: x / torch.sqrt(mean(x.flip(1) ** 2) + EPS),
        lambda x: (x - 0.5 * mean(x)) / torch.sqrt(mean(centred(x) ** 2) + EPS),
        lambda x: centred(x) / torch.sqrt(0.3 * mean(x * x) - mean(x) ** 2 + EPS + 100),
        lambda x: torch.exp(x) / (total(torch.exp(x)) + 1),
        lambda x: torch.exp(x) / total(torch.exp(x.flip(1))),
    ):
        graph = graph_of(function, 1, 3, 4)
        points = torch.cat([f64(20, 12) * s for s in (0.1, 1.0)])
        assert same(graph, function, (1, 3, 4), (), points.reshape(-1, 1, 3, 4)) < 1e-9
        assert not {"normalise", "softmax"} & set(kinds(graph))


def test_a_planted_error_is_seen() -> None:
    graph = graph_of(SPELLED["rms, rsqrt"][0], 1, 3, 4)
    points = f64(40, 12) * 0.001
    assert attained(graph, points, "2") > 0.99 * ROOT
    assert not attained(graph, points, "2") <= 0.9 * upper(graph, "2", None, "product")
