"""Proved sweeps on a device that is not the CPU: the same values, and no tensor left behind. On a GPU where there is one.

Run by tasks/test_device.py in a process of its own: autograd counts the devices when it is first used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import faraway
import pytest
import torch
from thorough import FULL, by_turns
from torch import nn

import lipcert
from lipcert.methods import METHODS
from lipcert.methods.lipsdp import Lipsdp, LipsdpLayer
from lipcert.methods.problem import Problem
from lipcert.network.edit import functionals
from lipcert.network.graph import Graph, Input, Linear, Node, Offset
from lipcert.operators.linear import Dense
from lipcert.regions.branch_and_bound import branching
from lipcert.regions.branch_and_bound.branching import Effort, bracket
from lipcert.regions.cells import Cells
from lipcert.regions.device import available
from lipcert.regions.forward.slope import lipschitz_on
from lipcert.tasks.balls import BallsRequest, local
from lipcert.tasks.grid import GridRequest, grid
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Box, Norm, Output
from lipcert.terms.result import Bound


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(48, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.relu(self.a(x))
        z = torch.relu(self.b(z)) + z
        return self.end(z.flatten(1))


def mlp(act: type[nn.Module], *sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(sizes):
        layers += [nn.Linear(n, m), act()]
    return nn.Sequential(*layers[:-1])


NETS = {
    "relu": (lambda: mlp(nn.ReLU, 2, 20, 20, 3), (1, 2)),
    "one output": (lambda: mlp(nn.LeakyReLU, 3, 15, 1), (1, 3)),
    "prelu": (lambda: nn.Sequential(nn.Linear(2, 6), nn.PReLU(6), nn.Linear(6, 2)), (1, 2)),
    "curved": (lambda: mlp(nn.Tanh, 2, 12, 12, 1), (1, 2)),
    "deep": (lambda: mlp(nn.ReLU, 3, 8, 8, 8, 8, 8, 8, 2), (1, 3)),
    "conv": (Residual, (1, 1, 4, 4)),
    "pool": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2)), (1, 1, 4, 4)),
    "softmax": (lambda: nn.Sequential(nn.Linear(2, 8), nn.GELU(), nn.Linear(8, 3), nn.Softmax(-1)), (1, 2)),
}
faraway.device()
# without a GPU the far device is an emulation in Python, slow: two networks stand for all
MANY = FULL or torch.cuda.is_available()
NAMES = list(NETS) if MANY else ["relu", "conv"]
INPUT_NORMS, TWO_NORMS = (list(norms) if MANY else by_turns(norms) for norms in (("1", "2", "inf"), ("2", "inf")))
ALL = list(itertools.product(["relu", "curved", "deep", "conv"], ["jacobian", "linear", "branch"]))
SOME = ALL if MANY else [("relu", "branch"), ("curved", "jacobian"), ("conv", "linear")]
PLACES = [
    faraway.NAME,
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
]


@contextmanager
def there(place: str) -> Iterator[None]:
    if place != faraway.NAME:
        yield
        return
    with faraway.visible():
        yield


def model(name: str) -> lipcert.Model:
    torch.manual_seed(3)
    make, shape = NETS[name]
    return lipcert.load(make().eval(), input_shape=shape)


def cells(graph: Graph, norm: str = "inf") -> Cells:
    n = graph.nodes[graph.input].size
    centre = torch.randn(5, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Cells(centre, torch.full_like(centre, 0.05), norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_sweeps_are_the_same_there(name: str, place: str) -> None:
    graph = model(name).graph
    for p in INPUT_NORMS:
        for ball in ("inf", p):
            here = lipschitz_on(graph, cells(graph, ball), Norm(p, p))
            with there(place):
                found = lipschitz_on(graph, cells(graph, ball), Norm(p, p), place)
            assert type(found) is torch.Tensor
            assert torch.allclose(found, here, rtol=1e-9)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_branch_and_bound_is_the_same_there(name: str, place: str) -> None:
    graph = model(name).graph
    n = graph.nodes[graph.input].size
    for p in TWO_NORMS:
        effort = Effort(rtol=1e-2, leaves=20 if n > 4 else 200)
        regions = cells(graph)[:2]
        here = bracket(graph, regions, Norm(p, p), effort, lower=torch.zeros(2, dtype=torch.float64))
        with there(place):
            far = bracket(graph, regions, Norm(p, p), effort, lower=torch.zeros(2, dtype=torch.float64), device=place)
        assert bool((far.upper >= here.lower * (1 - 1e-12)).all())
        assert bool((here.upper >= far.lower * (1 - 1e-12)).all())
        both = here.closed & far.closed
        assert torch.allclose(far.upper[both], here.upper[both], rtol=2e-2)
        assert both.any() or name in ("conv", "pool", "softmax")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("name", "method"), SOME)
def test_methods_are_the_same_there(name: str, method: str, place: str) -> None:
    graph = model(name).graph
    x = cells(graph).centre[0].reshape(graph.input_shape)
    for p in TWO_NORMS:
        region = Box(x - 0.01, x + 0.01)
        here = METHODS[method].run(Problem(graph, Norm(p, p), region, rtol=1e-2))
        with there(place), torch.no_grad():
            far = METHODS[method].run(Problem(graph, Norm(p, p), region, device=place, rtol=1e-2))
        assert isinstance(here, Bound)
        assert isinstance(far, Bound)
        assert far.value == pytest.approx(here.value, rel=2e-2 if method == "branch" else 1e-9)


LIPSDP = ["relu", "curved", "deep", "conv", "pool", "softmax"] if MANY else by_turns(["relu", "pool"])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", LIPSDP)
def test_lipsdp_is_the_same_there(name: str, place: str) -> None:
    """Sweeps, multipliers and proof; what is proved there is proved again here."""
    graph = model(name).graph
    for method in (Lipsdp(tolerance=1e-2), LipsdpLayer(tolerance=1e-2)):  # few sweeps: the emulation is slow
        here = method.run(Problem(graph, Norm()))
        with there(place), torch.no_grad():
            far = method.run(Problem(graph, Norm(), device=place))
        assert isinstance(here, Bound)
        assert isinstance(far, Bound)
        assert far.value == pytest.approx(here.value, rel=1e-4)
        assert far.proof is not None
        assert far.proof.prove(graph, Norm()) <= far.value * (1 + 1e-9)


@pytest.mark.parametrize("place", PLACES)
def test_pairs_by_lipsdp_are_the_same_there(place: str) -> None:
    graph = model("relu").graph
    outputs = functionals(graph, Output("pairs"))
    method = Lipsdp(tolerance=1e-2)
    here = method.run_together(Problem(graph, Norm()), outputs)
    with there(place), torch.no_grad():
        far = method.run_together(Problem(graph, Norm(), device=place), outputs)
    assert here is not None
    assert far is not None
    for [a], [b] in zip(here, far, strict=True):
        assert isinstance(a, Bound)
        assert isinstance(b, Bound)
        assert b.value == pytest.approx(a.value, rel=1e-4)


@pytest.mark.parametrize("place", PLACES)
def test_the_grid_and_the_balls_there(place: str) -> None:
    net = model("relu")
    box = Box(torch.full((1, 2), -1.0).double(), torch.full((1, 2), 1.0).double())
    here, balls = lipcert.local_grid(net, box, (3, 3), rtol=0.01), torch.zeros(2, 1, 2)
    with there(place):
        far = grid(net, GridRequest(box=box, shape=(3, 3), rtol=0.01, device=place))
        methods = ["jacobian", "linear", "branch"]
        ball = local(net, BallsRequest(x=balls, eps=[0.1], methods=methods, each=60.0, device=place))
    assert all(far.summary["grid"]["closed"])
    assert far.upper == pytest.approx(here.upper, rel=0.011)
    for found, known in zip(ball.points, lipcert.local(net, balls, [0.1], each=60.0).points, strict=True):
        assert known["lower"] * (1 - 1e-9) <= found["upper"] <= known["upper"] * 1.02


@pytest.mark.parametrize("place", PLACES)
def test_errors_of_weights_move_along(place: str) -> None:
    """A graph for proofs keeps what is not known of its coefficients."""
    weight, error = torch.ones(1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    nodes = (
        Node(Input(), (), 1, (1,), "x"),
        Node(Linear(Dense(weight, radius=error)), (0,), 1, (1,), "a"),
        Node(Offset(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)), (1,), 1, (1,), "b"),
    )
    graph = Graph(nodes, 2)
    with there(place):
        assert float(lipschitz_on(graph, cells(graph), Norm("2", "2"), place).max()) >= 1.5
        moved = graph.on(place)
        radius = moved.nodes[2].what.radius  # type: ignore[union-attr]
        assert radius is not None
        assert radius.device.type == torch.device(place).type
        assert graph.on(place) is moved
    assert graph.on("cpu") is graph


def test_a_tensor_that_stayed_behind_is_seen() -> None:
    place = faraway.device()
    with faraway.visible(), pytest.raises(RuntimeError, match="tensors of two devices"):
        torch.ones(3, device=place) + torch.ones(3)


def test_tensors_made_on_the_cpu_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tests above: branch and bound that makes its tensors where torch makes them by itself does not pass."""
    place, graph = faraway.device(), model("relu").graph
    monkeypatch.setattr(branching, "proving_on", lambda device: nullcontext())
    with faraway.visible(), pytest.raises(RuntimeError, match="tensors of two devices"):
        bracket(graph, cells(graph), Norm("inf", "inf"), Effort(), device=place)


def test_a_device_that_is_not_there() -> None:
    for name in ["cuda"] * (not torch.cuda.is_available()) + ["nowhere"]:
        with pytest.raises(UsageError, match="torch finds no such device"):
            available(name)
        with pytest.raises(UsageError):
            lipcert.bound(model("relu"), device=name)
