"""Graphs: what is well formed, evaluation, enclosures in exact arithmetic and 50 digits, fingerprints."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction

import mpmath
import pytest
import torch
from helpers import contains, exact, f64, pointwise, random_graph, run_exactly
from torch import nn

from lipcert.blocks.normalise import Normalise
from lipcert.blocks.product import Product
from lipcert.blocks.softmax import LogSoftmax, Softmax
from lipcert.load.lower import lower
from lipcert.network.graph import Add, Concat, Enclosure, Graph, Input, Linear, Node, Nonlinear, Offset
from lipcert.operators.linear import Dense, Scale

SEEDS = range(60)


def point(graph: Graph, scale: float = 1.0) -> torch.Tensor:
    return f64(1, graph.nodes[0].size) * scale


@pytest.mark.every(5)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e150])
def test_enclosures_hold_the_exact_value(seed: int, scale: float) -> None:
    graph = random_graph(seed, nonlinear=True)
    x = point(graph, scale)
    found = graph.enclose(Enclosure(x))
    for how in (None, random.Random(seed)):
        assert contains(found, run_exactly(graph, exact(x)[0], how)[graph.output])
    assert torch.allclose(graph.evaluate(x), found.centre, rtol=1e-6, atol=1e-6)


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", SEEDS)
def test_enclosures_of_boxes_hold_their_points(seed: int) -> None:
    graph = random_graph(seed, nonlinear=True)
    x, width = point(graph), point(graph).abs()
    found = graph.enclose(Enclosure(x, width))
    for t in (-1, 1, Fraction(1, 3)):
        assert contains(found, run_exactly(graph, exact(x)[0] + t * exact(width)[0], random.Random(seed))[graph.output])


@pytest.mark.parametrize("spoil", ["radius", "coefficient"])
def test_the_oracle_sees_what_is_wrong(spoil: str) -> None:
    """A radius below the real rounding, a coefficient off by 2^-40: both are seen in a net of ten by ten."""
    nodes = [Node(Input(), (), 10, (10,), "x")]
    for i in range(3):
        nodes.append(Node(Linear(Dense(f64(1, 10, 10))), (2 * i,), 10, (10,), "linear"))
        nodes.append(Node(pointwise("relu", 10), (2 * i + 1,), 10, (10,), "relu"))
    graph = Graph(tuple(nodes), 6)
    x = point(graph)
    found = graph.enclose(Enclosure(x))
    true = run_exactly(graph, exact(x)[0])[-1]
    assert contains(found, true)
    if spoil == "radius":
        found = Enclosure(found.centre, found.radius * 1e-3)
    else:
        what = nodes[1].what
        assert isinstance(what, Linear)
        weight = what.operator.weight.clone() * (1 + 2.0**-30)  # type: ignore[attr-defined]
        other = Graph((nodes[0], Node(Linear(Dense(weight)), (0,), 10, (10,), "off"), *nodes[2:]), 6)
        found = other.enclose(Enclosure(x))
    assert not contains(found, true)


# Smooth networks in 50 digits, written out by hand.

MP = mpmath.mp.clone()
MP.dps = 50


def mp(values: torch.Tensor) -> list[mpmath.mpf]:
    return [MP.mpf(float(v)) for v in values.reshape(-1)]


def mp_linear(weight: torch.Tensor, bias: torch.Tensor | None, x: list) -> list:
    rows = [MP.fsum(w * v for w, v in zip(mp(row), x, strict=True)) for row in weight]
    return rows if bias is None else [r + b for r, b in zip(rows, mp(bias), strict=True)]


FUNCTIONS: dict[str, tuple[type[nn.Module], Callable]] = {
    "tanh": (nn.Tanh, MP.tanh),
    "sigmoid": (nn.Sigmoid, lambda v: 1 / (1 + MP.exp(-v))),
    "silu": (nn.SiLU, lambda v: v / (1 + MP.exp(-v))),
    "gelu": (nn.GELU, lambda v: v * (1 + MP.erf(v / MP.sqrt(2))) / 2),
    "mish": (nn.Mish, lambda v: v * MP.tanh(MP.log1p(MP.exp(v)))),
    "softplus": (nn.Softplus, lambda v: MP.log1p(MP.exp(v))),
    "elu": (nn.ELU, lambda v: v if v > 0 else MP.expm1(v)),
    "softsign": (nn.Softsign, lambda v: v / (1 + abs(v))),
    "relu": (nn.ReLU, lambda v: max(v, MP.mpf(0))),
}


def lowered(module: nn.Module, *shape: int) -> Graph:
    from lipcert.load.capture.capture import capture
    from lipcert.load.read import read

    return lower(capture(read(module.eval(), input_shape=shape)).program)[0]


def inside(found: Enclosure, true: list) -> bool:
    pairs = zip(found.lower[0].tolist(), true, found.upper[0].tolist(), strict=True)
    return all(MP.mpf(low) <= t <= MP.mpf(high) for low, t, high in pairs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_smooth_networks_in_fifty_digits(name: str) -> None:
    make, function = FUNCTIONS[name]
    first, last = nn.Linear(3, 4), nn.Linear(4, 2)
    graph = lowered(nn.Sequential(first, make(), last), 1, 3)
    for scale in (1.0, 1e-6, 30.0):
        x = f64(1, 3) * scale
        hidden = [function(v) for v in mp_linear(first.weight, first.bias, mp(x))]
        found = graph.enclose(Enclosure(x))
        true = mp_linear(last.weight, last.bias, hidden)
        assert inside(found, true)
        assert not inside(found, [t + max(abs(t), 1) * MP.mpf(2) ** -30 for t in true])
        assert bool((found.upper - found.lower <= 1e-9 * (1 + found.centre.abs())).all())


@pytest.mark.parametrize("variance", [1e-30, 1e-5, 1.0, 1e20])
def test_batch_norm_is_the_number_that_its_statistics_define(variance: float) -> None:
    linear, bn = nn.Linear(3, 4), nn.BatchNorm1d(4)
    bn.running_var.fill_(variance)
    bn.running_mean.normal_()
    nn.init.normal_(bn.weight)
    nn.init.normal_(bn.bias)
    graph = lowered(nn.Sequential(linear, bn), 1, 3)
    x = f64(1, 3)
    h = mp_linear(linear.weight, linear.bias, mp(x))
    parts = zip(h, mp(bn.running_mean), mp(bn.running_var), mp(bn.weight), mp(bn.bias), strict=True)
    true = [(v - m) / MP.sqrt(s + MP.mpf(bn.eps)) * w + b for v, m, s, w, b in parts]
    assert inside(graph.enclose(Enclosure(x)), true)


def test_weight_norm_is_the_number_that_its_factors_define() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(1.7)
        layer.parametrizations.weight.original1.mul_(1e-3)
    graph = lowered(nn.Sequential(layer), 1, 3)
    x = f64(1, 3)
    g, v = mp(layer.parametrizations.weight.original0), layer.parametrizations.weight.original1
    true = []
    for i in range(4):
        size = MP.sqrt(MP.fsum(w * w for w in mp(v[i])))
        value = MP.fsum(w * c for w, c in zip(mp(v[i]), mp(x), strict=True))
        true.append(value * g[i] / size + mp(layer.bias)[i])
    found = graph.enclose(Enclosure(x))
    assert inside(found, true)
    assert not inside(found, [t * (1 + MP.mpf(2) ** -30) for t in true])


def test_spectral_norm_is_the_number_that_its_vectors_define() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)).eval()
    graph = lowered(nn.Sequential(layer), 1, 3)
    x = f64(1, 3)
    raw = layer.parametrizations.weight.original
    u, v = mp(layer.parametrizations.weight[0]._u), mp(layer.parametrizations.weight[0]._v)
    sigma = MP.fsum(a * b for a, b in zip(u, mp_linear(raw, None, v), strict=True))
    true = [t / sigma + b for t, b in zip(mp_linear(raw, None, mp(x)), mp(layer.bias), strict=True)]
    assert inside(graph.enclose(Enclosure(x)), true)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_weights_are_taken_exactly(dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 4).to(dtype)
    stored = layer.weight.detach().double()
    program = torch.export.export(layer, (torch.zeros(1, 3, dtype=dtype),))
    graph, _ = lower(program)
    x = f64(1, 3)
    assert inside(graph.enclose(Enclosure(x)), mp_linear(stored, layer.bias.double(), mp(x)))


def test_normalising_blocks_in_fifty_digits() -> None:
    u = f64(1, 5) * 3
    x = Node(Input(), (), 5, (5,), "x")
    for block, function in (
        (Softmax(1, 5, 1), lambda v: [MP.exp(a) / MP.fsum(MP.exp(b) for b in v) for a in v]),
        (LogSoftmax(1, 5, 1), lambda v: [a - MP.log(MP.fsum(MP.exp(b) for b in v)) for a in v]),
        (Normalise(1, 5, 1, eps=1e-5), _layer_norm),
    ):
        graph = Graph((x, Node(Nonlinear(block), (0,), 5, (5,), "block")), 1)
        found = graph.enclose(Enclosure(u))
        assert inside(found, function(mp(u)))
        assert not inside(found, [t * (1 + MP.mpf(2) ** -20) for t in function(mp(u))])


def _layer_norm(v: list) -> list:
    mean = MP.fsum(v) / len(v)
    spread = MP.sqrt(MP.fsum((a - mean) ** 2 for a in v) / len(v) + MP.mpf(1e-5))
    return [(a - mean) / spread for a in v]


def test_products_of_signals_are_enclosed() -> None:
    x = Node(Input(), (), 2, (2,), "x")
    graph = Graph((x, Node(Nonlinear(Product(2)), (0, 0), 2, (2,), "xx")), 1)
    u = f64(1, 2)
    assert contains(graph.enclose(Enclosure(u)), exact(u)[0] * exact(u)[0])


# Structure.


def test_malformed_graphs_are_refused() -> None:
    x = Node(Input(), (), 2, (2,), "x")
    bad = [
        Node(Add(), (0, 2), 2, (2,), "later"),
        Node(Add(), (), 2, (2,), "empty"),
        Node(Add(), (0,), 3, (3,), "size"),
        Node(Concat(), (0, 0), 3, (3,), "concat"),
        Node(Linear(Dense(f64(1, 2, 3))), (0,), 2, (2,), "linear"),
        Node(Linear(Dense(f64(1, 3, 2))), (0,), 2, (2,), "linear out"),
        Node(Offset(f64(3)), (0,), 2, (2,), "offset"),
        Node(pointwise("relu", 3), (0,), 2, (2,), "relu"),
        Node(Nonlinear(Product(2)), (0,), 2, (2,), "product"),
    ]
    for node in bad:
        with pytest.raises(ValueError, match=r"node 1 \("):
            Graph((x, node), 1)


def test_evaluation_is_batched_differentiable_and_frees_signals() -> None:
    graph = random_graph(7, nonlinear=True, nodes=12)
    x = f64(5, graph.nodes[0].size).requires_grad_(True)
    y = graph.evaluate(x)
    rows = torch.cat([graph.evaluate(row[None]) for row in x])
    assert torch.allclose(y, rows)
    assert graph.evaluate(x.reshape(5, *graph.input_shape)).shape == y.shape
    if y.requires_grad:
        y.sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("seed", range(10))
def test_other_dtypes_are_the_same_network(seed: int) -> None:
    graph = random_graph(seed, nonlinear=True)
    x = point(graph)
    moved = graph.to("cpu", torch.float32).evaluate(x.float())
    assert moved.dtype == torch.float32
    assert torch.allclose(moved.double(), graph.evaluate(x), rtol=1e-3, atol=1e-3)


FINGERPRINT = """
import torch
from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.softmax import Softmax
from lipcert.network.graph import Graph, Input, Linear, Node, Nonlinear
from lipcert.operators.linear import Dense
def graph(name, first, eps=0.0):
    row = ACTIVATIONS[name]
    act = Pointwise(Elementwise(row, tuple(row.parameters.values())), 2)
    w = torch.tensor([[[first, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    return Graph((Node(Input(), (), 2, (2,), "x"), Node(Linear(Dense(w)), (0,), 2, (2,), "l"),
                  Node(Nonlinear(act), (1,), 2, (2,), "a"), Node(Nonlinear(Softmax(1, 2, 1)), (2,), 2, (2,), "s")), 3)
"""


def test_fingerprints_depend_on_the_function_only() -> None:
    space: dict = {}
    exec(FINGERPRINT, space)
    graph = space["graph"]
    mine = graph("silu", 1.0).fingerprint()
    code = FINGERPRINT + "print(graph('silu', 1.0).fingerprint())"
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert other.stdout.strip() == mine
    assert len({mine, graph("mish", 1.0).fingerprint(), graph("silu", 1.5).fingerprint()}) == 3
    used = graph("silu", 1.0)
    used.evaluate(f64(1, 2))
    used.nodes[1].what.operator.norm_upper("2", "2")
    assert used.fingerprint() == mine


def test_enclosures_without_radius_are_exact_through_layout_and_signs() -> None:
    x = Node(Input(), (), 2, (2,), "x")
    flip = Node(Linear(Scale(torch.tensor([-1.0, 1.0]).double())), (0,), 2, (2,), "signs")
    u = f64(1, 2)
    found = Graph((x, flip), 1).enclose(Enclosure(u))
    assert found.radius is None
    assert contains(found, exact(u)[0] * [-1, 1])
