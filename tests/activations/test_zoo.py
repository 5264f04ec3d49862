"""Exact constants: every row of the table in one dimension, and networks whose constants are known by algebra."""

from __future__ import annotations

import math

import pytest
import torch
from programs import Maker
from zoo import ZOO

import lipcert
from lipcert.activations import ACTIVATIONS, Activation
from lipcert.methods.absolute import Absolute
from lipcert.methods.problem import Problem
from lipcert.methods.product import ProductBound
from lipcert.methods.sampled import Sampled
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound

FINITE = [
    name
    for name, row in sorted(ACTIVATIONS.items())
    if all(math.isfinite(float(side)) for side in row.slopes(*row.parameters.values()))
]
NARROW: set[str] = set()  # rows whose steepest piece sampling may miss


def steepest(row: Activation) -> float:
    """sup |s'| by a grid of autograd slopes, refined around the largest: slow and obvious."""
    centre, reach = 0.0, 40.0
    best = 0.0
    for _ in range(12):
        low, high = max(centre - reach, row.domain[0]), min(centre + reach, row.domain[1])
        x = torch.linspace(low, high, 20_001, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(row.function(x, *row.parameters.values()).sum(), x)
        slope = slope.abs().nan_to_num(0.0)
        k = int(slope.argmax())
        centre, best, reach = float(x[k]), max(best, float(slope[k])), reach / 50
    return best


@pytest.mark.every(3)
@pytest.mark.parametrize("name", FINITE)
def test_one_dimension(name: str) -> None:
    """c s(w x + b) has the constant |c w| sup |s'|: at most 1e-9 above it, and sampling finds it to 1e-3."""
    m = Maker(f"one {name}", 0, (1, 1))
    w, b, c = (torch.tensor(v, dtype=torch.float64) for v in ([[-1.25]], [0.1], [[3.0]]))
    y = m.add(f"row:{name}", m.add("linear.default", m.input, w, b))
    m.add("linear.default", y, c)
    graph = m.program().graph()
    expected = 3.75 * steepest(ACTIVATIONS[name])
    for p in ("1", "2", "inf"):
        problem = Problem(graph, Norm(p, p))
        with torch.no_grad():
            results = [method.run(problem) for method in (ProductBound(), Absolute())]
        for result in results:
            assert isinstance(result, Bound)
            assert expected * (1 - 1e-12) <= result.value <= expected * (1 + 1e-9)
    with torch.no_grad():
        sampled = Sampled().run(Problem(graph, Norm()))
    assert isinstance(sampled, Bound)
    if name not in NARROW:
        assert expected * (1 - 1e-3) <= sampled.value <= expected * (1 + 1e-12)


@pytest.mark.every(4)
@pytest.mark.parametrize("name", ZOO)
def test_known_constant(name: str) -> None:
    known = ZOO[name]
    model = lipcert.load(known.module(), input_shape=torch.zeros(known.shape, dtype=torch.float64))
    for p, constant in known.constant.items():
        report = lipcert.bound(model, norm=p, methods=["product", "absolute", "sampled"])
        assert report.upper is not None
        assert report.lower is not None
        assert constant * (1 - 1e-14) <= report.upper, (p, report.upper)
        assert report.lower <= constant * (1 + 1e-14), (p, report.lower)
        if constant == 0:  # cancellation inside one operator is exact; a computed product keeps its underflow term
            assert report.upper <= (1e-300 if name == "linear layers that cancel" else 0.0)
            continue
        if known.tight:
            assert report.upper <= constant * (1 + 1e-9), (p, report.upper)
        if not known.approached:
            assert report.lower >= constant * (1 - 1e-3), (p, report.lower)


def test_the_oracle_of_slopes_can_fail() -> None:
    """A constant of SiLU taken as 1, or of ReLU shrunk by 1e-8, is outside the window of `test_one_dimension`."""
    assert steepest(ACTIVATIONS["silu"]) > 1.0998
    assert not steepest(ACTIVATIONS["relu"]) * (1 - 1e-12) <= 1 - 1e-8
