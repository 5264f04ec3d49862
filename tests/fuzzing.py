"""What a mutant may do: be refused in one line, or be a model of which everything that is promised holds."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import torch
from mutants import mutant
from torch import nn

from lipcert.load.model import load
from lipcert.tasks.bound import bound
from lipcert.terms.errors import LipcertError

SHAPE = (1, 4)
SECONDS = 120.0  # for one mutant; a file's own code may take 60


class Broken(Exception):
    def __init__(self, why: str, mutant: bytes):
        super().__init__(why)
        self.mutant = mutant


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)) + 1.0)


def seeds(folder: Path) -> dict[str, bytes]:
    """One small honest file of each kind."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    torch.manual_seed(0)
    net = Net().eval()
    torch.jit.script(net).save(str(folder / "seed.pt"))
    torch.export.save(torch.export.export(net, (torch.zeros(SHAPE),)), folder / "seed.pt2")
    weights = [
        numpy_helper.from_array(t.detach().numpy(), name)
        for name, t in (("w", net.first.weight), ("b", net.first.bias))
    ]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1), helper.make_node("Relu", ["h"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 4), ("y", 6))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "seed.onnx")
    return {kind: (folder / f"seed.{kind}").read_bytes() for kind in ("pt", "pt2", "onnx")}


def judge(kind: str, honest: bytes, draw: Random, folder: Path) -> str:
    """ "refused" or "read". Raises Broken."""
    mark, path = folder / "mark", folder / f"mutant.{kind}"
    data = mutant(kind, honest, draw, str(mark))
    path.write_bytes(data)
    before, here = dict(os.environ), sorted(os.listdir(folder))
    begun = time.monotonic()
    answers = [_answer(path, data) for _ in range(2 if draw.random() < 0.2 else 1)]
    if isinstance(answers[0], tuple) and len(answers) == 1:
        answers.append(_answer(path, data))
    if mark.exists() or sorted(os.listdir(folder)) != here or dict(os.environ) != before:
        raise Broken("it left a trace", data)
    if time.monotonic() - begun > SECONDS * len(answers):
        raise Broken("it took too long", data)
    if len(set(map(repr, answers))) != 1:
        raise Broken(f"two runs differ: {answers}", data)
    return "read" if isinstance(answers[0], tuple) else "refused"


def _answer(path: Path, data: bytes) -> tuple[object, ...] | str:
    try:
        model = load(path, input_shape=SHAPE)
        report = bound(model, methods=["product", "sampled"])
    except LipcertError as problem:
        if "\n" in str(problem) or not str(problem).isprintable():
            raise Broken(f"a message that is no line: {str(problem)!r}", data) from problem
        return str(problem)
    except Exception as problem:
        raise Broken(f"{type(problem).__name__}: {problem}", data) from problem
    if report.upper is not None and report.lower is not None and not report.lower <= report.upper:
        raise Broken(f"lower {report.lower} > upper {report.upper}", data)
    if not all(record["points"] or record["note"] for record in model.info["parity"]):
        raise Broken("read without parity", data)
    return report.upper, report.lower, model.info["graph"]
