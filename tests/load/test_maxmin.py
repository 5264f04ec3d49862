"""Maxima and minima of the same entries are one block, however they are written; what only resembles them is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import f64
from lowered import graph_of, same
from torch import Tensor, nn

import lipcert
from lipcert.load.lower import pairs
from lipcert.methods import METHODS, Problem
from lipcert.network.graph import Graph
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound

T = torch.Tensor
relu = torch.relu


def halves(x: T) -> list[T]:
    return [x[:4], x[4:]]


def chunks(x: T) -> list[T]:
    return list(x.chunk(2))


def strided(x: T) -> list[T]:
    return [x[::2], x[1::2]]


def columns(x: T) -> list[T]:
    return list(x.reshape(4, 2).unbind(1))


def rows(x: T) -> list[T]:
    return list(x.reshape(2, 4).split(1))


def maxmin(split: Callable[[T], list[T]]) -> Callable[[T], T]:
    def run(x: T) -> T:
        a, b = split(x)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)]).reshape(-1)

    return run


def hinged(x: T) -> T:
    a, b = x.chunk(2)
    return torch.cat([b + relu(a - b), a - relu(a - b)])


def hinged_the_other_way(x: T) -> T:
    a, b = x.chunk(2)
    return torch.cat([-relu(b - a) + b, relu(b - a) + a])


def negated(x: T) -> T:
    a, b = x[:4], x[4:]
    return torch.cat([torch.maximum(a, b), -torch.maximum(-b, -a)])


def mixed(x: T) -> T:
    a, b = x[:4], x[4:]
    return torch.cat([b + relu(a - b), torch.minimum(b, a)])


def stacked(x: T) -> T:
    pair = x.reshape(4, 2)
    return torch.stack([pair.amin(1), pair.amax(1)], dim=1).reshape(-1)


def pooled(x: T) -> T:
    def pool(u: T) -> T:
        return torch.ops.aten.max_pool2d_with_indices.default(u.reshape(1, 1, 8, 1), [2, 1])[0].reshape(-1)

    return torch.cat([pool(x), -pool(-x)])


def shuffled(x: T) -> T:
    """The minima in another order than the maxima."""
    a, b = x.chunk(2)
    return torch.cat([torch.maximum(a, b), torch.minimum(b.flip(0), a.flip(0))])


def of_two_signals(x: T) -> T:
    a, b = torch.sin(x[:4]), torch.cos(x[4:])
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)])


PAIRS: dict[str, Callable[[T], T]] = {
    **{f"cat(max, min) of {f.__name__}": maxmin(f) for f in (halves, chunks, strided, columns, rows)},
    **{f.__name__: f for f in (hinged, hinged_the_other_way, negated, mixed, stacked, pooled, shuffled)},
    "of two signals": of_two_signals,
}
ABSOLUTE: dict[str, Callable[[T], T]] = {
    "max(x, -x)": lambda x: torch.maximum(x, -x),
    "min(x, -x)": lambda x: torch.minimum(-x, x),
    "x + relu(-x - x)": lambda x: x + relu(-x - x),
    "max of stacked": lambda x: torch.stack([x, -x]).amax(0),
}
MISSED: dict[str, Callable[[T], T]] = {
    "other entries": lambda x: torch.cat([torch.maximum(x[:4], x[4:]), torch.minimum(x[:4], x[4:].flip(0))]),
    "maxima alone": lambda x: torch.maximum(x[:4], x[4:]),
    "two maxima": lambda x: torch.cat([torch.maximum(x[:4], x[4:]), torch.maximum(x[4:], x[:4])]),
    "one entry in two windows": lambda x: torch.cat([torch.maximum(x[1:], x[:-1]), torch.minimum(x[1:], x[:-1])]),
    "of one negative": lambda x: torch.cat([torch.maximum(x[:4], -x[4:]), torch.minimum(x[:4], x[4:])]),
    "relu of twice the gap": lambda x: torch.cat(
        [x[4:] + relu(2 * (x[:4] - x[4:])), x[:4] - relu(2 * (x[:4] - x[4:]))]
    ),
    "both add": lambda x: torch.cat([x[4:] + relu(x[:4] - x[4:]), x[:4] + relu(x[:4] - x[4:])]),
    "max(x, x)": lambda x: torch.cat([torch.maximum(x, x), torch.minimum(x, x)]),
}


def kinds(graph: Graph) -> list[str]:
    return [graph.nodes[i].what.block.label for i in graph.nonlinear]  # type: ignore[union-attr]


def agrees(graph: Graph, function: Callable[[T], T]) -> bool:
    points = torch.cat([f64(6, 8), f64(6, 8).round(), torch.zeros(1, 8, dtype=torch.float64)])  # ties too
    return same(graph, function, (8,), (), points) < 1e-14


def value(method: str, graph: Graph, p: str = "2") -> float:
    with torch.no_grad():
        found = METHODS[method].run(Problem(graph, Norm(p, p)))  # type: ignore[arg-type]
    assert isinstance(found, Bound), found
    return found.value


@pytest.mark.every(2)
@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_one_sort_and_1_lipschitz(name: str) -> None:
    function = PAIRS[name]
    graph = graph_of(function, 8)
    assert [kind for kind in kinds(graph) if kind not in ("sin", "cos")] == ["sort"]
    assert agrees(graph, function)
    for p in ("1", "2", "inf"):
        assert value("product", graph, p) <= (1 if name != "of two signals" else 2) * (1 + 1e-12)
    if name != "of two signals":
        assert value("lipsdp", graph) <= 1 + 1e-6
        assert 1 <= value("absolute", graph, "inf") <= 1 + 1e-12
        assert 2 <= value("absolute", graph, "2") <= 2 + 1e-6


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ABSOLUTE)
def test_a_maximum_of_opposites_is_an_absolute_value(name: str) -> None:
    graph = graph_of(ABSOLUTE[name], 8)
    assert kinds(graph) == ["abs"]
    assert agrees(graph, ABSOLUTE[name])
    assert value("product", graph) <= 1 + 1e-12


@pytest.mark.every(2)
@pytest.mark.parametrize("name", MISSED)
def test_what_resembles_a_pair_is_none(name: str) -> None:
    graph = graph_of(MISSED[name], 8)
    assert not {"sort", "abs"} & set(kinds(graph))
    assert agrees(graph, MISSED[name])


def test_entries_in_the_wrong_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the function finds minima that are read as those of other rows."""
    monkeypatch.setattr(pairs, "_rows", lambda first, pair: torch.arange(pair.low.numel()))
    assert not agrees(graph_of(lambda x: shuffled(x), 8), shuffled)


class MaxMin(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


def orthogonal(n: int) -> nn.Linear:
    layer = nn.Linear(n, n)
    nn.init.orthogonal_(layer.weight)
    return layer


def test_every_exporters_spelling_is_1_lipschitz(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(orthogonal(6), MaxMin(), orthogonal(6), MaxMin(), orthogonal(6)).eval()
    x = torch.zeros(1, 6)
    torch.onnx.export(module, (x,), str(tmp_path / "m.onnx"), dynamo=False, opset_version=17)
    torch.jit.save(torch.jit.trace(module, x), str(tmp_path / "m.pt"))
    torch.export.save(torch.export.export(module, (x,)), str(tmp_path / "m.pt2"))
    models = [lipcert.load(module, input_shape=(1, 6))]
    models += [lipcert.load(tmp_path / name, input_shape=(1, 6)) for name in ("m.onnx", "m.pt", "m.pt2")]
    for model in models:
        assert kinds(model.graph) == ["sort", "sort"], model
        assert value("product", model.graph) <= 1 + 1e-5
        assert value("lipsdp", model.graph) <= 1 + 1e-5


def test_the_public_report_of_a_loose_maxmin(shared: Path) -> None:
    graph = lipcert.load(shared / "wild" / "maxmin_loose.onnx").graph
    assert value("product", graph) <= 1.0001
    assert value("lipsdp", graph) <= 1.0
