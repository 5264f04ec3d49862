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


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("gate -", "-: the report is not read from standard input"),
        ("gate https://x.org/r.json", "https://x.org/r.json: this is an address"),
        ("compare r/a.json https://x.org/r.json", "this is an address"),
        (
            "compare r/a.json net.onnx",
            "net.onnx: this is a model, not a report of one: lipcert bound net.onnx --json FILE",
        ),
        ("report r/a.json --html page.pdf", "give a name in .html; a browser prints it as PDF"),
        ("report r/a.json --html page.md", "give a name in .html, or --out for this one"),
        ("radius net.onnx --data -", "-: the data of --data is not read from standard input"),
        ("bound net.onnx --at https://x.org/d.npz#0 --eps 1", "https://x.org/d.npz#0: this is an address"),
        ("bound net.onnx --at -#0 --eps 1", "not read from standard input"),
        ("verify - net.onnx", "the certificate is not read from standard input"),
        ("track https://x.org/a.pt", "https://x.org/a.pt: this is an address"),
    ],
)
def test_what_is_no_file_is_told_in_words(
    folder: Path, line: str, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run(*line.split()) == 2
    assert says in " ".join(capfd.readouterr().err.split())


def test_norms_as_they_are_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for norm, shown in (("l2", "l2 -> l2"), ("Linf", "linf -> linf"), ("l1->2", "l1 -> l2")):
        assert run("bound", "net.onnx", "--norm", norm, "--method", "product", "--quiet") == 0
        assert shown in capfd.readouterr().out
    ball = ("--at", "x.csv#0", "--eps", "0.1", "--ball-norm", "linf")
    (folder / "x.csv").write_text("1,2\n")
    assert run("bound", "net.onnx", *ball, "--method", "jacobian", "--quiet") == 0
    assert "linf ball" in capfd.readouterr().out
    assert run("bound", "net.onnx", "--norm", "l3") == 2
