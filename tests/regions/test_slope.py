"""The slope sweep against difference quotients and Jacobians taken by torch, on random networks, regions and norms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from families import FAMILIES
from helpers import pointwise, random_graph
from slopes import NORMS, cells_of, chain, jacobians, points_in, ratios
from torch import Tensor

from lipcert.activations import ACTIVATIONS
from lipcert.blocks.base import Block
from lipcert.blocks.product import MatMul
from lipcert.blocks.selection import Selection
from lipcert.network.graph import Add, Graph, Input, Linear, Node, Nonlinear
from lipcert.operators.linear import Dense
from lipcert.regions.cells import Cells
from lipcert.regions.forward import slope, slope_rules, stack, telescope
from lipcert.regions.forward.directions import ORDER, directions, norms_above, norms_below, orthonormal
from lipcert.regions.forward.slope import lipschitz_on, sweep
from lipcert.regions.forward.telescope import is_chain, telescoped
from lipcert.regions.forward.vertices import elementwise_only, unsettled, vertex_norms
from lipcert.terms.query import Norm

CHECKS = {"done": 0}


def quotients(graph: Graph, a: Tensor, b: Tensor, p: str, q: str) -> Tensor:
    """Difference quotients of floating evaluations, their noise taken off."""
    return ratios(a, b, graph.evaluate(a), graph.evaluate(b), p, q)


def violations(graph: Graph, cells: Cells, norms: list[tuple[str, str]], dice: torch.Generator) -> int:
    """How many uppers are below a quotient of points of their cell."""
    found = 0
    uppers = [lipschitz_on(graph, cells, Norm(p, q)) for p, q in norms]  # type: ignore[arg-type]
    for trial in range(4):
        a, b = points_in(cells, dice), points_in(cells, dice)
        b = a + (b - a) * [1.0, 1e-3][trial % 2]
        fa, fb = graph.evaluate(a), graph.evaluate(b)
        for (p, q), upper in zip(norms, uppers, strict=True):
            found += int((ratios(a, b, fa, fb, p, q) > upper * (1 + 1e-9)).sum())
    CHECKS["done"] += len(cells) * len(norms)
    return found


@pytest.mark.every(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_quotient_is_above_the_sweep(family: str) -> None:
    dice = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for seed in range(5):
            graph = FAMILIES[family](seed).graph()
            wide = graph.nodes[graph.input].size > 12
            norms = [NORMS[seed % 3], NORMS[3 + seed % 5]] if wide else NORMS
            assert violations(graph, cells_of(graph, 12 if wide else 25, dice), norms, dice) == 0, (family, seed)
            ball = cells_of(graph, 5, dice, ["1", "2"][seed % 2])
            assert violations(graph, ball, norms[:3], dice) == 0, (family, seed)


@pytest.mark.every(4)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation(name: str) -> None:
    """1 to 4 inputs, one hidden layer of that activation between dense ones."""
    dice = torch.Generator().manual_seed(3)
    torch.manual_seed(5)
    with torch.no_grad():
        for inputs in (1, 2, 3, 4):
            graph = chain([inputs, 6, 5, 1 + inputs % 2], name)
            assert violations(graph, cells_of(graph, 40, dice), NORMS[:6], dice) == 0


@pytest.mark.slow
def test_thirty_thousand_checks_on_graphs_written_down() -> None:
    dice = torch.Generator().manual_seed(11)
    before = CHECKS["done"]
    with torch.no_grad():
        for seed in range(120):
            graph = random_graph(seed, nonlinear=True, nodes=14)
            assert violations(graph, cells_of(graph, 64, dice), NORMS[:4], dice) == 0, seed
    assert CHECKS["done"] - before >= 30_000


@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu_erf", "leaky_relu", "softplus"])
def test_small_cells_are_tight(name: str, p: str) -> None:
    torch.manual_seed(2)
    graph = chain([3, 20, 20, 1], name)
    x = torch.randn(50, 3, dtype=torch.float64)
    cells = Cells(x, torch.full_like(x, 1e-9))
    with torch.no_grad():
        upper = lipschitz_on(graph, cells, Norm(p, p))  # type: ignore[arg-type]
    true = torch.linalg.vector_norm(jacobians(graph, x)[:, 0], ord=ORDER[{"1": "inf", "inf": "1"}.get(p, p)], dim=1)
    assert bool((upper >= true * (1 - 1e-12)).all())
    assert float((upper / true).median()) < 1 + 1e-6


@pytest.mark.parametrize(("p", "q"), NORMS)
def test_a_point_is_enclosed_from_both_sides(p: str, q: str) -> None:
    torch.manual_seed(4)
    graph = chain([4, 12, 12, 3], "relu")
    x = torch.randn(30, 4, dtype=torch.float64)
    cells = Cells(x, torch.zeros_like(x))
    norm = Norm(p, q)  # type: ignore[arg-type]
    with torch.no_grad():
        chosen = directions(graph, cells, norm)
        swept = sweep(graph, cells, chosen.toward)
        upper = norms_above(swept.centre, swept.radius, chosen, norm)
        lower = norms_below(swept.centre, swept.radius, chosen.toward, norm)
    assert bool((lower <= upper).all())
    if q == "inf" or p == "1" or (p, q) == ("2", "2") or p == "inf":
        assert bool((upper <= lower * (1 + 1e-9)).all()) or (p, q) in (("inf", "2"), ("inf", "1"))


def test_narrow_cells_hold_only_what_moves() -> None:
    """On a segment the constant is that of the restriction."""
    weight = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    nodes = (Node(Input(), (), 2, (2,), "x"), Node(Linear(Dense(weight)), (0,), 1, (1,), "a"))
    graph = Graph(nodes, 1)
    low, high = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    for p in ("1", "2", "inf"):
        segment = float(lipschitz_on(graph, Cells.boxes(low, high), Norm(p, p)))  # type: ignore[arg-type]
        point = float(lipschitz_on(graph, Cells.boxes(low, low), Norm(p, p)))  # type: ignore[arg-type]
        assert segment == pytest.approx(3.0, rel=1e-12)
        assert point == pytest.approx({"1": 4.0, "2": 5.0, "inf": 7.0}[p], rel=1e-12)


def assert_memory_does_not_matter(graph: Graph, cells: Cells, toward: Tensor) -> None:
    """A stack that nobody else reads is written over: the enclosures are those of fresh memory, to the bit."""
    reused = sweep(graph, cells, toward)
    with pytest.MonkeyPatch.context() as patch:
        for module in (slope, stack):
            patch.setattr(module, "spare", lambda *_: False)
        fresh = sweep(graph, cells, toward)
    for name in ("centre", "radius", "lower", "upper"):
        assert torch.equal(getattr(reused, name), getattr(fresh, name)), name
    for i, sides in fresh.slopes.items():
        assert all(torch.equal(a, b) for a, b in zip(reused.slopes[i], sides, strict=True)), i


@pytest.mark.parametrize("family", FAMILIES)
def test_written_over_or_not_is_the_same(family: str) -> None:
    for seed in range(6):
        dice = torch.Generator().manual_seed(seed)
        graph = FAMILIES[family](seed).graph()
        cells = cells_of(graph, 5, dice)
        assert_memory_does_not_matter(
            graph, cells, torch.randn(5, 2, cells.centre.shape[1], generator=dice, dtype=torch.float64)
        )


def test_memory_that_two_signals_share_is_not_written_over() -> None:
    """z = 2 x, |z| + z from relu(z) and relu(-z), with a sum of one term in between that hands z on as it is."""
    eye = torch.eye(3, dtype=torch.float64)
    steps = [
        (Input(), ()),
        (Linear(Dense(2 * eye[None])), (0,)),
        (Add(), (1,)),
        (pointwise("relu", 3), (2,)),
        (Linear(Dense(-eye[None])), (1,)),
        (pointwise("relu", 3), (4,)),
        (Add(), (3, 5, 1)),
    ]
    graph = Graph(tuple(Node(what, parents, 3, (3,), str(i)) for i, (what, parents) in enumerate(steps)), 6)
    assert_memory_does_not_matter(graph, Cells.boxes(eye - 0.25, eye + 0.25), eye[None].expand(3, 3, 3).contiguous())


def test_vertices_hold_and_are_never_looser() -> None:
    dice = torch.Generator().manual_seed(1)
    torch.manual_seed(9)
    graph = chain([2, 10, 10, 2], "relu")
    cells = cells_of(graph, 200, dice)
    assert elementwise_only(graph)
    for p, q in NORMS[:6]:
        norm = Norm(p, q)  # type: ignore[arg-type]
        chosen = directions(graph, cells, norm)
        swept = sweep(graph, cells, chosen.toward)
        assert int(unsettled(swept.slopes, cells.centre).max()) > 4
        plain = norms_above(swept.centre, swept.radius, chosen, norm)
        fine = vertex_norms(graph, swept.slopes, chosen, norm, 4)
        assert bool((fine <= plain * (1 + 1e-9)).all())
        assert bool((fine < plain * (1 - 1e-6)).any())
        for _ in range(8):
            a, b = points_in(cells, dice), points_in(cells, dice)
            assert bool((quotients(graph, a, b, p, q) <= fine * (1 + 1e-9)).all())


def test_bases_are_orthonormal_up_to_what_is_said() -> None:
    torch.manual_seed(0)
    first, moving = torch.randn(40, 5, dtype=torch.float64), (torch.rand(40, 5) < 0.7).double()
    moving[:, 0] = 1
    first[0] = 0
    q, defect = orthonormal(first * moving, moving)
    inner = q @ q.mT
    assert float((inner - torch.diag_embed(moving)).abs().max()) < 1e-14
    assert bool((defect < 1 + 1e-12).all())


def test_every_block_has_a_rule() -> None:
    def kinds(block: type) -> set[type]:
        below = set(block.__subclasses__())
        return below | {k for b in below for k in kinds(b)}

    room = "lipcert.blocks."  # those of certificates and of tests have no rule here
    found = {k for k in kinds(Block) if k.__module__.startswith(room) and k.__name__ != "Axis"}
    assert found == set(slope_rules.RULES)
    assert MatMul in slope_rules.RULES


def test_nothing_finite_where_a_jump_lies_inside() -> None:
    graph = chain([1, 3, 1], "sign")
    x = torch.tensor([[0.0]], dtype=torch.float64)
    assert float(lipschitz_on(graph, Cells(x, x + 10), Norm())) == math.inf


def test_empty_and_single() -> None:
    graph = chain([2, 3, 1], "relu")
    none = torch.zeros(0, 2, dtype=torch.float64)
    assert lipschitz_on(graph, Cells.boxes(none, none), Norm()).shape == (0,)


# Errors planted in the rules are seen.


def test_a_pool_that_forgets_a_rival_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_only(block: Block, entry: slope_rules.Entry, centre: Tensor, radius: Tensor) -> slope_rules.Stack:
        assert isinstance(block, Selection)
        place = block.windows[:, 0]
        return centre.index_select(2, place), radius.index_select(2, place)

    steep = torch.tensor([[[1.0, 0.0], [0.0, 10.0]]], dtype=torch.float64)
    pool = Nonlinear(Selection(torch.tensor([[0, 1]]), 2))
    nodes = (
        Node(Input(), (), 2, (2,), "x"),
        Node(Linear(Dense(steep)), (0,), 2, (2,), "a"),
        Node(pool, (1,), 1, (1,), "z"),
    )
    graph = Graph(nodes, 2)
    dice = torch.Generator().manual_seed(0)
    assert violations(graph, cells_of(graph, 30, dice), NORMS[:2], dice) == 0
    monkeypatch.setitem(slope_rules.RULES, Selection, slope_rules.through_jacobian(first_only))
    assert violations(graph, cells_of(graph, 30, dice), NORMS[:2], dice) > 0


def test_a_chord_of_the_centre_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = slope_rules.elementwise_slopes

    def narrow(activation: object, entry: slope_rules.Entry) -> object:
        point = replace(entry, lower=entry.value, upper=entry.value)
        return honest(activation, point)  # type: ignore[arg-type]

    monkeypatch.setattr(slope_rules, "elementwise_slopes", narrow)
    assert caught("mlp")


def caught(family: str) -> bool:
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        graphs = [FAMILIES[family](seed).graph() for seed in range(6)]
        return any(violations(graph, cells_of(graph, 30, dice), NORMS[:2], dice) for graph in graphs)


# Chains: errors that pass through products of centre matrices (telescope.py).


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs", "tanh", "gelu_erf"])
def test_telescoped_chains_hold_and_are_tighter(name: str) -> None:
    dice = torch.Generator().manual_seed(2)
    torch.manual_seed(3)
    gains = []
    with torch.no_grad():
        for sizes in ([2, 8, 8, 8, 8, 1], [3, 10, 10, 10, 2], [1, 5, 5, 5, 5, 5, 1]):
            graph = chain(sizes, name)
            assert is_chain(graph)
            for p, q, ball in (("inf", "inf", "inf"), ("2", "2", "2"), ("1", "2", "inf"), ("2", "inf", "1")):
                cells, norm = cells_of(graph, 60, dice, ball), Norm(p, q)  # type: ignore[arg-type]
                chosen = directions(graph, cells, norm)
                plain, fine = (
                    norms_above(s.centre, s.radius, chosen, norm)
                    for s in (sweep(graph, cells, chosen.toward), telescoped(graph, cells, chosen.toward))
                )
                gains.append(float((plain / fine).median()))
                for trial in range(4):
                    a, b = points_in(cells, dice), points_in(cells, dice)
                    b = a + (b - a) * [1.0, 1e-3][trial % 2]
                    assert bool((quotients(graph, a, b, p, q) <= fine * (1 + 1e-9)).all())
    assert sum(gains) / len(gains) > (1 - 1e-9 if name == "abs" else 1.0)  # middle slopes of abs are 0


def test_telescoped_without_its_errors_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = torch.Generator().manual_seed(2)
    torch.manual_seed(3)
    graph, norm = chain([2, 8, 8, 8, 1], "relu"), Norm("2", "2")
    cells = cells_of(graph, 60, dice)
    chosen = directions(graph, cells, norm)
    a, b = points_in(cells, dice), points_in(cells, dice)

    def above() -> Tensor:
        with torch.no_grad():
            fine = telescoped(graph, cells, chosen.toward)
            return norms_above(fine.centre, fine.radius, chosen, norm)

    assert bool((quotients(graph, a, b, "2", "2") <= above() * (1 + 1e-9)).all())
    monkeypatch.setattr(telescope, "_whole", lambda stack, products, errors: stack)
    assert not bool((quotients(graph, a, b, "2", "2") <= above() * (1 + 1e-9)).all())
