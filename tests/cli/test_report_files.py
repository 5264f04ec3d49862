"""Reports as people name them: files, folders, patterns in quotes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from two import run, two

import lipcert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reports")
    report = lipcert.bound(two(place), methods=["product", "sampled"])
    (place / "r").mkdir()
    for name in ("a", "b"):
        (place / "r" / f"{name}.json").write_text(json.dumps(report.to_dict()))
    (place / "gate.toml").write_text('[[rule]]\nname = "r"\nmax_upper = 20.0\nnorm = "2"\n')
    (place / "empty").mkdir()
    return place


def test_a_folder_and_a_pattern(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for reports in ("r", "r/*.json", "r/[ab].json"):
        assert run("gate", reports, "--policy", "gate.toml") == 0
        told = capfd.readouterr().out
        assert "r/a.json" in told
        assert "r/b.json" in told
        assert run("compare", reports) == 0
        assert run("report", reports, "--html", "-") == 0


def test_verdicts_beside_the_reports_may_be_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for _ in range(2):
        assert run("gate", "r", "--policy", "gate.toml", "--json", "r/verdicts.json") == 0
    assert run("gate", "r", "--policy", "gate.toml", "--json", "r/a.json") == 2  # a report is read, never replaced
    (folder / "r/verdicts.json").unlink()


@pytest.mark.parametrize("reports", ["empty", "r/*.txt", "nothing"])
def test_nothing_to_judge_is_no_success(
    folder: Path, reports: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run("gate", reports, "--policy", "gate.toml") == 2
    assert reports in capfd.readouterr().err
