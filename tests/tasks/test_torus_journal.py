"""A long bound on a torus goes on from its journal after a kill, with the value that it would have had."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forked
from torch import nn

import lipcert
from lipcert.proofs import torus
from lipcert.proofs.torus_form import torus_form
from lipcert.sdp import families
from lipcert.sdp.families import digest
from lipcert.tasks.journal.journal import Journal
from lipcert.terms.errors import UsageError

SHAPE = "1,1,8,8"


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 3)).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torus") / "net.pt"
    torch.jit.save(torch.jit.trace(network(), torch.zeros(1, 1, 8, 8)), str(path))  # type: ignore[no-untyped-call]
    return path


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torus, "WIDEST", 1)


def ask(model: Path, report: Path, *more: object) -> Forked:
    return Forked(
        "bound", model, "--method", "lipsdp-torus", "--input-shape", SHAPE, "--quiet", "--json", report, *more
    )


def lasting(report: Path) -> dict[str, Any]:
    (found,) = json.loads(report.read_text())["results"]
    return {name: value for name, value in found.items() if name != "seconds"}


def shards(journal: Path) -> list[str]:
    return [json.loads(line)["shard"] for line in journal.read_bytes().splitlines()[1:]]


def test_a_killed_bound_goes_on_to_the_same_value(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the multipliers are written down, and again after three families."""
    assert ask(model, tmp_path / "expected.json").wait().returncode == 0
    journal, add, done = tmp_path / "j", Journal.add, []

    def dying(self: Journal, key: str, found: Mapping[str, Any]) -> None:
        add(self, key, found)
        done.append(key)
        if done[0].split()[1] == "multipliers" or len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as planted:
        planted.setattr(Journal, "add", dying)
        for lines in (1, 4):
            assert ask(model, tmp_path / "r.json", "--journal", journal).wait().returncode == -signal.SIGKILL
            kept = shards(journal)
            assert [key.split()[1] for key in kept] == ["multipliers", *["families"] * (lines - 1)]
    with open(journal, "ab") as stream:  # the line at which it was killed
        stream.write(b'{"shard":"torus fam')
    assert ask(model, tmp_path / "r.json", "--journal", journal).wait().returncode == 0
    assert lasting(tmp_path / "r.json") == lasting(tmp_path / "expected.json")
    after = shards(journal)
    assert after[:4] == kept
    assert len(set(after)) == len(after)  # nothing is proved twice
    warnings = json.loads((tmp_path / "r.json").read_text())["warnings"]
    assert any("4 parts are taken from" in warning for warning in warnings)


def test_nothing_is_swept_or_proved_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything taken over by another question, or from a row that was changed."""
    asked: dict[str, Any] = {"input_shape": (1, 1, 8, 8), "methods": ["lipsdp-torus"], "journal": tmp_path / "j"}
    first = lipcert.bound(model, **asked)
    count, family = [], families.family
    monkeypatch.setattr(families, "family", lambda *given: count.append(1) or family(*given))
    with monkeypatch.context() as planted:
        planted.setattr("lipcert.sdp.torus.circular_network", None)
        assert lipcert.bound(model, **asked).upper == first.upper
    assert not count
    with pytest.raises(UsageError, match="another question"):
        lipcert.bound(model, output="1", **asked)
    text = (tmp_path / "j").read_text()
    (tmp_path / "j").write_text(text.replace('"shift":', '"shift":1'))
    assert lipcert.bound(model, **asked).upper == first.upper
    assert len(count) == text.count('"shift":')


def test_a_family_is_known_by_all_of_its_numbers() -> None:
    form = torus_form(lipcert.load(network(), input_shape=(1, 1, 8, 8)).graph)
    rows = [torch.ones(n, dtype=torch.float64) for n in form.counts]
    problem = torus.scaled(form, rows, 1.0)
    assert digest(problem) == digest(torus.scaled(form, rows, 1.0))
    seen = {digest(problem), digest(torus.scaled(form, rows, 64.0))}
    for k in range(len(rows)):
        raised = [row.clone() for row in rows]
        raised[k][-1] += 2.0**-52
        seen.add(digest(torus.scaled(form, raised, 1.0)))
    for coupling in problem.couplings:
        taps = coupling.taps.clone()
        coupling.taps.flatten()[-1] += 1.0
        seen.add(digest(problem))
        coupling.taps.copy_(taps)
        coupling.places[-1] += 1
        seen.add(digest(problem))
        coupling.places[-1] -= 1
    assert len(seen) == 2 + len(rows) + 2 * len(problem.couplings)
    assert digest(problem) in seen
