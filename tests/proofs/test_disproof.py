"""`unbounded` is a theorem about the output: proved where it is true, never where a finite constant exists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import f64
from lowered import graph_of

from lipcert.proofs.disproof import disproof
from lipcert.terms.query import Box

A = torch.ops.aten
T = torch.Tensor
V, C = f64(4, 4), f64(4, 3)


def within(f: Callable[[T], T]) -> Callable[[T], T]:
    """Between two dense layers."""
    return lambda x: f(x @ V) @ C


NEVER: dict[str, tuple[Callable[[T], T], bool]] = {  # function, also on [-1, 1]^4
    "square": (within(lambda x: x * x), False),
    "product": (within(lambda x: x * x.flip(-1)), False),
    "cube": (within(lambda x: x**3), False),
    "x + x^2": (within(lambda x: x + x * x), False),
    "swiglu": (within(lambda x: x * torch.sigmoid(x) * x.flip(-1)), False),
    "exp": (within(torch.exp), False),
    "floor": (within(torch.floor), True),
    "floor of tanh": (within(lambda x: torch.floor(3 * torch.tanh(x))), True),
    "sign": (within(torch.sign), True),
    "1 / x": (within(lambda x: 1 / x), True),
    "x > 0": (within(lambda x: torch.where(x > 0, 1.0, 0.0)), True),
    "x where x > 1/2": (within(lambda x: torch.where(x > 0.125, x, 0.0)), True),
    "x / |x|": (within(lambda x: x / x.norm(dim=-1, keepdim=True)), True),
}
LIPSCHITZ: dict[str, Callable[[T], T]] = {
    "floor times 0": within(lambda x: torch.floor(x) * 0.0),
    "a jump that cancels": within(lambda x: torch.sign(x) * torch.abs(x)),
    "a branch that meets": within(lambda x: torch.where(x > 0, torch.exp(x) - 1, x)),
    "tanh of exp": within(lambda x: torch.tanh(torch.exp(x))),
    "step of a constant sign": within(lambda x: torch.sign(torch.exp(x) + 1)),
    "product of bounded ones": within(lambda x: torch.tanh(x) * torch.sigmoid(x.flip(-1))),
    "square root above 0": within(lambda x: torch.sqrt(torch.abs(x) + 1)),
    "norm with eps": within(lambda x: x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-3)),
    "exp of something bounded": within(lambda x: torch.exp(torch.tanh(x))),
}
UNIT = Box(-torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("name", NEVER)
def test_proved(name: str) -> None:
    function, on_box = NEVER[name]
    graph = graph_of(function, 2, 4)
    found = disproof(graph)
    assert found is not None
    assert found.node in {node.name for node in graph.nodes}
    assert (disproof(graph, UNIT) is not None) == on_box


@pytest.mark.every(4)
@pytest.mark.parametrize("name", LIPSCHITZ)
def test_never_of_a_lipschitz_function(name: str) -> None:
    graph = graph_of(LIPSCHITZ[name], 2, 4)
    assert disproof(graph) is None
    assert disproof(graph, UNIT) is None


def test_attention_by_two_rays() -> None:
    q, k, v = f64(4, 4), f64(4, 4), f64(4, 4)
    graph = graph_of(lambda x: A._softmax.default((x @ q) @ (x @ k).transpose(-1, -2), -1, False) @ (x @ v), 3, 4)
    assert disproof(graph) is not None
    bounded = graph_of(
        lambda x: (lambda t: A._softmax.default((t @ q) @ (t @ k).transpose(-1, -2), -1, False) @ (t @ v))(
            torch.tanh(x)
        ),
        3,
        4,
    )
    assert disproof(bounded) is None


@pytest.mark.parametrize(
    ("function", "row"),
    [
        (lambda x: torch.where(x > 0, x, 0.25 * x), "relu"),
        (lambda x: torch.where(x <= 1, 1.0, x), "relu"),
        (lambda x: x.masked_fill(x < 0, 0.0), "relu"),
        (lambda x: (x > 0) * x, "relu"),
    ],
)
def test_branches_that_meet_are_relus(function: Callable[[T], T], row: str) -> None:
    graph = graph_of(function, 5)
    assert [graph.nodes[i].what.block.label for i in graph.nonlinear] == [row]  # type: ignore[union-attr]
    points = f64(8, 5) * 2
    assert torch.allclose(graph.evaluate(points), torch.stack([function(x) for x in points]))
