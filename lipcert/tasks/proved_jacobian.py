"""`jacobian --box .. --prove`: what the Jacobian is on the whole box, as it stands in the report."""

from __future__ import annotations

import math
import time
from typing import Any

from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.enumeration.constant import cells_of
from lipcert.regions.jacobians import JacobianOnBox, jacobian_on
from lipcert.terms.errors import SelfCheckFailed, UsageError
from lipcert.terms.query import Box

SECONDS = 30.0  # where there is no budget
ENTRIES = 100_000  # of a Jacobian that is written out


def proved_jacobian(graph: Graph, box: Box, deadline: float | None) -> dict[str, Any]:
    """Of the inputs `inputs`, those that move. Rows are outputs; null: nothing finite is known."""
    start = time.monotonic()
    m, n = graph.nodes[graph.output].size, graph.nodes[graph.input].size
    if m * n == 0:
        raise UsageError(f"--prove: the Jacobian has {m} x {n} entries, and nothing to prove")
    if m * n > ENTRIES:
        raise UsageError(
            f"--prove: the Jacobian has {m:,} x {n:,} entries, more than {ENTRIES:,}; lipcert bound --box bounds its norm"
        )
    found = jacobian_on(graph, cells_of(box), deadline if deadline is not None else start + SECONDS)
    check(found)
    return {
        "inputs": found.moving.nonzero().flatten().tolist(),
        "lower": _numbers(found.lower),
        "upper": _numbers(found.upper),
        "attained": {"lower": _numbers(found.low), "upper": _numbers(found.high)},
        "monotone": _monotone(found.lower, found.upper, found.low, found.high),
        "smallest": {**_sides(found.smallest), "x": found.point.tolist()},
        "bilipschitz": _sides(found.gain),
        "method": found.method,
        "cells": found.cells,
        "seconds": time.monotonic() - start,
    }


def check(found: JacobianOnBox) -> None:
    """SelfCheckFailed where what is attained at a point contradicts what is proved of the box."""
    if bool(((found.lower > found.low) | (found.high > found.upper)).any()):
        raise SelfCheckFailed("--prove: an entry of the Jacobian at a point lies outside its proved range")
    for name, (lower, upper) in (("smallest singular value", found.smallest), ("bi-Lipschitz constant", found.gain)):
        if lower > upper:
            raise SelfCheckFailed(f"--prove: the {name} is at least {lower:.17g}, and {upper:.17g} is attained")


def _numbers(values: Tensor) -> list[list[float | None]]:
    return [[v if math.isfinite(v) else None for v in row] for row in values.tolist()]


def _sides(pair: tuple[float, float]) -> dict[str, float | None]:
    return {"lower": pair[0], "upper": pair[1] if math.isfinite(pair[1]) else None}


def _monotone(lower: Tensor, upper: Tensor, low: Tensor, high: Tensor) -> list[list[str]]:
    """Of each output in each input: `neither` where both signs are attained, `unknown` where that is not known."""
    words = []
    for sides in zip(*(t.tolist() for t in (lower, upper, low, high)), strict=True):
        words.append([_word(*entry) for entry in zip(*sides, strict=True)])
    return words


def _word(lower: float, upper: float, low: float, high: float) -> str:
    if lower >= 0 and upper <= 0:
        return "constant"
    if lower >= 0:
        return "increasing"
    if upper <= 0:
        return "decreasing"
    return "neither" if low < 0 < high else "unknown"
