"""Choices and mixtures as exporters spell them: the same function, and no looser than it has to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.load.lower import mixtures


class Gated(nn.Module):
    """`way`: of writing a mixture of two layers by a gate."""

    def __init__(self, way: str):
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.z, self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        z, a, b = torch.sigmoid(self.z(x)), torch.tanh(self.a(x)), torch.tanh(self.b(x))
        if self.way == "twice":
            return z * a + (1 - z) * b
        if self.way == "once":
            return b + z * (a - b)
        if self.way == "turned":
            return (a - b) * z + b
        return torch.lerp(b, a, z)


def test_a_mixture_is_one_function_however_it_is_written() -> None:
    models = {way: lipcert.load(Gated(way), input_shape=(1, 3)) for way in ("twice", "once", "turned", "lerp")}
    x = torch.randn(50, 3, dtype=torch.float64)
    for norm in ("2", "inf", "1"):
        uppers = {way: lipcert.bound(model, norm=norm, methods=["product"]).upper for way, model in models.items()}
        for way, model in models.items():
            assert torch.allclose(model.graph.evaluate(x), models["twice"].graph.evaluate(x), rtol=0, atol=1e-14), way
            assert uppers[way] == pytest.approx(uppers["twice"], rel=1e-12), way


def test_what_is_no_mixture_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that leaves [0, 1]: there the first form is not looser."""

    class Wide(Gated):
        def forward(self, x: Tensor) -> Tensor:
            z, a, b = self.z(x), torch.tanh(self.a(x)), torch.tanh(self.b(x))
            return b + torch.tanh(z) * (a - b)

    graph = lipcert.load(Wide("once"), input_shape=(1, 3)).graph
    assert mixtures.with_mixtures(graph) is graph


@pytest.mark.parametrize("layer", [nn.Softplus(), nn.Softplus(2.0, 50.0), nn.Mish()], ids=str)
def test_softplus_of_the_new_exporter(layer: nn.Module, tmp_path: Path) -> None:
    """It writes torch's threshold as a choice, which jumps by 2e-9."""
    net = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2)).eval()
    program = torch.onnx.export(net, (torch.zeros(1, 3),), dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "m.onnx")
    theirs = lipcert.bound(tmp_path / "m.onnx", methods=["product"]).upper
    assert theirs == pytest.approx(lipcert.bound(net, torch.zeros(1, 3), methods=["product"]).upper, rel=1e-6)


class Choice(nn.Module):
    def __init__(self, at: float, slope: float):
        super().__init__()
        self.at, self.slope = at, slope

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > self.at, self.slope * x, torch.logaddexp(x, torch.zeros_like(x)))


def test_only_softplus_itself_is_taken_for_it() -> None:
    """Another slope, or a threshold where it does jump."""
    for at, slope in ((20.0, 2.0), (5.0, 1.0), (-20.0, 1.0)):
        report = lipcert.bound(Choice(at, slope), torch.zeros(1, 3), methods=["product"])
        assert report.upper is None, (at, slope)


class Bent(nn.Module):
    """relu with a branch that an execution rounds more often than the graph of the bend would say."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(self.steps):
            y = (y + 8.0) - 8.0
        return torch.where(x > 0, y, 0.2 * x)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_bend_is_executed_only_where_its_branches_are_direct(steps: int) -> None:
    ball = lipcert.Ball(torch.zeros(1, 3), 0.5, "inf")
    report = lipcert.bound(Bent(steps), torch.zeros(1, 3), region=ball, execution="float32", methods=["jacobian"])
    assert report.upper == pytest.approx(1.0)
    error = report.summary["execution"]["error"]
    assert (error is None) == (steps > 0)
