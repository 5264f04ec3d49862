"""Networks that end in an activation or in maxima: the last slopes are part of the constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from oracles import attained
from torch import nn

import lipcert
from lipcert.proofs import torus_form as torus_form_room
from lipcert.report.report import Report

SHAPE = (1, 1, 4, 4)
LAST: dict[str, Callable[[], nn.Module]] = {
    "PReLU": lambda: nn.PReLU(init=5.0),
    "leaky": lambda: nn.LeakyReLU(2.0),
    "negative": lambda: nn.PReLU(init=-3.0),
    "SiLU": nn.SiLU,
    "ELU": lambda: nn.ELU(4.0),
    "maxima": lambda: nn.MaxPool2d(2, 1),
    "maxima of steep": lambda: nn.Sequential(nn.PReLU(init=5.0), nn.MaxPool2d(3, 1)),
    "steep maxima": lambda: nn.Sequential(nn.MaxPool2d(3, 1), nn.PReLU(init=5.0)),
    "twice": lambda: nn.Sequential(nn.PReLU(init=3.0), nn.PReLU(init=3.0)),
}


def network(last: str, head: bool = False) -> nn.Module:
    torch.manual_seed(1)
    body = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), LAST[last]()]
    return nn.Sequential(*body, *([nn.Conv2d(2, 1, 1)] if head else [])).eval().requires_grad_(False)


def bounded(module: nn.Module, method: str) -> Report:
    return lipcert.bound(module, input_shape=SHAPE, methods=[method])


def least(module: nn.Module) -> float:
    double = module.double()
    found = attained(lambda x: double(x[None])[0], SHAPE[1:], [("2", "2")], points=30, seed=0)
    module.float()
    return found["2", "2"]


@pytest.mark.every(5)
@pytest.mark.parametrize("method", ["lipsdp-torus", "lipsdp-segments", "lipsdp"])
@pytest.mark.parametrize("last", LAST)
def test_the_last_slopes_count(last: str, method: str) -> None:
    module = network(last)
    report = bounded(module, method)
    if report.upper is not None:
        assert report.upper >= least(module)


@pytest.mark.parametrize("last", ["PReLU", "maxima of steep"])
def test_the_torus_has_a_value_that_its_certificate_proves(last: str, tmp_path) -> None:
    module, file = network(last), tmp_path / "c.json"
    report = lipcert.bound(module, input_shape=SHAPE, methods=["lipsdp-torus"], certificate=file)
    product = bounded(module, "product").upper
    assert report.upper is not None
    assert product is not None
    assert least(module) <= report.upper < product
    assert lipcert.verify(file, lipcert.load(module, input_shape=SHAPE)).upper == pytest.approx(report.upper, rel=1e-3)


def test_slopes_that_are_left_out_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last activation taken for an output, whose slopes are [0, 1]: below what is attained."""
    right = torus_form_room._assembled

    def wrong(graph, shapes, rows, *rest):
        form = right(graph, shapes, rows, *rest)
        if graph.output not in rows:
            return form
        last = form.sites[-1]
        sites = (*form.sites[:-1], replace(last, low=torch.zeros_like(last.low), high=torch.ones_like(last.high)))
        return replace(form, sites=sites, rows=({},), outputs=0, ends_on_map=True)

    monkeypatch.setattr(torus_form_room, "_assembled", wrong)
    module = network("PReLU")
    report = bounded(module, "lipsdp-torus")
    assert report.upper is not None
    assert report.upper < least(module)
