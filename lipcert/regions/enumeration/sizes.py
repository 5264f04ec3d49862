"""Norms p -> q of a few small matrices known up to radii, in compiled code, rounded up.

p -> inf, 1 -> q and single rows or columns are read off. inf -> 1, inf -> 2 by all sign vectors (a convex function is
largest at a vertex of the cube), 2 -> 1 as the adjoint. 2 -> 2: for symmetric T, lambda(T)^2 <= lambda(fl(T T)) + gamma ||T||_F^2,
so squaring a few times and taking roots on the way back gives a bound as sharp as m^(1 / 2^k) (Gram iteration, Delattre
et al. 2023, from above and with its rounding).
"""

from __future__ import annotations

import math

import numpy as np

from lipcert.regions.enumeration.compiled import compiled

SWELL = 1.0 + 1e-13  # more than 400 roundings
ADD = 64 * 2.0**-53
FEW = 10  # rows: sign vectors of the output side
SQUARINGS = 9  # m^(1/1024): 0.2 % for 8 rows
EXACTLY = 30


@compiled
def length(row, q):  # type: ignore[no-untyped-def]
    """Upper value of the q-norm of nonnegative numbers."""
    total, top = 0.0, 0.0
    for i in range(len(row)):
        top = max(top, row[i])
        total += row[i]
    if q == 0 or top == 0.0:
        return top
    if q == 1:
        return total * SWELL
    total = 0.0
    for i in range(len(row)):
        total += (row[i] / top) * (row[i] / top)
    return math.sqrt(total) * top * SWELL


@compiled
def spectral(a, rows, columns, squarings):  # type: ignore[no-untyped-def]
    """Upper value of the spectral norm of a (rows, columns)."""
    top = 0.0
    for i in range(rows):
        for j in range(columns):
            top = max(top, abs(a[i, j]))
    if top == 0.0 or not (top < np.inf):
        return top
    m = min(rows, columns)
    wide = max(rows, columns)
    t, other = np.zeros((m, m)), np.zeros((m, m))
    for i in range(m):
        for j in range(i + 1):
            total = 0.0
            for k in range(wide):
                total += (a[i, k] / top) * (a[j, k] / top) if rows <= columns else (a[k, i] / top) * (a[k, j] / top)
            t[i, j] = t[j, i] = total
    first = 0.0
    for i in range(m):
        first += t[i, i]
    slack, scale = np.zeros(squarings), np.zeros(squarings)
    done = 0
    for s in range(squarings if m > 1 else 0):
        frobenius = 0.0
        for i in range(m):
            for j in range(m):
                frobenius += t[i, j] * t[i, j]
        if not (frobenius > 0.0):
            break
        scale[s] = math.sqrt(frobenius)
        slack[s] = frobenius
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
    for s in range(
        done - 1, -1, -1
    ):  # T^2 / scale^2 = other + error, ||error||_F <= (m + 4) u ||T / scale||_F^2 = (m + 4) u
        value = scale[s] * math.sqrt(value + (m + 8) * ADD / 16.0) * SWELL
    value += (wide + 8) * ADD / 16.0 * first  # of T itself
    return math.sqrt(value) * top * SWELL


@compiled
def largest(centre, radius, rows, n, p, q, squarings):  # type: ignore[no-untyped-def]
    """Upper value of ||A||_{p -> q} over |A - centre| <= radius, (rows, n) each."""
    size = np.zeros((rows, n))
    for i in range(rows):
        for j in range(n):
            size[i, j] = (abs(centre[i, j]) + radius[i, j]) * (1.0 + 4e-16)
            if not (size[i, j] < np.inf):
                return np.inf
    value = 0.0
    if rows == 1 or q == 0:
        dual = 1 - p if p < 2 else 2
        for i in range(rows):
            value = max(value, length(size[i], dual))
    elif n == 1 or p == 1:
        column = np.zeros(rows)
        for j in range(n):
            for i in range(rows):
                column[i] = size[i, j]
            value = max(value, length(column, q))
    elif p == 2 and q == 2:
        whole = spectral(size, rows, n, squarings)
        value = min(whole, (spectral(centre, rows, n, squarings) + spectral(radius, rows, n, squarings)) * SWELL)
    elif p == 0:
        value = _over_signs(centre, radius, rows, n, q)
    elif rows <= FEW:
        turned, wide = np.zeros((n, rows)), np.zeros((n, rows))
        for i in range(rows):
            for j in range(n):
                turned[j, i], wide[j, i] = centre[i, j], radius[i, j]
        value = _over_signs(turned, wide, n, rows, 2)
    else:
        for i in range(rows):
            value += length(size[i], 2)
        value *= SWELL
    return value


@compiled
def _over_signs(centre, radius, rows, n, q):  # type: ignore[no-untyped-def]
    """max ||A s||_q over sign vectors s with s_0 = 1."""
    value = 0.0
    image = np.zeros(rows)
    for pattern in range(1 << (n - 1)):
        for i in range(rows):
            total, mass, slack = centre[i, 0], abs(centre[i, 0]), radius[i, 0]
            for j in range(1, n):
                total += -centre[i, j] if (pattern >> (j - 1)) & 1 else centre[i, j]
                mass += abs(centre[i, j])
                slack += radius[i, j]
            image[i] = (abs(total) + slack + 2.0 * ADD * mass) * SWELL
        value = max(value, length(image, q))
    return value
