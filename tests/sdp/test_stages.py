"""Stages of dense layers, which a sweep goes through without a walk: the same signals and gradients as with one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lipcert
from lipcert.proofs.normal_form import NormalForm, normal_form
from lipcert.sdp.sweep import Dual


class Skips(nn.Module):
    """The input is read by two layers, a signal by two others: gradients add up from several stages."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x))
        return self.d(torch.relu(self.c(h)) + torch.tanh(self.b(x)) + h)


def form(module: nn.Module, width: int) -> NormalForm:
    found = normal_form(lipcert.load(module, input_shape=(1, width)).graph, "neuron", None)
    assert isinstance(found, NormalForm)
    return found


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)
    )


@pytest.mark.parametrize("make", [chain, Skips])
def test_sweeps_are_those_of_the_walk(make) -> None:
    torch.manual_seed(0)
    short = Dual(form(make(), 4), rows=3)
    assert any(steps is not None for steps in short.dense)
    walked = Dual(short.form, rows=3)
    walked.dense = [None] * len(walked.dense)
    states = [dual.start() for dual in (short, walked)]
    for _ in range(3):
        found, expected = (dual.sweep(state) for dual, state in zip((short, walked), states, strict=True))
        assert found.value == pytest.approx(expected.value, rel=1e-12, abs=0.0)
        assert torch.allclose(found.after.flat, expected.after.flat, rtol=1e-11, atol=1e-13)
        states = [found.after, expected.after]


def test_the_comparison_can_fail() -> None:
    torch.manual_seed(0)
    dual = Dual(form(chain(), 4), rows=3)
    state = dual.start()
    value = dual.sweep(state).value
    stage = next(k for k, steps in enumerate(dual.dense) if steps)
    dual.dense[stage] = [(node, parent, None if w is None else w * (1 + 1e-9)) for node, parent, w in dual.dense[stage]]
    assert dual.sweep(state).value != pytest.approx(value, rel=1e-12, abs=0.0)
