"""Input units and output functionals: graphs around the network."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from helpers import contains, exact, f64, pointwise

from lipcert.network.affine import Path
from lipcert.network.edit import functionals, normalised, with_output
from lipcert.network.graph import Enclosure, Graph, Input, Linear, Node
from lipcert.operators.linear import Dense
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Output


def network(*shape: int) -> Graph:
    n = math.prod(shape)
    nodes = (
        Node(Input(), (), n, shape, "x"),
        Node(Linear(Dense(f64(1, 4, n))), (0,), 4, (1, 4), "linear"),
        Node(pointwise("relu", 4), (1,), 4, (1, 4), "relu"),
        Node(Linear(Dense(f64(1, 3, 4))), (2,), 3, (1, 3), "head"),
    )
    return Graph(nodes, 3)


UNITS: dict[str, tuple[tuple[int, ...], list[float], list[float], tuple[int, ...]]] = {
    # name: input shape, mean, std, shape in which they broadcast
    "scalar": ((1, 3, 2, 2), [0.3], [0.25], (1,)),
    "channel": ((1, 3, 2, 2), [0.1, 0.2, 0.3], [0.5, 0.25, 0.7], (1, 3, 1, 1)),
    "channels last": ((1, 2, 2, 3), [0.1, 0.2, 0.3], [0.5, 0.25, 0.7], (1, 1, 1, 3)),
    "features": ((1, 4), [1.0, 2.0, 3.0, 4.0], [0.1, 1.0, 10.0, 100.0], (1, 4)),
    "entry": ((1, 2, 1, 2), [1.0, 2.0, 3.0, 4.0], [0.1, 1.0, 10.0, 100.0], (1, 2, 1, 2)),
    "channel first wins": ((1, 3, 2, 3), [0.1, 0.2, 0.3], [1.0, 2.0, 3.0], (1, 3, 1, 1)),
}


@pytest.mark.parametrize("name", UNITS)
def test_raw_units(name: str) -> None:
    shape, mean, std, view = UNITS[name]
    graph = network(*shape)
    raw = normalised(graph, mean, std)
    x = f64(3, *shape)
    shift, spread = (torch.tensor(v, dtype=torch.float64).reshape(view) for v in (mean, std))
    scaled = (x - shift) / spread
    assert torch.allclose(raw.evaluate(x), graph.evaluate(scaled), rtol=1e-13, atol=1e-13)
    assert raw.input_shape == graph.input_shape
    assert raw.output_shape == graph.output_shape


def test_the_division_is_enclosed() -> None:
    graph = Graph((Node(Input(), (), 2, (1, 2), "x"),), 0)
    raw = normalised(graph, [0.1, 0.7], [0.3, 3.0])
    x = f64(1, 2)
    true = (exact(x)[0] - [Fraction(0.1), Fraction(0.7)]) / [Fraction(0.3), Fraction(3.0)]
    found = raw.enclose(Enclosure(x))
    assert contains(found, true)
    assert not contains(found, true * (1 + Fraction(1, 2**45)))
    assert Path(raw, 0, raw.output).norm_upper("2", "2") == pytest.approx(1 / 0.3)


def test_only_one_of_mean_and_std() -> None:
    graph = network(1, 2)
    x = f64(1, 2)
    assert normalised(graph, None, None) is graph
    assert torch.allclose(normalised(graph, [0.5], None).evaluate(x), graph.evaluate(x - 0.5))
    assert torch.allclose(normalised(graph, None, [0.5]).evaluate(x), graph.evaluate(x / 0.5))


@pytest.mark.parametrize(
    ("mean", "std", "flag"),
    [
        (None, [0.0], "--std"), (None, [-1.0], "--std"), (None, [math.nan], "--std"), (None, [math.inf], "--std"),
        ([math.nan], None, "--mean"), ([math.inf], None, "--mean"), ([1.0] * 5, None, "--mean"),
        (None, [1.0, 2.0, 3.0, 4.0, 5.0], "--std"),
    ],
)  # fmt: skip
def test_units_that_make_no_sense(mean: list | None, std: list | None, flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        normalised(network(1, 3, 2, 2), mean, std)


def test_one_logit_and_one_difference() -> None:
    graph = network(1, 2)
    x = f64(5, 2)
    y = graph.evaluate(x)
    assert torch.equal(with_output(graph, Output.parse("1")).evaluate(x), y[:, 1:2])
    difference = with_output(graph, Output.parse("2-0"))
    assert torch.allclose(difference.evaluate(x)[:, 0], y[:, 2] - y[:, 0], rtol=1e-15, atol=1e-15)
    assert difference.output_shape == (1,)
    assert with_output(graph, Output.parse("vector")) is graph
    assert with_output(graph, Output.parse("pairs")) is graph


def test_a_functional_of_a_linear_network_is_a_row() -> None:
    w = f64(1, 3, 4)
    graph = Graph((Node(Input(), (), 4, (1, 4), "x"), Node(Linear(Dense(w)), (0,), 3, (1, 3), "head")), 1)
    whole = Path(graph, 0, 1).norm_upper("2", "2")
    pair = with_output(graph, Output.parse("0-2"))
    found = Path(pair, 0, pair.output).norm_upper("2", "2")
    true = float((w[0, 0] - w[0, 2]).norm())
    assert true * (1 - 1e-14) <= found <= true * (1 + 1e-8)
    assert whole == Path(graph, 0, 1).norm_upper("2", "2"), "the shared memo holds only facts of shared nodes"
    assert pair.memo is not graph.memo


@pytest.mark.parametrize("text", ["3", "0-3", "3-0"])
def test_outputs_that_the_model_lacks(text: str) -> None:
    with pytest.raises(UsageError, match="3 outputs"):
        with_output(network(1, 2), Output.parse(text))


def test_all_pairs_once() -> None:
    assert [str(pair) for pair in functionals(network(1, 2), Output("pairs"))] == ["0-1", "0-2", "1-2"]
    assert [str(one) for one in functionals(network(1, 2), Output("each"))] == ["0", "1", "2"]
