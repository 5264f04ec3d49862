"""Proofs are dear: none is made that the tolerance does not ask for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lipcert
from lipcert.proofs.lmi import coefficients
from lipcert.proofs.normal_form import normal_form
from lipcert.sdp.solve import Settings, Solver, solve


@pytest.mark.parametrize("tolerance", [5e-4, 5e-3])
def test_a_gap_that_is_closed_ends_the_search(tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wider than the 1e-4 that will do where it closes slowly, as of networks of many thousand neurons."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5))
    form = normal_form(lipcert.load(net, input_shape=(1, 20)).graph, "neuron", None)

    def never(self: Solver, *_: object) -> None:
        raise AssertionError("the last resort, though the gap is closed")

    monkeypatch.setattr(Solver, "fall_back", never)
    found = solve(form, coefficients(form), Settings(tolerance)).info
    assert 1e-4 < found.gap <= 1.01 * tolerance
    assert found.source == "sweep"
