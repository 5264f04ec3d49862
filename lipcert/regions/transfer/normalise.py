"""LayerNorm, RMSNorm, GroupNorm, InstanceNorm about the centre (MATH section 10).

v = P u (P = I - 1 1'/D, or I), s = (|v|^2 / D + eps)^(1/2), z = v / s. With the entry (D eps)^(1/2) added to v this is D^(1/2)
times f(v) = v / |v|, so eps needs no case of its own. For d >= |P (u - a)|, t >= |z_c'(u - a)| / D, both over the region,
q = d / (s_c D^(1/2)) < 1 and theta = min(q, t / s_c):

    ||J(x) - J_c||  <=  (1 / s_c) min( (2 / sqrt 3) q / (1 - q),  (A + sqrt(A^2 + 4 (1 + A) q^2)) / 2 ),
                        A = max( theta / (1 - theta),  1 - 1 / sqrt((1 + theta)^2 + q^2) )
    ||rho||         <=  D^(1/2) (2 / sqrt 3) (-log(1 - q) - q)
    |rho_i|         <=  |s - s_c| / (s s_c) (|delta_i| + |z_i| t) + |z_i| kappa / s,     kappa <= d^2 / (2 D (s_c - t))

Proof. Df and D^2 f are homogeneous of degree -1 and -2; at a unit vector with delta = (a, b) along and across it the norms
of D(Df)[delta] and D^2 f[delta, delta] are at most 2 / sqrt 3 |delta|, |delta|^2, and |v_c + h delta| >= |v_c| (1 - h q): integrate over
[0, 1]. The second form: Df(v) = nn' complement / |v|; on the plane of v and v_c the difference of two such projections scaled
by alpha, beta has the eigenvalues ((alpha - beta) +- sqrt((alpha - beta)^2 + 4 alpha beta sin^2)) / 2, sin <= q, and across it alpha - beta.
s is convex with gradient z / D. Entries: z_i - z_ci - (J_c delta)_i = (1/s - 1/s_c)(delta_i - z_ci tau) - z_ci kappa / s with
tau = z_c'delta / D and s = s_c + tau + kappa, kappa (s + s_c + tau) = |delta|^2 / D - tau^2.

For q >= 1: ||J|| <= 1 / s on both sides, |z| <= D^(1/2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.blocks.normalise import Normalise
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Node
from lipcert.regions.transfer.blockwise import Blockwise, along
from lipcert.regions.transfer.expansion import Arriving, Expansion, identity
from lipcert.rigor.constants import Constant, add, divide, mean, multiply, reciprocal, square_root, subtract
from lipcert.rigor.rounding import EPS, add_up, div_up, mul_up, sqrt_down, sqrt_up, sub_down, up
from lipcert.terms.errors import RefusedModel

FORMULA = 1 + 64 * EPS  # for formulas of few operations, all of nonnegative numbers
SERIES = 24
WIDEST = 4096  # entries of a group: the Jacobian of each is a dense matrix


def normalise(node: Node, block: Normalise, inputs: list[Arriving]) -> Expansion:
    (u,) = inputs
    n, positions = block.n, along(block.outer, block.n, block.inner)
    if n > WIDEST:
        raise RefusedModel(f"{node.name}: groups of {n} entries are too wide for dense Jacobians", node=node.name)
    z, s, J = _at(Constant(u.centre[positions]), block)
    flat, total = positions.reshape(-1), positions.numel()
    local = torch.arange(total).reshape(-1, 1, n)
    ordered = u.moved(positions)
    centred = ordered.of(_projection(n, local)) if block.centred else ordered
    groups = len(positions)
    d = centred.lengths(groups)
    along_z = Blockwise(
        z.centre[:, None], local, torch.arange(groups).reshape(-1, 1, 1), (total, groups), z.reach()[:, None]
    )
    t = mul_up(div_up(ordered.of(along_z).reach, float(n)), FORMULA)
    off, length, entries = remainders(n, d, t, centred.reach.reshape(groups, n), z, s, block.eps)
    back = torch.empty_like(flat)
    back[flat] = torch.arange(total)
    gain = Blockwise(J.centre, positions[:, None], positions[:, None], (total, total), J.reach())
    value = Known(z.centre.reshape(-1)[back][None], z.reach().reshape(-1)[back][None])
    term = identity(0, off, positions, positions, (total, total))
    return Expansion(value, (gain,), entries.reshape(-1)[back], length, positions, terms=(term,))


def _at(u: Constant, block: Normalise) -> tuple[Constant, Tensor, Constant]:
    """z (g, n), lower values (g,) of s, and the Jacobian (g, n, n) at u (g, n)."""
    n = block.n
    v = subtract(u, mean(u, 1, True)) if block.centred else u
    s = square_root(add(mean(multiply(v, v), 1, True), block.eps))
    if not bool((s.lower > 0).all()):
        raise RefusedModel("the centre has no deviation to divide by")
    z = divide(v, s)
    outer = divide(multiply(z.map(lambda t: t[:, :, None]), z.map(lambda t: t[:, None, :])), float(n))
    unit = Constant(torch.eye(n, dtype=torch.float64)[None])
    first = (
        subtract(unit, divide(Constant(torch.ones(1, n, n, dtype=torch.float64)), float(n))) if block.centred else unit
    )
    return z, s.lower[:, 0], multiply(subtract(first, outer), reciprocal(s).map(lambda t: t[:, :, None]))


def _projection(n: int, local: Tensor) -> Blockwise:
    """P on each group, up to the rounding of 1 / n."""
    share = 1.0 / n
    weight = (torch.eye(n, dtype=torch.float64) - share)[None].expand(len(local), n, n)
    radius = torch.full_like(weight, 4 * EPS * (share + float(n > 1)))
    total = local.numel()
    return Blockwise(weight, local, local, (total, total), radius)


def remainders(
    n: int, d: Tensor, t: Tensor, reach: Tensor, z: Constant, s: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Upper values of ||J(x) - J_c|| (g,), ||rho|| (g,) and |rho_i| (g, n). `reach`: |P (u - a)| entry by
    entry. `s`: lower values of s_c."""
    root = sqrt_up(float(n))
    q = div_up(div_up(d, s), sqrt_down(float(n)))
    theta = torch.minimum(q, div_up(t, s))
    near = q < 1  # false for NaN
    x, h = torch.where(near, q, 0.5), torch.where(near, theta, 0.5)
    third = 2 / math.sqrt(3) * FORMULA
    first = third * x / (1 - x)
    A = torch.maximum(h / (1 - h), 1 - 1 / ((1 + h) ** 2 + x * x).sqrt() + 16 * EPS) * FORMULA
    second = (A + (A * A + 4 * (1 + A) * x * x).sqrt()) / 2
    least = sub_down(s, torch.minimum(t, div_up(d, sqrt_down(float(n))))).clamp(min=0.0)
    least = torch.maximum(least, torch.full_like(least, math.sqrt(max(0.0, eps)) * (1 - 8 * EPS)))
    beyond = add_up(1 / least * FORMULA, 1 / s * FORMULA)
    off = torch.where(near, torch.minimum(first, second) / s * FORMULA, beyond)
    length = torch.where(near, root * third * _tail(x) * FORMULA + 1e-300, add_up(div_up(d, s), 2 * root * FORMULA))
    size = up(z.centre.abs() + z.reach())
    kappa = d * d / (2 * n * sub_down(s, t)) * FORMULA + 1e-300
    usable = near & (t < s) & (kappa >= 0)
    kappa, bottom = torch.where(usable, kappa, 0.0), torch.where(usable, least, 1.0)
    change = torch.minimum(add_up(t, kappa), div_up(d, sqrt_down(float(n)))) * FORMULA
    part = (change / (bottom * s))[:, None] * (reach + size * t[:, None]) + size * (kappa / bottom)[:, None]
    entries = torch.where(usable[:, None], part * FORMULA + 1e-300, length[:, None].expand_as(part))
    return (
        off.nan_to_num(math.inf, math.inf),
        length.nan_to_num(math.inf, math.inf),
        torch.minimum(entries, length[:, None]).nan_to_num(math.inf, math.inf),
    )


def _tail(q: Tensor) -> Tensor:
    """-log(1 - q) - q = sum_{k >= 2} q^k / k, upward; what is beyond the series is at most geometric."""
    total, power = torch.zeros_like(q), q
    for k in range(2, SERIES + 1):
        power = power * q
        total = total + power / k
    return (total + power * q / ((SERIES + 1) * (1 - q))) * FORMULA
