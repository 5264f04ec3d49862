"""Method `transfer`: what it proves against what is attained, on random graphs of normalisation, attention and gates."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from deviating import Builder, at_least, case, inside, jacobians
from thorough import FULL
from torch import Tensor

from lipcert.blocks.normalise import Normalise
from lipcert.blocks.softmax import Softmax
from lipcert.methods import METHODS
from lipcert.methods.problem import Problem
from lipcert.network.graph import Graph, Input, Node, Nonlinear
from lipcert.network.intervals import interval_ranges
from lipcert.regions.cells import Cells
from lipcert.regions.transfer import inequality, normalise, softmax
from lipcert.regions.transfer.constant import constant_on
from lipcert.regions.transfer.deviations import values
from lipcert.regions.transfer.reach import Origin, entrywise, inf_to_two
from lipcert.regions.transfer.rows import CENTRE
from lipcert.rigor.constants import Constant
from lipcert.rigor.matrix_norms import is_contraction
from lipcert.terms.query import Ball, Norm
from lipcert.terms.result import Bound, Refusal

ALL = 300 if FULL else 10


@pytest.mark.parametrize("seed", range(ALL))
def test_never_below_what_is_attained(seed: int) -> None:
    """Jacobians at corners and inside, and the outputs themselves."""
    graph, region, norm, x = case(seed)
    cells = Cells.of(region)
    with torch.no_grad():
        found = constant_on(graph, cells, norm, interval_ranges(graph, region) if seed % 2 else None)
        output = values(graph, cells)
    assert at_least(jacobians(graph, x), norm.input, norm.output) <= found.value * (1 + 1e-9)
    away = (graph.evaluate(x) - output.output[CENTRE].centre).abs().amax(0)
    assert bool((away <= entrywise(output.sources, output.output) * (1 + 1e-9) + 1e-12).all())


def transformer(tokens: int = 4, blocks: int = 1, width: int = 6, seed: int = 0) -> Graph:
    built = Builder(tokens, width, seed)
    u = built.dense(0)
    for _ in range(blocks):
        u = built.sum(u, built.attention(built.normalise(u), 2))
        u = built.sum(u, built.dense(built.pointwise(built.dense(built.normalise(u), 2 * width), "gelu_erf")))
    built.normalise(u)
    return built.graph(3)


@pytest.mark.parametrize("blocks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_transformers_are_closed(blocks: int) -> None:
    """Upper over attained, where intervals have 1e7 and more."""
    graph = transformer(blocks=blocks)
    centre = torch.randn(graph.nodes[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    region = Ball(centre, 1 / 255, "inf")
    with torch.no_grad():
        found = constant_on(graph, Cells.of(region), Norm("2", "2"))
    x = inside(centre, region.radius, "inf", 64, torch.Generator().manual_seed(2))
    attained = at_least(jacobians(graph, x), "2", "2")
    assert attained <= found.value <= 3 * attained
    assert found.inequality < found.recursion


def test_smaller_balls_have_smaller_constants_down_to_the_jacobian() -> None:
    graph = transformer()
    centre = torch.randn(graph.nodes[0].size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        found = [constant_on(graph, Cells.of(Ball(centre, r, "2")), Norm()).value for r in (1e-2, 1e-4, 1e-8)]
    assert found == sorted(found, reverse=True)
    assert found[-1] <= at_least(jacobians(graph, centre[None]), "2", "2") * (1 + 1e-5)


def test_the_method_answers_in_reports_and_names_the_node_it_cannot_treat() -> None:
    graph = transformer()
    region = Ball(torch.ones(graph.nodes[0].size) * 0.1 + torch.arange(24.0) / 24, 1e-3, "inf")
    found = METHODS["transfer"].run(Problem(graph, Norm(), region))
    assert isinstance(found, Bound)
    assert found.rigor == "proved"
    assert found.details["terms"] > 0
    whole = METHODS["transfer"].run(Problem(graph, Norm()))
    assert isinstance(whole, Refusal)
    assert "region" in whole.reason
    far = METHODS["transfer"].run(Problem(graph, Norm(), Ball(region.center, 1e300, "inf")))
    assert isinstance(far, Refusal) or math.isfinite(far.value)


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-2])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_normalisation_inequalities(n: int, eps: float) -> None:
    """Each of the three against points of the ball, on both sides of q = 1."""
    dice = torch.Generator().manual_seed(n)
    u = torch.randn(1, n, generator=dice, dtype=torch.float64) + (0.5 if n == 1 else 0)
    s = ((u * u).mean(1) + eps).sqrt()
    z = Constant(u / s[:, None])
    for share in (1e-6, 0.1, 0.5, 0.9, 1.3):
        d = share * s * math.sqrt(n)
        t = d * torch.linalg.vector_norm(z.centre, dim=1) / n
        off, length, entries = normalise.remainders(n, d, t, d[:, None].expand(1, n), z, s, eps)
        delta = torch.randn(500, n, generator=dice, dtype=torch.float64)
        delta = delta / torch.linalg.vector_norm(delta, dim=1, keepdim=True) * d

        def at(v: Tensor) -> Tensor:
            return v / ((v * v).mean(-1, keepdim=True) + eps).sqrt()

        J = torch.func.jacrev(at)(u[0])
        rho = at(u + delta) - z.centre - delta @ J.T
        away = torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(at))(u + delta) - J, 2)
        assert float(away.max()) <= float(off) * (1 + 1e-9)
        assert float(torch.linalg.vector_norm(rho, dim=1).max()) <= float(length) * (1 + 1e-9) + 1e-14
        assert bool((rho.abs().amax(0) <= entries[0] * (1 + 1e-9) + 1e-14).all())


def test_softmax_inequalities() -> None:
    dice = torch.Generator().manual_seed(5)
    for size, peaked in product((1e-4, 0.1, 1.0, 4.0), (0.3, 2.0, 5.0)):
        u = torch.randn(6, generator=dice, dtype=torch.float64) * peaked
        s = torch.softmax(u, 0)
        delta = (torch.rand(400, 6, generator=dice, dtype=torch.float64) * 2 - 1) * size
        a = delta - delta @ s[:, None]
        A = a.abs().amax(0)[None]
        R = (delta.amax(1) - delta.amin(1)).max()[None]
        kappa = softmax.spread(A, s[None], R)
        assert float((a.exp() @ s).log().max()) <= float(kappa) * (1 + 1e-9) + 1e-15
        off, below, above = softmax.remainders(A, kappa, Constant(s[None]))
        moved = torch.softmax(u + delta, 1)
        J = torch.diag(s) - s[:, None] * s
        rho = moved - s - delta @ J
        E = torch.diag_embed(moved) - moved[:, :, None] * moved[:, None, :] - J
        for side in (1, -1):  # w J +- E >= 0
            assert float(torch.linalg.eigvalsh(off * J + side * E).min()) >= -1e-12
        assert bool((rho.amax(0) <= above[0] * (1 + 1e-9) + 1e-15).all())
        assert bool((-rho.amin(0) <= below[0] * (1 + 1e-9) + 1e-15).all())


def test_an_entry_against_all_others_is_attained() -> None:
    """Where the others move alike, max U is the truth: a little less is no bound."""
    for p in (0.02, 0.3, 0.5, 0.8, 0.97):
        s = torch.tensor([p, 1 - p], dtype=torch.float64)
        a = torch.linspace(-1, 1, 2001, dtype=torch.float64)
        moved = torch.softmax(s.log() + torch.stack([a, -p / (1 - p) * a], 1), 1)[:, 0]
        largest = float((moved - p - p * a).max())
        above = float(softmax._against_others(torch.ones(1, 2, dtype=torch.float64), Constant(s[None]))[0, 0])
        assert largest <= above <= largest + 1e-6 + 1e-4 * largest


@pytest.mark.parametrize("block", [Softmax(2, 4, 3), Normalise(2, 4, 3, eps=1e-3, centred=True), Softmax(2, 4, 1)])
def test_groups_are_the_same_at_both_ends_of_a_term(block: Softmax | Normalise) -> None:
    """Group k of W's entries reads the rows of the axis to which group k of V's columns writes, on any axis (the groups of a
    softmax over a middle axis were those of the last one)."""
    size = block.outer * block.n * block.inner
    nodes = (Node(Input(), (), size, (1, size), "x"), Node(Nonlinear(block), (0,), size, (1, size), "y"))
    graph = Graph(nodes, 1, 0)
    cells = Cells.of(Ball(torch.randn(1, size).double(), 0.1, "inf"))
    (term,) = values(graph, cells).expansions[1].terms
    reads = term.inner.mv(torch.eye(size).double())  # (position, entry of W)
    for k in range(term.groups):
        at = reads[:, term.inner_group == k].abs().sum(1).nonzero().flatten().tolist()
        to = term.outer.centre[term.outer_group == k].abs().sum(0).nonzero().flatten().tolist()
        assert at == to
        assert len(at) == block.n


def test_norms_from_boxes_are_upper_values() -> None:
    dice = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 5, generator=dice, dtype=torch.float64)
    signs = torch.randn(4000, 40, generator=dice, dtype=torch.float64).sign()
    for _ in range(6):  # sign vectors that climb
        signs = ((signs @ rows) @ rows.T).sign()
    attained = float(torch.linalg.vector_norm(signs @ rows, dim=1).max())
    found = inf_to_two(rows, torch.zeros_like(rows))
    assert attained <= found <= 1.26 * attained


def test_an_ellipsoid_is_covered_by_its_longest_axis() -> None:
    cells = Cells(torch.zeros(1, 3).double(), torch.tensor([[0.1, 2.0, 0.5]]).double(), "2")
    assert Origin.of(cells, torch.arange(3)).lengths.tolist() == [2.0]  # type: ignore[union-attr]


def test_is_contraction_at_the_border() -> None:
    dice = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(30, 30, generator=dice, dtype=torch.float64)).Q
    zero = torch.zeros_like(Q)
    assert is_contraction(Q * (1 - 1e-8), zero)
    assert not is_contraction(Q * (1 + 1e-8), zero)
    assert not is_contraction(Q * (1 - 1e-8), zero + 1e-8)
    assert not is_contraction(Q * math.nan, zero)


def _half_the_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    real = normalise.remainders

    def halved(n: int, d: Tensor, t: Tensor, reach: Tensor, *rest: object) -> object:
        return real(n, d / 8, t / 8, reach / 8, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(normalise, "remainders", halved)


def _first_order_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multipliers whose inequality nobody proves."""
    monkeypatch.setattr(inequality, "is_contraction", lambda centre, radius: True)
    from lipcert.regions.transfer import multipliers

    real = multipliers.proved
    monkeypatch.setattr(multipliers, "proved", lambda q, m, d, boxed: real(q, m, d / 4, boxed))


@pytest.mark.parametrize("plant", [_half_the_reach, _first_order_only])
def test_planted_errors_are_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle of this file sees a reach that is too small, and an inequality that was not proved."""
    plant(monkeypatch)
    wrong = 0
    for seed in range(3):
        built = Builder(1, 6, seed)
        built.normalise(built.dense(0))
        graph = built.graph()
        centre = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            found = constant_on(graph, Cells.of(Ball(centre, 0.3, "2")), Norm("2", "2"))
        x = inside(centre, 0.3, "2", 3000, torch.Generator().manual_seed(seed))
        wrong += at_least(jacobians(graph, x), "2", "2") > found.value
    assert wrong > 0
