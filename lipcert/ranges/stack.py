"""A stack of enclosed rows over one signal, and what affine nodes do to it.

    row 0           value: z(x) in c_0 + S (x - c) +- r_0 for every x of the cell, c_0 the floating value at its centre
    row 1           plain interval: z(x) in c_1 +- r_1
    rows 2 .. n+1   slopes S_j, one row per input coordinate
    the rest        directional derivatives J(x) d for the chosen directions d

All rows pass linear operators alike (`r_0` gathers the rounding), so a layer costs two matrix products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.ir import Add, Concat, Linear, Node, Offset
from lipcert.linops import Operator
from lipcert.rounding import EPS, gamma

TINY = 1e-290  # more than products of normal numbers lose by underflow in a row, sums included

Stack = tuple[Tensor, Tensor]  # centre, radius: (b, rows, size) each


def all_finite(*parts: Tensor) -> bool:
    """Every entry, in one pass each. False also where finite entries sum to infinity."""
    return all(math.isfinite(float(part.sum())) for part in parts)


def affine(
    node: Node,
    args: list[Stack],
    like: Tensor,
    absolute: dict[Operator, Operator],
    careful: bool = False,
    spare: bool = False,
) -> Stack:
    """`absolute`: memo of |A|. `like`: the input's centre stack, for constants. `careful`: see `through`. `spare`: nobody
    else reads the first argument, so it may be written over."""
    match node.what:
        case Linear(operator):
            if operator not in absolute:
                absolute[operator] = operator.absolute()
            return through(operator, absolute[operator], *args[0], careful)
        case Add():
            centre, radius = args[0]
            if len(args) == 1:
                return centre, radius
            mass = centre.abs()
            for c, r in args[1:]:
                centre, radius, mass = centre + c, radius + r, mass + c.abs()
            return centre, radius.add_(mass, alpha=2 * gamma(len(args))).mul_(1 + 4 * gamma(len(args) + 4))
        case Concat():
            return torch.cat([c for c, _ in args], dim=2), torch.cat([r for _, r in args], dim=2)
        case Offset(value, slack):
            if args:
                centre, radius = args[0] if spare else (side.clone() for side in args[0])
            else:
                centre, radius = (like.new_zeros(*like.shape[:2], node.size) for _ in range(2))
            moved, reach = centre[:, :2].add_(value), radius[:, :2]
            reach.add_(moved.abs(), alpha=2 * EPS)
            if slack is not None:
                reach.add_(slack)
            reach.mul_(1 + 4 * EPS)
            return centre, radius
    raise AssertionError(node.what)


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
        return image, reach.add_(TINY).reshape(b, rows, -1)
    present = (flat_centre.abs() + flat_radius > 0).to(reach.dtype)
    touched = absolute.mv(present) > 0
    if error is not None:
        touched |= error.mv(present) > 0
    return image, (reach + TINY * touched).reshape(b, rows, -1)
