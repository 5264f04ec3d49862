"""Radii that hold for the network executed in float32, attacked with onnxruntime itself and torch; and where nothing moves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from thorough import FULL
from torch import Tensor, nn

import lipcert
from lipcert.load.model import Model, load
from lipcert.network.graph import Enclosure
from lipcert.regions.forward.directions import gradients
from lipcert.rigor.rounding import norm_down, norm_up
from lipcert.tasks.radius import task
from lipcert.tasks.radius.margins import margins
from lipcert.terms.query import P

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proofs"))
from test_hunt import Drawn

NETWORKS, SAMPLES, TRIES = (20, 200, 12) if FULL else (2, 6, 4)


class Runtimes:
    """The file as it is computed in float32: by onnxruntime, one input after the other, with one thread and all of its
    rewriting and with two threads and none; and by torch, the graph that was read, one by one and many at once."""

    def __init__(self, path: Path, model: Model):
        levels = onnxruntime.GraphOptimizationLevel
        self.sessions = []
        for threads, level in ((1, levels.ORT_ENABLE_ALL), (2, levels.ORT_DISABLE_ALL)):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.graph_optimization_level = threads, level
            options.add_session_config_entry(
                "session.intra_op.allow_spinning", "0"
            )  # other processes want the cores too
            self.sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
        self.name, self.shape = self.sessions[0].get_inputs()[0].name, model.input_shape
        self.graph = model.graph.to("cpu", torch.float32)

    def classes(self, x: Tensor) -> Tensor:
        """x (b, n) float32 -> (executions, b)."""
        rows = x.numpy().reshape(-1, *self.shape)
        found = [[int(s.run(None, {self.name: row})[0].argmax()) for row in rows] for s in self.sessions]
        torched = [self.graph.evaluate(x), torch.cat([self.graph.evaluate(row[None]) for row in x])]
        return torch.stack([*map(torch.tensor, found), *(y.argmax(dim=1) for y in torched)])


def samples(model: Model, count: int, seed: int, far: Tensor | None = None) -> Tensor:
    """(count, n) of float32 numbers, half of them very near a decision boundary: between two of `far` (count, n)."""
    dice = torch.Generator().manual_seed(seed)
    n = model.graph.nodes[model.graph.input].size
    far = torch.randn(count, n, generator=dice, dtype=torch.float64) * 2 if far is None else far

    def label(x: Tensor) -> Tensor:
        return model.graph.enclose(Enclosure(x)).centre.argmax(dim=1)

    a, b = far, far.roll(1, dims=0)
    own, steps = label(a), torch.randint(8, 24, (count, 1), generator=dice)
    low, high = a.clone(), b.clone()
    for k in range(24):
        middle = (low + high) / 2
        same = (label(middle) == own)[:, None]
        low = torch.where(same & (k < steps), middle, low)
        high = torch.where(~same & (k < steps), middle, high)
    near = torch.where((label(b) != own)[:, None], low, a)
    return torch.where((torch.arange(count) % 2 == 0)[:, None], near, a).float().double()


def broken(model: Model, runtime: Runtimes, x: Tensor, radius: Tensor, norm: P, tries: int, seed: int) -> int:
    """Samples x (b, n) of which some execution found another class at a distance of at most radius (b,)."""
    dice = torch.Generator().manual_seed(seed)
    if not len(x):
        return 0
    each = runtime.classes(x.float())
    own, found = each[0], (each != each[0]).any(dim=0)
    slope, _ = gradients(model.graph, x)
    value = model.graph.enclose(Enclosure(x)).centre
    rows = torch.arange(len(x))
    for k in range(tries):
        behind = value.scatter(1, own[:, None], -torch.inf).topk(min(2, value.shape[1] - 1), dim=1).indices
        move = slope[rows, behind[:, k % behind.shape[1]]] - slope[rows, own]
        noise = torch.randn(x.shape, generator=dice, dtype=torch.float64) * move.norm(dim=1, keepdim=True)
        move = move + (0.0 if k < 2 else 0.4) * noise / x.shape[1] ** 0.5
        move = move.sign() if norm == "inf" else move
        step = move / norm_up(move.abs(), norm, 1)[:, None].clamp(min=1e-300) * radius[:, None]
        at = (x + step * (1 - 2.0 ** -(10.0 + k))).float()
        for _ in range(3):
            at = torch.nextafter(at, at + torch.randn(at.shape, generator=dice))
            inside = norm_down((at.double() - x).abs(), norm, 1) <= radius
            found |= inside & (runtime.classes(at) != own).any(dim=0)
    return int(found.sum())


class Wide(Drawn):
    """One layer of 300 inputs: radii end where the class changes, and sums are long."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.image, self.start = False, (1, 300)
        self.shape = self.start

    def block(self) -> None:
        pass


def network(seed: int, path: Path) -> tuple[Model, Runtimes]:
    """With at least two outputs, of operators whose accuracy is stated."""
    for k in range(100):
        made = (Wide if seed % 4 in (1, 2) else Drawn)(1000 * seed + k)
        made.save(path)
        if made.shape[1] > 1 and not {node.op_type for node in made.nodes} & {"Softmax", "Sin", "Atan", "Softsign"}:
            model = load(path)
            return model, Runtimes(path, model)
    raise AssertionError("no such network was drawn")


def test_no_radius_is_broken_by_onnxruntime(tmp_path: Path) -> None:
    known, wrong = 0, []
    for seed in range(NETWORKS):
        model, runtime = network(seed, tmp_path / f"{seed}.onnx")
        x = samples(model, SAMPLES, seed)
        norm: P = ("2", "inf")[seed % 2]
        report = lipcert.radius(
            model, x.reshape(-1, *model.input_shape).numpy(), norm=norm, methods=["pairs"], execution="float32"
        )
        radius = torch.tensor([row["radius"] for row in report.points], dtype=torch.float64)
        some = (radius > 0) & (radius < 1e6)
        known += int(some.sum())
        wrong += [seed] * broken(model, runtime, x[some], radius[some], norm, TRIES, seed)
    assert wrong == []
    assert known >= NETWORKS * SAMPLES // 4


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("name", ["mnist_fc_256x2", "eran_mnist_relu_3_50", "marabou_mnist2x10"])
def test_no_radius_of_an_mnist_network_is_broken(shared: Path, name: str, norm: P) -> None:
    """Images, and what lies between two of them right at the boundary."""
    path = shared / "models" / f"{name}.onnx"
    model = load(path)
    with np.load(shared / "data" / "mnist_test_1000.npz") as data:
        images = torch.from_numpy(data["x"][:SAMPLES].reshape(SAMPLES, -1) / 255)
    x = samples(model, SAMPLES, 0, images)
    report = lipcert.radius(
        model, x.reshape(-1, *model.input_shape[1:]).numpy(), norm=norm, methods=["local"], execution="float32"
    )
    radius = torch.tensor([row["radius"] for row in report.points], dtype=torch.float64)
    some = radius > 0
    assert int(some.sum()) >= SAMPLES // 2
    assert broken(model, Runtimes(path, model), x[some], radius[some], norm, TRIES // 2, 0) == 0


def test_a_radius_that_is_too_large_would_be_broken(tmp_path: Path) -> None:
    """Planted: the distance to the boundary and a little more."""
    model, runtime = network(0, tmp_path / "m.onnx")
    x = samples(model, 12, 0)
    report = lipcert.radius(model, x.reshape(-1, *model.input_shape).numpy(), methods=["pairs"])
    radius = torch.tensor([row["radius"] for row in report.points], dtype=torch.float64)
    assert broken(model, runtime, x[radius > 0], radius[radius > 0] * 50, "2", 4, 0) > 0


def still(*hidden: nn.Module) -> nn.Module:
    """The output is (1, 0.5, -2) whatever goes in."""
    net = nn.Sequential(*hidden, nn.Linear(3, 3))
    with torch.no_grad():
        net[-1].weight.zero_()
        net[-1].bias.copy_(torch.tensor([1.0, 0.5, -2.0]))
    return net.eval()


@pytest.mark.parametrize("execution", ["float32", "float16"])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_where_nothing_moves_every_input_of_the_format_is_covered(execution: str, norm: str) -> None:
    x = np.array([[0.0, 1.0, -3.0]])
    report = lipcert.radius(still(), x, input_shape=(1, 3), norm=norm, methods=["pairs"], execution=execution)
    assert report.points[0]["radius"] >= 2.0**900
    assert 0 < report.points[0]["error"] < 0.02


def test_where_something_before_may_overflow_the_ball_ends_before_that() -> None:
    """0 times what overflowed is not a number: the radius is as far as nothing does, and not 0."""
    net = still(nn.Linear(3, 3), nn.ReLU())
    x = np.array([[0.0, 1.0, -3.0]])
    report = lipcert.radius(net, x, input_shape=(1, 3), methods=["pairs"], execution="float32")
    radius = report.points[0]["radius"]
    assert 2.0**60 < radius < 2.0**128
    dice = torch.Generator().manual_seed(0)
    step = torch.randn(500, 3, generator=dice, dtype=torch.float64)
    step = step / step.norm(dim=1, keepdim=True) * radius * (1 - 1e-6)
    with torch.no_grad():
        computed = net((torch.from_numpy(x) + step).float())
        assert bool((computed.argmax(dim=1) == 0).all())
        assert bool(net(torch.full((1, 3), 3e38)).isfinite().all()) or bool(net(torch.full((1, 3), 3e38)).isnan().any())


def test_a_row_of_zeros_loses_nothing_and_others_do() -> None:
    """Planted: a coefficient that is tiny and not 0."""
    net = still()
    x = np.array([[0.0, 1.0, -3.0]])
    with torch.no_grad():
        net[-1].weight[1, 0] = 1e-30
    report = lipcert.radius(net, x, input_shape=(1, 3), methods=["pairs"], execution="float32")
    assert report.points[0]["radius"] <= 0.5e30


def test_where_no_method_applies_nothing_is_said() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2)).eval()
    x = np.ones((1, 1, 3, 3))
    report = lipcert.radius(net, x, input_shape=(1, 1, 3, 3), methods=["local"], execution="float32")
    assert (report.points[0]["radius"], report.points[0]["error"]) == (0.0, None)
    assert report.summary["execution"]["error"] is None
    assert any("no rule for max" in line for line in report.warnings)


def test_the_error_at_a_sample_is_bounded_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --execution, margins are less the error at the sample: by gradients as of an execution, not by |A| at every layer."""
    torch.manual_seed(0)
    layers = [part for _ in range(8) for part in (nn.Linear(40, 40), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(40, 5)).eval()
    model, x = lipcert.load(net, input_shape=(1, 40)), torch.randn(20, 40).double()
    found = lipcert.radius(model, x.numpy(), methods=["local"])
    real = margins(model.graph, x, None, executed=False).value.amin(dim=1)
    left = torch.tensor([row["margin"] for row in found.points])
    with torch.no_grad():
        two = net(x.float()).double().topk(2, dim=1).values
    assert bool((left < real).all())
    assert bool((left <= two[:, 0] - two[:, 1]).all())
    monkeypatch.setattr(task, "_at_sample", lambda *asked: None)
    before = lipcert.radius(model, x.numpy(), methods=["local"])
    old = torch.tensor([row["margin"] for row in before.points])
    assert bool((left >= old).all())
    assert float((real - left).mean()) < 0.1 * float((real - old).mean())
    assert before.summary["radius"]["mean"] <= found.summary["radius"]["mean"]
