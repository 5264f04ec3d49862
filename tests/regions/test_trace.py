"""Trees of cuts in preorder: what was written is shown again, and what was tampered with is not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from dense import chain

import lipcert
from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.terms.query import Norm

pytest.importorskip("numba")
from lipcert.regions.enumeration.constant import constant
from lipcert.regions.enumeration.trace import shown, written

L2, LINF = Norm("2", "2"), Norm("inf", "inf")
Codes = list[int]


def made(norm: Norm, ball: str = "inf", seed: int = 3) -> tuple[Graph, Cells, Codes, float]:
    graph = chain(seed, [3, 10, 10, 2], "relu")
    cells = Cells(torch.zeros(1, 3).double(), torch.ones(1, 3).double(), ball)  # type: ignore[arg-type]
    found = constant(graph, cells, norm, 1e-6, None)
    tree = written(graph, cells, norm, found.upper, None)
    assert tree is not None
    return graph, cells, *tree


@pytest.mark.parametrize(("norm", "ball"), [(LINF, "inf"), (L2, "2"), (Norm("1", "inf"), "1")])
def test_what_was_written_is_shown(norm: Norm, ball: str) -> None:
    graph, cells, codes, value = made(norm, ball)
    assert shown(graph, cells, norm, codes, value) <= value
    trees = 2**3 if ball == "1" else 1
    assert codes.count(0) == (len(codes) + trees) / 2 > 3
    assert shown(graph, cells, norm, codes, value * 2) <= value * 2  # a larger claim is true as well


def swapped(codes: Codes) -> Codes:
    return [-codes[0], *codes[1:]]


def without_a_child(codes: Codes) -> Codes:
    last = max(k for k, code in enumerate(codes) if code)
    return [*codes[:last], *codes[last + 1 :]]


def a_leaf_too_early(codes: Codes) -> Codes:
    """The whole tree below the root is said to be one leaf."""
    return [0]


def another_hinge(codes: Codes) -> Codes:
    return [codes[0] + 1, *codes[1:]]


def behind_the_network(codes: Codes) -> Codes:
    return [10**9, *codes[1:]]


TAMPERED: tuple[Callable[[Codes], Codes], ...] = (
    lambda codes: codes[:-1],
    lambda codes: [*codes, 0],
    lambda codes: [],
    swapped,
    without_a_child,
    a_leaf_too_early,
    another_hinge,
    behind_the_network,
)


def test_what_was_tampered_with_is_not_shown() -> None:
    graph, cells, codes, value = made(LINF)
    for change in TAMPERED:
        assert math.isinf(shown(graph, cells, LINF, change(codes), value)), change
    assert math.isinf(shown(graph, cells, LINF, codes, value * (1 - 1e-5)))
    assert math.isinf(shown(graph, cells, Norm("inf", "1"), codes, value))
    assert math.isinf(shown(graph, Cells(cells.centre, cells.radius * 3), LINF, codes, value))
    # another box, another network: not shown, or true there too
    for where, about in ((cells.centre + 0.1, graph), (cells.centre, chain(4, [3, 10, 10, 2], "relu"))):
        there = Cells(where, cells.radius)
        assert shown(about, there, LINF, codes, value) >= constant(about, there, LINF, 1e-3, None).lower


def test_degenerate_networks_are_written_and_shown() -> None:
    """Hinges that only touch are decided in integers, in the same places."""
    from torch import nn

    first, second = nn.Linear(2, 5).double(), nn.Linear(5, 1).double()
    first.weight.data = torch.tensor([[1, 1], [-1, -1], [3, 3], [1, 2], [1, -1]]).double()
    first.bias.data = torch.tensor([0, 0, 0, 1, 1]).double()
    second.weight.data, second.bias.data = torch.tensor([[1, 1, 1, -1, 2]]).double(), torch.zeros(1).double()
    graph = lipcert.load(nn.Sequential(first, nn.ReLU(), second), input_shape=(1, 2)).graph
    cells = Cells(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    found = constant(graph, cells, LINF, 1e-6, None)
    tree = written(graph, cells, LINF, found.upper, None)
    assert tree is not None
    assert found.lower <= shown(graph, cells, LINF, *tree) <= tree[1]


def test_the_example_of_the_documentation() -> None:
    from torch import nn

    first, second = nn.Linear(1, 2, bias=False).double(), nn.Linear(2, 1, bias=False).double()
    first.weight.data, second.weight.data = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([[1.0, -1.0]]).double()
    graph = lipcert.load(nn.Sequential(first, nn.ReLU(), second), input_shape=(1, 1)).graph
    cells = Cells(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    assert shown(graph, cells, L2, [1, 0, 0], 1.0 + 1e-9) >= 1.0
    assert shown(graph, cells, L2, [1, 0, 0], 1.0 + 1e-9) < math.inf
