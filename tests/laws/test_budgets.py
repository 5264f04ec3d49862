"""A budget holds inside of every method and task. Time is counted, not measured: one second is one operation of torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from dense import chain
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lipcert
from lipcert.methods import METHODS
from lipcert.methods.problem import Method, Problem
from lipcert.methods.run import run
from lipcert.network.graph import Graph
from lipcert.report.report import Report
from lipcert.terms import clock
from lipcert.terms.clock import OutOfTime, until
from lipcert.terms.query import Box, Norm
from lipcert.terms.result import Bound, Refusal, Result

GRACE = 40
GRAIN = 1400  # operations between two looks at the clock, at most, and what is done with an answer
SHARES = (0.0, 0.1, 0.5)  # of what the whole takes
ENDLESS = 1e9


class Counted(TorchDispatchMode):
    """A clock that operations of torch move on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.now += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    monkeypatch.setattr(clock, "GRACE", GRACE)

    @contextmanager
    def counting() -> Iterator[Counted]:
        with Counted() as found, monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: found.now)
            yield found

    return counting


BOX = Box(torch.full((3,), -0.5, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64))


def maps() -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    return lipcert.load(module, input_shape=(1, 1, 4, 4)).graph


GRAPHS: dict[str, Callable[[], Graph]] = {
    "chain": lambda: chain(0, [3, 12, 12, 12, 2], "relu"),
    "smooth": lambda: chain(1, [3, 10, 10, 2], "tanh"),
    "maps": maps,
}
OTHERS = ("regions", "lipsdp-cvxpy", "lipsdp-network")  # in machine code, in another package, and nothing at all


def question(graph: Graph, on_region: bool, deadline: float | None) -> Problem:
    half = torch.full(graph.input_shape, 0.5, dtype=torch.float64)
    return Problem(graph, Norm("2", "2"), Box(-half, half) if on_region else None, deadline=deadline)


def model_of(graph: Graph) -> lipcert.Model:
    nothing = dict.fromkeys(("path", "format", "sha256", "input_shape", "output_shape", "parameters", "neurons"))
    return lipcert.Model(graph, {**nothing, "graph": graph.fingerprint()})


@pytest.mark.every(2)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in OTHERS])
@pytest.mark.parametrize("kind", GRAPHS)
def test_methods_end(counted: Callable[[], Any], kind: str, name: str) -> None:
    method = METHODS[name]
    if name == "sampled":
        method = replace(method, points=8)  # type: ignore[type-var]
    on_region = "region" in method.where
    asked = question(GRAPHS[kind](), on_region, None)
    with counted() as whole:
        full = run(method, asked)
    for share in SHARES:
        used, found = timed(counted, method, GRAPHS[kind](), on_region, share * whole.now)
        assert used <= share * whole.now + GRACE + GRAIN
        check(found, full)


def timed(
    counted: Callable[[], Any], method: Method, graph: Graph, on_region: bool, seconds: float
) -> tuple[float, Result]:
    asked = question(graph, on_region, seconds)
    with counted() as passed:
        found = run(method, asked)
    return passed.now, found


def check(found: Result, full: Result) -> None:
    """A value of less time is a value all the same."""
    if isinstance(found, Refusal):
        assert found.status == "timeout" or isinstance(full, Refusal)
        return
    assert isinstance(full, Bound)
    assert found.value >= full.value * (1 - 1e-9) if found.side == "upper" and found.method != "branch" else True
    assert found.value <= full.value * (1 + 1e-9) or found.side != "lower"


@dataclass(frozen=True)
class Deaf(Method):
    """Never asks."""

    name: ClassVar[str] = "deaf"
    side: ClassVar[Any] = "upper"

    def run(self, problem: Problem) -> Result:
        x = torch.zeros(2)
        for _ in range(5000):
            x = x + 1
        return Bound(self.name, "upper", "proved", 1.0)


def test_who_never_asks_is_seen(counted: Callable[[], Any]) -> None:
    used, _ = timed(counted, Deaf(), GRAPHS["chain"](), False, 100.0)
    assert used > 100 + GRACE + GRAIN


# Tasks


def local(model: lipcert.Model, budget: float | None) -> Report:
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return lipcert.local(model, x, [0.01, 0.1], methods=["jacobian", "linear"], each=ENDLESS, budget=budget)


def grid(model: lipcert.Model, budget: float | None) -> Report:
    return lipcert.local_grid(model, BOX, (2, 1, 1), rtol=0.5, budget=budget)


def radius(model: lipcert.Model, budget: float | None) -> Report:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return lipcert.radius(model, x, methods=["pairs"], budget=budget)


def jacobian(model: lipcert.Model, budget: float | None) -> Report:
    return lipcert.jacobian(model, region=BOX, samples=40, budget=budget)


def bound(model: lipcert.Model, budget: float | None) -> Report:
    return lipcert.bound(model, region=BOX, methods=["product", "jacobian", "lipsdp-layer", "lipsdp"], budget=budget)


def pairs(model: lipcert.Model, budget: float | None) -> Report:
    return lipcert.bound(model, output="each", methods=["product", "lipsdp"], budget=budget)


TASKS = (local, grid, radius, jacobian, bound, pairs)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_tasks_end(counted: Callable[[], Any], task: Callable[..., Report]) -> None:
    model = model_of(GRAPHS["chain"]())
    with counted() as whole:
        full = task(model, None)
    for share in SHARES:
        model = model_of(GRAPHS["chain"]())
        with counted() as passed:
            found = task(model, share * whole.now)
        assert passed.now <= share * whole.now + GRACE + GRAIN
        assert found.exit_code in (0, 3)
        if found.upper is not None and full.upper is not None:
            assert found.upper >= (full.lower or 0.0) * (1 - 1e-9)


def test_a_cut_run_is_gone_on_with(counted: Callable[[], Any]) -> None:
    """Balls for which there was little time are done again."""
    model = model_of(GRAPHS["chain"]())
    with counted() as whole:
        full = local(model, None)
    model = model_of(GRAPHS["chain"]())
    with counted():
        part = local(model, 0.6 * whole.now)
    assert len(part.points) < len(full.points) or any(row.get("cut") for row in part.points)
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    again = lipcert.local(
        model_of(GRAPHS["chain"]()), x, [0.01, 0.1], methods=["jacobian", "linear"], resume=part, each=ENDLESS
    )
    assert [(row["index"], row["eps"]) for row in again.points] == [(row["index"], row["eps"]) for row in full.points]
    assert not any(row.get("cut") for row in again.points)


def test_radii_that_a_cut_batch_had_are_kept(counted: Callable[[], Any]) -> None:
    """Those of methods that came before the end; the rows are marked, and done again by the next run."""
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def ask(budget: float | None = None, resume: Report | None = None) -> Report:
        model = model_of(GRAPHS["chain"]())
        return lipcert.radius(model, x, methods=["pairs", "values"], budget=budget, resume=resume)

    with counted() as whole:
        full = ask()
    with counted():
        part = ask(0.5 * whole.now)
    for row, sure in zip(part.points, full.points, strict=True):
        assert row["cut"]
        assert row["radius"] == row["radii"]["pairs"] == sure["radii"]["pairs"] > 0 == row["radii"]["values"]
    assert any("budget" in word for word in part.warnings)
    again = ask(resume=part).points
    assert [row["radii"] for row in again] == [row["radii"] for row in full.points]
    assert not any("cut" in row for row in again)


def test_a_cut_lipsdp_is_not_above_its_layers(counted: Callable[[], Any]) -> None:
    methods = ["lipsdp-layer", "lipsdp"]
    graph = chain(3, [6, 40, 40, 40, 3], "relu")
    with counted() as whole:
        lipcert.bound(model_of(graph), methods=methods)
    seen = 0
    for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        with counted():
            found = lipcert.bound(model_of(graph), methods=methods, budget=share * whole.now)
        values = {r.method: r.value for r in found.results if isinstance(r, Bound)}
        if len(values) == 2:
            seen += 1
            assert values["lipsdp"] <= values["lipsdp-layer"]
    assert seen


# The clock


def test_ends_only_come_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "GRACE", 2.0)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert clock.deadline() is None
    assert not clock.late()
    clock.tick()
    with until(10.0):
        with until(20.0):
            assert clock.deadline() == 10.0
        with until(5.0):
            now[0] = 6.0
            assert clock.late()
            clock.tick()
            now[0] = 7.5
            with pytest.raises(OutOfTime):
                clock.tick()
            with clock.whole():
                clock.tick()
        assert not clock.late()
        clock.tick()
        with clock.hurry():
            assert clock.late()
            clock.tick()
    clock.tick()


def test_the_first_command_began_with_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock.program_began()
    now[0] = 3.0
    assert (clock.began(), clock.began()) == (1.0, 3.0)
