"""Method `local-product`: what it proves against what is attained, and what each rule of slopes claims against the Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from deviating import Builder, at_least, case, inside, jacobians
from thorough import FULL
from torch import Tensor, nn

import lipcert
from lipcert.blocks.base import Block
from lipcert.blocks.normalise import Normalise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.softmax import Softmax
from lipcert.methods import METHODS
from lipcert.methods.problem import Problem
from lipcert.network.graph import Enclosure, Graph, Nonlinear
from lipcert.network.walk import forward
from lipcert.operators.linear import Select
from lipcert.proofs.chain import Infinite, start
from lipcert.regions.cells import Cells
from lipcert.regions.chained import slopes
from lipcert.regions.chained.constant import CHAINED, Chained, constant_on
from lipcert.regions.chained.slopes import Near, repeated
from lipcert.terms.clock import hurry
from lipcert.terms.query import Ball, Box, Norm, P
from lipcert.terms.result import Bound, Refusal

SEEDS = range(1000, 1300 if FULL else 1012)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_value_is_below_what_is_attained(seed: int) -> None:
    """The constant, and how far every block gets from its centre."""
    graph, region, norm, x = case(seed)
    with torch.no_grad():
        value = constant_on(graph, Cells.of(region), norm)
        state = Chained(Cells.of(region), start(graph, norm))
        kept = forward(graph, CHAINED, state, keep=True)
        for i in graph.nonlinear:
            assert bool(((kept[i].range[0] <= kept[i].at) & (kept[i].at <= kept[i].range[1])).all())
            part = Graph(graph.nodes[: i + 1], i)
            away = part.evaluate(x) - kept[i].at
            for r, size in (("2", away.norm(dim=1)), ("inf", away.abs().amax(1))):
                assert float(size.max()) <= state.away[r][i][r] * (1 + 1e-9) + 1e-13
    assert at_least(jacobians(graph, x), norm.input, norm.output) <= value * (1 + 1e-9)


def test_a_slope_that_is_too_small_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Builder(2, 4, 0)
    built.normalise(built.dense(0))
    graph = built.graph()
    centre = torch.randn(graph.nodes[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cells, attained = Cells.of(Ball(centre, 1e-3, "2")), at_least(jacobians(graph, centre[None]), "2", "2")
    assert attained <= constant_on(graph, cells, Norm())
    rule = slopes.RULES[Normalise]
    monkeypatch.setitem(slopes.RULES, Normalise, lambda *given: tuple(k / 4 for k in rule(*given)))
    assert attained > constant_on(graph, cells, Norm())


BLOCKS: dict[str, Callable[[], Block]] = {
    "normalise": lambda: Normalise(2, 4, 3, eps=1e-3, centred=True),
    "without a mean": lambda: Normalise(2, 4, 3, eps=1e-6, centred=False),
    "softmax": lambda: Softmax(2, 4, 3),
    "matmul": lambda: MatMul(2, 3, 4, 2),
    "product": lambda: Product(12),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("r", ["1", "2", "inf"])
@pytest.mark.parametrize("radius", [1e-3, 0.3, 5.0])
def test_slopes_hold_on_the_box_and_the_ball(name: str, r: P, radius: float) -> None:
    block, dice = BLOCKS[name](), torch.Generator().manual_seed(7)
    sizes = {"matmul": (24, 16), "product": (12, 12)}.get(name, (24,))
    centres = [torch.randn(1, n, generator=dice, dtype=torch.float64) * 2 for n in sizes]
    near = [Near(Enclosure(a), (a - radius, a + radius), radius) for a in centres]
    found = slopes.slopes(block, r, *near)
    with torch.no_grad():
        points = [inside(a, radius, "2", 40, dice) for a in centres]

    for j, k in enumerate(found):

        def at(u: Tensor, *others: Tensor, j: int = j) -> Tensor:
            given = list(others)
            given.insert(j, u)
            return block(*(v[None] for v in given))[0]

        others = [p for i, p in enumerate(points) if i != j]
        J = torch.func.vmap(torch.func.jacrev(at))(points[j], *others)
        assert at_least(J, r, r) <= k * (1 + 1e-9)
        assert k <= 40 * max(1.0, at_least(J, r, r)) or radius > 1


def test_a_factor_that_repeats_entries() -> None:
    """The norm of diag(u) S, exactly; entries that are not repeated, and holes, included."""
    dice = torch.Generator().manual_seed(0)
    u = torch.randn(1, 9, generator=dice, dtype=torch.float64)
    copies = Select(torch.tensor([0, 0, 1, -1, 3, 3, 3, 0, 1]), 4)
    S = copies.mv(torch.eye(4, dtype=torch.float64)).T
    for r in ("1", "2"):
        exact = torch.linalg.matrix_norm(torch.diag(u[0]) @ S, {"1": 1, "2": 2}[r])
        found = repeated(Product(9), r, Near(Enclosure(u), (u, u)), copies)
        assert float(exact) <= found <= float(exact) * (1 + 1e-12)
    assert repeated(Product(9), "2", Near(Enclosure(0 * u), (0 * u, 0 * u)), copies) == 0


class Gated(nn.Module):
    """Squeeze and excitation on a map of any size."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, 3, 2, 1)
        self.down, self.rise = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        u = nn.functional.hardswish(self.stem(x))
        gate = nn.functional.hardsigmoid(self.rise(torch.relu(self.down(u.mean((2, 3), keepdim=True)))))
        return self.head((u * gate).mean((2, 3)))


def test_large_gated_networks_have_a_bound_near_what_is_attained() -> None:
    """Where dense slopes do not fit: 49,152 inputs."""
    module, shape = Gated().eval(), (1, 3, 128, 128)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = lipcert.load(module, input_shape=shape)
    found = lipcert.bound(model, region=lipcert.Ball(x, 1e-4, "inf"), methods=["local-product", "product", "jacobian"])
    by = {result.method: result for result in found.results}
    assert isinstance(by["jacobian"], Refusal)
    J = torch.func.jacrev(module)(x.float()).detach().reshape(5, -1).double()
    attained = float(torch.linalg.matrix_norm(J, 2))
    assert attained <= by["local-product"].value <= 10 * attained
    assert by["local-product"].value <= by["product"].value


def test_a_bound_that_overflows_is_not_said_to_be_a_slope() -> None:
    built = Builder(1, 4, 0)
    u = 0
    for _ in range(12):
        u = built.dense(u, scale=1e30)
        u = built.pointwise(u, "relu")
    graph = built.graph()
    found = METHODS["local-product"].run(Problem(graph, Norm(), Ball(torch.zeros(4), 1e-3, "2")))
    assert isinstance(found, Refusal)
    assert "overflows" in found.reason


class Ratio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return 1 / (self.b(torch.tanh(self.a(x))).mean((2, 3)) + 1.0)


def test_what_a_first_look_cannot_bound_is_no_refusal() -> None:
    """With a budget norms are first those of the structure: with them the divisor may be 0, which it is not."""
    model = lipcert.load(Ratio().eval(), input_shape=(1, 4, 16, 16))
    region = lipcert.Ball(torch.zeros(1, 4, 16, 16), 12.0, "2")
    with hurry(), pytest.raises(Infinite):
        constant_on(model.graph, Cells.of(region), Norm())
    with_time = lipcert.bound(model, region=region, methods=["local-product"], budget=60.0)
    assert with_time.upper == lipcert.bound(model, region=region, methods=["local-product"]).upper < 9


def gates(width: int = 4) -> Graph:
    built = Builder(2, width, 3)
    u = built.gate(built.normalise(built.dense(0)))
    built.sum(u, built.attention(built.normalise(u), 2))
    return built.graph(2)


def test_smaller_balls_have_smaller_constants() -> None:
    graph = gates()
    centre = torch.randn(graph.nodes[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = [constant_on(graph, Cells.of(Ball(centre, r, "2")), Norm()) for r in (1e-2, 1e-4, 1e-8)]
    assert found == sorted(found, reverse=True)


def test_odd_regions() -> None:
    """No region, one that is far out, a box with coordinates that are held, one point."""
    graph, run = gates(), METHODS["local-product"].run
    n = graph.nodes[0].size
    assert "region" in run(Problem(graph, Norm())).reason  # type: ignore[union-attr]
    far = run(Problem(graph, Norm(), Ball(torch.ones(n), 1e300, "inf")))
    assert isinstance(far, Refusal) or math.isfinite(far.value)
    low = torch.arange(n, dtype=torch.float64)
    for width in (0.0, 1e-3):
        high = low + width * (torch.arange(n) % 2)
        box = run(Problem(graph, Norm(), Box(low, high)))
        assert isinstance(box, Bound)
        moving = jacobians(graph, low[None])[:, :, torch.arange(n) % 2 == 1]
        assert at_least(moving, "2", "2") <= box.value * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(1, 0), (1, 1), (1, 3)])
def test_small_shapes(shape: tuple[int, ...]) -> None:
    for module in (nn.Identity(), nn.Sequential(nn.Flatten(), nn.ReLU()), nn.Softmax(-1)):
        model = lipcert.load(module, input_shape=shape)
        region = lipcert.Ball(torch.zeros(shape), 0.1, "2")
        found = lipcert.bound(model, region=region, methods=["local-product"])
        assert found.upper is not None
        assert found.upper <= 1 + 1e-12
    jump = lipcert.load(nn.Threshold(0.0, 1.0), input_shape=(1, 2))
    refused = lipcert.bound(jump, region=lipcert.Ball(torch.zeros(1, 2), 0.1, "2"), methods=["local-product"])
    assert refused.upper is None
    assert any(isinstance(graph_node.what, Nonlinear) for graph_node in jump.graph.nodes)
