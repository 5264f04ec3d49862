"""The largest radius at which nothing is lost: secants of the logarithms, within a bracket.

What is lost of a margin grows like a power of the radius: like r where the network is linear, faster where remainders of second
and higher order count. So log(lost / margin) against log(r) is nearly a line, and a few balls find where it passes 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.terms.clock import late

AIM = 0.985  # of the margin
ENOUGH = 0.97  # lost and still held: a larger ball would gain 1 % or less, for the slope is often 3
CLOSE = 1.02  # ends of a bracket
SLOPES = (1.0, 8.0)
STEP = 8.0  # at most, up or down
GROWTH = 1.4  # from a radius that is held, where none is known that is not

Lost = Callable[[Tensor, Tensor], Tensor]  # numbers (t,) of samples and radii (t,) -> upper values (t, k)


def largest_held(lost: Lost, ahead: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Radii (b,) at which lost < ahead (b, k) was found, strictly and for all k, 0: at none; and which k is nearest to being lost,
    (b,). `start` (b,): where to begin. Only what was found is told: nothing is interpolated."""
    low, high = torch.zeros_like(start), torch.full_like(start, torch.inf)
    trial, limit = start.clone(), ahead.argmin(dim=1)
    before, behind = torch.full_like(start, torch.nan), torch.full_like(start, torch.nan)
    todo = torch.arange(len(start))
    for _ in range(steps):
        if not len(todo):
            break
        r, margin = trial[todo], ahead[todo]
        found = lost(todo, r)
        held = (found < margin).all(dim=1)  # false for NaN
        share, place = (found / margin).nan_to_num(torch.inf, torch.inf).max(dim=1)
        limit[todo] = place
        low[todo] = torch.where(held, torch.maximum(low[todo], r), low[todo])
        high[todo] = torch.where(held, high[todo], torch.minimum(high[todo], r))
        trial[todo] = _next(r, share, held, before[todo], behind[todo], low[todo], high[todo])
        before[todo], behind[todo] = r, share
        todo = todo[~(held & (share >= ENOUGH)) & ~(high[todo] <= CLOSE * low[todo])]
    return low, limit


def grown(lost: Lost, ahead: Tensor, held: tuple[Tensor, Tensor], beyond: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The same from `held`, radii (b,) at which nothing is lost with what limits them, up to `beyond` (b,), at which something is;
    inf: not known. For values that are only as close as it takes to see `lost < ahead`, so that they say nothing about other
    radii: by halves of the bracket. Where nothing is held there is nowhere to begin."""
    low, limit = (end.clone() for end in held)
    high = beyond.clone()
    for _ in range(steps):
        todo = ((low > 0) & (high > CLOSE * low)).nonzero()[:, 0]
        if not len(todo) or late():
            break
        r = torch.where(torch.isinf(high), low * GROWTH, low.sqrt() * high.sqrt())[todo]
        found = lost(todo, r)
        holds = (found < ahead[todo]).all(dim=1)  # false for NaN
        limit[todo] = torch.where(
            holds, limit[todo], (found / ahead[todo]).nan_to_num(torch.inf, torch.inf).argmax(dim=1)
        )
        low[todo] = torch.where(holds, torch.maximum(low[todo], r), low[todo])
        high[todo] = torch.where(holds, high[todo], torch.minimum(high[todo], r))
    return low, limit


def _next(r: Tensor, share: Tensor, held: Tensor, before: Tensor, behind: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where to look next; any positive number would be a true question."""
    slope = ((share / behind).log() / (r / before).log()).nan_to_num(2.0, 2.0, 2.0).clamp(*SLOPES)
    factor = (AIM / share) ** (1 / slope)
    factor = factor.nan_to_num(STEP, STEP).clamp(1 / STEP, STEP)  # 1 / STEP where everything is lost
    factor = torch.where(held, factor.clamp(min=1.0), factor.clamp(max=1.0))
    ahead = r * factor
    inside = (ahead > low) & (ahead < high)
    middle = torch.where(low > 0, torch.where(high < torch.inf, (low * high).sqrt(), low * CLOSE), high / STEP)
    return torch.where(inside, ahead, middle)
