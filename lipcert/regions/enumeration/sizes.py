"""Norms p -> q of a few small matrices known up to radii, in compiled code, rounded up.

p -> inf, 1 -> q and single rows or columns are read off. inf -> 1, inf -> 2 by all sign vectors (a convex function is
largest at a vertex of the cube), 2 -> 1 as the adjoint. 2 -> 2: for symmetric T, lambda(T)^2 <= lambda(fl(T T)) + gamma ||T||_F^2,
so squaring a few times and taking roots on the way back gives a bound as sharp as m^(1 / 2^k) (Gram iteration, Delattre
et al. 2023, from above and with its rounding).
"""

from __future__ import annotations

import math

import numpy as np

from lipcert.regions.enumeration.compiled import NO, TWO, YES, compiled

SWELL = 1.0 + 1e-13  # more than 400 roundings
ADD = 64 * 2.0**-53
FEW = 10  # rows: sign vectors of the output side
SQUARINGS = np.int64(9)  # m^(1/1024): 0.2 % for 8 rows
EXACTLY = np.int64(30)


@compiled
def length(row, count, q):  # type: ignore[no-untyped-def]
    """Upper value of the q-norm of nonnegative numbers."""
    total, top = 0.0, 0.0
    for i in range(count):
        top = max(top, row[i])
        total += row[i]
    if q == 0 or top == 0.0:
        return top
    if q == 1:
        return total * SWELL
    total = 0.0
    for i in range(count):
        total += (row[i] / top) * (row[i] / top)
    return math.sqrt(total) * top * SWELL


@compiled
def spectral(a, t, other, scale, rows, columns, squarings):  # type: ignore[no-untyped-def]
    """Upper value of the spectral norm of a (rows, columns). `t`, `other` (rows, columns), `scale` (squarings,) to work with."""
    top = 0.0
    for i in range(rows):
        for j in range(columns):
            top = max(top, abs(a[i, j]))
    if top == 0.0 or not (top < np.inf):
        return top
    m = min(rows, columns)
    wide = max(rows, columns)
    for i in range(m):
        for j in range(i + 1):
            total = 0.0
            for k in range(wide):
                total += (a[i, k] / top) * (a[j, k] / top) if rows <= columns else (a[k, i] / top) * (a[k, j] / top)
            t[i, j] = t[j, i] = total
    first = 0.0
    for i in range(m):
        first += t[i, i]
    done = 0
    for s in range(squarings if m > 1 else 0):
        frobenius = 0.0
        for i in range(m):
            for j in range(m):
                frobenius += t[i, j] * t[i, j]
        if not (frobenius > 0.0):
            break
        scale[s] = math.sqrt(frobenius)
        for i in range(m):
            for j in range(i + 1):
                total = 0.0
                for k in range(m):
                    total += (t[i, k] / scale[s]) * (t[j, k] / scale[s])
                other[i, j] = other[j, i] = total
        t, other = other, t
        done += 1
    value = 0.0  # lambda(T) <= ||T||_F
    for i in range(m):
        for j in range(m):
            value += t[i, j] * t[i, j]
    value = math.sqrt(value) * SWELL
    # T^2 / scale^2 = other + error, ||error||_F <= (m + 4) u ||T / scale||_F^2 = (m + 4) u
    for s in range(done - 1, -1, -1):
        value = scale[s] * math.sqrt(value + (m + 8) * ADD / 16.0) * SWELL
    value += (wide + 8) * ADD / 16.0 * first  # of T itself
    return math.sqrt(value) * top * SWELL


@compiled
def largest(matrices, vectors, rows, n, p, q, squarings):  # type: ignore[no-untyped-def]
    """Upper value of ||A||_{p -> q} over |A - matrices[0]| <= matrices[1], (rows, n) each; the rest is to work with."""
    centre, radius, size = matrices[0], matrices[1], matrices[2]
    for i in range(rows):
        for j in range(n):
            size[i, j] = (abs(centre[i, j]) + radius[i, j]) * (1.0 + 4e-16)
            if not (size[i, j] < np.inf):
                return np.inf
    value = 0.0
    if rows == 1 or q == 0:
        dual = 1 - p if p < 2 else 2
        for i in range(rows):
            value = max(value, length(size[i], n, dual))
    elif n == 1 or p == 1:
        column = vectors[0]
        for j in range(n):
            for i in range(rows):
                column[i] = size[i, j]
            value = max(value, length(column, rows, q))
    elif p == 2 and q == 2:
        t, other, scale = matrices[3], matrices[4], vectors[1]
        value = spectral(centre, t, other, scale, rows, n, squarings)
        value = (value + spectral(radius, t, other, scale, rows, n, squarings)) * SWELL
        value = min(value, spectral(size, t, other, scale, rows, n, squarings))
    elif p == 0:
        value = _over_signs(centre, radius, vectors[0], NO, rows, n, q)
    elif rows <= FEW:
        value = _over_signs(centre, radius, vectors[0], YES, n, rows, TWO)
    else:
        for i in range(rows):
            value += length(size[i], n, TWO)
        value *= SWELL
    return value


def patterns(rows: int, n: int, p: int, q: int) -> int:
    """Sign vectors that `largest` goes through."""
    if rows == 1 or n == 1 or q == 0 or p == 1 or (p, q) == (2, 2):
        return 1
    if p == 0:
        return 1 << (n - 1)
    return 1 << (rows - 1) if rows <= FEW else 1


@compiled
def _over_signs(centre, radius, image, turned, rows, n, q):  # type: ignore[no-untyped-def]
    """max ||A s||_q over sign vectors s with s_0 = 1; A (rows, n), or `turned` its transpose. `image` (rows,) to work with."""
    value = 0.0
    for pattern in range(1 << (n - 1)):
        for i in range(rows):
            total, mass, slack = 0.0, 0.0, 0.0
            for j in range(n):
                entry = centre[j, i] if turned else centre[i, j]
                total += -entry if j > 0 and (pattern >> (j - 1)) & 1 else entry
                mass += abs(entry)
                slack += radius[j, i] if turned else radius[i, j]
            image[i] = (abs(total) + slack + 2.0 * ADD * mass) * SWELL
        value = max(value, length(image, rows, q))
    return value
