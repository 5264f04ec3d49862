"""Maxima, sorting and log-sum-exp in method `transfer`: the inequalities at random points, and constants of whole networks."""

from __future__ import annotations

import random

import pytest
import torch
from deviating import Builder
from test_transfer import at_least, inside, jacobians
from thorough import FULL
from torch import Tensor

from lipcert.blocks.base import Block
from lipcert.blocks.selection import Selection
from lipcert.blocks.softmax import LogSumExp
from lipcert.blocks.sort import Sort
from lipcert.network.graph import Graph, Input, Node, Nonlinear
from lipcert.regions.cells import Cells
from lipcert.regions.transfer import logsumexp, order
from lipcert.regions.transfer.constant import constant_on
from lipcert.regions.transfer.deviations import values
from lipcert.terms.query import Ball, Norm

SEEDS = 40 if FULL else 4
WINDOWS = torch.tensor([[0, 1, 2, -1], [2, 3, 4, 5], [5, 5, 0, -1], [6, -1, -1, -1]])  # they overlap, one entry twice
BLOCKS = {
    "max": (Selection(WINDOWS, 8), 8),
    "min": (Selection(WINDOWS, 8, minimum=True), 8),
    "sort": (Sort(2, 4, 1), 8),
    "sort down a middle axis": (Sort(2, 3, 2, descending=True), 12),
    "logsumexp": (LogSumExp(2, 3, 2), 12),
    "logsumexp of one": (LogSumExp(3, 1, 1), 3),
}


def broken(block: Block, size: int, radius: float, seed: int) -> set[str]:
    """Which inequalities fail at points of a ball."""
    dice = torch.Generator().manual_seed(seed)
    c = torch.randn(size, generator=dice, dtype=torch.float64)
    out = block(torch.zeros(1, size).double()).shape[1]
    graph = Graph((Node(Input(), (), size, (1, size), "x"), Node(Nonlinear(block), (0,), out, (1, out), "z")), 1)
    norm = random.Random(seed).choice(("2", "inf"))
    with torch.no_grad():
        (found,) = values(graph, Cells.of(Ball(c, radius, norm))).expansions.values()
    u = inside(c, radius, norm, 60, dice)
    (gain,), (slope,) = found.gains, found.gains if found.slopes is None else found.slopes
    rho = (graph.evaluate(u) - found.value.centre - gain.mv(u - c)).abs()
    wrong = set() if bool((rho <= found.entries + 1e-12).all()) else {"remainder"}
    for E in jacobians(graph, u) - slope.mv(torch.eye(size, dtype=torch.float64)).mT:
        if float(E.abs().max()) < 1e-12:  # of rounding
            continue
        rest = E.clone()
        for term in found.terms:
            W = term.inner.mv(torch.eye(size, dtype=torch.float64)).mT  # (p, size)
            for g in range(term.groups):
                V, w = term.outer.centre[term.outer_group == g].mT, W[term.inner_group == g]
                D = torch.linalg.pinv(V) @ E @ torch.linalg.pinv(w)
                rest -= V @ D @ w
                if float(torch.linalg.matrix_norm(D, 2)) > 1 + 1e-9:
                    wrong.add("size")
        if float(rest.abs().max()) > 1e-9:
            wrong.add("shape")
    return wrong


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.3, 2.0])
def test_inequalities(name: str, radius: float) -> None:
    block, size = BLOCKS[name]
    assert [broken(block, size, radius, seed) for seed in range(SEEDS)] == [set()] * SEEDS


@pytest.mark.parametrize("kind", ["selection", "sorting", "logsumexp"])
def test_planted_errors_are_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rivals are lost where differences are halved and moved; the spread of scores is too small."""
    if kind == "logsumexp":
        monkeypatch.setattr(logsumexp, "spread", lambda A, s, R: torch.zeros(len(A), dtype=torch.float64))
        monkeypatch.setattr(logsumexp, "FORMULA", 0.3)
        block, size = BLOCKS["logsumexp"]
    else:
        real = order.overtaking

        def less(*arguments: object) -> Tensor:
            return real(*arguments) - 0.5  # type: ignore[arg-type]

        monkeypatch.setattr(order, "overtaking", less)
        block, size = BLOCKS["max" if kind == "selection" else "sort"]
    found = set().union(*(broken(block, size, 0.5, seed) for seed in range(8)))
    assert found & {"size", "shape"}
    assert "remainder" in found


@pytest.mark.every(6)
@pytest.mark.parametrize("seed", range(60))
def test_networks_are_never_below_what_is_attained(seed: int) -> None:
    """Dense layers around two such blocks, in mixed norms."""
    dice = random.Random(seed)
    built = Builder(1, 8, seed)
    u = built.dense(0)
    for _ in range(2):
        kind = dice.choice(("max", "min", "sort", "logsumexp"))
        block: Block
        if kind in ("max", "min"):
            block, size = Selection(WINDOWS, 8, minimum=kind == "min"), 4
        elif kind == "sort":
            block, size = Sort(2, 4, 1, descending=dice.random() < 0.5), 8
        else:
            block, size = LogSumExp(2, 4, 1), 2
        u = built.dense(built.block(block, u, size=size), 8, scale=1.5)
    graph = built.graph(3)
    centre = torch.randn(8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    region = Ball(centre, 10 ** dice.uniform(-4, 0), dice.choice(("1", "2", "inf")))
    norm = Norm(dice.choice(("1", "2", "inf")), dice.choice(("1", "2", "inf")))
    with torch.no_grad():
        found = constant_on(graph, Cells.of(region), norm)
    x = inside(centre, region.radius, region.norm, 60, torch.Generator().manual_seed(seed))
    assert at_least(jacobians(graph, x), norm.input, norm.output) <= found.value * (1 + 1e-9)


def test_settled_windows_cost_nothing() -> None:
    """Far from every tie the constant is that of the Jacobian."""
    built = Builder(1, 8, 3)
    u = built.dense(built.block(Selection(WINDOWS, 8), built.dense(0), size=4), 8)
    graph = built.graph(3)
    assert u
    centre = torch.arange(8).double()
    with torch.no_grad():
        found = constant_on(graph, Cells.of(Ball(centre, 1e-6, "2")), Norm())
    exact = float(torch.linalg.matrix_norm(jacobians(graph, centre[None])[0], 2))
    assert exact <= found.value * (1 + 1e-9)
    assert found.value <= exact * (1 + 1e-6)
