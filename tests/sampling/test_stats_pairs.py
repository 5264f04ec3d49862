"""Attained lower values in many boxes: the exact quotient of every witness, and what sampling must find."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from helpers import exact, f64, pointwise, random_graph, run_exactly
from nets import KINDS, Layer, Net, chain
from torch import Tensor

from lipcert.network.graph import Graph, Input, Linear, Node, Offset, What
from lipcert.operators.linear import Dense
from lipcert.sampling import pairs
from lipcert.sampling.directions import jacobians
from lipcert.sampling.forward import Forward
from lipcert.sampling.forward import chain as stages
from lipcert.sampling.pairs import Found, jacobian_norms, largest_jacobians, largest_ratios, quotients
from lipcert.sampling.reduced import Reduced, reduced, reducible
from lipcert.terms.query import Norm

NORMS = [Norm(p, q) for p in ("1", "2", "inf") for q in ("1", "2", "inf")]
SIZE = {"1": lambda v: sum(v), "2": lambda v: math.sqrt(sum(x * x for x in v)), "inf": lambda v: max(v, default=0)}


def boxes(n: int, count: int, width: float = 1.0) -> tuple[Tensor, Tensor]:
    centre, half = f64(count, n), torch.rand(count, n, dtype=torch.float64) * width / 2
    return centre - half, centre + half


def exact_quotient(graph: Graph, x: Tensor, x2: Tensor, norm: Norm) -> float:
    """In exact arithmetic but for the last roots."""
    if torch.equal(x, x2):
        return 0.0
    gap = run_exactly(graph, exact(x))[graph.output] - run_exactly(graph, exact(x2))[graph.output]
    apart = exact(x) - exact(x2)
    return float(SIZE[norm.output]([abs(g) for g in gap])) / float(SIZE[norm.input]([abs(a) for a in apart]))


def holds(graph: Graph, found: Found, norm: Norm) -> bool:
    return all(
        float(found.value[i]) <= exact_quotient(graph, found.x[i], found.x2[i], norm) * (1 + 1e-15)
        for i in range(len(found.value))
    )


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", range(40))
def test_every_value_is_attained_by_its_witness(seed: int) -> None:
    graph = random_graph(seed, nonlinear=True)
    n = graph.nodes[0].size
    norm = NORMS[seed % len(NORMS)]
    lower, upper = boxes(n, 3, [1.0, 1e-3, 1e-7, 0.0][seed % 4])
    if graph.nodes[graph.output].size > 8:
        return
    for found in (
        largest_ratios(graph, lower, upper, 30, norm, seed=seed),
        largest_jacobians(graph, lower, upper, 5, norm, seed=seed),
        jacobian_norms(graph, lower, norm),
    ):
        if not any(node.what.radius is not None for node in graph.nodes if isinstance(node.what, Offset)):
            assert holds(graph, found, norm)
    found = largest_ratios(graph, lower, upper, 30, norm, seed=seed)
    for x in (found.x, found.x2):
        assert bool(((x >= lower) & (x <= upper)).all())


def corners(seed: int, *sizes: int, act: str = "relu", last: bool = True) -> Graph:
    """A chain of dense layers, an activation with one corner behind each (`last`: but the last)."""
    dice = torch.Generator().manual_seed(seed)
    nodes = [Node(Input(), (), sizes[0], sizes[:1], "x")]

    def add(what: What, size: int) -> None:
        nodes.append(Node(what, (len(nodes) - 1,), size, (size,), str(len(nodes))))

    for k, (n, m) in enumerate(pairwise(sizes)):
        add(Linear(Dense(torch.randn(1, m, n, generator=dice, dtype=torch.float64) / math.sqrt(n))), m)
        add(Offset(torch.randn(m, generator=dice, dtype=torch.float64)), m)
        if k + 2 < len(sizes) or not last:
            add(pointwise(act, m), m)
    return Graph(tuple(nodes), len(nodes) - 1)


@pytest.mark.parametrize("act", ["relu", "leaky_relu", "abs"])
@pytest.mark.parametrize("last", [True, False])
def test_what_is_left_on_a_cell_is_the_same_function(act: str, last: bool) -> None:
    kept = 0
    for seed, sizes in enumerate([(2, 30, 30, 3), (1, 40, 1), (3, 20, 20, 20, 2), (2, 1, 1), (4, 30, 5)]):
        graph = corners(seed, *sizes, act=act, last=last)
        stages = reducible(graph)
        assert stages is not None
        for width in (1.0, 0.1, 1e-3, 0.0):
            lower, upper = boxes(sizes[0], 6, width)
            for low, high, case in zip(lower, upper, reduced(graph, stages, lower, upper), strict=True):
                if case is not None:
                    x = torch.cat(
                        [(low + torch.rand(50, sizes[0], dtype=torch.float64) * (high - low)).T, f64(1, 50) * 0 + 1]
                    )
                    y = x.new_empty(sizes[-1], 50)
                    case.run(x, y, x.new_empty(case.rows, 50))
                    assert torch.allclose(y.T, graph.evaluate(x[:-1].T), rtol=1e-11, atol=1e-12)
                    kept += 1
    assert kept > 50


def test_ratios_are_those_of_the_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = corners(5, 2, 60, 60, 2)
    lower, upper = boxes(2, 30, 0.2)
    lower[3], upper[4] = upper[3], lower[4] + 3.0  # a point, and a box on which nothing is settled
    seen = []
    monkeypatch.setattr(Reduced, "run", lambda *args, run=Reduced.run: (seen.append(1), run(*args))[1])
    small = largest_ratios(graph, lower, upper, 400, Norm(), seed=2)
    assert len(seen) >= 20
    monkeypatch.setattr(pairs, "FEWEST", 401)
    whole = largest_ratios(graph, lower, upper, 400, Norm(), seed=2)
    assert torch.allclose(small.value, whole.value, rtol=1e-3)  # the same pairs, in the order that float32 gives them
    assert holds(graph, small, Norm())


def test_a_neuron_taken_for_settled_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the oracle above: slopes of the centre of a cell are not those of the cell."""
    graph = corners(0, 2, 30, 30, 3)
    lower, upper = boxes(2, 6, 1.0)
    stages = reducible(graph)
    assert stages is not None
    middle = (lower + upper) / 2
    wrong = [case for case in reduced(graph, stages, middle, middle) if case is not None]
    assert wrong
    x = torch.cat([upper.T, torch.ones(1, 6, dtype=torch.float64)])
    y = x.new_empty(3, 6)
    wrong[0].run(x, y, x.new_empty(wrong[0].rows, 6))
    assert not torch.allclose(y.T, graph.evaluate(upper), rtol=1e-3)


def test_networks_that_are_not_reduced() -> None:
    assert reducible(corners(0, 2, 5, 1, act="tanh")) is None
    assert reducible(corners(0, 50, 5, 1)) is None
    assert reducible(corners(0, 2, 3)) is None


def test_the_oracle_sees_a_value_that_is_too_large() -> None:
    graph = chain(3).graph()
    graph = Graph((Node(Input(), (), 2, (2,), "x"), Node(Linear(Dense(f64(1, 3, 2))), (0,), 3, (3,), "y")), 1)
    found = largest_ratios(graph, *boxes(2, 4), 20, Norm())
    assert holds(graph, found, Norm())
    assert not holds(graph, Found(found.value * (1 + 1e-9), found.x, found.x2), Norm())


def test_float32_quotients_of_close_pairs_would_be_too_large() -> None:
    """Why the winners are evaluated again: the best raw float32 ratio of a map of constant 1 exceeds 1."""
    weight = torch.linalg.qr(f64(8, 8)).Q
    nodes = (
        Node(Input(), (), 8, (8,), "x"),
        Node(Linear(Dense(weight[None])), (0,), 8, (8,), "a"),
        Node(Offset(torch.full((8,), 30.0, dtype=torch.float64)), (1,), 8, (8,), "b"),
    )
    graph = Graph(nodes, 2)
    x = torch.rand(500, 8, dtype=torch.float64)
    x2 = x + 1e-5 * f64(500, 8)
    rough = graph.to("cpu", torch.float32)
    gap = (rough.evaluate(x.float()) - rough.evaluate(x2.float())).double().norm(dim=1)
    assert float((gap / (x - x2).norm(dim=1)).max()) > 1.05
    proved = quotients(graph, x, x2, Norm())
    assert 0.999 < float(proved.max()) <= 1 + 1e-12


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_linear_map_is_found(norm: Norm) -> None:
    """3 outputs, 2 inputs: 2000 directions in the plane come close to the best one, a Jacobian is the best one."""
    graph = Graph((Node(Input(), (), 2, (2,), "x"), Node(Linear(Dense(f64(1, 3, 2))), (0,), 3, (3,), "y")), 1)
    angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    v = torch.stack([angle.cos(), angle.sin()], dim=1)
    best = float(quotients(graph, v, -v, norm).max())
    lower, upper = boxes(2, 2)
    pairs = largest_ratios(graph, lower, upper, 2000, norm).value
    assert bool((pairs >= 0.99 * best).all())
    if norm.input == "1" or norm.output == "inf" or str(norm) == "2":
        assert torch.allclose(jacobian_norms(graph, lower, norm).value, torch.tensor(best).double(), rtol=1e-6)


@pytest.mark.parametrize("act", ["tanh", "sigmoid", "gelu_erf", "silu", "softplus"])
def test_smooth_jacobians_agree_with_float_ones(act: str) -> None:
    torch.manual_seed(1)
    net = Net("t", 3, (Layer({0: f64(8, 3)}, act), Layer({1: f64(8, 8)}, act)), {2: f64(4, 8)})
    graph = net.graph()
    x = f64(20, 3)
    J = jacobians(graph, x)
    assert torch.allclose(jacobian_norms(graph, x, Norm()).value, torch.linalg.matrix_norm(J, 2), rtol=1e-5)
    step = 1e-6
    for j in range(3):
        e = torch.zeros(3, dtype=torch.float64)
        e[j] = step
        assert torch.allclose((graph.evaluate(x + e) - graph.evaluate(x - e)) / (2 * step), J[:, :, j], atol=1e-6)


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_the_fast_path_computes_the_network(kind: object) -> None:
    for seed in range(6):
        net = kind(seed)  # type: ignore[operator]
        graph = net.graph()
        forward = Forward(graph, "cpu", torch.float64)
        for k in (1, 7, 1003):
            x = forward.ones(k)
            x[:-1] = f64(net.inputs, k)
            y = graph.evaluate(x[:-1].T).T
            assert torch.allclose(forward.run(x), y, rtol=1e-9, atol=1e-9 * (1 + float(y.abs().max())))


def test_plain_chains_take_the_fast_path_and_others_do_not() -> None:
    net = Net("t", 3, (Layer({0: f64(8, 3)}), Layer({1: f64(8, 8)}, "tanh")), {2: f64(4, 8)}, biases=(f64(8), f64(8)))
    assert len(stages(net.graph()) or []) == 3
    shortcut = Net("r", 3, (Layer({0: f64(8, 3)}), Layer({1: f64(8, 8), 0: f64(8, 3)})), {2: f64(4, 8)})
    assert stages(shortcut.graph()) is None


def test_more_samples_never_hurt_much_and_runs_repeat() -> None:
    graph = KINDS[0](5).graph()
    lower, upper = boxes(graph.nodes[0].size, 50)
    few, many = (largest_ratios(graph, lower, upper, k, Norm(), seed=2).value for k in (5, 500))
    assert float((many >= few).double().mean()) > 0.9
    again = largest_ratios(graph, lower, upper, 500, Norm(), seed=2)
    assert torch.equal(again.value, many)
    assert not torch.equal(largest_ratios(graph, lower, upper, 500, Norm(), seed=3).value, many)


def test_jacobians_and_pairs_find_the_same_maximum() -> None:
    graph = KINDS[0](7).graph()  # PReLU with a slope per neuron: not a plain chain
    lower, upper = boxes(graph.nodes[0].size, 10, 0.1)
    pairs = largest_ratios(graph, lower, upper, 4000, Norm()).value
    short = largest_jacobians(graph, lower, upper, 400, Norm()).value
    assert torch.allclose(pairs, short, rtol=0.25)


def test_small_cells_far_from_the_origin() -> None:
    """Relative width 1e-9: float32 cannot tell the points of such a cell apart."""
    graph = Graph((Node(Input(), (), 2, (2,), "x"), Node(Linear(Dense(f64(1, 3, 2))), (0,), 3, (3,), "y")), 1)
    low = torch.full((4, 2), 1000.0, dtype=torch.float64)
    top = float(torch.linalg.matrix_norm(graph.nodes[1].what.operator.weight[0], 2))
    assert bool((largest_ratios(graph, low, low + 1e-6, 500, Norm()).value > 0.98 * top).all())


def test_nothing_to_find() -> None:
    graph = Graph((Node(Input(), (), 2, (2,), "x"), pointless := Node(Linear(Dense(torch.zeros(1, 3, 2).double())), (0,), 3, (3,), "y")), 1)  # fmt: skip
    lower, upper = boxes(2, 3)
    assert largest_ratios(graph, lower, upper, 10, Norm()).value.tolist() == [0.0] * 3
    assert largest_jacobians(graph, lower, upper, 10, Norm()).value.tolist() == [0.0] * 3
    assert largest_ratios(graph, lower, lower, 10, Norm()).value.tolist() == [0.0] * 3  # cells that are points
    assert largest_ratios(graph, lower[:0], upper[:0], 10, Norm()).value.shape == (0,)
    assert largest_ratios(graph, lower, upper, 0, Norm()).value.tolist() == [0.0] * 3
    constant = Graph((graph.nodes[0], Node(Offset(f64(3)), (), 3, (3,), "c")), 1)
    assert largest_ratios(constant, lower, upper, 10, Norm()).value.tolist() == [0.0] * 3
    assert jacobian_norms(constant, lower, Norm()).value.tolist() == [0.0] * 3
    none = Graph((Node(Input(), (), 2, (2,), "x"), Node(Linear(Dense(torch.zeros(1, 0, 2).double())), (0,), 0, (0,), "y")), 1)  # fmt: skip
    assert largest_ratios(none, lower, upper, 10, Norm()).value.tolist() == [0.0] * 3
    assert pointless.size == 3


def test_steps_and_overflow_give_no_false_value() -> None:
    step = Graph((Node(Input(), (), 1, (1,), "x"), Node(pointwise("relu", 1), (0,), 1, (1,), "y")), 1)
    huge = torch.full((1, 1), 1e300, dtype=torch.float64)
    assert float(largest_ratios(step, -huge, huge, 50, Norm()).value) <= 1.0
    assert Fraction(1) >= Fraction(float(jacobian_norms(step, huge, Norm()).value))


def test_many_outputs_use_power_iteration() -> None:
    torch.manual_seed(0)
    net = Net("t", 20, (Layer({0: f64(30, 20)}, "tanh"),), {1: f64(60, 30)})
    graph, x = net.graph(), f64(5, 20)
    top = torch.linalg.matrix_norm(jacobians(graph, x), 2)
    found = jacobian_norms(graph, x, Norm()).value
    assert bool((found <= top * (1 + 1e-3)).all())
    assert bool((found >= 0.95 * top).all())
