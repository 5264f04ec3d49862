"""A stack of enclosed rows over one signal, and what affine nodes do to it.

    row 0           value: z(x) in c_0 + S (x - c) +- r_0 for every x of the cell, c_0 the floating value at its centre
    row 1           plain interval: z(x) in c_1 +- r_1
    rows 2 .. n+1   slopes S_j, one row per input coordinate
    the rest        directional derivatives J(x) d for the chosen directions d

All rows pass linear operators alike (`r_0` gathers the rounding), so a layer costs two matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.graph import Add, Concat, Linear, Offset
from lipcert.network.walk import Rules, Visit
from lipcert.operators.linear import Operator
from lipcert.rigor.rounding import EPS, gamma

LOST = 1e-290  # more than products of normal numbers lose by underflow in a row, sums included

Stack = tuple[Tensor, Tensor]  # centre, radius: (b, rows, size) each


def all_finite(*parts: Tensor) -> bool:
    """Every entry, in one pass each. False also where finite entries sum to infinity."""
    return all(math.isfinite(float(part.sum())) for part in parts)


@dataclass(eq=False, kw_only=True)
class Carried:
    """State of a walk of stacks. `like`: the input's centre stack, for constants. `absolute`: memo of |A|. `careful`: see
    `through`. `spares`: memory that nobody else reads is written over."""

    like: Tensor
    absolute: dict[Operator, Operator]
    careful: bool = False
    spares: bool = False


def spare(at: Visit) -> bool:
    """Nobody else reads the memory of the node's one argument: it may be written over. Operators may return what they
    were given, or views of it."""
    if not at.state.spares or len(at.node.parents) != 1 or not at.ends(at.node.parents[0]):
        return False
    (parent,) = at.node.parents
    mine = at.values[parent]
    others = {side.untyped_storage()._cdata for k, stack in at.values.items() if k != parent for side in stack}
    places = {side.untyped_storage()._cdata for side in mine}
    return len(places) == 2 and not places & others and all(side.is_contiguous() for side in mine)


def _linear(at: Visit, stack: Stack) -> Stack:
    operator, absolute = at.what.operator, at.state.absolute
    if operator not in absolute:
        absolute[operator] = operator.absolute()
    return through(operator, absolute[operator], *stack, at.state.careful)


def _sum(at: Visit, *stacks: Stack) -> Stack:
    centre, radius = stacks[0]
    if len(stacks) == 1:
        return centre, radius
    mass = centre.abs()
    for c, r in stacks[1:]:
        centre, radius, mass = centre + c, radius + r, mass + c.abs()
    n = len(stacks)
    return centre, radius.add_(mass, alpha=2 * gamma(n)).mul_(1 + 4 * gamma(n + 4))


def join(at: Visit, *stacks: Stack) -> Stack:
    return torch.cat([c for c, _ in stacks], dim=2), torch.cat([r for _, r in stacks], dim=2)


def _offset(at: Visit, *stacks: Stack) -> Stack:
    value, slack, like = at.what.value, at.what.radius, at.state.like
    if stacks:
        centre, radius = stacks[0] if spare(at) else (side.clone() for side in stacks[0])
    else:
        centre, radius = (like.new_zeros(*like.shape[:2], at.node.size) for _ in range(2))
    moved, reach = centre[:, :2].add_(value), radius[:, :2]
    reach.add_(moved.abs(), alpha=2 * EPS)
    if slack is not None:
        reach.add_(slack)
    reach.mul_(1 + 4 * EPS)
    return centre, radius


def through(operator: Operator, absolute: Operator, centre: Tensor, radius: Tensor, careful: bool = False) -> Stack:
    """|A u - fl(A~ c)| <= |A| (rho + gamma |c|) + E (|c| + rho), as in ir.enclose_linear. `careful`: no underflow is
    granted where nothing but zeros was multiplied, so that zero stays zero."""
    b, rows, _ = centre.shape
    flat_centre, flat_radius = centre.reshape(b * rows, -1), radius.reshape(b * rows, -1)
    image = operator.mv(flat_centre).reshape(b, rows, -1)
    if operator.terms == 0:
        return image, absolute.mv(flat_radius).reshape(b, rows, -1)
    n = operator.terms
    error = operator.radius_operator()
    reach = absolute.mv(flat_centre.abs().mul_(2 * gamma(n + 2)).add_(flat_radius))
    if error is not None:
        reach = reach + error.mv(flat_centre.abs() + flat_radius)
    reach.mul_(1 + 4 * gamma(n + 8))
    if not careful:
        return image, reach.add_(LOST).reshape(b, rows, -1)
    present = (flat_centre.abs() + flat_radius > 0).to(reach.dtype)
    touched = absolute.mv(present) > 0
    if error is not None:
        touched |= error.mv(present) > 0
    return image, (reach + LOST * touched).reshape(b, rows, -1)


AFFINE: Rules = {Linear: _linear, Add: _sum, Concat: join, Offset: _offset}  # state: Carried
