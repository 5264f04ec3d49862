"""An expression of one scalar as a row of the table: its ranges are searched for, and proved, on the whole line.

The line is [-T, T] in octaves, cut finer where the extreme may lie (interval Taylor forms, jets.py), and two tails (series
in |x|, tails.py). Every cell keeps an enclosure, so whatever the search does, the hull of all cells and tails is one.
T is the least of a ladder from which the tails say no more than points inside attain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lipcert.activations.curve import Pair
from lipcert.activations.jets import Expression, Slot, natural, refined
from lipcert.activations.quadratic import ramps_of
from lipcert.activations.row import Activation, Elementwise
from lipcert.activations.series import Unknown
from lipcert.activations.tails import Tail, floats, tail

INF = math.inf
LADDER = tuple(Fraction(2) ** k for k in (-2, 0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 20))
PROBES = LADDER[4], LADDER[7], LADDER[-1]
OCTAVES = range(-44, 20)
PER_OCTAVE = 8
RTOL = 1e-6  # of the largest slope: where the search stops
CELLS = 1 << 16  # evaluated for one expression, before it stops anyway
ROUNDS = 50  # halvings of one cell
PARTS = 8  # of an interval that is asked for
DISTINCT = 256  # sets of coefficients for which the line is searched


def _grid() -> Tensor:
    octaves = [math.ldexp(1 + j / PER_OCTAVE, k) for k in OCTAVES for j in range(PER_OCTAVE)]
    right = [0.0, *octaves, float(LADDER[-1])]
    return torch.tensor([-x for x in reversed(right[1:])] + right, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Line:
    """Ranges of an expression and its slope on the real line, for one set of parameters each: (d,) tensors."""

    expression: Expression
    params: tuple[Tensor, ...]  # (d,) each
    count: int
    tails: dict[tuple[int, int, Fraction], Tail | None] = field(default_factory=dict)

    def tail_at(self, owner: int, side: int, T: Fraction) -> Tail | None:
        key = owner, side, T
        if key not in self.tails:
            numbers = tuple(float(p[owner]) for p in self.params)
            try:
                self.tails[key] = tail(self.expression, T, side, numbers)
            except (Unknown, OverflowError, ZeroDivisionError):
                self.tails[key] = None
        return self.tails[key]

    def ends(self, owner: int, side: int, T: Fraction, order: int) -> tuple[float, float]:
        found = self.tail_at(owner, side, T)
        try:
            return (-INF, INF) if found is None else floats((found.value, found.slope)[order].range())
        except (Unknown, OverflowError, ZeroDivisionError):
            return -INF, INF

    def range(self, order: int) -> Pair:
        """Enclosure of the values (order 0) or slopes (order 1) on the whole line, (d,) each."""
        lines = [self._range(owner, order) for owner in range(self.count)]
        low, high = (torch.tensor([line[k] for line in lines], dtype=torch.float64) for k in (0, 1))
        return low, high

    def _range(self, owner: int, order: int) -> tuple[float, float]:
        params = tuple(p[owner] for p in self.params)
        grid = _grid()
        cells = _Cells.of(self.expression, grid[:-1], grid[1:], params, order)
        low, high = INF, -INF
        for side in (-1, 1):
            T, ends = self._cut(owner, side, order, cells)
            low, high = min(low, ends[0]), max(high, ends[1])
            cells = cells.within(side, float(T))
        return cells.search(self.expression, params, order, low, high)

    def _cut(self, owner: int, side: int, order: int, cells: _Cells) -> tuple[Fraction, tuple[float, float]]:
        """The least T whose tail is no wider than what points attain, else the one with the least excess."""
        attained = cells.attained()
        known = [k for k in (0, 1) if not self.hopeless(owner, order, k)]
        size = max((abs(attained[k]) for k in known), default=0.0)
        best: tuple[tuple[int, float], Fraction, tuple[float, float]] | None = None
        for T in LADDER:
            if not cells.bounded(side, float(T)):
                break
            ends = self.ends(owner, side, T, order)
            gaps = [gap for k, gap in ((0, attained[0] - ends[0]), (1, ends[1] - attained[1])) if k in known]
            excess = sum(map(math.isinf, gaps)), max((gap for gap in gaps if math.isfinite(gap)), default=0.0)
            if best is None or excess < best[0]:
                best = excess, T, ends
            if excess <= (0, RTOL / 4 * size):
                break
        return (LADDER[-1], (-INF, INF)) if best is None else best[1:]

    def hopeless(self, owner: int, order: int, end: int) -> bool:
        """On one side this end is infinite, as far as tails can tell."""
        return any(all(math.isinf(self.ends(owner, side, T, order)[end]) for T in PROBES) for side in (-1, 1))


@dataclass(frozen=True, eq=False)
class _Cells:
    """Intervals with enclosures on them and at their ends."""

    lo: Tensor
    hi: Tensor
    low: Tensor
    high: Tensor
    seen_low: Tensor  # upper ends of the enclosures at both ends: not above them the infimum lies
    seen_high: Tensor

    @staticmethod
    def of(expression: Expression, lo: Tensor, hi: Tensor, params: tuple[Tensor, ...], order: int) -> _Cells:
        box, left, right = refined(expression, lo, hi, params)
        return _Cells(
            lo,
            hi,
            *box[order],
            torch.minimum(left[order][1], right[order][1]),
            torch.maximum(left[order][0], right[order][0]),
        )

    def attained(self) -> tuple[float, float]:
        """The infimum is not above the first, the supremum not below the second."""
        return float(self.seen_low.min()), float(self.seen_high.max())

    def within(self, side: int, T: float) -> _Cells:
        kept = self.hi <= T if side > 0 else self.lo >= -T
        return self[kept]

    def __getitem__(self, mask: Tensor) -> _Cells:
        return _Cells(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def bounded(self, side: int, T: float) -> bool:
        """Enclosures from 1 to T are finite. Closer to 0 an infinite one is a pole, farther out an overflow."""
        far = (self.lo >= 1) & (self.hi <= T) if side > 0 else (self.hi <= -1) & (self.lo >= -T)
        return not bool((far & ~(torch.isfinite(self.low) & torch.isfinite(self.high))).any())

    def search(
        self, expression: Expression, params: tuple[Tensor, ...], order: int, low: float, high: float
    ) -> tuple[float, float]:
        """The range on the cells together with [low, high]; an infinite end of these is not searched for."""
        bottom, top = self.attained()
        bottom, top = min(bottom, low), max(top, high)
        open_, evaluated = self, 0
        for _ in range(ROUNDS):
            slack = RTOL * max((abs(x) for x in (bottom, top) if math.isfinite(x)), default=0.0)
            split = (open_.high > top + slack) | (open_.low < bottom - slack)
            middle = open_.lo / 2 + open_.hi / 2
            split = split & (middle > open_.lo) & (middle < open_.hi)
            closed = open_[~split]
            if closed.lo.numel():
                low, high = min(low, float(closed.low.min())), max(high, float(closed.high.max()))
            open_, middle = open_[split], middle[split]
            evaluated += 2 * open_.lo.numel()
            if not open_.lo.numel() or evaluated > CELLS:
                break
            halves = torch.cat([open_.lo, middle]), torch.cat([middle, open_.hi])
            open_ = _Cells.of(expression, *halves, params, order)
            bottom, top = min(bottom, open_.attained()[0]), max(top, open_.attained()[1])
        if open_.lo.numel():
            low, high = min(low, float(open_.low.min())), max(high, float(open_.high.max()))
        return low, high


@dataclass(frozen=True, eq=False)
class Composed:
    """The functions of a row. Parameters are per entry, (size,) each, and broadcast to what is asked."""

    expression: Expression
    memo: dict[object, object] = field(default_factory=dict)

    def whole(self, order: int, params: tuple[float | Tensor, ...]) -> Pair:
        given = tuple(torch.as_tensor(p, dtype=torch.float64) for p in params)
        key = order, *(p.numpy().tobytes() for p in (g.detach().cpu() for g in given))
        if key not in self.memo:
            self.memo[key] = self._whole(order, given)
        return self.memo[key]  # type: ignore[return-value]

    def _whole(self, order: int, params: tuple[Tensor, ...]) -> Pair:
        if not params:
            return Line(self.expression, (), 1).range(order)
        cpu = torch.stack([p.detach().cpu().reshape(-1) for p in torch.broadcast_tensors(*params)])
        distinct, place = torch.unique(cpu, dim=1, return_inverse=True)
        if distinct.shape[1] > DISTINCT:
            unknown = torch.full_like(cpu[0], INF)
            return -unknown, unknown
        low, high = Line(self.expression, tuple(distinct), distinct.shape[1]).range(order)
        return low[place].to(params[0].device), high[place].to(params[0].device)

    def slopes(self, *params: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
        low, high = self.whole(1, params)
        return (low, high) if params else (float(low), float(high))

    def slopes_on(self, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        return self._on(1, lo, hi, params)

    def values_on(self, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        return self._on(0, lo, hi, params)

    def chords_on(self, center: Tensor, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        return self._on(1, torch.minimum(lo, center), torch.maximum(hi, center), params)

    def curvatures_on(self, lo: Tensor, hi: Tensor, *params: float | Tensor) -> Pair:
        given = tuple(torch.as_tensor(p, dtype=torch.float64) for p in params)
        jet = natural(self.expression, *_cut_up(lo, hi), given)[2]
        return _known(lo, hi, jet[0].amin(0), jet[1].amax(0))

    def _on(self, order: int, lo: Tensor, hi: Tensor, params: tuple[float | Tensor, ...]) -> Pair:
        """On PARTS equal parts, met with the range on the line; that alone where an end is infinite."""
        given = tuple(torch.as_tensor(p, dtype=torch.float64) for p in params)
        bottom, top = self.whole(order, params)
        point = bool((lo == hi).all())
        if point:
            low, high = natural(self.expression, lo, hi, given)[order]
        else:
            jet = refined(self.expression, *_cut_up(lo, hi), given)[0][order]
            low, high = jet[0].amin(0), jet[1].amax(0)
        finite = torch.isfinite(lo) & torch.isfinite(hi)
        low, high = torch.where(finite, low, -INF), torch.where(finite, high, INF)
        return _known(lo, hi, torch.maximum(low, bottom), torch.minimum(high, top))


def _cut_up(lo: Tensor, hi: Tensor) -> Pair:
    """(PARTS, *shape): neighbouring parts share an end, the first and last are lo and hi."""
    share = torch.linspace(0.0, 1.0, PARTS + 1, dtype=torch.float64, device=lo.device)
    share = share.reshape(-1, *([1] * lo.dim()))
    edges = lo * (1 - share) + hi * share
    edges = torch.minimum(torch.maximum(edges, lo[None]), hi[None])
    edges[0], edges[-1] = lo, hi
    return edges[:-1], edges[1:]


def _known(lo: Tensor, hi: Tensor, low: Tensor, high: Tensor) -> Pair:
    known = (lo <= hi) & (low <= high)
    return torch.where(known, low, -INF), torch.where(known, high, INF)


def _always(value: Any, *params: float | Tensor) -> Any:
    """A function with a name, which can be sent to another process."""
    return value


def composed(expression: Expression, params: Sequence[Tensor] = ()) -> Elementwise:
    """The expression as a row with its parameters bound. Its name spells the function, constants included."""
    functions = Composed(expression)
    ramps = ramps_of(expression)
    rows = [step.value.row for step in expression.steps if isinstance(step.value, Elementwise)]
    row = Activation(
        str(expression),
        expression,
        functions.slopes,
        functions.slopes_on,
        functions.values_on,
        functions.chords_on,
        parameters={f"c{k}": 0.0 for k in range(len(params))},
        continuous=all(row.continuous for row in rows),
        curvatures_on=functions.curvatures_on if all(row.curvatures_on for row in rows) else None,
        kinks=partial(_always, (0.0,) if ramps else ()),
        ramps=partial(_always, ramps),
    )
    return Elementwise(row, tuple(params))


__all__ = ["Slot", "composed"]
