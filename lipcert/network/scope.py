"""Where a constant is asked for: regions in the shape of a graph, and in the words of a report."""

from __future__ import annotations

import math
from typing import Any

import torch

from lipcert.network.graph import Graph
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Ball, Box, Norm, Region


def checked_region(region: Region, graph: Graph) -> Region:
    """The region in float64 and the model's shape."""
    if isinstance(region, Box):
        low, high = (_fitted(side, graph.input_shape) for side in (region.lower, region.upper))
        if not bool(((low <= high) & torch.isfinite(low) & torch.isfinite(high)).all()):
            raise UsageError("box: lower <= upper must hold in every coordinate, with finite ends")
        return Box(low.contiguous(), high.contiguous())
    if isinstance(region, Ball):
        if not (math.isfinite(region.radius) and region.radius >= 0):
            raise UsageError(f"ball: the radius is finite and not negative, got {region.radius}")
        centre = torch.as_tensor(region.center, dtype=torch.float64)
        if centre.numel() != math.prod(graph.input_shape) or not bool(torch.isfinite(centre).all()):
            raise UsageError(
                f"ball: the centre needs {math.prod(graph.input_shape)} finite values, got {centre.numel()}"
            )
        Norm(region.norm, region.norm)
        return Ball(centre.reshape(graph.input_shape), float(region.radius), region.norm)
    if region is not None:  # anything else would be answered for the whole space
        raise UsageError(f"region: a lipcert.Box or a lipcert.Ball, or None for the whole space, not {region!r}")
    return None


def _fitted(side: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """One number for all inputs, or one for each; nothing in between, which could mean rows or columns."""
    if side.numel() == 1:
        return side.reshape(()).expand(shape)
    if side.numel() != math.prod(shape):
        raise UsageError(f"box: one end for each of the {math.prod(shape)} inputs, or one for all; got {side.numel()}")
    return side.reshape(shape)


def describe(region: Region) -> dict[str, Any]:
    """The region as the report has it."""
    if isinstance(region, Box):
        return {"kind": "box", "lower": region.lower.reshape(-1).tolist(), "upper": region.upper.reshape(-1).tolist()}
    if isinstance(region, Ball):
        center = region.center.reshape(-1).tolist()
        return {"kind": "ball", "center": center, "radius": region.radius, "norm": region.norm}
    return {"kind": "global"}
