"""Gated activations spelled out as exporters do become one row with the same values; near misses do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from helpers import f64
from lowered import graph_of, same

from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Graph

A = torch.ops.aten
T = torch.Tensor
C = math.sqrt(2 / math.pi)


def affine(x: T) -> T:
    return x * 2.0 + 1.0


def flipped(x: T) -> T:
    return x.flip(0)


SPELLED: dict[str, tuple[Callable[[T], T], str]] = {
    "x * sigmoid(x)": (lambda x: x * torch.sigmoid(x), "silu"),
    "sigmoid(x) * x": (lambda x: torch.sigmoid(x) * x, "silu"),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), "silu"),
    "silu, divided gate": (lambda x: x * torch.sigmoid(x / 3.0), "silu"),
    "silu, divided factor": (lambda x: (x / 3.0) * torch.sigmoid(x), "silu"),
    "silu scaled": (lambda x: 0.3 * x * (torch.sigmoid(x) * 2.0), "silu"),
    "silu of a shared affine signal": (lambda x: (lambda u: u * torch.sigmoid(u))(affine(x)), "silu"),
    "silu with negative slope": (lambda x: x * torch.sigmoid(-x), "silu"),
    "gelu, onnx": (lambda x: x * (1 + torch.erf(x / math.sqrt(2))) * 0.5, "gelu_erf"),
    "gelu, halved first": (lambda x: 0.5 * x * (1 + torch.erf(x * 0.7071067811865476)), "gelu_erf"),
    "gelu, halved gate": (lambda x: x * (0.5 * (1 + torch.erf(x / math.sqrt(2)))), "gelu_erf"),
    "gelu, 0.5 + 0.5 erf": (lambda x: x * (0.5 * torch.erf(x / math.sqrt(2)) + 0.5), "gelu_erf"),
    "new gelu": (lambda x: 0.5 * x * (1 + torch.tanh(C * (x + 0.044715 * torch.pow(x, 3.0)))), "gelu_tanh"),
    "tanh gelu, cube by products": (
        lambda x: 0.5 * x * (1 + torch.tanh(C * (x + 0.044715 * (x * x * x)))),
        "gelu_tanh",
    ),
    "tanh gelu, x * (x * x)": (lambda x: 0.5 * (x * (1 + torch.tanh((x + 0.044715 * (x * (x * x))) * C))), "gelu_tanh"),
    "mish": (lambda x: x * torch.tanh(torch.nn.functional.softplus(x)), "mish"),
    "mish, gate first": (lambda x: torch.tanh(A.softplus.default(x, 1, 20)) * x, "mish"),
    "hardswish, clamp": (lambda x: x * torch.clamp(x + 3, 0, 6) / 6, "hardswish"),
    "hardswish, relu6": (lambda x: x * (A.relu6.default(x + 3) / 6), "hardswish"),
    "hardswish, hardtanh": (lambda x: x * A.hardtanh.default(x + 3, 0.0, 6.0) * (1 / 6), "hardswish"),
    "softsign": (lambda x: x / (1 + torch.abs(x)), "softsign"),
    "softsign, other order": (lambda x: x * (1 / (torch.abs(x) + 1)), "softsign"),
    "cube": (lambda x: x * (x * x), "pow_int"),
}
MISSED: dict[str, Callable[[T], T]] = {
    "another signal": lambda x: x * torch.sigmoid(flipped(x)),
    "computed twice": lambda x: affine(x) * torch.sigmoid(affine(x)),
    "a gate of nothing": lambda x: x * torch.sigmoid(x * 0.0),
    "gelu divided by entry": lambda x: x * (1 + torch.erf(x / torch.arange(1.0, 6.0, dtype=torch.float64))),
    "shifted gate": lambda x: x * torch.sigmoid(x + 1),
    "shifted factor": lambda x: (x + 1) * torch.sigmoid(x),
    "gate plus constant": lambda x: x * (torch.sigmoid(x) + 0.1),
    "erf without one": lambda x: x * torch.erf(x),
    "erf with two": lambda x: x * (2 + torch.erf(x)),
    "erf shifted": lambda x: x * (1 + torch.erf(x + 0.5)),
    "tanh gate": lambda x: x * (1 + torch.tanh(x)),
    "fourth power": lambda x: x * (1 + torch.tanh(x + 0.04 * torch.pow(x, 4.0))),
    "cube of another": lambda x: x * (1 + torch.tanh(x + 0.04 * torch.pow(flipped(x), 3.0))),
    "cube shifted": lambda x: x * (1 + torch.tanh(x + 0.04 * (torch.pow(x, 3.0) + 1))),
    "mish with beta": lambda x: x * torch.tanh(A.softplus.default(x, 2.0)),
    "mish with a jump": lambda x: x * torch.tanh(A.softplus.default(x, 1.0, 0.5)),
    "mish scaled inside": lambda x: x * torch.tanh(2 * A.softplus.default(x)),
    "relu": lambda x: x * torch.relu(x),
    "clip from -1": lambda x: x * torch.clamp(x + 3, -1, 6),
    "clip of 2x": lambda x: x * torch.clamp(2 * x + 3, 0, 6),
    "clip unbounded": lambda x: x * torch.clamp(x + 3, min=0.0),
    "x / |x|": lambda x: x / torch.abs(x),
    "x / (|x| - 1)": lambda x: x / (torch.abs(x) - 3.7),
    "x / (1 + |x + 1|)": lambda x: x / (1 + torch.abs(x + 1)),
    "x / (1 + 2 |x|)": lambda x: x / (1 + 2 * torch.abs(x)),
    "x / (1 + |y|)": lambda x: x / (1 + torch.abs(flipped(x))),
    "factors by entry": lambda x: x * torch.sigmoid(x * torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0], dtype=x.dtype)),
    "square of another": lambda x: x * (flipped(x) * flipped(x)),
}


def kinds(graph: Graph) -> list[str]:
    return [graph.nodes[i].what.block.label for i in graph.nonlinear]  # type: ignore[union-attr]


def agrees(graph: Graph, function: Callable[[T], T]) -> bool:
    points = torch.cat([f64(6, 5) * s for s in (0.1, 1.0, 5.0)])
    return same(graph, function, (5,), (), points) < 1e-12


@pytest.mark.parametrize("name", SPELLED)
def test_spelled_out_activations_become_one_row(name: str) -> None:
    function, row = SPELLED[name]
    graph = graph_of(function, 5)
    assert kinds(graph) == [row]
    assert agrees(graph, function)


@pytest.mark.parametrize("name", MISSED)
def test_near_misses_are_not_taken_for_the_row_they_resemble(name: str) -> None:
    function = MISSED[name]
    graph = graph_of(function, 5) if "entry" not in name else graph_of(
        lambda x, c: x * torch.sigmoid(x * c), 5, constants=(f64(5),))  # fmt: skip
    resembled = {row for _, row in SPELLED.values()} - {"pow_int"}
    assert not resembled & set(kinds(graph)) or name == "computed twice"  # which is one signal
    assert "entry" in name or agrees(graph, function)


@pytest.mark.parametrize("size", [1, 3])
def test_a_bias_in_front_does_not_hide_the_gate(size: int) -> None:
    """One neuron has one bias, which looks like a uniform offset of the signal before."""
    w, b = f64(size, 4), f64(size)

    def function(x: T, w: T, b: T) -> T:
        u = A.linear.default(x, w, b)
        return u * torch.sigmoid(u)

    graph = graph_of(function, 4, constants=(w, b))
    assert kinds(graph) == ["silu"]
    assert same(graph, function, (4,), (w, b), f64(8, 4)) < 1e-12


def test_rounded_factors_travel_with_the_operator() -> None:
    """0.1 * 0.3 is not a float: the composed factor carries a radius."""
    graph = graph_of(lambda x: (0.1 * x) * (torch.sigmoid(x) * 0.3), 5)
    assert kinds(graph) == ["silu"]
    radii = [n.what.operator.radius_operator() for n in graph.nodes if hasattr(n.what, "operator")]
    assert any(r is not None for r in radii)


def test_the_row_is_bounded_where_the_product_is_not() -> None:
    spelled = graph_of(lambda x: x * torch.sigmoid(x), 5)
    missed = graph_of(lambda x: x * torch.sigmoid(flipped(x)), 5)
    block = spelled.nodes[spelled.nonlinear[-1]].what.block  # type: ignore[union-attr]
    assert isinstance(block, Pointwise)
    assert block.lipschitz("2")[0] == pytest.approx(1.0998393194)
    assert missed.nodes[missed.nonlinear[-1]].what.block.lipschitz("2")[0] == math.inf  # type: ignore[union-attr]
