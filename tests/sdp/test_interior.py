"""Deep narrow chains by an interior point method: its derivatives, its optimum, and that nothing ends above the closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from helpers import f64
from nets import Layer, Net, clarabel
from torch import Tensor

from lipcert.methods.eclipse import Eclipse
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.problem import Problem
from lipcert.proofs.lmi import coefficients
from lipcert.proofs.normal_form import normal_form
from lipcert.sdp import narrow
from lipcert.sdp.barrier import Barrier
from lipcert.sdp.interior import BLOCK, factored
from lipcert.sdp.narrow import Narrow
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound


def deep(widths: list[int], seed: int, slopes: str = "relu", gain: float = 2.0) -> Net:
    """He-random. `slopes`: "relu", or "mixed": of every sign, some of one sign."""
    torch.manual_seed(seed)
    maps = [f64(m, n) * math.sqrt(gain / n) for n, m in pairwise(widths)]
    acts: list[str | Tensor] = ["relu"] * (len(maps) - 1)
    if slopes == "mixed":
        acts = [torch.rand(n, dtype=torch.float64) * 1.5 - 0.5 for n in widths[1:-1]]
    layers = tuple(Layer({k: a}, act) for k, (a, act) in enumerate(zip(maps[:-1], acts, strict=True)))
    return Net(f"deep {widths} {slopes}", widths[0], layers, {len(layers): maps[-1]})


def found(method: object, net: Net) -> Bound:
    with torch.no_grad():
        result = method.run(Problem(net.graph(), Norm()))  # type: ignore[attr-defined]
    assert isinstance(result, Bound), result
    return result


def chain_of(net: Net) -> Narrow:
    form = normal_form(net.graph())
    chain = Narrow.of(form, coefficients(form))
    assert chain is not None
    return chain


def logdet(chain: Narrow, point: Tensor) -> Tensor:
    """log det Z, the matrix written down entry by entry; plus log lambda where both slopes have one sign."""
    start = chain.weights[0].shape[1]
    n = start + sum(chain.sizes)
    unit = torch.eye(n, dtype=torch.float64)
    Z = torch.zeros(n, n, dtype=torch.float64)
    Z = Z + point[-1] * (unit[:, :start] @ unit[:, :start].T)
    extra, at, before, i = torch.zeros((), dtype=torch.float64), start, 0, 0
    for w, low, high in zip(chain.weights, chain.low, chain.high, strict=True):
        for row, a, b in zip(w, low, high, strict=True):
            v = row @ unit[before : before + w.shape[1]]
            p, q = unit[at + i - 0] - a * v, unit[at + i] - b * v
            weight = point[at + i - start]
            Z = Z + weight * (torch.outer(p, q) + torch.outer(q, p))
            extra = extra + (torch.log(weight) if a * b > 0 else 0.0)
            i += 1
        before, at, i = at, at + w.shape[0], 0
    end = unit[before:at]
    Z = Z - end.T @ chain.last.T @ chain.last @ end
    return torch.logdet(Z) + extra


def inside(chain: Narrow) -> tuple[Barrier, Tensor]:
    barrier, top = Barrier(chain), sum(chain.sizes)
    multipliers = torch.cat(
        [torch.full((n,), 10.0 ** (len(chain.sizes) - k), dtype=torch.float64) for k, n in enumerate(chain.sizes)]
    )
    multipliers = multipliers * (1 + torch.rand(top, dtype=torch.float64))
    least = float(barrier.least(multipliers[None]))
    assert math.isfinite(least)
    return barrier, torch.cat([multipliers, torch.tensor([1.3 * least], dtype=torch.float64)])


@pytest.mark.parametrize("slopes", ["relu", "mixed"])
def test_derivatives_are_those_of_the_matrix_written_down(slopes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = chain_of(deep([3, 4, 2, 3, 2, 4, 3, 2], 5, slopes))
    barrier, point = inside(chain)
    factor = barrier.factor(point)
    assert factor is not None
    g, lower = barrier.derivatives(point, factor)
    H = lower.tril() + lower.tril(-1).T
    gradient = torch.autograd.functional.jacobian(lambda x: logdet(chain, x), point)
    hessian = torch.autograd.functional.hessian(lambda x: logdet(chain, x), point)
    assert torch.allclose(g, gradient, rtol=1e-8)
    assert torch.allclose(H, -hessian, rtol=1e-6, atol=1e-9 * float(hessian.abs().max()))
    monkeypatch.setattr(barrier, "ends", [(high, low) for low, high in barrier.ends])  # planted: p is q, and q is p
    assert torch.allclose(barrier.derivatives(point, factor)[0][:-1], gradient[:-1], rtol=1e-8)  # which is the same
    monkeypatch.setattr(barrier, "ends", [(high, high) for _, high in barrier.ends])
    assert not torch.allclose(barrier.derivatives(point, factor)[0], gradient, rtol=1e-3)


def test_points_together_have_the_factors_of_each() -> None:
    barrier, point = inside(chain_of(deep([3, 4, 2, 3, 2, 4, 3, 2], 5, "mixed")))
    outside = torch.cat([point[:-1], point[-1:] / 2])
    found = barrier.factors(torch.stack([outside, point, -point]))
    assert found.stands.tolist() == [False, True, False]
    alone, one = barrier.factor(point), found.of(1)
    assert alone is not None
    assert one is not None
    assert found.of(0) is None
    for mine, theirs in zip(alone.inverses + alone.below, one.inverses + one.below, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12)


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_the_factor_by_blocks_is_that_of_lapack(n: int) -> None:
    torch.manual_seed(n)
    root = f64(n, n)
    M = root @ root.T + torch.eye(n, dtype=torch.float64)
    H = M + torch.triu(torch.full_like(M, torch.nan), 1)  # which nobody reads
    assert factored(H)
    assert torch.allclose(H.tril(), torch.linalg.cholesky(M), rtol=1e-10)
    if n > 1:
        M[-1, -1] = -1.0
        assert not factored(M)


@pytest.mark.every(3)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slopes", ["relu", "mixed"])
def test_the_optimum_is_that_of_the_sweeps(seed: int, slopes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = deep([4, 5, 4, 6, 5, 3, 4, 5, 3], seed, slopes)
    inner = found(Lipsdp("neuron"), net)
    assert inner.details["source"] == "interior"
    assert inner.details["dual"] <= inner.value * (1 + 1e-9)
    assert inner.details["gap"] <= 1e-6
    monkeypatch.setattr(narrow, "WIDEST", 0)
    swept = found(Lipsdp("neuron"), net)
    assert swept.details["newton"] == 0
    assert inner.value == pytest.approx(swept.value, rel=2e-4 if swept.details["gap"] > 1e-6 else 2e-6)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("slopes", ["relu", "mixed"])
def test_the_optimum_is_that_of_a_general_solver(slopes: str) -> None:
    net = deep([2, 3, 2, 3, 2, 3, 2, 2], 1, slopes)
    value = found(Lipsdp("neuron"), net)
    best = clarabel(net)
    assert value.details["source"] == "interior"
    assert best * (1 - 1e-4) <= value.value <= best * (1 + 1e-6)


@pytest.mark.parametrize(("depth", "gain"), [(16, 2.0), (16, 0.1), pytest.param(64, 2.0, marks=pytest.mark.slow)])
def test_deep_chains_close_their_gap_below_the_closed_form(depth: int, gain: float) -> None:
    """Also where the constant is tiny: there is no floor."""
    net = deep([16] * (depth + 2), 0, gain=gain)
    value, fast = found(Lipsdp("neuron"), net), found(Eclipse(), net)
    assert value.details["gap"] <= 1e-4
    assert value.details["source"] == "interior"
    assert value.value < fast.value


def test_what_cannot_be_closed_is_not_above_either_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "WIDEST", 0)
    for seed in range(2):
        net = deep([3, *[4] * 12, 9], seed)
        assert found(Lipsdp("neuron", sweeps=1), net).value <= found(Eclipse(), net).value * (1 + 1e-9)


@pytest.mark.parametrize("widths", [[1] * 9, [1, 3, 1, 3, 1, 3, 1, 3, 1], [40, 3, 3, 3, 3, 3, 3, 1], [2, *[3] * 7, 30]])
def test_odd_shapes(widths: list[int]) -> None:
    net = deep(widths, 2)
    value = found(Lipsdp("neuron"), net)
    assert value.value <= found(Eclipse(), net).value * (1 + 1e-9)


def test_a_dead_layer_is_no_trouble() -> None:
    net = deep([3, *[4] * 8, 2], 0)
    layers = list(net.layers)
    layers[3] = Layer({3: torch.zeros(4, 4, dtype=torch.float64)}, "relu")
    assert found(Lipsdp("neuron"), Net("dead", 3, tuple(layers), net.out)).value == 0.0
