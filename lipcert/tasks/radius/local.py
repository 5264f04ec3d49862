"""Radii from local constants: any r with integral_0^r L(B(x, s)) ds <= margin is certified (MATH section 7).

For ||x' - x|| = r, the path x + t (x' - x) / r leaves B(x, s) at length s, so |g(x') - g(x)| <= integral_0^r L(B(x, s)) ds. Upper
sums: between two radii that were looked at, the constant of the outer ball.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.backward.adjoint import local_constants, slopes_on
from lipcert.regions.backward.linear import linear_ranges
from lipcert.regions.backward.relaxed import gradient_norms
from lipcert.regions.cells import Cells
from lipcert.rigor.rounding import add_down, div_down, mul_up, sub_down, sub_up
from lipcert.tasks.radius.margins import Margins
from lipcert.terms.query import P

BISECTIONS = 7
SHELLS = (0.3, 0.5, 0.65, 0.8, 0.92, 1.04, 1.1)  # of the radius found by bisection
FINER = (0.6, 0.85, 1.1, 1.3, 1.5)  # of the radius that intervals certify, by linear bounds
WORK = 1e9  # flops for the linear ranges of one ball
TOGETHER = 2**18  # balls times the square of the widest signal


def shells_of(graph: Graph, x: Tensor, found: Margins, norm: P, whole: Tensor) -> Shells:
    """Balls around x (b, n) and the constants of the functionals on them, chosen for these margins.
    `whole` (b, k): upper values of the global constants, inf where not known: no ball has a larger one."""
    seeds = found.seeds(graph.nodes[graph.output].size)
    margin = found.value.clamp(min=0.0)
    b = margin.shape[0]
    slope = local_constants(graph, seeds, x, torch.zeros(b, dtype=torch.float64), norm)
    ceiling = 16 * (1 + x.abs().amax(dim=1)) if x.shape[1] else torch.ones(b, dtype=torch.float64)
    first = torch.minimum((margin / slope).nan_to_num(0.0, torch.inf).amin(dim=1), ceiling)  # no ball certifies more
    shells = Shells(margin, whole)
    low, high = first / 256, first
    for _ in range(BISECTIONS):
        radius = (low * high).sqrt()
        shells.add(radius, local_constants(graph, seeds, x, radius, norm))
        inside = shells.certified()[0] >= radius
        low, high = torch.where(inside, radius, low), torch.where(inside, high, radius)
    best = shells.certified()[0]
    for share in SHELLS:
        shells.add(best * share, local_constants(graph, seeds, x, best * share, norm))
    best = shells.certified()[0]
    for share in FINER:
        shells.add(best * share, linear_constants(graph, seeds, x, best * share, norm))
    return shells


def linear_constants(graph: Graph, seeds: Tensor, centre: Tensor, radius: Tensor, norm: P) -> Tensor:
    """As `local_constants`, by linear bounds: 20 times the work, and far tighter on larger balls."""
    found = [seeds.new_zeros(0, seeds.shape[1])]
    rows = max(1, TOGETHER // max(1, *(node.size for node in graph.nodes)) ** 2)
    for start in range(0, len(seeds), rows):
        here = slice(start, start + rows)
        cells = Cells(centre[here], radius[here, None].expand_as(centre[here]).contiguous(), norm)
        slopes = slopes_on(graph, linear_ranges(graph, cells, WORK)[0])
        everywhere = torch.ones_like(cells.centre, dtype=torch.bool)
        found.append(gradient_norms(graph, seeds[here], slopes, norm, everywhere))
    return torch.cat(found)


class Shells:
    """Radii s (b, t) and constants (b, k, t) on the balls of those radii."""

    def __init__(self, margin: Tensor, whole: Tensor):
        b, k = margin.shape
        self.margin, self.whole = margin, whole
        self.radius = margin.new_zeros(b, 0)
        self.constant = margin.new_zeros(b, k, 0)

    def add(self, radius: Tensor, constant: Tensor) -> None:
        self.radius = torch.cat([self.radius, radius[:, None]], dim=1)
        self.constant = torch.cat([self.constant, torch.minimum(constant, self.whole)[:, :, None]], dim=2)

    def certified(self, margin: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Radii (b,) and which functional limits each (b,), rounded down; 0: nothing. `margin` (b, k): other margins than
        those that the balls were chosen for. Per functional: walk outward until the upper sum would pass the margin; then what is left of the margin over
        the constant of that shell. The least of them."""
        order = self.radius.argsort(dim=1)
        radius = self.radius.gather(1, order)
        constant = self.constant.gather(2, order[:, None].expand_as(self.constant))
        constant = constant.flip(2).cummin(dim=2).values.flip(2)  # the constant of a larger ball holds on a smaller one
        margin = self.margin if margin is None else margin.clamp(min=0.0)
        reached = torch.zeros_like(margin)
        left, walking = margin, margin > 0
        inner = torch.zeros_like(self.margin)
        for t in range(radius.shape[1]):
            outer = radius[:, t : t + 1].expand_as(inner)
            cost = mul_up(constant[:, :, t], sub_up(outer, inner))
            fits = walking & (cost <= left)
            stops = walking & ~fits
            step = add_down(inner, div_down(left, constant[:, :, t]).nan_to_num(0.0, 0.0))
            reached = torch.where(fits, outer, torch.where(stops, torch.minimum(step, outer), reached))
            left = torch.where(fits, sub_down(left, cost), left)
            walking, inner = fits, torch.where(fits, outer, inner)
        beyond = add_down(inner, div_down(left, self.whole).nan_to_num(0.0, 0.0))
        reached = torch.where(walking, torch.maximum(reached, beyond), reached)
        least = reached.min(dim=1)
        return least.values, least.indices
