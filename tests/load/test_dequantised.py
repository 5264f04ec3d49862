"""Surrogates of quantised files: what they compute, how far the file is from them, what is refused, and that they say so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import lipcert
from lipcert.cli.main import main
from lipcert.load.onnx import dequantised as room
from lipcert.load.runtime import onnxruntime
from lipcert.tasks.dequantise import dequantise
from lipcert.terms.errors import RefusedModel, UnreadableError

LEVELS = {np.int8: (-128, 127), np.uint8: (0, 255)}
DRAW = np.random.default_rng(0)
W = DRAW.normal(size=(4, 3)).astype(np.float32)
CODES = DRAW.integers(-127, 128, size=(4, 3)).astype(np.int8)


def node(op: str, *inputs: str, out: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [out], f"{op} of {out}", **attributes)


def saved(
    path: Path, nodes: list[onnx.NodeProto], opset: int = 17, kind: type = np.int8, zero: int = 3, **more: np.ndarray
) -> Path:
    constants = {"s": np.float32(0.05), "z": kind(zero), "W": W, "C": CODES, "t": np.float32(0.02), **more}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 4), ("y", 3)))
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def pair(x: str, y: str) -> list[onnx.NodeProto]:
    return [node("QuantizeLinear", x, "s", "z", out=f"{y}q"), node("DequantizeLinear", f"{y}q", "s", "z", out=y)]


def usual() -> list[onnx.NodeProto]:
    """x in levels, weights that are dequantised alone, a ReLU whose result is in levels again."""
    weights = [node("DequantizeLinear", "C", "t", out="w")]
    return [*pair("x", "a"), *weights, node("MatMul", "a", "w", out="b"), node("Relu", "b", out="r"), *pair("r", "y")]


def by_hand(x: np.ndarray, kind: type, zero: int, rounded: bool) -> np.ndarray:
    """The definition in float64; `rounded`: of the file itself."""
    low, high = LEVELS[kind]

    def levels(v: np.ndarray) -> np.ndarray:
        v = v / float(np.float32(0.05))
        return float(np.float32(0.05)) * (np.clip((np.round(v) if rounded else v) + zero, low, high) - zero)

    return levels(np.maximum(levels(x) @ (CODES * float(np.float32(0.02))), 0))


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("opset", [10, 17])
def test_a_surrogate_is_the_file_without_round(kind: type, opset: int, tmp_path: Path) -> None:
    path, to = saved(tmp_path / "q.onnx", usual(), opset, kind), tmp_path / "s.onnx"
    assert dequantise(path, to).quantisers == 2
    run = onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"]).run
    model = lipcert.load(to)
    for x in DRAW.normal(scale=4, size=(20, 1, 4)).astype(np.float32):
        mine = model.graph.evaluate(torch.from_numpy(x).double()[None]).numpy().reshape(1, 3)
        assert mine == pytest.approx(by_hand(x.astype(np.float64), kind, 3, rounded=False), abs=1e-5)
        assert run(None, {"x": x})[0] == pytest.approx(by_hand(x.astype(np.float64), kind, 3, rounded=True), abs=0.051)
        reach = (
            0.025 * (1 + np.abs(CODES * 0.02).sum(0).max()) + 1e-5
        )  # half a level at each pair, carried by the weights
        assert np.abs(run(None, {"x": x})[0] - mine).max() <= reach


def test_a_zero_point_of_the_other_sign_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = room._numbers
    monkeypatch.setattr(
        room, "_numbers", lambda *a: (right(a[0], a[1])[0], -right(a[0], a[1])[1], *right(a[0], a[1])[2:])
    )
    content, _ = room.dequantised(saved(tmp_path / "q.onnx", usual(), kind=np.int8, zero=3))
    (tmp_path / "s.onnx").write_bytes(content)
    x = np.full((1, 4), 9.0)
    mine = lipcert.load(tmp_path / "s.onnx").graph.evaluate(torch.from_numpy(x)[None]).numpy().reshape(1, 3)
    assert mine != pytest.approx(by_hand(x, np.int8, 3, rounded=False), abs=1e-5)


def test_quantised_weights_are_clipped_channel_by_channel(tmp_path: Path) -> None:
    scales, zeros = np.array([0.01, 0.02, 0.001], np.float32), np.zeros(3, np.int8)
    halves = [
        node("QuantizeLinear", "W", "v", "u", out="q", axis=1),
        node("DequantizeLinear", "q", "v", "u", out="w", axis=1),
    ]
    path, to = (
        saved(tmp_path / "q.onnx", [*halves, node("MatMul", "x", "w", out="y")], v=scales, u=zeros),
        tmp_path / "s.onnx",
    )
    assert dequantise(path, to).quantisers == 1
    exact = np.clip(W, -128 * scales, 127 * scales).astype(np.float64)
    assert lipcert.bound(to).upper == pytest.approx(np.linalg.norm(exact, 2), rel=1e-6)


ODD = {
    "an output of the model": lambda: [node("QuantizeLinear", "x", "s", "z", out="y")],
    "Transpose": lambda: [
        node("QuantizeLinear", "x", "s", "z", out="q"),
        node("Transpose", "q", out="p"),
        node("DequantizeLinear", "p", "s", "z", out="y"),
    ],
    "DequantizeLinear": lambda: [
        node("QuantizeLinear", "x", "s", "z", out="q"),
        node("DequantizeLinear", "q", "t", "z", out="y"),
    ],
    "no constant": lambda: [
        node("ReduceMax", "x", out="m", keepdims=0),
        node("QuantizeLinear", "x", "m", "z", out="q"),
        node("DequantizeLinear", "q", "m", "z", out="y"),
    ],
    "no pair": lambda: [node("MatMul", "x", "W", out="y")],
}


@pytest.mark.parametrize("why", ODD)
def test_what_is_no_pair_is_refused(why: str, tmp_path: Path) -> None:
    path, to = saved(tmp_path / "q.onnx", ODD[why]()), tmp_path / "s.onnx"
    with pytest.raises(RefusedModel, match=why):
        dequantise(path, to)
    assert not to.exists()


BROKEN = {  # what a stranger's file may hold, and the words that name the node
    "no scale": (
        lambda: [node("QuantizeLinear", "x", out="q"), *pair("x", "y")],
        {},
        "node 'QuantizeLinear of q': not as",
    ),
    "no result": (
        lambda: [helper.make_node("QuantizeLinear", ["x", "s", "z"], []), *pair("x", "y")],
        {},
        "not as the operator",
    ),
    "no scale back": (
        lambda: [node("QuantizeLinear", "x", "s", "z", out="q"), node("DequantizeLinear", "q", out="y")],
        {},
        "node 'DequantizeLinear of y': not as",
    ),
    "empty": (lambda: pair("x", "y"), {"s": np.zeros(0, np.float32), "z": np.zeros(0, np.int8)}, r"scales \[0\]"),
    "shapes": (lambda: pair("x", "y"), {"z": np.zeros(3, np.int8)}, r"zero points \[3\]"),
    "integers": (lambda: pair("x", "y"), {"s": np.int32(1)}, "of int32"),
    "axis": (
        lambda: [*pair("W", "w"), node("MatMul", "x", "w", out="y")],
        {"s": np.ones(5, np.float32), "z": np.zeros(5, np.int8)},
        r"5 scales along axis 1 of \[4, 3\]",
    ),
    "nothing": (lambda: [node("QuantizeLinear", "x", "s", "z", out="q"), node("Relu", "x", out="y")], {}, "by nothing"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_the_operator_does_not_say_is_named(what: str, tmp_path: Path) -> None:
    nodes, constants, words = BROKEN[what]
    path = saved(tmp_path / "q.onnx", nodes(), **constants)
    with pytest.raises((RefusedModel, UnreadableError), match=words):
        dequantise(path, tmp_path / "s.onnx")


def test_data_that_is_elsewhere_or_short_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "q.onnx", pair("x", "y"))
    for change, words in (
        (lambda tensor: setattr(tensor, "raw_data", b"\0"), "constant 's' holds other data"),
        (lambda tensor: setattr(tensor, "data_location", TensorProto.EXTERNAL), "in other files"),
    ):
        model = onnx.load(path)
        change(model.graph.initializer[0])
        path.write_bytes(model.SerializeToString())
        with pytest.raises(UnreadableError, match=words):
            dequantise(path, tmp_path / "s.onnx")


def test_new_names_are_new(tmp_path: Path) -> None:
    nodes = [*pair("x", "a"), node("MatMul", "a", "W", out="b"), node("Mul", "b", "a__low", out="y")]
    dequantise(saved(tmp_path / "q.onnx", nodes, a__low=np.float32(3.0)), tmp_path / "s.onnx")
    model = lipcert.load(tmp_path / "s.onnx")
    x = DRAW.normal(size=(1, 4)) / 100
    mine = model.graph.evaluate(torch.from_numpy(x)[None]).numpy().reshape(1, 3)
    assert mine == pytest.approx(3 * np.float32(x) @ W, abs=1e-6)


def test_other_files_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"\x08\xff\xff\xff no model")
    with pytest.raises(UnreadableError):
        dequantise(tmp_path / "no.onnx", tmp_path / "s.onnx")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def test_the_surrogate_is_another_model_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, to, file, c = (
        saved(tmp_path / "q.onnx", usual()),
        tmp_path / "s.onnx",
        tmp_path / "r.json",
        tmp_path / "c.json",
    )
    assert run("bound", path) == 3
    assert "lipcert dequantise" in capsys.readouterr().err
    assert run("dequantise", path) == 2
    assert f"--to {tmp_path}/q_surrogate.onnx" in capsys.readouterr().err
    before = path.read_bytes()
    assert run("dequantise", path, "--to", path) == 2
    assert path.read_bytes() == before
    assert run("dequantise", path, "--to", to) == 0
    assert f"copy: lipcert bound {to}" in capsys.readouterr().err
    assert run("dequantise", path, "--to", to, "--json", "-") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["sha256"] == hashlib.sha256(to.read_bytes()).hexdigest()
    assert (said["surrogate"], said["model"]) == (str(to), str(path))
    assert said["quantisers"] > 0
    assert run("bound", to, "--json", file, "--certificate", c) == 0
    told, report = capsys.readouterr().out, json.loads(file.read_text())
    assert "a surrogate, dequantised from q.onnx" in " ".join(told.partition("╭")[0].split())  # above the answer
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["model"]["surrogate"] == f"dequantised from q.onnx (sha256 {digest}), roundings left out: 2"
    assert any(line.startswith("the model is a surrogate") for line in report["assumptions"])
    assert run("verify", c, to) == 0
    assert run("verify", c, path) != 0
