"""What `local --grid` does in some cells: sampled lower values, then branch and bound or the linear pieces, in one process or
another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.branch_and_bound.branching import Brackets, Effort, bracket
from lipcert.regions.cells import Cells
from lipcert.rigor.rounding import div_down, mul_up
from lipcert.sampling.pairs import Found, largest_jacobians, largest_ratios, nothing
from lipcert.tasks.pieces import Mosaic, merged
from lipcert.tasks.shards import Data
from lipcert.tasks.task import Session
from lipcert.terms.query import Norm

MOST_LEAVES = 2_000_000


@dataclass(frozen=True, eq=False)
class InCells:
    """{"lower", "upper", "closed": a value per cell, None for an infinite one; "best": the largest lower value and its
    witness}. `stretch`: least and most of ||dx|| over the length of a step along the plane."""

    graph: Graph
    norm: Norm
    asked: dict[str, Any]
    device: str
    stretch: tuple[float, float]
    mosaic: Mosaic | None

    def __call__(self, what: tuple[Sequence[int], np.ndarray, np.ndarray], session: Session) -> Data:
        rows, low, high = what
        given, found = self.bracketed(torch.tensor(rows), torch.from_numpy(low), torch.from_numpy(high), session)
        lower, upper = given.lower, given.upper
        top = int(lower.argmax())
        of_pair = float(found.value[top]) == float(lower[top]) > 0
        if self.stretch != (1.0, 1.0):
            least, most = self.stretch
            upper, lower = mul_up(upper, 1 / least * (1 + 1e-15)), div_down(lower, torch.full_like(lower, most))
        witness: dict[str, Any] = {"x": given.point[top].tolist()}
        if of_pair:
            witness = {"x": found.x[top].tolist(), "x2": found.x2[top].tolist()}
        witness |= {"shape": list(self.graph.input_shape)}
        return {
            "lower": lower.tolist(),
            "upper": [value if math.isfinite(value) else None for value in upper.tolist()],
            "closed": given.closed.tolist(),
            "best": {"value": float(lower[top]), "witness": witness},
        }

    def bracketed(self, block: Tensor, low: Tensor, high: Tensor, session: Session) -> tuple[Brackets, Found]:
        """The brackets, and the pairs of points that were tried first."""
        pairs, jacobians, rtol = self.asked["pairs"], self.asked["jacobians"], self.asked["rtol"]
        seed = self.asked["seed"] + int(block[0])
        found = nothing(low)
        if pairs:
            found = largest_ratios(self.graph, low, high, pairs, self.norm, seed=seed, device=self.device)
        if jacobians:
            found = found.better(largest_jacobians(self.graph, low, high, jacobians, self.norm, seed=seed))

        def tell(upper: Tensor, lower: Tensor) -> None:
            session.say("cells of a block", int((upper <= lower * (1 + rtol)).sum()), len(low))

        rows, exact = torch.arange(len(block)), None
        if self.mosaic is not None:
            exact = self.mosaic.brackets(block, low, high)
            exact = replace(exact, lower=torch.maximum(exact.lower, found.value))
            rows = (~exact.closed).nonzero()[:, 0]
            if not len(rows):
                return exact, found
        effort = Effort(rtol, session.deadline, leaves=MOST_LEAVES if rtol > 0 else 0)
        cells = Cells.boxes(low[rows], high[rows])
        given = bracket(self.graph, cells, self.norm, effort, lower=found.value[rows], report=tell, device=self.device)
        return (given if exact is None else merged(exact, given, rows, rtol)), found
