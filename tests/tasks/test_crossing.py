"""Where a loss passes a margin: what is told was found, and little more would have held."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lipcert.tasks.radius.crossing import grown, largest_held


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0, 6.0])
@pytest.mark.parametrize("begin", [1e-3, 0.2, 1.0, 30.0])
def test_powers_are_followed_to_where_they_pass(power: float, begin: float) -> None:
    ahead = torch.tensor([[1.0, 2.0], [0.5, 4.0], [3.0, 0.01]], dtype=torch.float64)
    right = (ahead / torch.tensor([2.0, 1.0])).amin(dim=1) ** (1 / power)
    asked: list[tuple[int, float]] = []

    def lost(rows: Tensor, radius: Tensor) -> Tensor:
        asked.extend(zip(rows.tolist(), radius.tolist(), strict=True))
        return radius[:, None] ** power * torch.tensor([2.0, 1.0], dtype=torch.float64)

    radius, limit = largest_held(lost, ahead, right * begin, 12)
    assert bool((radius <= right * (1 + 1e-12)).all())
    assert bool((radius > 0.9 * right).all())
    assert limit.tolist() == [0, 0, 1]
    assert all((k, r) in asked for k, r in enumerate(radius.tolist()))


def test_what_jumps_and_what_is_unknown() -> None:
    """A loss that jumps, one that is NaN, one that is everywhere infinite, and none at all."""
    ahead = torch.ones(4, 1, dtype=torch.float64)

    def lost(rows: Tensor, radius: Tensor) -> Tensor:
        values = {0: 0.1, 1: math.nan, 2: math.inf, 3: 0.0}
        found = [
            [math.inf if k == 0 and r > 0.7 else values[k]] for k, r in zip(rows.tolist(), radius.tolist(), strict=True)
        ]
        return torch.tensor(found, dtype=torch.float64)

    radius, _ = largest_held(lost, ahead, torch.ones(4, dtype=torch.float64), 10)
    assert 0.6 < float(radius[0]) <= 0.7
    assert radius[1:3].tolist() == [0.0, 0.0]
    assert float(radius[3]) >= 2.0**10


def test_brackets_are_halved_and_only_what_was_found_is_told() -> None:
    """Values that say nothing but whether they are below: those held at first are never lost, and an attack is never passed."""
    true = torch.tensor([1.0, 1.0, 0.3, 0.0, 1.0], dtype=torch.float64)
    begin = torch.tensor([0.5, 0.5, 0.29, 0.0, 0.1], dtype=torch.float64)
    beyond = torch.tensor([1.1, math.inf, 0.295, 1.0, math.inf], dtype=torch.float64)
    asked: list[tuple[int, float]] = []

    def lost(rows: Tensor, radius: Tensor) -> Tensor:
        asked.extend(zip(rows.tolist(), radius.tolist(), strict=True))
        return torch.stack([torch.zeros_like(radius), torch.where(radius <= true[rows], 0.9, 1.1)], dim=1)

    ahead, first = torch.ones(5, 2, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    radius, limit = grown(lost, ahead, (begin, first), beyond, 6)
    assert bool((radius <= true).all())
    assert bool((radius >= begin).all())
    assert bool((radius[:2] > 0.95).all())
    assert not any(k in (2, 3) for k, _ in asked), "close enough already, and nowhere to begin"
    assert all((k, r) in asked for k, r in enumerate(radius.tolist()) if r > begin[k])
    assert limit.tolist() == [1, 1, 0, 0, 0]
    assert begin.tolist() == [0.5, 0.5, 0.29, 0.0, 0.1], "what is given stays as it is"
