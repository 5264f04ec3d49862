"""Regions and points: networks of hinges, z = max(low v, high v), on polytopes whose corners are known exactly.

A region is cut along hyperplanes on which a neuron is zero. The corners of each cell are rational, and an affine form is largest
and smallest at corners, so the signs of neurons on it are decided by exact arithmetic; a piecewise linear function on a convex
region has no larger constant than the norm of its derivative, where that exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from math import gcd

import numpy as np

from lipcert_audit.certificate import Claim
from lipcert_audit.exact import Map, integers, integral, stored, whole
from lipcert_audit.network import SLOPE, Layer, Signal, refuse
from lipcert_audit.places import Point
from lipcert_audit.proofs import Gates, bounded
from lipcert_audit.strict import reject

WIDE = 12  # inputs that move: 2^12 corners
DEEP = 8  # cuts of a leaf, one within the other, beyond those of the certificate: at most 2^8 cells


@dataclass(frozen=True)
class Cell:
    """The points of a polytope at which hinges have signs: `signs`, of +-(k + 1). `corners` (k, 1 + n): rows (w, w t) of integers,
    w > 0; `sides`: the bits of the hyperplanes that a corner lies on."""

    corners: np.ndarray
    sides: list[int]
    signs: tuple[int, ...] = ()

    def half(self, at: np.ndarray, sign: int) -> Cell | None:
        """Where an affine form is not negative, `at` (k,) its value at each corner, times w; None: that has no interior. New corners
        are where it is zero on an edge; two corners are on an edge if no third is on all sides that they share."""
        side = 1 << (2 * WIDE + abs(sign))
        if not (at > 0).any():
            return None
        corners = [p for p, v in zip(self.corners, at, strict=True) if v >= 0]
        sides = [s | (side if v == 0 else 0) for s, v in zip(self.sides, at, strict=True) if v >= 0]
        for i, j in product(np.flatnonzero(at > 0), np.flatnonzero(at < 0)):
            shared = self.sides[i] & self.sides[j]
            if sum(shared & ~s == 0 for s in self.sides) == 2:
                corner = at[i] * self.corners[j] - at[j] * self.corners[i]
                corners.append(corner // gcd(*corner))
                sides.append(shared | side)
        return Cell(np.array(corners, dtype=object), sides, (*self.signs, sign))


def box(lower: np.ndarray, upper: np.ndarray, unit: int, inputs: int, place: str) -> tuple[Cell, np.ndarray, int]:
    """The corners of a box, integers in units of 2^-unit, and 1 and x as rows of coefficients of (1, t, dt), t the entries that move."""
    moves = np.flatnonzero(lower < upper)
    n, k = len(moves), np.arange(len(moves))
    if len(lower) != inputs or (lower > upper).any():
        reject(place, f"{len(lower)} numbers for {inputs} inputs, or an empty region")
    if n > WIDE:
        refuse(f"a region in which {n} inputs move: up to {WIDE} may")
    corners = [[1 << unit, *corner] for corner in product(*zip(lower[moves], upper[moves], strict=True))]
    sides = [sum(1 << (2 * i + bit) for i, bit in enumerate(bits)) for bits in product((0, 1), repeat=n)]
    x = np.zeros((1 + len(lower), 1 + 2 * n), dtype=object)
    x[:, 0] = [1 << unit, *np.where(lower < upper, 0, lower)]
    x[1 + moves, 1 + k] = x[1 + moves, 1 + n + k] = 1 << unit
    return Cell(np.array(corners, dtype=object), sides), x, unit


class Hinges(Gates):
    """The sources are the hinges themselves."""

    def apply(self, layer: Layer) -> Signal:
        if layer.kind == "maximum":
            return self.tournament(layer)
        if not layer.bent:
            refuse(f"{layer.name}: on regions and at points only maxima of slopes are known, as Relu")
        self.layers.append(layer)
        return self.source(layer.shape)

    def matrices(self, out: Signal) -> None:
        """Of what each layer reads and of the output, and of their absolute coefficients."""
        maps = [replace(m, cols=k) for m, k in zip([*(v.read.map for v in self.layers), out.map], self.starts[2:], strict=True)]
        self.steps = [(layer, m.dense(), m.absolute().dense(), m) for layer, m in zip([*self.layers, None], maps, strict=True)]

    def forms(self, cell: Cell, known: np.ndarray, unit: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """What each layer reads, and the output: (value, off, unit), integers with columns for (1, t, dt). On the cell the entry is
        within off[0] of value[0] + value[t] t, and its derivative within off[dt] of value[dt], in units of 2^-unit."""
        n, w, lost, done = cell.corners.shape[1] - 1, cell.corners[:, 0], known * 0, 0
        t = cell.corners.T[1:] << SLOPE
        around = (t // w).min(axis=1), -(-t // w).min(axis=1)  # in units of 2^-64
        far = int((abs(cell.corners).sum(axis=1) // w).max()) + 1  # 1 + |t_1| + |t_2| + ... is at most this
        for layer, matrix, size, m in self.steps:
            value, off, mass = whole(matrix * integral(known)), whole(size * integral(lost)), m.error * abs(known).sum(axis=0)
            off[:, 0] += mass[: 1 + n].sum() * far
            off[:, 1 + n :] += mass[1 + n :]
            yield value, off, unit + m.unit
            if layer is None:
                continue
            at = value[:, : 1 + n] @ cell.corners.T
            low, high = (at // w).min(axis=1) - off[:, 0], off[:, 0] - (-at // w).min(axis=1)
            for sign in (s for s in cell.signs if done < abs(s) <= done + len(low)):
                side, end, k = (low, max, sign - 1 - done) if sign > 0 else (high, min, -sign - 1 - done)
                side[k] = end(side[k], 0)
            done += len(low)
            # behind open signs, where one stays open, the range on the box around the cell: `verify` takes the chords of that one
            open_, ends = (low < 0) & (high > 0) & off[:, 0].any(), [value[:, 1 : 1 + n] * side for side in around]
            low = np.where(open_, value[:, 0] + (np.minimum(*ends).sum(axis=1) >> SLOPE) - off[:, 0], low)
            high = np.where(open_, value[:, 0] - (-np.maximum(*ends).sum(axis=1) >> SLOPE) + off[:, 0], high)
            first, last = np.where(low >= 0, layer.high, layer.low), np.where(high <= 0, layer.low, layer.high)  # its slopes
            # z is within [least, most] of chord v for v in [low, high]: it is first v below 0, last v above
            chord = np.where(first == last, first, (last * high - first * low) // np.maximum(high - low, 1))
            ends = np.array([(first - chord) * low, (last - chord) * high, low * 0])
            least, most = ends.min(axis=0), ends.max(axis=0)
            sides = np.array([s[:, None] * (value + by * off)[:, 1 + n :] for s in (first, last) for by in (1, -1)])
            value, off = 2 * chord[:, None] * value, 2 * abs(chord)[:, None] * off
            value[:, 0], off[:, 0] = value[:, 0] + least + most, off[:, 0] + most - least
            value[:, 1 + n :], off[:, 1 + n :] = sides.min(axis=0) + sides.max(axis=0), sides.max(axis=0) - sides.min(axis=0)
            more, unit = m.unit + SLOPE + 1, unit + m.unit + SLOPE + 1
            known, lost = np.concatenate([known << more, value]), np.concatenate([lost << more, off])


def tree(hinges: Hinges, out: Signal, asked: Claim) -> None:
    """Cuts in preorder: 0 a leaf, k + 1 at hinge k with the half above first, -(k + 1) with the half below first."""
    if asked.region is None or asked.proof["value"] > asked.value:
        reject("claim", "a tree is about a region, and its value not above the claim")
    hinges.matrices(out)
    cell, *x = box(*asked.region[:3], hinges.starts[2] - 1, "scope.region")
    waiting: list[Cell | None] = [cell]
    for k, code in enumerate(asked.proof["splits"]):
        place = f"proof.splits[{k}]"
        cell = waiting.pop() if waiting else reject(place, "the tree was whole before")
        if cell is None:
            waiting += [None, None] if code else []
        elif code:
            waiting += cut(hinges, cell, x, code, place)
        elif not holds(hinges, cell, x, asked.proof["value"], asked.norm):
            reject(place, f"{asked.proof['value']!r} does not follow on this leaf")
    if waiting:
        reject("proof.splits", "the tree is not whole")


def holds(hinges: Hinges, cell: Cell, x: list, most: float, norm: str, times: int = DEEP) -> bool:
    """Is the norm of the derivative at most this on the cell, or on both halves of a cut along the first hinge that is open, and so
    on? The file was written by somebody whose bounds differ from ours."""
    *read, (value, off, unit) = hinges.forms(cell, *x)
    value, off, size = (stored(a[:, cell.corners.shape[1] :], unit) for a in (value, off, abs(value) + off))
    if small(size, most, norm) or small(value, most, norm, off):
        return True
    at = [row[: cell.corners.shape[1]] @ cell.corners.T for v, _, _ in read for row in v]
    crossed = [k for k, v in enumerate(at, 1) if v.min() < 0 < v.max() and not {k, -k} & {*cell.signs}]
    if not crossed or times == 0:
        return False
    return all(holds(hinges, half, x, most, norm, times - 1) for half in cut(hinges, cell, x, crossed[0], ""))


def small(m: Map, most: float, norm: str, off: Map | None = None) -> bool:
    """|A| <= most for all A within `off` of m, entry by entry: then |A| <= |m| + |off|."""
    if off is None:
        return bounded({0: m}, [1.0], most, norm)
    apart = np.linalg.svd(off.floats(), compute_uv=False).max(initial=0.0) * (1 + 2.0**-30)
    return norm == "2" and apart <= most and small(off, apart, norm) and small(m, Fraction(most) - Fraction(apart), norm)


def cut(hinges: Hinges, cell: Cell, x: list, code: int, place: str) -> list[Cell | None]:
    """Both halves, the first one last. Where the form of the hinge is not exact they overlap."""
    k = abs(code) - 1
    for value, off, _ in hinges.forms(cell, *x):
        if k < len(value):
            at, by = cell.corners @ value[k, : cell.corners.shape[1]], off[k, 0] * cell.corners[:, 0]
            return [cell.half((at if sign > 0 else -at) + by, sign) for sign in (-code, code)]
        k -= len(value)
    return reject(place, "there is no such hinge")


def radii(hinges: Hinges, out: Signal, points: list[Point], claims: list[Claim]) -> None:
    """`out`: all outputs."""
    hinges.matrices(out)
    for point in points:
        radius(hinges, point, claims)


def radius(hinges: Hinges, point: Point, claims: list[Claim]) -> None:
    """L r < f_c(x) - f_j(x) for every other output j: L of the difference, or of both outputs, or of the vector times the norm of
    e_c - e_j that belongs to it. Of one output: L r < |f(x)|."""
    numbers, unit = integers(point.x)
    *_, (value, off, unit) = hinges.forms(*box(numbers, numbers, unit, hinges.starts[2] - 1, f"{point.place}x"))
    f, error, c, one = value[:, 0], off[:, 0], point.label, len(value) == 1
    known = {claim.question.functional: Fraction(claim.value) for claim in reversed(claims) if claim.region is None}
    if c >= max(2, len(f)):
        reject(f"{point.place}class", f"there are {len(f)} outputs")
    for j in {*range(max(2, len(f)))} - {c}:
        margin = Fraction((f[0] if c else -f[0]) - error[0] if one else f[c] - f[j] - error[c] - error[j], 1 << unit)
        names = [({"0"}, 1)] if one else [({f"{c}-{j}"}, 1), ({f"{j}-{c}"}, 1), ({str(c), str(j)}, 1)]
        names.append(({"vector"}, 1 if one else {"1": 1, "2": 2, "inf": 4}[point.norm]))
        squares = [sum(known[name] for name in wanted) ** 2 * by for wanted, by in names if wanted <= known.keys()]
        if margin <= 0 or not any(L * Fraction(point.radius) ** 2 < margin**2 for L in squares):
            reject(f"{point.place}radius", f"{point.radius!r} does not follow for output {j}")
