"""The slope sweep for deep chains: errors pass later layers through products of the centre matrices, not of |W|.

Each neuron's slope is m + e with |e| <= h. With M_lk = A_k D_k-1 A_k-1 ... D_l+1 A_l+1 (D the middle slopes m), the rows
X_k of any slope matrix, of centre c_k, telescope to

    X_k - c_k = sum_l M_lk e_l X_l,   so   |X_k - c_k| <= delta_k = sum_l |M_lk| h_l (|c_l| + delta_l),

which is never worse than multiplying intervals layer by layer, and much tighter where signs cancel: the same idea as pass
and cut in CPLip (Combettes & Pesquet 2020), with errors that depend on the cell. Rounding of c_k and M_lk is enclosed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.blocks.base import Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Graph, Input, Linear, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Operator
from lipcert.regions.cells import Cells
from lipcert.regions.forward.entry import GROW, Entry, middle
from lipcert.regions.forward.slope import (
    Shares,
    Sweep,
    Swept,
    directions,
    first_stack,
    norms_above,
    signal_range,
    sweep,
)
from lipcert.regions.forward.slope_rules import elementwise_slopes, scaled
from lipcert.regions.forward.stack import AFFINE, LOST, Stack, through
from lipcert.rigor.rounding import EPS, gamma
from lipcert.terms.query import Norm

DEEP = 4  # nonlinear layers from which it may pay within branch and bound
GAIN = 6.0  # that much tighter, for about six times the work


def is_chain(graph: Graph) -> bool:
    """Every node reads the one before it, nonlinearities are elementwise with bounded slopes."""
    for i, node in enumerate(graph.nodes):
        if node.parents != ((i - 1,) if i else ()):
            return False
        match node.what:
            case Input() | Linear() | Offset():
                pass
            case Nonlinear(Pointwise() as block):
                if not all(bool(torch.isfinite(side).all()) for side in block.slopes()):
                    return False
            case _:
                return False
    return graph.output == len(graph.nodes) - 1 and graph.input == 0


def is_deep(graph: Graph) -> bool:
    return len(graph.nonlinear) >= DEEP and is_chain(graph)


def pays(graph: Graph, cells: Cells, norm: Norm) -> bool:
    """Whether `telescoped` is so much tighter on these cells that it beats halving them with `sweep`."""
    chosen = directions(graph, cells, norm)
    plain, fine = (
        norms_above(found.centre, found.radius, chosen, norm)
        for found in (sweep(graph, cells, chosen.toward), telescoped(graph, cells, chosen.toward))
    )
    return bool((fine * GAIN < plain).float().mean() > 0.5)


def telescoped(graph: Graph, cells: Cells, toward: Tensor, adjoints: Mapping[int, Tensor] | None = None) -> Sweep:
    """As `slope.sweep`, for chains."""
    start, n = first_stack(cells, toward), cells.centre.shape[1]
    absolute: dict[Operator, Operator] = graph.memo.setdefault(("absolute",), {})
    score = None if adjoints is None else torch.zeros_like(cells.centre)
    state = Telescope(like=start[0], absolute=absolute, cells=cells, start=start, adjoints=adjoints, score=score)
    stack = forward(graph, TELESCOPED, state)[graph.output]
    centre, radius = _whole(stack, state.products, state.errors)
    lower, upper = signal_range((centre, radius), cells)
    return Sweep(centre[:, 2 + n :], radius[:, 2 + n :], lower, upper, state.slopes, score)


@dataclass(eq=False, kw_only=True)
class Telescope(Swept):
    products: Stack | None = None  # M_lk for all l so far, rows (b, sum of sizes, size): by input neuron
    errors: list[Tensor] = field(default_factory=list)  # h_l (|c_l| + delta_l), (b, n + k, size_l)


def _nonlinear(at: Visit, stack: Stack) -> Stack:
    state = at.state
    whole = _whole(stack, state.products, state.errors)
    entry = Entry(whole, *signal_range(whole, state.cells), state.cells.centre.shape[1])
    stack, found, error, m = _pointwise(at.what.block, entry, stack)
    state.slopes[at.i] = found
    if state.adjoints is not None:
        state.score += Shares(whole, state.cells).jumps(found, state.adjoints[at.i])
    state.errors.append(error)
    unit = torch.eye(at.node.size, dtype=m.dtype, device=m.device)[None].expand(len(m), -1, -1)
    kept = [] if state.products is None else [scaled((m[:, None], m[:, None]), *state.products)]
    kept.append((unit, torch.zeros_like(unit)))
    state.products = torch.cat([c for c, _ in kept], dim=1), torch.cat([r for _, r in kept], dim=1)
    return stack


def _linear(at: Visit, stack: Stack) -> Stack:
    image = AFFINE[Linear](at, stack)
    if at.state.products is not None:
        operator = at.what.operator
        at.state.products = through(operator, at.state.absolute[operator], *at.state.products)
    return image


def _whole(stack: Stack, products: Stack | None, errors: list[Tensor]) -> Stack:
    """The stack with delta_k in its radius; before, the radius of slope rows is only their rounding."""
    centre, radius = stack
    if products is None:
        return stack
    size = products[0].abs() + products[1]
    made = torch.bmm(torch.cat(errors, dim=2), size) * (1 + 4 * gamma(size.shape[1] + 8)) + LOST
    delta = (radius[:, 2:] + made) * GROW
    return centre, torch.cat([radius[:, :2], delta.nan_to_num(torch.inf, torch.inf)], dim=1)


def _pointwise(block: Pointwise, entry: Entry, stack: Stack) -> tuple[Stack, Range, Tensor, Tensor]:
    """The stack behind it, the slope ranges, what they add to the errors, and the middle slopes m (b, size)."""
    activation, n = block.activation, entry.slopes
    chords, slopes = elementwise_slopes(activation, entry)
    unknown = ~(torch.isfinite(entry.lower) & torch.isfinite(entry.upper) & torch.isfinite(entry.value))
    if bool(unknown.any()):
        whole = block.slopes()
        chords, slopes = (
            (torch.where(unknown, whole[0], found[0]), torch.where(unknown, whole[1], found[1]))
            for found in (chords, slopes)
        )
    m = slopes[0] / 2 + slopes[1] / 2
    grow = 1 + 4 * EPS
    for_slopes, for_jacobian = (
        torch.maximum(high - m, m - low).clamp(min=0.0) * grow for low, high in (chords, slopes)
    )
    centre, radius = stack
    size = centre[:, 2:].abs() + entry.stack[1][:, 2:]
    h = torch.cat(
        [for_slopes[:, None].expand(-1, n, -1), for_jacobian[:, None].expand(-1, size.shape[1] - n, -1)], dim=1
    )
    error = (h * size * GROW + LOST * (h > 0)).nan_to_num(torch.inf, torch.inf)
    new_centre, new_radius = torch.empty_like(centre), torch.empty_like(radius)
    new_centre[:, 2:], new_radius[:, 2:] = scaled((m[:, None], m[:, None]), centre[:, 2:], radius[:, 2:])
    value, noise = middle(*activation.values_on(entry.value, entry.value))
    steepest = torch.maximum(chords[0].abs(), chords[1].abs())
    new_centre[:, 0], new_radius[:, 0] = value, (noise + steepest * radius[:, 0]) * GROW + LOST
    new_centre[:, 1], new_radius[:, 1] = middle(*activation.values_on(entry.lower, entry.upper))
    return (new_centre, new_radius), slopes, error, m


TELESCOPED: Rules = {  # of a chain
    Input: lambda at: at.state.start,
    Linear: _linear,
    Offset: AFFINE[Offset],
    Nonlinear: _nonlinear,
}
