"""`local --at`: certified local constants in balls around data points, by a ladder of methods, over one or several radii.

A ball holds the smaller ones around its centre: upper values are carried down, lower ones up, so curves are monotone.
Methods over the whole space are run once and hold in every ball.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.load.data import fingerprint
from lipcert.load.model import Model
from lipcert.methods import METHODS
from lipcert.methods.jacobian import too_wide
from lipcert.methods.ladders import everywhere, on_a_ball
from lipcert.methods.problem import Problem
from lipcert.methods.run import run
from lipcert.network.edit import with_output
from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.device import available
from lipcert.regions.forward.directions import directions, norms_below
from lipcert.regions.forward.slope import lipschitz_on, sweep
from lipcert.report.report import Report
from lipcert.sampling.pairs import jacobian_norms, largest_jacobians
from lipcert.tasks.execution import MOVES, Execution
from lipcert.tasks.journal.resume import Earlier, Resumed
from lipcert.tasks.task import Session, Task, carry_out
from lipcert.terms.errors import UsageError
from lipcert.terms.progress import Progress
from lipcert.terms.query import Ball, Norm, Output, P
from lipcert.terms.result import Bound, Refusal, Result

BUDGET = 1.0  # seconds per point and radius beyond which no further method of the ladder is begun
SAMPLES = 16  # Jacobians inside each ball
TOGETHER = 256  # balls that are swept at once
WORST = ("unbounded", "timeout", "refused")  # which of several refusals is that of all balls together
NOT_TRIED = {"status": "refused", "reason": "no method of the ladder is for this norm", "node": None}


@dataclass(eq=False, kw_only=True)
class Balls(Task):
    """`points` (k, n) with their `names` in the report and `labels`; `asked`: radii, norm, methods .. as in the report."""

    graph: Graph
    points: Tensor
    names: list[int]
    labels: np.ndarray | None
    asked: dict[str, Any]
    seed: int
    device: str
    budget: float
    execution: Execution | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    whole: list[Result] = field(default_factory=list)  # what holds in every ball

    command = "local"
    rows_are = "balls"

    @property
    def balls(self) -> int:
        return len(self.points) * len(self.asked["radii"])

    def take(self, before: Resumed) -> None:
        rows = before.rows("points", by=lambda row: (row["index"], row["eps"]))
        self.rows = [row for row in rows if row["upper"] is not None]  # what has no value yet is tried again

    def steps(self) -> Iterator[None]:
        radii = self.asked["radii"]
        done = {(row["index"], row["eps"]) for row in self.rows}
        self.whole += _everywhere(self.graph, self.norm, self.budget, self.seed, self.device, self.session.progress)
        yield
        for first in range(0, len(self.points), TOGETHER):
            some = range(first, min(first + TOGETHER, len(self.points)))
            todo = [k for k in some if any((self.names[k], r) not in done for r in radii)]
            if todo:
                swept = self.swept(self.points[todo])
                for place, k in enumerate(todo):
                    self.session.say("points", k, len(self.points))
                    self.treat(k, [at[place] for at in swept])
                    yield

    def treat(self, k: int, swept: Sequence[Result | None]) -> None:
        label = None if self.labels is None else self.labels[k].item()
        about = {"index": self.names[k], "label": label, "predicted": _predicted(self.model, self.points[k])}
        found = _Ladder(self, self.points[k]).curve(self.asked["radii"], swept)
        if self.execution is not None:
            found = [row | {"error": self.error(k, row["eps"])} for row in found]
        self.rows = [row for row in self.rows if row["index"] != self.names[k]]
        self.rows += [self.before.seal.on(about | row) for row in found]

    def swept(self, points: Tensor) -> list[list[Result | None]]:
        """Per radius and point: `jacobian` of many balls at once where a sweep is cheap. None leaves it to the ladder."""
        graph, radii = self.graph, self.asked["radii"]
        asked = "jacobian" in self.asked["methods"]
        if not asked or too_wide(graph) is not None or graph.nodes[graph.input].size > 64:
            return [[None] * len(points) for _ in radii]
        found: list[list[Result | None]] = []
        for k, radius in enumerate(radii):
            self.session.say("sweeps", k, len(radii))
            start = time.perf_counter()
            cells = Cells(points, torch.full_like(points, radius), self.asked["norm"])
            values = lipschitz_on(graph, cells, self.norm, self.device).tolist()
            each = (time.perf_counter() - start) / len(points)
            found.append([_upper("jacobian", value, each) for value in values])
        return found

    def error(self, k: int, radius: float) -> float | None:
        """Of the execution, at every point of the ball; None: not known."""
        assert self.execution is not None
        centre = self.points[k][None]
        cell = Cells(centre, torch.full_like(centre, radius), self.asked["norm"])
        error = float(self.execution.of_output(cell, self.norm.output))
        return error if math.isfinite(error) else None

    def answer(self) -> dict[str, Any]:
        complete = len(self.rows) == self.balls
        return {
            "results": _overall(self.rows, self.balls, self.session.seconds),
            "points": sorted(self.rows, key=lambda row: (self.names.index(row["index"]), row["eps"])),
            "summary": {"local": {**self.asked, "complete": complete, "global": _table(self.whole)}} | self.executed(),
            "assumptions": self.model.assumptions
            if self.execution is None
            else self.execution.assumptions(self.model.assumptions, MOVES),
        }

    def executed(self) -> dict[str, Any]:
        """The largest error over the balls."""
        if self.execution is None:
            return {}
        errors = [row["error"] for row in self.rows]
        largest = None if None in errors else max(errors, default=0.0)
        return {"execution": self.execution.summary(largest, self.norm.output)}


@dataclass(frozen=True, kw_only=True, eq=False)
class BallsRequest:
    """What is asked in the balls of each radius `eps` around each row of `x` (k, *input_shape).

    `indices`: the numbers of the rows in the report (default: counted from 0). `methods`: None: those made for regions,
    cheap first. `budget`: seconds per point and radius. `rtol`: brackets closer than this need no further method.
    `execution`: "float32" ..: a proved bound of what an execution errs in each ball.
    """

    x: np.ndarray | Tensor
    eps: Sequence[float]
    ball_norm: P = "2"
    norm: str | Norm = "2"
    output: str | Output = "vector"
    y: np.ndarray | Sequence[int] | None = None
    indices: Sequence[int] | None = None
    methods: Sequence[str] | None = None
    rtol: float = 0.01
    budget: float = BUDGET
    execution: str | None = None
    seed: int = 0
    device: str = "cpu"

    def as_reported(self, norm: Norm, points: Tensor, names: list[int], labels: np.ndarray | None) -> dict[str, Any]:
        return {
            "radii": _radii(self.eps),
            "norm": self.ball_norm,
            "count": len(points),
            "data": fingerprint(points.numpy(), np.asarray(names), labels),
            "methods": _ladder(self.methods, norm),
            "rtol": float(self.rtol),
            "seed": self.seed,
            **({} if self.execution is None else {"execution": self.execution}),
        }


def local(model: Model, request: BallsRequest, session: Session | None = None, resume: Earlier = None) -> Report:
    """lower <= L <= upper in each ball: `Report.points`. `resume`: a `partial_report`, or a file."""
    norm, functional, device = Norm.parse(request.norm), Output.parse(request.output), available(request.device)
    Norm(request.ball_norm, request.ball_norm)
    if functional.many:
        raise UsageError(f"--output {functional}: local constants are of one output: vector, I or I-J")
    points = _points(model, request.x)
    names = list(range(len(points)) if request.indices is None else request.indices)
    labels = None if request.y is None else np.asarray(request.y).reshape(-1)
    asked = request.as_reported(norm, points, names, labels)
    region = {"kind": "balls", "radius": max(asked["radii"]), "norm": request.ball_norm, "count": len(points)}
    task = Balls(
        model,
        norm,
        model.question("balls", norm, region, str(functional), asked),
        region,
        str(functional),
        graph=with_output(model.graph, functional),
        points=points if model.weights is None else model.weights.point(points),
        names=names,
        labels=labels,
        asked=asked,
        seed=request.seed,
        device=device,
        budget=request.budget,
        execution=Execution.of(model, request.execution, functional),
    )
    return carry_out(task, session, resume)


def _ladder(methods: Sequence[str] | None, norm: Norm) -> list[str]:
    found = list(methods) if methods is not None else [m for m in on_a_ball() if METHODS[m].takes(norm)]
    unknown = [name for name in found if name not in METHODS or METHODS[name].side != "upper"]
    if unknown:
        raise UsageError(f"--method {unknown[0]}: local constants take {', '.join(on_a_ball())}")
    return found


def _radii(eps: Sequence[float]) -> list[float]:
    found = sorted({float(e) for e in eps})
    if not found or not all(math.isfinite(e) and e >= 0 for e in found):
        raise UsageError("--eps: give one or more radii, finite and not negative, such as 0.01,0.03")
    return found


def _points(model: Model, x: Any) -> Tensor:
    given = torch.as_tensor(x, dtype=torch.float64)
    size = math.prod(model.input_shape)
    if given.ndim == 0 or given.numel() != given.shape[0] * size or not given.shape[0]:
        raise UsageError(f"local: data of shape {tuple(given.shape)} are not samples of shape {model.input_shape}")
    if not bool(torch.isfinite(given).all()):
        raise UsageError("local: the data hold NaN or infinity")
    return given.reshape(len(given), size)


def _predicted(model: Model, x: Tensor) -> int | None:
    """None also under weights, which are of constants and not of classes."""
    if model.weights is not None:
        return None
    y = model.graph.evaluate(x[None])
    return int(y.argmax()) if y.shape[1] > 1 else None


def _everywhere(
    graph: Graph, norm: Norm, budget: float, seed: int, device: str, progress: Progress | None
) -> list[Result]:
    """What holds in every ball, as far as it comes within ten budgets."""
    problem = Problem(graph, norm, None, seed, device, time.monotonic() + 10 * budget, progress)
    found = []
    for name in everywhere():
        found.append(run(METHODS[name], problem))
        problem.known.append(found[-1])
    return found


def _upper(name: str, value: float, seconds: float) -> Result:
    if math.isfinite(value):
        return Bound(name, "upper", "proved", value, seconds)
    return Refusal(name, "upper", "refused", "no bounded slope is known in this ball", None, seconds)


class _Ladder:
    """One point: the methods in turn on each ball, largest first, until the bracket is closed or the budget spent."""

    def __init__(self, task: Balls, x: Tensor):
        self.task, self.graph, self.x, self.norm = task, task.graph, x, task.norm
        self.ball_norm, self.methods, self.rtol = task.asked["norm"], task.asked["methods"], task.asked["rtol"]
        proved = [r for r in task.whole if isinstance(r, Bound) and r.rigor == "proved"]
        self.best = min(proved, key=lambda r: r.value, default=None)

    def curve(self, radii: Sequence[float], swept: Sequence[Result | None]) -> list[dict[str, Any]]:
        """Rows in the order of the radii, which are ascending."""
        lowers = []
        lower = 0.0
        for radius in radii:
            lower = max(lower, self._lower(radius))
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
                    "results": _table(results),
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
        deadline = time.monotonic() + self.task.budget
        region = Ball(self.x.reshape(self.graph.input_shape), radius, self.ball_norm)
        problem = Problem(self.graph, self.norm, region, self.task.seed, self.task.device, deadline, rtol=self.rtol)
        for name in self.methods:
            if known is not None and name == known.method:
                continue
            if upper <= lower * (1 + self.rtol):
                break
            result = METHODS[name].refuses(problem) or run(METHODS[name], problem)
            results.append(result)
            problem.known.append(result)
            for aside in problem.aside:
                if isinstance(aside, Bound) and aside.side == "lower":
                    lower = max(lower, aside.value)
            problem.aside.clear()
            if isinstance(result, Bound) and result.rigor == "proved":
                upper = min(upper, result.value)
        return results, lower

    def _lower(self, radius: float) -> float:
        """Attained inside the ball: Jacobians at the point and at others in the box that it holds."""
        n = self.x.numel()
        half = radius * {"inf": 1.0, "2": n**-0.5, "1": 1 / n}[self.ball_norm] * (1 - 1e-12)
        low, high = (torch.nextafter(self.x + s * half, self.x)[None] for s in (-1, 1))
        if bool((low < high).any()):
            found = largest_jacobians(self.graph, low, high, SAMPLES, self.norm, seed=self.task.seed)
            found = found.better(jacobian_norms(self.graph, self.x[None], self.norm, lower=low, upper=high))
            if float(found.value) > 0:
                return float(found.value)
        cells = Cells(self.x[None], torch.zeros_like(self.x)[None])
        if too_wide(self.graph) is not None:
            return 0.0
        chosen = directions(self.graph, cells, self.norm)
        swept = sweep(self.graph, cells, chosen.toward)
        return float(norms_below(swept.centre, swept.radius, chosen.toward, self.norm))


def _table(results: Sequence[Result]) -> list[dict[str, Any]]:
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


def _overall(rows: Sequence[Mapping[str, Any]], asked: int, seconds: float) -> list[Result]:
    """The largest of all balls. A row whose own bracket is contradictory is shown to the self-check."""
    details = {"balls": len(rows)}
    results: list[Result] = []
    missing = sum(row["upper"] is None for row in rows)
    if len(rows) < asked:
        reason = f"{len(rows)} of {asked} balls are bounded: go on with --resume REPORT"
        results.append(Refusal("local", "upper", "timeout", reason, None, seconds))
    elif missing:
        tried = [r for row in rows if row["upper"] is None for r in row["results"] if r["status"] != "ok"]
        worst = min(tried, key=lambda r: WORST.index(r["status"]), default=NOT_TRIED)
        reason = f"no finite value is known in {missing} of {asked} balls: {worst['reason']}"
        results.append(Refusal("local", "upper", worst["status"], reason, worst["node"], seconds))  # type: ignore[arg-type]
    else:
        value = max((row["upper"] for row in rows), default=0.0)
        results.append(Bound("local", "upper", "proved", value, seconds, None, details))
    results.append(
        Bound("local", "lower", "sampled", max((r["lower"] for r in rows), default=0.0), seconds, None, details)
    )
    for row in rows:
        if row["upper"] is not None and row["lower"] > row["upper"]:
            name = f"point {row['index']}, eps {row['eps']}"
            results += [
                Bound(name, "upper", "proved", row["upper"], 0.0),
                Bound(name, "lower", "sampled", row["lower"], 0.0),
            ]
            break
    return results
