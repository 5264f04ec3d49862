"""Every row of the op table, at every schema version it claims, against onnxruntime (or onnx's reference)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_cases import Case, graphs, model, sample

from lipcert.load.inputs import shaped
from lipcert.load.onnx.file import read_graph
from lipcert.load.onnx.module import build
from lipcert.load.onnx.ops import REFUSED, TABLE
from lipcert.terms.errors import RefusedModel

GRAPHS = list(graphs())


def by_onnxruntime(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray | None:
    """What onnxruntime computes; None where it has no kernel for this opset."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if any(
            words in str(error)
            for words in ("NOT_IMPLEMENTED", "under development", "Unsupported model IR", "Batchwise recurrent")
        ):
            return None
        raise
    return session.run(None, {"x": x})[0]


def by_reference(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ReferenceEvaluator(proto).run(None, {"x": x})[0]


def ours(proto: onnx.ModelProto, x: np.ndarray, folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    path = folder / "case.onnx"
    path.write_bytes(proto.SerializeToString())
    module = build(read_graph(path, shaped(shape))).module
    return module(torch.from_numpy(x).to(torch.float64)).numpy()


def assert_same(expected: np.ndarray, got: np.ndarray, tolerance: float) -> None:
    assert expected.shape == got.shape
    np.testing.assert_allclose(got, expected.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.every(4)
@pytest.mark.parametrize(("row", "opset"), GRAPHS, ids=[f"{row}@{opset}-{k}" for k, (row, opset) in enumerate(GRAPHS)])
def test_op_matches_runtime(row: Case, opset: int, tmp_path: Path) -> None:
    x = sample(row, np.random.default_rng(opset))
    proto = model(row, opset)
    expected = by_onnxruntime(proto, x)
    if expected is None:
        expected = by_reference(proto, x)
    assert_same(np.asarray(expected), ours(proto, x, tmp_path, row.shape), row.tolerance)


def test_enough_graphs_and_every_claim_is_tested() -> None:
    assert len(GRAPHS) >= 200
    tested = {(row.op, onnx.defs.get_schema(row.op, opset, "").since_version) for row, opset in GRAPHS}
    newest = onnx.defs.onnx_opset_version()
    claimed = {(op, version) for op, entry in TABLE.items() for version in entry.versions if version <= newest}
    assert claimed - tested == set()


def test_versions_and_attributes_of_the_table_exist() -> None:
    history: dict[str, dict[int, set[str]]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, {})[schema.since_version] = set(schema.attributes)
    for op, entry in TABLE.items():
        assert set(entry.versions) <= set(history[op]), op
        known = set().union(*(history[op][v] for v in entry.versions))
        assert set(entry.attributes.split()) <= known, op
    assert not set(TABLE) & set(REFUSED)
    assert set(REFUSED) <= set(history)


@pytest.mark.parametrize("wrong", ["slope", "shape", "pad"])
def test_the_oracle_sees_a_planted_error(wrong: str, tmp_path: Path) -> None:
    """A LeakyRelu read with another slope, a transposed result, a pooling that counts its padding: each must fail."""
    pairs = {
        "slope": (
            Case("LeakyRelu", ("x",), (2, 3), attributes={"alpha": 0.3}),
            Case("LeakyRelu", ("x",), (2, 3), attributes={"alpha": 0.3001}),
        ),
        "shape": (Case("Transpose", ("x",), (2, 3)), Case("Identity", ("x",), (2, 3))),
        "pad": (
            Case("AveragePool", ("x",), (1, 1, 4, 4), attributes={"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
            Case(
                "AveragePool",
                ("x",),
                (1, 1, 4, 4),
                attributes={"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
            ),
        ),
    }
    right, planted = pairs[wrong]
    x = sample(right, np.random.default_rng(0))
    expected = by_onnxruntime(model(right, 13), x)
    assert expected is not None
    assert_same(expected, ours(model(right, 13), x, tmp_path, right.shape), 1e-5)
    with pytest.raises(AssertionError):
        assert_same(expected, ours(model(planted, 13), x, tmp_path, right.shape), 1e-5)


def _refusal(nodes: list[onnx.NodeProto], folder: Path, opset: int = 17, constants: tuple = ()) -> RefusedModel:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants),
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = folder / "refused.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(RefusedModel) as caught:
        build(read_graph(path, shaped((1, 2, 4, 4))))
    return caught.value


def _op(op: str, *inputs: str, out: tuple[str, ...] = ("y",), **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs or ("x",)), list(out), name="op", **attributes)


def _to_float() -> onnx.NodeProto:
    return helper.make_node("Cast", ["a"], ["y"], to=TensorProto.FLOAT)


STEPS = [
    ([_op("ArgMax", out=("a",)), _to_float()], True),
    ([_op("Hardmax")], True),
    ([_op("Cast", out=("a",), to=TensorProto.INT64), _to_float()], True),
    ([_op("Cast", out=("a",), to=TensorProto.BOOL), _to_float()], True),
    ([_op("MaxPool", out=("b", "a"), kernel_shape=[2, 2]), _to_float()], True),
    ([_op("Shrink", lambd=1.0, bias=0.5)], True),
    ([_op("RandomNormalLike")], False),
    ([_op("Det")], False),
    ([_op("LRN", size=2)], False),
    ([_op("Clip", "x", "x")], False),
    ([_op("AveragePool", kernel_shape=[2, 2], dilations=[2, 2])], False),
    ([_op("Resize", "x", "", "two", mode="linear", antialias=1)], False),
    ([_op("Resize", "x", "", "two", mode="linear", coordinate_transformation_mode="tf_crop_and_resize")], False),
    ([_op("Resize", "x", "", "odd", mode="cubic")], False),
    (
        [
            _op(
                *("Resize", "x", "", "third"),
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        ],
        False,
    ),
    ([_op("ConvTranspose", "x", "w", strides=[2, 2], auto_pad="SAME_UPPER")], False),
    ([_op("Conv", "x", "w", auto_pad="SOMEHOW")], False),
    ([_op("BatchNormalization", "x", "c", "c", "c", "c", training_mode=1)], False),
    ([_op("ScatterND", "x", "twice", "u")], False),
]
CONSTANTS = tuple(
    onnx.numpy_helper.from_array(np.array(value, dtype=kind), name)
    for name, value, kind in (
        ("two", [1, 1, 2, 2], np.float32),
        ("odd", [1, 1, 1.7, 1.7], np.float32),  # float32(1.7) is no simple fraction
        ("third", [1, 1, 4 / 3, 1], np.float32),  # 4 / float32(4/3) is just below 3
        ("w", np.ones((2, 2, 3, 3)), np.float32),
        ("c", [1, 1], np.float32),
        ("twice", [[0, 1], [0, 1]], np.int64),
        ("u", np.ones((2, 4, 4)), np.float32),
    )
)


@pytest.mark.parametrize(("nodes", "unbounded"), STEPS, ids=[f"{n[0].op_type}-{k}" for k, (n, _) in enumerate(STEPS)])
def test_refusals_name_the_node(nodes: list[onnx.NodeProto], unbounded: bool, tmp_path: Path) -> None:
    error = _refusal(nodes, tmp_path, opset=19, constants=CONSTANTS)
    assert error.unbounded is unbounded
    assert "'op'" in str(error)
    assert error.node is not None
    assert nodes[0].op_type in error.node
