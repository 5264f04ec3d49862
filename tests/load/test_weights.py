"""Weighted norms: their laws, an oracle in fractions on linear nets, regions that do not move, and questions kept apart."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from two import run, two

import lipcert
from lipcert.gate.given import read_report
from lipcert.gate.policy import read_policy
from lipcert.gate.rules import judge
from lipcert.load.weights import Weights, weighted
from lipcert.operators.linear import Dense
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Ball, Box, Norm

DUAL = {"1": "inf", "inf": "1"}


def linear(matrix: Any) -> nn.Module:
    layer = nn.Linear(len(matrix[0]), len(matrix), bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor(matrix, dtype=torch.float64)
    return layer.eval()


def exact_norm(matrix: np.ndarray, p: str) -> Fraction:
    """||A||_p for p = 1 (columns) and inf (rows), in fractions."""
    sums = np.abs(matrix).sum(axis=0 if p == "1" else 1)
    return max(sums)


def scaled(matrix: Any, weight_in: Any, weight_out: Any) -> np.ndarray:
    """diag(w_out) A diag(1 / w_in), exactly."""
    return np.array(
        [[Fraction(a) * Fraction(o) / Fraction(w) for a, w in zip(row, weight_in, strict=True)] for row, o in zip(matrix, weight_out, strict=True)],
        dtype=object,
    )  # fmt: skip


@pytest.fixture(scope="module")
def net() -> lipcert.Model:
    torch.manual_seed(0)
    return lipcert.load(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double(), input_shape=(1, 3))


METHODS = ("product", "absolute", "lipsdp", "sampled")


# Oracles


@pytest.mark.parametrize("p", ["1", "inf"])
@pytest.mark.parametrize("seed", range(6))
def test_linear_nets_against_fractions(p: str, seed: int) -> None:
    """Weights such as 0.1 and 3, whose inverses round: upper is never below the exact constant, and hardly above."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(2, 3)).tolist()
    weight_in, weight_out = rng.choice([0.1, 3.0, 0.7, 1e3, 2.0], 3).tolist(), rng.choice([0.3, 7.0, 1.0], 2).tolist()
    exact = exact_norm(scaled(matrix, weight_in, weight_out), p)
    found = lipcert.bound(
        linear(matrix), input_shape=(1, 3), norm=p, weight_in=weight_in, weight_out=weight_out, methods=["product"]
    )
    assert found.upper is not None
    assert exact <= Fraction(found.upper) <= exact * (1 + Fraction(1, 10**10))


def test_an_ellipsoid_of_a_linear_net() -> None:
    """max |A x|_2 over |W x|_2 <= 1 is 6 for A = (3, 0), W = [[1/2, 1/4], [0, 2]]: A W^-1 = (6, -3/4)."""
    W = [[0.5, 0.25], [0.0, 2.0]]
    found = lipcert.bound(linear([[3.0, 0.0]]), input_shape=(1, 2), weight_in=W, methods=["product", "sampled"])
    exact = math.hypot(6.0, 0.75)
    assert found.lower is not None
    assert found.lower <= exact * (1 + 1e-12)
    assert exact <= found.upper <= exact * (1 + 1e-9)  # type: ignore[operator]
    assert found.lower >= exact * (1 - 1e-6)


def test_the_oracle_sees_a_planted_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inverse that is too small by 1e-9: the constant falls below the exact one."""
    matrix, weight = [[1.0, 1.0]], [0.1, 0.3]
    exact = exact_norm(scaled(matrix, weight, [1.0]), "inf")
    planted = torch.diag((1 - 1e-9) / torch.tensor(weight, dtype=torch.float64))
    monkeypatch.setattr(import_module("lipcert.load.weights"), "_inverse", lambda w: Dense(planted[None]))
    found = lipcert.bound(linear(matrix), input_shape=(1, 2), norm="inf", weight_in=weight, methods=["product"])
    assert found.upper is not None
    assert Fraction(found.upper) < exact


# Laws


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_weights_of_one_are_none(net: lipcert.Model, norm: str) -> None:
    plain = lipcert.bound(net, norm=norm, methods=METHODS[:2])
    ones = lipcert.bound(net, norm=norm, methods=METHODS[:2], weight_in=1, weight_out=[1, 1])
    assert ones.question == plain.question
    assert ones.upper == plain.upper
    assert "weights" not in ones.model


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_scaling(net: lipcert.Model, norm: str) -> None:
    """Powers of two are exact: W_in = a, W_out = b gives b / a times the constant, in every method."""
    plain = lipcert.bound(net, norm=norm, methods=METHODS)
    found = lipcert.bound(net, norm=norm, methods=METHODS, weight_in=4.0, weight_out=[0.5, 0.5])
    assert found.upper == pytest.approx((plain.upper or 0) / 8, rel=1e-5)
    assert found.lower is not None
    assert 0 < found.lower <= (plain.upper or 0) / 8 * (1 + 1e-9)
    assert found.question != plain.question
    assert found.exit_code == 0


def test_brackets_hold_for_any_weights(net: lipcert.Model) -> None:
    torch.manual_seed(1)
    for _ in range(3):
        W = torch.randn(3, 3, dtype=torch.float64) + 2 * torch.eye(3)
        V = torch.randn(2, 2, dtype=torch.float64)
        found = lipcert.bound(net, weight_in=W, weight_out=V, methods=METHODS)
        x, d = torch.randn(2, 200, 3, dtype=torch.float64)
        moved = (net.graph.evaluate(x + d) - net.graph.evaluate(x)) @ V.T
        quotient = float((moved.norm(dim=1) / (d @ W.T).norm(dim=1)).max())
        assert found.upper is not None
        assert quotient <= found.upper * (1 + 1e-9)


def test_layers_and_outputs(net: lipcert.Model) -> None:
    plain, found = (lipcert.layers(net, **given) for given in ({}, {"weight_in": 2.0, "weight_out": 4.0}))  # type: ignore[arg-type]
    ratios = [b["upper"] / a["upper"] for a, b in zip(plain.layers, found.layers, strict=True)]
    assert ratios == pytest.approx([0.5, 1.0, 4.0], rel=1e-6)
    each = lipcert.bound(net, output="each", methods=["product"], weight_out=[1.0, 8.0])
    alone = [lipcert.bound(net, output=str(i), methods=["product"]).upper or 0.0 for i in range(2)]
    assert [row["upper"] for row in each.summary["outputs"]] == pytest.approx([alone[0], 8 * alone[1]], rel=1e-9)
    assert each.upper == max(row["upper"] for row in each.summary["outputs"])


# Regions


def test_regions_follow(net: lipcert.Model) -> None:
    box, W = Box([-1.0, 0.0, -0.5], [1.0, 0.25, 0.5]), [2.0, 0.5, 8.0]
    plain = lipcert.bound(net, region=box, methods=["jacobian", "branch"], rtol=1e-3)
    found = lipcert.bound(net, region=box, weight_in=W, weight_out=1.0, methods=["jacobian", "branch"], rtol=1e-3)
    assert found.region == plain.region  # in x, as it was asked
    (inside,) = [weighted(net, W, None, Norm()).weights.region(box)]  # type: ignore[union-attr]
    assert inside.lower.tolist() == [-2.0, 0.0, -4.0]  # type: ignore[union-attr]
    assert plain.upper / 8 <= found.upper * (1 + 1e-3)  # type: ignore[operator]
    assert found.upper <= plain.upper / 0.5 * (1 + 1e-3)  # type: ignore[operator]


def test_a_region_that_would_move_is_refused(net: lipcert.Model) -> None:
    with pytest.raises(UsageError, match="powers of two"):
        lipcert.bound(net, region=Box([-0.3] * 3, [0.3] * 3), weight_in=0.1)
    with pytest.raises(UsageError, match="under a matrix"):
        lipcert.bound(net, region=Box([-1.0] * 3, [1.0] * 3), weight_in=torch.eye(3) * 2 + 0.5)
    with pytest.raises(UsageError, match="grid is drawn"):
        lipcert.local_grid(net, Box([-1.0] * 3, [1.0] * 3), (1, 1, 1), weight_in=2.0)
    weights = Weights(torch.tensor([0.1, 3.0], dtype=torch.float64), None)
    with pytest.raises(UsageError):
        weights.point(torch.tensor([[0.1, 1.0]], dtype=torch.float64))
    assert weights.point(torch.tensor([[0.5, 0.5]], dtype=torch.float64)).tolist() == [[0.05, 1.5]]


def test_balls(net: lipcert.Model) -> None:
    x = [[0.5, -1.0, 0.25]]
    plain, found = (lipcert.local(net, x, [0.5], weight_in=w, methods=["jacobian"]) for w in (None, 2.0))
    twice = lipcert.local(net, x, [0.25], methods=["jacobian"])  # |2 (x' - x)| <= 0.5
    assert found.points[0]["upper"] == pytest.approx(twice.points[0]["upper"] / 2, rel=1e-9)
    assert plain.points[0]["upper"] != found.points[0]["upper"]
    ball = Weights(torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=torch.float64), None).region(Ball([1.0, 2.0], 0.5))
    assert ball.center.tolist() == [3.0, 4.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weight_in": [1.0, 2.0]}, "for 3 entries"),
        ({"weight_in": [1.0, 0.0, 1.0]}, "positive"),
        ({"weight_in": [1.0, -2.0, 1.0]}, "positive"),
        ({"weight_out": [1.0, math.nan]}, "finite"),
        ({"weight_in": 1e200}, "at most"),
        ({"weight_in": np.zeros((3, 3))}, "singular"),
        ({"weight_in": np.eye(3) * 2, "norm": "1"}, "needs the norm 2"),
        ({"weight_in": 2.0, "certificate": "c.json"}, "certificate"),
        ({"weight_out": 2.0, "execution": "float32", "region": Box([0.0] * 3, [1.0] * 3)}, "plain norms"),
    ],
)
def test_what_is_no_weight(net: lipcert.Model, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        lipcert.bound(net, **given)


# The question


def test_the_command_line_and_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, policy = two(tmp_path), tmp_path / "gate.toml"
    plain, heavy, file = tmp_path / "plain.json", tmp_path / "heavy.json", tmp_path / "w.csv"
    file.write_text("4\n1\n")
    assert run("bound", model, "--method", "absolute", "--json", plain) == 0
    asked = ("bound", model, "--method", "absolute", "--weight-in", file, "--weight-out", "1,0.5", "--json", heavy)
    assert run(*asked) == 0
    assert "W_in diagonal [4.0, 1.0]" in capsys.readouterr().out
    data = json.loads(heavy.read_text())
    assert data["upper"] == pytest.approx(1.0)
    assert data["model"]["weights"]["output"]["values"] == [1.0, 0.5]
    policy.write_text("[[rule]]\nmax_upper = 1.5\n")
    (verdict,) = judge(read_policy(policy), [read_report(heavy)])
    assert (verdict.status, "weighted" in verdict.message) == ("not proved", True)
    policy.write_text('[[rule]]\nmax_upper = 1.5\nweights = "any"\n')
    assert judge(read_policy(policy), [read_report(heavy)])[0].status == "met"
    assert run("compare", plain, heavy) == 2  # different questions
    data["model"].pop("weights")  # a report that hides them is at odds with its question
    heavy.write_text(json.dumps(data))
    assert "weights" in (read_report(heavy).flaw or "")


def test_each_is_resumed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = two(tmp_path), tmp_path / "each.json"
    assert run("bound", model, "--method", "absolute", "--output", "each", "--json", out) == 0
    assert "every entry" in str(lipcert.Report.from_dict(json.loads(out.read_text())).question)
    rows = json.loads(out.read_text())["summary"]["outputs"]
    assert [row["upper"] for row in rows] == pytest.approx([1.0, 2.0])
    assert run("bound", model, "--method", "absolute", "--output", "each", "--resume", out, "--json", out) == 0
    assert "2 outputs are taken from" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UsageError, match="local constants are of one output"):
        lipcert.local_grid(str(model), Box([-1.0, -1.0], [1.0, 1.0]), (1, 1), output="pairs")
