"""What a method cannot do is said in the right word, and the others go on: no time, no memory, NaN; gradients that are NaN."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import lipcert
from lipcert import bound, radius
from lipcert import local_grid as grid
from lipcert.load.model import Model
from lipcert.methods import METHODS, Problem
from lipcert.methods.layers import layer_row, layers_of
from lipcert.methods.run import run
from lipcert.report.report import Report
from lipcert.sampling.directions import no_derivative
from lipcert.sampling.jacobian import norms_at
from lipcert.terms.query import Box, Norm
from lipcert.terms.result import Bound, NotABound, Refusal, Result, Side

MOONS = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"
UPPER = Bound("product", "upper", "proved", 3.0)


@pytest.fixture(scope="module")
def moons() -> Model:
    return lipcert.load(MOONS)


@dataclass(frozen=True)
class Fails:
    """A method whose arithmetic fails as `error` says."""

    error: Exception
    name: str = "fails"
    side: ClassVar[Side] = "upper"

    def refuses(self, problem: Problem) -> Refusal | None:
        return None

    def run(self, problem: Problem) -> Result:
        raise self.error


def linalg() -> Exception:
    with pytest.raises(torch.linalg.LinAlgError) as found:
        torch.linalg.cholesky(torch.full((2, 2), -1.0))
    return found.value


def conversion() -> Exception:
    with pytest.raises(ValueError, match="NaN") as found:
        int(math.nan)
    return found.value


FAILURES = {
    "memory": (MemoryError(), "out of memory"),
    "memory of numpy": (np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(float)), "out of memory"),
    "memory of torch": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 7 TiB\nmore"),
        "out of memory",
    ),
    "memory of a GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
    "no bound": (NotABound("cplip: nan is not a bound"), "left the numbers"),
    "linear algebra": (linalg(), "linear algebra"),
    "overflow": (OverflowError("int too large"), "NaN or infinity"),
    "division": (ZeroDivisionError("division by zero"), "NaN or infinity"),
    "conversion": (conversion(), "NaN or infinity"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_method_that_fails_is_refused(name: str, moons: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    error, says = FAILURES[name]
    monkeypatch.setitem(METHODS, "cplip", Fails(error, "cplip"))
    report = bound(moons, methods=["product", "cplip"])
    good, bad = report.results
    assert isinstance(good, Bound)
    assert isinstance(bad, Refusal)
    assert (bad.method, bad.status) == ("cplip", "refused")
    assert says in bad.reason
    assert "\n" not in bad.reason
    assert report.status == "bounded"


def test_errors_of_ours_are_not_refusals(moons: Model) -> None:
    for error in (ValueError("shapes"), RuntimeError("size mismatch"), KeyError("k"), AssertionError()):
        with pytest.raises(type(error)):
            run(Fails(error), Problem(moons.graph, Norm()))


def test_nan_is_not_a_bound() -> None:
    for value in (math.nan, math.inf, -1.0):
        with pytest.raises(NotABound):
            Bound("x", "upper", "proved", value)


def test_a_layer_without_memory(moons: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> float:
        raise MemoryError

    layer = next(iter(layers_of(moons.graph)))
    monkeypatch.setattr(type(layer.path), "norm_upper", fails)
    row = layer_row(layer, Problem(moons.graph, Norm()))
    assert (row["status"], row["upper"]) == ("refused", None)
    assert "out of memory" in row["reason"]


# Time


def refusal(status: str) -> Refusal:
    return Refusal("m", "upper", status, "why")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([refusal("timeout")], "timeout"),
        ([refusal("refused"), refusal("timeout")], "timeout"),
        ([refusal("timeout"), refusal("unbounded")], "unbounded"),
        ([refusal("unbounded"), UPPER], "bounded"),
        ([refusal("refused")], "refused"),
    ],
)
def test_precedence_of_statuses(results: list[Result], status: str) -> None:
    report = Report("bound", {"path": "m"}, results=results)
    assert report.status == status
    assert report.exit_code == (0 if status == "bounded" else 3)
    assert report.to_dict()["status"] == status


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.side == "upper"])
def test_no_time_is_said_by_every_method(name: str, moons: Model) -> None:
    region = Box(torch.full((1, 2), -1.0), torch.full((1, 2), 1.0))
    found = bound(moons, methods=[name], region=region, budget=0.0)
    assert (found.status, found.results[0].status) == ("timeout", "timeout")  # type: ignore[union-attr]
    assert "--budget" in found.results[0].reason  # type: ignore[union-attr]


def test_numbers_that_end_early_are_not_a_lack_of_time() -> None:
    """Weights near the end of float64: the solver stops in its first sweep, with all the time in the world."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        for weights in module.parameters():
            weights.mul_(1e152)
    model = lipcert.load(module, input_shape=(1, 2))
    for result in bound(model, methods=["lipsdp", "lipsdp-layer", "product"]).results:
        assert isinstance(result, Bound) or result.status == "refused", result


def test_a_partial_grid_is_no_refusal(moons: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(torch.full((1, 2), -1.0), torch.full((1, 2), 1.0))

    def stop(text: str, done: float | None, total: float | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        grid(moons, box, (2, 2), rtol=0, progress=stop)
    partial = replace(stopped.value.partial_report, results=stopped.value.partial_report.results)  # type: ignore[attr-defined]
    if partial.status != "bounded":
        assert partial.status == "timeout"
        assert "--resume" in partial.results[0].reason

    def at_once(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lipcert.tasks.in_cells.InCells.bracketed", at_once)
    with pytest.raises(KeyboardInterrupt) as stopped:
        grid(moons, box, (2, 2), rtol=0)
    assert stopped.value.partial_report.status == "timeout"  # type: ignore[attr-defined]


# Gradients


class Dark(nn.Module):
    """(W x, sqrt(0 x)): the second half is 0 everywhere, and autograd multiplies 0 by infinity there."""

    def __init__(self, outputs: int = 16):
        super().__init__()
        self.linear = nn.Linear(4, outputs).double()
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(0))
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.linear(x), torch.sqrt(x * self.zeros)], dim=1)


@pytest.mark.parametrize("outputs", [2, 16])
def test_nan_gradients_are_not_zeros(outputs: int) -> None:
    module = Dark(outputs)
    model = lipcert.load(module, input_shape=(1, 4))
    true = float(torch.linalg.matrix_norm(module.linear.weight.detach(), 2))
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    back = torch.autograd.functional.jacobian(model.graph.evaluate, x)
    assert bool(back.isnan().any())  # the oracle: autograd does fail here
    assert norms_at(model.graph, x)["spectral"].tolist() == pytest.approx([true] * 5, rel=1e-6)
    assert "Sqrt" in str(no_derivative(model.graph, x)) or "sqrt" in str(no_derivative(model.graph, x))
    report = lipcert.jacobian(model, x.numpy())
    assert all(row["spectral"] == pytest.approx(true, rel=1e-6) for row in report.points)
    assert any("NaN at 5 points" in line and "difference quotients" in line for line in report.warnings)
    assert report.lower is not None
    assert 0.9 * true < report.lower <= true
    found = lipcert.bound(model, methods=["sampled"])
    assert found.lower is not None
    assert 0.5 * true < found.lower <= true


def test_gradients_that_are_known_are_not_mentioned(moons: Model) -> None:
    report = lipcert.jacobian(moons, np.zeros((2, 2)))
    assert not any("NaN" in line for line in report.warnings)


# A sample that is none


def test_a_nan_row_is_a_result(moons: Model) -> None:
    x = np.array([[0.3, 0.2], [np.nan, 0.0], [1.0, 0.5], [0.0, np.inf]])
    report = radius(moons, x, np.array([0, 1, 1, 0]))
    rows = report.points
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert [row["label"] for row in rows] == [0, 1, 1, 0]
    for place in (1, 3):
        assert (rows[place]["status"], rows[place]["radius"], rows[place]["predicted"]) == ("undefined", 0.0, None)
    assert any("2 samples hold NaN or infinity and have radius 0: 1, 3" in line for line in report.warnings)
    alone = radius(moons, x[[0, 2]], np.array([0, 1])).points
    assert [(row["radius"], row["status"]) for row in alone] == [(rows[k]["radius"], rows[k]["status"]) for k in (0, 2)]
    nothing = radius(moons, x[[1, 3]])
    assert [row["status"] for row in nothing.points] == ["undefined"] * 2


# Two threads


def test_two_threads_ask_independent_questions() -> None:
    """On one model and on two: the answers of one thread alone."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    one, other = (lipcert.load(module, input_shape=(1, 2), **units) for units in ({}, {"mean": [0.5], "std": [0.25]}))
    asked = [(one, "2", "vector"), (one, "inf", "vector"), (other, "2", "0"), (one, "2", "0-1"), (one, "1", "0")]
    methods = ["product", "absolute", "cplip", "sampled", "lipsdp-layer"]

    def answer(place: int) -> list[tuple[str, object]]:
        model, norm, output = asked[place]
        report = bound(model, norm=norm, output=output, methods=methods, seed=place)
        return [(row["method"], row["value"]) for row in report.to_dict()["results"]]

    alone = [answer(place) for place in range(len(asked))]
    together: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda place=place: together.update({place: answer(place)}))
        for place in range(len(asked))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together.get(place) for place in range(len(asked))] == alone
