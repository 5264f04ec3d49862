"""Random constant subgraphs in float64 against onnx's reference evaluator: 60 here, 500 with LIPCERT_FULL=1."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from thorough import FULL

import lipcert
from lipcert.network.graph import Enclosure

SHAPE = (3, 4)
IN_ONE_FILE = 20
FILES = 25 if FULL else 3


class Writer:
    """Nodes and constants of a graph of float64 tensors; every method returns the name of what it made."""

    def __init__(self, seed: int):
        self.dice, self.draw = random.Random(seed), np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.draw.standard_normal(shape))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def __call__(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name


def _through(kind: int) -> Callable[[Writer, str], str]:
    return lambda g, v: g("Cast", g("Cast", g("Clip", v, g.constant(np.array(-1e4)), g.constant(np.array(1e4))), to=kind), to=TensorProto.DOUBLE)  # fmt: skip


def _halves(g: Writer, v: str) -> str:
    left = g("Slice", v, g.ints(0), g.ints(2), g.ints(1))
    right = g("Slice", v, g.ints(2), g.ints(4), g.ints(1))
    return g("Concat", right, left, axis=1)


# One row of operators each, from a (3, 4) tensor to another. Not Erf, which onnx's reference rounds to float32.
STEPS: dict[str, Callable[[Writer, str], str]] = {
    **{op: (lambda g, v, op=op: g(op, v)) for op in "Abs Neg Sigmoid Tanh Sin Cos Atan Relu Softsign Sign Floor Ceil Round".split()},
    **{op: (lambda g, v, op=op: g(op, v, g.weight(*SHAPE))) for op in ("Add", "Sub", "Mul", "Min", "Max")},
    **{f"{op} row": (lambda g, v, op=op: g(op, v, g.weight(4))) for op in ("Add", "Mul")},
    "Exp": lambda g, v: g("Exp", g("Tanh", v)),
    "Sqrt": lambda g, v: g("Sqrt", g("Abs", v)),
    "Log": lambda g, v: g("Log", g("Add", g("Abs", v), g.constant(np.array(1.0)))),
    "Div": lambda g, v: g("Div", v, g("Add", g("Abs", g.weight(*SHAPE)), g.constant(np.array(0.5)))),
    "Reciprocal": lambda g, v: g("Reciprocal", g("Add", g("Abs", v), g.constant(np.array(0.5)))),
    "Pow": lambda g, v: g("Pow", v, g.constant(np.array(float(g.dice.choice((2, 3)))))),
    "Mod": lambda g, v: g("Mod", g.weight(*SHAPE), g.constant(np.array(0.3)), fmod=1),
    "LeakyRelu": lambda g, v: g("LeakyRelu", v, alpha=0.25),
    "Elu": lambda g, v: g("Elu", v, alpha=0.5),
    "Softplus": lambda g, v: g("Softplus", v),
    "MatMul": lambda g, v: g("MatMul", v, g.weight(4, 4)),
    "MatMul left": lambda g, v: g("MatMul", g.weight(3, 3), v),
    "Gemm": lambda g, v: g("Gemm", v, g.weight(4, 4), g.weight(4), transB=1, alpha=0.5, beta=2.0),
    "Softmax": lambda g, v: g("Softmax", v, axis=g.dice.choice((0, 1, -1))),
    "LogSoftmax": lambda g, v: g("LogSoftmax", v, axis=1),
    **{op: (lambda g, v, op=op: g("Add", v, g(op, v, keepdims=1, axes=[g.dice.choice((0, 1))]))) for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")},
    "ReduceSum": lambda g, v: g("Sub", v, g("ReduceSum", v, g.ints(1), keepdims=1)),
    "ReduceProd": lambda g, v: g("Mul", v, g("ReduceProd", g("Tanh", v), keepdims=1, axes=[1])),
    "Transpose": lambda g, v: g("Reshape", g("Transpose", v), g.ints(3, 4)),
    "Reshape": lambda g, v: g("Reshape", g("Reshape", v, g.ints(2, -1)), g.ints(3, 4)),
    "Slice": _halves,
    "Gather": lambda g, v: g("Gather", v, g.ints(*g.dice.choices(range(-3, 3), k=3)), axis=0),
    "CumSum": lambda g, v: g("CumSum", v, g.constant(np.array(1))),
    "Pad": lambda g, v: g("Slice", g("Pad", v, g.ints(1, 0, 0, 1), g.constant(np.array(0.5))), g.ints(0, 1), g.ints(3, 5), g.ints(0, 1)),
    "Tile": lambda g, v: g("Slice", g("Tile", v, g.ints(2, 1)), g.ints(1), g.ints(4), g.ints(0)),
    "Expand": lambda g, v: g("Mul", v, g("Expand", g.weight(3, 1), g.ints(3, 4))),
    "Where": lambda g, v: g("Where", g("Greater", v, g.weight(*SHAPE)), v, g.weight(*SHAPE)),
    "Clip": lambda g, v: g("Clip", v, g.constant(np.array(-0.7)), g.constant(np.array(0.9))),
    "Trilu": lambda g, v: g("Trilu", v, upper=1),
    "Einsum": lambda g, v: g("Einsum", v, g.weight(4, 4), equation="ij,kj->ik"),
    "Sum": lambda g, v: g("Sum", v, g.weight(*SHAPE), g.weight(4)),
    "float32": _through(TensorProto.FLOAT),
    "float16": _through(TensorProto.FLOAT16),
    "to integers and back": lambda g, v: g("Cast", g("Cast", g("Mul", v, g.constant(np.array(3.0))), to=TensorProto.INT64), to=TensorProto.DOUBLE),
}  # fmt: skip


def written(seed: int, path: Path) -> onnx.ModelProto:
    """y = x (one number) times the entries of `IN_ONE_FILE` constants, each computed by three to six random steps."""
    g, made = Writer(seed), []
    for _ in range(IN_ONE_FILE):
        value = g.weight(*SHAPE)
        for step in g.dice.choices(list(STEPS), k=g.dice.randint(3, 6)):
            value = STEPS[step](g, value)
        made.append(g("Reshape", value, g.ints(12)))
    y = g("Mul", "x", g("Concat", *made, axis=0))
    values = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, s) for n, s in (("x", [1]), (y, None))]
    graph = helper.make_graph(g.nodes, "g", values[:1], values[1:], g.constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path)
    return proto


def misses(found: Enclosure, true: np.ndarray) -> int:
    """Entries of the reference outside the enclosure, beyond the rounding of the reference itself."""
    slack = torch.from_numpy(1e-12 * (1 + np.abs(true)))
    value = torch.from_numpy(true)
    inside = (found.lower.reshape(-1) - slack <= value) & (value <= found.upper.reshape(-1) + slack)
    return int((~inside).sum())


@pytest.mark.parametrize("seed", range(FILES))
def test_random_constant_subgraphs(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = written(seed, tmp_path / "constants.onnx")
    with np.errstate(all="ignore"):
        true = np.asarray(ReferenceEvaluator(proto).run(None, {"x": np.ones(1)})[0]).reshape(-1)
    assert np.isfinite(true).all()
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)  # which has no float64 kernels for half of them
    graph = lipcert.load(tmp_path / "constants.onnx").graph
    one = torch.ones(1, 1, dtype=torch.float64)
    found = graph.enclose(Enclosure(one))
    assert misses(found, true) == 0
    width = (found.upper - found.lower).reshape(-1) / (1 + torch.from_numpy(np.abs(true)))
    assert (
        float((width < 1e-11).double().mean()) > 0.9
    )  # a cast to 16 bits near the middle of two numbers is wide, and a product spreads it
    planted = true.copy()
    planted[seed] += 1e-9 * (1 + abs(planted[seed])) + float(width[seed]) * (1 + abs(planted[seed]))
    assert misses(found, planted) == 1
