"""Second derivatives of activations against mpmath, and the second-order sweep against sampled gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import mpmath
import pytest
import torch
from mpmath import mpf
from slopes import cells_of, chain, jacobians, points_in
from test_activations import bound_params, shrunk, sigma, violations
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Activation, Elementwise
from lipcert.activations.curve import no_landmarks
from lipcert.network.graph import Graph, Linear, Node
from lipcert.operators.linear import Dense
from lipcert.regions.branch_and_bound import branching
from lipcert.regions.branch_and_bound.branching import Effort, bracket
from lipcert.regions.cells import Cells
from lipcert.regions.forward import curvature
from lipcert.regions.forward.curvature import curved, is_curved
from lipcert.regions.forward.directions import directions, norms_above
from lipcert.regions.forward.slope import sweep
from lipcert.terms.query import Norm

SMOOTH = sorted(name for name, row in ACTIVATIONS.items() if row.curvatures_on is not None)


def gelu_slope(x, k, c):
    y = k * x
    gate = mpmath.erfc(-y) if abs(y) < 1000 else 1 + mpmath.sign(y)
    return c * (gate / 2 + y * mpmath.exp(-y * y) / mpmath.sqrt(mpmath.pi))


def silu_slope(x, a):
    return sigma(a * x) * (1 + a * x * sigma(-a * x))


SLOPES: dict[str, Callable] = {
    "sigmoid": lambda x: sigma(x) * sigma(-x),
    "logsigmoid": lambda x: sigma(-x),
    "tanh": lambda x: mpmath.sech(x) ** 2,
    "softplus": lambda x, b, t: mpf(1) if t < 20 and b * x > t else sigma(b * x),
    "atan": lambda x: 1 / (1 + x * x),
    "erf": lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x),
    "gelu_erf": gelu_slope,
    "silu": silu_slope,
    "quick_gelu": silu_slope,
    "sin": mpmath.cos,
    "cos": lambda x: -mpmath.sin(x),
    "exp": mpmath.exp,
    "expm1": mpmath.exp,
    "log": lambda x: 1 / x if x else mpmath.inf,
    "log1p": lambda x: 1 / (1 + x) if 1 + x else mpmath.inf,
    "sqrt": lambda x: 1 / (2 * mpmath.sqrt(x)) if x else mpmath.inf,
    "rsqrt": lambda x: -1 / (2 * x * mpmath.sqrt(x)) if x else -mpmath.inf,
    "reciprocal": lambda x: -1 / (x * x) if x else -mpmath.inf,
    "square": lambda x: 2 * x,
    "pow": lambda x, p: p * x ** (p - 1) if x or p >= 1 else mpmath.inf,
    "pow_int": lambda x, n: n * x ** (n - 1) if x or n >= 1 else mpmath.inf,
    "sinh": mpmath.cosh,
    "cosh": mpmath.sinh,
}


def derivative(row: Activation, **changed: object) -> Activation:
    """s' as an activation: its slopes are s'', its chords those of s'."""
    bent = replace(row, **changed)
    return replace(
        bent,
        slopes_on=bent.curvatures_on,
        values_on=bent.slopes_on,
        chords_on=lambda *args: Elementwise(bent, args[3:]).bends_on(*args[:3]),
    )


def test_every_curvature_has_an_oracle() -> None:
    assert set(SMOOTH) == set(SLOPES)


@pytest.mark.parametrize(("name", "params"), [(name, p) for name in SMOOTH for p in bound_params(name)], ids=str)
def test_curvatures_enclose_the_oracle(name: str, params: tuple[float, ...]) -> None:
    assert violations(Elementwise(derivative(ACTIVATIONS[name]), params), SLOPES[name]) == []


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu_erf", "silu", "softplus", "exp"])
def test_a_curvature_that_is_too_small_is_caught(name: str) -> None:
    row = ACTIVATIONS[name]
    wrong = derivative(row, curvatures_on=shrunk(row.curvatures_on, 1 - 1e-9))
    assert violations(Elementwise(wrong, bound_params(name)[0]), SLOPES[name], count=120)


@pytest.mark.parametrize("name", ["tanh", "gelu_erf", "silu", "atan"])
def test_a_forgotten_turn_is_caught(name: str) -> None:
    row = ACTIVATIONS[name]
    wrong = derivative(row, curvatures_on=replace(row.curvatures_on, landmarks=no_landmarks))
    assert violations(Elementwise(wrong, bound_params(name)[0]), SLOPES[name], count=120)


# The sweep.


def outside(graph: Graph, cells: Cells, toward: Tensor, dice: torch.Generator) -> int:
    """How many entries of J d at points of the cells lie outside the second-order enclosure, or it outside the first."""
    first, second = sweep(graph, cells, toward), curved(graph, cells, toward)
    found = int((second.radius > first.radius * (1 + 1e-6) + 1e-12).sum())
    for _ in range(6):
        x = points_in(cells, dice)
        image = (jacobians(graph, x) @ toward.mT).mT
        noise = 1e-10 * (1 + image.abs())
        found += int(((image - second.centre).abs() > second.radius + noise).sum())
    return found


@pytest.mark.every(3)
@pytest.mark.parametrize("name", [n for n in SMOOTH if n != "exp"])
def test_gradients_lie_inside(name: str) -> None:
    dice = torch.Generator().manual_seed(1)
    torch.manual_seed(6)
    with torch.no_grad():
        for sizes in ([1, 5, 1], [2, 8, 8, 1], [3, 6, 6, 6, 2], [4, 5, 3]):
            graph = chain(sizes, name)
            assert is_curved(graph)
            for ball in ("inf", "2", "1"):
                cells = cells_of(graph, 60, dice, ball)
                toward = torch.randn(60, 3, sizes[0], generator=dice, dtype=torch.float64)
                assert outside(graph, cells, toward, dice) == 0, (sizes, ball)


def test_a_sweep_that_forgets_the_bend_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = torch.Generator().manual_seed(1)
    torch.manual_seed(6)
    graph = chain([2, 8, 8, 1], "tanh")
    cells = cells_of(graph, 60, dice)
    toward = torch.randn(60, 3, 2, generator=dice, dtype=torch.float64)
    with torch.no_grad():
        assert outside(graph, cells, toward, dice) == 0
        monkeypatch.setattr(Elementwise, "bends_on", lambda self, c, lo, hi: (torch.zeros_like(c), torch.zeros_like(c)))
        assert outside(graph, cells, toward, dice) > 0


@pytest.mark.every(5)
@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("name", ["tanh", "gelu_erf", "softplus", "silu"])
def test_excess_falls_with_the_square_of_the_width(name: str, p: str) -> None:
    """Above the largest gradient of the cell, by first and by second order."""
    dice = torch.Generator().manual_seed(4)
    torch.manual_seed(3)
    graph, norm = chain([2, 16, 16, 1], name), Norm(p, p)  # type: ignore[arg-type]
    x = torch.randn(200, 2, generator=dice, dtype=torch.float64)
    lines = torch.linspace(-1, 1, 21, dtype=torch.float64)
    excess: list[list[float]] = []
    with torch.no_grad():
        for width in (1e-2, 1e-3):
            cells = Cells(x, torch.full_like(x, width))
            chosen = directions(graph, cells, norm)
            offsets = torch.cartesian_prod(lines, lines) * width
            at = (x[:, None] + offsets).reshape(-1, 2)
            order = {"1": math.inf, "2": 2.0, "inf": 1.0}[p]
            true = torch.linalg.vector_norm(jacobians(graph, at)[:, 0], ord=order, dim=1).reshape(200, -1).amax(dim=1)
            uppers = [norms_above(s.centre, s.radius, chosen, norm) for s in (
                sweep(graph, cells, chosen.toward), curved(graph, cells, chosen.toward)
            )]  # fmt: skip
            assert all(bool((upper >= true * (1 - 1e-12)).all()) for upper in uppers)
            excess.append([float(((upper - true) / true).median()) for upper in uppers])
    (first, second), (first_small, second_small) = excess
    assert second < first / 4
    assert 5 < first / first_small < 20
    assert second / second_small > 50


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_branching_needs_fewer_leaves(p: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    graph, norm = chain([2, 16, 16, 1], "tanh"), Norm(p, p)  # type: ignore[arg-type]
    lines = torch.linspace(-1, 1, 5, dtype=torch.float64)
    low = torch.cartesian_prod(lines[:-1], lines[:-1])[::3]
    with torch.no_grad():
        fine = bracket(graph, Cells.boxes(low, low + 0.5), norm, Effort(3e-3))
        monkeypatch.setattr(branching, "is_curved", lambda graph: False)
        plain = bracket(graph, Cells.boxes(low, low + 0.5), norm, Effort(3e-3))
    assert bool(fine.closed.all() & plain.closed.all())
    assert fine.leaves < plain.leaves / 4
    assert bool((fine.lower <= plain.upper).all() & (plain.lower <= fine.upper).all())
    order = {"1": math.inf, "2": 2.0, "inf": 1.0}[p]
    at = torch.linalg.vector_norm(jacobians(graph, fine.point)[:, 0], ord=order, dim=1)
    assert bool((fine.lower <= at * (1 + 1e-12)).all())
    assert bool(((fine.point >= low) & (fine.point <= low + 0.5)).all())


def test_kinks_and_many_inputs_stay_of_first_order() -> None:
    assert not is_curved(chain([2, 4, 1], "relu"))
    assert not is_curved(chain([curvature.FEW_INPUTS + 1, 4, 1], "tanh"))
    assert not is_curved(chain([2, 1], "tanh"))


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_a_constant_network_has_constant_zero(p: str) -> None:
    """What underflow is granted must not keep leaves open for ever."""
    graph = chain([2, 4, 4, 1], "tanh")
    last = max(i for i, node in enumerate(graph.nodes) if isinstance(node.what, Linear))
    none = Node(Linear(Dense(torch.zeros(1, 1, 4, dtype=torch.float64))), graph.nodes[last].parents, 1, (1,), "none")
    graph = Graph((*graph.nodes[:last], none, *graph.nodes[last + 1 :]), graph.output)
    whole = Cells.boxes(-torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    with torch.no_grad():
        found = bracket(graph, whole, Norm(p, p), Effort(rtol=1e-2))  # type: ignore[arg-type]
    assert float(found.upper) == 0.0
    assert found.leaves == 1
