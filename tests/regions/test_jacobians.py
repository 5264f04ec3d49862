"""Jacobians on a whole box, proved: against dense sampling of Jacobians and of pairs of points, and planted errors."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest
import torch
from test_regions import jacobians, question
from thorough import FULL
from torch import nn

import lipcert
from lipcert.network.graph import Graph
from lipcert.regions import jacobians as proved
from lipcert.regions.cells import Cells
from lipcert.regions.jacobians import jacobian_on
from lipcert.report.formats.terminal import as_text
from lipcert.rigor.smallest import gains_along, singular_values_attained, smallest_singular_values
from lipcert.tasks.proved_jacobian import check
from lipcert.terms.errors import SelfCheckFailed, UsageError

pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def few_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    if not FULL:
        monkeypatch.setattr(proved, "LEAVES", 600)


def points(cells: Cells, count: int, seed: int = 1) -> torch.Tensor:
    dice = torch.Generator().manual_seed(seed)
    return cells.centre + cells.radius * (torch.rand(count, cells.centre.shape[1], generator=dice).double() * 2 - 1)


def violations(graph: Graph, cells: Cells, count: int = 300) -> list[str]:
    """Of what is proved, by points and pairs of points of the box."""
    found = jacobian_on(graph, cells, time.monotonic() + 2.0)
    j = jacobians(graph, points(cells, count))
    slack = 1e-9 * (1 + float(j.abs().max()))
    wrong = []
    if not bool(((j >= found.lower - slack) & (j <= found.upper + slack)).all()):
        wrong.append("entries")
    if not bool(((found.lower <= found.low) & (found.low <= found.upper) & (found.high >= found.lower)).all()):
        wrong.append("attained")
    if float(torch.linalg.svdvals(j)[:, -1].min()) < found.smallest[0] - slack:
        wrong.append("smallest")
    x, y = points(cells, count, 2), points(cells, count, 3)
    y[: count // 2] = x[: count // 2] + 1e-3 * (y[: count // 2] - x[: count // 2])
    moved = torch.linalg.vector_norm(graph.evaluate(x) - graph.evaluate(y), dim=1)
    if float((moved / torch.linalg.vector_norm(x - y, dim=1)).min()) < found.gain[0] - slack:
        wrong.append("gain")
    if not (found.gain[0] <= found.gain[1] and found.smallest[0] <= found.smallest[1]):
        wrong.append("order")
    return wrong


class Residual(nn.Module):
    def __init__(self, n: int, act: nn.Module, size: float):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(n, 6), act, nn.Linear(6, n)).double()
        self.inner[2].weight.data *= size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def residual(seed: int, act: nn.Module, n: int = 2, size: float = 0.4) -> tuple[Graph, Cells]:
    torch.manual_seed(seed)
    graph = lipcert.load(Residual(n, act, size), input_shape=(1, n)).graph
    return graph, Cells(torch.zeros(1, n).double(), torch.ones(1, n).double())


def test_fuzzed_networks_hold() -> None:
    for seed in range(0, 400 if FULL else 12, 4):
        graph, cells, _, _ = question(seed)
        assert not violations(graph, cells), seed


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Tanh(), nn.Hardswish()])
def test_residual_networks_hold_and_say_something(act: nn.Module) -> None:
    for seed in range(20 if FULL else 1):
        graph, cells = residual(seed, act)
        assert not violations(graph, cells)
        found = jacobian_on(graph, cells, None)
        assert found.gain[0] > 0.3
        if isinstance(act, nn.ReLU):
            assert found.method == "regions"
            assert found.smallest[1] <= found.smallest[0] * (1 + 1e-6)
            assert bool(((found.low - found.lower).abs() < 1e-9).all())
            assert bool(((found.upper - found.high).abs() < 1e-9).all())


def test_slopes_of_both_signs_are_no_gain() -> None:
    """|x| has slopes +-1 everywhere, and |1| = |-1|."""

    class Abs(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.abs()

    graph = lipcert.load(Abs(), input_shape=(1, 1)).graph
    found = jacobian_on(graph, Cells(torch.zeros(1, 1).double(), torch.ones(1, 1).double()), None)
    assert found.smallest[0] == pytest.approx(1.0)
    assert found.gain[0] == 0.0


def test_fewer_outputs_than_inputs_have_no_gain() -> None:
    graph = lipcert.load(nn.Linear(3, 2), input_shape=(1, 3)).graph
    assert jacobian_on(graph, Cells(torch.zeros(1, 3).double(), torch.ones(1, 3).double()), None).gain == (0.0, 0.0)


def test_planted_loss_of_pieces_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipcert.regions.enumeration import pieces

    whole = pieces.pieces

    def fewer(*args: object, **more: object) -> object:
        found = whole(*args, **more)  # type: ignore[arg-type]
        del found.found[: len(found.found) // 2]
        return found

    monkeypatch.setattr(pieces, "pieces", fewer)
    wrong = [violations(*residual(seed, nn.ReLU(), size=1.0)) for seed in range(6)]
    assert any("entries" in words for words in wrong)
    assert any("smallest" in words for words in wrong)


def test_planted_loss_of_halves_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upper halves of boxes are dropped."""
    right = proved._Halving._halve

    def lower(self: proved._Halving, chosen: torch.Tensor) -> bool:
        done = right(self, chosen)
        self.boxes, self.C, self.R = (side[: -len(chosen)] for side in (self.boxes, self.C, self.R))
        return done

    monkeypatch.setattr(proved._Halving, "_halve", lower)
    assert "entries" in violations(*residual(1, nn.Tanh(), size=1.0))


@pytest.mark.parametrize("shape", [(3, 3), (5, 2), (2, 4), (1, 1)])
def test_smallest_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    C = torch.randn(50, *shape).double() * torch.logspace(-30, 30, 50, dtype=torch.float64)[:, None, None]
    R = C.abs() * 1e-3 * torch.rand(50, *shape).double()
    low, high = smallest_singular_values(C, R), singular_values_attained(C, torch.zeros_like(R))
    exact = torch.linalg.svdvals(C)[:, -1]
    assert bool((low <= exact).all())
    assert bool((smallest_singular_values(C, 0 * R) >= exact * (1 - 1e-9)).all())
    assert bool((high >= exact * (1 - 1e-14)).all() and (high <= exact * (1 + 1e-9)).all())
    for _ in range(20):
        inside = C + R * (torch.rand_like(R) * 2 - 1)
        assert bool((torch.linalg.svdvals(inside)[:, -1] >= low * (1 - 1e-12)).all())


def test_singular_and_unknown_matrices_have_none() -> None:
    C = torch.ones(3, 2, 2).double()
    C[1, 0, 0] = math.nan
    R = torch.zeros_like(C)
    R[2] = math.inf
    assert smallest_singular_values(C, R).tolist() == [0.0, 0.0, 0.0]
    assert singular_values_attained(C, R)[1:].isinf().all()


def test_gains_along() -> None:
    torch.manual_seed(0)
    C, T = torch.randn(30, 4, 3).double(), torch.randn(3, 4).double()
    R = 0.1 * torch.rand(30, 4, 3).double()
    low = gains_along(T, C, R)
    for _ in range(20):
        product = T @ (C + R * (torch.rand_like(R) * 2 - 1))
        assert bool((torch.linalg.eigvalsh(product / 2 + product.mT / 2)[:, 0] >= low - 1e-12).all())
    product = T @ C
    exact = torch.linalg.eigvalsh(product / 2 + product.mT / 2)[:, 0]
    assert bool((gains_along(T, C, 0 * R) >= exact - 1e-9).all())


def test_in_a_report() -> None:
    """A network that rises in its first input and falls in its second."""
    first, last = nn.Linear(3, 3), nn.Linear(3, 1)
    first.weight.data = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0], [0.0, -1.0, 5.0]])
    last.weight.data = torch.tensor([[1.0, 2.0, 1.0]])
    model = lipcert.load(nn.Sequential(first, nn.LeakyReLU(0.5), last), input_shape=(1, 3))
    box = lipcert.Box([-1.0, -1.0, 0.5], [1.0, 1.0, 0.5])
    report = lipcert.jacobian(model, region=box, prove=True)
    found = report.summary["jacobian"]["proved"]
    assert found["inputs"] == [0, 1]
    assert found["monotone"] == [["increasing", "decreasing"]]
    assert found["bilipschitz"] == {"lower": 0.0, "upper": 0.0}
    assert found["lower"][0][0] > 0
    assert "output in this input" in as_text([("m", report.to_dict())])
    with pytest.raises(UsageError, match="prove"):
        lipcert.jacobian(model, [[0.0, 0.0, 0.0]], prove=True)


def test_an_early_stop_still_holds() -> None:
    graph, cells = residual(0, nn.ReLU())
    found = jacobian_on(graph, cells, 0.0)
    j = jacobians(graph, points(cells, 300))
    assert bool(((j >= found.lower) & (j <= found.upper)).all())
    assert float(torch.linalg.svdvals(j)[:, -1].min()) >= found.smallest[0]


def test_a_contradiction_is_told_and_not_clamped() -> None:
    graph, cells = residual(0, nn.ReLU())
    found = jacobian_on(graph, cells, None)
    check(found)
    for planted in (
        {"lower": found.low + 1e-3},
        {"upper": found.high - 1e-3},
        {"smallest": (found.smallest[1] * 1.01, found.smallest[1])},
        {"gain": (found.gain[1] * 1.01, found.gain[1])},
    ):
        with pytest.raises(SelfCheckFailed, match="--prove"):
            check(dataclasses.replace(found, **planted))


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Tanh()])
def test_overflow_is_unknown(act: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(2, 3), act, nn.Linear(3, 2)).double()
    for layer in (net[0], net[2]):
        layer.weight.data *= 1e200
    graph = lipcert.load(net, input_shape=(1, 2)).graph
    found = jacobian_on(graph, Cells(torch.zeros(1, 2).double(), torch.ones(1, 2).double()), None)
    check(found)
    assert found.smallest[0] == found.gain[0] == 0.0
    assert not bool(torch.isfinite(found.upper - found.lower).any())


def test_an_empty_jacobian_is_refused() -> None:
    model = lipcert.load(nn.Linear(2, 0), input_shape=(1, 2))
    with pytest.raises(UsageError, match="nothing to prove"):
        lipcert.jacobian(model, region=lipcert.Box([-1.0, -1.0], [1.0, 1.0]), prove=True)
