"""Many models on one command line: one table, one file of whole reports, the worst exit status; each model on its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from two import run, two

from lipcert.cli.many import execute_each
from lipcert.cli.progress import Progress
from lipcert.cli.run import Run
from lipcert.gate.given import read_report, read_reports
from lipcert.gate.policy import read_policy
from lipcert.gate.rules import judge
from lipcert.report.report import Report, unread
from lipcert.terms.errors import RefusedModel, UnreadableError
from lipcert.terms.result import Bound

FOLDER = resources.files("lipcert.report").joinpath("schema")
ONE, MANY = (json.loads(FOLDER.joinpath(f"lipcert.{n}-1.json").read_text()) for n in ("report", "reports"))
REGISTRY: Registry = Registry().with_resource(ONE["$id"], Resource.from_contents(ONE))


def flaws(data: object) -> list[str]:
    return [error.message for error in Draft202012Validator(MANY, registry=REGISTRY).iter_errors(data)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks with L = 2 and L = 4, and a file that is none."""
    folder = tmp_path_factory.mktemp("models")
    for name, second in (("a", 2.0), ("b", 4.0)):
        (folder / name).mkdir()
        two(folder / name, second).rename(folder / f"{name}.onnx")
        (folder / name).rmdir()
    return folder


def test_one_table_and_one_file(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # paths of temporary folders are long
    out = tmp_path / "all.json"
    assert run("bound", models / "a.onnx", models / "b.onnx", "--method", "product", "--json", out) == 0
    shown = capsys.readouterr()
    assert [line.split()[3] for line in shown.out.splitlines() if ".onnx" in line] == ["bounded", "bounded"]
    assert "1 of 2" in shown.err
    data = json.loads(out.read_text())
    assert flaws(data) == []
    assert (data["exit"], data["complete"], data["remaining"]) == (0, True, [])
    assert [2.0 <= row["upper"] / k < 2.001 for k, row in zip((1, 2), data["reports"], strict=True)] == [True, True]


def test_a_member_is_the_report_of_the_model_alone(models: Path, tmp_path: Path) -> None:
    alone, many = tmp_path / "alone.json", tmp_path / "many.json"
    assert run("bound", models / "b.onnx", "--method", "product", "--json", alone) == 0
    assert run("bound", models, "--method", "product", "--json", many) == 0
    (found,) = (r for r in json.loads(many.read_text())["reports"] if r["model"]["path"].endswith("b.onnx"))
    single = json.loads(alone.read_text())
    for data in (found, single):
        data.pop("created")
        for row in data["results"]:
            row.pop("seconds")
    assert found == single  # one file alone: still a lipcert.report/1


@pytest.mark.parametrize("command", ["layers", "inspect"])
def test_layers_and_inspect(models: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, models, "--json", "-", "--quiet") == 0
    data = json.loads(capsys.readouterr().out)
    assert flaws(data) == []
    assert len(data["reports"]) == 2
    assert run(command, str(models / "*.onnx")) == 0
    shown = capsys.readouterr().out
    assert "a.onnx" in shown
    assert "b.onnx" in shown


def test_a_model_that_cannot_be_read_leaves_the_others(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = tmp_path / "bad.onnx", tmp_path / "all.json"
    bad.write_bytes(b"no model")
    assert run("bound", bad, models / "a.onnx", "--method", "product", "--json", out) == 2
    assert "unreadable" in capsys.readouterr().out
    data = json.loads(out.read_text())
    assert flaws(data) == []
    assert [row["upper"] is not None for row in data["reports"]] == [False, True]


def test_nothing_that_can_be_read_is_an_error_as_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        (tmp_path / f"{name}.onnx").write_bytes(b"no model")
    assert run("bound", tmp_path, "--json", "-") == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"]


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--certificate", "c.json"), "--certificate"), (("--resume", "r.json"), "--resume"), (("none.onnx",), "none.onnx")],
)  # fmt: skip
def test_what_is_about_one_model(
    models: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bound", models / "a.onnx", models / "b.onnx", *words) == 2
    assert says in capsys.readouterr().err


def test_no_report_over_a_model_of_the_folder(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bound", models, "--json", models / "b.onnx") == 2
    assert "is the model file" in capsys.readouterr().err


# Exit statuses and interruptions, with work that is not a network's

DONE = Report("bound", unread("m.onnx"), results=[Bound("product", "upper", "proved", 3.0)])
WORKS: dict[str, Callable[[], Report]] = {
    "0": lambda: DONE,
    "1": lambda: Report("bound", unread("m.onnx"), results=DONE.results, max_upper=1.0),
    "2": lambda: (_ for _ in ()).throw(UnreadableError("m: no model")),
    "3": lambda: (_ for _ in ()).throw(RefusedModel("no rule", node="n")),
    "4": lambda: (_ for _ in ()).throw(ZeroDivisionError("a fault")),
    "130": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
}  # fmt: skip


def asked(tmp_path: Path, *names: str) -> tuple[int, dict[str, Any]]:
    files = [tmp_path / f"{place}_{name}" for place, name in enumerate(names)]
    for file in files:
        file.touch()

    def work(path: Path, progress: Progress) -> Report:
        return WORKS[path.name.partition("_")[2]]()

    out = tmp_path / "all.json"
    status = execute_each(Run("bound", files[0], str(out), quiet=True), files, work)
    return status, json.loads(out.read_text())


@pytest.mark.parametrize(("names", "status"), [("00", 0), ("01", 1), ("130", 3), ("1203", 2), ("01234", 4), ("33", 3)])
def test_the_worst_status(tmp_path: Path, names: str, status: int) -> None:
    found, data = asked(tmp_path, *names)
    assert (found, data["exit"], len(data["reports"])) == (status, status, len(names))
    assert flaws(data) == []


def test_an_interrupt_keeps_what_is_done_and_names_the_rest(tmp_path: Path) -> None:
    status, data = asked(tmp_path, "0", "130", "0", "0")
    assert status == 130
    assert flaws(data) == []
    assert [row["upper"] for row in data["reports"]] == [3.0, None]
    assert (data["complete"], [Path(name).name for name in data["remaining"]]) == (False, ["2_0", "3_0"])


# Gates


def test_a_gate_judges_each(models: Path, tmp_path: Path) -> None:
    out, policy = tmp_path / "all.json", tmp_path / "gate.toml"
    run("bound", models, "--method", "product", "--json", out, "--quiet")
    policy.write_text('[[rule]]\nname = "smooth"\nmax_upper = 3\n')
    verdicts = judge(read_policy(policy), read_reports(out))
    assert [(Path(v.model or "").name, v.status) for v in verdicts] == [("a.onnx", "met"), ("b.onnx", "not proved")]
    assert run("gate", out, "--policy", policy) == 1
    policy.write_text('[[rule]]\nname = "smooth"\nmax_upper = 5\n')
    assert run("gate", out, "--policy", policy) == 0


def test_a_gate_is_not_met_by_part_of_a_collection(models: Path, tmp_path: Path) -> None:
    """Planted: an interrupted run, a file that does not say that it is whole, no report at all, reports that are none."""
    out, policy = tmp_path / "all.json", tmp_path / "gate.toml"
    run("bound", models, "--method", "product", "--json", out, "--quiet")
    policy.write_text('[[rule]]\nname = "smooth"\nmax_upper = 5\n')
    whole = json.loads(out.read_text())
    cut = {**whole, "reports": whole["reports"][:1], "complete": False, "remaining": ["b.onnx"]}
    silent = {key: value for key, value in whole.items() if key != "complete"}
    planted = (cut, {**cut, "remaining": []}, silent, {**whole, "reports": []}, {**whole, "reports": [3]}, {**whole, "reports": None})  # fmt: skip
    for data in planted:
        out.write_text(json.dumps(data))
        assert run("gate", out, "--policy", policy) == 1, data
    assert "several models" in (read_report(out).flaw or "")


def test_a_page_has_a_section_for_each(models: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "all.json", tmp_path / "page.html"
    run("bound", models, "--method", "product", "--json", out, "--quiet")
    assert run("report", out, "--html", page) == 0
    assert all(f"all.json ({models / name}.onnx)" in page.read_text() for name in "ab")
