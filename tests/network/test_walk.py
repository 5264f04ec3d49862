"""The one walk: every node once and in order, values freed after their last use, what fans out added up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import random_graph

from lipcert.network.graph import VALUES, Add, Concat, Graph, Input, Linear, Node, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, backward, forward, last_use
from lipcert.operators.linear import Scale
from lipcert.terms.errors import RefusedModel

KINDS = (Input, Linear, Add, Concat, Offset, Nonlinear)


def diamond() -> Graph:
    """y = 2 x + 3 x + x, the input read three times."""
    two, three = (Linear(Scale(torch.tensor([factor], dtype=torch.float64))) for factor in (2.0, 3.0))
    nodes = (
        Node(Input(), (), 1, (1,), "x"),
        Node(two, (0,), 1, (1,), "two"),
        Node(three, (0,), 1, (1,), "three"),
        Node(Add(), (1, 2, 0), 1, (1,), "y"),
    )
    return Graph(nodes, 3)


PATHS: Rules = {  # how many ways lead from the input to the node
    Input: lambda at: 1,
    Linear: lambda at, u: u,
    Add: lambda at, *us: sum(us),
    Concat: lambda at, *us: sum(us),
    Offset: lambda at, *us: sum(us),
    Nonlinear: lambda at, *us: sum(us),
}
BACK: Rules = {kind: lambda at, here: [here] * len(at.node.parents) for kind in KINDS if kind is not Input}


@pytest.mark.parametrize("seed", range(20))
def test_a_toy_domain_is_one_table(seed: int) -> None:
    """Ways counted forward, and backward from the output: the same number."""
    graph = random_graph(seed, nonlinear=True, nodes=12)
    there = forward(graph, PATHS)[graph.output]
    back = backward(graph, BACK, {graph.output: 1}, lambda at, parts: sum(parts))
    assert back.get(graph.input, 0) == there


@pytest.mark.parametrize("seed", range(20))
def test_values_live_as_long_as_they_are_read(seed: int) -> None:
    graph = random_graph(seed, nonlinear=True, nodes=12)
    last = last_use(graph)
    seen: list[int] = []

    def watched(kind: type) -> Any:
        def rule(at: Visit, *us: Any) -> Any:
            seen.append(at.i)
            assert all(last.get(i, at.i) >= at.i for i in at.values), "a value outlived its last reader"
            return VALUES[kind](at, *us)

        return rule

    x = torch.randn(3, graph.nodes[graph.input].size, dtype=torch.float64)
    found = forward(graph, {kind: watched(kind) for kind in KINDS}, x)
    assert seen == list(range(len(graph.nodes)))
    torch.testing.assert_close(found[graph.output], forward(graph, VALUES, x, keep=True)[graph.output], rtol=0, atol=0)


def test_a_zero_signal_has_no_value() -> None:
    """None from one branch: the sum is told so; from all: the node is never asked."""
    rules = PATHS | {
        Linear: lambda at, u: None if at.node.name == "two" else u,
        Add: lambda at, *us: [u is None for u in us],
    }
    assert forward(diamond(), rules)[3] == [True, False, False]
    assert 3 not in forward(diamond(), PATHS | {Input: lambda at: None})


def test_a_kind_without_a_rule_is_refused_by_name() -> None:
    rules = {kind: rule for kind, rule in PATHS.items() if kind is not Linear}
    with pytest.raises(RefusedModel, match="two: no rule here for a node of kind linear") as problem:
        forward(diamond(), rules)
    assert problem.value.node == "two"
    with pytest.raises(RefusedModel, match="three: no rule here"):
        backward(diamond(), {Add: BACK[Add]}, {3: 1}, lambda at, parts: sum(parts))


def test_given_values_and_a_part_of_the_graph() -> None:
    assert forward(diamond(), PATHS, start={0: 1, 1: 10}) == {3: 12}
    assert forward(diamond(), PATHS, start={0: 1}, nodes=[2]) == {0: 1, 2: 1}
    assert backward(diamond(), BACK, {3: 1}, lambda at, parts: sum(parts), nodes=[1, 3]) == {0: 2, 2: 1}
