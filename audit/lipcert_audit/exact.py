"""Linear maps with integer coefficients, and the one theorem that everything else rests on.

A symmetric matrix A >= 0 is proved positive semidefinite by any matrix L of integers for which R = A - L L' is diagonally
dominant, R_ii >= sum_j |R_ij|: then R >= 0 (Gershgorin) and A = R + L L' >= 0. numpy's Cholesky proposes L and is trusted by
nobody; R is formed in integers of any length (python-flint), so there is no rounding to reason about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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

    No coefficient stands twice; one that does not stand there is zero, because a constant of the file is, not by cancelling.
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
        return replace(self, rows=len(index), row=np.repeat(kept, count), col=self.col[from_], value=self.value[from_])

    def numbered(self, rows: np.ndarray, cols: np.ndarray) -> Map:
        """Row i is called rows[i], column j cols[j]; -1: left out."""
        row, col = rows[self.row], cols[self.col]
        there = (row >= 0) & (col >= 0)
        sizes = (int(names.max(initial=-1)) + 1 for names in (rows, cols))
        return Map(*sizes, row[there], col[there], self.value[there], self.unit, self.error)

    def times(self, by: Map) -> Map:
        """Each row times its factor: `by` is diagonal, with a factor for every row. Exact zeros leave nothing behind."""
        factor = np.zeros(self.rows, dtype=object)
        factor[by.row] = by.value
        error = self.error * (largest(by.value) + by.error) + largest(self.value) * by.error
        there = (factor[self.row] != 0) | (by.error > 0)
        found = replace(self, row=self.row[there], col=self.col[there], value=self.value[there], unit=self.unit + by.unit)
        return replace(found, value=found.value * factor[found.row], error=error)

    def after(self, first: Map) -> Map:
        """self (first (x))."""
        error = self.error * (largest(first.value) + first.error) + largest(self.value) * first.error
        unit = self.unit + first.unit
        if np.bincount(first.row, minlength=first.rows)[self.col].sum() > JOIN:
            used, col = np.unique(first.col, return_inverse=True)
            inner = replace(first, cols=len(used), col=col)
            row, col = np.nonzero(self.stands() @ inner.stands())
            product = whole(self.dense() * inner.dense())
            return Map(self.rows, first.cols, row, used[col], product[row, col], unit, error * self.cols)
        joined = first.take(self.col)
        value = self.value[joined.row] * joined.value
        return merged(self.rows, first.cols, self.row[joined.row], joined.col, value, unit, error)

    def transposed(self) -> Map:
        return replace(self, rows=self.cols, cols=self.rows, row=self.col, col=self.row)

    def absolute(self) -> Map:
        """Upper values of the absolute coefficients, exactly stored."""
        return replace(self, value=abs(self.value) + self.error, error=0)

    def up(self, unit: int) -> Map:
        """Upper values in a coarser unit, of nonnegative coefficients that are exact."""
        return replace(self, value=-(-self.value >> (self.unit - unit)), unit=unit)

    def stands(self) -> np.ndarray:
        """1.0 where there is a coefficient."""
        return replace(self, value=np.ones(len(self.row), dtype=object), unit=0).floats()

    def array(self) -> np.ndarray:
        out = np.zeros((self.rows, self.cols), dtype=object)
        out[self.row, self.col] = self.value
        return out

    def dense(self) -> fmpz_mat:
        return integral(self.array())

    def sums(self) -> np.ndarray:
        """(rows,) sums of the coefficients, in units of 2^-unit."""
        found = np.zeros(self.rows, dtype=object)
        np.add.at(found, self.row, self.value)
        return found

    def floats(self) -> np.ndarray:
        """About the matrix, for proposals."""
        return (self.array() / (1 << self.unit)).astype(np.float64)


def largest(values: np.ndarray) -> int:
    return max((abs(v) for v in values.tolist()), default=0)


def merged(rows: int, cols: int, row: np.ndarray, col: np.ndarray, value: np.ndarray, unit: int, error: int) -> Map:
    """Coefficients that stand several times are added up, and so are their errors."""
    key, inverse, count = np.unique(row * max(1, cols) + col, return_inverse=True, return_counts=True)
    found = np.zeros(len(key), dtype=object)
    np.add.at(found, inverse, value)
    return Map(rows, cols, *np.divmod(key, max(1, cols)), found, unit, error * int(count.max(initial=1)))


def together(maps: list[Map]) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, int, int]:
    """All coefficients in one unit: (columns, row, col, value, unit, error)."""
    unit = max(m.unit for m in maps)
    row, col = (np.concatenate([getattr(m, name) for m in maps]) for name in ("row", "col"))
    value = np.concatenate([m.value << (unit - m.unit) for m in maps])
    return max(m.cols for m in maps), row, col, value, unit, max(m.error << (unit - m.unit) for m in maps)


def total(maps: list[Map]) -> Map:
    """The sum, of maps of as many rows."""
    return merged(maps[0].rows, *together(maps))


def stacked(maps: list[Map]) -> Map:
    """One above the other."""
    starts = np.cumsum([0, *(m.rows for m in maps)]).tolist()
    return Map(starts[-1], *together([replace(m, row=m.row + s) for m, s in zip(maps, starts, strict=False)]))


def diagonal(value: np.ndarray, unit: int, error: int = 0, start: int = 0) -> Map:
    """Of the columns from `start` on."""
    place = np.arange(len(value))
    return Map(len(value), start + len(value), place, start + place, value, unit, error)


def constantly(n: int, value: int, unit: int = 0, start: int = 0) -> Map:
    """A multiple of the identity."""
    return diagonal(np.full(n, value, dtype=object), unit, start=start)


def stored(matrix: np.ndarray, unit: int) -> Map:
    """A matrix of integers."""
    row, col = np.nonzero(matrix)
    return Map(*matrix.shape, row, col, matrix[row, col], unit)


def integers(floats: np.ndarray) -> tuple[np.ndarray, int]:
    """float64 numbers as integers over a common power of two: exact."""
    ratios = [v.as_integer_ratio() for v in np.asarray(floats, dtype=np.float64).ravel().tolist()]
    unit = max((under.bit_length() - 1 for _, under in ratios), default=0)
    return np.array([over << (unit + 1 - under.bit_length()) for over, under in ratios], dtype=object), unit


def quotients(over: int, under: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(value, unit, error) of over / under, integers, rounded down where they are not exact."""
    value = (over << QUOTIENT) // under
    return value, QUOTIENT, int(any((value * under != over << QUOTIENT).tolist()))


def integral(array: np.ndarray) -> fmpz_mat:
    return fmpz_mat(*array.shape, array.ravel().tolist())


def whole(matrix: fmpz_mat) -> np.ndarray:
    """As an array of Python integers."""
    return np.array([int(v) for v in matrix.entries()], dtype=object).reshape(matrix.nrows(), matrix.ncols())


def shifted(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    """value times 2^by, rounded down: less than one too small."""
    by = np.broadcast_to(by, value.shape)
    return (value << np.maximum(by, 0).astype(object)) >> np.maximum(-by, 0).astype(object)


def semidefinite(diagonals: np.ndarray, terms: list[Map], products: list[tuple[Map, Fraction]]) -> bool:
    """diag + sum (T + T') - sum B B' / s >= 0? Scaled by powers of two to a diagonal near 1, then counted in units of 2^-104,
    rounded down; `slack`: what that may add up to in a row, one unit for each part, and the errors of the coefficients. B B' / s is
    counted in units of 2^-168, divided, and then in those of 2^-104: two too small, where |d (B B')_ij| <= e (|B_i| + |B_j|) + width e^2."""
    n = len(diagonals)
    if not all(d > 0 for d in (*diagonals.tolist(), *(s for _, s in products))):
        return False
    scale = np.array([(d.denominator.bit_length() - d.numerator.bit_length()) // 2 for d in diagonals.tolist()], dtype=np.int64)
    matrix, slack = np.zeros((n, n), dtype=object), n * (len(terms) + 1)
    np.fill_diagonal(matrix, [floor(d * Fraction(4) ** s * 2**ONE) for d, s in zip(diagonals, scale.tolist(), strict=True)])
    for t in terms:
        by = ONE - t.unit + scale[t.row] + scale[t.col]
        value = shifted(t.value, by)
        np.add.at(matrix, (t.row, t.col), value)
        np.add.at(matrix, (t.col, t.row), value)
        slack += 2 * n * ceil(t.error * Fraction(2) ** int(by.max(initial=-FAR)))
    for B, s in products:
        rows = np.unique(B.row)
        B = B.take(rows)
        square = whole(B.dense() * B.dense().transpose())
        by = ONE - 2 * B.unit + scale[rows][:, None] + scale[rows][None, :]
        matrix[np.ix_(rows, rows)] -= (shifted(square * s.denominator, by + 64) // s.numerator) >> 64
        reach = largest(B.absolute().sums())
        slack += n * (2 + ceil(B.error * (2 * reach + B.cols * B.error) / s * Fraction(2) ** int(by.max(initial=-FAR))))
    return positive(matrix, slack)


def positive(matrix: np.ndarray, slack: int) -> bool:
    """Is every symmetric matrix positive semidefinite whose rows differ from those of `matrix` (n, n), integers in units of
    2^-104, by at most `slack` units in the sum of absolute values? Diagonal entries are near one."""
    about = matrix.astype(np.float64) / 2.0**ONE
    for lift in 2.0 ** -np.arange(8.0, 50.0, 3.0):  # of the diagonal: the more the better
        try:
            factor = np.linalg.cholesky(about - lift * np.eye(len(about)))
        except np.linalg.LinAlgError:
            continue
        return dominant(matrix, factor, slack)
    return False


def dominant(matrix: np.ndarray, factor: np.ndarray, slack: int) -> bool:
    """matrix - L L' in integers, L the given factor rounded: is it diagonally dominant with `slack` to spare?"""
    n = len(matrix)
    L = fmpz_mat(n, n, [int(v) for v in (np.tril(factor) * 2.0**HALF).ravel().tolist()])
    rest = matrix - whole(L * L.transpose())
    return all(2 * d >= s + slack for d, s in zip(rest.diagonal().tolist(), abs(rest).sum(axis=1).tolist(), strict=True))
