"""Radii by values: nothing inside a certified ball has lost its margin, and the ball is not far smaller than it could be."""

from __future__ import annotations

import pytest
import torch
from deviating import Builder
from thorough import FULL
from torch import Tensor, nn

import lipcert
from lipcert.network.graph import Graph
from lipcert.sampling.attack import Pgd, search
from lipcert.tasks.radius import values
from lipcert.tasks.radius.margins import Margins, margins
from lipcert.tasks.radius.values import in_the_way, value_radii
from lipcert.terms.query import NORMS, P

KINDS = ("relu", "gelu_erf", "attention", "gate")
CASES = [(kind, outputs, norm) for kind in KINDS for outputs in (1, 3) for norm in NORMS]


def network(kind: str, outputs: int, seed: int) -> Graph:
    built = Builder(2 if kind == "attention" else 1, 4, seed)
    u = built.dense(0)
    match kind:
        case "attention":
            built.sum(u, built.attention(built.normalise(u), 2))
        case "gate":
            built.gate(u)
        case _:
            built.pointwise(built.dense(built.pointwise(built.dense(u, 12), kind), 12), kind)
    return built.graph(outputs)


def around(x: Tensor, radius: Tensor, norm: P, count: int) -> Tensor:
    """Points of the closed balls, corners among them: (b, count, n)."""
    d = torch.randn(len(x), count, x.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    d[:, ::2] = d[:, ::2].sign() if norm == "inf" else d[:, ::2]
    d = d / torch.linalg.vector_norm(d, float(norm), dim=2, keepdim=True)
    return x[:, None] + d * radius[:, None, None] * (1 - 1e-12)


def lost(graph: Graph, x: Tensor, found: Margins, radius: Tensor, norm: P, tolerance: float | None) -> bool:
    """Whether some point of a ball has lost its margin."""
    seeds = found.seeds(graph.nodes[graph.output].size)
    points = around(x, radius, norm, 400)
    y = graph.evaluate(points.reshape(-1, x.shape[1])).reshape(len(x), 400, -1)
    g = torch.einsum("bkm,bsm->bsk", seeds, y)
    if tolerance is not None:
        start = torch.einsum("bkm,bm->bk", seeds, graph.evaluate(x))
        return bool(((g - start[:, None]).abs() > tolerance).any())
    if g.shape[2] == 1 and y.shape[2] == 1:
        g = torch.where(found.predicted[:, None, None] == 0, -g, g)
    return bool((g <= 0).any())


@pytest.mark.every(3)
@pytest.mark.parametrize(("kind", "outputs", "norm"), CASES)
def test_nothing_inside_has_lost_its_margin(kind: str, outputs: int, norm: P) -> None:
    graph = network(kind, outputs, 7)
    x = torch.randn(3, graph.nodes[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x[:1] if kind in ("attention", "gate") and not FULL else x
    for tolerance in (None, 0.05) if len(x) > 1 else (None,):
        found = margins(graph, x, tolerance)
        with torch.no_grad():
            radius, limit = value_radii(graph, x, found, norm, tolerance is not None)
        assert not lost(graph, x, found, radius, norm, tolerance)
        assert bool((limit < found.value.shape[1]).all())
        assert float(radius.max()) > 0
        seeds = found.seeds(outputs)
        if tolerance is None and outputs > 1:
            near = search(graph, x, seeds, None, norm, radius.clamp(min=1e-3), Pgd(restarts=2, rounds=2))
            assert bool((near.distance >= radius).all())
            assert kind == "attention" or float((radius / near.distance).max()) > 0.3


def test_a_drop_that_is_too_small_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network("relu", 3, 7)
    x = torch.randn(3, graph.nodes[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = margins(graph, x, None)
    real = values._backward
    monkeypatch.setattr(values, "_backward", lambda *given: real(*given) / 4)
    with torch.no_grad():
        radius, _ = value_radii(graph, x, found, "inf", False)
    assert lost(graph, x, found, radius, "inf", None)


@pytest.mark.parametrize("norm", NORMS)
def test_splits_make_radii_larger_and_no_attack_is_inside(norm: P, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of residual networks too; and what attains too much ends a search, but moves no radius beyond it."""
    built = Builder(1, 4, 3)
    u = built.dense(0, 10)
    built.sum(u, built.dense(built.pointwise(u, "relu"), 10))
    built.pointwise(built.dense(built.pointwise(len(built.nodes) - 1, "relu"), 10), "relu")
    graph = built.graph(3)
    x = torch.randn(4, graph.nodes[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = margins(graph, x, None)
    with torch.no_grad():
        radius, _ = value_radii(graph, x, found, norm, False)
        monkeypatch.setattr(values, "GROWING", 0)
        plain, _ = value_radii(graph, x, found, norm, False)
    assert bool((radius >= plain).all())
    assert bool((radius > 1.1 * plain).any())
    ahead = (found.value > 0).all(dim=1)  # the others are ties
    assert bool((radius[~ahead] == 0).all())
    x, found, radius = x[ahead], found[ahead], radius[ahead]
    assert not lost(graph, x, found, radius, norm, None)
    near = search(graph, x, found.seeds(3), None, norm, radius.clamp(min=1e-3), Pgd(restarts=4, rounds=3))
    assert bool((near.distance >= radius).all())


def test_splits_that_lose_too_little_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network("relu", 3, 7)
    x = torch.randn(3, graph.nodes[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = margins(graph, x, None)
    real = values._split
    monkeypatch.setattr(values, "_split", lambda *given: real(*given) / 8)
    with torch.no_grad():
        radius, _ = value_radii(graph, x, found, "inf", False)
    assert lost(graph, x, found, radius, "inf", None)


def test_the_report_has_them_and_says_which_is_the_larger() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    x = torch.randn(6, 6).numpy()
    report = lipcert.radius(net, x, norm="inf", methods=["pairs", "local", "values"])
    for row in report.points:
        assert row["radius"] == max(row["radii"].values())
        assert row["method"] is None or row["radii"][row["method"]] == row["radius"]
    assert any(row["method"] == "values" for row in report.points)


def test_normalised_networks_have_radii_beside_an_attack() -> None:
    """Without local constants too: an attack must not ask for them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    report = lipcert.radius(
        net, torch.randn(3, 4).numpy(), norm="inf", methods=["values"], attack=Pgd(restarts=2, rounds=2)
    )
    for row in report.points:
        assert row["method"] == "values"
        assert row["attacked"] is None or 0 < row["radius"] <= row["attacked"]


def test_what_has_no_rule_is_named() -> None:
    built = Builder(1, 4, 0)
    built.attention(0, 1)
    assert in_the_way(built.graph(2)) is None
    from lipcert.blocks.radial import Radial

    built.block(Radial(1, 2, 1), len(built.nodes) - 1, size=2)
    assert "norm scaling" in str(in_the_way(built.graph()))
