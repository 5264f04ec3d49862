"""One batch of samples: margins, the radius of each method, the larger one, and an attack beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.backward.adjoint import local_constants
from lipcert.regions.cells import Cells
from lipcert.rigor.rounding import div_down, down, up
from lipcert.sampling.attack import Nearest, Pgd, search
from lipcert.tasks.execution import Execution
from lipcert.tasks.radius.boundary import INPUTS, Aim, boundary_radii
from lipcert.tasks.radius.constants import GLOBAL, SCOPES, Constants
from lipcert.tasks.radius.local import Shells, shells_of
from lipcert.tasks.radius.margins import Margins, margins, name, sharper
from lipcert.tasks.radius.regions import Exact
from lipcert.tasks.radius.values import value_radii
from lipcert.tasks.shards import CUT
from lipcert.tasks.task import Session
from lipcert.terms.clock import OutOfTime
from lipcert.terms.query import P

LARGEST = 2.0**1023  # for functions that do not move at all: any number is a radius


@dataclass(frozen=True)
class How:
    """`methods`: of GLOBAL, "local", "values" and "regions". `local`: whether the graph has local constants; `values`: whether
    ranges of its outputs can be bounded; `regions`: whether its linear regions can be enumerated. `execution`: radii hold
    for the network as it is executed, not in real arithmetic alone; without it, `at_sample` bounds the error that is taken off
    margins. `valid`: only inputs whose entries lie in this range count."""

    norm: P
    methods: Sequence[str]
    local: bool
    tolerance: float | None = None
    attack: Pgd | None = None
    effort: Aim = field(default_factory=Aim)
    execution: Execution | None = None
    at_sample: Execution | None = None
    regions: bool = False
    values: bool = False
    valid: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """`inside`: samples attacked inside their certified radius, with the input found. `cut`: a budget ended before every
    method had its radii."""

    rows: list[dict[str, Any]]
    inside: list[tuple[int, Tensor]]
    cut: bool = False


def treat(graph: Graph, x: Tensor, labels: Tensor | None, first: int, constants: Constants, how: How) -> Batch:
    """x (b, n) float64, the samples numbered from `first`."""
    found = _margins(graph, x, how)
    b, defined = x.shape[0], found.predicted >= 0
    right = defined if labels is None else defined & (found.predicted == labels)
    ahead = (found.value > 0).all(dim=1)
    rows = (right & ahead).nonzero()[:, 0]
    nearest, attacked = (Nearest(x.new_full((b,), torch.inf), x.clone()) for _ in range(2))
    exact = "regions" in how.methods and how.regions
    if how.attack is not None or exact or _small(x, how):
        attacked = _attacked(graph, x, found, rows, how)
    radii = {method: torch.zeros(b, dtype=torch.float64) for method in how.methods}
    limits = {method: found.value.argmin(dim=1) for method in how.methods}
    value, error, cut = found.value.clone(), torch.zeros(b, dtype=torch.float64), False
    if len(rows):
        some = Samples(graph, x[rows], attacked.distance[rows], constants, how)
        certified = method_radii(some, found[rows])
        if how.execution is not None:
            certified, value[rows], error[rows] = deployed(some, found[rows], certified)
        for method, one in certified.items():
            radii[method][rows], limits[method][rows] = one
        cut = some.cut
    close: dict[int, dict[str, Any]] = {}
    try:
        if exact and len(rows) and not cut:
            near = Exact(graph, x[rows], found[rows], how.norm, attacked[rows], how.tolerance)
            radii["regions"][rows], limits["regions"][rows] = near.radius, near.limit
            nearest.distance[rows], nearest.x[rows] = near.attacked, near.x
        if exact and how.execution is None and not cut:
            close = _close_ones(graph, x, (right & ~ahead).nonzero()[:, 0], how)
    except OutOfTime:
        cut = True
    result, inside = [], []
    for s in range(b):
        best = max(how.methods, key=lambda method: float(radii[method][s]))
        radius, place = float(radii[best][s]), int(limits[best][s])
        distance = float(attacked.distance[s]) if how.attack is not None else float("inf")
        tested = how.attack is not None and bool(right[s] & ahead[s])
        row = {
            "index": first + s,
            "label": None if labels is None else int(labels[s]),
            "predicted": None if not bool(defined[s]) else _class(found, s, how),
            "margin": float(value[s].min().clamp(min=0.0)) if bool(defined[s]) and ahead[s] else 0.0,
            "limited_by": name(int(found.first[s, place]), int(found.second[s, place])) if bool(defined[s]) else None,
            "radius": radius,
            "method": best if radius > 0 else None,
            "status": _status(bool(defined[s]), bool(right[s]), bool(ahead[s]), radius),
            "attacked": distance if tested and distance < float("inf") else None,
            "radii": {method: float(radii[method][s]) for method in how.methods},
        }
        if how.execution is not None:
            row["error"] = float(error[s]) if bool(error[s].isfinite()) else None
        if exact:
            row |= _with_nearest(row, float(nearest.distance[s]), nearest.x[s], how)
        if s in close:
            row["real"] = close[s]
        result.append(row)
        if tested and distance < radius:
            inside.append((first + s, attacked.x[s]))
    return Batch(result, inside, cut)


def _margins(graph: Graph, x: Tensor, how: How) -> Margins:
    found = margins(graph, x, how.tolerance, executed=how.execution is None)
    return found if how.at_sample is None else sharper(graph, x, found, how.at_sample)


def _close_ones(graph: Graph, x: Tensor, rows: Tensor, how: How) -> dict[int, dict[str, Any]]:
    """Of samples of which a float32 evaluation may tell the class wrongly: the margin and the distance to the decision boundary
    in real arithmetic. `attacked` null: nothing was found; where the margin is exactly 0 the radius is 0."""
    found: dict[int, dict[str, Any]] = {}
    if not len(rows):
        return found
    real = margins(graph, x, how.tolerance, executed=False)
    start = _attacked(graph, x, real, rows[(real.value[rows] > 0).all(dim=1)], how)
    for s in rows.tolist():
        one = torch.tensor([s])
        row: dict[str, Any] = {"margin": float(real.value[s].min().clamp(min=0.0)), "radius": 0.0, "attacked": None}
        if row["margin"] > 0:
            near = Exact(graph, x[one], real[one], how.norm, start[one], how.tolerance)
            row["radius"] = float(near.radius[0])
            row["attacked"] = float(near.attacked[0]) if bool(near.attacked[0] < torch.inf) else None
        found[s] = row
    return found


def _small(x: Tensor, how: How) -> bool:
    exact = "regions" in how.methods and how.regions
    return "local" in how.methods and how.local and x.shape[1] <= INPUTS and not exact


Radii = dict[str, tuple[Tensor, Tensor]]  # by method: radii (r,), and which functional limits each (r,)


@dataclass(eq=False)
class Samples:
    """r samples x (r, n) and how they are certified. `start` (r,): where an attack found the boundary, inf: anywhere.
    `shells`: kept, for other margins of the same samples. `cut`: there was no time for every method."""

    graph: Graph
    x: Tensor
    start: Tensor
    constants: Constants
    how: How
    shells: Shells | None = None
    cut: bool = False


def method_radii(some: Samples, found: Margins) -> Radii:
    """Of the methods that there is time for. An execution takes its error off all of them or off none."""
    radii: Radii = {}
    try:
        _add_radii(some, found, radii)
    except OutOfTime:
        if some.how.execution is not None:
            raise
        some.cut = True
    return radii


def _add_radii(some: Samples, found: Margins, radii: Radii) -> None:
    how, whole = some.how, torch.full_like(found.value, torch.inf)
    regression = how.tolerance is not None
    for method in sorted(how.methods, key=lambda name: name == "local"):
        if method in GLOBAL:
            table = some.constants.table(method, found.first, found.second)
            whole = torch.minimum(whole, table)
            quotient = div_down(found.value, table)
            quotient = torch.where(torch.isposinf(quotient), LARGEST, quotient).nan_to_num(0.0)
            least = quotient.min(dim=1)
            radii[method] = down(least.values).clamp(min=0.0), least.indices
        elif method == "local" and how.local:
            if some.shells is None:
                some.shells = shells_of(some.graph, some.x, found, how.norm, whole)
            value, limit = some.shells.certified(found.value)
            if _small(some.x, how):
                walls = boundary_radii(some.graph, some.x, found, how.norm, some.start, how.effort, regression)
                value = torch.maximum(value, walls)
            radii[method] = down(value).clamp(min=0.0), limit
        elif method == "values" and how.values:
            radii[method] = value_radii(some.graph, some.x, found, how.norm, regression, some.start, how.valid)


SHARES = (1.0, 1 / 8, 1 / 64, 1 / 512)  # of the radius in real arithmetic: smaller balls, where an execution errs less
FAR = (
    2.0**-4,
    2.0**-8,
    2.0**-16,
    2.0**-32,
    2.0**-64,
    2.0**-96,
)  # of the largest number, where nothing moves in real arithmetic


def deployed(some: Samples, found: Margins, real: Radii) -> tuple[Radii, Tensor, Tensor]:
    """Radii of the network as it is executed, the margins (r, k) that they stand on, and the largest error (r,).

    With err the bound of |computed g - g| over the ball B(x, R), R the radius `real`, the computed g stays above 0 within
    r <= R wherever L r <= g(x) - err. Where nothing is left of a margin, a smaller ball is tried. The tolerance of a
    regression pays at both ends, for what is compared there was computed at both. Where R is beyond every number of the
    format, its inputs all lie in one box; where an execution errs too much or overflows in it, balls within it are tried."""
    how, x = some.how, some.x
    assert how.execution is not None
    ends = 1.0 if how.tolerance is None else 2.0
    reach = torch.stack([x.new_zeros(len(x)), *(radius for radius, _ in real.values())]).amax(dim=0)
    seeds = found.seeds(some.graph.nodes[some.graph.output].size)
    value, error = torch.full_like(found.value, -torch.inf), torch.full_like(reach, torch.inf)
    limit, largest = torch.zeros_like(reach), how.execution.arithmetic.largest

    def attempt(todo: Tensor, cells: Cells, radius: Tensor) -> None:
        off = how.execution.of_functionals(cells, seeds[todo])  # type: ignore[union-attr]
        value[todo], error[todo], limit[todo] = down(found.value[todo] - up(ends * off)), off.amax(dim=1), radius

    far = reach > largest
    if bool(far.any()):
        todo = far.nonzero()[:, 0]
        attempt(todo, Cells(x[todo], up(x[todo].abs() + largest)), reach[todo])
    for place in range(max(len(SHARES), len(FAR))):
        near, beyond = (sizes[place] if place < len(sizes) else 0.0 for sizes in (SHARES, FAR))
        radius = torch.where(far, largest * beyond, reach * near)
        todo = (~(value > 0).all(dim=1) & (radius > 0)).nonzero()[:, 0]
        if len(todo):
            ball = radius[todo, None].expand_as(x[todo]).contiguous()
            attempt(todo, Cells(x[todo], ball, how.norm), down(radius[todo]))
    left = Margins(found.first, found.second, value, found.predicted)
    again = method_radii(some, left)
    return {method: (torch.minimum(radius, limit), place) for method, (radius, place) in again.items()}, value, error


def _with_nearest(row: dict[str, Any], distance: float, x: Tensor, how: How) -> dict[str, Any]:
    """`nearest`: an input that was found by linear regions, where it counts; an attack within its own range takes it where it lies there."""
    if not distance < float("inf") or not _inside(x, how.valid):
        return {"nearest": None}
    attacked = row["attacked"]
    if _inside(x, None if how.attack is None else how.attack.clip) and (attacked is None or distance < attacked):
        attacked = distance
    return {"nearest": {"distance": distance, "x": x.tolist()}, "attacked": attacked}


def _inside(x: Tensor, clip: tuple[float, float] | None) -> bool:
    return clip is None or bool(((x >= clip[0]) & (x <= clip[1])).all())


@dataclass(frozen=True, eq=False)
class OfSamples:
    """Work of a shard (`tasks/shards.py`): {"rows", "inside", "constants": those proved on the way}."""

    graph: Graph
    constants: Constants
    how: How

    def __call__(self, what: tuple[int, np.ndarray, np.ndarray | None], session: Session) -> dict[str, Any]:
        first, x, y = what
        constants = replace(self.constants, problem=replace(self.constants.problem, progress=session.progress))
        known = set(constants.known)
        batch = treat_known(self.graph, torch.from_numpy(x), _labels(y), first, constants, self.how)
        rows = [row | {CUT: True} for row in batch.rows] if batch.cut else batch.rows
        return {
            "rows": rows,
            "inside": [(index, at.tolist()) for index, at in batch.inside],
            "constants": {scope: found.to_dict() for scope, found in constants.known.items() if scope not in known},
            CUT: batch.cut,
        }


def needed(graph: Graph, x: np.ndarray, y: np.ndarray | None, how: How) -> list[str]:
    """The scopes whose constants the global methods read for these samples."""
    finite = np.isfinite(x).all(axis=1)
    points, labels = torch.from_numpy(x[finite]), None if y is None else _labels(y[finite])
    methods = [method for method in how.methods if method in SCOPES]
    if not methods or not len(points):
        return []
    found = margins(graph, points, how.tolerance, executed=False)
    some = found[_ahead(found, labels).nonzero()[:, 0]]
    both = torch.stack([torch.minimum(some.first, some.second), torch.maximum(some.first, some.second)], -1)
    pairs = {(int(i), int(j)) for i, j in torch.unique(both.reshape(-1, 2), dim=0)}
    return [scope for method in methods for i, j in sorted(pairs) for scope in SCOPES[method](i, j)]


def _labels(y: np.ndarray | None) -> Tensor | None:
    return None if y is None else torch.from_numpy(y)


def _ahead(found: Margins, labels: Tensor | None) -> Tensor:
    """Of the samples: classified as their label says, with every margin above 0."""
    right = found.predicted >= 0
    right = right if labels is None else right & (found.predicted == labels)
    return right & (found.value > 0).all(dim=1)


def treat_known(graph: Graph, x: Tensor, labels: Tensor | None, first: int, constants: Constants, how: How) -> Batch:
    """`treat`, where x may have rows with NaN or infinity: those are undefined, with radius 0, and are not evaluated."""
    known = torch.isfinite(x).all(dim=1)
    if bool(known.all()):
        return treat(graph, x, labels, first, constants, how)
    places = known.nonzero()[:, 0].tolist()
    found = Batch([], [])
    if places:
        found = treat(graph, x[known], None if labels is None else labels[known], 0, constants, how)
    rows = {places[row["index"]]: row for row in found.rows}
    result = [
        {**(rows.get(s) or _undefined(None if labels is None else int(labels[s]), how)), "index": first + s}
        for s in range(len(x))
    ]
    return Batch(result, [(first + places[index], at) for index, at in found.inside], found.cut)


def _undefined(label: int | None, how: How) -> dict[str, Any]:
    nothing = dict.fromkeys(("predicted", "limited_by", "method", "attacked"))
    row = {"index": 0, "label": label, "margin": 0.0, "radius": 0.0, "status": "undefined", **nothing}
    row |= {} if how.execution is None else {"error": None}
    return row | {"radii": dict.fromkeys(how.methods, 0.0)}


def _attacked(graph: Graph, x: Tensor, found: Margins, rows: Tensor, how: How) -> Nearest:
    """Of the samples `rows`; the others keep distance inf."""
    distance, at = torch.full((x.shape[0],), torch.inf, dtype=torch.float64), x.clone()
    if len(rows):
        some = found[rows]
        seeds = some.seeds(graph.nodes[graph.output].size)
        one_logit = how.tolerance is None and graph.nodes[graph.output].size == 1
        if one_logit:
            seeds = torch.where(some.predicted[:, None, None] == 0, -seeds, seeds)
        slope = torch.ones(len(rows), some.value.shape[1], dtype=torch.float64)
        if how.local:
            slope = local_constants(graph, seeds, x[rows], torch.zeros(len(rows), dtype=torch.float64), how.norm)
        start = (some.value / slope).nan_to_num(1.0, 1.0).amin(dim=1).clamp(1e-6, 1e6) * 1.5
        tolerance = some.value if how.tolerance is not None else None
        attack = how.attack or Pgd(restarts=4, rounds=4, clip=how.valid)
        result = search(graph, x[rows], seeds, tolerance, how.norm, start, attack)
        distance[rows], at[rows] = result.distance, result.x
    return Nearest(distance, at)


def _class(found: Margins, s: int, how: How) -> int | None:
    return None if how.tolerance is not None else int(found.predicted[s])


def _status(defined: bool, right: bool, ahead: bool, radius: float) -> str:
    if not defined:
        return "undefined"
    if not right:
        return "misclassified"
    if not ahead:
        return "tie"
    return "certified" if radius > 0 else "not certified"
