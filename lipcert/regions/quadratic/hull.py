"""All vertices of a polytope, proved: what a convex function is largest at.

The polytope {N t + c >= 0} is made somewhat larger, facet by facet and by amounts that have nothing to do with each other, so that
no more than n facets meet at a vertex. A set of bases (n facets each) is all of its vertices if

    each basis is regular, and the other facets are strictly positive at its vertex,
    each n - 1 facets of a basis belong to exactly one other basis of the set:

then every edge that leaves a vertex of the set ends at one, and the graph of a polytope is connected (Balinski 1961).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from lipcert.rigor.rounding import EPS

WIDEN = 1e-11  # of the facets, t being of size 1
NEAR = 1e-8  # facets through a proposed vertex
FAR = 64.0  # from 0 relative to the box
SUBSETS = 4096  # bases that are looked at


@dataclass(frozen=True, eq=False)
class Hull:
    """Each vertex lies in `points` (k, n) +- `errors` (k, n)."""

    points: np.ndarray
    errors: np.ndarray


def hull(facets: np.ndarray, corners: np.ndarray) -> Hull | None:
    """Of {t: N t + c >= -rho}, or somewhat more; facets (f, n + 2) rows of N, c and rho. `corners` (k, n) propose vertices.
    None: they could not be proved to be all."""
    n = corners.shape[1]
    size = np.abs(facets[:, :n]).max(axis=1)
    use = (size > 0) & (np.abs(facets[:, n]) <= FAR * size)  # the others cut nothing off
    facets, size = facets[use], size[use]
    exponent = np.frexp(size)[1]
    facets = facets * np.ldexp(1.0, np.clip(-exponent, -1000, 1000))[:, None]
    normals = facets[:, :n]
    dice = np.random.default_rng(0).uniform(1.0, 2.0, len(facets))
    constants = facets[:, n] + (
        facets[:, n + 1] + WIDEN * dice
    )  # any float that is not below c + rho: WIDEN is far more
    bases = _bases(normals, constants, corners)
    if bases is None or not len(bases):
        return None
    found = _vertices(normals, constants, bases)
    return found if found is not None and np.isfinite(found.points).all() else None


def _bases(normals: np.ndarray, constants: np.ndarray, corners: np.ndarray) -> np.ndarray | None:
    """(k, n): sets of facets that meet near a corner."""
    n = corners.shape[1]
    near = np.abs(corners @ normals.T + constants) <= NEAR * n
    chosen: set[tuple[int, ...]] = set()
    for row in np.unique(near, axis=0):
        some = np.flatnonzero(row)
        if len(some) > n + 6:
            return None
        chosen.update(itertools.combinations(some.tolist(), n))
        if len(chosen) > SUBSETS:
            return None
    return np.array(sorted(chosen), dtype=np.int64).reshape(len(chosen), n)


def _vertices(normals: np.ndarray, constants: np.ndarray, bases: np.ndarray) -> Hull | None:
    """Of the bases those at whose vertex all other facets are proved to be positive, if they are all there are."""
    n = normals.shape[1]
    rows, right = normals[bases], constants[bases]
    with np.errstate(all="ignore"):
        regular = np.abs(np.linalg.det(rows)) > 1e-9
    bases, rows, right = bases[regular], rows[regular], right[regular]
    if not len(bases):
        return None
    inverse = np.linalg.inv(rows)
    points = -(inverse @ right[:, :, None])[:, :, 0]
    unit = 2 * (n + 4) * EPS
    # x - point = -E (N E)^-1 r for r = N point + c, and |(N E)^-1 r| <= |r| / (1 - |I - N E|) in the largest entry
    off = np.abs(rows @ inverse - np.eye(n)) + unit * (np.abs(rows) @ np.abs(inverse))
    apart = off.sum(axis=2).max(axis=1) * (1 + unit)
    mass = (np.abs(rows) @ np.abs(points)[:, :, None])[:, :, 0] + np.abs(right)
    left = np.abs((rows @ points[:, :, None])[:, :, 0] + right) + unit * mass
    with np.errstate(all="ignore"):
        scale = left.max(axis=1) / (1 - apart)
    errors = np.abs(inverse).sum(axis=2) * np.where(apart < 0.5, scale, np.inf)[:, None] * (1 + 4 * unit) + 1e-300
    values = points @ normals.T + constants
    slack = errors @ np.abs(normals).T * (1 + unit) + unit * (np.abs(points) @ np.abs(normals).T + np.abs(constants))
    own = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(own, bases, True, axis=1)
    kept = (own | (values > slack)).all(axis=1) & np.isfinite(errors).all(axis=1)
    if not closed(bases[kept]):
        return None
    return Hull(points[kept], errors[kept])


def closed(bases: np.ndarray) -> bool:
    """Each n - 1 facets of a basis belong to exactly two of them."""
    if not len(bases):
        return False
    n = bases.shape[1]
    if n == 1:
        return len(bases) == 2
    ridges = np.concatenate([np.delete(bases, k, axis=1) for k in range(n)])
    _, count = np.unique(ridges, axis=0, return_counts=True)
    return bool((count == 2).all())
