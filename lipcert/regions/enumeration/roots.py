"""The cells that a search begins with: a box, or the simplices that an l1 ball is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipcert.regions.enumeration.program import Program


@dataclass(frozen=True, eq=False)
class Shape:
    """Vertices, the facets each lies on (bits), facets (k, n + 3) as in Memory.facet with their names, and the box around."""

    x: np.ndarray
    mask: np.ndarray
    facets: np.ndarray
    box: np.ndarray

    @property
    def live(self) -> np.uint64:
        return np.uint64(2 ** len(self.facets) - 1)

    @property
    def places(self) -> np.ndarray:
        return np.arange(len(self.facets))


def box(program: Program) -> Shape:
    """|t_d| <= radius_d. Facet -1 - (2 d + side): t_d + radius_d >= 0, or radius_d - t_d >= 0 where side = 1."""
    radius = program.radius
    n = len(radius)
    corners = np.array([[(i >> d) & 1 for d in range(n)] for i in range(2**n)], dtype=np.int64)
    mask = np.zeros(len(corners), dtype=np.uint64)
    facets = np.zeros((2 * n, n + 3))
    for d in range(n):
        facets[2 * d, d], facets[2 * d + 1, d] = 1.0, -1.0
        facets[2 * d : 2 * d + 2, n] = radius[d]
        facets[2 * d : 2 * d + 2, n + 2] = -1 - 2 * d, -2 - 2 * d
        mask |= np.uint64(1) << (2 * d + corners[:, d]).astype(np.uint64)
    return Shape((2.0 * corners - 1.0) * radius, mask, facets, np.stack([-radius, radius]))


def corner(program: Program) -> Shape:
    """As `box`, with one vertex."""
    radius = program.radius
    n = len(radius)
    facets = np.zeros((2 * n, n + 3))
    facets[0::2, :n], facets[1::2, :n] = np.eye(n), -np.eye(n)
    facets[:, n] = np.repeat(radius, 2)
    facets[:, n + 2] = -1 - np.arange(2 * n)
    mask = np.array([sum(4**d for d in range(n))], dtype=np.uint64)
    return Shape(-radius[None], mask, facets, np.stack([-radius, radius]))


def simplices(program: Program) -> list[Shape]:
    """sum |scale_d t_d| <= r, orthant by orthant: a box cut by 2^n facets would have too many, a simplex has n + 1.

    With signs s, bit d of `pattern` set where s_d = -1: facet -1 - 2 n - (2 d + bit): s_d t_d >= 0, and facet
    -1 - 4 n - pattern: r - sum s_d scale_d t_d >= 0. Nothing is rounded, scales being powers of two."""
    n = len(program.radius)
    found = []
    for pattern in range(2**n):
        bits = np.array([(pattern >> d) & 1 for d in range(n)])
        signs = 1.0 - 2.0 * bits
        facets = np.zeros((n + 1, n + 3))
        facets[:n, :n] = np.diag(signs)
        facets[:n, n + 2] = -1 - 2 * n - (2 * np.arange(n) + bits)
        facets[n, :n], facets[n, n] = -signs * program.scale, program.radius[0] * program.scale[0]
        facets[n, n + 2] = -1 - 4 * n - pattern
        x = np.concatenate([np.zeros((1, n)), np.diag(signs * program.radius)])
        mask = np.array([2**n - 1, *(2 ** (n + 1) - 1 - 2**d for d in range(n))], dtype=np.uint64)
        found.append(Shape(x, mask, facets, np.stack([x.min(axis=0), x.max(axis=0)])))
    return found
