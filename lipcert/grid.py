"""`local --grid`: a box cut into cells, and in each of them lower <= L <= upper (Rosca et al. 2020, appendix A.1, certified).

Lower values from random pairs and sampled Jacobians, upper ones from slope sweeps; branch and bound over the cells of a
block together closes each bracket to `rtol`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipcert.bound import Bound, Refusal, Result
from lipcert.errors import UsageError
from lipcert.ir import Graph
from lipcert.journal.resume import Earlier, Resumed
from lipcert.journal.resume import resume as go_on
from lipcert.journal.seal import Seal
from lipcert.pipeline import Model, Progress, checked_region, describe
from lipcert.plane import Plane
from lipcert.query import Box, Norm, Output
from lipcert.ranges.branching import Effort, bracket
from lipcert.ranges.cells import Cells
from lipcert.ranges.device import available
from lipcert.report.report import Report
from lipcert.rounding import div_down, keeps_subnormals, mul_up
from lipcert.stats.pairs import Found, largest_jacobians, largest_ratios, nothing
from lipcert.transform import with_output

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


@keeps_subnormals
def grid(
    model: Model,
    box: Box,
    shape: Sequence[int] | None = None,
    *,
    norm: str | Norm = "2",
    output: str | Output = "vector",
    rtol: float = 0.01,
    pairs: int = 0,
    jacobians: int = 0,
    plane: Plane | None = None,
    budget: float | None = None,
    resume: Earlier = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Report:
    """Certified brackets of the Lipschitz constant in each cell of a grid over `box`. `plane`: the box lies in it.

    `rtol` 0: one sweep per cell. `pairs`, `jacobians`: that many samples per cell raise the lower values. `budget`: in
    seconds; cells that it leaves open keep a valid bracket. Interrupted, it raises KeyboardInterrupt with
    `partial_report`, which `resume` takes, as it takes a report file.
    """
    norm, functional, device = Norm.parse(norm), Output.parse(output), available(device)
    graph = with_output(model.graph if plane is None else plane.graph, functional)
    n = graph.nodes[graph.input].size
    if n > MOST_INPUTS:
        raise UsageError(
            f"--grid: {n} inputs, and grids are for {MOST_INPUTS} or fewer: give --plane I,J --through DATA#K"
        )
    shape = default_shape(n) if shape is None else tuple(shape)
    _check_shape(shape, n)
    box = checked_region(Box(box.lower.reshape(graph.input_shape), box.upper.reshape(graph.input_shape)), graph)  # type: ignore[assignment]
    low, high, edges = cells_of(box, shape)
    asked = {
        "shape": list(shape),
        "edges": edges,
        "plane": None if plane is None else plane.words,
        "rtol": float(rtol),
        "pairs": pairs,
        "jacobians": jacobians,
        "seed": seed,
    }
    question = model.question("grid", norm, describe(box), str(functional), asked)
    before = go_on(resume, question)
    values = _resumed(before, len(low))
    start, deadline = time.perf_counter(), None if budget is None else time.monotonic() + budget
    stretch = (1.0, 1.0) if plane is None else plane.stretch

    def report() -> Report:
        seconds = time.perf_counter() - start
        notes = [*model.assumptions, *([] if plane is None else [ALONG_THE_PLANE])]
        return Report(
            command="local",
            model=model.info,
            norm=norm,
            region=describe(box),
            output=str(functional),
            results=_results(values, seconds, deadline is not None and time.monotonic() > deadline),
            summary={"grid": {**asked, **_sealed(_described(values), before.seal)}},
            assumptions=notes,
            warnings=[*model.warnings, *before.words("cells")],
            question=question,
        )

    try:
        with torch.no_grad():
            todo = (~values.done).nonzero()[:, 0]
            for block in todo.split(BLOCK) if len(todo) else ():
                part = low[block], high[block]
                found = nothing(part[0])
                if pairs:
                    found = largest_ratios(graph, *part, pairs, norm, seed=seed + int(block[0]), device=device)
                if jacobians:
                    found = found.better(largest_jacobians(graph, *part, jacobians, norm, seed=seed + int(block[0])))

                def tell(upper: Tensor, lower: Tensor, base: int = int(values.done.sum())) -> None:
                    if progress is not None:
                        progress("cells", base + int((upper <= lower * (1 + rtol)).sum()), len(low))

                _bracketed(
                    graph,
                    part,
                    norm,
                    Effort(rtol, deadline, leaves=_most(rtol)),
                    found,
                    block,
                    values,
                    stretch,
                    device,
                    tell,
                )
                if progress is not None:
                    progress("cells", int(values.done.sum()), len(low))
    except (KeyboardInterrupt, MemoryError, RuntimeError) as stop:  # torch raises the last where memory ends
        stop.partial_report = report()  # type: ignore[union-attr]
        raise
    return report()


def _most(rtol: float) -> int:
    return 2_000_000 if rtol > 0 else 0


def _bracketed(
    graph: Graph,
    part: tuple[Tensor, Tensor],
    norm: Norm,
    effort: Effort,
    found: Found,
    block: Tensor,
    values: Values,
    stretch: tuple[float, float],
    device: str,
    tell: Any,
) -> None:
    given = bracket(graph, Cells.boxes(*part), norm, effort, lower=found.value, report=tell, device=device)
    lower, upper = given.lower, given.upper
    top = int(lower.argmax())
    of_pair = float(found.value[top]) == float(lower[top]) > 0
    if stretch != (1.0, 1.0):  # ||dx|| is (u, v)'s length up to these factors
        upper, lower = mul_up(upper, 1 / stretch[0] * (1 + 1e-15)), div_down(lower, torch.full_like(lower, stretch[1]))
    if not values.best or float(lower[top]) > values.best["value"]:
        witness: dict[str, Any] = {"x": given.point[top].tolist()}
        if of_pair:
            witness = {"x": found.x[top].tolist(), "x2": found.x2[top].tolist()}
        witness |= {"shape": list(graph.input_shape)}
        values.best = {"value": float(lower[top]), "witness": witness}
    values.lower[block], values.upper[block] = lower, upper
    values.closed[block], values.done[block] = given.closed, True


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
