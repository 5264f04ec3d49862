"""What `local --at` does around its points: a ladder of methods over the radii of each, in one process or another.

A ball holds the smaller ones around its centre: upper values are carried down, lower ones up, so curves are monotone.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.methods import METHODS
from lipcert.methods.jacobian import too_wide
from lipcert.methods.problem import Problem
from lipcert.methods.run import refused_or_run
from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.forward.directions import directions, norms_below
from lipcert.regions.forward.slope import lipschitz_on, sweep
from lipcert.sampling.pairs import jacobian_norms, largest_jacobians
from lipcert.tasks.execution import Execution
from lipcert.tasks.shards import CUT, Data
from lipcert.tasks.task import Session
from lipcert.terms import clock
from lipcert.terms.clock import OutOfTime, late, until
from lipcert.terms.query import Ball, Norm
from lipcert.terms.result import Bound, Refusal, Result

SAMPLES = 16  # Jacobians inside each ball


def swept_together(graph: Graph, methods: Sequence[str]) -> bool:
    """Whether `jacobian` is cheap for many balls at once."""
    return "jacobian" in methods and too_wide(graph) is None and graph.nodes[graph.input].size <= 64


@dataclass(frozen=True, eq=False)
class InBalls:
    """What is done around some points (b, n): {"rows": for each of them the rows of its radii}, or for the first of them
    where the time ends. `each`: seconds for each ball. `best`: the least value that holds everywhere."""

    graph: Graph
    norm: Norm
    asked: dict[str, Any]
    seed: int
    device: str
    each: float
    best: Bound | None
    execution: Execution | None

    def __call__(self, what: np.ndarray, session: Session) -> Data:
        points = torch.from_numpy(what)
        swept = self.swept(points)
        rows: list[list[dict[str, Any]]] = []
        for k, x in enumerate(points):
            session.say("points", k, len(points))
            try:
                found = self.rows(x, [at[k] for at in swept])
            except OutOfTime:
                if not rows:
                    raise
                return {"rows": rows, CUT: True}
            rows.append([row | {CUT: True} for row in found] if late() else found)
        return {"rows": rows, CUT: True} if late() else {"rows": rows}

    def rows(self, x: Tensor, swept: Sequence[Result | None]) -> list[dict[str, Any]]:
        found = _Ladder(self, x).curve(self.asked["radii"], swept)
        if self.execution is not None:
            found = [row | {"error": self.error(x, row["eps"])} for row in found]
        return found

    def swept(self, points: Tensor) -> list[list[Result | None]]:
        """Per radius and point: `jacobian` of many balls at once. None leaves it to the ladder."""
        if not swept_together(self.graph, self.asked["methods"]):
            return [[None] * len(points) for _ in self.asked["radii"]]
        found: list[list[Result | None]] = []
        for radius in self.asked["radii"]:
            start = time.perf_counter()
            cells = Cells(points, torch.full_like(points, radius), self.asked["norm"])
            values = lipschitz_on(self.graph, cells, self.norm, self.device).tolist()
            each = (time.perf_counter() - start) / len(points)
            found.append([_upper("jacobian", value, each) for value in values])
        return found

    def error(self, x: Tensor, radius: float) -> float | None:
        """Of the execution, at every point of the ball; None: not known."""
        assert self.execution is not None
        cell = Cells(x[None], torch.full_like(x[None], radius), self.asked["norm"])
        error = float(self.execution.of_output(cell, self.norm.output))
        return error if math.isfinite(error) else None


class _Ladder:
    """One point: the methods in turn on each ball, largest first, until the bracket is closed or its time spent."""

    def __init__(self, task: InBalls, x: Tensor):
        self.task, self.graph, self.x, self.norm = task, task.graph, x, task.norm
        self.ball_norm, self.methods, self.rtol = task.asked["norm"], task.asked["methods"], task.asked["rtol"]
        self.best = task.best

    def curve(self, radii: Sequence[float], swept: Sequence[Result | None]) -> list[dict[str, Any]]:
        """Rows in the order of the radii, which are ascending."""
        lowers = []
        lower = 0.0
        for radius in radii:
            lower = max(lower, self._attained(radius))
            lowers.append(lower)
        rows: list[dict[str, Any]] = []
        upper, method = math.inf, None
        if self.best is not None:
            upper, method = self.best.value, f"{self.best.method} (everywhere)"
        for radius, known, least in zip(reversed(radii), reversed(swept), reversed(lowers), strict=True):
            results, least = self._run(radius, known, upper, least)
            for result in results:
                if isinstance(result, Bound) and result.rigor == "proved" and result.value < upper:
                    upper, method = result.value, result.method
            rows.append(
                {
                    "eps": radius,
                    "upper": upper if math.isfinite(upper) else None,
                    "lower": least,
                    "method": method,
                    "results": table(results),
                }
            )
        rows.reverse()
        best = 0.0
        for row in rows:  # what branch attained in a smaller ball is attained in the larger ones
            best = row["lower"] = max(best, row["lower"])
        return rows

    def _run(self, radius: float, known: Result | None, upper: float, lower: float) -> tuple[list[Result], float]:
        results: list[Result] = [] if known is None else [known]
        if isinstance(known, Bound):
            upper = min(upper, known.value)
        deadline = self._end()
        region = Ball(self.x.reshape(self.graph.input_shape), radius, self.ball_norm)
        problem = Problem(self.graph, self.norm, region, self.task.seed, self.task.device, deadline, rtol=self.rtol)
        for name in self.methods:
            if known is not None and name == known.method:
                continue
            if upper <= lower * (1 + self.rtol):
                break
            result = refused_or_run(METHODS[name], problem)
            results.append(result)
            problem.known.append(result)
            for aside in problem.aside:
                if isinstance(aside, Bound) and aside.side == "lower":
                    lower = max(lower, aside.value)
            problem.aside.clear()
            if isinstance(result, Bound) and result.rigor == "proved":
                upper = min(upper, result.value)
        return results, lower

    def _end(self) -> float:
        ends = (time.monotonic() + self.task.each, clock.deadline())
        return min(end for end in ends if end is not None)

    def _attained(self, radius: float) -> float:
        """Attained inside the ball, at the point and then at others of the box that it holds, as far as there is time."""
        best = 0.0
        with contextlib.suppress(OutOfTime), until(self._end()):
            for value in self._lowers(radius):
                best = max(best, value)
                if late():
                    break
        return best

    def _lowers(self, radius: float) -> Iterator[float]:
        n = self.x.numel()
        half = radius * {"inf": 1.0, "2": n**-0.5, "1": 1 / n}[self.ball_norm] * (1 - 1e-12)
        low, high = (torch.nextafter(self.x + s * half, self.x)[None] for s in (-1, 1))
        if bool((low < high).any()):
            at = float(jacobian_norms(self.graph, self.x[None], self.norm, lower=low, upper=high).value)
            yield at
            others = largest_jacobians(self.graph, low, high, SAMPLES, self.norm, seed=self.task.seed)
            yield float(others.value)
            if max(at, float(others.value)) > 0:
                return
        cells = Cells(self.x[None], torch.zeros_like(self.x)[None])
        if too_wide(self.graph) is None:
            chosen = directions(self.graph, cells, self.norm)
            swept = sweep(self.graph, cells, chosen.toward)
            yield float(norms_below(swept.centre, swept.radius, chosen.toward, self.norm))


def _upper(name: str, value: float, seconds: float) -> Result:
    if math.isfinite(value):
        return Bound(name, "upper", "proved", value, seconds)
    return Refusal(name, "upper", "refused", "no bounded slope is known in this ball", None, seconds)


def table(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [
        {
            "method": result.method,
            "status": "ok" if isinstance(result, Bound) else result.status,
            "value": result.value if isinstance(result, Bound) else None,
            "rigor": result.rigor if isinstance(result, Bound) else None,
            "reason": None if isinstance(result, Bound) else result.reason,
            "node": None if isinstance(result, Bound) else result.node,
            "seconds": result.seconds,
        }
        for result in results
    ]
