"""Every lowering rule: export -> lower -> evaluate equals the torch function in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import f64
from lower_cases import CASES, REFUSED
from lowered import export, graph_of, same

from lipcert.load.lower import RULES, lower
from lipcert.network.graph import Enclosure
from lipcert.terms.errors import RefusedModel

A = torch.ops.aten


names = [name for name, *_ in CASES]
assert len(names) == len(set(names)), sorted({n for n in names if names.count(n) > 1})


def fails(name: str, function: Callable[..., Any], shape: tuple[int, ...], constants: tuple) -> str | None:
    """What is wrong with the lowered graph of one case."""
    graph, _ = lower(export(function, shape, constants))
    difference = same(graph, function, shape, constants, f64(4, *shape))
    if difference > 1e-12:
        return f"{name}: off by {difference}"
    x = f64(1, *shape)
    found = graph.enclose(Enclosure(x.reshape(1, -1)))
    true = function(x[0], *constants).to(torch.float64).reshape(-1)
    slack = 1e-13 * (1 + true.abs())
    if not bool(((found.lower[0] <= true + slack) & (true - slack <= found.upper[0])).all()):
        return f"{name}: the enclosure misses torch's value"
    return None


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "function", "shape", "constants"), CASES, ids=names)
def test_the_graph_is_the_function(name: str, function: Any, shape: tuple[int, ...], constants: tuple) -> None:
    assert fails(name, function, shape, constants) is None


@pytest.mark.parametrize(
    ("name", "function", "shape", "unbounded", "word"), REFUSED, ids=[name for name, *_ in REFUSED]
)
def test_refusals_name_the_node(name: str, function: Any, shape: tuple[int, ...], unbounded: bool, word: str) -> None:
    program = export(function, shape)
    with pytest.raises(RefusedModel) as refusal:
        lower(program)
    assert word in str(refusal.value)
    assert refusal.value.unbounded is unbounded
    if name != "two results":
        assert refusal.value.node in {node.name for node in program.graph.nodes}


def targets_of(function: Any, shape: tuple[int, ...], constants: tuple) -> set[str]:
    return {str(n.target) for n in export(function, shape, constants).graph.nodes if n.op == "call_function"}


# Rules whose overload torch.export rewrites before it can be seen.
UNREACHED: dict[str, str] = {}


@pytest.mark.slow
def test_every_rule_has_a_case() -> None:
    seen = set().union(*(targets_of(f, shape, constants) for _, f, shape, constants in CASES))
    seen |= set().union(*(targets_of(f, shape, ()) for _, f, shape, _, _ in REFUSED))
    assert set(RULES) - seen == set(UNREACHED)


def test_the_oracle_sees_a_wrong_graph() -> None:
    graph = graph_of(lambda x: A.relu.default(x) * 1.0000001, 5)
    points = f64(4, 5)
    assert same(graph, lambda x: F.relu(x), (5,), (), points) > 1e-12
    with pytest.raises(AssertionError):
        same(graph, lambda x: F.relu(x)[None], (5,), (), points)
