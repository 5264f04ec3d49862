"""Points of a region: drawn, moved into it, and whether they lie there."""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.rigor.rounding import norm_up
from lipcert.sampling.directions import size, unit
from lipcert.terms.query import Ball, Box, Region


def points_of(region: Region, raw: Tensor, random: torch.Generator) -> Tensor:
    """Points over the region from uniform numbers in [0, 1]; a third of them at corners."""
    corner = (torch.arange(raw.shape[0]) % 3 == 0)[:, None]
    raw = torch.where(corner, raw.round(), raw)
    if isinstance(region, Box):
        low, high = region.lower.reshape(1, -1), region.upper.reshape(1, -1)
        return low + raw * (high - low)
    assert isinstance(region, Ball)
    if region.norm == "inf":
        return region.center.reshape(1, -1) + region.radius * (2 * raw - 1)
    direction = unit(torch.randn(raw.shape, generator=random, dtype=torch.float64), region.norm)
    return region.center.reshape(1, -1) + region.radius * raw[:, :1].sqrt() * direction


def middle(region: Box | Ball) -> Tensor:
    """(1, n)."""
    centre = region.center if isinstance(region, Ball) else region.lower / 2 + region.upper / 2
    return centre.reshape(1, -1)


def spread(region: Box | Ball) -> Tensor:
    """(1, n) how far a typical point is from the middle along each coordinate."""
    if isinstance(region, Box):
        return (region.upper / 2 - region.lower / 2).reshape(1, -1)
    n = max(1, region.center.numel())
    return torch.full((1, n), region.radius * {"inf": 1.0, "2": n**-0.5, "1": 1 / n}[region.norm], dtype=torch.float64)


def into_region(x: Tensor, region: Region, room: Tensor | None = None) -> Tensor:
    """(r, n) points moved into the region, strictly within rounding for balls. `room` (1, n): such that x +- room stay in
    it too, where it is wide enough."""
    room = torch.zeros_like(x[:1]) if room is None else room.abs()
    if isinstance(region, Box):
        low, high = region.lower.reshape(1, -1), region.upper.reshape(1, -1)
        room = torch.minimum(room, high / 2 - low / 2)
        return torch.minimum(torch.maximum(x, low + room), high - room)
    if isinstance(region, Ball):
        centre = middle(region)
        away = x - centre
        rounding = 2.0**-50 * size(centre.abs(), region.norm)[:, None]
        if region.norm == "inf":
            reach = (region.radius * (1 - 1e-12) - rounding - room).clamp(min=0.0)
            return centre + torch.minimum(torch.maximum(away, -reach), reach)
        reach = (region.radius * (1 - 1e-12) - rounding - size(room, region.norm)[:, None]).clamp(min=0.0)
        return centre + away * (reach / size(away, region.norm)[:, None].clamp(min=1e-300)).clamp(max=1.0)
    return x


def inside(x: Tensor, region: Region) -> Tensor:
    """Which rows lie in the region, rounding counted against them."""
    if isinstance(region, Box):
        return ((x >= region.lower.reshape(1, -1)) & (x <= region.upper.reshape(1, -1))).all(dim=1)
    if isinstance(region, Ball):
        away = (x - region.center.reshape(1, -1)).abs() * (1 + 2.0**-50)
        return norm_up(away, region.norm, 1) <= region.radius
    return torch.ones(x.shape[0], dtype=torch.bool)
