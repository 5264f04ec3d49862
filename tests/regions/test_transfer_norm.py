"""Norms of groups in method `transfer`: the inequalities at random and worst points, and constants of whole networks."""

from __future__ import annotations

import random

import pytest
import torch
from deviating import Builder
from test_transfer import at_least, inside, jacobians
from thorough import FULL

from lipcert.blocks.normalise import Norm2
from lipcert.network.graph import Graph, Input, Node, Nonlinear
from lipcert.regions.cells import Cells
from lipcert.regions.transfer import norm
from lipcert.regions.transfer.constant import constant_on
from lipcert.regions.transfer.deviations import values
from lipcert.terms.query import Ball, Norm

ALL = 120 if FULL else 12


def broken(n: int, ratio: float, seed: int) -> list[str]:
    """Which inequalities fail at points of the ball |u - c| <= ratio |c|, for three groups side by side."""
    dice = torch.Generator().manual_seed(seed)
    c = torch.randn(3 * n, generator=dice, dtype=torch.float64) * 10.0 ** float(
        torch.randint(-3, 4, (1,), generator=dice)
    )
    radius = ratio * float(torch.linalg.vector_norm(c.reshape(n, 3), dim=0).min())
    nodes = (Node(Input(), (), 3 * n, (1, 3 * n), "x"), Node(Nonlinear(Norm2(1, n, 3)), (0,), 3, (1, 3), "z"))
    graph = Graph(nodes, 1)
    cells = Cells(c[None], torch.full((1, 3 * n), radius, dtype=torch.float64), "2")
    with torch.no_grad():
        (found,) = values(graph, cells).expansions.values()
    (term,), (gain,) = found.terms, found.gains
    size = term.outer.centre.amax(1)
    u = inside(c, radius, "2", 300, dice)
    u[:6] = (
        c + radius * torch.eye(3 * n, dtype=torch.float64)[[0, 1, 2, -1, -2, -3]]
    )  # one group alone moves all the way
    u[6:9] = c - radius * torch.nn.functional.normalize(c * torch.eye(3, dtype=torch.float64).repeat(1, n), dim=1)
    z = graph.evaluate(u)
    rho = (z - found.value.centre - gain.mv(u - c)).abs()
    J = jacobians(graph, u[z.min(1).values > 0]) - gain.mv(torch.eye(3 * n, dtype=torch.float64)).mT
    off = J.reshape(-1, 3, n, 3).diagonal(dim1=1, dim2=3).norm(dim=1)  # (points, groups)
    slack = 1e-12 * float(c.abs().max())
    wrong = [] if bool((rho <= found.entries + slack).all()) else ["remainder"]
    return wrong + ([] if bool((off <= size * (1 + 1e-9) + 1e-12).all()) else ["Jacobian"])


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("ratio", [0.0, 1e-6, 0.1, 0.5, 0.79, 0.81, 1.0, 3.0])
def test_inequalities(n: int, ratio: float) -> None:
    assert [broken(n, ratio, seed) for seed in range(4)] == [[]] * 4


def test_a_planted_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "FORMULA", 0.6)
    assert broken(2, 0.5, 0) == ["remainder", "Jacobian"]


def network(seed: int) -> Graph:
    dice = random.Random(seed)
    built = Builder(tokens=2, width=4, seed=seed)
    u = built.dense(0)
    if dice.random() < 0.5:
        u = built.pointwise(u)
    size = built.nodes[u].size
    n = dice.choice((2, 4))
    u = built.block(Norm2(1, n, size // n), u, size=size // n)
    u = built.dense(u, 3)
    return built.graph(built.pointwise(u))


@pytest.mark.parametrize("seed", range(ALL))
def test_never_below_what_is_attained(seed: int) -> None:
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    graph = network(seed)
    centre = torch.randn(graph.nodes[0].size, generator=generator, dtype=torch.float64) * dice.choice((0.0, 0.1, 1.0))
    region = Ball(centre, 10 ** dice.uniform(-5, 0.5), dice.choice(("1", "2", "inf")))
    asked = Norm(dice.choice(("1", "2", "inf")), dice.choice(("1", "2", "inf")))
    with torch.no_grad():
        upper = constant_on(graph, Cells.of(region), asked).value
    J = jacobians(graph, inside(centre, region.radius, region.norm, 48, generator))
    J = J[J.isfinite().all(dim=(1, 2))]
    assert at_least(J, asked.input, asked.output) <= upper * (1 + 1e-9)
