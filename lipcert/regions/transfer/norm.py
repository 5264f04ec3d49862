"""The Euclidean norm of groups about the centre: magnitudes, distances.

z = |u|, r = |c|, n_c = c / r. With d >= |u - c| over the region and q = d / r < 1 the angle t between u and c has sin t <= q,
so that for Dz = u' / |u|

    |Dz(u) - n_c'|  =  2 sin(t / 2)  <=  q sqrt(2 / (1 + sqrt(1 - q^2)))
    0  <=  |u| - r - n_c'(u - c)  =  |u| - n_c'u  =  |u across c|^2 / (|u| + n_c'u)  <=  d^2 / (2 (r - d))

for |u| and n_c'u are r - d or more; and the first, along the path, times d. Where q is no less than 0.8 the linear map is 0: then the
Jacobian is at most 1, also at u = 0 where it is a set, and | |u| - r | <= d.
"""

from __future__ import annotations

import torch

from lipcert.blocks.normalise import Norm2
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Node
from lipcert.regions.transfer.blockwise import Blockwise, along
from lipcert.regions.transfer.expansion import Arriving, Expansion, identity
from lipcert.rigor.rounding import EPS, div_up, mul_up, norm_down, norm_up, sub_down, up

FORMULA = 1 + 64 * EPS  # for formulas of few operations, all of nonnegative numbers
NEAR = 0.8


def norm2(node: Node, block: Norm2, inputs: list[Arriving]) -> Expansion:
    (u,) = inputs
    positions = along(block.outer, block.n, block.inner)
    groups, total = len(positions), positions.numel()
    c, d = u.centre[positions], u.moved(positions).lengths(groups)
    low, high = norm_down(c, "2", 1), norm_up(c, "2", 1)
    q = div_up(d, low)
    near = q < NEAR  # false for NaN
    x, r, s = torch.where(near, q, 0.0), torch.where(near, low, 1.0), torch.where(near, d, 0.0)
    off = x * (2 / (1 + (1 - x * x).sqrt())).sqrt() * FORMULA
    remainder = torch.minimum(mul_up(s, off), s * s / (2 * sub_down(r, s)) * FORMULA + 1e-300)
    direction = torch.where(near[:, None], c / r[:, None], 0.0)  # of c / |c|, low <= |c| <= high
    slack = torch.where(near, (high - low) / r + 4 * EPS, 0.0) * FORMULA
    where = torch.arange(groups)[:, None]
    gain = Blockwise(
        direction[:, None],
        positions[:, None],
        where[:, None],
        (total, groups),
        up(direction.abs() * slack[:, None])[:, None],
    )
    middle = low / 2 + high / 2
    value = Known(middle[None], up(torch.maximum(high - middle, middle - low))[None])
    term = identity(0, torch.where(near, off, 1.0), positions, where, (total, groups))
    return Expansion(value, (gain,), torch.where(near, remainder, d), terms=(term,))
