"""Piecewise quadratic networks by their pieces: against sampling, against polytopes whose vertices are known, and planted errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_regions import jacobians, sampled, sizes
from thorough import FULL
from torch import nn
from torch.nn import functional as F

import lipcert
from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import Norm

pytest.importorskip("numba")
from lipcert.regions.enumeration.constant import Bracket
from lipcert.regions.quadratic import constant as whole
from lipcert.regions.quadratic import hull as hulls
from lipcert.regions.quadratic import surrogate as surrogates
from lipcert.regions.quadratic.hull import closed, hull
from lipcert.regions.quadratic.pieces import Affine

NORMS = ("1", "2", "inf")


class Squared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**2


class Beside(nn.Module):
    """Two quadratic layers on paths of their own, and one that is linear."""

    def __init__(self, n: int, width: int, m: int):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(n, width), nn.Linear(n, width), nn.Linear(n, m)
        self.out = nn.Linear(2 * width, m)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([F.hardswish(self.a(x)), torch.relu(self.b(x)) ** 2], dim=1)) + self.c(x)


def network(seed: int) -> tuple[Graph, Cells, Norm]:
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    n, width, m = int(dice.integers(1, 4)), int(dice.integers(1, 7)), int(dice.integers(1, 4))
    kind = seed % 5
    parts: list[nn.Module] = [nn.Linear(n, width), nn.Hardswish(), nn.Linear(width, m)]
    if kind == 1:
        parts = [nn.Linear(n, width), nn.ReLU(), nn.Linear(width, width), nn.Hardswish(), nn.Linear(width, m)]
    elif kind == 2:
        parts = [nn.Linear(n, width), nn.ReLU(), Squared(), nn.Linear(width, m)]
    elif kind == 3:
        parts = [Beside(n, width, m)]
    module = nn.Sequential(*parts).double()
    for p in module.parameters():
        p.data *= float(dice.choice([1.0, 3.0]))
        if kind == 4:
            p.data = p.data.mul(2).round()  # kinks that meet
    graph = lipcert.load(module, input_shape=(1, n)).graph
    centre = torch.tensor(dice.normal(size=(1, n))) * (kind != 4)
    cells = Cells(
        centre, torch.full((1, n), float(dice.choice([1.0, 4.0])), dtype=torch.float64), "2" if seed % 9 == 8 else "inf"
    )
    return graph, cells, Norm(NORMS[int(dice.integers(3))], NORMS[int(dice.integers(3))])


def answer(graph: Graph, cells: Cells, norm: Norm) -> Bracket:
    return whole.quadratic_constant(graph, cells, norm, 1e-6, None)


@pytest.mark.parametrize("part", range(2))
def test_fuzzed_networks_are_sound_and_closed(part: int) -> None:
    count = 200 if FULL else 5
    for seed in range(count * part, count * (part + 1)):
        graph, cells, norm = network(seed)
        found = answer(graph, cells, norm)
        assert sampled(graph, cells, norm, 400) <= found.upper * (1 + 1e-9), seed
        assert found.lower <= found.upper, seed
        if cells.norm == "inf" and seed % 5 != 4:  # cells that are flat are left to branch and bound
            assert found.upper <= found.lower * (1 + 1e-6) + 1e-9, (seed, found)


def test_the_shared_network(shared: object) -> None:
    """1.8 % were open after 20 s of branch and bound."""
    model = lipcert.load(f"{shared}/wild/act_hswish.onnx")
    x = torch.zeros(model.input_shape, dtype=torch.float64)
    report = lipcert.bound(model, region=lipcert.Box(x - 3, x + 3), norm="2", methods=["regions"])
    assert report.upper <= report.lower * (1 + 1e-6)
    assert report.upper == pytest.approx(0.53355893, abs=1e-8)
    grid = torch.cartesian_prod(*[torch.linspace(-3, 3, 301, dtype=torch.float64)] * 2)
    seen = sizes(jacobians(model.graph, grid), Norm("2", "2")).max()
    assert 0.998 * report.upper <= seen <= report.upper


def test_planted_piece_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The side of a kink read wrongly: some network's samples are above what is called proved."""
    right = Affine._ramp

    def flattened(self: Affine, layer: surrogates.QuadraticLayer) -> object:
        return right(self, surrogates.QuadraticLayer(**{**vars(layer), "ramps": layer.ramps[:1] * len(layer.ramps)}))

    monkeypatch.setattr(Affine, "_ramp", flattened)
    assert any(sampled(*network(s), 300) > answer(*network(s)).upper * (1 + 1e-9) for s in (0, 5, 10, 15))


def test_planted_lack_of_vertices_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the check of completeness gone and vertices that nobody proposed, samples are above the upper value."""
    monkeypatch.setattr(hulls, "closed", lambda bases: True)
    whole_hull = hulls.hull
    monkeypatch.setattr(whole, "hull", lambda facets, corners: whole_hull(facets, corners[:1]))
    caught = 0
    for seed in range(0, 30, 5):
        graph, cells, norm = network(seed)
        if cells.norm == "inf":
            caught += sampled(graph, cells, norm, 400) > answer(graph, cells, norm).upper * (1 + 1e-9)
    assert caught


def distinct(points: np.ndarray) -> np.ndarray:
    _, first = np.unique(np.round(points, 9), axis=0, return_index=True)
    return points[first]


def random_polytope(seed: int, integer: bool) -> tuple[np.ndarray, np.ndarray]:
    """Facets around 0 in the cube, and its vertices by brute force."""
    dice = np.random.default_rng(seed)
    n = int(dice.integers(1, 5))
    normals = dice.integers(-2, 3, size=(4, n)).astype(float) if integer else dice.normal(size=(4, n))
    cuts = np.concatenate([normals, np.full((4, 1), 1.0) if integer else dice.uniform(0.2, 1.0, (4, 1))], axis=1)
    box = np.concatenate([np.concatenate([s * np.eye(n), np.ones((n, 1))], axis=1) for s in (1.0, -1.0)])
    facets = np.concatenate([cuts, box])
    corners = []
    for chosen in itertools.combinations(range(len(facets)), n):
        rows = facets[list(chosen)]
        if abs(np.linalg.det(rows[:, :n])) > 1e-9:
            x = np.linalg.solve(rows[:, :n], -rows[:, n])
            if (facets[:, :n] @ x + facets[:, n] > -1e-9).all():
                corners.append(x)
    return np.concatenate([facets, np.zeros((len(facets), 1))], axis=1), distinct(np.array(corners))


@pytest.mark.parametrize("integer", [False, True])
def test_hulls_hold_the_polytope_and_are_complete(integer: bool) -> None:
    proved = 0
    for seed in range(300 if FULL else 40):
        facets, corners = random_polytope(seed, integer)
        found = hull(facets, corners)
        if found is None:
            continue
        proved += 1
        direction = np.random.default_rng(seed).normal(size=(50, corners.shape[1]))
        want, have = (corners @ direction.T).max(axis=0), (found.points @ direction.T).max(axis=0)
        assert (want <= have + 1e-12).all(), seed
        assert (have <= want + 1e-6).all(), seed
        if len(corners) > 1:
            assert hull(facets, corners[1:]) is None or len(hull(facets, corners[1:]).points) == len(found.points)  # type: ignore[union-attr]
    assert proved >= (0.9 if not integer else 0.6) * (300 if FULL else 40)


def test_a_set_of_bases_with_a_gap_is_not_closed() -> None:
    square = np.array([[0, 1], [1, 2], [2, 3], [0, 3]])
    assert closed(square)
    assert not any(closed(np.delete(square, k, axis=0)) for k in range(4))
    assert closed(np.array([[0], [1]]))
    assert not closed(np.array([[0]]))


@pytest.mark.parametrize("name", [name for name, row in ACTIVATIONS.items() if "ramps" in vars(row)])
def test_ramps_are_the_slopes(name: str) -> None:
    row = ACTIVATIONS[name]
    params = (2.0,) if name == "pow_int" else tuple(row.parameters.values())
    bound = Elementwise(row, params)
    if not bound.ramps():
        return
    kinks = [float(k) for k in bound.kinks()]
    assert len(bound.ramps()) == len(kinks) + 1
    ends = [-10.0, *kinks, 10.0]
    for (low, high), ((m0, m1), (b0, b1)) in zip(itertools.pairwise(ends), bound.ramps(), strict=True):
        x = torch.linspace(low, high, 50, dtype=torch.float64)[1:-1].requires_grad_(True)
        slope = torch.autograd.grad(bound(x).sum(), x)[0]
        at = x.detach()
        assert bool((torch.minimum(m0 * at, m1 * at) + b0 - 1e-12 <= slope).all())
        assert bool((slope <= torch.maximum(m0 * at, m1 * at) + b1 + 1e-12).all())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.relu(x) ** 2,
        lambda x: x * torch.relu(x),
        lambda x: x * x.abs(),
        lambda x: F.leaky_relu(x, -0.3) ** 2,
    ],
)
def test_squares_are_read_as_piecewise_quadratic(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """One neuron on [-1, 3]: the largest slope is that at the right end."""

    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    graph = lipcert.load(Module(), input_shape=(1, 1)).graph
    found = answer(graph, Cells(torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double()), Norm("2", "2"))
    assert found.lower <= 6.0 <= found.upper <= 6.0 * (1 + 1e-6)
    assert found.closed


def test_what_follows_a_quadratic_layer_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Hardswish(), nn.Linear(3, 3), nn.ReLU())
    graph = lipcert.load(module, input_shape=(1, 2)).graph
    with pytest.raises(RefusedModel, match="use --method branch"):
        surrogates.surrogate(graph)


def test_a_deadline_leaves_a_bracket() -> None:
    graph, cells, norm = network(3)
    found = whole.quadratic_constant(graph, cells, norm, 1e-6, 0.0)
    assert sampled(graph, cells, norm, 400) <= found.upper * (1 + 1e-9)
    assert found.open
