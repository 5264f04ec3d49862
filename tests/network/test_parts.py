"""Linear parts as one operator: adjointness, dense enclosures, constants of nodes, norms."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from helpers import NORMS, contains, exact, f64, floats, norm_below, random_graph, run_exactly

from lipcert.network.affine import ENCLOSED, UPWARD, Path, embed, lanczos, linear_ancestors, targets
from lipcert.network.closed_forms import closed_forms, concat_norm
from lipcert.network.graph import Add, Concat, Enclosure, Graph, Input, Linear, Node, Nonlinear, Offset
from lipcert.operators.conv_norm import ConvGeometry
from lipcert.operators.linear import Adjoint, Conv, Dense, Operator, Scale, Select

SEEDS = range(40)


def affine_graph(seed: int) -> Graph:
    """A random affine graph whose output depends on the input."""
    for k in itertools.count():
        graph = random_graph(1000 * seed + k)
        if graph.input in linear_ancestors(graph, graph.output)[0]:
            return graph
    raise AssertionError


def linear_matrix(graph: Graph, how: random.Random | None = None) -> np.ndarray:
    """The exact matrix of the linear part: f(e_i) - f(0) for one random member of every enclosed coefficient."""
    size = graph.nodes[0].size
    state = None if how is None else how.random()

    def at(x: np.ndarray) -> np.ndarray:
        return run_exactly(graph, x, None if state is None else random.Random(state))[graph.output]

    zero = exact(torch.zeros(size))
    return np.stack([at(exact(torch.eye(size)[i])) - at(zero) for i in range(size)], axis=1)


def chain(*operators: Operator | str, size: int) -> Graph:
    """x through operators; "add x" adds the input, "minus" takes away the signal before from itself."""
    nodes = [Node(Input(), (), size, (size,), "x")]
    for operator in operators:
        last = len(nodes) - 1
        if operator == "add x":
            nodes.append(Node(Add(), (0, last), nodes[last].size, (nodes[last].size,), "add"))
        else:
            assert isinstance(operator, Operator)
            nodes.append(Node(Linear(operator), (last,), operator.out_size, (operator.out_size,), "linear"))
    return Graph(tuple(nodes), len(nodes) - 1)


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", SEEDS)
def test_push_and_pull_are_adjoint(seed: int) -> None:
    graph = affine_graph(seed)
    path = Path(graph, 0, graph.output)
    x, y = f64(3, path.in_size), f64(3, path.out_size)
    left, right = (path.mv(x) * y).sum(1), (x * path.rmv(y)).sum(1)
    assert torch.allclose(left, right, rtol=1e-11, atol=1e-11)
    true = floats(linear_matrix(graph))
    assert torch.allclose(path.mv(x), x @ true.T, rtol=1e-11, atol=1e-11)


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", SEEDS)
def test_dense_encloses_the_exact_matrix(seed: int) -> None:
    graph = affine_graph(seed)
    path = Path(graph, 0, graph.output)
    eye = torch.eye(path.in_size, dtype=torch.float64), torch.eye(path.out_size, dtype=torch.float64)
    columns, rows = path.mv(Enclosure(eye[0]), ENCLOSED), path.rmv(Enclosure(eye[1]), ENCLOSED)
    for how in (None, random.Random(seed)):
        true = linear_matrix(graph, how)
        assert encloses(path.dense(), true)
        assert encloses(columns, true.T)
        assert encloses(rows, true)


def encloses(found: Enclosure, true: np.ndarray) -> bool:
    if found.centre.shape != true.shape:
        return False
    return bool((exact(found.lower) <= true).all() and (true <= exact(found.upper)).all())


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", SEEDS)
def test_upward_arithmetic_dominates_the_absolute_matrix(seed: int) -> None:
    graph = affine_graph(seed)
    path = Path(graph, 0, graph.output)
    size = abs(linear_matrix(graph, random.Random(seed)))
    x, y = f64(1, path.in_size).abs(), f64(1, path.out_size).abs()
    assert (size @ exact(x)[0] <= exact(path.mv(x, UPWARD))[0]).all()
    assert (size.T @ exact(y)[0] <= exact(path.rmv(y, UPWARD))[0]).all()


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", SEEDS)
def test_norms_of_parts_are_upper_bounds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = affine_graph(seed)
    true = floats(linear_matrix(graph, random.Random(seed)))
    for p, q in itertools.product(NORMS, NORMS):
        below = norm_below(true, p, q)
        value = Path(graph, 0, graph.output).norm_upper(p, q)
        assert below <= value * (1 + 1e-12)
        if p == q:
            assert value <= below * (1 + 1e-6) + 1e-7, "the dense bound is affordable here"
    monkeypatch.setattr(Path, "affordable", lambda self: False)
    fresh = Graph(graph.nodes, graph.output)
    for p, q in itertools.product(NORMS, NORMS):  # structured rules alone
        assert norm_below(true, p, q) <= Path(fresh, 0, fresh.output).norm_upper(p, q) * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_parts_between_nonlinearities_add_up(seed: int) -> None:
    """v = sum_j A_kj z_j + b for the sources j of every target."""
    graph = random_graph(seed, nonlinear=True, nodes=14)
    values = run_exactly(graph, exact(f64(1, graph.nodes[0].size))[0])
    for target in targets(graph):
        sources, _ = linear_ancestors(graph, target)
        total = np.array([0.0] * graph.nodes[target].size)
        for j in sources:
            x = torch.tensor([[float(v) for v in values[j]]], dtype=torch.float64)
            total = total + Path(graph, j, target).mv(x)[0].numpy()
        zeros = {j: exact(torch.zeros(graph.nodes[j].size)) for j in sources}
        shift = affine_shift(graph, target, zeros)
        true = np.array([float(v) for v in values[target]])
        assert np.allclose(total + shift, true, rtol=1e-10, atol=1e-10)


def affine_shift(graph: Graph, target: int, zeros: dict[int, np.ndarray]) -> np.ndarray:
    """b: the target with all its sources at zero."""
    nodes = []
    for i, node in enumerate(graph.nodes[: target + 1]):
        stop = i in zeros
        zero = Offset(torch.zeros(node.size, dtype=torch.float64))
        if stop or isinstance(node.what, Nonlinear | Input):
            nodes.append(Node(Input() if i == 0 else zero, (), node.size, node.shape, node.name))
        else:
            nodes.append(node)
    cut = Graph(tuple(nodes), target)
    x = exact(torch.zeros(graph.nodes[0].size))
    return np.array([float(v) for v in run_exactly(cut, x)[target]])


def square_conv(n: int = 6, c: int = 2) -> Conv:
    return Conv(f64(c, c, 3), ConvGeometry((n,), (1,), ((1, 1),), (1,)))


W1, W2 = f64(1, 7, 5), f64(1, 4, 7)
R = f64(1, 5, 5)
C = square_conv()
CHANNELS = torch.tensor([0.3, -1.7], dtype=torch.float64).repeat_interleave(6)
PADDED = Select(torch.tensor([-1, -1, 0, 1, 2, 3, -1]), 4, ((1, 1, 4), ((0, 0), (0, 0), (2, 1))))
ONE: dict[str, tuple[Graph, bool]] = {
    "two linears": (chain(Dense(W1), Dense(W2), size=5), True),
    "x + Rx": (chain(Dense(R), "add x", size=5), True),
    "conv and BatchNorm": (chain(C, Scale(CHANNELS, CHANNELS.abs() * 1e-15), size=12), True),
    "BatchNorm and conv": (chain(Scale(CHANNELS), C, size=12), True),
    "conv + x": (chain(C, "add x", size=12), True),
    "pad and conv": (chain(PADDED, Conv(f64(2, 1, 3), ConvGeometry((7,), (2,), ((0, 0),), (1,))), size=4), True),
    "two convs": (chain(C, square_conv(), size=12), False),
    "conv and its adjoint": (chain(C, Adjoint(C), size=12), False),
    "permute, scale, linear": (
        chain(Select(torch.tensor([4, 3, 2, 1, 0]), 5), Scale(f64(5)), Dense(W1), size=5),
        False,
    ),
}


@pytest.mark.parametrize(("graph", "closed"), ONE.values(), ids=ONE.keys())
@pytest.mark.parametrize("p", NORMS)
def test_a_part_is_bounded_as_one_operator(graph: Graph, closed: bool, p: str) -> None:
    below = norm_below(floats(linear_matrix(graph)), p, p)
    assert below * (1 - 1e-12) <= Path(graph, 0, graph.output).norm_upper(p, p) <= below * (1 + 1e-8)
    forms = closed_forms(graph, Path(graph, 0, graph.output).nodes, {0}, {})
    assert (forms[graph.output][0] == 0) is closed


def test_a_signal_minus_itself_is_zero() -> None:
    nodes = (
        Node(Input(), (), 3, (3,), "x"),
        Node(Linear(Dense(f64(1, 3, 3))), (0,), 3, (3,), "a"),
        Node(Linear(Scale(-torch.ones(3, dtype=torch.float64))), (1,), 3, (3,), "minus"),
        Node(Add(), (1, 2), 3, (3,), "difference"),
    )
    graph = Graph(nodes, 3)
    path = Path(graph, 0, 3)
    plain = Graph((nodes[0], Node(nodes[2].what, (0,), 3, (3,), "minus"), Node(Add(), (0, 1), 3, (3,), "zero")), 2)
    for p, q in itertools.product(NORMS, NORMS):
        assert Path(plain, 0, 2).norm_upper(p, q) == 0.0
        assert path.norm_upper(p, q) <= 1e-13  # A x - A x: the rounding of A alone is left


def test_repeated_parents_count_twice() -> None:
    x = Node(Input(), (), 2, (2,), "x")
    twice = Graph((x, Node(Add(), (0, 0, 0), 2, (2,), "3x")), 1)
    stack = Graph((x, Node(Concat(), (0, 0), 4, (4,), "xx")), 1)
    assert Path(twice, 0, 1).norm_upper("2", "2") == pytest.approx(3.0)
    assert Path(stack, 0, 1).norm_upper("1", "1") == pytest.approx(2.0)
    assert Path(stack, 0, 1).norm_upper("inf", "inf") == pytest.approx(1.0)
    assert float(Path(stack, 0, 1).rmv(torch.ones(1, 4).double())[0, 0]) == 2.0


def test_absent_parts_are_zero_blocks() -> None:
    nodes = (
        Node(Input(), (), 2, (2,), "x"),
        Node(Offset(f64(3)), (), 3, (3,), "b"),
        Node(Concat(), (1, 0, 1), 8, (8,), "b x b"),
        Node(Linear(Select(torch.tensor([3, 4, 0, -1]), 8)), (2,), 4, (4,), "pick"),
    )
    graph = Graph(nodes, 3)
    found = Path(graph, 0, 3).dense()
    assert found.centre.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert Path(graph, 0, 3).norm_upper("2", "2") == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("p", NORMS)
def test_concat_norm_is_the_norm_of_the_stack(p: str) -> None:
    A, B = f64(3, 4), f64(2, 4)
    parts = [norm_below(A, p, p), norm_below(B, p, p)]
    assert norm_below(torch.cat([A, B]), p, p) <= concat_norm(parts, p) * (1 + 1e-12)
    assert concat_norm([0.0, 0.0], p) == 0.0
    assert concat_norm([3e200, 4e200], "2") == pytest.approx(5e200)
    assert concat_norm([3e-300, 4e-300], "2") >= 5e-300
    assert concat_norm([float("inf"), 1.0], p) == float("inf")


def test_embeddings() -> None:
    x = torch.ones(1, 5, dtype=torch.float64)
    for (p, o), (q, k) in itertools.product(zip(NORMS, (1, 2, float("inf")), strict=True), repeat=2):
        best = max(
            float(torch.linalg.vector_norm(v, k) / torch.linalg.vector_norm(v, o)) for v in (x, torch.eye(5)[:1])
        )
        assert best * (1 - 1e-15) <= embed(p, q, 5) <= best * (1 + 1e-12)


def test_the_oracle_sees_a_wrong_dense_matrix() -> None:
    graph = affine_graph(3)
    found = Path(graph, 0, graph.output).dense()
    true = linear_matrix(graph)
    assert encloses(found, true)
    place = np.unravel_index(int(found.centre.abs().argmax()), true.shape)
    true[place] += abs(true[place]) / 2**20
    assert not encloses(found, true)


def test_contains_is_two_sided() -> None:
    one = Enclosure(torch.ones(1, 1, dtype=torch.float64))
    assert contains(one, exact(torch.ones(1)))
    assert not contains(one, exact(torch.ones(1).double() + 2.0**-52))
    assert not contains(one, exact(torch.ones(1).double() - 2.0**-53))


def test_only_the_norms_that_count_are_proved() -> None:
    """A convolution with BatchNorm behind it is one operator: no second proof for the convolution alone."""
    conv = Conv(f64(4, 3, 3, 3), ConvGeometry((6, 6), (1, 1), ((1, 1), (1, 1)), (1, 1)))
    scale = Scale(f64(4).repeat_interleave(36))
    graph = chain(conv, scale, size=conv.in_size)
    upper = Path(graph, 0, graph.output).norm_upper("2", "2")
    assert ("2", "2") not in conv.memo
    assert ("2", "2") not in scale.memo
    true = float(torch.linalg.matrix_norm(scale.mv(conv.mv(torch.eye(conv.in_size, dtype=torch.float64))), 2))
    assert true * (1 - 1e-12) <= upper


def test_no_dense_matrix_where_the_structure_is_tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Average pooling, then a linear layer: the norms multiply, and a few products show it."""
    pool, head = Dense(torch.full((1, 1, 16), 1 / 16, dtype=torch.float64), outer=48), Dense(f64(1, 60, 48))
    graph = chain(pool, head, size=pool.in_size)
    path = Path(graph, 0, graph.output)
    true = float(torch.linalg.matrix_norm(head.weight[0], 2)) / 4
    monkeypatch.setattr(Path, "dense", lambda self: pytest.fail("formed the matrix"))
    assert true * (1 - 1e-12) <= path.norm_upper("2", "2") <= true * (1 + 1e-6)


def test_lanczos_grows_to_the_largest_singular_value() -> None:
    A = f64(40, 30)
    true = float(torch.linalg.matrix_norm(A, 2))
    estimates = list(lanczos(lambda v: (v @ A.T) @ A, 30))
    assert all(b >= a * (1 - 1e-12) for a, b in itertools.pairwise(estimates))
    assert estimates[-1] == pytest.approx(true, rel=1e-12)
    assert next(iter(lanczos(lambda v: 0 * v, 5))) == 0.0
