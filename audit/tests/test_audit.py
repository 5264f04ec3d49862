"""What is accepted is true, what is false is rejected, what is not known is refused: by constants known by hand."""

from __future__ import annotations

import ast
import json
import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from models import certificate, chain, floats, lmi, node, row, save, seal
from onnx import TensorProto, helper

from lipcert_audit.__main__ import audit, main
from lipcert_audit.certificate import claims as parse
from lipcert_audit.exact import Map, constantly, dominant, positive
from lipcert_audit.network import Refused, Unreadable, load
from lipcert_audit.network import read as read_network
from lipcert_audit.operators import OPERATORS
from lipcert_audit.proofs import Cuts
from lipcert_audit.strict import Rejected

ROOT = Path(__file__).resolve().parents[1]
UP = 1 + 1e-9
DOWN = 1 - 1e-9


def verdict(fields: dict[str, Any], path: Path) -> str:
    """ "accepted", or the message with the place."""
    try:
        audit(*parse(fields), path)
    except (Rejected, Refused) as problem:
        return f"{type(problem).__name__} {problem}"
    return "accepted"


def both(path: Path, proof: dict[str, Any], true: float, *shapes: tuple[int, ...], **more: Any) -> None:
    """Accepted just above the constant, rejected just below. A chain ends in the claim."""
    for claim, wanted in ((true * UP, "accepted"), (true * DOWN, "Rejected")):
        if proof.get("constants"):
            norm = more.get("norm", "2")
            proof = proof | {"constants": [*proof["constants"][:-1], {"node": len(proof["constants"]) - 1, norm: claim}]}
        assert verdict(certificate(path, proof, claim, *shapes, **more), path).startswith(wanted), (claim, wanted)


# Every operator against onnx's own reference: the linear map that is read is what the file computes.

N, C = TensorProto.FLOAT, np.float32
I64 = np.int64
LINEAR: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[int, ...], int]] = {
    "gemm": ([node("Gemm", "x w b", alpha=0.5, transB=1)], {"w": floats(0, 3, 4), "b": floats(1, 3)}, (2, 4), 13),
    "gemm bias": ([node("Gemm", "x w b", beta=0.5)], {"w": floats(0, 4, 3), "b": floats(1, 2, 1)}, (2, 4), 13),
    "gemm left": ([node("Gemm", "w x", transA=1, transB=1)], {"w": floats(0, 4, 3)}, (2, 4), 13),
    "gemm transposed": ([node("Gemm", "x w", transA=1)], {"w": floats(0, 4, 3)}, (4, 2), 13),
    "matmul": ([node("MatMul", "x w")], {"w": floats(0, 4, 3)}, (2, 2, 4), 13),
    "matmul left": ([node("MatMul", "w x")], {"w": floats(0, 3, 4)}, (2, 4, 5), 13),
    "matmul left vector": ([node("MatMul", "w x")], {"w": floats(0, 3, 4)}, (4,), 13),
    "matmul by a vector": ([node("MatMul", "x w")], {"w": floats(0, 4)}, (2, 4), 13),
    "matmul of a vector": ([node("MatMul", "w x")], {"w": floats(0, 4)}, (4, 3), 13),
    "conv": (
        [node("Conv", "x w b", group=2, strides=[2, 1], dilations=[1, 2], pads=[1, 0, 2, 1])],
        {"w": floats(0, 4, 1, 3, 2), "b": floats(1, 4)},
        (1, 2, 6, 5),
        13,
    ),
    "conv same upper": ([node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2])], {"w": floats(0, 2, 3, 2)}, (1, 3, 7), 13),
    "conv same lower": (
        [node("Conv", "x w", auto_pad="SAME_LOWER", kernel_shape=[2])],
        {"w": floats(0, 2, 3, 2)},
        (1, 3, 7),
        13,
    ),
    "conv valid": ([node("Conv", "x w", auto_pad="VALID")], {"w": floats(0, 2, 3, 2)}, (1, 3, 7), 13),
    "conv transpose": (
        [node("ConvTranspose", "x w b", strides=[3, 2], pads=[1, 0, 0, 1], output_padding=[2, 0])],
        {"w": floats(0, 4, 3, 3, 2), "b": floats(1, 3)},
        (1, 4, 3, 2),
        13,
    ),
    "batch norm": (
        [node("BatchNormalization", "x s b m v", epsilon=0.001)],
        {"s": floats(0, 3), "b": floats(1, 3), "m": floats(2, 3), "v": abs(floats(3, 3))},
        (1, 3, 2),
        15,
    ),
    "average pool": ([node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 0, 1, 1])], {}, (1, 2, 4, 3), 13),
    "average pool with pads": (
        [node("AveragePool", "x", kernel_shape=[3], pads=[1, 1], count_include_pad=1)],
        {},
        (1, 2, 5),
        13,
    ),
    "global average pool": ([node("GlobalAveragePool", "x")], {}, (1, 2, 3, 3), 13),
    "reduce mean": ([node("ReduceMean", "x", axes=[-1], keepdims=0)], {}, (2, 3), 13),
    "reduce sum": ([node("ReduceSum", "x a")], {"a": np.array([0], I64)}, (2, 3), 13),
    "add, sub, sum": (
        [node("Add", "x c", "a"), node("Sub", "c a", "b"), node("Sub", "b x", "d"), node("Sum", "d x")],
        {"c": floats(0, 2, 3)},
        (2, 3),
        13,
    ),
    "broadcast": ([node("Add", "x c")], {"c": floats(0, 2, 3)}, (1, 3), 13),
    "mul, div, neg": (
        [node("Mul", "c x", "a"), node("Div", "a c2", "b"), node("Neg", "b")],
        {"c": floats(0, 3), "c2": floats(1, 3)},
        (2, 3),
        13,
    ),
    "moves": (
        [
            node("Transpose", "x", "a", perm=[1, 0, 2]),
            node("Flatten", "a", "b", axis=-1),
            node("Reshape", "b s", "c"),
            node("Unsqueeze", "c u", "d"),
            node("Squeeze", "d u", "e"),
            node("Gather", "e g", "f", axis=1),
            node("Identity", "f"),
        ],
        {"s": np.array([0, 2, -1], I64), "u": np.array([0], I64), "g": np.array([1, 0, 1], I64)},
        (2, 3, 4),
        13,
    ),
    "flatten": ([node("Flatten", "x")], {}, (2, 3, 4), 13),
    "squeeze": ([node("Squeeze", "x")], {}, (2, 1, 3), 11),
    "slice": (
        [node("Slice", "x s e a t")],
        {
            "s": np.array([-1, 0], I64),
            "e": np.array([-(2**31), 9], I64),
            "a": np.array([1, 0], I64),
            "t": np.array([-2, 1], I64),
        },
        (2, 5),
        13,
    ),
    "old slice": ([node("Slice", "x", starts=[1], ends=[3])], {}, (4, 2), 9),
    "pad": ([node("Pad", "x p")], {"p": np.array([0, 1, 1, 0], I64)}, (2, 2), 13),
    "pad with a number": ([node("Pad", "x p v")], {"p": np.array([1, 0, 0, 2], I64), "v": np.array(0.5, C)}, (2, 2), 13),
    "old pad": ([node("Pad", "x", pads=[1, 0, 0, 2], value=0.5)], {}, (2, 2), 10),
    "concat": ([node("Concat", "x c x", axis=1)], {"c": floats(0, 2, 1)}, (2, 3), 13),
    "shapes": (
        [
            node("Shape", "x", "a"),
            node("Cast", "a", "b", to=TensorProto.INT64),
            node("Gather", "b g", "c"),
            node("Concat", "c m", "d", axis=0),
            node("Reshape", "x d"),
        ],
        {"g": np.array([0], I64), "m": np.array([-1], I64)},
        (2, 3, 2),
        13,
    ),
    "constant": (
        [node("Constant", "", "c", value=onnx.numpy_helper.from_array(floats(0, 3))), node("Mul", "x c")],
        {},
        (3,),
        13,
    ),
    "dropout": ([node("Dropout", "x")], {}, (3,), 13),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_are_those_of_onnx(name: str, tmp_path: Path) -> None:
    nodes, constants, shape, opset = LINEAR[name]
    path = save(tmp_path / "m.onnx", nodes, constants, shape, opset=opset)
    model = onnx.load(path)
    run = onnx.reference.ReferenceEvaluator(model)
    zero = run.run(None, {"x": np.zeros(shape, np.float32)})[0]
    units = np.eye(int(np.prod(shape)), dtype=np.float32).reshape(-1, *shape)
    wanted = np.stack([zero.ravel(), *((run.run(None, {"x": e})[0] - zero).ravel() for e in units)], 1)  # of 1, and of x
    (asked,) = parse(certificate(path, chain(1.0), 1.0, shape, zero.shape))[1]
    found = read_network(load(path)[0], asked.question, Cuts(asked), OPERATORS).map.floats()
    assert np.allclose(found, wanted, atol=1e-5)
    assert not np.allclose(found * 1.001, wanted, atol=1e-5)


def test_groups_of_a_transposed_convolution_are_blocks(tmp_path: Path) -> None:
    """Where onnx's reference has no groups: the same kernel with the other blocks zero."""
    weight, whole, found = floats(0, 4, 3, 2), np.zeros((4, 6, 2), C), []
    whole[:2, :3], whole[2:, 3:] = weight[:2], weight[2:]
    for w, group in ((weight, 2), (whole, 1)):
        path = save(tmp_path / "m.onnx", [node("ConvTranspose", "x w", group=group)], {"w": w}, (1, 4, 3))
        (asked,) = parse(certificate(path, chain(1.0), 1.0, (1, 4, 3), (1, 6, 4)))[1]
        found.append(read_network(load(path)[0], asked.question, Cuts(asked), OPERATORS).map.floats())
    assert np.array_equal(*found)
    assert found[0].any()


# Constants known by hand.

A, B = np.array([[3, 0], [0, 1]], C), np.array([[1, 1]], C)


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    """B relu(A x) with L = |B A| = sqrt 10 (all gates open), the product 3 sqrt 2."""
    return save(
        tmp_path / "relu.onnx",
        [node("Gemm", "x a", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r b", transB=1)],
        {"a": A, "b": B},
        (1, 2),
    )


SHAPES = (1, 2), (1, 1)


def test_chain(relu: Path) -> None:
    both(relu, chain(3 * UP, 3 * 2**0.5), 3 * 2**0.5 * UP, *SHAPES)
    assert "constants[0]" in verdict(certificate(relu, chain(3 * DOWN, 9.0), 9.0, *SHAPES), relu)
    assert "claim" in verdict(certificate(relu, chain(3.1, 9.0), 8.0, *SHAPES), relu)
    assert "more signals" in verdict(certificate(relu, chain(3.1), 9.0, *SHAPES), relu)
    assert "2 signals" not in verdict(certificate(relu, chain(3.1, 9.0, 9.0), 9.0, *SHAPES), relu)
    assert "negative" in verdict(certificate(relu, chain(-3.1, 9.0), 9.0, *SHAPES), relu)
    both(relu, chain(3.0, 0.0, norm="inf"), 6.0, *SHAPES, norm="inf")
    both(relu, chain(3.0, 0.0, norm="1"), 3.0, *SHAPES, norm="1")


def test_units_and_functionals(relu: Path) -> None:
    both(relu, chain(6.0, 0.0, norm="inf"), 12.0, *SHAPES, norm="inf", mean=[0.1], std=[0.5])
    both(relu, chain(6.0, 0.0, norm="inf"), 12.0, *SHAPES, norm="inf", mean=None, std=[0.5, 1.0])
    both(relu, chain(3.0, 0.0, norm="inf"), 6.0, *SHAPES, norm="inf", output="0")
    assert "standard" in verdict(certificate(relu, chain(1.0, 1.0), 1.0, *SHAPES, std=[-1.0]), relu)
    assert "not as" not in verdict(certificate(relu, chain(1.0, 1.0), 1.0, *SHAPES, output="1"), relu)


def test_cplip(relu: Path) -> None:
    """relu(v) = v / 2 + w: |B A| / 2 + |B| |A / 2|."""
    true = 10**0.5 / 2 + 1.5 * 2**0.5
    both(relu, chain(1.5 * UP, true, kind="cplip", passed=[0]), true * UP, *SHAPES)


def test_layers_that_do_not_matter(tmp_path: Path) -> None:
    """A layer that nothing reaches has no multipliers; one of slope 1 that is passed has no constant."""
    dead = [node("Mul", "x z", "h"), node("Relu", "h", "r"), node("Relu", "x", "s"), node("Add", "r s")]
    path = save(tmp_path / "d.onnx", dead, {"z": np.zeros(3, C)}, (1, 3))
    both(path, lmi([1.0, 1.0, 1.0]), 1.0, (1, 3), (1, 3))
    path = save(tmp_path / "s.onnx", [node("PRelu", "x s")], {"s": np.ones(1, C)}, (1, 3))
    both(path, chain(0.0, kind="cplip", passed=[0]), 1.0, (1, 3), (1, 3))


def test_entries_are_left_out_by_the_zeros_of_the_file_alone(tmp_path: Path) -> None:
    """Rows that cancel when they are multiplied out still take multipliers, as no checker in floating point can see that they
    do; so does a channel with scale 0, whose factor is rounded."""
    twice, difference = np.array([[1, 0], [1, 0]], C), np.array([[1, -1], [0, 1]], C)
    nodes = [node("Gemm", "x a", "h", transB=1), node("Gemm", "h b", "v", transB=1), node("Relu", "v")]
    path = save(tmp_path / "m.onnx", nodes, {"a": twice, "b": difference}, (1, 2))
    both(path, lmi([1.0, 1.0]), 1.0, (1, 2), (1, 2))
    assert "takes 2, not 1" in verdict(certificate(path, lmi([1.0]), UP, (1, 2), (1, 2)), path)
    more = {"s": np.array([1, 0], C), "b": np.zeros(2, C), "v": np.ones(2, C)}
    nodes = [node("BatchNormalization", "x s b b v", "h", epsilon=0.0), node("Relu", "h")]
    path = save(tmp_path / "b.onnx", nodes, more, (1, 2))
    both(path, lmi([1.0, 1.0]), 1.0, (1, 2), (1, 2))


def test_shares_of_many_sources(tmp_path: Path) -> None:
    """|(x + tanh(x), relu(x))| <= (|x + z|^2 + |w|^2)^(1/2): neither parallel nor orthogonal, 5^(1/2) where all are |x|."""
    nodes = [node("Tanh", "x", "z"), node("Relu", "x", "w"), node("Add", "x z", "s"), node("Concat", "s w", "y", axis=1)]
    path = save(tmp_path / "m.onnx", nodes, {}, (1, 2))
    both(path, chain(UP, UP, 0.0), 5**0.5 * UP, (1, 2), (1, 4))


def test_units_per_channel(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Neg", "x")], {}, (1, 2, 3))
    both(path, chain(0.0), 4.0, (1, 2, 3), (1, 2, 3), std=[0.5, 0.25])
    both(path, chain(0.0), 8.0, (1, 2, 3), (1, 2, 3), std=[0.5, 0.25, 0.125])
    assert "ONNX" not in verdict(certificate(path, chain(8.0), 8.0, (1, 2, 3), (1, 2, 3), std=[0.5]), path)


def test_nonnegative(relu: Path) -> None:
    both(relu, {"kind": "nonnegative"}, 10**0.5, *SHAPES)
    both(relu, {"kind": "nonnegative"}, 4.0, *SHAPES, norm="inf")
    both(relu, {"kind": "nonnegative"}, 3.0, *SHAPES, norm="1")


def test_lmi(relu: Path) -> None:
    """With lambda_i the form is rho |x|^2 + 2 sum lambda (q^2 - q v) - 2 y B q + y^2: rho = 10 for lambda = (2, 2): B'B = 11'
    and Lambda (2 Lambda - 11')^-1 Lambda = [[3, 1], [1, 3]] / 2, so rho is the largest eigenvalue of [[27, 3], [3, 3]] / 2."""
    rho = float(np.linalg.eigvalsh(np.array([[13.5, 1.5], [1.5, 1.5]]))[-1])
    both(relu, lmi([2.0, 2.0]), rho**0.5, *SHAPES)
    both(relu, lmi([2.0], grouping="layer"), rho**0.5, *SHAPES)
    both(relu, lmi([2.0 / rho, 2.0 / rho], last="output"), rho**0.5, *SHAPES)
    both(relu, lmi([2.0, 2.0], grouping="channel"), rho**0.5, *SHAPES)
    assert "multipliers[0]" in verdict(certificate(relu, lmi([2.0]), 9.0, *SHAPES), relu)
    assert "1 layers" in verdict(certificate(relu, lmi([2.0], [2.0]), 9.0, *SHAPES), relu)
    assert "claim" in verdict(certificate(relu, lmi([2.0, 2.0]), 0.0, *SHAPES), relu)
    assert "l2" in verdict(certificate(relu, lmi([2.0, 2.0]), 9.0, *SHAPES, norm="inf"), relu)


def attained(path: Path, shape: tuple[int, ...], norm: Any = 2) -> float:
    """A lower bound of the constant, by difference quotients in float64."""
    model = onnx.load(path)
    run = onnx.reference.ReferenceEvaluator(model)
    rng, best = np.random.default_rng(0), 0.0
    for _ in range(200):
        x, d = rng.standard_normal((2, *shape)).astype(np.float32)
        a, b = (run.run(None, {"x": v})[0].ravel().astype(np.float64) for v in (x, x + d))
        best = max(best, float(np.linalg.norm(a - b, norm) / np.linalg.norm(d.ravel().astype(np.float64), norm)))
    return best


NETS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[int, ...], tuple[int, ...], int]] = {
    "leaky": (
        [node("Gemm", "x a", "h"), node("LeakyRelu", "h", "r", alpha=-0.5), node("Gemm", "r b")],
        {"a": floats(0, 3, 4), "b": floats(1, 4, 2)},
        (1, 3),
        (1, 2),
        4,
    ),
    "prelu": (
        [node("Gemm", "x a", "h"), node("PRelu", "h s", "r"), node("Gemm", "r b")],
        {"a": floats(0, 3, 4), "s": np.array([0.5, 1, -1, 2], C), "b": floats(1, 4, 5)},
        (1, 3),
        (1, 5),
        3,
    ),
    "residual": (
        [
            node("Gemm", "x a", "h"),
            node("Tanh", "h", "r"),
            node("Gemm", "r b", "k"),
            node("Sigmoid", "k", "s"),
            node("Add", "s x"),
        ],
        {"a": floats(0, 3, 4), "b": floats(1, 4, 3)},
        (1, 3),
        (1, 3),
        4,
    ),
    "max pool": (
        [node("Conv", "x w", "h"), node("MaxPool", "h", kernel_shape=[2, 2], pads=[1, 1, 0, 0])],
        {"w": floats(0, 2, 1, 1, 1)},
        (1, 1, 3, 3),
        (1, 2, 3, 3),
        0,
    ),
    "softmax": ([node("Gemm", "x a", "h"), node("Softmax", "h")], {"a": floats(0, 3, 4)}, (1, 3), (1, 4), 1),
    "old softmax": ([node("MatMul", "x a", "h"), node("Softmax", "h")], {"a": floats(0, 3, 4)}, (1, 2, 3), (1, 2, 4), 1),
    "global max pool": ([node("GlobalMaxPool", "x")], {}, (1, 2, 3), (1, 2, 1), 0),
    "concat": ([node("Elu", "x", "a"), node("Abs", "x", "b"), node("Concat", "a b", axis=1)], {}, (1, 3), (1, 6), 3),
    "clip": ([node("Clip", "x lo", "a"), node("HardSwish", "a")], {"lo": np.array(-1, C)}, (1, 3), (1, 3), 3),
    "batch norm": (
        [node("Relu", "x", "r"), node("BatchNormalization", "r s b m v")],
        {"s": floats(0, 2), "b": floats(1, 2), "m": floats(2, 2), "v": abs(floats(3, 2))},
        (1, 2, 3),
        (1, 2, 3),
        6,
    ),
    "dead": (
        [node("Mul", "x z", "h"), node("Relu", "h", "r"), node("Gemm", "r b")],
        {"z": np.array([0, 1, 2], C), "b": np.array([[1], [1], [0]], C)},
        (1, 3),
        (1, 1),
        1,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_no_claim_below_what_is_attained(name: str, tmp_path: Path) -> None:
    """Whatever the multipliers and constants: large claims pass where the proof fits, none below an attained value does."""
    nodes, constants, shape, out, _ = NETS[name]
    path = save(tmp_path / "m.onnx", nodes, constants, shape, opset=11 if name == "old softmax" else 14)
    lower = {"1": attained(path, shape, 1), "2": attained(path, shape), "inf": attained(path, shape, np.inf)}
    n_layers = sum(
        n.op_type in "LeakyRelu PRelu Tanh Sigmoid MaxPool GlobalMaxPool Softmax Elu Abs Clip HardSwish Relu".split()
        for n in nodes
    )
    accepted = 0
    for norm, low in lower.items():
        for claim in (low * 0.999, 50.0, 1e4):
            grown = [claim * 10.0 ** (k - n_layers) if claim > 40 else claim for k in range(n_layers + 1)]
            proofs = [{"kind": "nonnegative"}]
            proofs += [chain(*grown[: n_layers + more], norm=norm) for more in (0, 1)]
            passed = [k for k, n in enumerate(nodes[-n_layers:]) if n.op_type not in ("MaxPool", "GlobalMaxPool", "Softmax")]
            proofs += [chain(*grown[: n_layers + more], norm=norm, kind="cplip", passed=passed[:1]) for more in (0, 1)]
            for proof in proofs:
                said = verdict(certificate(path, proof, claim, shape, out, norm=norm), path)
                assert claim >= low or said != "accepted", (norm, claim, proof)
                accepted += said == "accepted"
    assert accepted >= 3


@pytest.mark.parametrize(
    "name", ["leaky", "prelu", "residual", "max pool", "softmax", "old softmax", "batch norm", "dead", "concat"]
)
def test_matrix_inequalities_of_any_multipliers(name: str, tmp_path: Path) -> None:
    nodes, constants, shape, out, _ = NETS[name]
    path = save(tmp_path / "m.onnx", nodes, constants, shape, opset=11 if name == "old softmax" else 14)
    counts = {
        "leaky": [4],
        "prelu": [3],
        "residual": [4, 3],
        "max pool": [1, 1, 1],
        "softmax": [1],
        "old softmax": [1],
        "batch norm": [2],
        "dead": [1],
        "concat": [3, 3],
    }
    low, rng, accepted = attained(path, shape), np.random.default_rng(0), 0
    grouping = {"max pool": "layer", "batch norm": "channel"}.get(name, "neuron")
    for last in ("input", "output"):
        for _ in range(12):
            scale = 10 ** rng.uniform(-4, 3)
            rows = [scale * 4.0**-k * rng.uniform(0.5, 2, n) for k, n in enumerate(counts[name])]
            for claim in (low * 0.999, 100.0):
                said = verdict(certificate(path, lmi(*rows, last=last, grouping=grouping), claim, shape, out), path)
                assert claim >= low or "claim" in said, said
                accepted += said == "accepted"
    assert accepted >= 1


def test_affine_networks_have_no_multipliers(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Gemm", "x a", transB=1)], {"a": np.array([[3, 4], [0, 0], [0, 0]], C)}, (1, 2))
    both(path, lmi(), 5.0, (1, 2), (1, 3))
    both(path, chain(0.0), 5.0, (1, 2), (1, 3))
    both(path, chain(0.0, norm="1"), 4.0, (1, 2), (1, 3), norm="1", output="0-1")
    still = save(tmp_path / "c.onnx", [node("Constant", "", value=onnx.numpy_helper.from_array(A))], {}, (1, 2))
    for proof in (lmi(), chain(0.0), {"kind": "nonnegative"}):
        assert verdict(certificate(still, proof, 0.0, (1, 2), (2, 2)), still) == "accepted"


def test_large_products_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Map(2, 3, np.array([0, 1, 1]), np.array([0, 1, 2]), np.array([2, 3, 5], dtype=object), 1, 1)
    sparse = a.after(constantly(3, 1))
    monkeypatch.setattr("lipcert_audit.exact.JOIN", 0)
    full = a.after(constantly(3, 1))
    assert np.array_equal(sparse.floats(), full.floats())
    assert full.error >= sparse.error
    assert np.array_equal(sparse.stands(), full.stands())


# The theorem.


def test_matrices_with_an_eigenvalue_below_zero_are_not_accepted() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 5, 30):
        q = rng.integers(-(2**40), 2**40, (n, n)).astype(object)
        gram = q.dot(q.T) * 2**20 // max(n, 1) if n else np.zeros((0, 0), dtype=object)
        eye = np.diag(np.full(n, 1 << 104)).astype(object) if n else gram
        assert positive(gram + eye, 10)
    v = np.array([3, -5, 7], dtype=object)
    flat = np.outer(v, v) * (1 << 96)  # singular: positive semidefinite, no slack
    assert not positive(flat, 1)
    assert not positive(flat - np.diag([1 << 90] * 3).astype(object), 0)
    assert positive(flat + np.diag([1 << 80] * 3).astype(object), 1)
    assert not positive(flat + np.diag([1 << 80] * 3).astype(object), 1 << 81)  # what may be wrong counts


def test_a_perturbed_factor_is_not_accepted() -> None:
    matrix = np.array([[2, 1], [1, 2]], dtype=object) * (1 << 104)
    factor = np.linalg.cholesky(np.array([[2.0, 1.0], [1.0, 2.0]]) - 1e-6 * np.eye(2))
    assert dominant(matrix, factor, 5)
    for wrong in (1e-5, -1e-5):
        assert not dominant(matrix, factor + wrong * np.array([[0.0, 0.0], [1.0, 0.0]]), 5)


# What is not known is refused by name.

RELU = [node("Relu", "x")]


@pytest.mark.parametrize(
    ("nodes", "constants", "options", "reason"),
    [
        ([node("Exp", "x")], {}, {}, "Exp"),
        ([helper.make_node("Relu", ["x"], ["y"], domain="com.me")], {}, {}, "com.me"),
        (RELU, {}, {"opset": 5}, "operator sets"),
        (RELU, {}, {"elem": TensorProto.INT64}, "floats"),
        (RELU, {}, {"shape": (1, 4)}, "shape"),
        (RELU, {"w": np.array([1j])}, {}, "COMPLEX"),
        (RELU, {"w": np.array([np.inf])}, {}, "not finite"),
        ([node("Mul", "x x")], {}, {}, "constant"),
        ([node("Constant", "", "c", value_float=1.0), node("Add", "x c")], {}, {}, "attributes"),
        ([node("Div", "c x")], {"c": floats(0, 3)}, {}, "by a signal"),
        ([node("Div", "x c")], {"c": np.zeros(3, C)}, {}, "ONNX"),
        ([node("Add", "c c", "d"), node("Mul", "x d")], {"c": floats(0, 3)}, {}, "must be a constant"),
        ([node("Relu", "c", "d"), node("Add", "x d")], {"c": floats(0, 3)}, {}, "is a constant"),
        ([node("Cast", "x", to=TensorProto.FLOAT)], {}, {}, "whole"),
        ([node("Reshape", "x s", allowzero=1)], {"s": np.array([0, 3], I64)}, {"opset": 14}, "zero"),
        ([node("Dropout", "x r t")], {"r": np.array(0.5, C), "t": np.array(True)}, {}, "training"),
        ([node("Dropout", "x", is_test=0)], {}, {"opset": 6}, "training"),
        ([node("Pad", "x p", mode="edge")], {"p": np.array([0, 1, 0, 1], I64)}, {}, "mode"),
        ([node("MatMul", "x w")], {"w": floats(0, 4, 2)}, {}, "shape"),
        ([node("Clip", "x a b")], {"a": np.array(1, C), "b": np.array(0, C)}, {}, "empty"),
        ([node("PRelu", "x s")], {"s": floats(0, 2, 3)}, {}, "widen"),
        ([node("ReduceMean", "x")], {}, {}, "all axes"),
        ([helper.make_node("Split", ["x"], ["y", "z"])], {}, {}, "Split"),
        ([helper.make_node("MaxPool", ["x"], ["y", "z"], kernel_shape=[1])], {}, {"shape": (1, 1, 3)}, "outputs"),
        ([node("Softmax", "x"), node("Relu", "y", "z")], {}, {"out": "z"}, "no output"),
    ],
)
def test_refused(nodes: list, constants: dict, options: dict, reason: str, tmp_path: Path) -> None:
    shape = options.pop("shape", (1, 3))
    path = save(tmp_path / "m.onnx", nodes, constants, shape, **options)
    said = verdict(certificate(path, chain(9.0), 9.0, (1, 3) if len(shape) < 3 else shape, (1, 3)), path)
    assert said.startswith("Refused"), said
    assert reason in said


POOLS = [
    (node("MaxPool", "x", kernel_shape=[2], ceil_mode=1), "ceil"),
    (node("MaxPool", "x", kernel_shape=[1], pads=[1, 0]), "without an entry"),
    (node("MaxPool", "x", kernel_shape=[1], storage_order=1), "storage_order"),
    (node("AveragePool", "x", kernel_shape=[2], ceil_mode=1), "ceil"),
    (node("AveragePool", "x", kernel_shape=[2], pads=[-1, 0]), "negative"),
    (node("Conv", "x w", kernel_shape=[3]), "kernel_shape"),
    (node("Conv", "x v"), "channels"),
    (node("Conv", "x w", auto_pad="SOME"), "auto_pad"),
    (node("ConvTranspose", "x w", auto_pad="SAME_UPPER"), "auto_pad"),
    (node("ConvTranspose", "x v"), "channels"),
    (node("BatchNormalization", "x s s s s", training_mode=1), "training"),
    (node("BatchNormalization", "x s s s n"), "not positive"),
]


@pytest.mark.parametrize(("made", "reason"), POOLS)
def test_refused_windows(made: onnx.NodeProto, reason: str, tmp_path: Path) -> None:
    constants = {"w": floats(0, 1, 1, 2), "v": floats(0, 2, 3, 2), "s": np.ones(1, C), "n": -np.ones(1, C)}
    path = save(tmp_path / "m.onnx", [made], constants, (1, 1, 3), opset=14)
    said = verdict(certificate(path, chain(9.0), 9.0, (1, 1, 3), (1, 1, 3)), path)
    assert said.startswith("Refused"), said
    assert reason in said


def test_other_refusals(relu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "output" in verdict(certificate(relu, chain(3.1, 9.0), 9.0, (1, 2), (1, 2)), relu)
    assert "output 7" in verdict(certificate(relu, chain(3.1, 9.0), 9.0, *SHAPES, output="7"), relu)
    soft = save(tmp_path / "s.onnx", [node("Softmax", "x")], {}, (1, 3))
    assert "softmax" in verdict(certificate(soft, {"kind": "nonnegative"}, 9.0, (1, 3), (1, 3)), soft)
    assert "elementwise" in verdict(certificate(soft, chain(9.0, kind="cplip", passed=[0]), 9.0, (1, 3), (1, 3)), soft)
    assert "signals" in verdict(certificate(relu, chain(3.1, 9.0, kind="cplip", passed=[0, 1]), 9.0, *SHAPES), relu)
    twice = onnx.load(relu)
    twice.graph.initializer.append(twice.graph.initializer[0])
    (tmp_path / "t.onnx").write_bytes(twice.SerializeToString())
    with pytest.raises(Unreadable, match="unique"):
        load(tmp_path / "t.onnx")
    fields = certificate(relu, chain(3.1, 9.0), 9.0, *SHAPES)
    for extra in ({"parts": []}, {"fixed": {}}, {"sorts": 1}):
        said = verdict(fields | {"model": fields["model"] | extra}, relu)
        assert said.startswith("Refused")
        assert "several inputs" in said
    monkeypatch.setattr("lipcert_audit.proofs.ENTRIES", 0)
    assert "too many" in verdict(certificate(relu, lmi([2.0, 2.0]), 9.0, *SHAPES), relu)
    assert "too large" in verdict(certificate(relu, chain(3.1, 9.0), 9.0, *SHAPES), relu)


def test_unsorted_files_are_sorted(tmp_path: Path) -> None:
    nodes = [
        node("Neg", "x", "unused"),
        node("Gemm", "r b", transB=1),
        node("Relu", "h", "r"),
        node("Gemm", "x a", "h", transB=1),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"a": A, "b": B}, (1, 2))
    both(path, chain(3 * UP, 0.0), 3 * 2**0.5 * UP, *SHAPES)
    with pytest.raises(Unreadable, match="sorted"):
        load(save(tmp_path / "c.onnx", [node("Add", "x q")], {}, (1, 2)))


# The program itself.


def test_it_is_read_in_one_sitting() -> None:
    """What claims about the whole space go through has at most 1,000 lines, docstrings and blank lines not counted; regions and radii
    take `places.py` and `regions.py` besides. README.md says how many."""
    counted = {}
    for file in (ROOT / "lipcert_audit").glob("*.py"):
        text = file.read_text()
        bodies = [n.body[0] for n in ast.walk(ast.parse(text)) if isinstance(getattr(n, "body", None), list) and n.body]
        said = [
            b
            for b in bodies
            if isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant) and isinstance(b.value.value, str)
        ]
        documented = {k for b in said for k in range(b.lineno, b.end_lineno + 1)}
        counted[file.stem] = sum(bool(line.strip()) and k not in documented for k, line in enumerate(text.splitlines(), 1))
    more = counted.pop("places") + counted.pop("regions")
    lines = sum(counted.values())
    assert lines <= 1000
    assert f"the {lines:,} lines of code in this folder" in (ROOT / "README.md").read_text()
    assert f"{more} more lines" in (ROOT / "README.md").read_text()


# The file of a certificate, and the command line.


def edited(fields: dict[str, Any], *where: Any, value: Any) -> dict[str, Any]:
    out = json.loads(json.dumps(fields))
    inner = out
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    return seal(out)


@pytest.mark.parametrize(
    ("where", "value", "place"),
    [
        (("format",), "x", "format"),
        (("model", "sha256"), "f" * 64, "model.sha256"),
        (("model", "input_name"), 1, "model.input_name"),
        (("model", "input_shape"), [1.5], "model.input_shape"),
        (("model", "std"), 1.0, "model.std"),
        (("model", "std"), [1], "model.std"),
        (("model", "more"), 1, "model"),
        (("scope", "region"), "box", "region"),
        (("scope", "output"), "1-2-3", "scope.output"),
        (("scope", "output"), "01", "scope.output"),
        (("norm", "input"), "3", "norm"),
        (("norm", "input"), "1", "only equal"),
        (("claim",), -1.0, "claim"),
        (("claim",), 1, "claim"),
        (("proof",), {"kind": "tree"}, "value, splits"),
        (("proof",), {"kind": "cells"}, "cells"),
        (("proof",), 3, "proof.kind"),
        (("proof", "last"), "both", "proof.last"),
        (("proof", "multipliers", 0, "count"), 3, "proof.multipliers[0]"),
        (("proof", "multipliers", 0, "float64"), "?", "base64"),
        (("proof", "multipliers", 0), row([0.0, 1.0]), "2^-500"),
        (("proof", "multipliers"), 3, "proof.multipliers"),
        (("model", "std"), [], "standard"),
        (("model", "std"), [1.0, 2.0, 3.0], "standard"),
    ],
)
def test_fields_are_checked(relu: Path, where: tuple, value: Any, place: str) -> None:
    fields = certificate(relu, lmi([2.0, 2.0]), 9.0, *SHAPES)
    assert verdict(fields, relu) == "accepted"
    assert place in verdict(edited(fields, *where, value=value), relu)


def test_a_clip_without_ends_is_no_nonlinearity(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Clip", "x")], {}, (1, 3))
    both(path, chain(0.0), 1.0, (1, 3), (1, 3))


def test_concatenations_are_bounded_together(tmp_path: Path) -> None:
    """|W (tanh(x), x)| <= |W| sqrt(2) |x|, with |W| = 3: shares for parallel ranges show 4.32, for orthogonal ones 4.50."""
    weight = np.array([[-2, -1], [0, 0], [1, 2], [2, -2]], C)
    path = save(
        tmp_path / "m.onnx",
        [node("Tanh", "x", "t"), node("Concat", "t x", "c", axis=1), node("Gemm", "c w")],
        {"w": weight},
        (1, 2),
    )
    both(path, chain(UP, 0.0), 18**0.5 * UP, (1, 2), (1, 2))


def test_several_claims_in_one_file(relu: Path) -> None:
    """Format 3: each is proved, and the place says which one is not."""

    def made(*claims: float, points: Any = ()) -> dict[str, Any]:
        one = certificate(relu, chain(3 * UP, 0.0), 0.0, *SHAPES)
        rows = [{"scope": one["scope"], "claim": c, "proof": chain(3 * UP, c) | {"method": "by hand"}} for c in claims]
        return seal(
            {"format": "lipcert.certificate/3"}
            | {k: one[k] for k in ("model", "norm")}
            | {"claims": rows, "points": list(points)}
        )

    assert verdict(made(4.3, 4.25), relu) == "accepted"
    assert verdict(made(4.3, 4.2), relu).startswith("Rejected claims[1].proof.constants[1]")
    assert "claims: there is none" in verdict(made(), relu)
    assert "points[0]" in verdict(made(4.3, points=[1]), relu)
    assert "claims was changed" not in verdict(made(4.3), relu)
    assert "claims or points was changed" in verdict(made(4.3) | {"claims": made(4.4)["claims"]}, relu)


def test_the_command_line(
    relu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good.cert"
    fields = certificate(relu, lmi([2.0, 2.0]), 9.0, *SHAPES, std=[1.0])
    good.write_text(json.dumps(fields))
    assert main([str(good), str(relu)]) == 0
    said = capsys.readouterr().out
    for word in ("sha256", "units", "l2 -> l2", "the whole input space", "<= 9.0", "accepted"):
        assert word in said
    for text, status, word in (
        (json.dumps(fields | {"claim": 1.0}), 1, "REJECTED   claim"),
        (json.dumps(fields | {"digest": "0"}), 1, "digest"),
        ("{", 1, "not JSON"),
        (json.dumps(fields | {"claim": float("nan")}), 1, "claim: a finite number"),
        ('{"a": 1, "a": 2}', 1, "twice"),
        ("[" * 100_000, 1, "depth"),
        ("[]", 1, "format"),
        (json.dumps(seal(fields | {"proof": {"kind": "cells\x1b"}})), 3, "cells"),
    ):
        (tmp_path / "bad.cert").write_text(text)
        assert main([str(tmp_path / "bad.cert"), str(relu)]) == status, text[:50]
        shown = capsys.readouterr()
        assert word in shown.out + shown.err
        assert "\x1b" not in shown.out + shown.err
    assert main([str(tmp_path / "none.cert"), str(relu)]) == 2
    assert main([str(good), str(tmp_path / "none.onnx")]) == 2
    os.mkfifo(tmp_path / "pipe")
    for pair in ([str(tmp_path / "pipe"), str(relu)], [str(good), str(tmp_path / "pipe")], [str(tmp_path), str(relu)]):
        capsys.readouterr()
        assert main(pair) == 2  # and does not wait for a writer
        assert "regular" in capsys.readouterr().err
    monkeypatch.setattr("lipcert_audit.certificate.MOST", 10)
    assert main([str(good), str(relu)]) == 1
    monkeypatch.setattr("sys.argv", ["lipcert-audit"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("lipcert_audit", run_name="__main__")
    assert main(["--help"]) == 0
