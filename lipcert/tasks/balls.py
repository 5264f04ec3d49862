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
from lipcert.methods.ladders import everywhere, on_a_ball
from lipcert.methods.problem import Problem
from lipcert.methods.run import run
from lipcert.network.edit import with_output
from lipcert.network.graph import Graph
from lipcert.regions.device import available
from lipcert.report.report import Report
from lipcert.tasks.execution import MOVES, Execution
from lipcert.tasks.in_balls import InBalls, swept_together, table
from lipcert.tasks.journal.resume import Earlier, Resumed
from lipcert.tasks.shards import CUT, Data, Phase, Shard, Sharded
from lipcert.tasks.task import Session, carry_out
from lipcert.terms.clock import halfway
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm, Output, P
from lipcert.terms.result import Bound, Refusal, Result

EACH = 1.0  # seconds of a ball beyond which no further method of the ladder is begun
EVERYWHERE = 10  # balls: whose time the whole space may take, but no more than half of a budget
TOGETHER = 32  # points of a shard where the balls of a radius are swept at once
APART = 1  # where each ball is a matter of seconds
WORST = ("unbounded", "timeout", "refused")  # which of several refusals is that of all balls together
NOT_TRIED = {"status": "refused", "reason": "no method of the ladder is for this norm", "node": None}


@dataclass(eq=False, kw_only=True)
class Balls(Sharded):
    """`points` (k, n) with their `names` in the report and `labels`; `asked`: radii, norm, methods .. as in the report."""

    graph: Graph
    points: Tensor
    names: list[int]
    labels: np.ndarray | None
    asked: dict[str, Any]
    seed: int
    device: str
    each: float
    execution: Execution | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    whole: list[Result] = field(default_factory=list)  # what holds in every ball
    had: set[int] = field(default_factory=set)  # points of which an earlier report has some radii

    command = "local"
    rows_are = "balls"

    @property
    def balls(self) -> int:
        return len(self.points) * len(self.asked["radii"])

    def take(self, before: Resumed) -> None:
        rows = before.rows("points", by=lambda row: (row["index"], row["eps"]))
        # what has no value yet, or was cut short, is tried again
        self.rows = [row for row in rows if row["upper"] is not None and not row.get(CUT)]
        self.had = {row["index"] for row in self.rows}

    def phases(self) -> Iterator[Phase]:
        ends = (time.monotonic() + EVERYWHERE * self.each, halfway(self.session.deadline))
        end = min(end for end in ends if end is not None)
        problem = Problem(self.graph, self.norm, None, self.seed, self.device, end, self.session.progress)
        self.whole += _everywhere(problem)
        proved = [r for r in self.whole if isinstance(r, Bound) and r.rigor == "proved"]
        best = min(proved, key=lambda r: r.value, default=None)
        work = InBalls(self.graph, self.norm, self.asked, self.seed, self.device, self.each, best, self.execution)
        yield Phase(work, self.shards())

    def shards(self) -> list[Shard]:
        done = {(row["index"], row["eps"]) for row in self.rows}
        places = [k for k, name in enumerate(self.names) if any((name, r) not in done for r in self.asked["radii"])]
        size = TOGETHER if swept_together(self.graph, self.asked["methods"]) else APART
        parts = [places[k : k + size] for k in range(0, len(places), size)]
        return [
            Shard(f"points {part[0]}-{part[-1]} of {len(part)}", self.points[part].numpy(), tuple(part))
            for part in parts
        ]

    def lasts(self, found: Data) -> bool:
        return all(row["upper"] is not None for rows in found["rows"] for row in rows)

    def gather(self, shard: Shard, found: Data) -> None:
        for place, rows in zip(shard.rows, found["rows"], strict=not found.get(CUT)):
            label = None if self.labels is None else self.labels[place].item()
            about = {
                "index": self.names[place],
                "label": label,
                "predicted": _predicted(self.model, self.points[place]),
            }
            if self.names[place] in self.had:
                self.rows = [row for row in self.rows if row["index"] != self.names[place]]
            self.rows += [self.before.seal.on(about | row) for row in rows]
        done = len(self.rows) // len(self.asked["radii"])
        rate = done / max(1e-9, self.session.seconds)
        self.session.say(f"points, {rate:.1f} per second", done, len(self.points))

    def answer(self) -> dict[str, Any]:
        complete, place = len(self.rows) == self.balls, {name: k for k, name in enumerate(self.names)}
        return {
            "results": _overall(self.rows, self.balls, self.session.seconds),
            "points": sorted(self.rows, key=lambda row: (place[row["index"]], row["eps"])),
            "summary": {"local": {**self.asked, "complete": complete, "global": table(self.whole)}} | self.executed(),
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
    cheap first. `each`: seconds for each ball. `rtol`: brackets closer than this need no further method.
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
    each: float = EACH
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
        each=request.each,
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


def _everywhere(problem: Problem) -> list[Result]:
    """What holds in every ball."""
    found = []
    for name in everywhere():
        found.append(run(METHODS[name], problem))
        problem.known.append(found[-1])
    return found


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
