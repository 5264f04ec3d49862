"""How far a signal gets from its centre: entries, and Euclidean lengths of groups of entries.

The sources are independent balls: |xi_b| <= radius_b in the Euclidean norm, each over its own rows (one row for an entry
of a box). For rows K_b and any weights w_b > 0, by Cauchy-Schwarz over the stacked vector (w_b xi_b / radius_b)_b,

    | sum_b K_b' xi_b |  <=  || (radius_b K_b / w_b)_b ||_2  ( sum_b w_b^2 )^(1/2).

At the best weights it is the semidefinite bound of the norm inf -> 2 (Nesterov 1998), at most sqrt(pi / 2) times the norm for boxes;
any weights give a true bound, so they come from a few floating steps of its dual, W <- M W M with M = sum_b K_b'K_b / d_b
and d_b = tr(K_b W K_b')^(1/2) = w_b^2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.graph import Enclosure as Known
from lipcert.regions.cells import Cells
from lipcert.regions.transfer.rows import CENTRE, Rows
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import EPS, add_up, div_up, mul_up, norm_up, sum_up, up
from lipcert.terms.query import P

STEPS = 6
WIDEST = 1024  # entries of a group: beyond them its length comes from the entries
WORK = 4e10  # flops for one set of groups


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a vector xi (r,) may lie: |xi_i| <= entries_i, and || xi_g ||_p <= lengths_g for consecutive groups of equal size.
    None: nothing is known of that kind."""

    entries: Tensor | None  # (r,)
    lengths: Tensor | None = None  # (g,)
    norm: P = "2"

    @staticmethod
    def of(cells: Cells, moving: Tensor) -> Origin:
        """The deviation from the centre of one cell; `moving`: positions of coordinates that move."""
        radius = cells.radius[0, moving]
        if cells.norm == "inf":
            return Origin(radius)
        return Origin(
            None, radius.amax().reshape(1) if len(radius) else radius.new_zeros(1), cells.norm
        )  # an ellipsoid lies in it

    def entrywise(self, rows: Known) -> Tensor:
        """Upper values (size,) of | sum_i rows_i xi_i |."""
        size = add_up(rows.centre.abs(), rows.reach())
        found = []
        if self.entries is not None:
            found.append(sum_up(mul_up(self.entries[:, None], size), 0))
        if self.lengths is not None:
            grouped = size.reshape(len(self.lengths), -1, size.shape[1])
            dual: dict[P, P] = {"1": "inf", "2": "2", "inf": "1"}
            found.append(sum_up(mul_up(self.lengths[:, None], norm_up(grouped, dual[self.norm], 1)), 0))
        return found[0] if len(found) == 1 else torch.minimum(*found)

    def balls(self, count: int) -> tuple[Tensor, Tensor]:
        """For each row the radius of the ball that it belongs to, and the number of that ball: the groups where they are
        the smaller set. (A ball in l1 lies in that of l2.)"""
        if self.lengths is None or self._box_is_smaller():
            assert self.entries is not None
            return self.entries, torch.arange(count)
        each = count // max(1, len(self.lengths))
        return self.lengths.repeat_interleave(each), torch.arange(len(self.lengths)).repeat_interleave(each)

    def _box_is_smaller(self) -> bool:
        if self.entries is None or self.lengths is None:
            return False
        return bool((self.entries**2).sum() < 2 * (self.lengths**2).sum())


Origins = Mapping[Hashable, Origin]


def entrywise(sources: Origins, rows: Rows) -> Tensor:
    """Upper values (size,) of |u_i - a_i|, a the floating centre."""
    total = rows[CENTRE].reach()[0]
    for key, known in rows.items():
        if key != CENTRE:
            total = add_up(total, sources[key].entrywise(known))
    return total.nan_to_num(math.inf, math.inf)


def lengths(sources: Origins, rows: Rows, groups: int) -> Tensor:
    """Upper values (groups,) of the Euclidean length of u - a on consecutive groups of equal size."""
    size = rows[CENTRE].centre.shape[1]
    by_entries = norm_up(entrywise(sources, rows).reshape(groups, -1), "2", 1)
    keys = [key for key in rows if key != CENTRE and rows[key].centre.shape[0]]
    each, total = size // max(1, groups), sum(rows[key].centre.shape[0] for key in keys)
    if (
        each <= 1
        or each > WIDEST
        or not keys
        or 4 * total * size * each > WORK
        or not bool(by_entries.isfinite().all())
    ):
        return by_entries
    centre, radius = (
        torch.cat([side(rows[key]) for key in keys]).reshape(total, groups, each).movedim(1, 0)
        for side in (lambda k: k.centre, lambda k: k.reach())
    )
    scale, ball = _balls(sources, rows, keys)
    slack = norm_up(rows[CENTRE].reach().reshape(groups, -1), "2", 1)
    return torch.minimum(by_entries, add_up(_weighted(centre, radius, scale, ball), slack))


def _balls(sources: Origins, rows: Rows, keys: list[Hashable]) -> tuple[Tensor, Tensor]:
    scales, balls, first = [], [], 0
    for key in keys:
        scale, ball = sources[key].balls(rows[key].centre.shape[0])
        scales.append(scale)
        balls.append(ball + first)
        first += int(ball.max()) + 1
    return torch.cat(scales), torch.cat(balls)


def _weighted(centre: Tensor, radius: Tensor, scale: Tensor, ball: Tensor) -> Tensor:
    """Of rows (g, total, n) whose balls have the radii `scale` (total,): the bound above."""
    some = scale > 0
    centre, radius, scale = centre[:, some], radius[:, some], scale[some]
    ball = torch.unique(ball[some], return_inverse=True)[1]
    if not len(scale):
        return centre.new_zeros(len(centre))
    weight = _weights(centre * scale[:, None], ball)  # (g, balls)
    factor = scale / weight[:, ball]  # (g, total)
    return mul_up(
        matrix_norms_upper(*_scaled(centre, radius, factor[:, :, None]), "2", "2"), _total(scale, factor, ball)
    )


def _scaled(centre: Tensor, radius: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """factor * (centre +- radius), the rounding of it inside."""
    image = centre * factor
    return image, up((radius * factor) * (1 + 4 * EPS) + 2 * EPS * image.abs()) + 1e-300


def _total(scale: Tensor, factor: Tensor, ball: Tensor) -> Tensor:
    """(sum_b w_b^2)^(1/2) of the weights that the floats `factor` stand for: w_b >= scale / factor on all rows of b."""
    ratio = div_up(scale.expand_as(factor), factor)
    largest = ratio.new_zeros(len(ratio), int(ball.max()) + 1)
    largest = largest.scatter_reduce(1, ball.expand_as(ratio), ratio, "amax")
    return norm_up(largest, "2", 1)


def _weights(rows: Tensor, ball: Tensor) -> Tensor:
    """w (g, balls), by floating steps of the dual."""
    g, _, n = rows.shape
    count = int(ball.max()) + 1
    W = torch.eye(n, dtype=rows.dtype).expand(g, n, n)
    for step in range(STEPS):
        squares = ((rows @ W) * rows).sum(2).clamp(min=0)
        d = rows.new_zeros(g, count).index_add_(1, ball, squares).sqrt()
        d = torch.maximum(d, 1e-9 * d.amax(dim=1, keepdim=True)).clamp(min=1e-150)
        if step < STEPS - 1:
            M = (rows / d[:, ball, None]).mT @ rows
            W = M @ W @ M
            W = W / W.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-150)[:, None, None]
    return d.sqrt()


def inf_to_two(centre: Tensor, radius: Tensor) -> float:
    """Upper value of ||A||_{inf -> 2} for the transpose (n, m) of A, |A' - centre| <= radius."""
    plain = float(matrix_norms_upper(centre.mT[None], radius.mT[None], "inf", "2")[0])
    if not centre.numel() or not bool(radius.isfinite().all()):
        return plain
    n = len(centre)
    ones = torch.ones(n, dtype=centre.dtype)
    return min(plain, float(_weighted(centre[None], radius[None], ones, torch.arange(n))[0]))
