"""Reading ONNX files: damage, hostility, names, types, external data, choice of input and output."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import FOOTPRINTS, require_shared
from onnx import TensorProto, helper, numpy_helper

from lipcert.load.onnx.file import looks_like_onnx
from lipcert.load.onnx.from_onnx import read_onnx
from lipcert.load.source import Source
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError, UsageError


def value(name: str, shape: list | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, array: object, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(array, dtype=kind), name)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto] = [],  # noqa: B006 - read only
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    opset: int = 17,
    **more: object,
) -> Path:
    graph = helper.make_graph(
        nodes, "g", inputs or [value("x", [1, 2])], outputs or [value("y", None)], constants, **more.pop("graph", {})
    )
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=more.pop("ir_version", 8), **more)
    path.write_bytes(proto.SerializeToString())
    return path


def node(op: str, *inputs: str, out: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [out], name=attributes.pop("name", f"the_{op}"), **attributes)


def at(source: Source, *rows: float) -> np.ndarray:
    return source.module(torch.tensor([rows], dtype=torch.float64)).numpy()


# --- real models ----------------------------------------------------------------------------------

ARGUMENTS = {  # what the reader asks for, file by file
    "basic_pitch_nmp.onnx": {"output_name": "StatefulPartitionedCall:1"},
    "marabou_multiInput_add.onnx": {"output_name": "Y"},
    "mtcnn_pnet.onnx": {"output_name": "softmax", "input_shape": (1, 24, 20, 3)},
    "rapidocr_cls_mobilenetv3.onnx": {"input_shape": (1, 3, 48, 192)},
    "silero_vad.onnx": {"output_name": "output"},
}
REFUSED = {  # and what remains refused, with what the message says
    "carvana_unet_simp_small.onnx": (RefusedModel, "ArgMax_19"),
    "layerzoo_dropout_training_mode_true.onnx": (RefusedModel, "training_mode"),
    "marabou_multiInput_add.onnx": (UsageError, "X1, X2"),
    "silero_vad.onnx": (UsageError, "input, state, sr"),
}


def models() -> list[Path]:
    folder = Path(os.environ.get("LIPCERT_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "models"
    return sorted(folder.glob("*.onnx"))


@pytest.mark.every(9)
@pytest.mark.parametrize("path", models(), ids=lambda p: p.name)
def test_model_matches_onnxruntime_or_is_refused(path: Path) -> None:
    arguments = ARGUMENTS.get(path.name, {})
    if path.name in REFUSED:
        kind, words = REFUSED[path.name]
        with pytest.raises(kind) as caught:
            read_onnx(path, **arguments)
        assert words in str(caught.value)
        return
    source = read_onnx(path, **arguments)
    exported = torch.export.export(source.module, (source.example,), strict=False).module()
    if not source.references:
        assert path.name == "onnxtest_BatchNorm2d_eval.onnx"  # opset 6, which onnxruntime cannot run
        return
    (reference,) = source.references
    rng = np.random.default_rng(1)
    low = 0.05 if path.name == "onnxtest_operator_sqrt.onnx" else -1.0
    xs = np.stack(
        [
            s * rng.uniform(low, 1.0, source.example.shape)
            for s in ((1.0,) if source.example.numel() > 2**15 else (0.1, 1.0, 3.0))
        ]
    )
    xs = xs.astype(reference.dtype).astype(np.float64)
    expected = reference.evaluate(xs)
    for x, y in zip(xs, expected, strict=True):
        got = source.module(torch.from_numpy(x))
        assert torch.equal(exported(torch.from_numpy(x)), got)
        assert got.shape == y.shape
        loose = 100.0 if path.name == "basic_pitch_nmp.onnx" else 1.0  # log of a float32 spectrum: runtimes differ more
        np.testing.assert_allclose(got.numpy(), y, rtol=2e-4, atol=loose * 2e-5 * max(1.0, np.abs(y).max()))


def test_all_models_were_seen() -> None:
    require_shared()
    assert len(models()) >= 80


# --- malformed, hostile and awkward files ---------------------------------------------------------

UNREADABLE, REFUSE, ASK = UnreadableError, RefusedModel, UsageError
BAD = {  # file: (error, words of its message)
    "01_empty.onnx": (UNREADABLE, "empty"),
    "03_text_renamed.onnx": (UNREADABLE, "not an ONNX"),
    "04_truncated_half.onnx": (UNREADABLE, "not an ONNX"),
    "06_bitflips.onnx": (UNREADABLE, "not an ONNX"),
    "07_nan_weight.onnx": (REFUSE, "'W1' holds NaN"),
    "12_ext_absolute.onnx": (UNREADABLE, "not a relative path"),
    "13_ext_missing.onnx": (UNREADABLE, "13_does_not_exist.bin"),
    "14_ext_short.onnx": (UNREADABLE, "16 bytes"),
    "15_ext_negative_offset.onnx": (UNREADABLE, "offset -64"),
    "17_cyclic.onnx": (UNREADABLE, "cycle"),
    "18_undefined_input.onnx": (UNREADABLE, "nowhere"),
    "20_output_not_made.onnx": (UNREADABLE, "nothing makes"),
    "24_shape_mismatch.onnx": (UNREADABLE, "Gemm"),
    "26_negative_dim.onnx": (UNREADABLE, "negative dimension"),
    "27_huge_shape_no_data.onnx": (UNREADABLE, "W1"),
    "29_expand_bomb.onnx": (REFUSE, "Expand"),
    "32_recursive_function.onnx": (UNREADABLE, "calls itself"),
    "35_symbolic_all.onnx": (ASK, "--input-shape"),
    "36_no_shape.onnx": (ASK, "--input-shape"),
    "38_int_input.onnx": (REFUSE, "not real-valued"),
    "39_uint8_cast_input.onnx": (REFUSE, "not real-valued"),
    "41_if.onnx": (REFUSE, "branches on the input"),
    "42_loop.onnx": (REFUSE, "Loop"),
    "44_custom_domain.onnx": (REFUSE, "com.acme"),
    "45_unknown_op.onnx": (REFUSE, "Reluu"),
    "47_ir_999.onnx": (UNREADABLE, "ir_version 999"),
    "54_dropout_train.onnx": (REFUSE, "training_mode"),
    "56_random_normal.onnx": (REFUSE, "random"),
    "68_qdq.onnx": (REFUSE, "staircase"),
    "74_complex_input.onnx": (REFUSE, "not real-valued"),
    "75_sequence_output.onnx": (REFUSE, "sequence"),
    "77_state_input.onnx": (ASK, "--output-name"),
    "89_torchscript_renamed.onnx": (UNREADABLE, "not an ONNX"),
}
GOOD = {  # file: a scale c with f(c x) = c f(x) for the linear ones, or None where it only has to load
    "00_good_mlp.onnx": None, "09_huge_weights.onnx": None, "10_subnormal_weights.onnx": None, "21_no_nodes.onnx": 1.0,
    "23_constant_output.onnx": None, "33_local_function.onnx": 2.0, "48_opset_1.onnx": None, "50_float16.onnx": None,
    "51_float64.onnx": None, "53_mixed_cast_fp16.onnx": 1.0, "57_sqrt.onnx": None, "59_exp.onnx": None,
    "60_floor.onnx": None, "62_sign.onnx": None, "63_where_step.onnx": None, "65_log.onnx": None,
    "66_l2norm.onnx": None,
    "69_needle.onnx": None, "71_unused_big_branch.onnx": None, "72_hostile_names.onnx": None,
    "78_name_injection.onnx": None,
}  # fmt: skip
SLOW = {"30_deep_chain.onnx"}  # has a test of its own


@pytest.mark.parametrize("name", BAD)
def test_bad_file_ends_in_one_clear_line(name: str, shared: Path) -> None:
    kind, words = BAD[name]
    with pytest.raises(kind) as caught:
        read_onnx(shared / "bad" / name)
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert text.isprintable()


@pytest.mark.parametrize("name", GOOD)
def test_odd_but_valid_file_loads(name: str, shared: Path) -> None:
    source = read_onnx(shared / "bad" / name)
    torch.export.export(source.module, (source.example,), strict=False)
    scale = GOOD[name]
    if scale is not None:
        x = torch.full_like(source.example, 1.25)
        assert torch.equal(source.module(x), scale * x)
    for text in (source.input_name, source.output_name, *source.warnings, *source.assumptions):
        assert text.isprintable()
    assert not any(os.path.exists(footprint) for footprint in FOOTPRINTS)


def test_every_bad_onnx_file_is_covered(shared: Path) -> None:
    listed = {row["file"] for row in json.loads((shared / "bad" / "bad.json").read_text())}
    assert {n for n in listed if n.endswith(".onnx")} == set(BAD) | set(GOOD) | SLOW


def test_unbounded_refusals_say_so(shared: Path) -> None:
    for name in ("41_if.onnx", "68_qdq.onnx"):
        with pytest.raises(RefusedModel) as caught:
            read_onnx(shared / "bad" / name)
        assert caught.value.unbounded


def test_deep_chain_is_read_without_recursion(shared: Path) -> None:
    source = read_onnx(shared / "bad" / "30_deep_chain.onnx")
    x = torch.randn_like(source.example)
    assert torch.equal(source.module(x), torch.relu(x))


def test_dead_branch_leaves_no_weight(shared: Path) -> None:
    assert not dict(read_onnx(shared / "bad" / "71_unused_big_branch.onnx").module.named_buffers())


def test_float16_cast_is_an_assumption(shared: Path) -> None:
    (text,) = read_onnx(shared / "bad" / "53_mixed_cast_fp16.onnx").assumptions
    assert "rounding of the cast" in text
    assert "float16" in text


def test_sniffing(shared: Path) -> None:
    assert looks_like_onnx(shared / "bad" / "88_onnx_renamed.pt")
    for name in ("01_empty.onnx", "03_text_renamed.onnx", "89_torchscript_renamed.onnx", "90_good_script.pt"):
        assert not looks_like_onnx(shared / "bad" / name)
    assert not looks_like_onnx(shared / "bad" / "absent.onnx")


# --- names ----------------------------------------------------------------------------------------


def test_hostile_names_reach_neither_module_nor_message(tmp_path: Path) -> None:
    evil = 'a"); __import__("os").system("touch /tmp/pwned_lipcert"); ("\x1b[31m\n'
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["x", evil], [evil + "2"], name=evil), helper.make_node("Floor", [evil + "2"], ["y"])],
        [constant(evil, [1.0, 2.0])],
    )
    source = read_onnx(path)
    names = [n for n, _ in source.module.named_modules()] + [n for n, _ in source.module.named_buffers()]
    assert all(n.replace(".", "_").isidentifier() or not n for n in names)
    assert all(text.isprintable() for text in source.module.labels.values())
    graph = torch.export.export(source.module, (source.example,), strict=False).graph_module
    assert "pwned" not in graph.code
    path = save(tmp_path / "d.onnx", [helper.make_node("Det", ["x"], ["y"], name=evil)])
    with pytest.raises(RefusedModel) as caught:
        read_onnx(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("what", ["twice", "as initialiser", "output twice", "operator name"])
def test_names_that_clash(what: str, tmp_path: Path) -> None:
    nodes, constants, outputs = [node("Relu", "x")], [], [value("y", None)]
    if what == "twice":
        nodes.append(node("Neg", "x"))
    elif what == "as initialiser":
        constants.append(constant("y", [1.0]))
    elif what == "output twice":
        outputs = outputs * 2
    else:
        nodes = [node("Re lu", "x")]
    with pytest.raises(UnreadableError):
        read_onnx(save(tmp_path / "m.onnx", nodes, constants, outputs=outputs))


def test_unsorted_nodes_are_sorted(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Neg", "a"), node("Relu", "x", out="a")])
    assert at(read_onnx(path), 1.0, -2.0).tolist() == [[-1.0, 0.0]]


# --- versions -------------------------------------------------------------------------------------


def test_opset_too_new_or_absent(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="opset 999"):
        read_onnx(save(tmp_path / "a.onnx", [node("Relu", "x")], opset=999))
    proto = onnx.load(save(tmp_path / "b.onnx", [node("Relu", "x")]))
    del proto.opset_import[:]
    (tmp_path / "b.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UnreadableError, match="opset_import"):
        read_onnx(tmp_path / "b.onnx")


def test_old_opset_is_converted(tmp_path: Path) -> None:
    """Before opset 7, B was laid against A's axes from `axis` on: only numpy's rule can be converted."""
    for axis, size in ((2, 4), (1, 3)):
        nodes = [node("Add", "x", "b", axis=axis, broadcast=1)]
        constants = [constant("b", [10.0 * k for k in range(size)])]
        path = save(tmp_path / "m.onnx", nodes, constants, [value("x", [2, 3, 4])], opset=6)
        if axis == 1:
            with pytest.raises(UnreadableError, match="opset 6 cannot be converted"):
                read_onnx(path)
        else:
            x = torch.zeros(2, 3, 4, dtype=torch.float64)
            assert read_onnx(path).module(x)[1, 2].tolist() == [0.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize("op", ["Dropout", "BatchNormalization"])
def test_training_mode_of_an_old_opset_is_not_lost(op: str, tmp_path: Path) -> None:
    """Before opset 7 `is_test` says so, and its default is training."""
    rest = [constant(k, [1.0, 2.0]) for k in "abcd"] if op != "Dropout" else []
    path = save(tmp_path / "m.onnx", [node(op, "x", *[c.name for c in rest])], rest, [value("x", [3, 2])], opset=6)
    with pytest.raises(RefusedModel, match="training mode"):
        read_onnx(path)


def test_old_operators_that_changed_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="PRelu of opset 6 is not known"):
        read_onnx(save(tmp_path / "m.onnx", [node("PRelu", "x", "s")], [constant("s", [0.5])], opset=6))
    constants = [constant("w", [[1.0, 2.0], [3.0, 4.0]]), constant("c", [10.0, 20.0])]
    gemm = node("Gemm", "x", "w", "c", broadcast=1, alpha=2.0)
    source = read_onnx(save(tmp_path / "g.onnx", [gemm], constants, opset=6))
    assert at(source, 1.0, 1.0).tolist() == [[18.0, 32.0]]


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_are_promoted_exactly(kind: int, raw: bool, tmp_path: Path) -> None:
    numbers = [0.1, -3.14159, 6e-8, 65000.0, 0.0]
    array = np.array(numbers).astype(helper.tensor_dtype_to_np_dtype(kind))
    weight = helper.make_tensor("w", kind, [5], array.tobytes() if raw else array.astype(np.float64).tolist(), raw=raw)
    path = save(
        tmp_path / "m.onnx",
        [node("Mul", "x", "w")],
        [weight],
        [value("x", [5], kind)],
        [value("y", None, kind)],
        opset=13,
    )
    source = read_onnx(path)
    expected = torch.tensor([float(v) for v in array], dtype=torch.float64)
    assert torch.equal(source.module(torch.ones(5, dtype=torch.float64)), expected)
    if kind == TensorProto.BFLOAT16:
        assert not source.references
        assert "bfloat16" in source.warnings[0]
    else:
        assert source.references[0].dtype == np.dtype(array.dtype).name


def test_attribute_keeps_its_float32_value(tmp_path: Path) -> None:
    source = read_onnx(save(tmp_path / "m.onnx", [node("LeakyRelu", "x", alpha=0.1)]))
    assert at(source, -1.0, 1.0)[0, 0] == -float(np.float32(0.1))


def test_arithmetic_on_weights_is_not_folded_but_movement_is(tmp_path: Path) -> None:
    nodes = [
        node("Mul", "w", "g", out="scaled"),
        node("Transpose", "w", out="turned"),
        node("MatMul", "x", "scaled", out="a"),
        node("MatMul", "a", "turned"),
    ]
    constants = [constant("w", [[1.0, 2.0], [3.0, 4.0]]), constant("g", [0.1])]
    source = read_onnx(save(tmp_path / "m.onnx", nodes, constants))
    assert [name.split("_")[0] for name, _ in source.module.steps.named_children()] == ["Mul", "MatMul", "MatMul"]


@pytest.mark.parametrize("after", ["Cast", "Unsqueeze", "Concat"])
def test_a_rounded_product_of_constants_is_never_stored(after: str, tmp_path: Path) -> None:
    """a * b has no float64 value: whatever moves it afterwards, the product must be left to the graph."""
    more = {"Cast": {"to": 1}, "Concat": {"axis": 0}}.get(after, {})
    inputs = ["p", "axes"] if after == "Unsqueeze" else ["p"]
    nodes = [node("Mul", "a", "b", out="p"), node(after, *inputs, out="q", **more), node("Mul", "x", "q")]
    constants = [constant("a", [0.1]), constant("b", [0.3]), constant("axes", [0], np.int64)]
    source = read_onnx(save(tmp_path / "m.onnx", nodes, constants))
    stored = {float(np.float32(0.1)), float(np.float32(0.3))}
    assert {float(b) for _, b in source.module.named_buffers()} == stored
    held = [t for s in source.module.order for t in (*s.node.held.values(), *s.node.known) if t is not None]
    assert {float(t) for t in held if t.is_floating_point()} <= stored


def test_a_floor_of_a_stored_number_is_exact(tmp_path: Path) -> None:
    nodes = [node("Floor", "a", out="f"), node("Cast", "f", out="n", to=7), node("Expand", "x", "n")]
    source = read_onnx(save(tmp_path / "m.onnx", nodes, [constant("a", [2.99999, 3.0])], [value("x", [2, 1])]))
    assert source.module(source.example).shape == (2, 3)


def test_dequantised_weights_are_read(tmp_path: Path) -> None:
    nodes = [node("DequantizeLinear", "q", "s", "z", out="w"), node("MatMul", "x", "w")]
    constants = [constant("q", [[1, -2], [3, 4]], np.int8), constant("s", 0.5), constant("z", 1, np.int8)]
    source = read_onnx(save(tmp_path / "m.onnx", nodes, constants))
    assert at(source, 1.0, 0.0).tolist() == [[0.0, -1.5]]


@pytest.mark.parametrize(
    "kind", [TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.INT4, TensorProto.FLOAT8E4M3FN]
)
def test_other_weight_types_are_refused(kind: int, tmp_path: Path) -> None:
    weight = helper.make_tensor("w", kind, [2], [b"a", b"b"] if kind == TensorProto.STRING else [1.0, 2.0])
    with pytest.raises(LipcertError):
        read_onnx(save(tmp_path / "m.onnx", [node("Mul", "x", "w")], [weight], opset=21, ir_version=10))


def test_infinite_weight_is_refused_but_an_infinite_clip_bound_is_not(tmp_path: Path) -> None:
    constants = [constant("w", [np.inf, 1.0])]
    with pytest.raises(RefusedModel, match="'w'"):
        read_onnx(save(tmp_path / "m.onnx", [node("Mul", "x", "w")], constants))
    constants = [constant("low", -1.0), constant("high", np.inf)]
    source = read_onnx(save(tmp_path / "c.onnx", [node("Clip", "x", "low", "high")], constants))
    assert at(source, -5.0, 7.0).tolist() == [[-1.0, 7.0]]


def test_sparse_initialiser_is_refused(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(constant("w", [1.0]), constant("i", [1], np.int64), [2])
    with pytest.raises(RefusedModel, match="sparse"):
        read_onnx(save(tmp_path / "m.onnx", [node("Mul", "x", "w")], graph={"sparse_initializer": [sparse]}))


# --- inputs and outputs ---------------------------------------------------------------------------


def test_initialiser_listed_as_input_is_a_constant(tmp_path: Path) -> None:
    inputs = [value("x", [1, 2]), value("w", [2])]
    source = read_onnx(save(tmp_path / "m.onnx", [node("Mul", "x", "w")], [constant("w", [2.0, 3.0])], inputs))
    assert at(source, 1.0, 1.0).tolist() == [[2.0, 3.0]]


def test_several_inputs(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Add", "x", "h")], [], [value("x", [1, 2]), value("h", [1, 2])])
    with pytest.raises(UsageError, match=r"which input moves \(--input-name.*what h is held at"):
        read_onnx(path)
    with pytest.raises(UsageError, match=r"say what h is held at \(--fix NAME=VALUE\)"):
        read_onnx(path, input_name="x")
    with pytest.raises(UsageError, match=r"the inputs of this model are: x, h"):
        read_onnx(path, input_name="z")


def test_a_dead_second_input_does_not_matter(tmp_path: Path) -> None:
    inputs = [value("dead", ["n", 3]), value("x", [1, 2])]
    source = read_onnx(save(tmp_path / "m.onnx", [node("Relu", "x")], [], inputs))
    assert source.input_name == "x"
    assert source.references[0].evaluate(np.full((2, 1, 2), -1.0)).tolist() == [[[0.0, 0.0]]] * 2


def test_several_outputs(tmp_path: Path) -> None:
    nodes, outputs = [node("Relu", "x"), node("Neg", "x", out="z")], [value("y", None), value("z", None)]
    path = save(tmp_path / "m.onnx", nodes, outputs=outputs)
    with pytest.raises(UsageError, match=r"which output, choose one of y, z \(--output-name\)"):
        read_onnx(path)
    assert at(read_onnx(path, output_name="z"), 1.0, -1.0).tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize(
    ("dims", "given", "expected"),
    [
        (["n", 3], None, (1, 3)),
        ([None, 3], None, (1, 3)),
        (["n", 3], (5, 3), (5, 3)),
        ([4, 3], None, (4, 3)),
        ([4, 3], (4, 3), (4, 3)),
        (["n"], None, "open dimensions"),
        (["n", "m"], None, "open dimensions"),
        ([2, "m"], None, "open dimensions"),
        (["n", "m"], (2, 3), (2, 3)),
        ([4, 3], (1, 3), "does not fit"),
        (["n", 3], (3,), "does not fit"),
        (["n", 3], (0, 3), "does not fit"),
        (["n", "m"], (2**20, 2**20), "too large"),
        ([0, 3], None, "empty"),
        (None, (2, 2), (2, 2)),
    ],
)
def test_input_shape(dims: list | None, given: tuple | None, expected: object, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Relu", "x")], [], [value("x", dims)])
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            read_onnx(path, input_shape=given)
    else:
        source = read_onnx(path, input_shape=given)
        assert tuple(source.example.shape) == expected
        assert bool(source.assumptions) == (given is None and dims is not None and not isinstance(dims[0], int))


def test_sizes_that_follow_from_shapes_are_static(tmp_path: Path) -> None:
    """What old exporters write for `interpolate(x, scale_factor=2)` and `x.view(x.size(0), -1)`."""
    nodes = [
        node("Shape", "x", out="s"),
        node("Slice", "s", "from", "to", out="hw"),
        node("Cast", "hw", out="f", to=1),
        node("Mul", "f", "two", out="g"),
        node("Floor", "g", out="h"),
        node("Cast", "h", out="new", to=7),
        node("Slice", "s", "zero", "from", out="nc"),
        node("Concat", "nc", "new", out="sizes", axis=0),
        node(
            "Resize",
            "x",
            "",
            "",
            "sizes",
            out="big",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("Gather", "s", "first", out="n", axis=0),
        node("Unsqueeze", "n", "zero", out="n1"),
        node("Concat", "n1", "rest", out="flat", axis=0),
        node("Reshape", "big", "flat"),
    ]
    constants = [
        constant("from", [2], np.int64),
        constant("to", [4], np.int64),
        constant("two", 2.0),
        constant("zero", [0], np.int64),
        constant("first", 0, np.int64),
        constant("rest", [-1], np.int64),
    ]
    source = read_onnx(save(tmp_path / "m.onnx", nodes, constants, [value("x", [1, 2, 3, 3])]))
    assert source.module(source.example).shape == (1, 72)
    assert [s.split("_")[0] for s in source.module.labels] == ["Resize", "Reshape"]


def test_a_size_on_the_edge_of_rounding_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", out="s"),
        node("Cast", "s", out="f", to=1),
        node("Mul", "f", "tenth", out="g"),
        node("Floor", "g", out="h"),
        node("Cast", "h", out="new", to=7),
        node("Expand", "x", "new"),
    ]
    path = save(tmp_path / "m.onnx", nodes, [constant("tenth", 0.1)], [value("x", [10])])
    with pytest.raises(RefusedModel, match="too close to a step"):  # 10 * float32(0.1) is 1.0000000149
        read_onnx(path)


# --- external data --------------------------------------------------------------------------------


def external(tmp_path: Path, **entries: object) -> Path:
    weight = constant("w", [[1.0, 2.0], [3.0, 4.0]])
    (tmp_path / "w.bin").write_bytes(b"\0" * 8 + weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in {"location": "w.bin", "offset": "8", "length": "16", **entries}.items():
        weight.external_data.add(key=key, value=str(text))
    return save(tmp_path / "m.onnx", [node("MatMul", "x", "w")], [weight])


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    assert at(read_onnx(external(tmp_path)), 1.0, 1.0).tolist() == [[4.0, 6.0]]


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../w.bin"}, {"location": "sub/../../w.bin"}, {"location": "/etc/passwd"}, {"location": ""},
        {"location": "absent.bin"}, {"location": "."}, {"location": "link.bin"}, {"location": "C:\\w.bin"},
        {"offset": -8}, {"offset": 16}, {"offset": "many"}, {"length": 8}, {"length": 2**62}, {"location": "a\0b"},
    ],
    ids=str,
)  # fmt: skip
def test_external_data_elsewhere_is_not_read(entries: dict, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
    (tmp_path / "w.bin").write_bytes(b"\0" * 64)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(UnreadableError, match="'w'"):
        read_onnx(external(folder, **entries))


# --- functions ------------------------------------------------------------------------------------


def _function(name: str, body: list[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function(
        "local", name, ["a"], ["b"], body, [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    )


def test_nested_functions_are_inlined_and_named(tmp_path: Path) -> None:
    inner = _function("Inner", [helper.make_node("Neg", ["a"], ["b"], name="inner_neg")])
    outer = _function(
        "Outer", [helper.make_node("Inner", ["a"], ["m"], domain="local"), helper.make_node("Relu", ["m"], ["b"])]
    )
    nodes = [
        helper.make_node("Outer", ["x"], ["t"], domain="local"),
        helper.make_node("Outer", ["t"], ["y"], domain="local"),
    ]
    options = {"opsets": [helper.make_opsetid("local", 1)], "functions": [inner, outer]}
    source = read_onnx(save(tmp_path / "m.onnx", nodes, **options))
    assert at(source, -2.0, 2.0).tolist() == [[0.0, 0.0]]
    assert any("inner_neg" in label for label in source.module.labels.values())


def test_function_bomb_is_counted_before_it_is_inlined(tmp_path: Path) -> None:
    """30 functions, each calling the one before twice: 2^30 nodes when inlined."""
    functions = [_function("F0", [helper.make_node("Neg", ["a"], ["b"])])]
    for k in range(1, 30):
        body = [
            helper.make_node(f"F{k - 1}", ["a"], ["m"], domain="local"),
            helper.make_node(f"F{k - 1}", ["m"], ["b"], domain="local"),
        ]
        functions.append(_function(f"F{k}", body))
    nodes = [helper.make_node("F29", ["x"], ["y"], domain="local")]
    options = {"opsets": [helper.make_opsetid("local", 1)], "functions": functions}
    with pytest.raises(UnreadableError, match="nodes; lipcert reads at most"):
        read_onnx(save(tmp_path / "m.onnx", nodes, **options))


def test_function_that_redefines_a_standard_operator(tmp_path: Path) -> None:
    function = helper.make_function(
        "", "Relu", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    with pytest.raises(UnreadableError, match="redefines"):
        read_onnx(save(tmp_path / "m.onnx", [node("Relu", "x")], functions=[function]))


# --- the reference --------------------------------------------------------------------------------


def test_reference_runs_row_by_row_on_the_original_file(tmp_path: Path) -> None:
    """A softmax over the batch axis tells rows evaluated together from rows evaluated alone."""
    (reference,) = read_onnx(
        save(tmp_path / "m.onnx", [node("Softmax", "x", axis=0)], [], [value("x", ["n", 2])])
    ).references
    assert reference.name == "onnxruntime"
    assert reference.dtype == "float32"
    assert reference.evaluate(np.arange(6.0).reshape(3, 1, 2)).tolist() == [[[1.0, 1.0]]] * 3


def test_a_planted_error_in_the_module_is_seen_by_the_reference(tmp_path: Path) -> None:
    source = read_onnx(save(tmp_path / "m.onnx", [node("Mul", "x", "w")], [constant("w", [2.0, 3.0])]))
    x = np.ones((1, 1, 2))
    good = source.references[0].evaluate(x)[0]
    assert np.array_equal(good, source.module(torch.from_numpy(x[0])).numpy())
    next(source.module.buffers()).mul_(1.001)
    assert not np.allclose(good, source.module(torch.from_numpy(x[0])).numpy(), rtol=1e-6)
