"""Products of two signals about their centres (MATH section 10): attention scores, values, gates.

Z = U V:  Z - U_c V_c = U_c dV + dU V_c + dU dV, and DZ = U DV + DU V, so

    |rho_ij|  <=  min( (B_U B_V)_ij,  |dU_i| |dV_j| ),       B the reaches entry by entry, dU_i rows, dV_j columns
    ||rho||_F <=  min( ||dU||_F ||dV||_2, ||dU||_2 ||dV||_F )
    E         =   dU (.) + (.) dV: dU acts on each column of (.), dV on each of its rows, with the norms ||dU||_2 and ||dV||_2

of each factor of a batch (head). ||dU||_2 is at most the Frobenius norm, and the norm of B_U.
Entry by entry the same with numbers for matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lipcert.blocks.product import MatMul, Product
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Node
from lipcert.operators.linear import Scale
from lipcert.regions.transfer.blockwise import Blockwise
from lipcert.regions.transfer.expansion import Arriving, Expansion, diagonal, identity
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import gamma, mul_up, norm_up, up


def product(node: Node, block: Product, inputs: list[Arriving]) -> Expansion:
    u, v = inputs
    value = _middle(*block.values_on(*((w.centre[None], w.centre[None]) for w in inputs)))
    terms = tuple(term for term in (diagonal(0, v.reach), diagonal(1, u.reach)) if term is not None)
    return Expansion(value, (Scale(v.centre), Scale(u.centre)), mul_up(u.reach, v.reach), terms=terms)


def matmul(node: Node, block: MatMul, inputs: list[Arriving]) -> Expansion:
    u, v = inputs
    b, m, k, n = block.batch, block.m, block.k, block.n
    at_u, at_v, at_z = (torch.arange(b * r * c).reshape(b, r, c) for r, c in ((m, k), (k, n), (m, n)))
    value = _middle(*block.values_on(*((w.centre[None], w.centre[None]) for w in inputs)))
    U, V = u.centre.reshape(b, m, k), v.centre.reshape(b, k, n)
    sizes = (b * m * k, b * k * n, b * m * n)
    left = Blockwise(V.mT, at_u, at_z, (sizes[0], sizes[2]))  # dU V: rows
    right = Blockwise(U, at_v.mT, at_z.mT, (sizes[1], sizes[2]))  # U dV: columns
    du, dv = _sizes(u, at_u), _sizes(v, at_v.mT)
    entries, length = _remainder(u.reach.reshape(b, m, k), v.reach.reshape(b, k, n), du, dv)
    by_column, by_row = (at_v.mT, at_z.mT, du[2], n), (at_u, at_z, dv[2], m)
    terms = []
    for read, total, (inner, outer, norm, copies) in ((1, sizes[1], by_column), (0, sizes[0], by_row)):
        size = norm.repeat_interleave(copies)
        terms.append(
            identity(read, size, inner.reshape(b * copies, -1), outer.reshape(b * copies, -1), (total, sizes[2]))
        )
    return Expansion(value, (left, right), entries, length, at_z.reshape(b, m * n), terms=tuple(terms))


Sizes = tuple[Tensor, Tensor, Tensor]  # (b, rows) lengths of rows, (b,) Frobenius norms, (b,) spectral norms


def _sizes(signal: Arriving, positions: Tensor) -> Sizes:
    """Of the deviation of matrices at `positions` (b, rows, columns)."""
    b, rows, _ = positions.shape
    moved = signal.moved(positions)
    each = moved.lengths(b * rows).reshape(b, rows)
    whole = torch.minimum(moved.lengths(b), norm_up(each, "2", 1))
    box = matrix_norms_upper(signal.reach[positions], None, "2", "2")
    return each, whole, torch.minimum(whole, box)


def _remainder(reach_u: Tensor, reach_v: Tensor, du: Sizes, dv: Sizes) -> tuple[Tensor, Tensor]:
    k = reach_u.shape[2]
    boxes = up(torch.bmm(reach_u, reach_v) * (1 + 4 * gamma(k + 4))) + 1e-300
    entries = torch.minimum(boxes, mul_up(du[0][:, :, None], dv[0][:, None, :]))
    length = torch.minimum(mul_up(du[1], dv[2]), mul_up(du[2], dv[1]))
    return entries.reshape(-1).nan_to_num(torch.inf, torch.inf), length.nan_to_num(torch.inf, torch.inf)


def _middle(lower: Tensor, upper: Tensor) -> Known:
    centre = lower / 2 + upper / 2
    return Known(centre, up(torch.maximum(upper - centre, centre - lower)))
