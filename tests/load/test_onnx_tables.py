"""Operators of ai.onnx.ml: a Scaler is the affine map that it is, against onnxruntime and against a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import TensorProto, helper, save

import lipcert
from lipcert.terms.errors import LipcertError, RefusedModel

OFFSET, SCALE = [1.0, -2.0, 0.5], [0.25, 3.0, -1.0]


def scaler(path: Path, op: str = "Scaler", **attributes: Any) -> Path:
    nodes = [
        helper.make_node(op, ["x"], ["s"], domain="ai.onnx.ml", name="scale", **attributes),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    save(
        helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=opsets, ir_version=8),
        path,
    )
    return path


def test_a_scaler_is_affine(tmp_path: Path) -> None:
    model = lipcert.load(scaler(tmp_path / "m.onnx", offset=OFFSET, scale=SCALE))
    assert {row["reference"] for row in model.info["parity"]} == {"onnxruntime"}
    x = torch.randn(5, 1, 3, dtype=torch.float64)
    true = torch.relu((x - torch.tensor(OFFSET)) * torch.tensor(SCALE))
    torch.testing.assert_close(model.graph.evaluate(x).reshape(5, 1, 3), true.double())
    report = lipcert.bound(model, methods=["product", "sampled"])
    assert report.lower <= 3.0 <= report.upper <= 3.0 * (1 + 1e-9)
    one = lipcert.load(scaler(tmp_path / "one.onnx", offset=[0.5], scale=[2.0]))
    assert lipcert.bound(one, methods=["product"]).upper == pytest.approx(2.0)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"offset": OFFSET}, {"scale": SCALE}, {"offset": OFFSET, "scale": [1.0]}, {"offset": [1.0, 2.0], "scale": [1.0, 2.0]}],
)  # fmt: skip
@pytest.mark.parametrize("hidden", [False, True])
def test_what_a_scaler_must_say(
    attributes: dict[str, Any], hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hidden:
        monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(LipcertError, match="scale"):
        lipcert.load(scaler(tmp_path / "m.onnx", **attributes))


def test_other_operators_of_the_domain_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match=r"Binarizer of domain 'ai\.onnx\.ml'"):
        lipcert.load(scaler(tmp_path / "m.onnx", "Binarizer", threshold=0.5))


def test_a_network_of_a_table_library(shared: Path) -> None:
    model = lipcert.load(shared / "wild" / "skmlp2.onnx", output_name="probabilities")
    assert lipcert.bound(model, methods=["product"]).status == "bounded"
