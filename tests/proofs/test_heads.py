"""Matrices behind a global average pool, which are never formed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.network.graph import Enclosure
from lipcert.proofs import heads, torus_form
from lipcert.proofs.couplings import factored
from lipcert.proofs.heads import Pooled, pooling
from lipcert.proofs.torus_form import TorusForm


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Beside(nn.Module):
    """What is read comes by two ways."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + x[:, :, 0, 0]


class Uneven(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,chw->bc", x, torch.arange(x[0].numel(), dtype=x.dtype).reshape(x[0].shape))


def network(pool: nn.Module, side: int = 6, tail: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(1)
    maps = (nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2, padding=1), nn.ReLU())
    return nn.Sequential(*maps, pool, tail or nn.Linear(4, 3)).double()


def form(net: nn.Module, side: int = 6) -> TorusForm:
    return torus_form.torus_form(lipcert.load(net, input_shape=(1, 2, side, side)).graph)


def head(found: TorusForm) -> Pooled | Enclosure:
    return next(m for (kind, _), m in found.rows[0].items() if kind == "site")


POOLS = {"pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "mean": Mean()}


@pytest.mark.parametrize("name", POOLS)
def test_the_product_is_the_whole_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(POOLS[name], 6, nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    short = head(form(net))
    monkeypatch.setattr(torus_form, "pooling", lambda *_: None)
    whole = head(form(net))
    assert isinstance(short, Pooled)
    assert isinstance(whole, Enclosure)
    product = torch.einsum("ic,t->ict", short.matrix.centre, short.weights).reshape(whole.centre.shape)
    torch.testing.assert_close(product, whole.centre, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("side", [5, 6, 9])
def test_bounds_are_the_same(name: str, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, proof = network(POOLS[name]), tmp_path / "head.cert"
    shape = (1, 2, side, side)
    short = lipcert.bound(net, input_shape=shape, methods=["lipsdp-torus", "sampled"], certificate=proof)
    lipcert.verify(proof, net, input_shape=shape)
    monkeypatch.setattr(torus_form, "pooling", lambda *_: None)
    whole = lipcert.bound(net, input_shape=shape, methods=["lipsdp-torus"])
    assert short.upper == pytest.approx(whole.upper, rel=1e-6)
    assert short.lower is not None
    assert short.upper is not None
    assert short.lower <= short.upper


@pytest.mark.parametrize("pool", [Beside(), Uneven(), nn.Flatten()])
def test_other_sums_are_formed_whole(pool: nn.Module) -> None:
    tail = nn.Linear(36, 3) if isinstance(pool, nn.Flatten) else None
    found = head(form(network(pool, 6, tail)))
    assert isinstance(found, Enclosure)


def test_of_the_input_itself_and_of_nothing_between() -> None:
    graph = lipcert.load(network(POOLS["pool"], 6, nn.Identity()), input_shape=(1, 2, 6, 6)).graph
    source = max(graph.nonlinear)
    assert pooling(graph, source, source, 4) is None
    found = pooling(graph, source, graph.output, 4)
    assert found is not None
    assert pooling(graph, source, graph.output, 2) is None  # other channels
    kept = heads.matrix(graph, found[0], graph.output)
    torch.testing.assert_close(kept.centre, torch.eye(4, dtype=torch.float64) / 9, rtol=1e-14, atol=1e-300)


def test_what_a_window_may_be_wrong_by_is_no_less_than_of_its_taps() -> None:
    """Against the same taps written out; and the sums themselves, against extended precision."""
    dice = torch.Generator().manual_seed(0)
    factor, taps = (torch.randn(3, 4, generator=dice, dtype=torch.float64) for _ in range(2))
    window, radius = torch.randn(49, generator=dice, dtype=torch.float64), torch.rand(3, 4, 1, dtype=torch.float64)
    short = factored(factor, taps[:, :, None], radius, window)
    whole = factored(factor, taps[:, :, None] * window, radius * window.abs())
    assert bool((short[2] >= whole[2] * (1 - 1e-12)).all())
    assert bool((short[1] >= whole[1] * (1 - 1e-12)).all())


def test_a_window_that_is_read_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle can fail: with half of the weights the bound lies below what is attained."""
    net = network(POOLS["pool"])
    right = torus_form.Pooled
    monkeypatch.setattr(torus_form, "Pooled", lambda m, w: replace(right(m, w), weights=w / 8))
    low = lipcert.bound(net, input_shape=(1, 2, 6, 6), methods=["lipsdp-torus"])
    monkeypatch.undo()
    attained = lipcert.bound(net, input_shape=(1, 2, 6, 6), methods=["sampled"]).lower
    assert low.upper is not None
    assert attained is not None
    assert low.upper < attained
