"""`radius --valid LO:HI`: only inputs in a range count, for what is certified and for what attacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deviating import Builder
from torch import Tensor

import lipcert
from lipcert.cli.main import main
from lipcert.gate.wanted import Wanted
from lipcert.network.graph import Graph
from lipcert.report.to_json import to_json
from lipcert.sampling.attack import Pgd
from lipcert.tasks.radius.margins import Margins, margins
from lipcert.tasks.radius.values import value_radii
from lipcert.terms.errors import UsageError
from lipcert.terms.query import NORMS
from lipcert.terms.question import Question

UNIT = (0.0, 1.0)


def network(kind: str = "relu") -> Graph:
    built = Builder(2 if kind == "attention" else 1, 4, 3)
    u = built.dense(0)
    if kind == "attention":
        built.sum(u, built.attention(built.normalise(u), 2))
    else:
        built.pointwise(built.dense(built.pointwise(built.dense(u, 12), kind), 12), kind)
    return built.graph(3)


def samples(graph: Graph) -> tuple[Tensor, Margins]:
    """Most entries lie at an end of the range, as the pixels of digits do."""
    x = torch.rand(12, graph.nodes[0].size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = ((x - 0.2) * 2).clamp(*UNIT)
    found = margins(graph, x, None)
    ahead = (found.value > 0).all(dim=1)
    return x[ahead], found[ahead]


def broken(graph: Graph, x: Tensor, found: Margins, radius: Tensor) -> bool:
    """Whether a valid input within a ball of linf has lost its margin: corners first, and steps down the gradient."""
    low, high = ((x + sign * radius[:, None] * (1 - 1e-12)).clamp(*UNIT)[:, None] for sign in (-1, 1))
    side = torch.rand(len(x), 600, x.shape[1], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    side[:, ::2] = side[:, ::2].round()
    points = (low + side * (high - low)).requires_grad_()
    seeds = found.seeds(3)

    def least() -> Tensor:
        y = graph.evaluate(points.reshape(-1, x.shape[1])).reshape(len(x), 600, -1)
        return torch.einsum("bkm,bsm->bsk", seeds, y).amin(dim=2)

    for _ in range(3):
        g = least()
        if bool((g <= 0).any()):
            return True
        (slope,) = torch.autograd.grad(g.sum(), points)
        points = torch.where(slope > 0, low, high).detach().requires_grad_()
    return bool((least() <= 0).any())


@pytest.mark.parametrize("kind", ["relu", "gelu_erf", "attention"])
def test_no_valid_input_inside_has_lost_its_margin(kind: str) -> None:
    graph = network(kind)
    x, found = samples(graph)
    x, found = (x[:2], found[:2]) if kind == "attention" else (x, found)
    with torch.no_grad():
        valid, _ = value_radii(graph, x, found, "inf", False, valid=UNIT)
        every, _ = value_radii(graph, x, found, "inf", False)
    assert not broken(graph, x, found, valid)
    assert bool((valid > every).any())
    assert float(valid.mean()) > float(every.mean())


def test_a_range_that_is_too_narrow_is_seen() -> None:
    graph = network()
    x, found = samples(graph)
    with torch.no_grad():
        radius, _ = value_radii(graph, x, found, "inf", False, valid=(0.3, 0.7))
    assert broken(graph, x, found, radius)


def test_a_range_without_ends_and_other_norms_change_nothing() -> None:
    graph = network()
    x, found = samples(graph)
    with torch.no_grad():
        for norm in NORMS:
            every, _ = value_radii(graph, x, found, norm, False)
            same = UNIT if norm != "inf" else (-np.inf, np.inf)
            found_here, _ = value_radii(graph, x, found, norm, False, valid=same)
            torch.testing.assert_close(found_here, every, rtol=0 if norm != "inf" else 1e-3, atol=0)


def test_a_sample_at_the_end_of_every_range_is_certified_far_out() -> None:
    """f(x) = x with two outputs 1 - x and x: from x = 0 the class changes at 1/2; upwards alone, and not below 0."""
    net = torch.nn.Linear(1, 2).double()
    net.weight.data, net.bias.data = torch.tensor([[-1.0], [1.0]]), torch.tensor([1.0, 0.0])
    net.double()
    report = lipcert.radius(net, np.zeros((1, 1)), norm="inf", methods=["values"], valid=(0.0, 1.0), attack=True)
    (row,) = report.points
    assert row["radius"] <= 0.5 <= row["attacked"]
    assert row["radius"] > 0.49
    alone = lipcert.radius(net, np.zeros((1, 1)), norm="inf", methods=["values"], valid=(0.0, 0.25))
    assert alone.points[0]["radius"] > 0.5  # no valid input changes the class at all


def test_the_nearest_input_of_another_class_counts_where_it_is_valid() -> None:
    """The class changes at -1/4 and at 3/4: below 0 no input counts, so that what `regions` finds there is no attack."""
    pytest.importorskip("numba")
    net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).double()
    for layer, weight, bias in (
        (net[0], [[-1.0], [1.0]], [-0.25, -0.75]),
        (net[2], [[0.0, 0.0], [1.0, 1.0]], [1e-9, 0.0]),
    ):
        layer.weight.data, layer.bias.data = (torch.tensor(t, dtype=torch.float64) for t in (weight, bias))
    model = lipcert.load(net, input_shape=(1, 1))
    for valid, least in ((None, 0.25), (UNIT, 0.75)):
        report = lipcert.radius(model, np.zeros((1, 1)), norm="inf", methods=["values", "regions"], valid=valid)
        (row,) = report.points
        assert row["attacked"] is None or row["attacked"] >= max(least, row["radius"])
        assert row["radii"]["regions"] <= 0.25 + 1e-6
        if valid is None:
            assert row["nearest"]["distance"] == pytest.approx(0.25, rel=1e-3)
        else:
            assert row["nearest"] is None
            assert row["radius"] > 0.7


def test_the_report_says_what_its_radii_are_about(tmp_path: Path) -> None:
    graph = network()
    x, _ = samples(graph)
    model = lipcert.load(
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double(),
        input_shape=(1, 4),
    )
    report = lipcert.radius(model, x.numpy(), norm="inf", methods=["values"], valid=UNIT, attack=Pgd(2, 5))
    assert any("[0.0, 1.0]" in line for line in report.assumptions)
    assert report.summary is not None
    assert report.summary["asked"]["valid"] == [0.0, 1.0]
    assert report.summary["asked"]["attack"]["clip"] == UNIT
    for row in report.points:
        assert row["attacked"] is None or row["radius"] <= row["attacked"]
    kept = tmp_path / "kept.journal"
    lipcert.radius(model, x.numpy(), norm="inf", methods=["values"], valid=UNIT, journal=str(kept))
    with pytest.raises(UsageError, match="another question"):
        lipcert.radius(model, x.numpy(), norm="inf", methods=["values"], journal=str(kept))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"valid": (0.0, 0.5)}, "sample 0 has entries from"),
        ({"valid": (1.0, 0.0)}, "two numbers"),
        ({"valid": (np.nan, 1.0)}, "two numbers"),
        ({"valid": "01"}, "two numbers"),
        ({"valid": (0.0, 1.0), "attack": Pgd(2, 5, clip=(-1.0, 1.0))}, "^clip: valid says"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], words: str) -> None:
    net = torch.nn.Linear(3, 2).double()
    with pytest.raises(UsageError, match=words):
        lipcert.radius(net, np.full((1, 3), 0.75), norm="inf", **options)


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(9, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    model, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    torch.onnx.export(net, (torch.zeros(1, 9),), str(model), dynamo=False)
    np.savez(data, x=np.random.default_rng(0).choice([0, 0, 255], (6, 9)).astype(np.uint8))
    ask = ["radius", str(model), "--data", str(data), "--norm", "inf", "--method", "values", "--json", "-", "--quiet"]
    rows = []
    for more in ([], ["--valid", "0:1", "--attack"]):
        assert run([*ask, *more]) == 0
        rows.append(json.loads(capsys.readouterr().out)["points"])
    assert sum(row["radius"] for row in rows[1]) > sum(row["radius"] for row in rows[0])
    assert all(row["attacked"] is None or row["attacked"] >= row["radius"] for row in rows[1])
    assert run([*ask, "--valid", "0.5:1"]) == 2
    assert "--valid 0.5:1: sample 0" in capsys.readouterr().err
    assert run([*ask, "--valid", "1:0"]) == 2


@pytest.mark.parametrize(
    ("said", "asked", "met"),
    [
        (None, None, True),
        (None, [0, 1], True),  # what holds for all inputs
        ([0, 1], None, False),
        ([0, 1], [0, 1], True),
        ([0, 1], [0.25, 1], True),
        ([0, 1], [-1, 1], False),
        ([0, 1], "any", True),
        ([0, np.inf], [0, 1], True),
        ([0, np.inf], [0, np.inf], True),
        ([0, 1], [0, np.inf], False),
    ],
)
def test_a_gate_takes_such_radii_for_what_they_are(said: Any, asked: Any, met: bool) -> None:
    net = torch.nn.Linear(2, 2).double()
    report = lipcert.radius(net, np.full((1, 2), 0.5), norm="inf", methods=["values"], valid=said)
    question = Question.from_dict(json.loads(to_json(report))["question"])
    words = Wanted.of({"norm": "inf"} | ({} if asked is None else {"valid": asked})).miss(question)
    assert (words is None) == met
    assert words is None or "entries in [0.0, 1.0]" in words
    assert ("entries in [0.0, " in str(question)) == (said is not None)


def test_a_range_without_an_end_is_resumed(tmp_path: Path) -> None:
    """JSON has no infinity, and what is read back is the same question."""
    net, x = torch.nn.Linear(2, 2).double(), np.full((1, 2), 0.5)
    ask: dict[str, Any] = {"norm": "inf", "methods": ["values"], "valid": (0.0, np.inf)}
    first = lipcert.radius(net, x, journal=str(tmp_path / "kept"), **ask)
    (tmp_path / "r.json").write_text(to_json(first))
    for more in ({"journal": str(tmp_path / "kept")}, {"resume": str(tmp_path / "r.json")}):
        again = lipcert.radius(net, x, **ask, **more)
        assert [row["radius"] for row in again.points] == [row["radius"] for row in first.points]


@pytest.mark.parametrize("value", [[1, 0], [0], "all", [0, "1"], 3, [0, np.nan], [0, 10**400], [False, True]])
def test_ranges_of_rules_that_make_no_sense(value: Any) -> None:
    with pytest.raises(UsageError, match="valid = "):
        Wanted.of({"norm": "inf", "valid": value})


@pytest.mark.parametrize("said", [[0], [0, 1, 2], "01", ["a", "b"], {"low": 0}, True, [0, 10**400], [None, 1], []])
def test_a_range_that_cannot_be_read_is_not_every_input(said: Any) -> None:
    """Of a report from elsewhere: no rule takes it but one about any inputs, and nothing breaks."""
    net = torch.nn.Linear(2, 2).double()
    data = lipcert.radius(net, np.full((1, 2), 0.5), norm="inf", methods=["values"]).to_dict()["question"]
    question = Question.from_dict(data | {"options": {**data["options"], "valid": said}})
    for asked in ({}, {"valid": [0, 1]}):
        assert "[nan, nan]" in (Wanted.of({"norm": "inf"} | asked).miss(question) or "")
    assert Wanted.of({"norm": "inf", "valid": "any"}).miss(question) is None
