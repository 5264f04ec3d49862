"""Lower values of linear functionals of the output, with lines of their own at the activations that have one kink.

An expansion z_j = phi_j + m_j (u_j - a_j) + xi_j with |xi_j| <= R_j takes the chord of a convex kink z = max(left u, right u) for all
functionals. Of one functional, to which xi_j adds c_j xi_j, more is known where c_j > 0: z_j >= alpha u_j for every alpha between
left and right (alpha-CROWN, Xu et al. 2021), so

    c_j xi_j  >=  c_j (alpha a_j - phi_j) + c_j (alpha - m_j) (u_j - a_j),

where u_j - a_j is known as rows of the same sources. alpha is proposed by floating steps; any is true.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations.corner import Corner
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Graph, Nonlinear, enclose_linear
from lipcert.operators.linear import Dense
from lipcert.regions.transfer.deviations import Expanded, source
from lipcert.regions.transfer.expansion import Arriving
from lipcert.regions.transfer.reach import Origin
from lipcert.regions.transfer.rows import CENTRE, Rows, added, through
from lipcert.rigor.rounding import add_down, gamma, mul_up, sub_down, sum_up, up

STEPS, RATE = 16, 0.4
INSIDE = 1e-9  # of the way between the slopes: more than rounding moves alpha
LEAST = 1e-200  # coefficients below it are not turned


@dataclass(frozen=True, eq=False)
class Kink:
    """The loose entries of one activation: chords m, values phi, centres a, remainders R, rows of u - a; the slopes."""

    m: Tensor
    phi: Tensor
    a: Tensor
    R: Tensor
    u: Arriving
    left: float
    right: float


def least(graph: Graph, found: Expanded, functionals: Tensor) -> Tensor:
    """Lower values (k,) on the region of the functionals (k, m) of the output."""
    operator = Dense(functionals[None])
    centre = enclose_linear(operator, Known(found.output[CENTRE].centre)).lower[0]
    arriving = Arriving(found.output, found.sources).of(operator)
    best = sub_down(centre, arriving.reach)
    rows, fixed = arriving.rows, centre
    for i in sorted(found.arriving, reverse=True):
        if i in rows:
            rows, more = _turned(found, rows, i, _kink(graph, found, i))
            fixed = add_down(fixed, more)
            best = torch.fmax(best, sub_down(fixed, Arriving(rows, found.sources).reach))
    return best


def is_kink(what: object) -> bool:
    """A convex function that is linear on both sides of 0."""
    return isinstance(what, Nonlinear) and isinstance(what.block, Pointwise) and _sides(what.block) is not None


def _sides(block: Pointwise) -> tuple[float, float] | None:
    slopes = block.activation.row.slopes_on
    if not isinstance(slopes, Corner):
        return None
    ends = slopes.sides(*(torch.as_tensor(p, dtype=torch.float64) for p in block.activation.params))
    if any(torch.as_tensor(end).numel() != 1 for end in ends):
        return None
    left, right = (float(end) for end in ends)
    return (left, right) if left + 1e-3 <= right else None


def _kink(graph: Graph, found: Expanded, i: int) -> Kink:
    what = graph.nodes[i].what
    assert isinstance(what, Nonlinear)
    assert isinstance(what.block, Pointwise)
    expansion, sides = found.expansions[i], _sides(what.block)
    assert sides is not None
    loose = source(expansion)[0]
    u = found.arriving[i]
    slope = expansion.gains[0].mv(torch.ones(1, graph.nodes[i].size, dtype=torch.float64))[0]  # of a diagonal, exactly
    at = (slope[loose], expansion.value.centre[0, loose], u.centre[loose], expansion.entries[loose])
    return Kink(*at, u.moved(loose), *sides)


def _turned(found: Expanded, rows: Rows, i: int, kink: Kink) -> tuple[Rows, Tensor]:
    """The functionals without the source i: rows of the others, and what is added whatever they are, a lower value (k,)."""
    c, rest = rows[i].centre.T, {key: known for key, known in rows.items() if key != i}
    turned = c > LEAST
    slope = _proposed(found, rest, c, turned, kink)
    B = torch.where(turned, c * (slope - kink.m), 0.0)  # alpha is what makes this exact
    parts = [torch.where(turned, part, 0.0) for part in (c * (kink.m * kink.a), B * kink.a, -c * kink.phi)]
    total, size = sum(parts).sum(dim=1), torch.stack(parts).abs().sum(dim=(0, 2))  # type: ignore[union-attr]
    lost = sum_up(mul_up(torch.where(turned, 0.0, c.abs()) + rows[i].reach().T, kink.R) * (1 + 1e-15), 1)
    more = sub_down(total - up(size * 4 * gamma(3 * c.shape[1] + 8) + 1e-300), lost)
    return added(rest, through(Dense(B[None]), kink.u.rows)), more


def _proposed(found: Expanded, rest: Rows, c: Tensor, turned: Tensor, kink: Kink) -> Tensor:
    """Slopes (k, j), by Adam on the lower values that they give (floating, of which nothing is claimed)."""
    keys = [key for key in dict.fromkeys((*rest, *kink.u.rows)) if key != CENTRE]
    width = kink.right - kink.left
    share = ((kink.m - kink.left) / width).clamp(0.02, 0.98).expand_as(c)
    with torch.enable_grad():
        logit = torch.logit(share).clone().requires_grad_()
        optimiser = torch.optim.Adam([logit], lr=RATE)
        best, kept = torch.full((len(c),), -torch.inf, dtype=c.dtype), share.clone()
        for _ in range(STEPS):
            alpha = kink.left + width * torch.sigmoid(logit)
            weight = torch.where(turned, c * (alpha - kink.m), 0.0)
            value = torch.where(turned, c * alpha * kink.a, 0.0).sum(1)
            for key in keys:
                parts = [rest[key].centre] if key in rest else []
                parts += [kink.u.rows[key].centre @ weight.T] if key in kink.u.rows else []
                value = value - _size(found.sources[key], torch.stack(parts).sum(0))
            better = value.detach() > best
            best = torch.where(better, value.detach(), best)
            kept = torch.where(better[:, None], torch.sigmoid(logit).detach(), kept)
            optimiser.zero_grad()
            (-value.sum()).backward()
            optimiser.step()
    return kink.left + width * kept.clamp(INSIDE, 1 - INSIDE)


def _size(origin: Origin, rows: Tensor) -> Tensor:
    """(k,) how far a source moves the functionals, about."""
    if not len(rows):
        return rows.sum(0)
    if origin.entries is not None:
        return (origin.entries[:, None] * rows).abs().sum(0)
    assert origin.lengths is not None
    grouped = rows.reshape(len(origin.lengths), -1, rows.shape[1])
    dual = {"1": torch.inf, "2": 2.0, "inf": 1.0}[origin.norm]
    return (origin.lengths[:, None] * torch.linalg.vector_norm(grouped, dual, dim=1)).sum(0)
