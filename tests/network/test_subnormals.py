"""Error terms of zeros stay zeros: subnormal numbers in their place make matrix products 40 times slower."""

from __future__ import annotations

import torch

from lipcert.network.graph import Enclosure, enclose_linear
from lipcert.operators.linear import Dense


def test_what_is_exactly_zero_has_no_radius_but_the_constant_one() -> None:
    centre = torch.tensor([[1.0, 0.0, 3.0, 0.0]], dtype=torch.float64)
    radius = torch.tensor([[0.0, 0.0, 0.5, 2.0**-1074]], dtype=torch.float64)
    known = Enclosure(centre, radius)
    assert known.lower[0, :2].tolist() == known.upper[0, :2].tolist() == [1.0, 0.0]
    assert known.lower[0, 2] < 2.5 < 3.5 < known.upper[0, 2]
    assert known.lower[0, 3] < 0 < known.upper[0, 3]  # a radius that is there is kept
    weight = torch.full((1, 1, 4), 2.0**1000, dtype=torch.float64)
    seen = []

    class Watched(Dense):
        def _apply(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.clone())
            return super()._apply(weight, x)

        def absolute(self) -> Dense:
            return Watched(self.weight.abs())

    found = enclose_linear(Watched(weight), known)
    assert seen[-1][0, 1] == 0.0
    assert seen[-1][0, 3] > 0.0
    assert found.reach()[0, 0] >= 2.0**1000 * (0.5 + 2.0**-1074)
