"""Lines above and below products of slopes and sizes: they hold at the ends of both, infinite ranges included."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

from lipcert.regions.backward.lines import Lines, products

ENDS = [-math.inf, -1e200, -3.0, -0.1, -5e-324, 0.0, 1e-300, 0.1, 3.0, 1e200, math.inf]


def every() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """a <= b slopes, lower <= upper: each (1, k)."""
    slopes = [(a, b) for a, b in itertools.product([-2.0, 0.0, 0.1, 1.0], repeat=2) if a <= b]
    ranges = [(u, v) for u, v in itertools.product(ENDS, repeat=2) if u <= v and u < math.inf and v > -math.inf]
    rows = torch.tensor([[*s, *r] for s in slopes for r in ranges], dtype=torch.float64)
    return tuple(column[None] for column in rows.T)  # type: ignore[return-value]


def holds(found: Lines, k: int, s: float, g: float) -> bool:
    value = Fraction(s) * Fraction(g)
    for slope, intercept, sign in ((found.low_slope, found.low, 1), (found.high_slope, found.high, -1)):
        end = float(intercept[0, k])
        if math.isfinite(end) and sign * (Fraction(float(slope[0, k])) * Fraction(g) + Fraction(end) - value) > 0:
            return False
    return True


def test_products() -> None:
    a, b, lower, upper = every()
    found = products((a, b), lower, upper)
    for k in range(a.shape[1]):
        for s, g in itertools.product((a[0, k], b[0, k]), (lower[0, k], upper[0, k], torch.zeros(()))):
            if math.isfinite(g) and lower[0, k] <= g <= upper[0, k]:
                assert holds(found, k, float(s), float(g)), (a[0, k], b[0, k], lower[0, k], upper[0, k], s, g)


def test_entries_do_not_see_each_other() -> None:
    """Whether or not one needs what is made for infinite ranges, and whatever crosses 0."""
    columns = every()
    whole = products(columns[:2], *columns[2:])
    for k in range(columns[0].shape[1]):
        alone = products(tuple(c[:, k : k + 1] for c in columns[:2]), *(c[:, k : k + 1] for c in columns[2:]))
        for name in ("low_slope", "low", "high_slope", "high"):
            both = getattr(whole, name)[:, k : k + 1], getattr(alone, name)
            assert torch.equal(*(part.nan_to_num(0.5) for part in both)), name


@pytest.mark.parametrize("name", ["low", "high"])
def test_a_line_that_is_off_is_found(name: str) -> None:
    a, b, lower, upper = (torch.full((1, 1), v, dtype=torch.float64) for v in (0.0, 1.0, -1.0, 2.0))
    found = products((a, b), lower, upper)
    off = 1e-12 if name == "low" else -1e-12
    planted = Lines(**{**vars(found), name: getattr(found, name) + off})
    ends = list(itertools.product((0.0, 1.0), (-1.0, 2.0)))
    assert all(holds(found, 0, s, g) for s, g in ends)
    assert not all(holds(planted, 0, s, g) for s, g in ends)
