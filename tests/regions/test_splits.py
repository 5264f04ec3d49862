"""Branch and bound over signs: never below what is attained, and with enough parts the optimum itself."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import pointwise, random_graph
from scipy.optimize import linprog
from slopes import cells_of, chain, points_in
from test_linear_soundness import branched, elementwise
from thorough import by_turns
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.backward.linear import linear_ranges, upper_values
from lipcert.regions.backward.lines import lines
from lipcert.regions.backward.optimised import Parts, optimised_values, proved
from lipcert.regions.backward.turning import Turning
from lipcert.regions.branch_and_bound.splits import Parted, SplitEffort, SplitTree, split_values
from lipcert.regions.cells import Cells

NAMES = ("relu", "leaky_relu", "abs", "tanh")
REGIONS = ("inf", "2", "1")
SMALL = SplitEffort(parts=60, steps=5, together=16)


@pytest.fixture(autouse=True)
def _floats() -> object:
    with torch.no_grad():
        yield


def uniform(cells: Cells) -> Cells:
    """Balls: as wide in every input."""
    radius = cells.radius.amax(dim=1, keepdim=True).expand_as(cells.radius).contiguous()
    return Cells(cells.centre, radius, cells.norm)


def functionals(graph: Graph, cells: Cells, k: int = 2) -> Tensor:
    dice = torch.Generator().manual_seed(5)
    return torch.randn(len(cells), k, graph.nodes[graph.output].size, generator=dice, dtype=torch.float64)


def attained(graph: Graph, cells: Cells, seeds: Tensor, trials: int = 12) -> Tensor:
    """(b, k): the largest value at points of the cells."""
    dice = torch.Generator().manual_seed(9)
    found = [torch.einsum("bkm,bm->bk", seeds, graph.evaluate(points_in(cells, dice))) for _ in range(trials)]
    return torch.stack(found).amax(dim=0)


def below(graph: Graph, cells: Cells, seeds: Tensor, upper: Tensor) -> int:
    seen = attained(graph, cells, seeds)
    return int((upper < seen - 1e-9 * (1 + seen.abs())).sum())


def never(seeds: Tensor) -> Tensor:
    """Nothing is enough: the search goes on."""
    return torch.full(seeds.shape[:2], -torch.inf, dtype=torch.float64)


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that does not look for points that attain too much."""
    monkeypatch.setattr(SplitTree, "refuted", lambda self, parts, proposal, enough: torch.zeros(len(enough)).bool())


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("name", by_turns(NAMES))
def test_never_below_what_is_attained_and_never_looser(name: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    dice = torch.Generator().manual_seed(1)
    torch.manual_seed(4)
    gained = 0
    for graph in (chain([3, 8, 8, 2], name), branched(2, name)):
        cells = uniform(cells_of(graph, 4, dice, region))
        seeds = functionals(graph, cells)
        rows, home = seeds.reshape(-1, seeds.shape[2]), torch.arange(4).repeat_interleave(2)
        ranges, found = linear_ranges(graph, cells)
        plain = upper_values(graph, cells, lambda at, rows=rows: rows[at], home, graph.output, ranges, found)
        turned = optimised_values(graph, cells, lambda at, rows=rows: rows[at], home, graph.output, ranges, found)
        whole = split_values(graph, cells, seeds, never(seeds), SMALL)
        noise = 1e-12 * (1 + plain.abs())
        assert bool((turned <= plain + noise).all())
        assert below(graph, cells, seeds, turned.reshape(4, 2)) == 0
        assert below(graph, cells, seeds, whole) == 0
        assert bool((whole.reshape(-1) <= plain + noise).all())
        gained += int((whole.reshape(-1) < turned - 1e-6).sum())
    assert gained > 0 or name == "tanh"


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", range(24))
def test_random_graphs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    graph = random_graph(seed, nonlinear=True, nodes=12)
    if not elementwise(graph):
        pytest.skip("no rule")
    cells = uniform(cells_of(graph, 3, torch.Generator().manual_seed(seed), REGIONS[seed % 3]))
    seeds = functionals(graph, cells)
    assert below(graph, cells, seeds, split_values(graph, cells, seeds, never(seeds), SMALL)) == 0


def optimum(graph: Graph, cells: Cells, seed: Tensor) -> float:
    """Of a chain of three affine parts and ReLUs on a box: the best of a linear program for each pattern of signs."""
    weights, offsets = (
        [getattr(graph.nodes[i].what, name) for i in range(first, len(graph.nodes), 3)]
        for name, first in (("operator", 1), ("value", 2))
    )
    (W1, W2, W3), (b1, b2, b3) = [w.weight[0].numpy() for w in weights], [b.numpy() for b in offsets]
    low, high = (end[0].numpy() for end in cells.ends())
    best = -math.inf
    for signs in itertools.product((-1.0, 1.0), repeat=len(b1) + len(b2)):
        first, second = np.array(signs[: len(b1)]), np.array(signs[len(b1) :])
        inner, shift = W2 @ np.diag(first > 0) @ W1, W2 @ ((first > 0) * b1) + b2
        row = seed.numpy() @ W3 @ np.diag(second > 0)
        sides = np.concatenate([-first[:, None] * W1, -second[:, None] * inner])
        found = linprog(
            -(row @ inner), sides, np.concatenate([first * b1, second * shift]), bounds=np.stack([low, high], 1)
        )
        if found.status == 0:
            best = max(best, float(row @ shift + seed.numpy() @ b3) - found.fun)
    return best


def small(seed: int) -> tuple[Graph, Cells, Tensor]:
    torch.manual_seed(seed)
    graph = chain([3, 4, 3, 2], "relu")
    cells = Cells(torch.randn(1, 3, dtype=torch.float64), torch.full((1, 3), 1.5, dtype=torch.float64))
    return graph, cells, functionals(graph, cells, 1)


@pytest.mark.parametrize("seed", by_turns(range(4)))
def test_it_comes_to_the_optimum_and_not_below(seed: int) -> None:
    graph, cells, seeds = small(seed)
    best = optimum(graph, cells, seeds[0, 0])
    for apart in (2e-3, -1e-3):
        enough = torch.full((1, 1), best + apart * (1 + abs(best)), dtype=torch.float64)
        found = split_values(graph, cells, seeds, enough, SplitEffort(parts=600))
        assert bool((found < enough).all()) == (apart > 0)
        assert float(found) >= best - 1e-9 * (1 + abs(best))


def caught() -> int:
    """Of small networks: where the value of the search is below the optimum."""
    found = 0
    for seed in range(3):
        graph, cells, seeds = small(seed)
        best = optimum(graph, cells, seeds[0, 0])
        found += int(float(split_values(graph, cells, seeds, never(seeds), SplitEffort(parts=24))) < best - 1e-6)
    return found


def test_prices_of_the_wrong_sign_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Parts.of.__func__  # type: ignore[attr-defined]

    def planted(cls: type, *given: Any) -> Parts:
        return real(cls, *given[:-1], {p: -sign for p, sign in given[-1].items()})

    blind(monkeypatch)
    monkeypatch.setattr(Parts, "of", classmethod(planted))
    assert caught() > 0


def test_a_half_that_is_forgotten_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SplitTree.halves
    blind(monkeypatch)
    monkeypatch.setattr(SplitTree, "halves", lambda self, parts: real(self, parts)[torch.arange(len(parts))])
    assert caught() > 0


def test_nothing_is_caught_where_nothing_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    assert caught() == 0


def test_whatever_is_chosen_it_is_proved() -> None:
    """Slopes and prices that no descent would come to, numbers that are none among them."""
    torch.manual_seed(3)
    graph = branched(5, "leaky_relu")
    cells = uniform(cells_of(graph, 6, torch.Generator().manual_seed(2), "inf"))
    seeds = functionals(graph, cells, 1)
    ranges = linear_ranges(graph, cells)[0]
    parts = Parts.of(graph, cells, seeds[:, 0], graph.output, ranges, {})
    for value in (-3.0, 0.3, 7.0, math.nan, math.inf, -math.inf):
        choice = {("slopes", i): torch.full_like(line.low, value) for i, line in parts.lines.items()}
        assert below(graph, cells, seeds, proved(graph, parts, choice)[:, None]) == 0


def crossed(name: str, slope: float, wider: float = 0.0) -> int:
    """At how many z a turned line lies on the wrong side of s(z). `wider`: planted, slopes beyond the corner's own."""
    activation = pointwise(name, 1).block.activation
    low, high = torch.tensor([[-2.0], [-0.1], [0.5]]).double(), torch.tensor([[1.0], [3.0], [2.0]]).double()
    turning = Turning.of(activation, low, high)
    assert turning is not None
    turning = Turning(turning.least - wider, turning.most + wider, turning.below, turning.above)
    found = turning.turned(lines(activation, low, high), torch.full_like(low, slope))
    z = low + (high - low) * torch.linspace(0, 1, 101, dtype=torch.float64)
    value, noise = activation(z), 1e-12
    below, above = found.low_slope * z + found.low, found.high_slope * z + found.high
    return int((below > value + noise).sum() + (above < value - noise).sum())


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs"])
def test_lines_that_turn_stay_on_their_side(name: str) -> None:
    for slope in (-math.inf, -3.0, -0.5, 0.0, 0.3, 1.0, 2.0, math.inf, math.nan):
        assert crossed(name, slope) == 0
    assert crossed(name, 2.0, wider=0.5) > 0


def test_a_point_that_attains_more_ends_the_search() -> None:
    graph, cells, seeds = small(0)
    tree = SplitTree(graph, cells, linear_ranges(graph, cells)[0], seeds, attained(graph, cells, seeds) - 1.0)
    tree.file(tree.bounded(Parted.whole(torch.arange(1)), 5))
    assert bool(tree.lost.all())
    assert not len(tree.worst(8, 100))
    assert float(tree.closed) >= float(attained(graph, cells, seeds))


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_of_any_size(scale: float) -> None:
    """What float32 cannot hold is only not made smaller."""
    graph, cells, seeds = small(1)
    far = Cells(cells.centre * scale, cells.radius * scale)
    found = split_values(graph, far, seeds / scale, torch.full((1, 1), -math.inf, dtype=torch.float64), SMALL)
    assert below(graph, far, seeds / scale, found) == 0
