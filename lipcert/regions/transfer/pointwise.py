"""Scalar functions, entry by entry: on [l, u] with slopes in [s0, s1].

values      s(z) - m z in [low, high] for the slope m of the chord (lines.py), so phi = m a + (low + high) / 2
slopes      G' = (s0 + s1) / 2, and each entry is off by at most (s1 - s0) / 2; where it is settled there is no term
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.activations.corner import Corner
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Node
from lipcert.operators.linear import Scale
from lipcert.regions.backward.lines import lines
from lipcert.regions.transfer.expansion import Arriving, Expansion, diagonal
from lipcert.rigor.rounding import add_down, add_up, mul_down, mul_up, sub_up, up


def pointwise(node: Node, block: Pointwise, inputs: list[Arriving]) -> Expansion:
    (u,) = inputs
    lower, upper = u.range
    m, low, high = between(block.activation, lower, upper)
    phi = mul_up(m, u.centre) + (low / 2 + high / 2)
    above = sub_up(add_up(mul_up(m, u.centre), high), phi)
    below = sub_up(phi, add_down(mul_down(m, u.centre), low))
    exact = (low == 0) & (high == 0) & ((m == 0) | (m == 1))
    phi = torch.where(exact, m * u.centre, phi)
    entries = torch.where(exact, 0.0, torch.maximum(above, below).clamp(min=0.0))
    first, last = block.slopes((u.range,))
    middle = (first / 2 + last / 2).nan_to_num(0.0, 0.0, 0.0)
    settled = first == last
    middle = torch.where(settled, first, middle)
    off = torch.where(settled, 0.0, torch.maximum(up(last - middle), up(middle - first)))
    term = diagonal(0, off)
    return Expansion(
        Known(phi[None]), (Scale(m),), entries, slopes=(Scale(middle),), terms=() if term is None else (term,)
    )


def between(activation: Elementwise, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A slope m, a float for each entry, and low <= s(z) - m z <= high on [lower, upper]."""
    if not isinstance(activation.row.slopes_on, Corner):
        found = lines(activation, lower[None], upper[None])
        return found.low_slope[0], found.low[0], found.high[0]  # parallel
    left, right = activation.row.slopes_on.sides(*(torch.as_tensor(p, dtype=torch.float64) for p in activation.params))
    crossing = (lower < 0) & (upper > 0)
    settled = torch.where(lower >= 0, right, left).expand_as(lower)
    run = torch.where(crossing, upper - lower, 1.0)
    m = torch.where(crossing, (right * upper - left * lower) / run, settled).nan_to_num(0.0, 0.0, 0.0)
    zero = torch.zeros_like(lower)  # s(z) - m z is linear on both sides of 0, and 0 there
    ends = [(activation.values_on(end, end), end) for end in (lower, upper)]
    high = torch.stack([zero, *(add_up(value[1], mul_up(-m, end)) for value, end in ends)]).amax(0)
    low = torch.stack([zero, *(add_down(value[0], mul_down(-m, end)) for value, end in ends)]).amin(0)
    return m, torch.where(crossing, low, zero), torch.where(crossing, high, zero)
