"""The slope sweep carried one order further, for smooth activations: J d in mean value form.

Beside z(x) in c_0 + S (x - c) +- r_0 (slope.py) each tangent t(x) = J(x) d is known as tau + T (x - c) +- rho with an
interval matrix T. Behind an activation s, with b in the range of the chords of s' about c_0 (within that of s''),

    s'(z(x)) t(x) = (s'(c_0) + b (z(x) - c_0)) t(x)
                  in s'(c_0) (tau +- rho + T (x - c)) + b t(X) (S (x - c) +- r_0),

t(X) the enclosure of t on the cell. The widths of T fall with the cell's, so J d is known to second order: where the
gradient is largest inside a region T is near 0, and cells of size sqrt(tol) do what first order does with tol (Neumaier,
*Interval Methods for Systems of Equations*, 2.3-2.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Graph, Input, Nonlinear
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Operator
from lipcert.regions.cells import Cells
from lipcert.regions.forward.entry import GROW, Entry
from lipcert.regions.forward.slope import VANISHING, Sweep, first_stack, largest_reach, signal_range, sweep
from lipcert.regions.forward.slope_rules import pointwise, scaled
from lipcert.regions.forward.stack import AFFINE, LOST, Carried, Stack
from lipcert.rigor.rounding import EPS, gamma

FEW_INPUTS = 4


def is_curved(graph: Graph) -> bool:
    """Every nonlinearity has a row for s'', and inputs are few: T has one row per direction and input."""
    blocks = [graph.nodes[i].what.block for i in graph.nonlinear]  # type: ignore[union-attr]
    smooth = all(isinstance(block, Pointwise) and block.activation.smooth for block in blocks)
    return smooth and bool(blocks) and graph.nodes[graph.input].size <= FEW_INPUTS


def rows(inputs: int, directions: int) -> int:
    """Of J, tau and T together."""
    return directions * (2 + inputs)


def curved(graph: Graph, cells: Cells, toward: Tensor, adjoints: Mapping[int, Tensor] | None = None) -> Sweep:
    """As `slope.sweep`, never looser, for graphs with `is_curved`. The score is the share of each coordinate in T."""
    n, k = cells.centre.shape[1], toward.shape[1]
    centre, radius = first_stack(cells, torch.cat([toward, toward, toward.new_zeros(len(cells), k * n, n)], dim=1))
    absolute: dict[Operator, Operator] = graph.memo.setdefault(("absolute",), {})
    state = Bent(like=centre, absolute=absolute, cells=cells, start=(centre, radius), directions=k)
    stack = _met(forward(graph, CURVED, state)[graph.output], cells, k)
    lower, upper = signal_range(stack, cells)
    J = slice(2 + n, 2 + n + k)
    if stack[0].shape[2] and bool((largest_reach(stack[0][:, J], stack[1][:, J], 0) < VANISHING).any()):
        return sweep(graph, cells, toward, adjoints)  # which keeps exact zeros
    score = None
    if adjoints is not None:
        size = (stack[0].abs() + stack[1])[:, 2 + n + 2 * k :].unflatten(1, (k, n)).sum(dim=(1, 3))
        score = (size * cells.radius).nan_to_num(0.0, 0.0, 0.0)
    uphill = _uphill(stack[0], cells, k)
    return Sweep(stack[0][:, J], stack[1][:, J], lower, upper, state.slopes, score, state.culprit, uphill)


def _uphill(centre: Tensor, cells: Cells, k: int) -> Tensor:
    """The corner where the largest |tau + T (x - c)| of all directions and outputs is attained."""
    n = cells.centre.shape[1]
    tau, T = centre[:, 2 + n + k : 2 + n + 2 * k], centre[:, 2 + n + 2 * k :].unflatten(1, (k, n))
    size = (tau.abs() + (T.abs() * cells.radius[:, None, :, None]).sum(dim=2)).flatten(1)
    if not size.shape[1]:
        return cells.centre
    best = size.argmax(dim=1)
    rows = torch.arange(len(best), device=best.device)
    sign = T.movedim(2, 3).flatten(1, 2)[rows, best] * tau.flatten(1)[rows, best][:, None]
    return cells.centre + cells.radius * sign.sign()


def _met(stack: Stack, cells: Cells, k: int) -> Stack:
    """J met with tau + T (x - c) +- rho; a cell lies in the box of its radii."""
    (centre, radius), n = stack, cells.centre.shape[1]
    J, tau, T = (slice(2 + n + a, 2 + n + b) for a, b in ((0, k), (k, 2 * k), (2 * k, 2 * k + k * n)))
    size = (centre[:, T].abs() + radius[:, T]).unflatten(1, (k, n))
    away = (size * cells.radius[:, None, :, None]).sum(dim=2) * (1 + 4 * gamma(n + 8)) + radius[:, tau] + LOST
    lower = torch.fmax(*(_end(centre[:, rows], spread, -1) for rows, spread in ((J, radius[:, J]), (tau, away))))
    upper = torch.fmin(*(_end(centre[:, rows], spread, 1) for rows, spread in ((J, radius[:, J]), (tau, away))))
    m = lower / 2 + upper / 2
    known = torch.isfinite(m)
    centre, radius = centre.clone(), radius.clone()
    centre[:, J] = torch.where(known, m, centre[:, J])
    h = torch.maximum(upper - m, m - lower) * (1 + 4 * EPS) + LOST
    radius[:, J] = torch.where(known, h, radius[:, J])
    return centre, radius


def _end(centre: Tensor, radius: Tensor, side: int) -> Tensor:
    """centre +- radius, rounded outward."""
    end = centre + side * radius
    return end + side * 2 * EPS * (centre.abs() + radius)


@dataclass(eq=False, kw_only=True)
class Bent(Carried):
    cells: Cells
    start: Stack
    directions: int
    slopes: dict[int, Range] = field(default_factory=dict)
    culprit: int | None = None  # the first node where a slope is not bounded


def _nonlinear(at: Visit, stack: Stack) -> Stack:
    state, cells, k = at.state, at.state.cells, at.state.directions
    found, state.slopes[at.i] = _bent(at.what.block, _met(stack, cells, k), cells, k)
    if state.culprit is None and not bool(torch.isfinite(found[1][:, 2 + cells.centre.shape[1] :]).all()):
        state.culprit = at.i
    return found


def _bent(block: Pointwise, stack: Stack, cells: Cells, k: int) -> tuple[Stack, Range]:
    (centre, radius), n = stack, cells.centre.shape[1]
    S, J, tau, T = (
        slice(2, 2 + n),
        slice(2 + n, 2 + n + k),
        slice(2 + n + k, 2 + n + 2 * k),
        slice(2 + n + 2 * k, None),
    )
    entry = Entry((centre[:, : 2 + n + k], radius[:, : 2 + n + k]), *signal_range(stack, cells), n)
    first = pointwise(block, [entry])
    assert first.slopes is not None
    bend = block.activation.bends_on(entry.value, *entry.hull)
    low, high = block.activation.slopes_on(entry.value, entry.value)
    at_centre = low[:, None], high[:, None]
    m, h = scaled((bend[0][:, None], bend[1][:, None]), centre[:, J], radius[:, J])  # b t(X), (b, k, size)
    reach = (m.abs() + h) * GROW + LOST
    new_tau, rho = scaled(at_centre, centre[:, tau], radius[:, tau])
    rho = ((rho + reach * radius[:, :1]) * GROW + LOST).nan_to_num(torch.inf, torch.inf)
    m, h, reach = m[:, :, None], h[:, :, None], reach[:, :, None]
    s, spread = centre[:, None, S], radius[:, None, S]
    made, error = m * s, reach * spread + h * s.abs()
    kept, slack = scaled(at_centre, centre[:, T], radius[:, T])
    new_T = made.flatten(1, 2) + kept
    off = error + 2 * EPS * made.abs()
    off = ((off.flatten(1, 2) + slack + 2 * EPS * new_T.abs()) * GROW + LOST).nan_to_num(torch.inf, torch.inf)
    stack = torch.cat([first.stack[0], new_tau, new_T], dim=1), torch.cat([first.stack[1], rho, off], dim=1)
    return stack, first.slopes


CURVED: Rules = AFFINE | {Input: lambda at: at.state.start, Nonlinear: _nonlinear}
