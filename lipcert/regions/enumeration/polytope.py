"""Cells as polytopes by vertices: where a function is least on them, what that proves, and cutting them in two.

Each vertex carries 64 bits: the facets f_i(t) = n_i.t + c_i >= -rho_i it lies on. Vertices are proposals. What is proved is
the safe bound of a linear program (Neumaier & Shcherbina 2004): for any lam >= 0 and r = a - N' lam,

    a.t + b >= b - sum lam_i c_i + min over |t_i| <= R_i of r.t - sum lam_i rho_i - rho - rounding      on the cell,

whatever the vertices are. lam comes from n facets at the vertex where the function is least, and a few steps of the
simplex method where that vertex lies on more than n facets, or is not quite where it should be.
"""

from __future__ import annotations

import numpy as np

from lipcert.regions.enumeration.compiled import compiled, inlined

SLACK = 1e-14  # more than 80 roundings: the sums here have at most 4 n + 10 terms, n <= 16
LOST = 1e-290  # underflow
STEPS = 24  # of the simplex method, for up to 7 inputs
WALK = 12  # times as many steps as inputs, for more
FLAT = 1e-9  # a facet normal that depends on others up to this
ONE = np.uint64(1)


@compiled
def bits(mask):  # type: ignore[no-untyped-def]
    """How many bits are set (SWAR)."""
    x = mask - ((mask >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@inlined
def edges_at(n, facet, mask, work, basis, edges):  # type: ignore[no-untyped-def]
    """n independent facets of `mask` into basis (n,), and the directions that leave one of them: N edges = I. False
    where there are no n such facets."""
    # work (n, 2 n): rows of an echelon form beside what made them
    found = 0
    rest = mask
    while rest and found < n:
        low = rest & (~rest + ONE)
        f = bits(low - ONE)
        rest = rest ^ low
        row = work[found]
        scale = 0.0
        for i in range(n):
            row[i] = facet[f, i]
            row[n + i] = 0.0
            scale = max(scale, abs(row[i]))
        row[n + found] = 1.0
        for k in range(found):
            pivot = basis[k]
            by = row[pivot]
            if by != 0.0:
                for i in range(2 * n):
                    row[i] -= by * work[k, i]
        pivot, most = 0, 0.0
        for i in range(n):
            if abs(row[i]) > most:
                pivot, most = i, abs(row[i])
        if not (most > FLAT * scale):
            continue
        by = 1.0 / row[pivot]
        for i in range(2 * n):
            row[i] *= by
        for k in range(found):
            by = work[k, pivot]
            if by != 0.0:
                for i in range(2 * n):
                    work[k, i] -= by * row[i]
        basis[found] = pivot
        work[n, found] = f
        found += 1
    if found < n:
        return False
    for k in range(n):
        for i in range(n):
            edges[basis[k], i] = work[k, n + i]
    for k in range(n):
        basis[k] = np.int64(work[n, k])
    return True


@inlined
def _follow(n, facet, live, a, basis, edges, work):  # type: ignore[no-untyped-def]
    """Simplex steps from a basis while a.t falls along an edge."""
    steps = STEPS if n <= 7 else WALK * n
    for step in range(steps):
        size = 0.0
        for i in range(n):
            size = max(size, abs(a[i]))
        worst, leave = -1e-11 * size, -1
        for j in range(n):
            slope, terms = 0.0, 0.0
            for i in range(n):
                slope += a[i] * edges[i, j]
                terms = max(terms, abs(edges[i, j]))
            if slope < worst * terms:
                worst, leave = slope / terms, j
                if step >= steps // 2:
                    break  # Bland's rule against cycles
        if leave < 0:
            return
        x = work[0]
        for i in range(n):
            total = 0.0
            for j in range(n):
                total -= edges[i, j] * facet[basis[j], n]
            x[i] = total
        nearest, enter, turn = np.inf, -1, 0.0
        rest = live
        while rest:
            low = rest & (~rest + ONE)
            f = bits(low - ONE)
            rest = rest ^ low
            used = False
            for j in range(n):
                used = used or basis[j] == f
            if used:
                continue
            rate, slack, most = 0.0, facet[f, n], 0.0
            for i in range(n):
                rate += facet[f, i] * edges[i, leave]
                slack += facet[f, i] * x[i]
                most = max(most, abs(facet[f, i] * edges[i, leave]))
            if rate < -1e-10 * most:
                far = max(slack, 0.0) / -rate
                if far < nearest:
                    nearest, enter, turn = far, f, rate
        if enter < 0:
            return
        w = work[1]
        for j in range(n):
            total = 0.0
            for i in range(n):
                total += facet[enter, i] * edges[i, j]
            w[j] = total
        for i in range(n):
            edges[i, leave] /= turn
        for j in range(n):
            if j != leave:
                for i in range(n):
                    edges[i, j] -= edges[i, leave] * w[j]
        basis[leave] = enter


@compiled
def safe_least(n, facet, live, radius, form, start):  # type: ignore[no-untyped-def]
    """A proved lower value of a.t + b on the cell, b known to +- rho: `form` is (a, b, rho). Starts from `start` = (basis,
    edges, work), which it may change."""
    (a, b, rho), (basis, edges, work) = form, start
    # edges: N edges = I, so lam = a edges
    for attempt in range(2):
        falls = False
        for j in range(n):
            slope, terms = 0.0, 0.0
            for i in range(n):
                slope += a[i] * edges[i, j]
                terms += abs(a[i] * edges[i, j])
            work[n + 1, j] = max(slope, 0.0)
            falls = falls or slope < -1e-11 * terms
        if attempt == 1 or not falls:
            break
        _follow(n, facet, live, a, basis, edges, work)
    lam = work[n + 1]
    value, pads, mass = b, rho, abs(b)
    for j in range(n):
        f = basis[j]
        value -= lam[j] * facet[f, n]
        mass += abs(lam[j] * facet[f, n])
        pads += lam[j] * facet[f, n + 1]
    for i in range(n):
        r, terms = a[i], abs(a[i])
        for j in range(n):
            part = lam[j] * facet[basis[j], i]
            r -= part
            terms += abs(part)
        pads += (abs(r) + SLACK * terms) * radius[i]
    mass += pads
    if mass == 0.0:
        return 0.0
    return value - pads - SLACK * mass - LOST


@inlined
def cut(n, x, mask, count, slack, new, new_x, new_mask):  # type: ignore[no-untyped-def]
    """Points where z = 0 on edges between vertices with z > slack and z < -slack; `new`: the bit of the facet z = 0.
    Returns how many, or -1 for too many."""
    made = 0
    for i in range(count):
        if not (x[i, n] > slack):
            continue
        for j in range(count):
            if not (x[j, n] < -slack):
                continue
            common = mask[i] & mask[j]
            shared = bits(common)
            if shared < n - 1:
                continue
            if shared > n - 1 or bits(mask[i]) > n or bits(mask[j]) > n:
                # on more facets than a simple vertex: an edge only if no third vertex lies on all that are common
                apart = False
                for k in range(count):
                    if k != i and k != j and mask[k] & common == common:
                        apart = True
                        break
                if apart:
                    continue
            if made >= len(new_x):
                return -1
            t = x[i, n] / (x[i, n] - x[j, n])
            for d in range(n):
                new_x[made, d] = x[i, d] + t * (x[j, d] - x[i, d])
            new_mask[made] = common | new
            made += 1
    return made


@compiled
def keep_half(n, side, slack, cell, points):  # type: ignore[no-untyped-def]
    """The half of `cell` = (x, mask, count, live) where side z >= 0, in place: its vertices, then the new points, `points` =
    (bit of the facet z = 0, how many, x, mask). Facets with fewer than n vertices are forgotten, which only widens what the
    facets describe. Returns (count, live facets); count -1: too many."""
    (x, mask, count, live), (new, made, new_x, new_mask) = cell, points
    kept = 0
    for i in range(count):
        if side * x[i, n] >= -slack:
            mask[kept] = mask[i] | new if side * x[i, n] <= slack else mask[i]
            for d in range(n):
                x[kept, d] = x[i, d]
            kept += 1
    if kept + made > len(mask):
        return -1, live
    for i in range(made):
        for d in range(n):
            x[kept, d] = new_x[i, d]
        mask[kept] = new_mask[i]
        kept += 1
    live = live | new
    rest = live
    gone = np.uint64(0)
    while rest:
        low = rest & (~rest + ONE)
        rest = rest ^ low
        on = 0
        for i in range(kept):
            if mask[i] & low:
                on += 1
        if on < n:
            gone = gone | low
    if gone:
        for i in range(kept):
            mask[i] = mask[i] & ~gone
    return kept, live & ~gone
