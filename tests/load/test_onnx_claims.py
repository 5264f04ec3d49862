"""What the op table claims, against onnx's own schemas; and what nobody claims is refused by name, onnxruntime or not."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_cases import Case, case, f, graphs, model, sample, scalar
from test_onnx_ops import by_onnxruntime, by_reference
from thorough import FULL

import lipcert
from lipcert.load.inputs import shaped
from lipcert.load.onnx import module as onnx_module
from lipcert.load.onnx.file import read_graph
from lipcert.load.onnx.module import build
from lipcert.load.onnx.node import OnnxNode, Op
from lipcert.load.onnx.ops import TABLE
from lipcert.terms.errors import RefusedModel

FORMAL = onnx.defs.OpSchema.FormalParameterOption
HISTORY: dict[str, dict[int, Any]] = defaultdict(dict)
for _schema in onnx.defs.get_all_schemas_with_history():
    if _schema.domain == "":
        HISTORY[_schema.name][_schema.since_version] = _schema
CASES: dict[str, list[tuple[Case, int]]] = defaultdict(list)
for _row, _opset in graphs():
    CASES[_row.op].append((_row, _opset))


def unclaimed(op: str, entry: Op) -> list[str]:
    """Attributes, optional inputs and further outputs of any claimed schema about which the row says nothing."""
    found: dict[str, None] = {}
    said = {*entry.attributes.split(), *entry.ignored, *entry.refused.split()}
    for version in entry.versions:
        schema = HISTORY[op][version]
        found |= {f"attribute {name}": None for name in schema.attributes if name not in said}
        for formal in schema.inputs:
            if formal.option == FORMAL.Optional and formal.name not in entry.inputs.split():
                found[f"input {formal.name}"] = None
        for formal in schema.outputs[1:]:
            if formal.name not in entry.outputs.split():
                found[f"output {formal.name}"] = None
    return list(found)


def imagined(op: str, entry: Op) -> set[str]:
    """Claims about names that no claimed schema has."""
    schemas = [HISTORY[op][version] for version in entry.versions]
    attributes = {name for s in schemas for name in s.attributes}
    inputs = {i.name for s in schemas for i in s.inputs}
    outputs = {o.name for s in schemas for o in s.outputs}
    return (
        ({*entry.attributes.split(), *entry.ignored, *entry.refused.split()} - attributes)
        | (set(entry.inputs.split()) - inputs)
        | (set(entry.outputs.split()) - outputs)
    )


@pytest.mark.parametrize("op", TABLE)
def test_every_attribute_input_and_output_of_the_schemas_is_claimed(op: str) -> None:
    assert unclaimed(op, TABLE[op]) == []
    assert imagined(op, TABLE[op]) == set()
    claims = [TABLE[op].attributes.split(), list(TABLE[op].ignored), TABLE[op].refused.split()]
    assert len(set().union(*claims)) == sum(map(len, claims)), "claimed twice"


def test_a_claim_that_is_missing_is_seen() -> None:
    entry = TABLE["BatchNormalization"]
    bare = Op(entry.function, entry.versions, "epsilon spatial", ignored={"momentum": ""})
    assert unclaimed("BatchNormalization", bare)[:2] == ["output mean", "output var"]
    assert "attribute training_mode" in unclaimed("BatchNormalization", bare)
    assert imagined("Relu", Op(TABLE["Relu"].function, (6,), "slope")) == {"slope"}


@pytest.mark.parametrize("op", [op for op, entry in TABLE.items() if entry.attributes])
def test_what_a_row_claims_to_read_is_read(op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: set[str] = set()
    original = OnnxNode.__getitem__

    def spied(node: OnnxNode, name: str) -> Any:
        if node.op == op:
            looked.add(name)
        return original(node, name)

    monkeypatch.setattr(OnnxNode, "__getitem__", spied)
    claimed = set(TABLE[op].attributes.split())
    for row, opset in CASES[op]:
        if claimed <= looked:
            break
        path = tmp_path / "case.onnx"
        path.write_bytes(model(row, opset).SerializeToString())
        build(read_graph(path, shaped(row.shape)))
    assert claimed <= looked


# Semantic traps: (case, opset, words of the refusal). Each was, or could be, read as an innocent network.
STATISTICS = (f(2), f(2), f(2), np.abs(f(2)) + 0.1)
IMAGE = (1, 2, 4, 4)
FIVE = ("y", "m", "v", "sm", "sv")
LSTM = (f(1, 20, 4), f(1, 20, 5))
TRAPS: list[tuple[str, Case, int, str]] = [
    *(
        (f"five outputs at {opset}", case("BatchNormalization", *"x", *STATISTICS, shape=IMAGE, outputs=5, **options), opset, "training mode")
        for opset, options in ((6, {"is_test": 1}), (7, {}), (8, {}), (9, {}), (13, {}))
    ),
    ("three outputs", case("BatchNormalization", "x", *STATISTICS, shape=IMAGE, outputs=3), 15, "training mode"),
    ("training_mode", case("BatchNormalization", "x", *STATISTICS, shape=IMAGE, training_mode=1), 15, "training mode"),
    ("is_test missing", case("BatchNormalization", "x", *STATISTICS, shape=IMAGE), 6, "training mode"),
    ("is_test 0", case("BatchNormalization", "x", *STATISTICS, shape=IMAGE, is_test=0), 6, "training mode"),
    ("is_test 0, old", case("BatchNormalization", "x", *STATISTICS, shape=IMAGE, is_test=0, consumed_inputs=[0, 0, 0, 1, 1]), 1, "training mode"),
    ("spatial at 7", case("BatchNormalization", "x", *STATISTICS, shape=IMAGE, spatial=0), 7, "spatial=0"),
    ("spatial at 6", case("BatchNormalization", "x", *STATISTICS, shape=IMAGE, spatial=0, is_test=1), 6, "spatial=0"),
    ("dropout old", case("Dropout", "x", is_test=0), 6, "training mode"),
    ("dropout", case("Dropout", "x", scalar(0.5), scalar(True, np.bool_)), 13, "drops at random"),
    ("clip input inf", case("Clip", "x", scalar(np.inf)), 13, "constant inf"),
    ("clip -inf", case("Clip", "x", None, scalar(-np.inf)), 13, "constant -inf"),
    ("clip nan", case("Clip", "x", max=float("nan")), 6, "NaN"),
    ("lstm clip", case("LSTM", "x", *LSTM, shape=(3, 2, 4), hidden_size=5, clip=3.0), 14, "clip"),
    ("lstm forget", case("LSTM", "x", *LSTM, shape=(3, 2, 4), hidden_size=5, input_forget=1), 14, "input_forget"),
    ("lstm gates", case("LSTM", "x", *LSTM, shape=(3, 2, 4), hidden_size=5, activations=["Sigmoid", "Tanh", "Relu"]), 14, "activations"),
    ("lstm more gates", case("LSTM", "x", *LSTM, shape=(3, 2, 4), hidden_size=5, activations=["Sigmoid", "Tanh", "Tanh", "Relu"]), 14, "activations"),
    ("lstm peepholes", case("LSTM", "x", *LSTM, None, None, None, None, f(1, 15), shape=(3, 2, 4), hidden_size=5), 14, "peepholes"),
    ("lstm size", case("LSTM", "x", *LSTM, shape=(3, 2, 4), hidden_size=4), 14, "hidden_size"),
    ("conv pads", case("Conv", "x", f(2, 2, 3, 3), shape=IMAGE, auto_pad="VALID", pads=[1, 1, 1, 1]), 13, "pads beside auto_pad"),
    ("pool pads", case("MaxPool", "x", shape=IMAGE, kernel_shape=[2, 2], auto_pad="SAME_UPPER", pads=[1, 1, 1, 1]), 13, "pads beside auto_pad"),
    ("pool dilations", case("AveragePool", "x", shape=IMAGE, kernel_shape=[2, 2], dilations=[2, 2]), 19, "dilations"),
    ("resize outside", case("Resize", "x", None, np.array([1, 1, 2, 2], np.float32), shape=IMAGE, mode="linear", exclude_outside=1), 13, "exclude_outside"),
    ("topk unsorted", case("TopK", "x", np.array([2]), shape=(1, 4), outputs=2, sorted=0), 13, "sorted=0"),
    ("topk of too many", case("TopK", "x", np.array([5]), shape=(1, 4), outputs=2), 13, "5 of 4"),
    ("topk indices", case("TopK", "x", np.array([2]), shape=(1, 4), outputs=2, read=1, integral=True), 13, "step function"),
    ("split twice", case("Split", "x", np.array([1, 3]), outputs=2, axis=2, num_outputs=2), 18, "num_outputs"),
    ("sparse", case("Constant", sparse_value=helper.make_sparse_tensor(numpy_helper.from_array(f(1)), numpy_helper.from_array(np.array([0])), [3]), shape=(2, 3), integral=True), 13, "sparse_value"),
]  # fmt: skip


@pytest.fixture(params=["onnxruntime", "hidden"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "hidden":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return request.param


@pytest.mark.parametrize(("name", "row", "opset", "words"), TRAPS, ids=[t[0] for t in TRAPS])
def test_traps_are_refused_by_name(name: str, row: Case, opset: int, words: str, runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "trap.onnx"
    path.write_bytes(model(row, opset).SerializeToString())
    with pytest.raises(RefusedModel, match=words) as caught:
        lipcert.load(path)
    assert row.op in str(caught.value)


def test_outputs_that_nobody_reads_are_no_reason_to_refuse(tmp_path: Path) -> None:
    for row, opset in (
        (case("MaxPool", "x", shape=IMAGE, kernel_shape=[2, 2], outputs=2, storage_order=1), 13),
        (case("LayerNormalization", "x", f(4), f(4), shape=(1, 4), outputs=3, stash_type=1), 17),
        (case("Dropout", "x", shape=(1, 4), outputs=2), 13),
        (case("Dropout", "x", shape=(1, 4), outputs=2, ratio=0.5), 7),
    ):
        path = tmp_path / "fine.onnx"
        path.write_bytes(model(row, opset).SerializeToString())
        assert lipcert.load(path).output_shape


@pytest.mark.every(2)
@pytest.mark.parametrize(
    ("bounds", "constant"),
    [((np.inf, 0.5), 0.5), ((1.0, 0.5), 0.5), ((-np.inf, -np.inf), None), ((-np.inf, np.inf), "identity")],
)
def test_clip_with_strange_bounds(bounds: tuple[float, float], constant: Any, runtime: str, tmp_path: Path) -> None:
    for opset in (6, 11, 13):
        held = {"min": bounds[0], "max": bounds[1]} if opset == 6 else {}
        row = case("Clip", "x", *(() if held else map(scalar, bounds)), shape=(1, 3), **held)
        path = tmp_path / "clip.onnx"
        path.write_bytes(model(row, opset).SerializeToString())
        if constant is None:
            with pytest.raises(RefusedModel, match="constant -inf"):
                lipcert.load(path)
            continue
        report = lipcert.bound(lipcert.load(path), methods=["product"])
        assert (report.upper == 0) == (constant != "identity")


def test_an_attribute_that_the_rule_does_not_look_at_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The central check: a row may claim more than its function reads."""
    careless = Op(lambda node, x: torch.relu(x), (6, 16), "alpha")
    monkeypatch.setitem(onnx_module.TABLE, "LeakyRelu", careless)
    path = tmp_path / "case.onnx"
    path.write_bytes(model(case("LeakyRelu", "x", alpha=0.5), 13).SerializeToString())
    with pytest.raises(RefusedModel, match="the attribute alpha"):
        build(read_graph(path, shaped((2, 3, 4))))


def test_reading_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph of each operator through the whole pipeline, onnxruntime hidden: what is read is right, or refused."""
    everything = FULL
    rows = [pair for op in CASES for pair in (CASES[op] if everything else CASES[op][-1:])]
    rows = rows if everything else rows[::4]
    expected = [by_onnxruntime(model(row, opset), sample(row, np.random.default_rng(0))) for row, opset in rows]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    read = 0
    for (row, opset), value in zip(rows, expected, strict=True):
        x = sample(row, np.random.default_rng(0))
        proto = model(row, opset)
        path = tmp_path / "case.onnx"
        path.write_bytes(proto.SerializeToString())
        try:
            loaded = lipcert.load(path)
        except RefusedModel:
            continue
        assert any("onnxruntime" in warning for warning in loaded.warnings)
        value = by_reference(proto, x) if value is None else value
        ours = loaded.graph.evaluate(torch.from_numpy(x).double()[None]).numpy().reshape(loaded.output_shape)
        np.testing.assert_allclose(ours, value.astype(np.float64), rtol=row.tolerance, atol=row.tolerance)
        read += 1
    assert read >= 0.8 * len(rows)
