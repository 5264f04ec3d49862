"""Where Jacobians are measured: at the data, around them, between them, or in a box; in batches that fit in memory.

Data, noise around data and interpolations between data are the three places of eq. 3 of Rosca et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcert.terms.query import Box, Region


@dataclass(frozen=True, eq=False)
class Points:
    """One set: `at(i, j)` gives its points i to j, (j - i, n) float64, the same ones in every run."""

    name: str
    count: int
    at: Callable[[int, int], Tensor]
    labels: np.ndarray | None = None


def point_sets(
    x: Tensor | None,
    labels: np.ndarray | None,
    region: Region,
    samples: int,
    around: float | None,
    between: bool,
    seed: int,
) -> list[Points]:
    if x is None:
        assert isinstance(region, Box)
        low, high = region.lower.reshape(-1), region.upper.reshape(-1)

        def inside(i: int, j: int) -> Tensor:
            return torch.minimum(low + _random(torch.rand, i, j, low.numel(), seed, 0) * (high - low), high)

        return [Points("box", samples, inside)]
    count, n = x.shape
    sets = [Points("data", count, lambda i, j: x[i:j], labels)]
    if around is not None:
        sets.append(
            Points("around", count, lambda i, j: x[i:j] + around * _random(torch.randn, i, j, n, seed, 1), labels)
        )
    if between:

        def mixed(i: int, j: int) -> Tensor:
            raw = _random(torch.rand, i, j, 3, seed, 2)
            a, b = ((raw[:, k] * count).long().clamp(max=count - 1) for k in (0, 1))
            return x[a] + raw[:, 2:] * (x[b] - x[a])

        sets.append(Points("between", count, mixed))
    return sets


def _random(draw: Callable[..., Tensor], i: int, j: int, n: int, seed: int, stream: int) -> Tensor:
    """Rows i to j of an endless table that depends on the seed only, so that a resumed run draws the same ones."""
    rows = torch.zeros(j - i, n, dtype=torch.float64)
    for k in range(i, j):
        random = torch.Generator().manual_seed(((seed * 3 + stream) * 1_000_000_007 + k) % 2**63)
        rows[k - i] = draw(n, generator=random, dtype=torch.float64)
    return rows


def batches(sets: Sequence[Points], done: set[tuple[str, int]], step: int) -> Iterator[tuple[Points, int, int]]:
    """What is still to be measured: (set, first index, the one after the last), at most `step` at once."""
    for group in sets:
        i = 0
        while i < group.count:
            if (group.name, i) in done:
                i += 1
                continue
            j = i + 1
            while j < min(i + step, group.count) and (group.name, j) not in done:
                j += 1
            yield group, i, j
            i = j
