"""Radii against attacks, dense searches and the definition; ties, NaN, huge logits; resume; the report."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from thorough import FULL
from torch import Tensor, nn

import lipcert
from lipcert.methods.problem import Problem
from lipcert.regions.backward.adjoint import local_constants
from lipcert.sampling.attack import Goal, Pgd, project, within
from lipcert.tasks.radius import task as robustness
from lipcert.tasks.radius.constants import Constants, ProvedConstant
from lipcert.tasks.radius.local import linear_constants, shells_of
from lipcert.tasks.radius.margins import execution_error, margins
from lipcert.tasks.radius.samples import How, treat
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm

NORMS = ("1", "2", "inf")
ORDER = {"1": 1.0, "2": 2.0, "inf": math.inf}
EXAMPLES = Path(__file__).parents[2] / "examples"


def net(seed: int, inputs: int, outputs: int, act: type[nn.Module] = nn.ReLU, width: int = 12) -> lipcert.Model:
    torch.manual_seed(seed)
    layers = [nn.Linear(inputs, width), act(), nn.Linear(width, width), act(), nn.Linear(width, outputs)]
    return lipcert.load(nn.Sequential(*layers), input_shape=(1, inputs))


def linear(weight: list[list[float]], bias: list[float] | None = None) -> lipcert.Model:
    module = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weight))
        if bias is not None:
            module.bias.copy_(torch.tensor(bias))
    return lipcert.load(module, input_shape=(1, len(weight[0])))


def points(count: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, inputs))


def broken(model: lipcert.Model, x: np.ndarray, radii: torch.Tensor, norm: str, restarts: int) -> int:
    """Samples with an input of another class within their radius: PGD with many restarts, from inside and on the rim."""
    at = torch.from_numpy(x)
    found = margins(model.graph, at, None)
    seeds = found.seeds(model.graph.nodes[model.graph.output].size)
    if model.output_shape[-1] == 1:
        seeds = torch.where(found.predicted[:, None, None] == 0, -seeds, seeds)
    goal = Goal.of(model.graph, at, seeds, None, "cpu")
    nearest = within(goal, at, radii, norm, Pgd(restarts=restarts, steps=8))
    return int((nearest.distance <= radii).sum())


ACTS = (nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.Sigmoid, nn.GELU)


# LIPCERT_FULL=1: 20 nets x 200 samples x 3 norms with 50 restarts (100 s); else a share of it
NETS, SAMPLES, RESTARTS = (20, 200, 50) if FULL else (5, 60, 16)


@pytest.mark.every(2)
@pytest.mark.parametrize("seed", range(NETS))
def test_no_attack_inside(seed: int) -> None:
    inputs, outputs = 4 + seed % 5, 1 + seed % 4
    model = net(seed, inputs, outputs, ACTS[seed % 5])
    x = points(SAMPLES, inputs, seed)
    for norm in NORMS:
        report = lipcert.radius(model, x, norm=norm, methods=["pairs", "local"])  # regions: test_exact_radii.py
        radii = torch.tensor([p["radius"] for p in report.points])
        assert broken(model, x, radii, norm, RESTARTS) == 0


def test_the_attack_breaks_larger_radii() -> None:
    model, x = net(3, 6, 4), points(200, 6)
    for norm in NORMS:
        radii = torch.tensor(
            [p["radius"] for p in lipcert.radius(model, x, norm=norm, methods=["pairs", "local"]).points]
        )
        assert broken(model, x, radii * 8, norm, 10) > 100


@pytest.mark.parametrize("norm", NORMS)
def test_linear_models_have_the_exact_radius(norm: str) -> None:
    model = linear([[1.0, 2.0], [-1.0, 0.5], [0.0, 0.0]])
    x = np.array([[2.0, 1.0]])
    gaps = {1: ((2, 1.5), 5.5), 2: ((1, 2), 4.0)}
    dual = {"1": math.inf, "2": 2.0, "inf": 1.0}[norm]
    exact = min(m / np.linalg.norm(w, ord=dual) for w, m in gaps.values())
    found = lipcert.radius(model, x, norm=norm).points[0]
    assert exact * (1 - 1e-5) < found["radius"] < exact
    assert found["status"] == "certified"


def test_a_planted_constant_trips_the_self_check(tmp_path: Path) -> None:
    model, x = net(1, 5, 3), torch.from_numpy(points(40, 5))
    wrong = Constants(
        Problem(model.graph, Norm()), {f"{i}-{j}": ProvedConstant(1e-3, "planted") for i, j in [(0, 1), (0, 2), (1, 2)]}
    )
    how = How("2", ("pairs",), True, None, Pgd())
    batch = treat(model.graph, x, None, 0, wrong, how)
    assert len(batch.inside) > 10
    report = lipcert.Report("radius", model.info, points=batch.rows)
    assert report.exit_code == 4
    assert report.to_dict()["self_check"]["points"] == [index for index, _ in batch.inside]
    robustness._save(tmp_path / "a.npz", batch.inside, model.input_shape)
    with np.load(tmp_path / "a.npz") as saved:
        moved = model.graph.evaluate(torch.from_numpy(saved["x"]).reshape(-1, 5)).argmax(1)
        kept = model.graph.evaluate(x[torch.from_numpy(saved["index"])]).argmax(1)
        assert bool((moved != kept).all())


def test_ties_wrong_classes_and_huge_logits() -> None:
    tie = linear([[1.0, 0.0], [1.0, 0.0]])
    assert [p["status"] for p in lipcert.radius(tie, np.array([[1.0, 0.0]])).points] == ["tie"]
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    found = lipcert.radius(model, np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), eps=[0.1]).points
    assert [p["status"] for p in found] == ["certified", "misclassified"]
    assert found[1]["radius"] == 0
    huge = linear([[3e38, 0.0], [-3e38, 0.0]])
    far = lipcert.radius(huge, np.array([[1e300, 0.0], [1e-3, 0.0]])).points
    assert (far[0]["radius"], far[0]["status"]) == (0.0, "undefined")
    assert far[1]["radius"] < 1e-3
    json.dumps(far, allow_nan=False)
    cancel = linear([[1e38, -1e38], [0.0, 0.0]])  # float32 computes inf - inf, or not: that depends on the order
    over = lipcert.radius(cancel, np.array([[5.0, 4.0], [0.5, 0.25]])).points
    assert (over[0]["radius"], over[0]["status"]) == (0.0, "tie")
    assert over[1]["status"] == "certified"


def test_one_logit_is_its_sign() -> None:
    model = linear([[2.0, 0.0]], [-1.0])
    x = np.array([[1.0, 0.0], [0.0, 0.0], [0.5, 0.0]])
    rows = lipcert.radius(model, x, np.array([1, -1, 1])).points
    assert [p["predicted"] for p in rows] == [1, 0, 0]
    assert [p["status"] for p in rows] == ["certified", "certified", "misclassified"]
    assert all(0.4999 < p["radius"] < 0.5 for p in rows[:2])
    assert lipcert.radius(model, x[2:]).points[0]["status"] == "tie"


def test_constants_do_not_move() -> None:
    model = linear([[0.0, 0.0], [0.0, 0.0]], [1.0, 0.0])
    row = lipcert.radius(model, np.zeros((1, 2))).points[0]
    assert row["radius"] > 1e300
    assert math.isfinite(row["radius"])


@pytest.mark.parametrize("norm", NORMS)
def test_regression_stays_within_the_tolerance(norm: str) -> None:
    model, x = net(5, 4, 2), points(30, 4)
    radii = torch.tensor(
        [p["radius"] for p in lipcert.radius(model, x, norm=norm, tolerance=0.1, methods=["pairs", "local"]).points]
    )
    assert bool((radii > 0).all())
    at = torch.from_numpy(x)
    origin = model.graph.evaluate(at)
    moves = torch.randn(500, 30, 4, dtype=torch.float64)
    moves = moves / torch.linalg.vector_norm(moves, ord=ORDER[norm], dim=2, keepdim=True) * radii[:, None]
    y = model.graph.evaluate((at + moves).reshape(-1, 4)).reshape(500, 30, 2)
    assert float((y - origin).abs().max()) <= 0.1
    far = model.graph.evaluate((at + 30 * moves).reshape(-1, 4)).reshape(500, 30, 2)
    assert float((far - origin).abs().max()) > 0.1


@pytest.mark.every(4)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("constants", [local_constants, linear_constants])
def test_local_constants_hold_all_gradients_of_the_ball(
    norm: str, act: type[nn.Module], constants: Callable[..., Tensor]
) -> None:
    model = net(2, 6, 3, act)
    x, radius = torch.from_numpy(points(8, 6)), torch.linspace(0.0, 0.5, 8, dtype=torch.float64)
    seeds = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64).expand(8, 2, 3)
    upper = constants(model.graph, seeds, x, radius, norm)
    dual = {"1": math.inf, "2": 2.0, "inf": 1.0}[norm]
    move = torch.randn(300, 8, 6, dtype=torch.float64)
    move = move / torch.linalg.vector_norm(move, ord=ORDER[norm], dim=2, keepdim=True)
    move = move * torch.rand(300, 8, 1, dtype=torch.float64) * radius[:, None]
    at = (x + move).reshape(-1, 6).requires_grad_(True)
    y = torch.einsum("km,bm->bk", seeds[0], model.graph.evaluate(at))
    for k in range(2):
        (slope,) = torch.autograd.grad(y[:, k].sum(), at, retain_graph=True)
        seen = torch.linalg.vector_norm(slope, ord=dual, dim=1).reshape(300, 8).amax(0)
        assert bool((seen <= upper[:, k]).all())
        assert float(upper[0, k]) <= float(seen[0]) * (1 + 1e-9)  # a ball of radius 0: the gradient itself
    if constants is local_constants:
        assert bool((constants(model.graph, seeds, x, radius * 0.1, norm) <= upper * (1 + 1e-12)).all())
    assert bool((upper <= local_constants(model.graph, seeds, x, radius, norm) * (1 + 1e-9)).all())


def test_linear_bounds_only_add_to_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(2, 6, 3)
    x = torch.from_numpy(points(12, 6))
    found = margins(model.graph, x, None)
    whole = torch.full(found.value.shape, math.inf, dtype=torch.float64)
    for norm in NORMS:
        finer = shells_of(model.graph, x, found, norm, whole).certified()[0]
        with monkeypatch.context() as patch:
            patch.setattr(importlib.import_module("lipcert.tasks.radius.local"), "FINER", ())
            plain = shells_of(model.graph, x, found, norm, whole).certified()[0]
        assert bool((finer >= plain * (1 - 1e-12)).all())
        assert bool((finer > plain * 1.01).any())


def test_float32_stays_within_its_error() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 5))
    model = lipcert.load(module, input_shape=(1, 40))
    x = torch.randn(50, 40, dtype=torch.float64) * 10
    gap = (module(x.float()).double() - model.graph.evaluate(x)).abs()
    bound = execution_error(model.graph, x)
    assert bool((gap <= bound).all())
    assert float(bound.max()) < 1e-2
    assert not bool((gap <= bound * 1e-4).all())  # the bound is of the order of the error


def test_projections_are_inside_and_nearest() -> None:
    move, reach = torch.randn(200, 5, dtype=torch.float64) * 3, torch.full((200, 1), 1.5, dtype=torch.float64)
    for norm in NORMS:
        at = project(move, reach, norm)
        assert bool((torch.linalg.vector_norm(at, ord=ORDER[norm], dim=1) <= 1.5 * (1 + 1e-12)).all())
        other = torch.randn(200, 5, dtype=torch.float64)
        other = other / torch.linalg.vector_norm(other, ord=ORDER[norm], dim=1, keepdim=True) * 1.5
        assert bool((((at - move) * (other - at)).sum(1) >= -1e-9).all())  # the variational inequality


def test_pairs_beat_the_whole_network() -> None:
    model = lipcert.load(EXAMPLES / "digits.onnx")
    with np.load(EXAMPLES / "digits_test.npz") as data:
        x, y = data["x"][:100], data["y"][:100]
    report = lipcert.radius(model, x, y, methods=["pairs", "sqrt2", "global", "local"])
    found = report.summary["mean_radius"]
    assert found["pairs"] >= 2 * found["sqrt2"]
    assert found["pairs"] >= found["global"]
    assert all(p["radius"] == max(p["radii"].values()) for p in report.points)


def test_reports_repeat_resume_and_refuse_other_questions(tmp_path: Path) -> None:
    model, x = net(4, 4, 3), points(600, 4)
    whole = lipcert.radius(model, x, methods=["pairs"], eps=[0.01])
    again = lipcert.radius(model, x, methods=["pairs"], eps=[0.01])
    assert timeless(whole) == timeless(again)
    part = replace(whole, points=whole.points[:310])  # twelve batches, and a part of one
    (tmp_path / "r.json").write_text(json.dumps(part.to_dict()))
    resumed = lipcert.radius(model, x, methods=["pairs"], eps=[0.01], resume=tmp_path / "r.json")
    assert resumed.points == whole.points
    assert "300 samples are taken" in resumed.warnings[0]
    with pytest.raises(UsageError, match="another question: its norm"):
        lipcert.radius(model, x, methods=["pairs"], norm="1", resume=tmp_path / "r.json")
    with pytest.raises(UsageError, match="another question"):
        lipcert.radius(model, x + 1e-9, methods=["pairs"], resume=tmp_path / "r.json")
    with pytest.raises(UsageError, match="another question"):
        lipcert.radius(net(5, 4, 3), x, methods=["pairs"], resume=tmp_path / "r.json")


def timeless(report: lipcert.Report) -> str:
    data = report.to_dict() | {"created": None}
    data["summary"].pop("seconds")
    return json.dumps(data)


def test_labels_and_methods_that_make_no_sense() -> None:
    model, x = net(4, 4, 3), points(3, 4)
    for labels in (np.array([0, 1, 7]), np.array([0.5, 1, 1]), np.array([0, 1])):
        with pytest.raises(UsageError, match="label"):
            lipcert.radius(model, x, labels)
    with pytest.raises(UsageError, match="radius methods are"):
        lipcert.radius(model, x, methods=["magic"])
    assert lipcert.radius(model, x[:0]).summary["samples"] == 0


class Cubes(nn.Module):
    """Has no Lipschitz constant over the whole space, in any pair of outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x) ** 3)


def test_one_pair_without_a_constant_stands_for_all_unless_they_are_asked_for() -> None:
    model = lipcert.load(Cubes().eval(), input_shape=(1, 4))
    x = points(3, 4)
    some = robustness.radius(model, robustness.RadiusRequest(x=x))
    all_ = robustness.radius(model, robustness.RadiusRequest(x=x, methods=["pairs"]))
    reasons, asked = ([row["reason"] for row in report.summary["constants"]] for report in (some, all_))
    assert len(asked) > 1
    assert not any(reason.startswith("not asked") for reason in asked)
    assert sum(not reason.startswith("not asked") for reason in reasons) == 1
    assert not any(row["unbounded"] for row in some.summary["constants"] if row["reason"].startswith("not asked"))
    assert all(point["radii"]["values"] > 0 for point in some.points)
    assert all_.status == some.status or some.status is None
