"""Backward linear bounds, the linear-relaxed adjoint and `linear` against dense samples, Jacobians and difference quotients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from families import FAMILIES
from helpers import pointwise, random_graph
from slopes import NORMS, cells_of, chain, jacobians, points_in, ratios
from torch import Tensor

import lipcert
from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.methods.linear import LinearBound, linear_on
from lipcert.methods.problem import Problem
from lipcert.network.graph import Add, Concat, Graph, Input, Node, Offset
from lipcert.network.graph import Linear as Affine
from lipcert.operators.linear import DUAL, Dense
from lipcert.regions.backward import linear as backward
from lipcert.regions.backward import relaxed
from lipcert.regions.backward.adjoint import ball_ranges, local_constants, obstacle, slopes_on
from lipcert.regions.backward.linear import linear_ranges
from lipcert.regions.backward.lines import Lines, lines, products
from lipcert.regions.backward.relaxed import at_vertices, gradient_norms
from lipcert.regions.branch_and_bound.branching import Effort, bracket
from lipcert.regions.cells import Cells
from lipcert.regions.forward.directions import ORDER
from lipcert.terms.query import Ball, Box, Norm
from lipcert.terms.result import Bound, Refusal

REGIONS = ("inf", "2", "1")
BENT = ("relu", "leaky_relu", "abs", "tanh", "gelu_erf", "elu", "hardtanh")
CHECKS = {"done": 0}


@pytest.fixture(autouse=True)
def _floats() -> object:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_inputs_that_do_not_move_take_nothing_off(norm: str) -> None:
    """relu(x_1 + 1/2) - 100 relu(x_2 + 1/2) where x_2 stays: a line over its gradient, -100, would outweigh the constant, 1."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1)).double()
    for layer, weight, bias in ((net[0], [[1.0, 0.0], [0.0, 1.0]], 0.5), (net[2], [[1.0, -100.0]], 0.0)):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data.fill_(bias)
    cells = Cells.boxes(torch.tensor([[-1.0, 0.25]]).double(), torch.tensor([[1.0, 0.25]]).double())
    graph = lipcert.load(net, input_shape=(1, 2)).graph
    for refine, vertices in itertools.product((False, True), (0, 2)):
        assert float(linear_on(graph, cells, Norm(norm, norm), refine=refine, vertices=vertices)) >= 1.0


def signals(graph: Graph, x: Tensor) -> dict[int, Tensor]:
    """Every node at x, floating."""
    parts = {}
    for i in range(len(graph.nodes)):
        parts[i] = Graph(graph.nodes[: i + 1], i, graph.input).evaluate(x)
    return parts


def outside(graph: Graph, cells: Cells, dice: torch.Generator, trials: int = 4) -> int:
    """How many signals leave their range at points of their cell."""
    ranges, _ = linear_ranges(graph, cells)
    found = 0
    for _ in range(trials):
        for i, z in signals(graph, points_in(cells, dice)).items():
            low, high = ranges[i]
            noise = 1e-11 * (1 + z.abs().amax(dim=1, keepdim=True))
            known = torch.isfinite(z)
            found += int(((z < low - noise) | (z > high + noise))[known].sum())
    return found


def violations(graph: Graph, cells: Cells, norms: list[tuple[str, str]], dice: torch.Generator, **how: object) -> int:
    """How many upper values are below a difference quotient, or a Jacobian's image of a vector, on their cell."""
    found = 0
    uppers = [linear_on(graph, cells, Norm(p, q), **how) for p, q in norms]  # type: ignore[arg-type]
    moving = cells.moving.double()
    for trial in range(4):
        a, b = points_in(cells, dice), points_in(cells, dice)
        b = a + (b - a) * [1.0, 1e-3][trial % 2]
        fa, fb = graph.evaluate(a), graph.evaluate(b)
        J = gradients_at(graph, a) * moving[:, None] if trial < 2 else None
        for (p, q), upper in zip(norms, uppers, strict=True):
            found += int((ratios(a, b, fa, fb, p, q) > upper * (1 + 1e-9)).sum())
            if J is not None:
                found += int((norms_attained(J, p, q) > upper * (1 + 1e-9) + 1e-12).sum())
    CHECKS["done"] += len(cells) * len(norms)
    return found


def gradients_at(graph: Graph, x: Tensor) -> Tensor:
    with torch.enable_grad():
        moved = graph.evaluate(x.clone().requires_grad_(True)).requires_grad
    return jacobians(graph, x).nan_to_num(0.0, 0.0, 0.0) if moved else torch.zeros_like(x)[:, None]


def norms_attained(J: Tensor, p: str, q: str) -> Tensor:
    """(b,): ||J v||_q for a v of ||v||_p = 1 that is good for the longest row."""
    length = torch.linalg.vector_norm(J, ord=ORDER[DUAL[p]], dim=2)  # type: ignore[index]
    row = J[torch.arange(len(J)), length.argmax(dim=1)]
    if p == "inf":
        v = torch.where(row >= 0, 1.0, -1.0).double()
    elif p == "2":
        v = row / torch.linalg.vector_norm(row, dim=1, keepdim=True).clamp(min=1e-300)
    else:
        v = torch.nn.functional.one_hot(row.abs().argmax(dim=1), row.shape[1]).double()
    return torch.linalg.vector_norm(torch.bmm(J, v[:, :, None])[:, :, 0], ord=ORDER[q], dim=1)


def elementwise(graph: Graph) -> bool:
    return obstacle(graph) is None


def branched(seed: int, name: str, sizes: tuple[int, int, int] = (3, 7, 2)) -> Graph:
    """A residual block, a concatenation of two branches, a bias, and a signal that is read three times."""
    dice = torch.Generator().manual_seed(seed)
    n, m, out = sizes

    def affine(rows: int, columns: int) -> Affine:
        return Affine(Dense(torch.randn(1, rows, columns, generator=dice, dtype=torch.float64) / math.sqrt(columns)))

    shift = torch.randn(m, generator=dice, dtype=torch.float64) * 0.4
    nodes = [
        Node(Input(), (), n, (n,), "x"),
        Node(affine(m, n), (0,), m, (m,), "a"),
        Node(Offset(shift, shift.abs() * 1e-9), (1,), m, (m,), "b"),
        Node(pointwise(name, m), (2,), m, (m,), "z1"),
        Node(affine(m, m), (3,), m, (m,), "c"),
        Node(pointwise("relu", m), (4,), m, (m,), "z2"),
        Node(Add(), (2, 5, 3), m, (m,), "residual"),
        Node(pointwise(name, m), (6,), m, (m,), "z3"),
        Node(Concat(), (7, 3, 0), 2 * m + n, (2 * m + n,), "both"),
        Node(affine(out, 2 * m + n), (8,), out, (out,), "d"),
        Node(Add(), (9, 9), out, (out,), "twice"),
    ]
    return Graph(tuple(nodes), len(nodes) - 1)


# Ranges.


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("name", BENT)
def test_ranges_hold_dense_samples(name: str, region: str) -> None:
    dice = torch.Generator().manual_seed(1)
    torch.manual_seed(4)
    for graph in (chain([3, 8, 8, 2], name), branched(2, name)):
        cells = cells_of(graph, 30, dice, region)
        assert outside(graph, cells, dice) == 0
        uniform = cells.radius[:, 0] if region != "inf" else cells.radius
        plain = ball_ranges(graph, cells.centre, uniform, region)  # type: ignore[arg-type]
        for i, (low, high) in linear_ranges(graph, cells)[0].items():
            noise = 1e-13 * (1 + low.abs() + high.abs())  # interval products are not monotone to the last bit
            assert bool((low >= plain[i][0] - noise).all())
            assert bool((high <= plain[i][1] + noise).all())


def test_ranges_with_wrong_lines_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: an upper line that is 1 % of the chord's rise too low."""

    def wrong(activation: Elementwise, lower: Tensor, upper: Tensor) -> Lines:
        found = lines(activation, lower, upper)
        return Lines(found.low_slope, found.low, found.high_slope, found.high - 0.5 * (found.high - found.low))

    monkeypatch.setattr(backward, "lines", wrong)
    dice = torch.Generator().manual_seed(1)
    torch.manual_seed(4)
    graph = chain([1, 8, 8, 1], "relu")
    assert outside(graph, cells_of(graph, 60, dice), dice, 16) > 0


@pytest.mark.every(2)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_lines_hold_the_activation(name: str) -> None:
    row = ACTIVATIONS[name]
    activation = Elementwise(row, tuple(row.parameters.values()))
    dice = torch.Generator().manual_seed(5)
    centre = torch.randn(400, 1, generator=dice, dtype=torch.float64) * 3
    width = 10 ** (torch.rand(400, 1, generator=dice, dtype=torch.float64) * 6 - 4)
    width[:5] = 0.0
    low, high = (centre - width).clamp(min=row.domain[0]), (centre + width).clamp(max=row.domain[1])
    valid = (low <= high)[:, 0]
    low, high = low[valid], high[valid]
    found = lines(activation, low, high)
    z = low + (high - low) * torch.linspace(0, 1, 301, dtype=torch.float64)
    z = torch.minimum(torch.maximum(z, low), high)
    s = activation(z)
    noise = 1e-12 * (1 + s.abs() + found.high_slope.abs() * z.abs())
    known = torch.isfinite(s)
    assert bool((s <= found.high_slope * z + found.high + noise)[known].all())
    assert bool((s >= found.low_slope * z + found.low - noise)[known].all())


@pytest.mark.parametrize("low", [-3.0, -0.5, 0.0, 0.7])
@pytest.mark.parametrize("width", [0.0, 1e-9, 1.0, 5.0])
def test_products_hold_every_slope(low: float, width: float) -> None:
    ends = torch.tensor([[low]]).double(), torch.tensor([[low + width]]).double()
    for a, b in ((0.0, 1.0), (-0.1, 1.1), (0.3, 0.3), (-2.0, -1.0)):
        slope = torch.tensor([[a]]).double(), torch.tensor([[b]]).double()
        found = products(slope, *ends)
        g = ends[0] + (ends[1] - ends[0]) * torch.linspace(0, 1, 51, dtype=torch.float64)
        for s in torch.linspace(a, b, 11).tolist():
            assert bool((s * g <= found.high_slope * g + found.high + 1e-14).all())
            assert bool((s * g >= found.low_slope * g + found.low - 1e-14).all())


@pytest.mark.parametrize("ends", [(-math.inf, math.inf), (-math.inf, -1.0), (0.0, math.inf), (-1e308, 1e308)])
def test_lines_on_endless_ranges_are_constants_or_right(ends: tuple[float, float]) -> None:
    for name in ("relu", "abs", "tanh", "gelu_erf", "softplus", "square", "exp"):
        if name not in ACTIVATIONS:
            continue
        activation = Elementwise(ACTIVATIONS[name], tuple(ACTIVATIONS[name].parameters.values()))
        found = lines(activation, *(torch.tensor([[end]]).double() for end in ends))
        z = torch.tensor([[-50.0, -1.0, 0.0, 0.5, 30.0]]).double().clamp(*ends)
        s = activation(z)
        for slope, at in ((found.low_slope, found.low), (found.high_slope, found.high)):
            assert not bool(slope.isnan().any() | at.isnan().any())
        assert bool((s <= found.high_slope * z + found.high + 1e-12).all())
        assert bool((s >= found.low_slope * z + found.low - 1e-12).all())


# Constants.


@pytest.mark.every(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_quotient_is_above_linear(family: str) -> None:
    dice = torch.Generator().manual_seed(7)
    for seed in range(3):
        graph = FAMILIES[family](seed).graph()
        if not elementwise(graph):
            continue
        large = graph.nodes[graph.input].size > 12 or len(graph.nodes) > 30
        norms = [NORMS[seed % 3], NORMS[3 + seed % 5]]
        cells = cells_of(graph, 2 if large else 8, dice, REGIONS[seed % 3])
        how = {} if large else {"refine": seed % 2 == 1, "vertices": 2 * (seed % 3 == 1)}
        assert violations(graph, cells, norms, dice, **how) == 0, (family, seed)
        assert outside(graph, cells, dice, 1) == 0, (family, seed)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation(name: str) -> None:
    dice = torch.Generator().manual_seed(3)
    torch.manual_seed(5)
    graph = chain([3, 6, 5, 2], name)
    if elementwise(graph):
        assert violations(graph, cells_of(graph, 25, dice), NORMS[:2], dice, refine=True) == 0


@pytest.mark.every(4)
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("name", ["relu", "tanh", "leaky_relu"])
def test_branches_and_every_option(name: str, region: str) -> None:
    dice = torch.Generator().manual_seed(13)
    for seed, (refine, vertices) in enumerate([(False, 0), (True, 2), (False, 3)]):
        graph = branched(seed, name)
        norms = NORMS[seed : seed + 3]
        assert violations(graph, cells_of(graph, 12, dice, region), norms, dice, refine=refine, vertices=vertices) == 0


def test_graphs_written_down_and_five_thousand_checks() -> None:
    dice = torch.Generator().manual_seed(11)
    before, seen = CHECKS["done"], 0
    for seed in range(100):
        graph = random_graph(seed, nonlinear=True, nodes=14)
        if elementwise(graph):
            seen += 1
            how = {"refine": seed % 2 == 0, "vertices": 2 * (seed % 5 == 1)}
            cells = cells_of(graph, 90, dice, REGIONS[seed % 3])
            assert violations(graph, cells, NORMS[:3], dice, **how) == 0, seed
    assert CHECKS["done"] - before >= 5_000, (seen, CHECKS["done"] - before)


def test_a_wrong_chord_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the line above s g is the chord of min(a g, b g)."""

    def wrong(slope: tuple[Tensor, Tensor], lower: Tensor, upper: Tensor) -> Lines:
        found = products(slope, lower, upper)
        return Lines(found.low_slope, found.low, found.low_slope, found.low)

    monkeypatch.setattr(relaxed, "products", wrong)
    dice = torch.Generator().manual_seed(3)
    torch.manual_seed(5)
    graph = chain([3, 8, 8, 1], "relu")
    assert violations(graph, cells_of(graph, 60, dice), NORMS[:3], dice) > 0


def test_slopes_of_the_centre_alone_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: slopes on a tenth of the region."""

    def wrong(graph: Graph, cells: Cells, work: float = 0.0) -> object:
        return linear_ranges(graph, Cells(cells.centre, cells.radius * 0.1, cells.norm, cells.free))

    for module in (relaxed, __import__("lipcert.methods.linear", fromlist=["linear"])):
        monkeypatch.setattr(module, "linear_ranges", wrong, raising=False)
    dice = torch.Generator().manual_seed(3)
    torch.manual_seed(5)
    graph = chain([2, 12, 12, 1], "relu")
    assert violations(graph, cells_of(graph, 80, dice), NORMS[:3], dice) > 0


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("name", ["relu", "tanh", "abs"])
def test_never_above_the_interval_adjoint(name: str, region: str) -> None:
    dice = torch.Generator().manual_seed(2)
    torch.manual_seed(6)
    better = 0
    for sizes in ([2, 8, 8, 3], [6, 10, 10, 10, 3]):
        graph = chain(sizes, name)
        cells = cells_of(graph, 20, dice, region)
        cells = Cells(
            cells.centre, cells.radius.amax(dim=1, keepdim=True).expand(-1, sizes[0]).contiguous(), cells.norm
        )
        seeds = torch.eye(3, dtype=torch.float64)[None].expand(20, 3, 3)
        plain = local_constants(graph, seeds, cells.centre, cells.radius[:, 0], region)  # type: ignore[arg-type]
        slopes = slopes_on(graph, linear_ranges(graph, cells)[0])
        found = gradient_norms(graph, seeds, slopes, region, cells.moving)  # type: ignore[arg-type]
        assert bool((found <= plain * (1 + 1e-12)).all())
        better += int((found < plain * 0.99).sum())
    assert better > 0


@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("name", ["relu", "tanh", "softplus"])
def test_at_a_point_it_is_the_gradient_norm(name: str, p: str) -> None:
    """Regions of radius 0; away from kinks nothing is lost."""
    torch.manual_seed(2)
    graph = chain([3, 20, 20, 1], name)
    x = torch.randn(50, 3, dtype=torch.float64)
    upper = linear_on(graph, Cells(x, torch.zeros_like(x)), Norm(p, p))  # type: ignore[arg-type]
    true = torch.linalg.vector_norm(jacobians(graph, x)[:, 0], ord=ORDER[DUAL[p]], dim=1)  # type: ignore[index]
    assert bool((upper >= true * (1 - 1e-12)).all())
    assert bool((upper <= true * (1 + 1e-8) + 1e-12).all())


def test_vertices_close_a_kink() -> None:
    """With every unsettled neuron enumerated the value is that of the worst pattern."""
    torch.manual_seed(3)
    graph = chain([2, 5, 1], "relu")
    cells = Cells(torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), 5.0, dtype=torch.float64))
    slopes = slopes_on(graph, linear_ranges(graph, cells)[0])
    (node,) = graph.nonlinear
    low, high = slopes[node]
    weight = [graph.nodes[i].what.operator.weight[0] for i in (1, 4)]  # type: ignore[union-attr]
    patterns = itertools.product(*({float(a), float(b)} for a, b in zip(low[0], high[0], strict=True)))
    true = max(float(torch.linalg.vector_norm(weight[1] @ torch.diag(torch.tensor(s).double()) @ weight[0]))
               for s in patterns)  # fmt: skip
    assert float(linear_on(graph, cells, Norm("2", "2"), vertices=5)) == pytest.approx(true, rel=1e-9)
    assert next(iter(at_vertices(graph, slopes, torch.ones(1, 1, 1).double(), 5).values()))[0].shape[0] == 2 ** int(
        (low != high).sum()
    )


@pytest.mark.every(3)
@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("sizes", [[2, 8, 8, 1], [3, 6, 6, 6, 6, 1]])
def test_branch_and_linear_do_not_contradict(sizes: list[int], p: str) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        graph = chain(sizes, "relu" if seed % 2 else "tanh")
        dice = torch.Generator().manual_seed(seed)
        cells = cells_of(graph, 4, dice, "inf" if seed % 3 else p)
        found = bracket(graph, cells, Norm(p, p), Effort(0.05, leaves=100))  # type: ignore[arg-type]
        upper = linear_on(graph, cells, Norm(p, p), refine=True, vertices=2)  # type: ignore[arg-type]
        assert bool((found.lower <= upper).all())
        assert bool((found.lower <= found.upper).all())


# The method.


def boxed(graph: Graph, half: float = 0.3) -> Problem:
    n = graph.nodes[graph.input].size
    return Problem(graph, Norm(), Box(torch.full((n,), -half).double(), torch.full((n,), half).double()))


def test_refusals_say_why() -> None:
    torch.manual_seed(0)
    whole = LinearBound().run(Problem(chain([2, 3, 1], "relu"), Norm()))
    assert isinstance(whole, Refusal)
    assert "region" in whole.reason
    steps = LinearBound().run(boxed(chain([2, 3, 1], "sign"), 3.0))
    assert isinstance(steps, Refusal)
    assert steps.node == "z0"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_weights_of_any_type_and_vector_outputs(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).to(dtype).float()
    model = lipcert.load(net, input_shape=(1, 4))
    for norm in ("1", "2", "inf"):
        for region in (Ball(torch.zeros(1, 4).double(), 0.5, norm), Box(-torch.ones(1, 4), torch.ones(1, 4)))[
            : 1 + (norm == "2")
        ]:
            report = lipcert.bound(model, norm=norm, region=region, methods=["linear", "sampled"])
            assert report.upper is not None
            assert report.lower is not None
            assert 0 < report.lower <= report.upper
            assert report.exit_code == 0


def test_one_by_one_and_constant_networks() -> None:
    torch.manual_seed(1)
    one = LinearBound().run(boxed(chain([1, 1, 1], "relu")))
    assert isinstance(one, Bound)
    assert one.rigor == "proved"
    dead = chain([2, 3, 1], "relu")
    nothing = Node(Affine(Dense(torch.zeros(1, 1, 3, dtype=torch.float64))), (3,), 1, (1,), "nothing")
    found = LinearBound().run(boxed(Graph((*dead.nodes[:4], nothing), 4)))
    assert isinstance(found, Bound)
    assert found.value <= 1e-200


def test_networks_without_a_linear_part() -> None:
    """They cost no multiplication at all."""
    n = Node(Input(), (), 2, (2,), "x")
    for graph, true in (
        (Graph((n,), 0), 1.0),
        (Graph((n, Node(pointwise("relu", 2), (0,), 2, (2,), "z")), 1), 1.0),
        (Graph((n, Node(Offset(torch.ones(2).double()), (), 2, (2,), "c")), 1), 0.0),
        (Graph((n, Node(Affine(Dense(torch.zeros(1, 0, 2).double())), (0,), 0, (0,), "none")), 1), 0.0),
    ):
        found = LinearBound().run(boxed(graph))
        assert isinstance(found, Bound)
        assert true <= found.value <= true * (1 + 1e-12) + 1e-200
