"""Good multipliers for `inequality`: floating steps, of which nothing is claimed.

For multipliers lambda and Q = diag(1 / lambda_rows) - N_y diag(1 / lambda_columns) N_y' > 0 the least gamma^2 is the largest
eigenvalue mu of Q^-1 N_x D^-1 N_x', D the shape of the input's weights; with Q-normalised eigenvectors z,

    d mu / d log lambda_g = ( ||z_rows g||^2 - ||(N_y' z)_columns g||^2 ) / lambda_g .

Adam on log lambda (Kingma & Ba 2015) with the mean over several eigenvectors near the top, for mu is not smooth where they meet;
for boxes D follows |N_x' z|, its optimum for a given z.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.regions.transfer.inequality import Inequality, proved

STEPS = 40
RATE = 0.15
GAIN, PATIENCE = 0.999, 6  # so many steps without that gain are the last
VECTORS = 6
POWERS = 4  # subspace iterations in a step: the subspace is kept
TEMPERATURE = 0.02
WORK = 1.5e11  # flops
REFINED = 10  # steps of the subspace at the end, where its value is still rising
SLACK = (1e-7, 1e-5, 1e-3, 3e-2, 0.3)


@dataclass(eq=False)
class _State:
    logarithm: Tensor
    d: Tensor
    vectors: Tensor
    value: float = math.inf


def constant(question: Inequality, boxed: bool, deadline: float | None = None) -> float:
    """Proved upper value of the constant; inf where no multipliers were found."""
    rows, columns = question.centre.shape
    cost = rows**3 + rows * rows * (columns - question.inputs + 4 * VECTORS * POWERS)
    steps = int(min(STEPS, WORK / cost))
    best = _search(question, boxed, steps, deadline) if steps >= 1 else None
    if best is None:
        return math.inf
    for slack in SLACK:
        d = best.d / best.d.sum() if boxed else torch.ones_like(best.d)
        value = proved(question, best.logarithm.exp(), d * (best.value * (1 + slack)), boxed)
        if value < math.inf:
            return value
    return math.inf


def _search(question: Inequality, boxed: bool, steps: int, deadline: float | None) -> _State | None:
    n, rows = question.inputs, len(question.centre)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(rows, min(VECTORS, rows), generator=generator, dtype=torch.float64)
    state = _State(question.start.clone(), torch.full((n,), 1.0 / n if boxed else 1.0, dtype=torch.float64), vectors)
    shift = 0.0
    while (slope := _evaluate(question, state, boxed)) is None:  # the triangular structure makes some shift feasible
        shift = 2 * shift or 0.02
        if shift > 20:
            return None
        state.logarithm = question.start + shift * question.depth
    best = _State(state.logarithm.clone(), state.d.clone(), state.vectors, state.value)
    first, second, rate, since = torch.zeros_like(slope), torch.zeros_like(slope), RATE, 0
    for step in range(1, steps):
        if deadline is not None and time.monotonic() > deadline:
            break
        first, second = 0.8 * first + 0.2 * slope, 0.95 * second + 0.05 * slope * slope
        direction = (first / (1 - 0.8**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-12)
        state.logarithm = state.logarithm - rate * direction
        found = _evaluate(question, state, boxed)
        if found is None or state.value > 2 * best.value:
            state.logarithm, state.d = best.logarithm.clone(), best.d.clone()
            rate /= 2
            first, second = torch.zeros_like(first), torch.zeros_like(second)
            found = _evaluate(question, state, boxed)
            if found is None:
                break
        slope = found
        since = 0 if state.value < GAIN * best.value else since + 1
        if state.value < best.value:
            best = _State(state.logarithm.clone(), state.d.clone(), state.vectors, state.value)
        if since >= PATIENCE:
            break
    for _ in range(REFINED):
        before = best.value
        if _evaluate(question, best, boxed) is None or abs(best.value - before) < 1e-6 * before:
            break
    return best


def _evaluate(question: Inequality, state: _State, boxed: bool) -> Tensor | None:
    """The derivative of log mu; `state.value` is mu (times the sum of d for boxes). None: the multipliers are not feasible."""
    n = question.inputs
    Nx, Ny = question.centre[:, :n], question.centre[:, n:]
    inverse = torch.exp(-state.logarithm)
    rows = inverse[question.row_group].clone()
    columns = question.column_group[n:]
    Q = torch.diag(rows) - (Ny * inverse[columns]) @ Ny.mT
    factor, info = torch.linalg.cholesky_ex(Q)
    if int(info) != 0:
        return None
    Z = state.vectors
    for _ in range(POWERS):
        Z = torch.cholesky_solve(Nx @ ((Nx.mT @ Z) / state.d[:, None]), factor)
        Z = _orthonormal(Z, factor)
    image = Nx.mT @ Z
    values, turn = torch.linalg.eigh(image.mT @ (image / state.d[:, None]))
    Z, image = Z @ turn, image @ turn
    top = float(values[-1])
    if not math.isfinite(top) or top <= 0:
        return None
    share = torch.softmax((values / top - 1) / TEMPERATURE, 0)
    state.vectors = Z
    state.value = top * (float(state.d.sum()) if boxed else 1.0)
    size = torch.zeros_like(inverse)
    size.index_add_(0, question.row_group, (Z * Z) @ share)
    back = Ny.mT @ Z
    size.index_add_(0, columns, -((back * back) @ share))
    size[0] = 0.0
    if boxed:
        wanted = ((image * image) @ share).sqrt()
        d = (state.d / state.d.sum() * wanted / wanted.sum()).sqrt()
        state.d = torch.maximum(d / d.sum(), torch.full_like(d, 1e-6 / n))
    return size * inverse / top


def _orthonormal(Z: Tensor, factor: Tensor) -> Tensor:
    """The span of Z with Z'QZ = I, Q = R R'."""
    turned = torch.linalg.qr(factor.mT @ Z).Q
    return torch.linalg.solve_triangular(factor.mT, turned, upper=True)
