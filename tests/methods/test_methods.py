"""Cases of one method each that a general random test meets too rarely."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.methods import METHODS
from lipcert.methods.problem import REGION
from lipcert.terms.query import Box
from lipcert.terms.result import Bound


class Against(nn.Module):
    """x - sort(x): where two entries swap, (1, -1) goes to 2 (1, -1)."""

    def __init__(self, descending: bool = False):
        super().__init__()
        self.descending = descending

    def forward(self, x: Tensor) -> Tensor:
        return x - torch.sort(x, dim=-1, descending=self.descending).values


@pytest.mark.parametrize("descending", [False, True])
def test_sorting_is_a_permutation_not_a_monotone_map(descending: bool) -> None:
    """A swap has the eigenvalue -1, so no method may give sort slopes in [0, 1]: the constant is 2, not 1."""
    report = lipcert.bound(lipcert.load(Against(descending), input_shape=(1, 2)))
    uppers = {r.method: r.value for r in report.results if isinstance(r, Bound) and r.side == "upper"}
    assert {"product", "lipsdp"} <= set(uppers)
    assert min(uppers.values()) >= 2
    assert report.lower is not None
    assert report.lower >= 2 * (1 - 1e-9)


class Dead(nn.Module):
    """A ReLU that never wakes on the unit box."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        nn.init.constant_(self.layer.bias, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.ones(1, 2))


@pytest.mark.parametrize(
    "method",
    [
        n
        for n, m in METHODS.items()
        if m.side == "upper" and n not in ("lipsdp-network", "lipsdp-torus", "lipsdp-segments", "lipsdp-norms")
    ],
)
@pytest.mark.parametrize("network", [Dead, Constant])
def test_a_constant_network_is_bounded_by_zero(network: type[nn.Module], method: str) -> None:
    """On the box of `Dead`, and everywhere for `Constant`, no path leads from the input to the output."""
    box = Box(-torch.ones(1, 3), torch.ones(1, 3)) if network is Dead or METHODS[method].where == REGION else None
    result, *_ = lipcert.bound(lipcert.load(network(), input_shape=(1, 3)), region=box, methods=[method]).results
    assert isinstance(result, Bound)
    assert result.value <= 1e-9
