"""`local --grid`: a box cut into cells, and in each of them lower <= L <= upper (Rosca et al. 2020, appendix A.1, certified).

Lower values from random pairs and sampled Jacobians, upper ones from slope sweeps; branch and bound over the cells of a
block together closes each bracket to `rtol`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcert.load.model import Model
from lipcert.network.edit import with_output
from lipcert.network.graph import Graph
from lipcert.network.plane import Plane
from lipcert.network.scope import checked_region, describe
from lipcert.regions.cells import Cells
from lipcert.regions.device import available
from lipcert.report.report import Report
from lipcert.tasks.certify_several import certify_grid
from lipcert.tasks.execution import MOVES, Execution
from lipcert.tasks.in_cells import InCells
from lipcert.tasks.journal.resume import Earlier, Resumed
from lipcert.tasks.journal.seal import Seal
from lipcert.tasks.pieces import Mosaic, mosaic
from lipcert.tasks.shards import Data, Phase, Shard, Sharded
from lipcert.tasks.task import Session, carry_out
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Box, Norm, Output
from lipcert.terms.result import Bound, Refusal, Result

CELLS = 2500  # those of the paper, 50 x 50
MOST_CELLS = 4_000_000
MOST_INPUTS = 4
BLOCK = 512  # cells that are bounded together, and kept when the run is cut short
SEALED = 64  # neighbours in the order of the grid that share a seal
ALONG_THE_PLANE = "constants are those of the network restricted to the plane: along it, not of all inputs"


@dataclass
class Values:
    """Per cell, in the order of the grid with the last axis fastest. `done`: bracketed."""

    lower: Tensor
    upper: Tensor
    closed: Tensor
    done: Tensor
    best: dict[str, Any] = field(default_factory=dict)  # the largest lower value and its witness

    @classmethod
    def empty(cls, count: int) -> Values:
        zero = torch.zeros(count, dtype=torch.float64)
        return cls(zero, zero + math.inf, zero.bool(), zero.bool())


def default_shape(inputs: int) -> tuple[int, ...]:
    """About 2500 cells, equally many along each axis."""
    return (max(1, round(CELLS ** (1 / max(2, inputs)))),) * inputs


@dataclass(eq=False, kw_only=True)
class Grid(Sharded):
    """`graph`: what is bounded, output functional and plane included. `low`, `high`: ends of the cells (cells, n).
    `asked`: as in the report; `pairs`, `jacobians`: samples in each cell that raise the lower values."""

    graph: Graph
    low: Tensor
    high: Tensor
    asked: dict[str, Any]
    plane: Plane | None
    device: str
    box: Box
    execution: Execution | None = None
    certificate: str | Path | None = None
    noted: list[str] = field(default_factory=list)
    values: Values = field(init=False)
    mosaic: Mosaic | None = None
    best_in: int = -1  # first cell of the shard that has the largest lower value

    command = "local"
    rows_are = "cells"

    def take(self, before: Resumed) -> None:
        self.values = _resumed(before, len(self.low))

    def phases(self) -> Iterator[Phase]:
        todo = bool((~self.values.done).any())
        if self.drawn or (todo and self.asked["rtol"] > 0 and not self.session.late):
            where, rtol = (self.graph, self.box, self.asked["edges"]), self.asked["rtol"]
            self.mosaic = mosaic(*where, self.norm, rtol, self.session, wanted=self.drawn)
        stretch = (1.0, 1.0) if self.plane is None else self.plane.stretch
        work = InCells(self.graph, self.norm, self.asked, self.device, stretch, self.mosaic)
        yield Phase(work, self.shards())
        self.certify()

    def shards(self) -> list[Shard]:
        todo = (~self.values.done).nonzero()[:, 0]
        blocks = [(block, block.tolist()) for block in (todo.split(BLOCK) if len(todo) else ())]
        return [
            Shard(
                f"cells {rows[0]}-{rows[-1]} of {len(rows)}",
                (rows, self.low[block].numpy(), self.high[block].numpy()),
                rows,
            )
            for block, rows in blocks
        ]

    def lasts(self, found: Data) -> bool:
        return None not in found["upper"] and (all(found["closed"]) or not self.session.late)

    def gather(self, shard: Shard, found: Data) -> None:
        values, block = self.values, torch.tensor(shard.rows)
        for name, absent in (("lower", 0.0), ("upper", math.inf)):
            numbers = [absent if v is None else v for v in found[name]]
            getattr(values, name)[block] = torch.tensor(numbers, dtype=torch.float64)
        values.closed[block], values.done[block] = torch.tensor(found["closed"]), True
        known = values.best["value"] if values.best else -1.0
        earlier = found["best"]["value"] == known and shard.rows[0] < self.best_in  # shards come in any order
        if found["best"]["value"] > known or earlier:
            values.best, self.best_in = found["best"], shard.rows[0]
        done = int(values.done.sum())
        self.session.say(f"cells, {done / max(1e-9, self.session.seconds):.0f} per second", done, len(self.low))

    def certify(self) -> None:
        if self.certificate is not None:
            self.session.say("certificate")
            about = self.norm, Output.parse(self.output), self.box
            cells = self.low, self.high, self.values.upper
            asked = self.asked["edges"], cells, self.session.deadline
            self.noted = certify_grid(self.certificate, self.model, self.graph, about, *asked)

    @property
    def drawn(self) -> bool:
        return bool(self.asked.get("regions"))

    def answer(self) -> dict[str, Any]:
        notes = [*self.model.assumptions, *([] if self.plane is None else [ALONG_THE_PLANE])]
        summary: dict[str, Any] = {"grid": {**self.asked, **_sealed(_described(self.values), self.before.seal)}}
        if self.mosaic is not None:
            summary["regions"] = self.mosaic.summary(self.drawn)
        if self.execution is not None:
            notes = self.execution.assumptions(notes, MOVES)
            errors = self.execution.of_output(Cells.boxes(self.low, self.high), self.norm.output)
            each = [e if math.isfinite(e) else None for e in errors.tolist()]
            summary["execution"] = self.execution.summary(float(errors.max()), self.norm.output, cells=each)
        return {
            "results": _results(self.values, self.session.seconds, self.session.late),
            "summary": summary,
            "assumptions": notes,
            "warnings": [*self.model.warnings, *self.resumed, *self.noted],
        }


def _cut(graph: Graph, box: Box, shape: Sequence[int] | None) -> tuple[Box, Sequence[int]]:
    """The box in the graph's shape, and how many cells it has along each input."""
    n = graph.nodes[graph.input].size
    if n > MOST_INPUTS:
        raise UsageError(
            f"--grid: {n} inputs, and grids are for {MOST_INPUTS} or fewer: give --plane I,J --through DATA#K"
        )
    shape = default_shape(n) if shape is None else tuple(shape)
    _check_shape(shape, n)
    found = checked_region(Box(box.lower.reshape(graph.input_shape), box.upper.reshape(graph.input_shape)), graph)
    assert isinstance(found, Box)
    return found, shape


@dataclass(frozen=True, kw_only=True, eq=False)
class GridRequest:
    """What is asked in each cell of a grid over `box`, of `shape` cells (None: about 2500). `plane`: the box lies in it.

    `rtol` 0: one sweep per cell. `pairs`, `jacobians`: that many samples per cell raise the lower values. `execution`:
    "float32" ..: a proved bound of what an execution errs in each cell. `regions`: the polygons on which the network is
    linear are in the report too. `certificate`: file from which `verify` proves the value of each cell again.
    """

    box: Box
    shape: Sequence[int] | None = None
    norm: str | Norm = "2"
    output: str | Output = "vector"
    rtol: float = 0.01
    pairs: int = 0
    jacobians: int = 0
    plane: Plane | None = None
    execution: str | None = None
    regions: bool = False
    certificate: str | Path | None = None
    seed: int = 0
    device: str = "cpu"

    def as_reported(self, shape: Sequence[int], edges: list[list[float]]) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "shape": list(shape),
            "edges": edges,
            "plane": None if self.plane is None else self.plane.words,
            "rtol": float(self.rtol),
            "pairs": self.pairs,
            "jacobians": self.jacobians,
            "seed": self.seed,
        }
        asked |= {} if self.execution is None else {"execution": self.execution}
        return asked | ({"regions": True} if self.regions else {})


def grid(model: Model, request: GridRequest, session: Session | None = None, resume: Earlier = None) -> Report:
    """Certified brackets of the Lipschitz constant in each cell. Cells that the session's budget leaves open keep a valid
    bracket. Interrupted, it raises KeyboardInterrupt with `partial_report`, which `resume` takes."""
    norm, functional, plane = Norm.parse(request.norm), Output.parse(request.output), request.plane
    device = available(request.device)
    _check_asked(model, request, functional)
    graph = with_output(model.graph if plane is None else plane.graph, functional)
    box, shape = _cut(graph, request.box, request.shape)
    low, high, edges = cells_of(box, shape)
    asked = request.as_reported(shape, edges)
    region = describe(box)
    task = Grid(
        model,
        norm,
        model.question("grid", norm, region, str(functional), asked),
        region,
        str(functional),
        graph=graph,
        box=box,
        low=low,
        high=high,
        asked=asked,
        plane=plane,
        device=device,
        execution=Execution.of(model, request.execution, functional),
        certificate=request.certificate,
    )
    return carry_out(task, session, resume)


def _check_asked(model: Model, request: GridRequest, output: Output) -> None:
    plane = request.plane
    if output.many:
        raise UsageError(f"--output {output}: local constants are of one output: vector, I or I-J")
    if model.weights is not None and model.weights.input is not None:
        raise UsageError(
            "--weight-in: a grid is drawn in the model's own inputs; --weight-out goes with it, and balls (--at) with both"
        )
    if request.execution is not None and plane is not None:
        raise UsageError("--execution: on a plane, the points of which are computed themselves, it says nothing")
    if request.certificate is not None and (plane is not None or model.weights is not None):
        raise UsageError("--certificate: it is about all inputs and plain norms; leave out --plane and weights")


def _check_shape(shape: Sequence[int], inputs: int) -> None:
    if len(shape) != inputs or min(shape) < 1:
        raise UsageError(f"--grid {'x'.join(map(str, shape))}: {inputs} positive numbers, one per input, such as 50x50")
    if math.prod(shape) > MOST_CELLS:
        raise UsageError(f"--grid {'x'.join(map(str, shape))}: {math.prod(shape)} cells; {MOST_CELLS} at most")


def cells_of(box: Box, shape: Sequence[int]) -> tuple[Tensor, Tensor, list[list[float]]]:
    """Ends (cells, n) and the edges of each axis: neighbours share their edges, so the cells cover the box."""
    low, high = box.lower.reshape(-1), box.upper.reshape(-1)
    axes = []
    for a, b, count in zip(low.tolist(), high.tolist(), shape, strict=True):
        if not a < b:
            raise UsageError(f"--box: {a}:{b} has no width, and a grid needs some along every input")
        axes.append([a + (b - a) * k / count for k in range(count)] + [b])
    below, above = (
        torch.cartesian_prod(*(torch.tensor(side, dtype=torch.float64) for side in sides)).reshape(-1, len(shape))
        for sides in ([e[:-1] for e in axes], [e[1:] for e in axes])
    )
    return below, above, axes


def _results(values: Values, seconds: float, late: bool = False) -> list[Result]:
    """The constant on the whole box, as its cells give it: it is the largest of theirs, for the box is convex. `late`: the
    budget is spent."""
    found: list[Result] = []
    count, done = len(values.done), int(values.done.sum())
    details = {"cells": count, "closed": int(values.closed.sum())}
    if done == count and bool(torch.isfinite(values.upper).all()):
        found.append(Bound("grid", "upper", "proved", float(values.upper.max()), seconds, None, details))
    elif done < count:
        reason = f"{done} of {count} cells are bounded: go on with --resume REPORT"
        found.append(Refusal("grid", "upper", "timeout", reason, None, seconds))
    else:
        cells = int((~torch.isfinite(values.upper)).sum())
        reason = f"no finite value is known in {cells} of {count} cells"
        reason += ", and the budget was spent: raise --budget" if late else ""
        found.append(Refusal("grid", "upper", "timeout" if late else "refused", reason, None, seconds))
    wrong = (values.lower > values.upper) & values.done
    for k in wrong.nonzero()[:1, 0].tolist():  # the self-check of the report sees it
        found += [
            Bound(f"cell {k}", side, rigor, float(value[k]), 0.0)  # type: ignore[arg-type]
            for side, rigor, value in (("upper", "proved", values.upper), ("lower", "sampled", values.lower))
        ]
    if values.best:
        witness = values.best["witness"] if values.best["value"] > 0 else None
        found.append(Bound("grid", "lower", "sampled", values.best["value"], seconds, witness, details))
    return found


def _described(values: Values) -> dict[str, Any]:
    known = values.done
    upper = [v if math.isfinite(v) and d else None for v, d in zip(values.upper.tolist(), known.tolist(), strict=True)]
    lower = [v if d else None for v, d in zip(values.lower.tolist(), known.tolist(), strict=True)]
    ratio = [u / v if u is not None and v else None for u, v in zip(upper, lower, strict=True)]
    ratio = [r if r is not None and math.isfinite(r) else None for r in ratio]
    return {
        "lower": lower,
        "upper": upper,
        "ratio": ratio,
        "done": known.tolist(),
        "closed": values.closed.tolist(),
        "witness": values.best or None,
    }


COLUMNS = ("lower", "upper", "closed", "done")


def _groups(found: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """What one seal covers: cells that follow one another, with their place."""
    return [{"first": k, **{name: found[name][k : k + SEALED] for name in COLUMNS}} for k in range(0, count, SEALED)]


def _sealed(found: dict[str, Any], seal: Seal) -> dict[str, Any]:
    """The cells and the largest lower value with their seals."""
    marks = [seal.digest(group) for group in _groups(found, len(found["done"]))]
    return found | {"seals": {"cells": marks, "witness": seal.digest(found["witness"])}}


def _resumed(before: Resumed, count: int) -> Values:
    """The cells whose seal holds; none where that of the largest lower value does not, for it would be lost."""
    values = Values.empty(count)
    found, marks = before.at("summary.grid"), before.at("summary.grid.seals.cells")
    if not before.report:
        return values
    columns = [found.get(name) for name in COLUMNS] if isinstance(found, dict) else [None]
    whole = all(isinstance(column, list) and len(column) == count for column in columns)
    groups = _groups(found, count) if whole else []
    marks = marks if isinstance(marks, list) and len(marks) == len(groups) else [None] * len(groups)
    best = before.at("summary.grid.witness")
    if not before.seal.fits(best, before.at("summary.grid.seals.witness")):
        marks = [None] * len(groups)
    for group, mark in zip(groups, marks, strict=True):
        if not before.seal.fits(group, mark):
            before.note(0, sum(done is True for done in group["done"]))
            continue
        here = slice(group["first"], group["first"] + SEALED)
        values.done[here] = torch.tensor(group["done"])
        values.closed[here] = torch.tensor(group["closed"])
        for name, absent in (("lower", 0.0), ("upper", math.inf)):
            numbers = [absent if v is None else v for v in group[name]]
            getattr(values, name)[here] = torch.tensor(numbers, dtype=torch.float64)
        before.note(sum(group["done"]), 0)
    values.done &= torch.isfinite(values.upper)  # what has no value yet is tried again
    values.best = dict(best or {}) if before.taken else {}
    return values
