"""Exact constants on the whole space: against every linear region as a polygon, rays, and slopes of one input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from polygons import pieces
from torch import nn

import lipcert
from lipcert.network.graph import Graph
from lipcert.terms.query import Norm

pytest.importorskip("numba")
from lipcert.regions.enumeration import everywhere as whole
from lipcert.regions.enumeration.everywhere import everywhere, homogeneous

EXAMPLES = Path(__file__).parents[2] / "examples"
ORDER = {"1": 1, "2": 2, "inf": np.inf}
FAR = 1e5


def net(seed: int, inputs: int = 2, *, integer: bool = False, width: int = 7) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)]
    for layer in layers[::2]:
        layer.weight.data *= 2
        if integer:
            layer.weight.data, layer.bias.data = layer.weight.data.mul(3).round(), layer.bias.data.mul(3).round()
    return nn.Sequential(*layers).double()


def graph_of(module: nn.Module, inputs: int = 2) -> Graph:
    return lipcert.load(module, input_shape=(1, inputs)).graph


def far_and_near(module: nn.Sequential, norm: str) -> float:
    """The largest norm of a piece in a huge square and in a small one: unbounded pieces reach the first."""
    both = [pieces(module, np.full(2, -far), np.full(2, far)) for far in (FAR, 8.0)]
    return max(
        float(np.linalg.norm(A, ord=ORDER[norm])) for found in both for corners, A, _ in found if width(corners) > 1e-8
    )


def width(corners: np.ndarray) -> float:
    """Relative to its place: hyperplanes that meet exactly leave polygons of rounding, in which no point lies."""
    x, y = corners.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    return float(area / max(np.abs(corners).max() ** 2, 1e-30))


@pytest.mark.every(2)
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("integer", [False, True])
def test_two_inputs(norm: str, integer: bool) -> None:
    for seed in range(2):
        module = net(seed, integer=integer)
        found = everywhere(graph_of(module), Norm(norm, norm), 1e-9, None)  # type: ignore[arg-type]
        exact = far_and_near(module, norm)
        assert found.lower <= found.upper
        assert found.upper >= exact * (1 - 1e-9)
        assert found.upper <= exact * (1 + 1e-6)
        assert found.lower >= exact * (1 - 1e-6)


def test_pieces_that_reach_to_infinity() -> None:
    """relu(relu(x) - 1e6) has slope 1 where x > 1e6, and 0 elsewhere."""
    first, second = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()
    first.weight.data, first.bias.data = torch.tensor([[1.0, 0], [0, 1]]).double(), torch.zeros(2).double()
    second.weight.data, second.bias.data = torch.tensor([[1.0, 0]]).double(), torch.tensor([-1e6]).double()
    found = everywhere(graph_of(nn.Sequential(first, nn.ReLU(), second, nn.ReLU())), Norm(), 1e-9, None)
    assert found.upper == pytest.approx(1.0, rel=1e-9)
    assert found.lower == pytest.approx(1.0, rel=1e-6)
    assert float(found.point[0]) > 1e6


def test_a_planted_loss_of_one_side_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 relu(x - 3 |y| - 1e4) and its like with 3, 4, 5 on the other sides: losing the last one's side is seen."""
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    module[0].weight.data, module[0].bias.data = (
        torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).double(),
        torch.zeros(4).double(),
    )
    module[2].weight.data = torch.tensor(
        [[1.0, -1, -3, -3], [-1, 1, -3, -3], [-3, -3, 1, -1], [-3, -3, -1, 1]]
    ).double()
    module[2].bias.data, module[4].weight.data = (
        torch.full((4,), -1e4).double(),
        torch.tensor([[2.0, 3, 4, 5]]).double(),
    )
    parts = whole._parts
    monkeypatch.setattr(whole, "_size", lambda made: 1.0)
    graph, norm = graph_of(module), Norm("inf", "inf")
    assert everywhere(graph, norm, 1e-9, None).upper == pytest.approx(5 * 4.0, rel=1e-9)
    monkeypatch.setattr(whole, "_parts", lambda g: (p for k, p in enumerate(parts(g)) if k != 4))  # y < 0
    assert everywhere(graph, norm, 1e-9, None).upper == pytest.approx(4 * 4.0, rel=1e-9)


def test_the_homogeneous_network_is_the_network() -> None:
    for inputs in (1, 3):
        graph = graph_of(net(inputs, inputs), inputs)
        around = homogeneous(graph)
        dice = torch.Generator().manual_seed(0)
        y = torch.randn(50, inputs, generator=dice, dtype=torch.float64)
        s = torch.rand(50, 1, generator=dice, dtype=torch.float64) + 0.01
        assert torch.allclose(
            around.evaluate(torch.cat([y, s], dim=1)), s * graph.evaluate(y / s), rtol=1e-9, atol=1e-9
        )
        assert not bool(around.evaluate(torch.zeros(1, inputs + 1, dtype=torch.float64)).any())


def test_more_inputs_and_other_blocks() -> None:
    """No Jacobian at points of several scales is above the upper value, and the bracket closes."""
    modules = (
        (net(5, 3, width=5), 3),
        (
            nn.Sequential(nn.Linear(2, 5), nn.Hardtanh(), nn.Linear(5, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2)).double(),
            2,
        ),
        (net(6, 1), 1),
    )
    for module, inputs in modules:
        graph = graph_of(module, inputs)
        found = everywhere(graph, Norm("2", "2"), 1e-6, None)
        dice = torch.Generator().manual_seed(0)
        at = torch.randn(4000, inputs, generator=dice, dtype=torch.float64)
        at = at * 10 ** (torch.rand(4000, 1, generator=dice, dtype=torch.float64) * 8 - 2)
        at.requires_grad_(True)
        rows = [torch.autograd.grad(y.sum(), at, retain_graph=True)[0] for y in graph.evaluate(at).T]
        seen = float(torch.linalg.matrix_norm(torch.stack(rows, dim=1), ord=2).max())
        assert seen <= found.upper * (1 + 1e-9)
        assert found.closed


def test_bound_without_a_region() -> None:
    report = lipcert.bound(EXAMPLES / "two_moons.onnx", norm="inf")
    assert report.upper == pytest.approx(87.0765666, rel=1e-6)
    assert report.lower == pytest.approx(report.upper, rel=1e-5)
    wide = lipcert.load(nn.Sequential(nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 2)), input_shape=(1, 7))
    asked = lipcert.bound(wide, methods=["regions"])
    assert asked.upper is None
    assert "7 inputs" in asked.results[0].reason
    assert "regions" not in {result.method for result in lipcert.bound(wide).results}
    three = lipcert.load(net(1, 3, width=4), input_shape=(1, 3))
    assert lipcert.bound(three, methods=["regions"]).upper == pytest.approx(
        lipcert.bound(three, methods=["regions"]).lower
    )
