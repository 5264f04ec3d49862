"""What docs/ARCHITECTURE.md promises: a method, a kind of proof, a task and an activation are one file and one row each.

A toy of each is added from outside, and works from end to end without a change anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import lipcert
from lipcert import bound
from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.cli.main import main
from lipcert.load.model import Model
from lipcert.methods import METHODS, Method, Problem
from lipcert.network.affine import Path as LinearPath
from lipcert.network.graph import Graph, Input, Linear, Node, Nonlinear
from lipcert.network.scope import describe
from lipcert.operators.linear import Dense
from lipcert.proofs.kinds import PROOFS, Proof
from lipcert.tasks.task import Session, Task, carry_out
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound, Refusal, Result, Side


class Affine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@dataclass(frozen=True)
class Straight(Method):
    """The norm of a network without nonlinearities."""

    name: str = "straight"
    side: ClassVar[Side] = "upper"

    def refuses(self, problem: Problem) -> Refusal | None:
        bent = problem.graph.nonlinear
        return Refusal(self.name, "upper", "refused", "not affine", problem.graph.nodes[bent[0]].name) if bent else None

    def run(self, problem: Problem) -> Result:
        refusal = self.refuses(problem)
        return refusal or Bound(
            self.name, "upper", "proved", _norm(problem.graph, problem.norm), proof=StraightProof(self.name)
        )


@dataclass(frozen=True)
class StraightProof(Proof):
    kind = "straight"
    trusted = ("norms of linear parts",)

    def prove(self, graph: Graph, norm: Norm) -> float:
        if graph.nonlinear:
            raise CertificateRejected("proof.kind", "the network is not affine")
        return _norm(graph, norm)


def _norm(graph: Graph, norm: Norm) -> float:
    return LinearPath(graph, graph.input, graph.output).norm_upper(norm.input, norm.output)


@pytest.fixture
def affine() -> Model:
    return lipcert.load(Affine(), input_shape=(1, 2))


def test_a_method_and_its_proof(affine: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "straight", Straight())
    monkeypatch.setitem(PROOFS, "straight", StraightProof)  # type: ignore[type-abstract]
    path = tmp_path / "c.json"
    report = bound(affine, methods=["straight"], certificate=path)
    assert report.upper == pytest.approx(3.0)
    assert report.upper >= 3.0
    assert lipcert.verify(path, affine).summary["verdict"] == "accepted"
    fields = json.loads(path.read_text())
    assert fields["proof"] == {"kind": "straight", "method": "straight"}
    path.write_text(json.dumps(fields | {"claim": 2.9}))
    assert lipcert.verify(path, affine).summary["verdict"] == "rejected"


def test_a_method_on_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "straight", Straight())
    moons = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"
    monkeypatch.setattr("sys.argv", ["lipcert", "bound", str(moons), "--method", "straight", "--quiet"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 3
    assert "not affine" in capsys.readouterr().out


@dataclass(eq=False, kw_only=True)
class CountNodes(Task):
    counted: list[str] = field(default_factory=list)

    command = "inspect"

    def steps(self) -> Generator[None]:
        for node in self.model.graph.nodes:
            self.session.say("nodes", len(self.counted), None)
            self.counted.append(node.name)
            yield

    def answer(self) -> dict[str, Any]:
        return {"summary": {"nodes": list(self.counted)}}


def test_a_task(affine: Model) -> None:
    def task() -> CountNodes:
        return CountNodes(affine, Norm(), affine.question("inspect", Norm()), describe(None))

    report = carry_out(task())
    assert len(report.summary["nodes"]) == len(affine.graph.nodes)
    assert report.question is not None
    assert "warnings" in report.to_dict()

    def stop(text: str, done: float | None, total: float | None) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        carry_out(task(), Session(stop))
    assert len(stopped.value.partial_report.summary["nodes"]) == 1  # type: ignore[attr-defined]


def test_an_activation() -> None:
    """One row: every method reads its traits."""
    row = replace(ACTIVATIONS["tanh"], name="toy")
    eye = Dense(torch.tensor([[[2.0]]], dtype=torch.float64), 1, 1, None)
    nodes = (
        Node(Input(), (), 1, (1,), "x"),
        Node(Linear(eye), (0,), 1, (1,), "a"),
        Node(Nonlinear(Pointwise(Elementwise(row, ()), 1)), (1,), 1, (1,), "toy"),
    )
    problem = Problem(Graph(nodes, 2), Norm())
    found = METHODS["product"].run(problem)
    assert isinstance(found, Bound)
    assert found.value == pytest.approx(2.0)
    assert found.value >= 2.0
