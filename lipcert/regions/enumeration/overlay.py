"""The cells of a grid over the linear pieces of a plane: each cell has the largest norm of the pieces that it meets.

A piece and a cell that have no inner point in common are told apart by a side of one of them, for both are convex: where
f >= -rho on the piece and f <= -rho on the cell, they share a part of a line at most, and f is continuous there. What is
not proved apart is counted. Lower values are attained in the middle of what a piece and a cell have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lipcert.regions.enumeration.pieces import Piece, Pieces
from lipcert.regions.enumeration.polytope import SLACK
from lipcert.rigor.rounding import EPS


class Overlay:
    """`edges`: of the grid along each of the 1 or 2 inputs; cells are counted with the last axis fastest."""

    def __init__(self, found: Pieces, edges: Sequence[Sequence[float]]):
        self.found, self.every = found, found.all
        self.shape = tuple(len(e) - 1 for e in edges)
        self.low, self.high = self._ends(edges)
        self.piece, self.cell = self._meeting()
        value = np.array([piece.upper for piece in self.every])[self.piece]
        self.upper = np.zeros(len(self.low))
        np.maximum.at(self.upper, self.cell, np.where(np.isnan(value), np.inf, value))
        order = np.lexsort((-value, self.cell))
        self.piece, self.cell = self.piece[order], self.cell[order]
        self.first = np.searchsorted(self.cell, np.arange(len(self.low) + 1))

    def _ends(self, edges: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the cells (cells, n) in t, rounded outward."""
        made = self.found.program
        below, above = [], []
        for d, ends in enumerate(edges):
            e = np.array(ends, dtype=float)
            t = e - made.centre[d]
            exact = (t + made.centre[d] == e) & (e - t == made.centre[d])
            off = np.where(exact, 0.0, 2 * EPS * (np.abs(e) + abs(made.centre[d])))
            below.append(((t - off) / made.scale[d])[:-1])
            above.append(((t + off) / made.scale[d])[1:])
        low, high = (
            np.stack([m.ravel() for m in np.meshgrid(*side, indexing="ij")], axis=1) for side in (below, above)
        )
        return low, high

    def _meeting(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (piece, cell) that are not proved to share no inner point."""
        box = np.array([piece.box for piece in self.every])
        ranges = []
        for d, count in enumerate(self.shape):
            stride = int(np.prod(self.shape[d + 1 :]))
            low, high = (ends[: count * stride : stride, d] for ends in (self.low, self.high))
            # high[i] <= box low: apart; low[i] >= box high: apart
            ranges.append((np.searchsorted(high, box[:, 0, d], "right"), np.searchsorted(low, box[:, 1, d], "left")))
        piece, cell = np.arange(len(box)), np.zeros(len(box), dtype=np.int64)
        for (begin, end), count in zip(ranges, self.shape, strict=True):
            some = np.maximum(end - begin, 0)[piece]
            step = np.arange(some.sum()) - np.repeat(np.cumsum(some) - some, some)
            piece, cell = np.repeat(piece, some), np.repeat(cell, some)
            cell = cell * count + begin[piece] + step
        apart = self._apart(piece, cell)
        return piece[~apart], cell[~apart]

    def _apart(self, piece: np.ndarray, cell: np.ndarray) -> np.ndarray:
        facets = np.array([len(p.facets) for p in self.every])
        table = np.concatenate([p.facets for p in self.every])
        start = np.cumsum(facets) - facets
        n = table.shape[1] - 2
        apart = np.zeros(len(piece), dtype=bool)
        for k in range(int(facets.max(initial=0))):
            some = np.flatnonzero((facets[piece] > k) & ~apart)
            row = table[start[piece[some]] + k]
            ends = row[:, :n] * self.low[cell[some]], row[:, :n] * self.high[cell[some]]
            most = np.maximum(*ends).sum(axis=1) + row[:, n]
            mass = np.abs(ends[0]).sum(axis=1) + np.abs(ends[1]).sum(axis=1) + np.abs(row[:, n]) + row[:, n + 1]
            cuts = np.abs(row[:, :n]).max(axis=1) > 0  # 0 >= 0 says nothing
            apart[some] = cuts & (most + SLACK * mass <= -row[:, n + 1])
            touching = cuts & ~apart[some] & (most <= SLACK * mass) & (row[:, n + 1] == 0)
            for i in np.flatnonzero(touching):  # a kink along a line of the grid: in rationals
                apart[some[i]] = _largest(row[i, : n + 1], self.low[cell[some[i]]], self.high[cell[some[i]]]) <= 0
        return apart

    def middles(self, turn: int, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some of the cells `asked`, and a point (cells, n) in x of each, in the middle of what it shares with the piece of the
        `turn`-th largest norm among those that it meets."""
        cells, points = [], []
        for cell in asked[self.first[asked] + turn < self.first[asked + 1]]:
            piece = self.every[int(self.piece[self.first[cell] + turn])]
            inner = middle(piece, self.low[cell], self.high[cell])
            if inner is not None:
                cells.append(cell)
                points.append(inner)
        at = np.array(points).reshape(len(points), self.low.shape[1])
        return np.array(cells, dtype=np.int64), self.found.points(at)


def _largest(row: np.ndarray, low: np.ndarray, high: np.ndarray) -> Fraction:
    """The largest value of n.t + c on a box, exactly."""
    total = Fraction(float(row[-1]))
    for a, first, last in zip(row[:-1].tolist(), low.tolist(), high.tolist(), strict=True):
        total += max(Fraction(a) * Fraction(first), Fraction(a) * Fraction(last))
    return total


def outline(piece: Piece) -> np.ndarray:
    """The corners (k, n) in order around the piece, floating."""
    corners = piece.corners
    if corners.shape[1] == 1:
        return np.sort(corners, axis=0)
    away = corners - corners.mean(axis=0)
    return corners[np.argsort(np.arctan2(away[:, 1], away[:, 0]))]


def size(corners: np.ndarray) -> float:
    """Length or area inside an outline, floating."""
    if corners.shape[1] == 1:
        return float(corners[-1, 0] - corners[0, 0])
    x, y = (corners - corners[0]).T  # Gauss's formula; its last and first terms are 0
    return 0.5 * abs(float(x[:-1] @ y[1:] - y[:-1] @ x[1:]))


def middle(piece: Piece, low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
    """Of the piece within a box, floating (Sutherland and Hodgman 1974)."""
    if not piece.affine:
        return None
    corners = outline(piece)
    if corners.shape[1] == 1:
        a, b = max(low[0], corners[0, 0]), min(high[0], corners[-1, 0])
        return np.array([(a + b) / 2]) if a < b else None
    ring = [(x, y) for x, y in corners.tolist()]
    for d in range(2):
        for end, side in ((float(low[d]), 1.0), (float(high[d]), -1.0)):
            ring = _clipped(ring, d, end, side)
    if not ring:
        return None
    inner = np.array(ring)
    return inner.mean(axis=0) if size(inner) > 0 else None


def _clipped(ring: list[tuple[float, float]], d: int, end: float, side: float) -> list[tuple[float, float]]:
    """The part where side (x_d - end) >= 0."""
    kept = []
    for k, b in enumerate(ring):
        a = ring[k - 1]
        f, g = side * (a[d] - end), side * (b[d] - end)
        if f * g < 0:
            s = f / (f - g)
            kept.append((a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1])))
        if g >= 0:
            kept.append(b)
    return kept
