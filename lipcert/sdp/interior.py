"""LipSDP of deep narrow chains by an interior point method: dual scaling (Benson, Ye & Zhang 2000) along the central path.

Sweeps (MATH section 4) come near the optimum of a chain of 64 layers in a hundred steps and then take thousands. From
there Newton's method on c'x / mu - log det Z (x = (lambda, rho), c picks rho) takes about thirty:

    dx = H^-1 g - H^-1 c / mu,     decrement^2 = g'H^-1 g - 2 g'H^-1 c / mu + c'H^-1 c / mu^2,  least at mu = c'H^-1 c / g'H^-1 c

Near the path (decrement < 1) the same factor of H gives the tangent, -H^-1 c / mu for a mu that goes to 0, and a dual
feasible point mu (Z^-1 - Z^-1 dZ Z^-1), so the gap is mu (nu - g'dx). All in floating point: lmi.prove has the last word.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.proofs.lmi import Coefficients
from lipcert.proofs.normal_form import NormalForm
from lipcert.sdp.barrier import Barrier, Factor
from lipcert.sdp.multipliers import positive
from lipcert.sdp.narrow import Narrow

STEPS = 120
BACK, INSIDE = 0.75, 0.85  # backtracking; share of the way to the boundary
NEAR = 1.0  # decrement^2 below which a point is near the path
SHARES = torch.tensor(  # of mu that a step along the tangent takes away
    [1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05], dtype=torch.float64
)
BLOCK = 128  # rows of the Hessian that are factored at once


@dataclass(frozen=True, eq=False)
class Reached:
    """Strictly feasible multipliers for s_y = 1 with their rho, and the dual value, in floating arithmetic."""

    multipliers: list[Tensor]
    rho: float
    dual: float
    steps: int


def interior(
    form: NormalForm,
    table: Coefficients,
    tolerance: float,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Reached | None:
    """`tolerance`: of sqrt(rho / dual) - 1. None where the chain is not narrow, or floating point gives out. `stop`: a
    deadline; what has been reached then is feasible."""
    chain = Narrow.of(form, table)
    if chain is None:
        return None
    swept, dual = chain.swept(20 + 2 * len(chain.weights), seed)
    barrier = Barrier(chain)
    point = _feasible(barrier, positive(swept))
    if point is None:
        return None
    factor = barrier.factor(point)
    steps = 0
    while factor is not None and steps < STEPS and not stop():
        steps += 1
        step = _newton(barrier, point, factor)
        if step is None:
            break
        dual = max(dual, step.dual)
        if point[-1] <= dual * (1 + tolerance) ** 2:
            break
        moved = _moved(barrier, point, step)
        if moved is None:
            break
        point, factor = moved
    multipliers = chain.unscaled(point[:-1].split(chain.sizes))
    rho = float(point[-1]) * chain.whole
    return Reached(multipliers, rho, dual * chain.whole, steps) if math.isfinite(rho) and rho > 0 else None


def _feasible(barrier: Barrier, multipliers: list[Tensor]) -> Tensor | None:
    """Lambda_k (1 + eta)^(2 (K - k) + 1) (MATH section 4, "repair") for eta = 1e-3, 2e-3 ..: of the first that serve, half
    as much again, that with the least rho; rho a little above what it must be."""
    depth, eta = len(multipliers), 1e-3
    while eta < 10:
        shares = torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64) * eta
        grown = torch.cat([m * (1 + shares[:, None]) ** (2 * (depth - k) - 1) for k, m in enumerate(multipliers)], 1)
        rho, best = barrier.least(grown).min(0)
        if math.isfinite(rho):
            return torch.cat([grown[best], (rho * (1 + 2 * shares[best]))[None]]) if rho > 0 else None
        eta *= 2
    return None


@dataclass(frozen=True, eq=False)
class Direction:
    """`centring`: the Newton step to the path at the best mu, `tangent` along it as mu falls to 0, `decrement` squared."""

    centring: Tensor
    tangent: Tensor
    decrement: float
    dual: float


def _newton(barrier: Barrier, point: Tensor, factor: Factor) -> Direction | None:
    g, H = barrier.derivatives(point, factor)
    scale = H.diagonal().rsqrt()
    if not bool(torch.isfinite(scale).all()) or not factored(H.mul_(scale[:, None]).mul_(scale[None, :])):
        return None
    c = torch.zeros_like(g)
    c[-1] = 1.0
    half = torch.linalg.solve_triangular(H, torch.stack([g, c], dim=1) * scale[:, None], upper=False)
    to_g, to_c = (torch.linalg.solve_triangular(H.T, half, upper=True) * scale[:, None]).unbind(1)
    gg, gc, cc = float(g @ to_g), float(g @ to_c), float(c @ to_c)
    if not (gc > 0 and cc > 0):
        return None
    mu = cc / gc
    decrement = gg - gc * gc / cc
    dual = float(point[-1]) - mu * (barrier.parameter - decrement) if decrement < 1 else 0.0
    return Direction(to_g - to_c / mu, -to_c / mu, decrement, dual)


def factored(H: Tensor) -> bool:
    """Cholesky in place, of the lower triangle, which is all that is read. By blocks: of a thousand rows it takes two thirds of
    LAPACK's time."""
    n = len(H)
    for start in range(0, n, BLOCK):
        here, rest = slice(start, min(start + BLOCK, n)), slice(min(start + BLOCK, n), n)
        root, info = torch.linalg.cholesky_ex(H[here, here])
        if int(info):
            return False
        H[here, here] = root
        H[rest, here] = torch.linalg.solve_triangular(root.T, H[rest, here], upper=True, left=False)
        for column in range(rest.start, n, BLOCK):
            some = slice(column, min(column + BLOCK, n))
            H[column:, some].addmm_(H[column:, here], H[some, here].T, alpha=-1)
    return True


def _moved(barrier: Barrier, point: Tensor, step: Direction) -> tuple[Tensor, Factor] | None:
    """The next point, strictly inside, and its factor."""
    centred = point + step.centring
    if step.decrement < NEAR:
        found = _along(barrier, centred, step.tangent, SHARES)
        if found is not None:
            return found
    factor = barrier.factor(centred)
    if factor is not None:
        return centred, factor
    sizes = (BACK ** torch.arange(1, 81, dtype=torch.float64)).split(len(SHARES))
    tried = (_along(barrier, point, step.centring, some) for some in sizes)
    return next((found for found in tried if found is not None), None)


def _along(barrier: Barrier, start: Tensor, way: Tensor, shares: Tensor) -> tuple[Tensor, Factor] | None:
    """Most of the way to the first of the points start + share way that lies inside; None: none does."""
    points = start + torch.cat([shares, INSIDE * shares])[:, None] * way
    found, count = barrier.factors(points), len(shares)
    (inside,) = found.stands[:count].nonzero(as_tuple=True)
    near = count + int(inside[0]) if len(inside) else 0
    factor = found.of(near)
    return (points[near], factor) if near and factor is not None else None
