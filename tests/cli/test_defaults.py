"""[tool.lipcert], LIPCERT_* and what is typed: each over the one before it, and the report says which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lipcert.cli.main import main

MOONS = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"
Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and a working folder inside it."""
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    return tmp_path / "pyproject.toml"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, dict[str, Any], str]:
        file = tmp_path / "r.json"
        file.unlink(missing_ok=True)
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--json", str(file)])
        report = json.loads(file.read_text()) if file.exists() else {}
        return int(left.value.code or 0), report, capsys.readouterr().err

    return command


def test_each_goes_over_the_one_before(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text(
        '[tool.lipcert]\nseed = 3\nquiet = true\nnorm = "1"\n'
        '[tool.lipcert.bound]\nnorm = "inf"\nmethod = ["product"]\nmax-upper = 1e4\n'
    )
    status, report, _ = run("bound", str(MOONS))
    assert status == 0
    assert report["norm"] == {"input": "inf", "output": "inf"}
    assert [row["method"] for row in report["results"]] == ["product"]
    assert report["gate"]["met"]
    found = {row["option"]: (row["value"], row["from"]) for row in report["defaults"]}
    assert found["--seed"] == (3, f"{project}: [tool.lipcert]")
    assert found["--norm"] == ("inf", f"{project}: [tool.lipcert.bound]")
    assert found["--method"][0] == ["product"]
    monkeypatch.setenv("LIPCERT_NORM", "2")
    monkeypatch.setenv("LIPCERT_METHOD", "product,absolute")
    _, report, _ = run("bound", str(MOONS))
    assert report["norm"]["input"] == "2"
    assert [row["method"] for row in report["results"]] == ["product", "absolute"]
    assert {"option": "--norm", "value": "2", "from": "LIPCERT_NORM"} in report["defaults"]
    _, report, _ = run("bound", str(MOONS), "--norm", "1", "--method", "product")
    assert report["norm"]["input"] == "1"
    assert "--norm" not in {row["option"] for row in report["defaults"]}
    _, report, _ = run("layers", str(MOONS), "--norm", "1")
    assert {row["option"] for row in report["defaults"]} == {"--seed", "--quiet"}


def test_what_is_typed_in_another_way_goes_over_a_default(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_text('[tool.lipcert]\nnorm = "inf"\n[tool.lipcert.bound]\nmethod = ["product"]\nbox = "-1:1"\n')
    status, report, _ = run("bound", str(MOONS), "--norm-in", "2", "--norm-out", "1")
    assert status == 0
    assert report["norm"] == {"input": "2", "output": "1"}
    assert {row["option"] for row in report["defaults"]} == {"--method", "--box"}
    monkeypatch.setenv("LIPCERT_NORM_IN", "1")
    monkeypatch.setenv("LIPCERT_NORM_OUT", "2")
    _, report, _ = run("bound", str(MOONS))
    assert report["norm"] == {"input": "1", "output": "2"}
    assert report["scope"]["region"]["kind"] == "box"
    _, report, _ = run("bound", str(MOONS), "--norm", "2")
    assert report["norm"] == {"input": "2", "output": "2"}


def test_options_are_named_as_they_are_typed(project: Path, run: Run) -> None:
    project.write_text('[tool.lipcert.jacobian]\nfrom = "nowhere"\n')
    status, _, err = run("jacobian", str(MOONS), "--data", "missing.npz")
    assert status == 2
    assert "no option" not in err


def test_nothing_is_said_where_there_are_none(project: Path, run: Run) -> None:
    project.write_text("[tool.other]\nx = 1\n[tool.ruff]\nline-length = 80\n")
    status, report, _ = run("bound", str(MOONS), "--method", "product", "-q")
    assert status == 0
    assert "defaults" not in report


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tool.lipcert]\nnrom = "2"', "nrom is no option; did you mean norm?"),
        ('[tool.lipcert]\njson = "r.json"', "json is a file, which is always typed"),
        ("[tool.lipcert.bound]\nper-class = true", "per-class is no option"),
        ("[tool.lipcert.bond]\nseed = 1", "bond is no command"),
        ("[tool.lipcert]\nnorm = [1, 2]", "norm: a text, a number"),
        ('[tool.lipcert]\nnorm = ["1", "2"]', "norm: one value is needed, not a list"),
        ("[tool]\nlipcert = 3", "tool.lipcert is no table"),
        ("[tool.lipcert", "not TOML"),
    ],
)
def test_what_is_no_default_is_an_error(text: str, said: str, project: Path, run: Run) -> None:
    project.write_text(text)
    status, report, err = run("bound", str(MOONS))
    assert status == 2
    assert said in err.splitlines()[0]
    assert str(project) in err.splitlines()[0]
    assert report["error"]["kind"]


def test_a_value_that_the_option_does_not_take(project: Path, run: Run) -> None:
    project.write_text('[tool.lipcert]\nthreads = "many"\n')
    status, _, err = run("bound", str(MOONS))
    assert status == 2
    assert f"--threads is set in {project}: [tool.lipcert]" in err


def test_help_and_the_policy_are_as_before(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_text("[tool.lipcert]\nnrom = 2\n[[tool.lipcert.gate.rule]]\nmax_upper = 1.0\n")
    for arguments in (["--version"], ["bound", "--help"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert not left.value.code
    assert "lipcert" in capsys.readouterr().out
