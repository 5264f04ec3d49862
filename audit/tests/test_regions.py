"""Trees of cuts and radii: constants and margins known by hand, and an oracle that tries points."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from models import ball, box, chain, floats, node, save, several, tree
from test_audit import UP, verdict

from lipcert_audit.__main__ import main
from lipcert_audit.certificate import claims as parse
from lipcert_audit.exact import stored
from lipcert_audit.network import load
from lipcert_audit.network import read as read_network
from lipcert_audit.operators import OPERATORS
from lipcert_audit.regions import Hinges, small
from lipcert_audit.regions import box as start

C = np.float32
A, B = np.array([[3, 0], [0, 1]], C), np.array([[1, 1]], C)


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    """relu(3 x_1 - 3) + relu(x_2): where x_1 < 1 the first neuron does nothing."""
    nodes = [node("Gemm", "x a c", "v", transB=1), node("Relu", "v", "z"), node("Gemm", "z b", transB=1)]
    return save(tmp_path / "relu.onnx", nodes, {"a": A, "b": B, "c": np.array([-3, 0], C)}, (1, 2))


def said(
    path: Path, proof: dict[str, Any], region: Any, claim: float, norm: str = "2", out: Any = (1, 1), inputs: Any = (1, 2)
) -> str:
    return verdict(
        several(path, [{"claim": claim, "region": region, "proof": proof}], shape=inputs, out_shape=out, norm=norm), path
    )


@pytest.mark.parametrize(
    ("region", "norm", "splits", "true"),
    [
        (box([-1.0, -1.0], [0.5, 2.0]), "2", [2, 0, 0], 1.0),  # the first neuron sleeps
        (box([0.0, 1.0], [2.0, 2.0]), "2", [1, 0, 0], 10**0.5),
        (ball([1.0, 0.0], 0.5), "2", [1, 2, 0, 0, -2, 0, 0], 10**0.5),
        (ball([1.0, 0.0], 0.5), "inf", [-2, 1, 0, 0, 1, 0, 0], 4.0),
        (ball([1.0, 0.0], 0.5), "1", [1, 0, 0], 3.0),  # the second neuron is open in both leaves, and does not matter
        (box([0.0, 1.0], [0.5, 1.0]), "2", [0], 0.0),  # one entry moves
        (box([0.5, 1.0], [0.5, 1.0]), "2", [0], 0.0),  # none does
        (box([0.0, 0.0], [1.0, 1.0]), "2", [0], 1.0),  # touches both
    ],
)
def test_trees_by_hand(relu: Path, region: Any, norm: str, splits: list[int], true: float) -> None:
    assert said(relu, tree(true * UP, *splits), region, true * UP, norm) == "accepted"
    if true:
        assert said(relu, tree(true * 0.999, *splits), region, true * 0.999, norm).startswith("Rejected")
    assert "not above" in said(relu, tree(true + 1, *splits), region, true + 0.5, norm)


def test_what_is_no_tree_of_this_region(relu: Path) -> None:
    square = ball([1.0, 0.0], 0.5)
    for splits, claim, place in (
        ([1, 0], 3.163, "proof.splits: the tree is not whole"),
        ([1, 0, 0, 0], 3.163, "proof.splits[3]"),
        ([], 3.163, "not whole"),
        ([99, 0, 0], 3.163, "proof.splits[0]: there is no such hinge"),
        ([0], 3.15, "proof.splits[0]: 3.15"),
    ):
        assert place in said(relu, tree(claim, *splits), square, claim), splits
    assert said(relu, tree(3.163, 2, 1, 0, 0, 1, 0, 0), box([5.0, 1.0], [6.0, 2.0]), 3.163) == "accepted"  # halves of nothing
    assert "a tree is about a region" in said(relu, tree(9.0, 0), "global", 9.0)
    assert "3 numbers for 2 inputs" in said(relu, tree(9.0, 0), ball([0.0] * 3, 1.0), 9.0)
    assert "empty region" in said(relu, tree(9.0, 0), box([1.0, 1.0], [0.0, 2.0]), 9.0)
    assert "Refused" in said(relu, tree(9.0, 0), ball([0.0, 0.0], 1.0, "2"), 9.0)
    for region, place in (
        (box([0.0], [1.0, 2.0]), "of one length"),
        (box([0.0], [1]), "scope.region.upper[0]"),  # type: ignore[list-item]
        (ball([0.0, 0.0], -1.0), "radius"),
        ({"kind": "disc"}, "kind, lower, upper"),
    ):
        assert place in said(relu, tree(9.0, 0), region, 9.0)
    assert said(relu, chain(3 * UP, 4.3), square, 4.3) == "accepted"  # of the whole space, so of the region


def test_leaves_are_cut_where_their_bound_takes_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """relu(x) - relu(-x) = x: with both hinges open the derivative is known to be in [0, 2]."""
    nodes = [node("Neg", "x", "n"), node("Relu", "x", "a"), node("Relu", "n", "b"), node("Sub", "a b", "y")]
    path, region = save(tmp_path / "m.onnx", nodes, {}, (1, 1)), box([-1.0], [1.0])
    for splits in ([0], [1, 0, 0], [-2, 0, 0], [1, 2, 0, 0, 2, 0, 0]):
        assert said(path, tree(UP, *splits), region, UP, inputs=(1, 1)) == "accepted"
        assert said(path, tree(0.999, *splits), region, 0.999, inputs=(1, 1)).startswith("Rejected")
    monkeypatch.setattr("lipcert_audit.regions.holds.__defaults__", (0,))
    assert said(path, tree(UP, 1, 0, 0), region, UP, inputs=(1, 1)) == "accepted"
    assert "does not follow" in said(path, tree(UP, 0), region, UP, inputs=(1, 1))


def test_only_hinges_and_few_inputs(tmp_path: Path) -> None:
    path = save(tmp_path / "t.onnx", [node("Tanh", "x", "y")], {}, (1, 2))
    assert "Refused" in said(path, tree(9.0, 0), ball([0.0, 0.0], 1.0), 9.0, out=(1, 2))
    path = save(tmp_path / "w.onnx", [node("Relu", "x", "y")], {}, (1, 13))
    assert "13 inputs move" in said(path, tree(9.0, 0), ball([0.0] * 13, 1.0), 9.0, out=(1, 13), inputs=(1, 13))
    path = save(tmp_path / "l.onnx", [node("LeakyRelu", "x", "y", alpha=1.5)], {}, (1, 1))
    assert "Refused" in said(path, tree(9.0, 0), ball([0.0], 1.0), 9.0, out=(1, 1), inputs=(1, 1))


BENT = {  # nodes from x (1, 2) to y (1, 3), constants
    "relu": ([node("Gemm", "x a c", "v"), node("Relu", "v", "z"), node("Gemm", "z b d", "y")], {}),
    "leaky": ([node("Gemm", "x a c", "v"), node("LeakyRelu", "v", "z", alpha=-0.5), node("Gemm", "z b d", "y")], {}),
    "prelu": ([node("Gemm", "x a c", "v"), node("PRelu", "v s", "z"), node("Gemm", "z b d", "y")], {"s": floats(5, 4) / 4}),
    "norm": (
        [
            node("Gemm", "x a c", "v"),
            node("BatchNormalization", "v p c q r", "n"),
            node("Abs", "n", "z"),
            node("Gemm", "z b d", "y"),
        ],
        {"p": floats(6, 4), "q": floats(7, 4), "r": abs(floats(8, 4))},
    ),
    "deep": (
        [
            node("Gemm", "x a c", "v"),
            node("Abs", "v", "z"),
            node("Gemm", "z m c", "w"),
            node("Relu", "w", "u"),
            node("Add", "u z", "r"),
            node("Gemm", "r b d", "y"),
        ],
        {"m": floats(9, 4, 4)},
    ),
    "pool": (
        [
            node("Gemm", "x a c", "v"),
            node("Reshape", "v four", "i"),
            node("MaxPool", "i", "z", kernel_shape=[2]),
            node("Flatten", "z", "y"),
        ],
        {"four": np.array([1, 1, 4])},
    ),
}


@pytest.mark.parametrize("name", BENT)
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_enclosures_hold_at_points(name: str, norm: str, tmp_path: Path) -> None:
    """Values and differences of the file itself lie in what is said of cells, cut at random; the largest quotient is no claim."""
    nodes, more = BENT[name]
    constants = {"a": floats(0, 2, 4), "c": floats(1, 4), "b": floats(2, 4, 3), "d": floats(3, 3)} | more
    path = save(tmp_path / "m.onnx", nodes, constants, (1, 2), opset=15)
    run = onnx.reference.ReferenceEvaluator(onnx.load(path))
    about = {"shape": (1, 2), "out_shape": (1, 3), "norm": norm}
    made = several(path, [{"claim": 9.0, "region": ball([0.25, -0.5], 1.0), "proof": tree(9.0, 0)}], **about)
    (asked,) = parse(made)[1]
    hinges = Hinges()
    hinges.matrices(read_network(load(path)[0], asked.question, hinges, OPERATORS))
    cell, *x = start(*asked.region[:3], 2, "")
    rng, most = np.random.default_rng(0), 0.0
    points = [np.array([0.25, -0.5]) + rng.uniform(-1, 1, 2) for _ in range(200)]
    values = [run.run(None, {"x": p.astype(C)[None]})[0].ravel() for p in points]
    *_, (value, off, unit) = hinges.forms(cell, *x)
    value, off = (value / 2.0**unit).astype(float), (off / 2.0**unit).astype(float)
    for p, v in zip(points, values, strict=True):
        assert (abs(value[:, :3] @ [1, *p] - v) <= off[:, 0] + 1e-5).all()
    for (p, v), (q, w) in itertools.pairwise(zip(points, values, strict=True)):
        slope = value[:, 3:] @ (p - q)
        assert (abs(slope - (v - w)) <= off[:, 3:] @ abs(p - q) + 1e-5).all()
        order = {"1": 1, "2": 2, "inf": np.inf}[norm]
        most = max(most, float(np.linalg.norm(v - w, order) / np.linalg.norm(p - q, order)))
    for splits in ([0], [1, 0, 0], [-1, 2, 0, 0, 3, 0, 0]):
        false = [{"claim": most * 0.999, "region": ball([0.25, -0.5], 1.0), "proof": tree(most * 0.999, *splits)}]
        assert verdict(several(path, false, **about), path).startswith("Rejected")
    full = whole_tree(hinges, cell, x)
    loose = [{"claim": 60.0, "region": ball([0.25, -0.5], 1.0), "proof": tree(60.0, *full)}]
    assert verdict(several(path, loose, **about), path) == "accepted"


def whole_tree(hinges: Hinges, cell: Any, x: Any) -> list[int]:
    """Cuts until no hinge of the first layer is open."""
    value, off, _ = next(iter(hinges.forms(cell, *x)))
    at = value[:, :3] @ cell.corners.T
    for k, row in enumerate(at):
        if row.min() < -off[k, 0] * cell.corners[:, 0].max() and row.max() > off[k, 0] * cell.corners[:, 0].max():
            if any(abs(s) == k + 1 for s in cell.signs):
                continue
            halves = [cell.half(row, k + 1), cell.half(-row, -k - 1)]
            return [k + 1, *(c for half in halves for c in ([0] if half is None else whole_tree(hinges, half, x)))]
    return [0]


def test_matrices_that_are_not_known_exactly() -> None:
    """[[1, 0], [0, 1]] within [[0, 1], [1, 0]]: two matrices of norm 1 each, whose sum has norm 2 (all ones)."""
    one, other = (stored(np.array(m, dtype=object), 0) for m in ([[1, 0], [0, 1]], [[0, 1], [1, 0]]))
    assert small(one, 2.001, "2", other)
    assert not small(one, 1.999, "2", other)
    assert not small(one, 0.5, "2", other)
    assert not small(one, 2.001, "inf", other)  # left to the sum of absolute values


# Radii.


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """(3 x_1, x_1 + relu(x_2), 0): at (1, 1) it is (3, 2, 0)."""
    nodes = [node("Relu", "x", "z"), node("Gemm", "x a", "v"), node("Gemm", "z b", "w"), node("Add", "v w", "y")]
    return save(
        tmp_path / "c.onnx", nodes, {"a": np.array([[3, 1, 0], [0, 0, 0]], C), "b": np.array([[0, 0, 0], [0, 1, 0]], C)}, (1, 2)
    )


def radii(path: Path, points: Any, claims: dict[str, float], norm: str = "2", out: Any = (1, 3)) -> str:
    proofs = [{"claim": c, "output": name, "proof": {"kind": "nonnegative"}} for name, c in claims.items()]
    return verdict(several(path, proofs, points, shape=(1, 2), out_shape=out, norm=norm), path)


@pytest.mark.parametrize(
    ("claims", "norm", "radius"),
    [
        ({"0-1": 5**0.5 * UP, "2-0": 3 * UP}, "2", 5**-0.5),
        ({"0": 3 * UP, "1": 2**0.5 * UP, "2": 0.0}, "2", 1 / (3 + 2**0.5)),
        ({"vector": 11**0.5}, "2", 22**-0.5),
        ({"vector": 4.0}, "1", 1 / 4),
        ({"vector": 3.0}, "inf", 1 / 6),
    ],
)
def test_radii_by_hand(classes: Path, claims: dict[str, float], norm: str, radius: float) -> None:
    for factor, wanted in ((0.999, "accepted"), (1.001, "Rejected points[0].radius")):
        assert radii(classes, [([1.0, 1.0], 0, radius * factor)], claims, norm).startswith(wanted)
    assert radii(classes, [([1.0, 1.0], 1, 0.0)], claims, norm).startswith("Rejected points[0].radius")
    assert radii(classes, [([1.0, 1.0], 3, 0.0)], claims, norm).startswith("Rejected points[0].class")
    assert radii(classes, [([1.0], 0, 0.0)], claims, norm).startswith("Rejected points[0].x")


def test_radii_need_constants_of_the_whole_space(classes: Path) -> None:
    assert radii(classes, [([1.0, 1.0], 0, 0.0)], {"1-2": 9.0}).startswith("Rejected points[0].radius")
    made = [{"claim": 9.0, "region": ball([1.0, 1.0], 0.5), "proof": tree(9.0, 0)}]
    fields = several(classes, made, [([1.0, 1.0], 0, 0.0)], shape=(1, 2), out_shape=(1, 3))
    assert verdict(fields, classes).startswith("Rejected points[0].radius")
    fields["points"][0]["x"]["float64"] = "AAAAAAAA8H8AAAAAAAAAAA=="  # infinity and zero
    assert "points[0].x" in verdict(several(classes, made, [([np.inf, 0.0], 0, 0.0)], shape=(1, 2), out_shape=(1, 3)), classes)


def test_the_sign_of_one_output(relu: Path) -> None:
    """relu(3 x_1 - 3) + relu(x_2): 4 at (2, 1), and 0 at (0, 0), which is no class at all; minus that with the claim of an output."""
    for factor, wanted in ((0.999, "accepted"), (1.001, "Rejected points[0].radius")):
        for name in ("0", "vector"):
            assert radii(relu, [([2.0, 1.0], 1, factor * 4 / 3.1623)], {name: 3.1623}, out=(1, 1)).startswith(wanted)
    assert radii(relu, [([2.0, 1.0], 0, 0.0)], {"0": 3.1623}, out=(1, 1)).startswith("Rejected points[0].radius")
    assert radii(relu, [([0.0, 0.0], 1, 0.0)], {"0": 3.1623}, out=(1, 1)).startswith("Rejected points[0].radius")
    assert radii(relu, [([2.0, 1.0], 2, 0.0)], {"0": 3.1623}, out=(1, 1)).startswith("Rejected points[0].class")


def test_the_command_line_says_regions_and_points(relu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    region = box([-1.0, -1.0], [0.5, 2.0])
    claims = [{"claim": 1.5, "region": region, "proof": tree(1.5, 2, 0, 0)}, {"claim": 3.5, "proof": chain(3.1, 3.5)}]
    fields = several(relu, claims, [([2.0, 1.0], 1, 0.5)], shape=(1, 2), out_shape=(1, 1))
    (tmp_path / "a.cert").write_text(json.dumps(fields))
    assert main([str(tmp_path / "a.cert"), str(relu)]) == 1  # 3.5 is less than the product
    assert "claims[1].proof.constants[1]" in capsys.readouterr().out
    claims[1] = {"claim": 4.5, "proof": chain(3.1, 4.5)}
    fields = several(relu, claims, [([2.0, 1.0], 1, 0.5)], shape=(1, 2), out_shape=(1, 1))
    (tmp_path / "a.cert").write_text(json.dumps(fields))
    assert main([str(tmp_path / "a.cert"), str(relu)]) == 0
    said = capsys.readouterr().out
    for word in ("'lower': [-1.0, -1.0]", "the whole input space", "class 1", "0.5", "points[0]", "accepted"):
        assert word in said
