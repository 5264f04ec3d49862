"""Products of weights that leave the numbers of float64 on the way are errors of `regions`, not zeros."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from helpers import f64
from nets import Layer, Net

from lipcert.methods import METHODS
from lipcert.methods.problem import Problem
from lipcert.network.graph import Graph
from lipcert.terms.query import Box, Norm
from lipcert.terms.result import Bound, Refusal

pytest.importorskip("numba")


def chain(scales: tuple[float, ...]) -> Graph:
    """Without biases: its constant is that of the unscaled chain times all scales."""
    torch.manual_seed(0)
    widths = [2, *(3 for _ in scales[1:]), 2]
    maps = [f64(m, n) * scale for (n, m), scale in zip(pairwise(widths), scales, strict=True)]
    layers = tuple(Layer({k: a}, "relu") for k, a in enumerate(maps[:-1]))
    return Net("chain", 2, layers, {len(layers): maps[-1]}).graph()


def value(graph: Graph) -> float:
    with torch.no_grad():
        found = METHODS["regions"].run(Problem(graph, Norm()))
    assert isinstance(found, Bound), found
    return found.value


@pytest.mark.parametrize(
    "scales", [(1e-200, 1e-200), (1e-200, 1e-150, 1e300), (1e-310, 1e300), (1e-160, 1e-150), (1e-30, 1e-40, 1e60)]
)
def test_tiny_weights_do_not_vanish(scales: tuple[float, ...]) -> None:
    unit = value(chain(tuple(1.0 for _ in scales))) / (1 + 1e-2)  # closed to rtol
    true = unit * math.prod(scales[::-1])
    found = value(chain(scales))
    assert found > 0
    assert found >= true


def test_scales_of_float32_cost_nothing() -> None:
    """The least weight of float32 is 1e-45."""
    unit, small = value(chain((1.0, 1.0, 1.0))), value(chain((1e-20, 1e-38, 1e30)))
    assert small == pytest.approx(unit * 1e-28, rel=1e-2)


def test_regions_too_small_are_refused() -> None:
    """Weights times the size of the region leave the numbers; the slope does not."""
    radius = 1e-250
    problem = Problem(chain((1e-150, 1e150)), Norm(), Box((-radius, -radius), (radius, radius)))
    with torch.no_grad():
        found = METHODS["regions"].run(problem)
    assert isinstance(found, Refusal)
    assert "underflow" in found.reason


def test_weights_that_no_box_suits_are_a_refusal() -> None:
    with torch.no_grad():
        found = METHODS["regions"].run(Problem(chain((1e308, 1e-308, 1.0)), Norm()))
    assert isinstance(found, Refusal)
    assert "overflow" in found.reason
