"""Maxima and sorting about the centre: by how much a rival may overtake.

Over the region, over_ij = sup (u_i - u_j), from the row of the difference itself. Where it is negative, i never passes j.

A maximum over a window with winner k at the centre: 0 <= max_i u_i - u_k <= H = max(0, max_i over_ik), and its Jacobian is a convex
combination l of the unit rows of k's rivals (over_ik >= 0), m of them with k. With g = (1/m, .., 1/m): (l - g) 1 = 0 and

    |l - g|_2  <=  sqrt(1 - 1/m)        (convex in l, so largest at a vertex).

A sorted row, ranks by the centre: |z_j - u_(j)| is at most the largest over of a lower rank above j, or of j above a higher one (of
the j largest entries one has a rank of j or more). Ranks between which nothing can pass are sorted apart; on m ranks that
may mix, the Jacobian Q is doubly stochastic (in the hull of permutations), Q - 11'/m = P Q P with P = I - 11'/m, and |Q| <= 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.blocks.selection import Selection
from lipcert.blocks.sort import Sort
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Node
from lipcert.operators.linear import Select
from lipcert.regions.transfer.blockwise import Blockwise, along
from lipcert.regions.transfer.expansion import Arriving, Expansion, Term
from lipcert.rigor.constants import Constant
from lipcert.rigor.rounding import EPS, add_up, up
from lipcert.terms.errors import RefusedModel

FORMULA = 1 + 64 * EPS
LONGEST = 128  # entries of a row that is sorted: all pairs are looked at
WIDEST = 64  # rivals of one window


def selection(node: Node, block: Selection, inputs: list[Arriving]) -> Expansion:
    (u,) = inputs
    sign = -1.0 if block.minimum else 1.0
    present, at = block.windows >= 0, block.windows.clamp(min=0)
    rows = torch.arange(len(at))
    winner = torch.where(present, sign * u.centre[at], -math.inf).argmax(1)
    win = at[rows, winner]
    over = torch.where(present, overtaking(u, at, win[:, None].expand_as(at), sign), -math.inf)
    over[rows, winner] = 0.0
    rivals = ~(over < 0)  # NaN too
    H = over.amax(1)  # not negative
    half = H / 2
    moved = u.centre[win] + sign * half
    entries = torch.where(H == 0, 0.0, add_up(half, 4 * EPS * add_up(u.centre[win].abs(), H)))
    gain = Select(win, block.in_size)
    open_ = rivals.sum(1) > 1
    if not bool(open_.any()):
        return Expansion(Known(moved[None]), (gain,), entries)
    many = int(rivals.sum(1).max())
    if many > WIDEST:
        raise RefusedModel(f"{many} entries may be the largest of one window")
    slopes, term = _averages(at, rivals, open_.nonzero().flatten(), many, block.in_size)
    return Expansion(Known(moved[None]), (gain,), entries, slopes=(slopes,), terms=(term,))


def _averages(at: Tensor, rivals: Tensor, loose: Tensor, many: int, in_size: int) -> tuple[Blockwise, Term]:
    """G' = the mean of the rivals of each window, and the term of the windows `loose`."""
    count = rivals.sum(1)
    first = (~rivals).to(torch.int8).argsort(dim=1, stable=True)[:, :many]  # rivals first
    taken, read = rivals.gather(1, first).double(), at.gather(1, first)
    mean = taken / count[:, None]
    slack = torch.where((count > 1)[:, None], mean * 2 * EPS, 0.0)
    size, windows = len(at), len(loose)
    slopes = Blockwise(mean[:, None], read[:, None], torch.arange(size)[:, None, None], (in_size, size), slack[:, None])
    across = centring(taken[loose], count[loose])
    inner = Blockwise(
        across.centre,
        read[loose][:, None],
        torch.arange(windows * many).reshape(windows, 1, many),
        (in_size, windows * many),
        across.reach(),
    )
    columns = torch.zeros(windows, size, dtype=torch.float64)
    columns[torch.arange(windows), loose] = (1 - 1 / count[loose].double()).sqrt() * FORMULA
    number = torch.arange(windows)
    return slopes, Term(0, inner, number.repeat_interleave(many), Known(columns), number, windows)


def centring(taken: Tensor, count: Tensor) -> Constant:
    """I - 11'/m on the entries of each row that are taken (1.0), 0 on the others: (g, n, n)."""
    pairs = taken[:, :, None] * taken[:, None, :]
    mean = pairs / count[:, None, None]
    return Constant(torch.diag_embed(taken) - mean, pairs * 4 * EPS)


def overtaking(u: Arriving, above: Tensor, below: Tensor, sign: float = 1.0) -> Tensor:
    """sup of sign (u_above - u_below) over the region, upward, of positions in equal shapes. Of pairs whose ranges do not
    meet it is that of the ranges; of the others also that of their difference."""
    low, high = u.range if sign > 0 else (-u.range[1], -u.range[0])
    over = up(high[above] - low[below])
    close = ~(over < 0)
    pairs = torch.stack([above[close], below[close]], -1)
    count = len(pairs)
    if not count:
        return over
    weight = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    difference = Blockwise(weight, pairs[None], torch.arange(count)[None, :, None], (len(u.centre), count))
    apart = up(sign * (u.centre[pairs[:, 0]] - u.centre[pairs[:, 1]]))
    over[close] = torch.minimum(over[close], up(apart + u.of(difference).reach))
    return over


def sorting(node: Node, block: Sort, inputs: list[Arriving]) -> Expansion:
    (u,) = inputs
    n, positions = block.n, along(block.outer, block.n, block.inner)
    if n > LONGEST:
        raise RefusedModel(f"rows of {n} entries are too long to compare all of them")
    groups, total, sign = len(positions), positions.numel(), 1.0 if block.descending else -1.0
    ranked = positions.gather(1, (-sign * u.centre[positions]).argsort(dim=1, stable=True))
    lower, higher = ranked[:, None, :].expand(groups, n, n), ranked[:, :, None].expand(groups, n, n)
    behind = torch.ones(n, n, dtype=torch.bool).triu(1)  # [i, j]: rank j comes after rank i
    over = torch.where(behind, overtaking(u, lower, higher, sign), -math.inf)
    entries = torch.maximum(over.amax(2), over.amax(1)).clamp(min=0.0)
    last = torch.where(~(over < 0), torch.arange(n), torch.arange(n)[:, None]).amax(2).cummax(1).values
    part = torch.cat([torch.zeros(groups, 1), (last[:, :-1] <= torch.arange(n - 1)).double().cumsum(1)], 1)
    together = (part[:, :, None] == part[:, None, :]).double()
    count = together.sum(2)
    mean = together / count[:, :, None]
    loose = (count > 1)[:, :, None]
    where = positions.reshape(-1)
    source, size = torch.zeros(total, dtype=torch.int64), torch.zeros(total, dtype=torch.float64)
    source[where], size[where] = ranked.reshape(-1), entries.reshape(-1)
    value = u.centre[source]
    gain = Select(source, total)
    if not bool(loose.any()):
        return Expansion(Known(value[None]), (gain,), size)
    radius = 4 * EPS * (loose & (together > 0)).double()
    slopes = Blockwise(mean, ranked[:, None], positions[:, None], (total, total), radius)
    across = Constant(torch.eye(n, dtype=torch.float64) - mean, radius)
    number = torch.arange(groups).repeat_interleave(n)
    inner = Blockwise(
        across.centre, ranked[:, None], torch.arange(total).reshape(groups, 1, n), (total, total), across.reach()
    )
    term = Term(0, inner, number, placed_columns(across, positions, total), number, groups)
    return Expansion(Known(value[None]), (gain,), size, slopes=(slopes,), terms=(term,))


def placed_columns(matrix: Constant, positions: Tensor, total: int) -> Known:
    """The columns of each matrix (g, n, n) as rows over the signal, at `positions` (g, n)."""
    groups, n = positions.shape
    centre, radius = (torch.zeros(groups, n, total, dtype=torch.float64) for _ in range(2))
    places = positions[:, None, :].expand(groups, n, n)
    centre.scatter_(2, places, matrix.centre.mT.contiguous())
    radius.scatter_(2, places, matrix.reach().mT.contiguous())
    return Known(centre.reshape(groups * n, total), radius.reshape(groups * n, total))
