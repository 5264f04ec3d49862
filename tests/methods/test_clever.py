"""CLEVER is an estimate: it is reported as one with the quality of its fit, and a fit that diverges is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import f64
from nets import Layer, Net
from torch import Tensor, nn

import lipcert
from lipcert.methods.clever import Clever, _ks, _likelihood, fit, sample
from lipcert.methods.problem import Problem
from lipcert.terms.query import Ball, Box, Norm
from lipcert.terms.result import Bound, Refusal


def reverse_weibull(end: float, shape: float, scale: float, count: int, seed: int = 0) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(end - scale * random.weibull(shape, count))


@pytest.mark.every(3)
@pytest.mark.parametrize("end", [3.0, 3e-5, 3e7])
@pytest.mark.parametrize("shape", [2.0, 4.0])
def test_the_end_point_of_a_reverse_weibull_is_found(shape: float, end: float) -> None:
    for seed in range(5):
        found = fit(reverse_weibull(end, shape, 0.3 * end, 2000, seed))
        assert found["end"] == pytest.approx(end, rel=0.08)
        assert found["shape"] == pytest.approx(shape, rel=0.6)
        assert found["p_value"] > 0.05


def test_the_likelihood_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    z = 5 - reverse_weibull(5.0, 3.0, 1.0, 300)
    shape, _, scale = stats.weibull_min.fit(z.numpy(), floc=0)
    assert float(_likelihood(z[None])) == pytest.approx(
        stats.weibull_min.logpdf(z.numpy(), shape, 0, scale).sum(), rel=1e-9
    )
    u = torch.rand(200, dtype=torch.float64)
    assert _ks(u) == pytest.approx(stats.kstest(u.numpy(), "uniform").statistic)


def test_a_bad_fit_is_seen() -> None:
    """Maxima of two places."""
    y = torch.cat([reverse_weibull(1.0, 3.0, 0.01, 300), reverse_weibull(9.0, 3.0, 0.01, 300)])
    found = fit(y)
    assert found["end"] is None or found["p_value"] < 1e-6


def test_a_fit_that_diverges_says_so() -> None:
    """Gumbel and Frechet maxima have no end point."""
    refused = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        refused += fit(torch.from_numpy(random.gumbel(size=500)))["end"] is None
        assert fit(torch.from_numpy(random.pareto(2.0, 500) + 1))["end"] is None
    assert refused >= 1


def test_one_value_is_its_own_end() -> None:
    assert fit(torch.full((50,), 2.5, dtype=torch.float64))["end"] == 2.5
    assert fit(torch.zeros(50, dtype=torch.float64))["end"] == 0.0


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_points_fill_the_ball(p: str) -> None:
    ball = Ball(torch.full((1, 3), 5.0, dtype=torch.float64), 2.0, p)  # type: ignore[arg-type]
    x = sample(ball, 4000, torch.Generator().manual_seed(0)) - 5.0
    size = torch.linalg.vector_norm(x, ord=float(p), dim=1)
    assert float(size.max()) <= 2.0 * (1 + 1e-12)
    share = float((size < 1.0).double().mean())  # half of the radius: an eighth of the volume
    assert share == pytest.approx(1 / 8, abs=0.025)
    assert torch.allclose(x.mean(dim=0), torch.zeros(3).double(), atol=0.1)


def clever(graph, region: Ball | Box, norm: str = "2") -> Bound | Refusal:
    with torch.no_grad():
        return Clever().run(Problem(graph, Norm.parse(norm), region))


@pytest.mark.parametrize("norm", ["1", "2", "inf", "1->2"])
def test_linear_maps_are_exact(norm: str) -> None:
    A = f64(3, 4)
    graph = Net("t", 4, (), {0: A}).graph()
    found = clever(graph, Box(-torch.ones(4).double(), torch.ones(4).double()), norm)
    assert isinstance(found, Bound)
    parsed = Norm.parse(norm)
    upper = lipcert.bound(_of(A), norm=parsed, methods=["product"]).upper
    assert found.value == pytest.approx(upper, rel=1e-6)


def _of(A: Tensor) -> lipcert.Model:
    layer = nn.Linear(A.shape[1], A.shape[0], bias=False).double()
    layer.weight.data = A
    return lipcert.load(layer, input_shape=(1, A.shape[1]))


def test_a_smooth_network_is_estimated_near_its_largest_gradient() -> None:
    """One tanh unit: the largest gradient |w| is at 0, inside the box."""
    w = torch.tensor([[1.0, -2.0]]).double()
    graph = Net("t", 2, (Layer({0: w}, "tanh"),), {1: torch.ones(1, 1).double()}).graph()
    found = clever(graph, Box(-torch.ones(2).double(), torch.ones(2).double()))
    if isinstance(found, Bound):
        assert found.value == pytest.approx(math.sqrt(5), rel=0.05)
        assert found.value >= found.details["largest"]
        assert set(found.details) >= {"shape", "scale", "ks", "p_value", "batches", "samples"}


def test_it_is_an_estimate_and_needs_a_region() -> None:
    model = lipcert.load(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), input_shape=(1, 3))
    report = lipcert.bound(model, methods=["clever"])
    (refused,) = report.results
    assert isinstance(refused, Refusal)
    assert "--box" in refused.reason
    ball = Ball(torch.zeros(1, 3), 0.5, "2")
    (result,) = lipcert.bound(model, methods=["clever"], region=ball).results
    assert result.side == "estimate"
    report = lipcert.bound(model, methods=["product", "clever"], region=ball)
    assert report.exit_code == 0
    assert report.lower is None
    again = lipcert.bound(model, methods=["clever"], region=ball).results[0]
    assert isinstance(result, Refusal) or again.value == result.value
