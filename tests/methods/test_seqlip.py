"""SeqLip is an estimate: it is reported as one, and never counts as a bound."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import f64
from nets import Layer, Net, residual

import lipcert
from lipcert.methods.problem import Problem
from lipcert.methods.product import ProductBound
from lipcert.methods.seqlip import Seqlip, climb
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound, Refusal


def seqlip(net: Net) -> Bound:
    with torch.no_grad():
        result = Seqlip().run(Problem(net.graph(), Norm()))
    assert isinstance(result, Bound), result
    return result


def over_all_vertices(left: torch.Tensor, low: torch.Tensor, high: torch.Tensor, right: torch.Tensor) -> float:
    choices = itertools.product(*zip(low.tolist(), high.tolist(), strict=True))
    return max(float(torch.linalg.matrix_norm(left * torch.tensor(d).double() @ right, 2)) for d in choices)


def test_the_climb_is_a_local_maximum_over_slopes() -> None:
    exact = 0
    for seed in range(20):
        torch.manual_seed(seed)
        left, right, low = f64(3, 7), f64(7, 4), -torch.rand(7).double()
        best = over_all_vertices(left, low, low + 1, right)
        found = climb(left, low, low + 1, right, 8)
        assert found <= best * (1 + 1e-12)
        assert found >= 0.9 * best
        exact += found >= best * (1 - 1e-12)
    assert exact >= 5


def test_one_hidden_layer_of_few_neurons() -> None:
    A, B = f64(6, 3), f64(2, 6)
    net = Net("one", 3, (Layer({0: A}),), {1: B})
    best = over_all_vertices(B, torch.zeros(6).double(), torch.ones(6).double(), A)
    assert seqlip(net).value == pytest.approx(best, rel=0.1)


def test_it_is_an_estimate_and_no_upper_value() -> None:
    model = lipcert.load(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)),
                         input_shape=(1, 3))  # fmt: skip
    report = lipcert.bound(model, methods=["seqlip"])
    (result,) = report.results
    assert isinstance(result, Bound)
    assert result.side == "estimate"
    assert result.proof is None
    assert report.upper is None
    assert all(r.method != "seqlip" for r in lipcert.bound(model).results)


def test_published_estimates(shared: Path) -> None:
    folder = shared / "models" / "weights"
    for name, row in json.loads((folder / "reference.json").read_text()).items():
        stored = np.load(folder / f"{name}.npz")
        maps = [torch.from_numpy(stored[key]).double() for key in sorted(stored) if key.startswith("W")]
        maps[-1] = maps[-1][row["output_index"]][None]
        layers = tuple(Layer({k: a}) for k, a in enumerate(maps[:-1]))
        net = Net(name, maps[0].shape[1], layers, {len(layers): maps[-1]})
        # the published search is greedy as well; this one climbs a little higher on all twelve
        assert row["seqlip_estimate"] * (1 - 1e-6) <= seqlip(net).value <= 1.05 * row["seqlip_estimate"]
        assert seqlip(net).value <= row["product"]


def test_it_stays_below_the_product_on_chains() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        net = Net("chain", 3, (Layer({0: f64(5, 3)}), Layer({1: f64(6, 5)}, "tanh")), {2: f64(2, 6)})
        upper = ProductBound().run(Problem(net.graph(), Norm()))
        assert isinstance(upper, Bound)
        assert seqlip(net).value <= upper.value * (1 + 1e-9)


def test_what_it_refuses() -> None:
    graph = next(net for net in map(residual, range(20)) if len(net.out) > 1).graph()
    refused = Seqlip().run(Problem(graph, Norm()))
    assert isinstance(refused, Refusal)
    assert "feed-forward" in refused.reason
    other = Seqlip().run(Problem(graph, Norm("inf", "inf")))
    assert isinstance(other, Refusal)
    square = Net("square", 2, (Layer({0: f64(3, 2)}, "square"),), {1: f64(1, 3)}).graph()
    unbounded = Seqlip().run(Problem(square, Norm()))
    assert isinstance(unbounded, Refusal)
    assert unbounded.status == "refused"  # an estimate proves nothing
