"""Where the whole space has no finite bound, a command is printed that has an answer when it is copied."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lipcert.cli.main import main
from lipcert.load.data import read_data
from lipcert.terms.errors import UnreadableError


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def saved(folder: Path, *operators: tuple[str, list[str]]) -> Path:
    """x (1, 3) -> the last of these operators, whose results are called 0, 1, .."""
    nodes = [helper.make_node(op, inputs, [str(k)]) for k, (op, inputs) in enumerate(operators)]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("x", str(len(nodes) - 1)))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)  # fmt: skip
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


CASES = {
    "a jump at 0": ([("Sign", ["x"]), ("Sin", ["x"]), ("Add", ["0", "1"])], "--at 0.5 --eps 0.01"),
    "a slope at 0": ([("Sqrt", ["x"])], "--at 0.5 --eps 0.01"),
    "a product": ([("Mul", ["x", "x"]), ("Mul", ["0", "x"])], "--at 0 --eps 0.01"),
    "a pole at 0.5 too": ([("Round", ["x"])], "--at 0 --eps 0.01"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_command_has_an_answer(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operators, said = CASES[name]
    path, file = saved(tmp_path, *operators), tmp_path / "r.json"
    assert run("bound", path, "--json", file, "--method", "product") == 3
    report = json.loads(file.read_text())
    assert report["suggestion"].endswith(said)
    told = capsys.readouterr()
    assert f"copy: {report['suggestion']}" in told.err
    assert f"add {said}" in told.out
    assert run(*shlex.split(report["suggestion"])[1:], "--method", "jacobian", "--json", file) == 0
    again = json.loads(file.read_text())
    assert again["status"] == "bounded"
    assert "suggestion" not in again


def test_networks_too_large_for_dense_slopes_have_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipcert.methods.jacobian.ENTRIES", 0)
    path, file = saved(tmp_path, ("Mul", ["x", "x"]), ("Mul", ["0", "x"])), tmp_path / "r.json"
    assert run("bound", path, "--json", file, "--method", "product") == 3
    again = shlex.split(json.loads(file.read_text())["suggestion"])[1:]
    assert run(*again, "--method", "jacobian", "--json", file) == 3
    assert run(*again, "--method", "local-product", "--json", file) == 0


def test_nothing_is_suggested_where_nothing_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipcert.tasks.suggest.CENTRES", ("0",))
    file = tmp_path / "r.json"
    assert run("bound", saved(tmp_path, ("Sign", ["x"])), "--json", file, "--method", "product") == 3
    assert "suggestion" not in json.loads(file.read_text())
    assert run("bound", saved(tmp_path, ("Sin", ["x"])), "--json", file, "--method", "product") == 0
    assert "suggestion" not in json.loads(file.read_text())


def test_the_report_outlives_a_search_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lipcert.tasks.suggest.ball_with_answer", stopped)
    file = tmp_path / "r.json"
    assert run("bound", saved(tmp_path, ("Sign", ["x"])), "--json", file, "--method", "product") == 130
    report = json.loads(file.read_text())
    assert [found["method"] for found in report["results"]] == ["product"]
    assert any("interrupted" in words for words in report["warnings"])


def test_a_number_is_a_point_and_a_file_of_that_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(read_data("0.5", (1, 3)).x, np.full((1, 1, 3), 0.5))
    for text in ("nan", "inf", "0,1", "x"):
        with pytest.raises(UnreadableError, match="no such data file"):
            read_data(text, (1, 3))
    (tmp_path / "0.5").write_text("not data")
    with pytest.raises(UnreadableError, match="cannot be read as data"):
        read_data("0.5", (1, 3))


def test_the_network_before_a_step_is_one_command_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = saved(tmp_path, ("Tanh", ["x"]), ("ArgMax", ["0"])), tmp_path / "r.json"
    assert run("bound", path, "--json", file, "--method", "product") == 3
    report, told = json.loads(file.read_text()), capsys.readouterr()
    assert report["suggestion"].endswith("--output-name 0")
    assert f"copy: {report['suggestion']}" in told.err
    assert "leave out --method" not in told.out  # no method was asked
    assert run(*shlex.split(report["suggestion"])[1:]) == 0
    assert json.loads(file.read_text())["upper"] >= 1


@pytest.mark.parametrize("name", ["0; add: --json r.json", "a'; add: --output-name '0", "--json=x", "0 --json y"])
def test_names_in_a_file_add_no_options(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = saved(tmp_path, ("Tanh", ["x"]), ("ArgMax", ["0"])), tmp_path / "r.json"
    model = onnx.load(path)
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = name
    onnx.save(model, path)
    assert run("bound", path, "--json", file, "--method", "product") == 3
    suggestion = shlex.split(json.loads(file.read_text()).get("suggestion", ""))
    assert [word for word in suggestion if word.startswith("--")] in (
        [],
        ["--json", "--method", "--output-name"],
        ["--json", "--method", "--output-name", name],
    )


def test_a_bound_that_says_little_says_how_to_ask_for_a_closer_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = saved(tmp_path, ("Sin", ["x"]), ("Sin", ["0"])), tmp_path / "r.json"
    assert run("bound", path, "--json", file, "--method", "product", "--method", "sampled") == 0
    assert "suggestion" not in json.loads(file.read_text())
    monkeypatch.setattr("lipcert.report.next_steps.FAR", 1.0)
    capsys.readouterr()
    assert run("bound", path, "--json", file, "--method", "product", "--method", "sampled") == 0
    report, told = json.loads(file.read_text()), capsys.readouterr()
    assert report["suggestion"].endswith("--at 0.5 --eps 0.01")
    assert f"copy: {report['suggestion']}" in told.err
    assert "A ball has a finite bound" not in told.out  # the whole space has one as well
    assert run(*shlex.split(report["suggestion"])[1:], "--json", file) == 0
    assert json.loads(file.read_text())["upper"] < 0.9
