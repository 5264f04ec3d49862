"""The distance to the decision boundary for few inputs, by branch and bound outward from the sample.

Boxes around the sample are cleared where margin(centre) - sum_k |dg/dx_k| rad_k > 0 for every functional g, with the local
gradient enclosure of the box (mean value form). The nearest boxes that are not cleared are halved. At any time the
distance to the nearest open box is certified: everything nearer has been cleared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.graph import Enclosure, Graph
from lipcert.regions.backward.adjoint import ball_ranges, gradients, slopes_on
from lipcert.rigor.rounding import down, norm_down, norm_up, sum_up, up
from lipcert.tasks.radius.margins import Margins
from lipcert.terms.query import P

INPUTS = 3  # more, and boxes are too many
BATCH = 256
DOUBLINGS = 4
NEAREST = 8  # points on the other side that are followed towards the sample
ORDER = {"1": 1.0, "2": 2.0, "inf": math.inf}


@dataclass(frozen=True)
class Aim:
    """Stops where the certified distance is within `rtol` of an input on the boundary that was found."""

    rtol: float = 0.005
    boxes: int = 40_000  # looked at per sample: a count, not a time, so that runs repeat


def boundary_radii(
    graph: Graph, x: Tensor, found: Margins, norm: P, start: Tensor, effort: Aim, regression: bool
) -> Tensor:
    """Certified radii (b,). `regression`: the margins are tolerances of the outputs. `start` (b,): where to look first, such as the distance of an attack."""
    seeds = found.seeds(graph.nodes[graph.output].size)
    radii = torch.zeros(x.shape[0], dtype=torch.float64)
    for s in (found.value > 0).all(dim=1).nonzero()[:, 0].tolist():
        radii[s] = _Walls(graph, x[s], seeds[s], found.value[s], regression, norm, effort).run(float(start[s]))
    return radii


class _Walls:
    """`value` (k,): margins that may be lost, or the tolerances of a regression."""

    def __init__(self, graph: Graph, x: Tensor, seeds: Tensor, value: Tensor, regression: bool, norm: P, effort: Aim):
        self.graph, self.x, self.seeds, self.norm, self.effort = graph, x, seeds, norm, effort
        lower, upper = self._values(x[None])
        self.origin = (lower, upper)
        self.tolerance = value if regression else None
        self.sign = 1.0 if bool((lower > 0).all()) or regression else -1.0  # one logit below 0
        # what the evaluation error took of the margin at the sample is not there to be lost elsewhere either
        self.withheld = torch.zeros_like(value)
        if not regression:
            self.withheld = up((lower if self.sign > 0 else -upper)[0] - value).clamp(min=0.0)

    def run(self, start: float) -> float:
        self.looked = 0
        radius = start * 1.01 if math.isfinite(start) and start > 0 else 1.0
        certified = 0.0
        for _ in range(DOUBLINGS):
            reached, nearest = self._within(radius)
            certified = max(certified, reached)
            if nearest <= radius or self.looked >= self.effort.boxes:
                return certified
            radius = min(radius * 4, nearest * 1.01)
        return certified

    def _within(self, radius: float) -> tuple[float, float]:
        """(certified distance, distance of a point found on the other side) in the box around the ball of this radius."""
        low, high = down(self.x - radius)[None], up(self.x + radius)[None]  # holds the ball
        distance = torch.zeros(1, dtype=torch.float64)
        nearest = math.inf
        while len(low):
            edge = float(distance.min())
            if edge >= min(radius, nearest) * (1 - self.effort.rtol):
                return min(edge, radius), nearest
            if self.looked >= self.effort.boxes:
                return edge, nearest
            order = distance.argsort(stable=True)
            now, later = order[:BATCH], order[BATCH:]
            self.looked += len(now)
            axis, open_, touching = self._look(low[now], high[now])
            if touching is not None:
                nearest = min(nearest, self._nearer(touching))
            now, axis = now[open_], axis[open_]
            left, right = _halved(low[now], high[now], axis)
            low = torch.cat([left[0], right[0], low[later]])
            high = torch.cat([left[1], right[1], high[later]])
            distance = self._distance(low, high)
            keep = distance <= min(radius, nearest)
            low, high, distance = low[keep], high[keep], distance[keep]
        return min(radius, nearest), nearest

    def _values(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Enclosures (r, k) of the functionals at points."""
        found = self.graph.enclose(Enclosure(at))
        value = found.centre @ self.seeds.T
        slack = (found.reach() + 2.0**-48 * found.centre.abs()) @ self.seeds.abs().T * (1 + 1e-12)
        return value - slack, value + slack

    def _margin(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Enclosures of what must stay positive."""
        lower, upper = self._values(at)
        if self.tolerance is None:
            return (lower, upper) if self.sign > 0 else (-upper, -lower)
        moved = torch.maximum(upper - self.origin[0], self.origin[1] - lower)
        still = torch.maximum(lower - self.origin[1], self.origin[0] - upper).clamp(min=0.0)
        return down(self.tolerance - moved), up(self.tolerance - still)

    def _look(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(axis to halve, which boxes stay open, points found on the other side)."""
        centre = low / 2 + high / 2
        reach = up(torch.maximum(high - centre, centre - low))
        lower, upper = self._margin(centre)
        ranges = ball_ranges(self.graph, centre, reach, "inf")
        b, k = len(low), len(self.seeds)
        found = gradients(self.graph, self.seeds.expand(b, -1, -1), slopes_on(self.graph, ranges))
        steep = up(found.centre.abs() + found.reach()).reshape(b, k, -1) * reach[:, None] * (1 + 2.0**-50)
        least = down(down(lower - self.withheld) - sum_up(steep, 2))
        open_ = ~(least > 0).all(dim=1)
        worst = least.nan_to_num(-math.inf).argmin(dim=1)
        axis = steep[torch.arange(b), worst].nan_to_num(0.0, 1.0)
        axis = torch.where(torch.isfinite(axis).all(1, True), axis, reach)
        crossed = (upper <= 0).any(dim=1)
        return axis.argmax(dim=1), open_, centre[crossed] if bool(crossed.any()) else None

    def _nearer(self, points: Tensor) -> float:
        """Distance of a point on the other side, looked for on the segments to the sample: sixteen places at a time."""
        far = torch.linalg.vector_norm(points - self.x, ord=ORDER[self.norm], dim=1)
        points = points[far.argsort(stable=True)[:NEAREST]]
        low, width = torch.zeros(len(points), 1, dtype=torch.float64), 1.0
        for _ in range(2):
            width /= 16
            places = low + width * torch.arange(1, 17, dtype=torch.float64)  # (p, 16); the last is known to lie there
            at = self.x + places[:, :, None] * (points - self.x)[:, None]
            crossed = (self._margin(at.reshape(-1, at.shape[2]))[1] <= 0).any(dim=1).reshape(places.shape)
            crossed[:, -1] = True
            low = places.gather(1, crossed.double().argmax(dim=1, keepdim=True)) - width
        at = self.x + (low + width) * (points - self.x)
        sure = (self._margin(at)[1] <= 0).any(dim=1)
        distance = norm_up(up((at - self.x).abs()), self.norm, 1)
        return float(distance[sure].min()) if bool(sure.any()) else math.inf

    def _distance(self, low: Tensor, high: Tensor) -> Tensor:
        gap = torch.maximum(low - self.x, self.x - high)
        return norm_down(torch.where(gap > 0, down(gap), 0.0).clamp(min=0.0), self.norm, 1)


def _halved(low: Tensor, high: Tensor, axis: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    place = axis[:, None]
    cut = (low.gather(1, place) + high.gather(1, place)) / 2
    return (low, high.scatter(1, place, cut)), (low.scatter(1, place, cut), high)
