"""Softmax about the centre, row by row (MATH section 10).

With a_i = delta_i - s_c'delta, |a_i| <= A_i, e(a) = e^a - 1 - a and R >= max delta - min delta,

    0  <=  log sum_j s_cj e^(a_j)  <=  kappa = min( R^2 / 8,  R,  log(1 + sum_j s_cj e(A_j)) )

(Jensen; Hoeffding's lemma; sum_j s_cj a_j = 0 and |e(a)| <= e(|a|)). log(s_i / s_ci) = a_i - that lies in [a_i - kappa, a_i], so

    - s_ci kappa  <=  rho_i  <=  min( s_ci e(A_i),  max U )                           (e^y >= 1 + y)
    U(a) = s_ci / (s_ci + t e^(-a / t)) - s_ci - s_ci a,   t = 1 - s_ci               (Jensen over the other entries, whose mean is -s_ci a / t)
    -w J_c  <=  J(x) - J_c  <=  w J_c,    w = max( e^(max A) - 1, 1 - e^(-max A - kappa) )          (Loewner order)

for v'Jv = Var_s(v) = min_m sum_i s_i (v_i - m)^2 is monotone in s. J_c = F F' with F = (I - s_c 1') diag(s_c)^(1/2), hence
J(x) - J_c = F D F' with ||D|| <= w: a relative error. Where w is large, 0 <= J <= I / 2 on both sides gives 1/2 instead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipcert.blocks.softmax import Softmax
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Node
from lipcert.regions.transfer.blockwise import Blockwise, along
from lipcert.regions.transfer.expansion import Arriving, Expansion, Term
from lipcert.rigor.constants import Constant, from_range, multiply, square_root, subtract
from lipcert.rigor.rounding import EPS, add_up, mul_up, sub_up, sum_up, up

FORMULA = 1 + 64 * EPS  # for formulas of few operations, all of nonnegative numbers
LARGE = 700.0  # beyond it exp overflows
FAR = 700.0  # below another entry: a weight of e^-700 < 1e-304
UNSEEN = 1e-40  # above 2 n^2 e^-FAR for every n
PAIRS = 4096  # differences of two entries, all rows together


def softmax(node: Node, block: Softmax, inputs: list[Arriving]) -> Expansion:
    (u,) = inputs
    n, positions = block.n, along(block.outer, block.n, block.inner)
    groups, total = positions.shape[0], positions.numel()
    hidden = out_of_sight(u, positions)
    seen = u.centre.clone()
    seen[positions[hidden]] = -math.inf
    lower, upper = (torch.where(hidden, 0.0, end[0][positions]) for end in block.values_on((seen[None], seen[None])))
    s = from_range(lower, upper)
    unit = Constant(torch.eye(n, dtype=torch.float64)[None])
    columns, rows = s.map(lambda t: t[:, :, None]), s.map(lambda t: t[:, None, :])
    away = _blockwise(subtract(unit, rows.map(lambda t: t.expand(groups, n, n))), positions, total)
    A = u.of(away).reach[positions].masked_fill(hidden, 0.0)  # (g, n)
    kappa = spread(A, s.upper, apart(u, positions, hidden))
    off, below, above = remainders(A, kappa, s)
    root = square_root(s)
    factor = multiply(subtract(unit, columns.map(lambda t: t.expand(groups, n, n))), root.map(lambda t: t[:, None, :]))
    J = multiply(columns, subtract(unit, rows))
    wide = ~(off < 2)  # NaN too
    inner = _chosen(wide, factor.map(lambda t: t.mT))
    outer = _columns(_chosen(wide, factor), torch.where(wide, 0.5, off), positions, total)
    terms = [_term(inner, outer, positions)]
    value, entries = _middle(s, below, above, positions)
    if bool(hidden.any()):
        entries = add_up(entries, UNSEEN)
        terms.append(_unseen(positions, hidden.any(dim=1)))
    return Expansion(value, (_blockwise(J, positions, total),), entries, terms=tuple(terms))


def out_of_sight(u: Arriving, positions: Tensor) -> Tensor:
    """(g, n): entries at least FAR below another one on all of the region. They are left out of the row: what they add, m <= n e^-FAR
    in all, changes no entry by more, and the Jacobian, whose entries change by 2 m, by at most 2 n m in norm: both below UNSEEN."""
    lower, upper = (end[positions] for end in u.range)
    return sub_up(upper, lower.amax(dim=1, keepdim=True)) <= -FAR  # false for NaN


def _unseen(positions: Tensor, some: Tensor) -> Term:
    """What rows with entries out of sight leave out of their Jacobians. Its square root on both sides: multipliers of 1 do."""
    at, n = positions[some], positions.shape[1]
    root = Constant((torch.eye(n, dtype=torch.float64) * math.sqrt(UNSEEN) * (1 + 4 * EPS))[None].expand(len(at), n, n))
    total = positions.numel()
    return _term(root, _columns(root, torch.ones(len(at), dtype=torch.float64), at, total), at, total)


def _term(inner: Constant, outer: Known, positions: Tensor, total: int | None = None) -> Term:
    """W row by row, so that `number` is the group of each of its entries whatever the axis."""
    groups, n = positions.shape
    number = torch.arange(groups).repeat_interleave(n)
    sizes = (positions.numel() if total is None else total, positions.numel())
    write = torch.arange(groups * n).reshape(groups, 1, n)
    by_row = Blockwise(inner.centre, positions[:, None], write, sizes, inner.reach())
    return Term(0, by_row, number, outer, number, groups)


def _middle(s: Constant, below: Tensor, above: Tensor, positions: Tensor) -> tuple[Known, Tensor]:
    """A value in the middle of what s may become, and how far from it that is."""
    shift = torch.where((above - below).isfinite(), (above - below) / 2, 0.0)
    middle = s.centre + shift
    entries = torch.maximum(sub_up(above, shift), add_up(below, shift))
    reach = up(s.reach() + EPS * middle.abs())
    return Known(_placed(middle, positions), _placed(reach, positions)), _placed(entries, positions)[0]


def apart(u: Arriving, positions: Tensor, hidden: Tensor | None = None) -> Tensor:
    """R (g,), upward: the largest reach of a difference of two entries that are not hidden. Where those are too many, inf."""
    groups, n = positions.shape
    first, second = torch.triu_indices(n, n, 1)
    if n < 2 or groups * len(first) > PAIRS:
        return torch.full((groups,), 0.0 if n < 2 else math.inf, dtype=torch.float64)
    weight = torch.zeros(1, len(first), n, dtype=torch.float64)
    weight[0, torch.arange(len(first)), first], weight[0, torch.arange(len(first)), second] = 1.0, -1.0
    write = torch.arange(groups * len(first)).reshape(1, groups, -1)
    pairs = Blockwise(weight, positions[None], write, (positions.numel(), write.numel()))
    found = u.of(pairs).reach.reshape(groups, -1)
    if hidden is not None:
        found = found.masked_fill(hidden[:, first] | hidden[:, second], 0.0)
    return found.amax(dim=1)


def spread(A: Tensor, s: Tensor, R: Tensor) -> Tensor:
    """kappa (g,), upward. `s`: upper values (g, n); `R` (g,): max - min of a over a row, which is at most the sum of its two
    largest |a|."""
    if A.shape[1] == 1:
        return A.new_zeros(len(A))
    two = A.topk(2, dim=1).values
    both = add_up(two[:, 0], two[:, 1])
    R = torch.minimum(both, R)
    mean = sum_up(mul_up(s, _tail(A)), 1)
    weighted = (torch.log1p(mean) * FORMULA + 1e-300).nan_to_num(math.inf, math.inf)
    return torch.minimum(torch.minimum(mul_up(R, R) / 8, R), weighted)


def remainders(A: Tensor, kappa: Tensor, s: Constant) -> tuple[Tensor, Tensor, Tensor]:
    """w (g,), and -below <= rho_i <= above (g, n), upward. s (g, n)."""
    largest = A.amax(dim=1)
    most, far = torch.expm1(largest), largest + kappa
    off = torch.maximum(most, -torch.expm1(-far)) * FORMULA + 1e-300
    off = torch.where(largest < LARGE, off, math.inf)
    whole = add_up(mul_up(s.upper, A), 1.0)  # no entry leaves [0, 1]
    below = mul_up(s.upper, kappa[:, None]) * FORMULA + 1e-300
    above = torch.minimum(mul_up(s.upper, _tail(A)) * FORMULA + 1e-300, _against_others(A, s))
    below, above = (torch.minimum(side.nan_to_num(math.inf, math.inf), whole) for side in (below, above))
    return off, below, above


def _against_others(A: Tensor, s: Constant) -> Tensor:
    """max U over [-A, A], upward: at its ends, at 0, or where its derivative is 0 once more, s_i = t. Where the quotients by t
    stay harmless: 1e-13 and 1e4 times what is not known of s are more than what floats lose of numbers below 2."""
    p = s.centre.clamp(0.01, 0.99)
    usable = (p == s.centre) & (A <= 1)
    t, reach = 1 - p, torch.where(usable, A, 0.0)
    turn = (2 * t * torch.log(t / p)).abs().minimum(reach) * torch.sign(t - p)

    def over(a: Tensor) -> Tensor:
        return p / (p + t * torch.exp(-a / t)) - p - p * a

    best = torch.stack([over(reach), over(-reach), over(turn)]).amax(dim=0).clamp(min=0.0)
    return torch.where(usable, best + 1e-13 + 1e4 * s.reach(), math.inf)


def _tail(x: Tensor) -> Tensor:
    """e^x - 1 - x <= x^2/2! + .. + x^11/11! + x^12 e^x / 12!, upward, x >= 0."""
    total, power = torch.zeros_like(x), x
    for k in range(2, 12):
        power = power * x / k
        total = total + power
    return (total + power * x / 12 * torch.exp(x)) * FORMULA


def _blockwise(matrix: Constant, positions: Tensor, total: int) -> Blockwise:
    return Blockwise(matrix.centre, positions[:, None], positions[:, None], (total, total), matrix.reach())


def _chosen(wide: Tensor, factor: Constant) -> Constant:
    """The factor F, or the unit matrix."""
    unit = torch.eye(factor.shape[1], dtype=torch.float64)[None]
    pick = wide[:, None, None]
    return Constant(torch.where(pick, unit, factor.centre), torch.where(pick, 0.0, factor.reach()))


def _columns(factor: Constant, size: Tensor, positions: Tensor, total: int) -> Known:
    """size_g times the columns of each factor, as rows over the signal."""
    groups, n = positions.shape
    scaled = multiply(factor, Constant(size[:, None, None]))
    centre, radius = (torch.zeros(groups, n, total, dtype=torch.float64) for _ in range(2))
    places = positions[:, None, :].expand(groups, n, n)
    centre.scatter_(2, places, scaled.centre.mT.contiguous())
    radius.scatter_(2, places, scaled.reach().mT.contiguous())
    return Known(centre.reshape(groups * n, total), radius.reshape(groups * n, total))


def _placed(values: Tensor, positions: Tensor) -> Tensor:
    """(g, n) at their positions, (1, size)."""
    out = values.new_zeros(1, values.numel())
    out[0, positions.reshape(-1)] = values.reshape(-1)
    return out
