"""CPLip against the sum over all ways to cut, written out; its laws; what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from helpers import NORMS, f64, norm_below
from nets import KINDS, Layer, Net, dense
from oracles import attained
from torch import Tensor

from lipcert.methods.cplip import CplipBound, levels, spans
from lipcert.methods.problem import Problem, RangesOf
from lipcert.methods.product import ProductBound
from lipcert.network.graph import Graph
from lipcert.proofs import segments
from lipcert.proofs.chain import links, start
from lipcert.proofs.kinds.chain import SLACK
from lipcert.proofs.kinds.cplip import Cplip
from lipcert.terms.query import Box, Norm
from lipcert.terms.result import Bound, Refusal

PAIRS = [*((p, p) for p in NORMS), ("1", "2"), ("2", "inf"), ("inf", "2"), ("1", "inf")]


def cplip(graph: Graph, p: str = "2", q: str | None = None, **options: float) -> Bound:
    with torch.no_grad():
        result = CplipBound(**options).run(Problem(graph, Norm(p, q or p)))  # type: ignore[arg-type]
    assert isinstance(result, Bound), result
    return result


def product(graph: Graph, p: str = "2", q: str | None = None) -> float:
    with torch.no_grad():
        result = ProductBound().run(Problem(graph, Norm(p, q or p)))  # type: ignore[arg-type]
    assert isinstance(result, Bound)
    return result.value


def chain_of(*sizes: int, act: str | float | list[float] = "relu") -> Net:
    maps = [f64(m, n) for n, m in itertools.pairwise(sizes)]

    def of(n: int) -> str | Tensor:
        if isinstance(act, str):
            return act
        return torch.tensor(act if isinstance(act, list) else [act] * n, dtype=torch.float64)

    layers = tuple(Layer({k: a}, of(a.shape[0])) for k, a in enumerate(maps[:-1]))
    return Net(f"chain {sizes}", sizes[0], layers, {len(layers): maps[-1]})


def all_segmentations(net: Net, p: str) -> float:
    """Combettes & Pesquet 2020, Theorem 3.1: sum over the sets of layers that are cut of the products of the norms of
    the segments between them, diag(h) standing where a segment ends."""
    maps = [dense(net.layers[k].rows[k]) for k in range(len(net.layers))] + [dense(net.out[len(net.layers)])]
    centre = [(low + high) / 2 for low, high in (layer.slopes() for layer in net.layers)]
    half = [(high - low) / 2 for low, high in (layer.slopes() for layer in net.layers)]
    total = 0.0
    for cuts in itertools.product([False, True], repeat=len(net.layers)):
        value, segment = 1.0, maps[0]
        for k, here in enumerate(cuts):
            if here:
                value *= norm_below(half[k][:, None] * segment, p, p)
                segment = maps[k + 1]
            else:
                segment = maps[k + 1] @ (centre[k][:, None] * segment)
        total += value * norm_below(segment, p, p)
    return total


ACTS: list[str | float | list[float]] = ["relu", "tanh", "silu", "abs", -0.5, 2.0, 1.0, [0.1, 1.0, -2.0, 0.5]]


@pytest.mark.every(3)
@pytest.mark.parametrize("act", ACTS, ids=str)
@pytest.mark.parametrize("p", NORMS)
def test_it_is_the_sum_over_all_segmentations(act: str | float | list[float], p: str) -> None:
    net = chain_of(3, 4, 4, 4, 2, act=act)
    assert cplip(net.graph(), p).value == pytest.approx(all_segmentations(net, p), rel=1e-8)


def test_the_oracle_sees_one_segment_too_few() -> None:
    net = chain_of(3, 4, 4, 4, 2)
    shorter = Net("shorter", 3, net.layers[:2], {2: dense(net.out[3]) @ dense(net.layers[2].rows[2])})
    assert cplip(shorter.graph()).value != pytest.approx(all_segmentations(net, "2"), rel=1e-3)


@pytest.mark.every(6)
@pytest.mark.parametrize("make", KINDS)
def test_never_below_what_is_attained(make: Callable[[int], Net]) -> None:
    for seed in range(5):
        net = make(seed)
        graph = net.graph()
        best = attained(lambda x, g=graph: g.evaluate(x[None])[0], (net.inputs,), PAIRS, points=6, seed=seed)
        for p, q in PAIRS:
            assert cplip(graph, p, q).value >= best[p, q] * (1 - 1e-9), f"{net.name} {seed} {p}->{q}"


@pytest.mark.parametrize(("field", "wrong"), [("half", 0.8), ("centre", 0.5)])
def test_the_attained_values_catch_wrong_halves_and_centres(
    field: str, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smaller h, or a smaller c with the h of the right one, falls below the constant of x -> relu(x), which is 1."""
    net = Net("identity", 1, (Layer({0: torch.ones(1, 1).double()}),), {1: torch.ones(1, 1).double()})
    assert cplip(net.graph()).value == pytest.approx(1.0)
    if field == "half":
        monkeypatch.setattr(segments, "sub_up", lambda a, b: wrong * (a - b))
    else:
        scale = segments.Scale
        monkeypatch.setattr(segments, "Scale", lambda factor: scale(wrong * factor))
    assert cplip(net.graph()).value < 1 - 1e-3


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("act", ["relu", "tanh", "abs", -0.5])
def test_never_above_the_product_for_uniform_slopes(act: str | float, p: str) -> None:
    for sizes in ((3, 5, 2), (4, 6, 6, 6, 3), (1, 3, 1)):
        graph = chain_of(*sizes, act=act).graph()
        assert cplip(graph, p).value <= product(graph, p) * (1 + 1e-9)


def residual_blocks(blocks: int, n: int) -> Net:
    """x+ = relu(S x + W2 relu(W1 x)), S = identity."""
    layers: list[Layer] = []
    for k in range(blocks):
        layers.append(Layer({2 * k: f64(n, n) / math.sqrt(n)}))
        layers.append(Layer({2 * k: torch.eye(n).double(), 2 * k + 1: f64(n, n) / math.sqrt(n)}))
    return Net("residual", n, tuple(layers), {2 * blocks: f64(3, n) / math.sqrt(n)})


def test_one_residual_block_is_the_formula() -> None:
    """||S + W2 W1 / 2|| + ||W1|| ||W2|| / 2 instead of ||S|| + ||W1|| ||W2|| (MATH section 4b)."""
    A, B, S = f64(6, 4), f64(4, 6), f64(4, 4)
    net = Net("block", 4, (Layer({0: A}),), {0: S, 1: B})
    formula = norm_below(S + B @ A / 2, "2", "2") + norm_below(A, "2", "2") * norm_below(B, "2", "2") / 2
    assert cplip(net.graph()).value == pytest.approx(formula, rel=1e-8)
    assert product(net.graph()) > formula * 1.05


@pytest.mark.parametrize("p", NORMS)
def test_residual_networks_beat_the_product_clearly(p: str) -> None:
    graph = residual_blocks(4, 12).graph()
    assert cplip(graph, p).value <= 0.4 * product(graph, p)


def test_linear_activations_are_part_of_the_operator() -> None:
    """a = b: nothing is cut, so the constant of the composition is met."""
    net = chain_of(4, 5, 5, 3, act=1.0)
    whole = dense(net.out[2]) @ dense(net.layers[1].rows[1]) @ dense(net.layers[0].rows[0])
    for p in NORMS:
        found = cplip(net.graph(), p)
        assert found.value == pytest.approx(norm_below(whole, p, p), rel=1e-9)
        assert found.details["cuts"] == 0


def test_local_slopes_count_on_a_box() -> None:
    """Where every ReLU is on, the network is linear; no certificate is offered for what needs ranges."""
    net = chain_of(2, 4, 3)
    graph = Net("on", 2, net.layers, net.out, biases=(torch.full((4,), 100.0).double(),)).graph()
    one = torch.ones(2).double()
    with torch.no_grad():
        found = CplipBound().run(Problem(graph, Norm(), Box(-one, one)))
    assert isinstance(found, Bound)
    whole = dense(net.out[1]) @ dense(net.layers[0].rows[0])
    assert found.value == pytest.approx(norm_below(whole, "2", "2"), rel=1e-9)
    assert found.proof is None


def test_unbounded_slopes_are_refused_by_name() -> None:
    net = Net("square", 2, (Layer({0: f64(3, 2)}, "square"),), {1: f64(1, 3)})
    result = CplipBound().run(Problem(net.graph(), Norm()))
    assert isinstance(result, Refusal)
    assert result.status == "unbounded"
    assert result.node == "n2"
    assert CplipBound().refuses(Problem(net.graph(), Norm())) is not None


def test_little_work_takes_short_segments() -> None:
    """With less work allowed: shorter segments, a value between the full one and the product; with none, a refusal."""
    graph = chain_of(6, 12, 12, 12, 12, 12, 3).graph()
    problem = Problem(graph, Norm())
    work = {}
    for span, choices in spans(graph):
        cut = [segments.cut(graph, passed, ("2",), RangesOf(problem)) for passed in choices]
        work[span] = sum(segments.cost(g) for g in cut)
    full = cplip(graph)
    assert full.details["span"] is None
    values = [full.value]
    for span in (2,):
        allowed = [w for s, w in work.items() if s != span and w <= work[span]]
        assert not allowed, "the shortest segments are not the cheapest"
        short = cplip(graph, work=work[span])
        assert short.details["span"] == span
        values.append(short.value)
    assert values == sorted(values)
    assert values[-1] <= product(graph) * (1 + 1e-9)
    refused = CplipBound(work=1.0).run(problem)
    assert isinstance(refused, Refusal)
    assert refused.status == "refused"


def test_levels_are_longest_ways() -> None:
    graph = residual_blocks(2, 3).graph()
    assert [levels(graph)[i] for i in graph.nonlinear] == [1, 2, 3, 4]


def test_the_proof_says_what_a_checker_needs() -> None:
    """The constants of the cuts, each of which follows from those before it in the graph made from `passed`."""
    graph = residual_blocks(2, 5).graph()
    found = cplip(graph, "2", "inf")
    assert isinstance(found.proof, Cplip)
    passed = [graph.nonlinear[k] for k in found.proof.passed]
    cut = segments.cut(graph, passed, ("2", "inf"), RangesOf(Problem(graph, Norm())))
    known = start(cut, Norm("2", "inf"))
    order = links(cut)
    assert [k for k, _ in found.proof.constants] == list(range(len(order)))
    for node, (_, claimed) in zip(order, found.proof.constants, strict=True):
        shown = segments.segment_link(cut, node, known)
        assert all(shown[r] <= claimed[r] for r in claimed)
        known[node] = claimed
    assert known[cut.output]["inf"] == found.proof.shows(found.value, Norm("2", "inf"))
    assert found.value <= known[cut.output]["inf"] <= found.value * SLACK ** len(order) * (1 + 1e-14)
