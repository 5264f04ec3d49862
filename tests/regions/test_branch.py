"""`jacobian`, `branch` and the search behind it against slow oracles: exact enumeration of the linear pieces, dense grids."""

from __future__ import annotations

import math

import pytest
import torch
from dense import DUAL, chain, gradients
from families import FAMILIES
from helpers import pointwise
from torch import Tensor

import lipcert
from lipcert.methods.branch import Branch
from lipcert.methods.jacobian import Jacobian
from lipcert.methods.problem import Problem
from lipcert.network.graph import Graph, Input, Linear, Node
from lipcert.operators.linear import Dense
from lipcert.regions.branch_and_bound import branching
from lipcert.regions.branch_and_bound.branching import Brackets, Effort, bracket
from lipcert.regions.cells import Cells
from lipcert.regions.forward.directions import ORDER
from lipcert.terms.query import Ball, Box, Norm
from lipcert.terms.result import Bound

SAME = ["1", "2", "inf"]


def solved(graph: Graph, region: Box | Ball, norm: Norm, **effort: float) -> Brackets:
    with torch.no_grad():
        return bracket(graph, Cells.of(region), norm, Effort(**({"rtol": 1e-6} | effort)))  # type: ignore[arg-type]


def box(low: list[float], high: list[float]) -> Box:
    return Box(torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))


def on_a_grid(graph: Graph, low: list[float], high: list[float], p: str, count: int) -> float:
    """Largest gradient norm of one output at points of a dense grid."""
    lines = [torch.linspace(a, b, count, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    x = torch.cartesian_prod(*lines).reshape(-1, len(lines))
    return float(torch.linalg.vector_norm(gradients(graph, x)[:, 0], ord=DUAL[p], dim=1).max())


def largest_slope_of_a_line(graph: Graph, low: float, high: float) -> float:
    """Exact for piecewise linear networks of one input: the pieces are halved down until both ends agree."""
    x = torch.linspace(low, high, 20_001, dtype=torch.float64)[:, None]
    y = graph.evaluate(x)[:, 0]
    return float(((y[1:] - y[:-1]) / (x[1:] - x[:-1])[:, 0]).abs().max())


@pytest.mark.every(3)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs", "tanh", "gelu_erf"])
def test_one_input_against_a_dense_line(seed: int, name: str) -> None:
    graph = chain(seed, [1, 8, 8, 1], name)
    found = solved(graph, box([-2.0], [1.5]), Norm(), rtol=1e-3)
    true = largest_slope_of_a_line(graph, -2.0, 1.5)
    assert bool(found.closed)
    assert true <= float(found.upper) * (1 + 1e-9)
    assert float(found.lower) <= true * (1 + 2e-3)  # the pieces can be narrower than the line is dense
    assert float(found.lower) == pytest.approx(true, rel=2e-2)


@pytest.mark.every(3)
@pytest.mark.parametrize("p", SAME)
@pytest.mark.parametrize("name", ["relu", "tanh", "softplus"])
@pytest.mark.parametrize("seed", range(2))
def test_two_inputs_against_a_dense_grid(seed: int, name: str, p: str) -> None:
    graph = chain(10 + seed, [2, 10, 10, 1], name)
    found = solved(graph, box([-1.0, -0.5], [1.0, 1.5]), Norm(p, p), rtol=1e-4 if name == "relu" else 1e-2)  # type: ignore[arg-type]
    true = on_a_grid(graph, [-1.0, -0.5], [1.0, 1.5], p, 300)
    assert bool(found.closed)
    assert true <= float(found.upper) * (1 + 1e-12)
    at = torch.linalg.vector_norm(gradients(graph, found.point)[:, 0], ord=DUAL[p], dim=1)
    assert float(found.lower) <= float(at) * (1 + 1e-12)
    assert float(found.lower) >= true * (1 - 2e-2)


def kink() -> Graph:
    """relu(x + y) + relu(x - 2 y): the two hinges meet in the origin."""
    first = torch.tensor([[[1.0, 1.0], [1.0, -2.0]]], dtype=torch.float64)
    last = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
    return Graph(
        (
            Node(Input(), (), 2, (1, 2), "x"),
            Node(Linear(Dense(first)), (0,), 2, (1, 2), "a"),
            Node(pointwise("relu", 2), (1,), 2, (1, 2), "z"),
            Node(Linear(Dense(last)), (2,), 1, (1, 1), "y"),
        ),
        3,
    )


@pytest.mark.every(4)
@pytest.mark.parametrize("p", SAME)
@pytest.mark.parametrize("radius", [0.0, 1e-9, 0.5, 3.0])
@pytest.mark.parametrize("ball", ["1", "2", "inf"])
def test_a_kink_is_closed(p: str, radius: float, ball: str) -> None:
    """Exact although no cell around the origin ever settles."""
    graph = kink()
    region = Ball(torch.zeros(1, 2, dtype=torch.float64), radius, ball)  # type: ignore[arg-type]
    found = solved(graph, region, Norm(p, p))  # type: ignore[arg-type]
    angles = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)
    around = torch.stack([angles.cos(), angles.sin()], dim=1)
    true = float(torch.linalg.vector_norm(gradients(graph, around)[:, 0], ord=DUAL[p], dim=1).max())
    assert float(found.upper) >= true
    if radius:
        assert float(found.upper) == pytest.approx(true, rel=1e-5)
        assert bool(found.closed)


@pytest.mark.parametrize(("p", "q"), [("1", "2"), ("2", "inf"), ("inf", "inf"), ("1", "1"), ("2", "2"), ("inf", "1")])
def test_vector_outputs(p: str, q: str) -> None:
    graph = chain(3, [2, 6, 3], "relu")
    found = solved(graph, box([-1.0, -1.0], [1.0, 1.0]), Norm(p, q), rtol=1e-3)  # type: ignore[arg-type]
    lines = torch.linspace(-1, 1, 150, dtype=torch.float64)
    J = gradients(graph, torch.cartesian_prod(lines, lines))
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    if p == "2" and q == "2":
        true = float(torch.linalg.matrix_norm(J, 2).max())
    elif p == "2":
        true = float(torch.linalg.vector_norm(J, dim=2).max())
    else:
        v = torch.eye(2, dtype=torch.float64) if p == "1" else signs
        true = float(torch.linalg.vector_norm(J @ v.T, ord=ORDER[q], dim=1).max())  # type: ignore[index]
    assert float(found.upper) >= true * (1 - 1e-12)
    assert float(found.upper) == pytest.approx(true, rel=5e-3)


@pytest.mark.parametrize("family", ["mlp", "conv1d", "residual"])
def test_every_lower_is_below_every_upper(family: str) -> None:
    """Of all methods, and of runs with other efforts, on the same region and on regions inside it."""
    for seed in range(2):
        graph = FAMILIES[family](seed).graph()
        n = graph.nodes[graph.input].size
        if n > 64:
            continue
        dice = torch.Generator().manual_seed(seed)
        centre = torch.randn(graph.input_shape, generator=dice, dtype=torch.float64)
        outer, inner = Box(centre - 0.3, centre + 0.3), Box(centre - 0.05, centre + 0.1)
        few, many = (solved(graph, outer, Norm("2", "2"), leaves=k, rtol=1e-3, deadline=None) for k in (8, 300))
        small = solved(graph, inner, Norm("2", "2"), leaves=50, rtol=1e-3)
        assert float(few.lower) <= float(many.upper)
        assert float(many.lower) <= float(few.upper)
        assert float(many.upper) <= float(few.upper) * (1 + 1e-12)
        assert float(small.lower) <= float(many.upper)


def test_many_regions_at_once_are_each_alone() -> None:
    graph = chain(5, [2, 12, 12, 1], "relu")
    lines = torch.linspace(-1, 1, 6, dtype=torch.float64)
    low = torch.cartesian_prod(lines[:-1], lines[:-1])
    cells = Cells.boxes(low, low + 0.4)
    with torch.no_grad():
        together = bracket(graph, cells, Norm("inf", "inf"), Effort(1e-4))
        for k in range(0, len(cells), 5):
            alone = bracket(graph, cells[k : k + 1], Norm("inf", "inf"), Effort(1e-4))
            assert float(alone.upper) == pytest.approx(float(together.upper[k]), rel=2e-4, abs=1e-12)
    assert bool(together.closed.all())
    whole = solved(graph, box([-1.0, -1.0], [1.0, 1.0]), Norm("inf", "inf"), rtol=1e-4)
    assert float(together.upper.max()) == pytest.approx(float(whole.upper), rel=3e-4)


def test_spent_effort_leaves_a_true_bracket() -> None:
    graph = chain(7, [4, 30, 30, 30, 1], "tanh", 3.0)
    region = box([-1.0] * 4, [1.0] * 4)
    uppers = [solved(graph, region, Norm(), leaves=k) for k in (1, 200, 2000)]
    true = on_a_grid(graph, [-1.0] * 4, [1.0] * 4, "2", 9)
    for found in uppers:
        assert true <= float(found.upper)
        assert not bool(found.closed)
    assert float(uppers[2].upper) < float(uppers[0].upper)


def test_pruned_leaves_that_are_forgotten_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle of this file can fail: a search that drops what it prunes reports less than is attained."""
    graph = chain(5, [2, 12, 12, 1], "relu")
    true = on_a_grid(graph, [-1.0, -1.0], [1.0, 1.0], "inf", 300)

    def forgetful(self: branching._Search, new: branching.Leaves, old: branching.Leaves | None = None) -> None:
        keep = new.value > self.target()[new.root]
        self.open = new[keep] if old is None else old + new[keep]

    region = box([-1.0, -1.0], [1.0, 1.0])
    assert float(solved(graph, region, Norm("inf", "inf")).upper) >= true
    monkeypatch.setattr(branching._Search, "_settle", forgetful)
    assert float(solved(graph, region, Norm("inf", "inf")).upper) < true


# The methods.


@pytest.mark.parametrize("p", SAME)
def test_no_width_no_inputs_no_outputs(p: str) -> None:
    """Points, segments, one input, no output: numbers, never an error."""
    for sizes in ([1, 3, 1], [2, 3, 1], [2, 3, 0], [3, 1]):
        graph = chain(1, sizes, "relu")
        n = sizes[0]
        point = torch.full((n,), 0.25, dtype=torch.float64)
        segment = point + torch.tensor([1.0] + [0.0] * (n - 1), dtype=torch.float64)
        for region in (Box(point, point), Box(point, segment), Ball(point, 0.0, "2"), Ball(point, 1.0, "1")):
            for method in (Jacobian(), Branch()):
                problem = Problem(graph, Norm(p, p), region)  # type: ignore[arg-type]
                with torch.no_grad():
                    result = method.run(problem)
                assert isinstance(result, Bound)
                assert math.isfinite(result.value)
                assert all(aside.value <= result.value for aside in problem.aside if isinstance(aside, Bound))
                if sizes[-1] == 0:
                    assert result.value == 0


def test_a_point_has_the_gradient_norm() -> None:
    graph = chain(2, [3, 10, 1], "tanh")
    x = torch.tensor([0.1, -0.4, 0.3], dtype=torch.float64)
    for p in SAME:
        with torch.no_grad():
            result = Jacobian().run(Problem(graph, Norm(p, p), Ball(x, 0.0, "inf")))  # type: ignore[arg-type]
        true = float(torch.linalg.vector_norm(gradients(graph, x[None])[0, 0], ord=DUAL[p]))
        assert isinstance(result, Bound)
        assert result.value == pytest.approx(true, rel=1e-10)
        assert result.value >= true * (1 - 1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_end_to_end_on_a_box(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).to(dtype).double()
    model = lipcert.load(net, input_shape=(1, 2))
    region = Box(torch.full((1, 2), -1.0).double(), torch.full((1, 2), 1.0).double())
    report = lipcert.bound(model, region=region, norm="inf", methods=["jacobian", "branch", "sampled"])
    assert report.exit_code == 0
    assert report.upper is not None
    assert report.lower is not None
    assert report.lower <= report.upper <= report.lower * (1 + 1e-5)
    assert {r.method for r in report.results} == {"jacobian", "branch", "sampled"}


def test_no_finite_value_names_the_node() -> None:
    class Root(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sqrt(x)

    model = lipcert.load(Root(), input_shape=(1, 2))
    around = Box(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    report = lipcert.bound(model, region=around, methods=["jacobian", "branch"])
    assert report.exit_code == 3
    assert all("sqrt" in str(r.node) for r in report.results if not isinstance(r, Bound))
