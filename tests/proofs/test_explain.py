"""`verify --explain`: the steps of the proof in words, and what reports say of where they come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import lipcert
from lipcert.terms.version import made_by

EXPECTED = {
    "product": [r"\|change of .*\|_2 <= [\d.e+-]+ \|dx\|_2", r"\|change of the output\|_2 <= "],
    "cplip": [r"^nonlinearities that are passed as centre plus deviation", r"change of the output"],
    "absolute": [r"\|J\| <= M"],
    "lipsdp": [r"slopes in \[0, 1\]", r"4 multipliers, one per neuron", r"positive semidefinite", r"root of rho"],
}


@pytest.fixture(scope="module")
def model() -> lipcert.Model:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    return lipcert.load(net, input_shape=(1, 3))


@pytest.mark.parametrize("method", EXPECTED)
def test_each_kind_tells_its_steps(method: str, model: lipcert.Model, tmp_path: Path) -> None:
    lipcert.bound(model, methods=[method], certificate=tmp_path / "c")
    found = lipcert.verify(tmp_path / "c", model, explain=True)
    assert found.summary["verdict"] == "accepted"
    steps = found.summary["steps"]
    for pattern in EXPECTED[method]:
        assert any(re.search(pattern, step) for step in steps), steps
    assert steps[-1] == f"{found.summary['proved']!r} <= {found.summary['claim']!r}: the claim holds"
    assert "steps" not in lipcert.verify(tmp_path / "c", model).summary


@pytest.mark.parametrize("method", ["product", "cplip", "absolute", "lipsdp"])
def test_a_maximum_is_explained_too(method: str, tmp_path: Path) -> None:
    """The normal form takes it apart: its layers are not nodes of the graph that was read."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2)).eval()
    model = lipcert.load(net, input_shape=(1, 1, 3, 3))
    lipcert.bound(model, methods=[method], certificate=tmp_path / "c")
    found = lipcert.verify(tmp_path / "c", model, explain=True)
    assert found.summary["verdict"] == "accepted"
    assert len(found.summary["steps"]) > 1


def test_reports_say_what_they_were_made_with(model: lipcert.Model) -> None:
    data = lipcert.bound(model, methods=["product"]).to_dict()
    assert data["tool"]["with"]["torch"].startswith(torch.__version__.split("+")[0])
    assert data["tool"]["machine"].split() == made_by()["machine"].split()
    assert lipcert.Report.from_dict(data).upper == data["upper"]
