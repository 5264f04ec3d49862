"""log-sum-exp about the centre. With s_c = softmax(c), a_i = d_i - s_c'd, |a_i| <= A_i and kappa as in `softmax.py`:

    0  <=  lse(u) - lse(c) - s_c'd  =  log sum_i s_ci e^(a_i)  <=  kappa                    (Jensen, Hoeffding)
    |s_i - s_ci|  <=  s_ci max( e^(A_i) - 1,  1 - e^(-A_i - kappa) )  <=  1

and the rows s - s_c sum to 0, so that W = I - 11'/n goes before them.
"""

from __future__ import annotations

import math

import torch

from lipcert.blocks.softmax import LogSumExp, Softmax
from lipcert.network.graph import Enclosure as Known
from lipcert.network.graph import Node
from lipcert.regions.transfer.blockwise import Blockwise, along
from lipcert.regions.transfer.expansion import Arriving, Expansion, Term
from lipcert.regions.transfer.order import centring
from lipcert.regions.transfer.softmax import FORMULA, LARGE, apart, spread
from lipcert.rigor.constants import Constant, from_range, subtract
from lipcert.rigor.rounding import add_up, mul_up, norm_up, up


def logsumexp(node: Node, block: LogSumExp, inputs: list[Arriving]) -> Expansion:
    (u,) = inputs
    n, positions = block.n, along(block.outer, block.n, block.inner)
    groups, total = len(positions), positions.numel()
    centre = u.centre[None]
    lower, upper = Softmax(block.outer, block.n, block.inner).values_on((centre, centre))
    s = from_range(lower[0][positions], upper[0][positions])
    unit = Constant(torch.eye(n, dtype=torch.float64)[None])
    away = subtract(unit, s.map(lambda t: t[:, None, :].expand(groups, n, n)))
    A = u.of(Blockwise(away.centre, positions[:, None], positions[:, None], (total, total), away.reach())).reach[
        positions
    ]
    kappa = spread(A, s.upper, apart(u, positions))
    grown = torch.maximum(torch.expm1(A), -torch.expm1(-(A + kappa[:, None]))) * FORMULA
    grown = torch.where(A < LARGE, grown, math.inf).nan_to_num(math.inf, math.inf)
    off = norm_up(torch.minimum(mul_up(s.upper, grown) + 1e-300, torch.ones_like(A)), "2", 1)
    least, most = block.values_on((centre, centre))
    middle = least / 2 + most / 2
    value = Known(middle, up(torch.maximum(most - middle, middle - least)))
    write = torch.arange(groups)[:, None, None]
    gain = Blockwise(s.centre[:, None], positions[:, None], write, (total, groups), s.reach()[:, None])
    across = centring(torch.ones(groups, n, dtype=torch.float64), torch.full((groups,), float(n), dtype=torch.float64))
    inner = Blockwise(
        across.centre, positions[:, None], torch.arange(total).reshape(groups, 1, n), (total, total), across.reach()
    )
    columns = torch.diag(torch.minimum(off, torch.full_like(off, 2**0.5 * FORMULA)))
    number = torch.arange(groups)
    term = Term(0, inner, number.repeat_interleave(n), Known(columns), number, groups)
    entries = add_up(kappa * FORMULA, 1e-300)
    return Expansion(value, (gain,), entries, terms=(term,))
