"""Casts of constants end to end: the network of the rounded weights, in every format; and parity does not hide behind them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import lipcert
from lipcert.terms.errors import RefusedModel

HALF = float(np.float16(0.3334))  # 0.33349609375


class Cast(nn.Module):
    def __init__(self, there: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3334, 0.0], [0.0, 0.1]], dtype=dtype))
        self.there = there

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.there(self.weight))


ROUNDED = {
    "half": (lambda w: w.half().float(), torch.float32, HALF),
    "to": (lambda w: w.to(torch.float16).to(torch.float32), torch.float32, HALF),
    "bfloat16": (lambda w: w.bfloat16().float(), torch.float32, float(torch.tensor(0.3334).bfloat16())),
    "float of double": (lambda w: w.float().double(), torch.float64, float(np.float32(0.3334))),
    "type_as": (lambda w: w.type_as(torch.zeros(1, dtype=torch.float16)).float(), torch.float32, HALF),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_a_module_with_a_cast_weight(name: str) -> None:
    there, dtype, true = ROUNDED[name]
    example = torch.zeros(1, 2, dtype=dtype)
    report = lipcert.bound(lipcert.load(Cast(there, dtype), input_shape=example))
    assert report.lower <= true <= report.upper <= true * (1 + 1e-9)


def onnx_file(folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], opset: int = 17) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / "cast.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


WEIGHT = np.array([[0.3334, 0.0], [0.0, 0.1]], np.float32)


def chain(*types: int, first: str = "w") -> list[onnx.NodeProto]:
    names = [first, *(f"c{k}" for k in range(len(types)))]
    nodes = [helper.make_node("Cast", [a], [b], to=t) for a, b, t in zip(names, names[1:], types, strict=False)]
    return [*nodes, helper.make_node("MatMul", ["x", names[-1]], ["y"])]


@pytest.mark.every(2)
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(
    ("types", "true"),
    [
        ((TensorProto.FLOAT16, TensorProto.FLOAT), HALF),
        ((TensorProto.BFLOAT16, TensorProto.FLOAT), float(torch.tensor(0.3334).bfloat16())),
        ((TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.FLOAT), HALF),
        ((TensorProto.DOUBLE, TensorProto.FLOAT), float(np.float32(0.3334))),
    ],
)
def test_an_onnx_weight_through_casts(
    types: tuple[int, ...], true: float, hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hidden:
        monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    model = lipcert.load(onnx_file(tmp_path, chain(*types), {"w": WEIGHT}))
    report = lipcert.bound(model)
    assert report.lower <= true <= report.upper <= true * (1 + 1e-9)
    assert not any("cast" in text for text in model.assumptions)  # nothing is left open


def test_cast_like_and_computed_constants(tmp_path: Path) -> None:
    like = [
        helper.make_node("CastLike", ["w", "h"], ["a"]),
        helper.make_node("CastLike", ["a", "w"], ["b"]),
        helper.make_node("MatMul", ["x", "b"], ["y"]),
    ]
    model = lipcert.load(onnx_file(tmp_path, like, {"w": WEIGHT, "h": np.zeros(1, np.float16)}))
    assert lipcert.bound(model).upper == pytest.approx(HALF, rel=1e-9)
    computed = [
        helper.make_node("Exp", ["w"], ["e"]),
        helper.make_node("Cast", ["e"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    model = lipcert.load(onnx_file(tmp_path, computed, {"w": np.array([0.3334, -1.0], np.float32)}))
    true = float(np.float16(math.exp(float(np.float32(0.3334)))))
    report = lipcert.bound(model)
    assert report.lower <= true <= report.upper <= true * (1 + 1e-9)


def test_a_cast_of_the_signal_is_an_assumption(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    model = lipcert.load(onnx_file(tmp_path, nodes, {"w": WEIGHT}))
    assert any("cast" in text for text in model.assumptions)
    assert {record["dtype"] for record in model.info["parity"]} <= {"float16"}


def test_one_stored_cast_does_not_lower_parity(tmp_path: Path) -> None:
    model = lipcert.load(onnx_file(tmp_path, chain(TensorProto.FLOAT16, TensorProto.FLOAT), {"w": WEIGHT}))
    assert {record["dtype"] for record in model.info["parity"]} == {"float32"}


def test_a_cast_that_overflows_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, chain(TensorProto.FLOAT16, TensorProto.FLOAT), {"w": WEIGHT * 1e6})
    with pytest.raises(RefusedModel, match="finite"):
        lipcert.load(path)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(-1.7, TensorProto.UINT8), (-300.0, TensorProto.INT8), (3e9, TensorProto.INT32), (2.0**63, TensorProto.INT64), (np.inf, TensorProto.INT32)],
)  # fmt: skip
def test_a_cast_beyond_an_integer_type_is_refused(number: float, kind: int, tmp_path: Path) -> None:
    """ONNX leaves open what it gives: some machines wrap, others saturate."""
    path = onnx_file(tmp_path, chain(kind, TensorProto.FLOAT), {"w": np.array([[number, 0.0], [0.0, 1.0]], np.float32)})
    with pytest.raises(RefusedModel, match="range"):
        lipcert.load(path)


@pytest.mark.parametrize(
    ("number", "kind", "true"),
    [(-0.9, TensorProto.UINT8, 0.0), (255.9, TensorProto.UINT8, 255.0), (-128.9, TensorProto.INT8, 128.0), (-(2.0**63), TensorProto.INT64, 2.0**63)],
)  # fmt: skip
def test_a_cast_to_the_ends_of_an_integer_type(number: float, kind: int, true: float, tmp_path: Path) -> None:
    path = onnx_file(tmp_path, chain(kind, TensorProto.FLOAT), {"w": np.array([[number, 0.0], [0.0, 0.5]], np.float32)})
    report = lipcert.bound(lipcert.load(path))
    assert report.lower <= true <= report.upper <= true * (1 + 1e-9)
