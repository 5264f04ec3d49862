"""How near to 0 a polytope {N x + c >= -rho} is in l1, l2 or linf: a linear program or a least distance problem proposes
multipliers, and their inequality is the proof.

For lam >= 0 and d = N' lam, every x of the polytope has ||x|| ||d||_* >= d.x >= -lam.c - lam.rho.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipcert.rigor.rounding import EPS
from lipcert.terms.query import P

SMALL = 1e-16
DUAL: dict[P, P] = {"1": "inf", "2": "2", "inf": "1"}


@dataclass(frozen=True, eq=False)
class Facets:
    """N (k, n), c and rho (k,), where x is not far from 1."""

    normals: np.ndarray
    constants: np.ndarray
    errors: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Facets:
        """rows (k, n + 2): normals, constants and errors; scaled by powers of two to normals of about 1."""
        exponent = np.frexp(np.abs(rows[:, :-2]).max(axis=1))[1]
        rows = rows * np.ldexp(1.0, np.clip(-exponent, -1000, 1000))[:, None]
        return cls(rows[:, :-2], rows[:, -2], rows[:, -1])


def length(d: np.ndarray, norm: P) -> float:
    """Floating."""
    return float(np.linalg.norm(d, ord={"1": 1, "2": 2, "inf": np.inf}[norm]))


def proved(facets: Facets, multipliers: np.ndarray, norm: P) -> float:
    """A lower value of ||x|| on the polytope, rounded down; inf: it is empty. 0 where the sums are not finite."""
    lam = np.nan_to_num(multipliers, nan=0.0, posinf=0.0, neginf=0.0)
    largest = lam.max(initial=0.0)
    lam = np.where(lam > SMALL * largest, lam, 0.0)  # any choice is a proof; nothing underflows
    lam = np.ldexp(lam, -int(np.frexp(largest)[1]))  # nor overflows
    k = len(lam)
    slack = 4 * (k + 8) * EPS
    d = lam @ facets.normals
    error = slack * (lam @ np.abs(facets.normals))
    mass = lam @ np.abs(facets.constants) + lam @ facets.errors
    value = -(lam @ facets.constants) - lam @ facets.errors - slack * mass - 1e-290
    if not (0 < value < np.inf and np.isfinite(d).all() and np.isfinite(error).all()):
        return 0.0
    across = length(np.abs(d) + error, DUAL[norm]) * (1 + slack)
    return float(value / across * (1 - slack)) if across > 0 else np.inf


def nearest(facets: Facets, norm: P, enough: float = np.inf) -> tuple[float, np.ndarray]:
    """(proved distance, a floating point near where it is attained). A distance above `enough` need not be sharp."""
    multipliers, point = _least_squares(facets)
    distance = proved(facets, multipliers, norm)
    if norm == "2" or distance > enough:
        return distance, point
    multipliers, point = _program(facets, norm)
    return max(distance, proved(facets, multipliers, norm)), point


def _least_squares(facets: Facets) -> tuple[np.ndarray, np.ndarray]:
    """min ||x||_2 (Lawson & Hanson 1974, 23.4): with E = [N'; -c'], f = (0, .., 0, 1), u = argmin_{u >= 0} ||E u - f|| and
    r = E u - f, x = -r_1..n / r_{n+1}, and u is a multiple of the multipliers."""
    from scipy.optimize import nnls

    system = np.concatenate([facets.normals.T, -(facets.constants + facets.errors)[None]])
    n = len(system) - 1
    goal = np.zeros(n + 1)
    goal[-1] = 1.0
    try:
        u, _ = nnls(system, goal)
    except RuntimeError:  # too many iterations
        return np.zeros(system.shape[1]), np.zeros(n)
    r = system @ u - goal
    return u, -r[:-1] / r[-1] if r[-1] != 0 else np.zeros(n)


def _program(facets: Facets, norm: P) -> tuple[np.ndarray, np.ndarray]:
    """min ||x||_1 or ||x||_inf as a linear program in (x, bounds of |x|)."""
    from scipy.optimize import linprog

    k, n = facets.normals.shape
    more = n if norm == "1" else 1
    eye, bound = np.eye(n), np.eye(n) if norm == "1" else np.ones((n, 1))
    rows = np.block([[-facets.normals, np.zeros((k, more))], [eye, -bound], [-eye, -bound]])
    right = np.concatenate([facets.constants + facets.errors, np.zeros(2 * n)])
    cost = np.concatenate([np.zeros(n), np.ones(more)])
    found = linprog(cost, A_ub=rows, b_ub=right, bounds=(None, None), method="highs-ds")
    if found.status != 0:
        return np.zeros(k), np.zeros(n)
    return -found.ineqlin.marginals[:k], found.x[:n]
