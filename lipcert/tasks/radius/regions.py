"""Exact radii of piecewise linear networks of few inputs: the distance to the decision boundary by linear regions.

In real arithmetic: what a float32 evaluation may lose of the margin decides whether a sample is ahead, and is not lost again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.network.graph import Enclosure, Graph
from lipcert.regions.enumeration.hinges import hinged
from lipcert.regions.enumeration.program import INPUTS
from lipcert.rigor.rounding import EPS, up
from lipcert.sampling.attack import Nearest
from lipcert.tasks.radius.margins import Margins
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import P

REAL = "distances to the decision boundary are those in real arithmetic, not of an execution"
NEEDS_NUMBA = "exact radii need Numba: pip install 'lipcert[fast]'"


def in_the_way(graph: Graph) -> str | None:
    """Why there are no exact radii; None: there are."""
    inputs = graph.nodes[graph.input].size
    if inputs > INPUTS:
        return f"{inputs} inputs, and linear regions are enumerated for {INPUTS} or fewer"
    try:
        hinged(graph)
        import numba  # noqa: F401
    except RefusedModel as refused:
        return str(refused)
    except ImportError:
        return NEEDS_NUMBA
    return None


class Exact:
    """Of the samples in `found` (one row each): `radius`, `attacked` (b,), inf where nothing is known, the inputs found
    `x` (b, n), and which functional is lost there, `limit` (b,)."""

    def __init__(self, graph: Graph, x: Tensor, found: Margins, norm: P, start: Nearest, tolerance: float | None):
        from lipcert.regions.enumeration.distance import Limits, distance

        b, k = found.value.shape
        limits = Limits.usual(x.shape[1])
        self.radius = torch.zeros(b, dtype=torch.float64)
        self.attacked = torch.full((b,), torch.inf, dtype=torch.float64)
        self.x, self.limit = x.clone(), found.value.argmin(dim=1)
        for s in range(b):
            wrong = lost(graph, x[s], found[torch.tensor([s])], tolerance)
            reached = bool(torch.isfinite(start.distance[s]))
            began = start.x[s] if reached else float(start.distance.min().nan_to_num(1.0, 1.0, 1.0))
            try:
                near = distance(wrong, x[s], norm, began, limits, threads=torch.get_num_threads())
            except RefusedModel:  # too large to be written out
                continue
            self.radius[s], self.attacked[s], self.x[s] = near.certified, near.attacked, near.point
            if near.attacked < torch.inf:
                self.limit[s] = int(wrong.enclose(Enclosure(near.point[None])).lower[0].argmax()) % k


def lost(graph: Graph, x: Tensor, found: Margins, tolerance: float | None) -> Graph:
    """A graph with outputs that are above 0 exactly where the one sample x (n,) has lost its class, its sign, or a tolerance."""
    from lipcert.regions.enumeration.distance import functionals

    seeds = found.seeds(graph.nodes[graph.output].size)[0]
    shift = torch.zeros(len(seeds), dtype=torch.float64)
    if tolerance is None:
        if len(seeds) == 1 and seeds.shape[1] == 1 and int(found.predicted[0]) == 0:
            seeds = -seeds  # one logit that is below 0
        return functionals(graph, -seeds, shift)
    origin = graph.enclose(Enclosure(x[None]))
    value = torch.cat([-tolerance - origin.centre[0], origin.centre[0] - tolerance])
    slack = up(up(torch.cat([origin.reach()[0]] * 2)) + 2 * EPS * value.abs())
    return functionals(graph, torch.cat([seeds, -seeds]), value, slack)
