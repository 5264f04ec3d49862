"""Several inputs: what moves is one vector, what is held is part of the question, and what is missing is asked for at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lipcert
from lipcert.cli.main import main
from lipcert.terms.errors import RefusedModel, UsageError

A = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
B = np.array([[0.0, 5.0], [7.0, 0.0]], np.float32)


def value(name: str, shape: list | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def critic(tmp_path: Path) -> Path:
    """q = s A + (s * a) B for a state s and an action a, of which `half` is another output."""
    nodes = [
        helper.make_node("MatMul", ["s", "A"], ["u"]),
        helper.make_node("Mul", ["s", "a"], ["p"]),
        helper.make_node("MatMul", ["p", "B"], ["v"]),
        helper.make_node("Add", ["u", "v"], ["q"]),
        helper.make_node("Relu", ["u"], ["half"]),
    ]
    constants = [numpy_helper.from_array(A, "A"), numpy_helper.from_array(B, "B")]
    inputs, outputs = [value("s", ["n", 2]), value("a", ["n", 2])], [value("q", ["n", 2]), value("half", ["n", 2])]
    return saved(tmp_path / "critic.onnx", nodes, inputs, outputs, constants)


def saved(path: Path, nodes: list, inputs: list, outputs: list, constants: list) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def modal(tmp_path: Path) -> Path:
    """x A where mode is 16000, else x B; the weights lie in the branches, where a name stands for two tensors."""

    def branch(weights: np.ndarray) -> onnx.GraphProto:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["z"])]
        return helper.make_graph(nodes, "b", [], [value("z", [1, 2])], [numpy_helper.from_array(weights, "w")])

    nodes = [
        helper.make_node("Equal", ["mode", "k"], ["is"]),
        helper.make_node("If", ["is"], ["y"], then_branch=branch(A), else_branch=branch(B)),
    ]
    inputs = [value("x", [1, 2]), value("mode", [], TensorProto.INT64)]
    return saved(
        tmp_path / "modal.onnx", nodes, inputs, [value("y", [1, 2])], [numpy_helper.from_array(np.int64(16000), "k")]
    )


def spectral(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(matrix.astype(float), 2))


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def test_what_is_held_is_a_constant_and_part_of_the_question(critic: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", action=np.array([[2.0, -1.0]]))
    constants = set()
    for given, action in (("a=0", [0, 0]), ("a=2,-1", [2, -1]), (f"a={tmp_path}/in.npz#action", [2, -1])):
        file = tmp_path / "r.json"
        words = ("--input-name", "s", "--fix", given, "--output-name", "q", "--json", file, "-q", "--method", "product")
        assert run("bound", critic, *words) == 0
        report = json.loads(file.read_text())
        truth = spectral((A + np.diag(action).astype(float) @ B).T)
        assert truth * (1 - 1e-12) <= report["upper"] <= truth * 1.0001
        assert report["model"]["fixed"]["a"]["shape"] == [1, 2]
        assert any("the input a is held at" in line for line in report["assumptions"])
        constants.add(report["question"]["fixed"]["a"])
    assert len(constants) == 2


def test_inputs_that_move_together_are_one_vector_in_the_order_said(critic: Path) -> None:
    both = lipcert.load(critic, input_name=["s", "a"], output_name="q")
    turned = lipcert.load(critic, input_name="a,s", output_name="q")
    s, a = np.array([0.5, -1.0]), np.array([2.0, 3.0])
    expected = s @ A + (s * a) @ B
    for model, x in ((both, [*s, *a]), (turned, [*a, *s])):
        assert model.input_shape == (4,)
        import torch

        assert np.allclose(model.graph.evaluate(torch.tensor([x]).double()).numpy().ravel(), expected)
    assert both.info["input_name"] == "s,a"
    assert turned.info["parts"][0] == {"name": "a", "shape": [1, 2]}
    report = lipcert.bound(both, region=lipcert.Ball([0.5, -1.0, 2.0, 3.0], 0.01, "2"), methods=["transfer"])
    jacobian = np.hstack([(A + np.diag(a) @ B).T, (np.diag(s) @ B).T])
    assert report.upper is not None
    assert spectral(jacobian) * 0.99 <= report.upper <= spectral(jacobian) * 1.1


def test_all_that_is_missing_is_asked_for_at_once(
    critic: Path, modal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "e.json"
    assert run("bound", critic, "--json", file) == 2
    said = json.loads(file.read_text())["error"]
    assert "which input moves" in said["what"]
    assert "which output, choose one of q, half" in said["what"]
    assert "s, a" in said["what"]
    assert run(*said["hint"].split()[1:], "--method", "product") == 0  # the line that it prints can be copied
    assert run("bound", modal) == 2
    assert "--fix mode=16000" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"add, in lipcert.load: output_name='q'$"):
        lipcert.load(critic, input_name="s,a")
    for words, what in (
        (("--fix", "b=1"), "no such input"),
        (("--fix", "a=1", "--input-name", "s,a"), "it moves"),
        (("--fix", "a=1,2,3", "--input-name", "s", "--output-name", "q"), "do not fit"),
        (("--fix", "a"), "write NAME=VALUE"),
        (("--input-name", "s,s"), "named twice"),
        (("--input-shape", "t=1,2", "--fix", "a=0", "--output-name", "q"), "--input-shape t"),
    ):
        assert run("bound", critic, *words) == 2
        assert what in capsys.readouterr().err
    assert run("bound", modal, "--fix", "mode=0.5") == 2
    assert "int64, which does not hold" in capsys.readouterr().err


def test_a_condition_on_what_is_held_chooses_the_branch(modal: Path) -> None:
    for mode, weights in ((16000, A), (8000, B)):
        report = lipcert.bound(lipcert.load(modal, fix={"mode": mode}), methods=["product"])
        assert report.upper == pytest.approx(spectral(weights), rel=1e-4)
        assert report.upper >= spectral(weights)


def test_a_branch_on_the_input_is_refused(tmp_path: Path) -> None:
    branch = [
        helper.make_graph([helper.make_node(op, ["x"], ["z"])], "b", [], [value("z", [1])]) for op in ("Neg", "Relu")
    ]
    nodes = [
        helper.make_node("Greater", ["x", "x"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, [value("x", [1])], [value("y", [1])], [])
    with pytest.raises(RefusedModel, match="branches on the input"):
        lipcert.load(path)


def test_a_certificate_carries_what_was_held(critic: Path, tmp_path: Path) -> None:
    file, report = tmp_path / "c.json", tmp_path / "r.json"
    names = ("--input-name", "s", "--output-name", "q")
    assert run("bound", critic, *names, "--fix", "a=2,-1", "--certificate", file, "-q", "--method", "product") == 0
    assert run("verify", file, critic, "--json", report, "-q") == 0  # its own values, which are the prover's choice
    assert "input_name" in json.loads(report.read_text())["summary"]["prover_chose"]
    assert run("verify", file, critic, *names, "--fix", "a=2,-1", "-q") == 0
    assert run("verify", file, critic, *names, "--fix", "a=2,1", "-q") == 1
    forged = json.loads(file.read_text())
    forged["model"]["fixed"]["a"]["values"] = [0.0, 0.0]
    (tmp_path / "forged.json").write_text(json.dumps(forged))
    assert run("verify", tmp_path / "forged.json", critic, "-q") == 1


def test_shapes_that_are_said_are_compared(critic: Path, tmp_path: Path) -> None:
    """Also those said by name; and what nobody says of them is what the prover chose."""
    file, report = tmp_path / "c.json", tmp_path / "r.json"
    made = lipcert.load(critic, input_name="s", fix={"a": [2, -1]}, output_name="q")
    lipcert.bound(made, methods=["product"], certificate=file)
    size = made.info["input_shape"]
    right, wrong = ",".join(map(str, size)), ",".join(map(str, [*size[:-1], size[-1] + 1]))
    said = ("--input-name", "s", "--output-name", "q", "--fix", "a=2,-1", "--json", report, "-q")
    for shape, status in ((f"s={right}", 0), (f"s={wrong}", 1), (right, 0), (wrong, 1), (f"none={right}", 1)):
        assert run("verify", file, critic, *said, "--input-shape", shape) == status, shape
    for shape, status in (("a=1,2", 0), ("a=2,2", 1)):
        assert run("verify", file, critic, *said, "--input-shape", f"s={right}", "--input-shape", shape) == status, (
            shape
        )
    assert run("verify", file, critic, *said) == 0
    assert "input_name" in json.loads(report.read_text())["summary"]["prover_chose"]
    assert run("verify", file, critic, *said, "--input-shape", f"s={right}") == 0
    assert "input_name" not in json.loads(report.read_text())["summary"]["prover_chose"]


def test_every_command_takes_what_is_held(critic: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([[0.5, -1.0]]), y=np.array([0]))
    data, report = tmp_path / "d.npz", tmp_path / "r.json"
    question = ("--input-name", "s", "--fix", "a=2,-1", "--output-name", "q", "--json", report, "-q")
    for command in (
        ("inspect", critic),
        ("layers", critic),
        ("bound", critic, "--at", data, "--eps", "0.1", "--method", "transfer"),
        ("local", critic, "--at", data, "--eps", "0.1"),
        ("jacobian", critic, "--data", data),
        ("radius", critic, "--data", data),
        ("track", critic, "--method", "product"),
    ):
        assert run(*command, *question) == 0, command
        said = json.loads(report.read_text())
        assert command[0] in ("inspect", "track") or "2.0, -1.0" in said["question"]["fixed"]["a"], command


def test_the_network_as_far_as_a_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the end is a step, the refusal names the tensor before it, which can be asked about."""
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["u"]),
        helper.make_node("Relu", ["u"], ["half"]),
        helper.make_node("ArgMax", ["half"], ["class"], axis=1, keepdims=0),
    ]
    path = saved(
        tmp_path / "m.onnx",
        nodes,
        [value("x", [1, 2])],
        [value("class", [1], TensorProto.INT64)],
        [numpy_helper.from_array(A, "A")],
    )
    assert run("bound", path) == 3
    assert "--output-name half" in capsys.readouterr().err
    model = lipcert.load(path, output_name="half")
    assert model.info["output_name"] == "half"
    assert any(record["reference"] == "onnxruntime" for record in model.info["parity"])
    assert lipcert.bound(model, methods=["product"]).upper == pytest.approx(spectral(A), rel=1e-4)
    with pytest.raises(UsageError, match="outputs of this model are: class"):
        lipcert.load(path, output_name="A")


def test_data_may_have_an_array_for_each_part(critic: Path, tmp_path: Path) -> None:
    from lipcert.load.data import read_data
    from lipcert.terms.errors import UnreadableError

    s, a = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])
    np.savez(tmp_path / "in.npz", a=a, s=s, y=np.array([0, 1]))
    model = lipcert.load(critic, input_name="s,a", output_name="q")
    found = read_data(tmp_path / "in.npz", model.input_shape, inputs=model.inputs)
    assert found.x.tolist() == [[1, 2, 5, 6], [3, 4, 7, 8]]
    assert found.y is not None
    assert found.y.tolist() == [0, 1]
    words = ("--input-name", "s,a", "--output-name", "q", "--at", f"{tmp_path}/in.npz#1", "--eps", "0.01")
    assert run("bound", critic, *words, "--method", "jacobian", "-q", "--json", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["scope"]["region"]["center"] == [3, 4, 7, 8]
    alone = lipcert.load(critic, input_name="s", fix={"a": 0}, output_name="q")
    assert read_data(tmp_path / "in.npz", alone.input_shape, inputs=alone.inputs).x[1].tolist() == [[3, 4]]
    for arrays, what in (
        ({"s": s}, "no array x; it has s"),
        ({"s": s, "a": a[:1]}, "as many samples"),
        ({"s": s.astype(np.uint8), "a": a}, "uint8"),
    ):
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(UnreadableError, match=what):
            read_data(tmp_path / "bad.npz", model.input_shape, inputs=model.inputs)
    np.savez(tmp_path / "x.npz", x=np.arange(4.0)[None], s=s, a=a)  # x is meant where it is there
    assert read_data(tmp_path / "x.npz", model.input_shape, inputs=model.inputs).x.tolist() == [[0, 1, 2, 3]]
