"""Certificates of kind `tree`: written by `bound` of method `regions`, accepted, and rejected when they are tampered with."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lipcert
from lipcert.proofs.several import digest

pytest.importorskip("numba")

Fields = dict[str, Any]
Made = tuple[Path, Fields, lipcert.Report, lipcert.Model]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("tree")
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2)).double()
    program = torch.export.export(module.eval(), (torch.zeros(1, 2).double(),))
    torch.export.save(program, folder / "net.pt2")
    box = lipcert.Box(torch.full((1, 2), -3.0), torch.full((1, 2), 3.0))
    certificate = folder / "a.cert"
    model = lipcert.load(folder / "net.pt2")
    report = lipcert.bound(model, region=box, norm="inf", methods=["regions"], certificate=certificate)
    return folder, json.loads(certificate.read_text()), report, model


def verdict(folder: Path, model: lipcert.Model, fields: Fields) -> tuple[str, str]:
    fields["digest"] = digest(fields["norm"], fields["claims"], fields["points"])
    (folder / "b.cert").write_text(json.dumps(fields))
    summary = lipcert.verify(folder / "b.cert", model).summary
    return summary["verdict"], summary.get("place", "")


def test_what_was_written_is_accepted(made: Made) -> None:
    folder, fields, report, model = made
    proof = fields["claims"][0]["proof"]
    assert proof["kind"] == "tree"
    assert fields["claims"][0]["claim"] <= report.upper * (1 + 1e-8)
    size = report.results[0].details["certificate_size"]
    assert size["nodes"] == len(proof["splits"]) > 20
    assert size["bytes"] == (folder / "a.cert").stat().st_size
    assert verdict(folder, model, copy.deepcopy(fields)) == ("accepted", "")
    words = lipcert.verify(folder / "a.cert", folder / "net.pt2", explain=True).summary["steps"]
    assert "both halves" in words[0]


def change(name: str, to: Callable[[Any], Any]) -> Callable[[Fields], None]:
    def edit(fields: Fields) -> None:
        proof = fields["claims"][0]["proof"]
        proof[name] = to(proof[name])

    return edit


def other_box(fields: Fields) -> None:
    fields["claims"][0]["scope"]["region"]["upper"] = [9.0, 9.0]


def smaller_claim(fields: Fields) -> None:
    fields["claims"][0]["claim"] *= 1 - 1e-4


def smaller_value(fields: Fields) -> None:
    smaller_claim(fields)
    fields["claims"][0]["proof"]["value"] *= 1 - 1e-4


def global_scope(fields: Fields) -> None:
    fields["claims"][0]["scope"]["region"] = "global"


TAMPERED: dict[str, tuple[Callable[[Fields], None], str]] = {
    "a dropped child": (change("splits", lambda s: [*s[:-2], s[-1]]), "proof.splits"),
    "a child too many": (change("splits", lambda s: [*s, 0]), "proof.splits"),
    "the root is a leaf": (change("splits", lambda s: [0]), "proof.splits"),
    "a swapped sign": (change("splits", lambda s: [-s[0], *s[1:]]), "proof.splits"),
    "another hinge": (change("splits", lambda s: [s[0] + (1 if s[0] > 0 else -1), *s[1:]]), "proof.splits"),
    "no hinge": (change("splits", lambda s: [10**6, *s[1:]]), "proof.splits"),
    "nothing": (change("splits", lambda s: []), "proof.splits"),
    "no whole number": (change("splits", lambda s: [*s[:-1], False]), "proof.splits[{last}]"),
    "a larger number": (change("splits", lambda s: [10**30, *s[1:]]), "proof.splits[0]"),
    "another box": (other_box, "proof.splits"),
    "a smaller claim": (smaller_claim, "claim"),
    "a smaller value": (smaller_value, "proof.splits"),
    "the whole space": (global_scope, "scope.region"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_rejected(made: Made, name: str) -> None:
    folder, fields, _, model = made
    fields, (edit, place) = copy.deepcopy(fields), TAMPERED[name]
    last = len(fields["claims"][0]["proof"]["splits"]) - 1
    edit(fields)
    assert verdict(folder, model, fields) == ("rejected", f"claims[0].{place.format(last=last)}")
