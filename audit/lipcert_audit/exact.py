"""Linear maps with integer coefficients, and the one theorem that everything else rests on.

A symmetric matrix A >= 0 is proved positive semidefinite by any matrix L of integers for which R = A - L L' is diagonally
dominant, R_ii >= sum_j |R_ij|: then R >= 0 (Gershgorin) and A = R + L L' >= 0. numpy's Cholesky proposes L and is trusted by
nobody; R is formed in integers of any length (python-flint), so there is no rounding to reason about.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from flint import fmpz_mat

ONE = 104  # the proof counts in units of 2^-104
HALF = ONE // 2  # L counts in units of 2^-52
QUOTIENT = 200  # roots and quotients are kept to 2^-200, with their error
FAR = 10**6
JOIN = 4_000_000  # products formed one by one; above, as a dense product


@dataclass(frozen=True)
class Map:
    """A linear map: coefficient (row[t], col[t]) is value[t] / 2^unit, every one of them within error / 2^unit.

    No coefficient stands twice; one that does not stand there is exactly zero.
    """

    rows: int
    cols: int
    row: np.ndarray
    col: np.ndarray
    value: np.ndarray  # of Python integers
    unit: int = 0
    error: int = 0

    def take(self, index: np.ndarray) -> Map:
        """The rows at `index`; -1 is a row of zeros."""
        order = np.argsort(self.row, kind="stable")
        degree = np.bincount(self.row, minlength=self.rows)
        start = np.concatenate([[0], np.cumsum(degree)])
        kept = np.flatnonzero(index >= 0)
        count = degree[index[kept]]
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        from_ = order[np.repeat(start[index[kept]], count) + offset]
        return Map(len(index), self.cols, np.repeat(kept, count), self.col[from_], self.value[from_], self.unit, self.error)

    def times(self, by: Map) -> Map:
        """Each row times its factor: `by` is diagonal, with a factor for every row."""
        factor = np.zeros(self.rows, dtype=object)
        factor[by.row] = by.value
        error = self.error * (largest(by.value) + by.error) + largest(self.value) * by.error
        value = self.value * factor[self.row]
        return Map(self.rows, self.cols, self.row, self.col, value, self.unit + by.unit, error)

    def after(self, first: Map) -> Map:
        """self (first (x))."""
        error = self.error * (largest(first.value) + first.error) + largest(self.value) * first.error
        unit = self.unit + first.unit
        degree = np.bincount(first.row, minlength=first.rows)
        count = degree[self.col]
        if count.sum() > JOIN:
            product = whole(self.dense() * first.dense()).ravel()
            row, col = np.divmod(np.arange(self.rows * first.cols), first.cols)
            return Map(self.rows, first.cols, row, col, product, unit, error * self.cols)
        joined = first.take(self.col)
        value = self.value[joined.row] * joined.value
        return merged(self.rows, first.cols, self.row[joined.row], joined.col, value, unit, error)

    def transposed(self) -> Map:
        return Map(self.cols, self.rows, self.col, self.row, self.value, self.unit, self.error)

    def at(self, unit: int) -> Map:
        """The same in a finer unit."""
        shift = unit - self.unit
        return Map(self.rows, self.cols, self.row, self.col, self.value << shift, unit, self.error << shift)

    def absolute(self) -> Map:
        """Upper values of the absolute coefficients, exactly stored."""
        return Map(self.rows, self.cols, self.row, self.col, abs(self.value) + self.error, self.unit)

    def up(self, unit: int) -> Map:
        """Upper values in a coarser unit, of nonnegative coefficients that are exact."""
        return Map(self.rows, self.cols, self.row, self.col, -(-self.value >> (self.unit - unit)), unit)

    def dense(self) -> fmpz_mat:
        flat = [0] * (self.rows * self.cols)
        for place, value in zip((self.row * self.cols + self.col).tolist(), self.value.tolist(), strict=True):
            flat[place] = value
        return fmpz_mat(self.rows, self.cols, flat)

    def sums(self, weight: np.ndarray) -> np.ndarray:
        """(rows,) sums of value times weight[col], in units of 2^-unit times those of the weights."""
        total = np.zeros(self.rows, dtype=object)
        np.add.at(total, self.row, self.value * weight[self.col])
        return total

    def floats(self) -> np.ndarray:
        """About the matrix, for proposals."""
        out = np.zeros((self.rows, self.cols))
        out[self.row, self.col] = [float(Fraction(v, 1 << self.unit)) for v in self.value]
        return out


def largest(values: np.ndarray) -> int:
    return max((abs(v) for v in values.tolist()), default=0)


def merged(rows: int, cols: int, row: np.ndarray, col: np.ndarray, value: np.ndarray, unit: int, error: int) -> Map:
    """Coefficients that stand several times are added up, and so are their errors."""
    key, inverse, count = np.unique(row * cols + col, return_inverse=True, return_counts=True)
    total = np.zeros(len(key), dtype=object)
    np.add.at(total, inverse, value)
    return Map(rows, cols, key // cols, key % cols, total, unit, error * int(count.max(initial=1)))


def total(maps: list[Map]) -> Map:
    unit = max(m.unit for m in maps)
    maps = [m.at(unit) for m in maps]
    parts = [np.concatenate([getattr(m, name) for m in maps]) for name in ("row", "col", "value")]
    return merged(maps[0].rows, maps[0].cols, *parts, unit, max(m.error for m in maps))


def stacked(maps: list[Map]) -> Map:
    """One above the other."""
    rows = sum(m.rows for m in maps)
    starts = np.cumsum([0, *(m.rows for m in maps)])
    grown = [Map(rows, m.cols, m.row + s, m.col, m.value, m.unit, m.error) for m, s in zip(maps, starts, strict=False)]
    return total(grown)


def constantly(n: int, value: int, unit: int = 0) -> Map:
    """A multiple of the identity."""
    return diagonal(np.full(n, value, dtype=object), unit)


def identity(n: int) -> Map:
    return constantly(n, 1)


def diagonal(value: np.ndarray, unit: int, error: int = 0) -> Map:
    place = np.arange(len(value))
    return Map(len(value), len(value), place, place, value, unit, error)


def integers(floats: np.ndarray) -> tuple[np.ndarray, int]:
    """float64 numbers as integers over a common power of two: exact."""
    fraction, exponent = np.frexp(np.asarray(floats, dtype=np.float64).ravel())
    mantissa = np.asarray(fraction * 2.0**53, dtype=np.int64)
    trailing = np.frexp((mantissa & -mantissa).astype(np.float64))[1] - 1
    trailing = np.where(mantissa == 0, 0, trailing)
    exponent = np.where(mantissa == 0, 0, exponent - 53 + trailing)
    unit = max(0, -int(exponent.min(initial=0)))
    return (mantissa >> trailing).astype(object) << (exponent + unit).astype(object), unit


def quotients(over: np.ndarray, under: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(value, unit, error) of the integers `over` / `under`, rounded down where they are not exact."""
    value = (over << QUOTIENT) // under
    return value, QUOTIENT, int(any((value * under != over << QUOTIENT).tolist()))


def gram(m: Map) -> np.ndarray:
    """m m' in units of 2^(-2 unit)."""
    dense = m.dense()
    return whole(dense * dense.transpose())


def whole(matrix: fmpz_mat) -> np.ndarray:
    """As an array of Python integers."""
    return np.array([int(v) for v in matrix.entries()], dtype=object).reshape(matrix.nrows(), matrix.ncols())


def shifted(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    """value times 2^by, rounded down: less than one too small."""
    by = np.broadcast_to(by, value.shape)
    return (value << np.maximum(by, 0).astype(object)) >> np.maximum(-by, 0).astype(object)


def half_log2(value: Fraction) -> int:
    """s with 2^(2 s) value between 1/4 and 4, value > 0: the power of two that scales a diagonal entry."""
    return -((value.numerator.bit_length() - value.denominator.bit_length()) // 2)


def semidefinite(diagonals: np.ndarray, terms: list[Map], products: list[tuple[Map, Fraction]]) -> bool:
    """diag + sum (T + T') - sum B B' / s >= 0? Scaled by powers of two to a diagonal near 1, then counted in units of 2^-104,
    rounded down; `slack`: what that may add up to in a row, one unit for each part, and the errors of the coefficients."""
    n = len(diagonals)
    if not all(d > 0 for d in (*diagonals.tolist(), *(s for _, s in products))):
        return False
    scale = np.array([half_log2(d) for d in diagonals.tolist()], dtype=np.int64)
    matrix, slack = np.zeros((n, n), dtype=object), n * (len(terms) + 1)
    matrix[np.arange(n), np.arange(n)] = [
        floor(d * Fraction(2) ** (ONE + 2 * s)) for d, s in zip(diagonals.tolist(), scale.tolist(), strict=True)
    ]
    for t in terms:
        by = ONE - t.unit + scale[t.row] + scale[t.col]
        value = shifted(t.value, by)
        np.add.at(matrix, (t.row, t.col), value)
        np.add.at(matrix, (t.col, t.row), value)
        slack += 2 * n * ceil(t.error * Fraction(2) ** int(by.max(initial=-FAR)))
    for B, s in products:
        rows = np.unique(B.row)
        B = B.take(rows)
        by = ONE - 2 * B.unit + scale[rows][:, None] + scale[rows][None, :]
        # in units of 2^-168, divided, in units of 2^-104: two too small; |d (B B')_ij| <= e (|B_i| + |B_j|) + width e^2
        matrix[np.ix_(rows, rows)] -= (shifted(gram(B) * s.denominator, by + 64) // s.numerator) >> 64
        reach = largest(B.absolute().sums(np.ones(B.cols, dtype=object)))
        slack += n * (2 + ceil(B.error * (2 * reach + B.cols * B.error) / s * Fraction(2) ** int(by.max(initial=-FAR))))
    return positive(matrix, slack)


def positive(matrix: np.ndarray, slack: int) -> bool:
    """Is every symmetric matrix positive semidefinite whose rows differ from those of `matrix` (n, n), integers in units of
    2^-104, by at most `slack` units in the sum of absolute values? Diagonal entries are near one."""
    n = len(matrix)
    about = matrix.astype(np.float64) / 2.0**ONE
    for lift in 2.0 ** -np.arange(8.0, 50.0, 3.0):  # of the diagonal: the more the better
        try:
            factor = np.linalg.cholesky(about - lift * np.eye(n))
        except np.linalg.LinAlgError:
            continue
        return dominant(matrix, factor, slack)
    return False


def dominant(matrix: np.ndarray, factor: np.ndarray, slack: int) -> bool:
    """matrix - L L' in integers, L the given factor rounded: is it diagonally dominant with `slack` to spare?"""
    n = len(matrix)
    L = fmpz_mat(n, n, [int(v) for v in (np.tril(factor) * 2.0**HALF).ravel().tolist()])
    rest = matrix - whole(L * L.transpose())
    middle = rest.diagonal().copy()
    np.fill_diagonal(rest, 0)
    return all(d >= s + slack for d, s in zip(middle.tolist(), abs(rest).sum(axis=1).tolist(), strict=True))
