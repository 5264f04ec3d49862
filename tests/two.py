"""The network of which everything is known: relu(W x) with W = diag(1, 2), so L = 2 for the vector, 1 for entry 0, 2 for
entry 1 and sqrt(5) for their difference in l2; everything halves where x is -0.5, and is 0 below."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import lipcert
from lipcert.cli.main import main
from lipcert.load.model import Model
from lipcert.network.graph import Graph


def two(folder: Path, second: float = 2.0) -> Path:
    """The file net.onnx in a folder; `second`: the larger weight."""
    weight = numpy_helper.from_array(np.diag([1.0, second]).astype(np.float32), "W")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y"))
    nodes = [helper.make_node("MatMul", ["x", "W"], ["v"], "linear"), helper.make_node("Relu", ["v"], ["y"], "relu")]
    graph = helper.make_graph(nodes, "two", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def fresh(model: Model) -> Model:
    """The same model, of which nothing was ever asked."""
    graph = model.graph
    nodes = copy.deepcopy(graph.nodes)
    for node in nodes:
        for part in (node.what, *vars(node.what).values()) if hasattr(node.what, "__dict__") else ():
            if isinstance(getattr(part, "memo", None), dict):
                part.memo.clear()
    return Model(Graph(nodes, graph.output, graph.input), model.info, model.warnings, model.assumptions)


def run(*arguments: object) -> int:
    """The command line in this process: its exit status."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("no exit status")


def loaded(folder: Path, **options: object) -> Model:
    return lipcert.load(two(folder), **options)
