"""One batch of samples: margins, the radius of each method, the larger one, and an attack beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.backward.adjoint import local_constants
from lipcert.rigor.rounding import div_down, down
from lipcert.sampling.attack import Nearest, Pgd, search
from lipcert.tasks.radius.boundary import INPUTS, Aim, boundary_radii
from lipcert.tasks.radius.constants import GLOBAL, Constants
from lipcert.tasks.radius.local import shell_radii
from lipcert.tasks.radius.margins import Margins, margins, name
from lipcert.terms.query import P

LARGEST = 2.0**1023  # for functions that do not move at all: any number is a radius


@dataclass(frozen=True)
class How:
    """`methods`: of GLOBAL, and "local". `local`: whether the graph has local constants."""

    norm: P
    methods: Sequence[str]
    local: bool
    tolerance: float | None = None
    attack: Pgd | None = None
    effort: Aim = field(default_factory=Aim)


@dataclass(frozen=True, eq=False)
class Batch:
    rows: list[dict[str, Any]]
    inside: list[tuple[int, Tensor]]  # samples attacked inside their certified radius, with the input found


def treat(graph: Graph, x: Tensor, labels: Tensor | None, first: int, constants: Constants, how: How) -> Batch:
    """x (b, n) float64, the samples numbered from `first`."""
    found = margins(graph, x, how.tolerance)
    b = x.shape[0]
    defined = found.predicted >= 0
    right = defined if labels is None else defined & (found.predicted == labels)
    ahead = (found.value > 0).all(dim=1)
    wanted = right & ahead
    radii = {method: torch.zeros(b, dtype=torch.float64) for method in how.methods}
    limits = {method: found.value.argmin(dim=1) for method in how.methods}
    rows = wanted.nonzero()[:, 0]
    attacked = Nearest(torch.full((b,), torch.inf, dtype=torch.float64), x)
    small = "local" in how.methods and how.local and x.shape[1] <= INPUTS
    if how.attack is not None or small:
        attacked = _attacked(graph, x, found, (right & ahead).nonzero()[:, 0], how)
    some = found[rows]
    whole = torch.full_like(some.value, torch.inf)
    for method in sorted(how.methods, key=lambda name: name == "local") if len(rows) else ():
        if method in GLOBAL:
            table = constants.table(method, some.first, some.second)
            whole = torch.minimum(whole, table)
            quotient = div_down(some.value, table)
            quotient = torch.where(torch.isposinf(quotient), LARGEST, quotient).nan_to_num(0.0)
            least = quotient.min(dim=1)
            radii[method][rows], limits[method][rows] = down(least.values).clamp(min=0.0), least.indices
        elif how.local:
            value, limit = shell_radii(graph, x[rows], some, how.norm, whole)
            if small:
                value = torch.maximum(
                    value,
                    boundary_radii(
                        graph, x[rows], some, how.norm, attacked.distance[rows], how.effort, how.tolerance is not None
                    ),
                )
            radii[method][rows], limits[method][rows] = down(value).clamp(min=0.0), limit
    result, inside = [], []
    for s in range(b):
        best = max(how.methods, key=lambda method: float(radii[method][s]))
        radius = float(radii[best][s])
        place = int(limits[best][s])
        distance = float(attacked.distance[s]) if how.attack is not None else float("inf")
        tested = how.attack is not None and bool(wanted[s])
        row = {
            "index": first + s,
            "label": None if labels is None else int(labels[s]),
            "predicted": None if not bool(defined[s]) else _class(found, s, how),
            "margin": float(found.value[s].min().clamp(min=0.0)) if bool(defined[s]) and ahead[s] else 0.0,
            "limited_by": name(int(found.first[s, place]), int(found.second[s, place])) if bool(defined[s]) else None,
            "radius": radius,
            "method": best if radius > 0 else None,
            "status": _status(bool(defined[s]), bool(right[s]), bool(ahead[s]), radius),
            "attacked": distance if tested and distance < float("inf") else None,
            "radii": {method: float(radii[method][s]) for method in how.methods},
        }
        result.append(row)
        if tested and distance < radius:
            inside.append((first + s, attacked.x[s]))
    return Batch(result, inside)


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
    return Batch(result, [(first + places[index], at) for index, at in found.inside])


def _undefined(label: int | None, how: How) -> dict[str, Any]:
    nothing = dict.fromkeys(("predicted", "limited_by", "method", "attacked"))
    row = {"index": 0, "label": label, "margin": 0.0, "radius": 0.0, "status": "undefined", **nothing}
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
        result = search(graph, x[rows], seeds, tolerance, how.norm, start, how.attack or Pgd(restarts=4, rounds=4))
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
