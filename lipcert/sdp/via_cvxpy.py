"""The LipSDP matrix inequality as cvxpy sees it. Multipliers out; neither the objective nor the status is believed.

In variables scaled by the closed-form multipliers (MATH section 4, primal; the output block is eliminated):

    minimise r   s. t.   r E_0 - C'C + P' diag(mu) Q + Q' diag(mu) P >= 0,  mu >= 0,  P = E_z - a V,  Q = E_z - b V
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipcert.proofs.lmi import Coefficients
from lipcert.proofs.normal_form import NormalForm
from lipcert.sdp.multipliers import closed_form

# Rows of the matrix: Clarabel factors n^2 / 2 by n^2 / 2 entries (minutes and 4 GB at 160, 24 GB at 300), SCS the matrix.
LARGEST = {"SCS": 1500, "CLARABEL": 150, "MOSEK": 600}


class NoSolver(Exception):
    """cvxpy or the solver is missing, or gave no multipliers; the text says what to do."""


@dataclass(frozen=True, eq=False)
class Primal:
    """V, P, Q (N, d + N) and the output's rows C (m, d + N) in scaled variables (x, z_1 .. z_K); d reduced inputs.

    `scale` (N,): multiplier = mu * scale. `rho`: the closed form's value, of which r is a fraction.
    """

    V: Tensor
    C: Tensor
    scale: Tensor
    rho: float
    inputs: int
    groups: Tensor  # (N,), counted through all layers
    low: Tensor
    high: Tensor


def rows_of(form: NormalForm) -> int:
    """Rows of the matrix inequality."""
    nodes = form.graph.nodes
    return form.neurons + min(nodes[form.graph.input].size, form.neurons + nodes[form.graph.output].size)


def primal(form: NormalForm, table: Coefficients) -> Primal | None:
    """None where the closed form finds nothing to scale with (a zero map)."""
    start = closed_form(form, table)
    if not start.multipliers or not 0 < start.rho < math.inf:
        return None
    weights = [layer.spread(m).sqrt() for layer, m in zip(form.layers, start.multipliers, strict=True)]
    over = [torch.full((table.sizes[0],), math.sqrt(start.rho), dtype=torch.float64), *weights]
    sizes = table.sizes[:-1]
    edges = [0, *torch.tensor(sizes).cumsum(0).tolist()]

    def wide(row: dict[int, Any], n: int) -> Tensor:
        out = torch.zeros(n, edges[-1], dtype=torch.float64)
        for j, block in row.items():
            out[:, edges[j] : edges[j + 1]] = block.centre / over[j]
        return out

    V = torch.cat([w[:, None] * wide(table.rows[k], w.numel()) for k, w in enumerate(weights, start=1)])
    C = wide(table.rows[-1], table.sizes[-1])
    inputs = table.sizes[0]
    if inputs > V.shape[0] + C.shape[0]:  # an orthogonal change of x keeps |x|: only the span of the rows counts
        both = torch.cat([V, C])
        R = torch.linalg.qr(both[:, :inputs].T).R.T
        both = torch.cat([R, both[:, inputs:]], dim=1)
        V, C, inputs = both[: V.shape[0]], both[V.shape[0] :], R.shape[1]
    first, groups = 0, []
    for layer in form.layers:
        groups.append(layer.groups + first if layer.count != layer.size else torch.arange(layer.size) + first)
        first += layer.count
    low, high = (torch.cat([getattr(layer, side) for layer in form.layers]) for side in ("low", "high"))
    return Primal(V, C, torch.cat(weights).square(), start.rho, inputs, torch.cat(groups), low, high)


def multipliers_by(solver: str, form: NormalForm, table: Coefficients, options: dict[str, Any]) -> list[Tensor]:
    """Multipliers for s_y = 1, as the solver returns them: nearly feasible at best. Empty for a zero map. Raises NoSolver."""
    problem = primal(form, table)
    if problem is None:
        return []
    mu = _solve(solver, problem, options)
    found, start = [], 0
    spread = mu[problem.groups] * problem.scale
    for layer in form.layers:
        piece = spread[start : start + layer.size]
        found.append(
            piece.clone()
            if layer.count == layer.size
            else piece.new_zeros(layer.count).scatter_(0, layer.groups, piece)
        )
        start += layer.size
    return found


def _solve(solver: str, problem: Primal, options: dict[str, Any]) -> Tensor:
    try:
        import cvxpy as cp
    except ImportError as missing:
        raise NoSolver("cvxpy is not installed, although lipcert asks for it: pip install cvxpy scs") from missing
    if solver not in cp.installed_solvers():
        raise NoSolver(f"cvxpy finds no {solver} here; it has {', '.join(cp.installed_solvers())}")
    n, width = problem.V.shape
    d = problem.inputs
    E = torch.zeros(n, width, dtype=torch.float64)
    E[:, d:] = torch.eye(n, dtype=torch.float64)
    P = (E - problem.low[:, None] * problem.V).numpy()
    Q = (E - problem.high[:, None] * problem.V).numpy()
    first = torch.zeros(width, width, dtype=torch.float64)
    first[:d, :d] = torch.eye(d, dtype=torch.float64)
    count = int(problem.groups.max()) + 1
    shares = torch.nn.functional.one_hot(problem.groups, count).double().numpy()
    r, mu = cp.Variable(nonneg=True), cp.Variable(count, nonneg=True)
    half = P.T @ cp.diag(shares @ mu) @ Q
    matrix = r * first.numpy() - (problem.C.T @ problem.C).numpy() + half + half.T
    question = cp.Problem(cp.Minimize(r), [matrix >> 0])
    try:
        question.solve(solver=solver, **options)
    except (cp.error.SolverError, ArithmeticError, ValueError) as failed:
        raise NoSolver(f"{solver} failed: {str(failed).splitlines()[0]}") from failed
    if mu.value is None:
        raise NoSolver(f"{solver} returned no multipliers (status {question.status})")
    return torch.as_tensor(mu.value, dtype=torch.float64).clamp(min=0.0)
