"""What nonlinear blocks do to a stack (stack.py): one rule per block, in the table at the foot.

Mean value form: with G an enclosure of the block's generalised Jacobian over all segments between the centre value and
the values on the cell, phi(z(x)) - phi(c_0) in G (S (x - c) +- r_0), and J becomes G J. So row 0 keeps the value at c_0
and its error goes through G like a slope row of centre 0. Elementwise blocks use chords about c_0 for slope rows, which
are tighter than slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.activations.corner import Corner
from lipcert.blocks.base import Axis, Block, Range
from lipcert.blocks.normalise import Norm2, Normalise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.radial import Radial
from lipcert.blocks.selection import Selection
from lipcert.blocks.softmax import LogSoftmax, LogSumExp, Softmax
from lipcert.blocks.sort import Sort
from lipcert.regions.forward.bilinear import matmul, product, sum
from lipcert.regions.forward.entry import GROW, Entry, Exit, middle, or_infinite
from lipcert.regions.forward.stack import LOST, Stack, all_finite
from lipcert.rigor.rounding import EPS, gamma


def scaled(factor: Range, centre: Tensor, radius: Tensor, out: Stack | None = None) -> Stack:
    """[low, high] times centre +- radius, broadcast. An infinite factor of an exact zero gives zero. `out`: where to write
    it, the stack itself for one."""
    m = (factor[0] / 2).add_(factor[1], alpha=0.5)
    h = torch.maximum(factor[1] - m, m - factor[0])
    image, grown = out or (None, None)
    if not all_finite(h):
        finite = torch.isfinite(m) & torch.isfinite(h)
        m, h = torch.where(finite, m, 0.0), torch.where(finite, h, math.inf)
        still = (centre == 0) & (radius == 0)
        reach = ((m.abs() + h) * radius + (h + 2 * EPS * m.abs()) * centre.abs()) * GROW
        reach = torch.mul(or_infinite(reach).masked_fill_(still, 0.0), 1.0, out=grown)
        return torch.mul(m, centre, out=image), reach
    size, mass = m.abs(), centre.abs()
    reach = torch.mul(radius, (size + h).mul_(GROW), out=grown)
    reach.addcmul_(mass, h.add_(size, alpha=2 * EPS).mul_(GROW))
    return torch.mul(m, centre, out=image), reach


def corner_slopes(corner: Corner, params: tuple[float | Tensor, ...], entry: Entry) -> tuple[Range, Range]:
    """Chords about the centre value and slopes of x -> r x (x > 0), l x (x <= 0), in few passes: the formulas of
    activations/corner.py."""
    left, right = corner.sides(*(torch.as_tensor(p, dtype=torch.float64) for p in params))
    z, (low, high) = entry.value, entry.hull
    z_below, z_above = z.clamp(max=0.0), z.clamp(min=0.0)
    # the share of the chord right of 0, least at `low` and most at `high`: where a difference overflows 0 and 1, which
    # are safe, and 0 / 0 where nothing lies right of 0
    least = z_above.div_(z_above - low.clamp(max=0.0)).nan_to_num_(0.0)
    most = 1 - (-z_below).div_(high.clamp(min=0.0).sub_(z_below)).nan_to_num_(1.0)
    pos, may = (low > 0).double(), (high >= 0).double()
    crosses = may - pos
    least, most = least.sub_(crosses, alpha=8 * EPS).clamp_(min=0.0), most.add_(crosses, alpha=8 * EPS).clamp_(max=1.0)
    if isinstance(left, Tensor) and left.numel() == 1 and float(left) == 0 and float(right) == 1:
        return (least, most), (pos, may)
    jump = right - left
    slack = 8 * EPS * (left.abs() + right.abs()) * crosses

    def mixed(share_low: Tensor, share_high: Tensor, pad: Tensor | float) -> Range:
        a, b = (torch.where(share == 1, right, left + jump * share) for share in (share_low, share_high))
        return torch.minimum(a, b) - pad, torch.maximum(a, b) + pad

    return mixed(least, most, slack), mixed(pos, may, 0.0)


def elementwise_slopes(activation: Elementwise, entry: Entry) -> tuple[Range, Range]:
    if isinstance(activation.row.slopes_on, Corner):
        return corner_slopes(activation.row.slopes_on, activation.params, entry)
    return activation.chords_on(entry.value, *entry.hull), activation.slopes_on(entry.lower, entry.upper)


def pointwise(block: Block, entries: list[Entry]) -> Exit:
    assert isinstance(block, Pointwise)
    (entry,) = entries
    activation, (centre, radius), n = block.activation, entry.stack, entry.slopes
    chords, slopes = elementwise_slopes(activation, entry)
    if not all_finite(entry.lower, entry.upper, entry.value):
        unknown = ~(torch.isfinite(entry.lower) & torch.isfinite(entry.upper) & torch.isfinite(entry.value))
        whole = block.slopes()
        chords = _patched(unknown, whole, chords)
        slopes = _patched(unknown, whole, slopes)
    new_centre, new_radius = (centre, radius) if entry.spare else (torch.empty_like(centre), torch.empty_like(radius))
    for rows, factor in ((slice(2, 2 + n), chords), (slice(2 + n, None), slopes)):
        out = new_centre[:, rows], new_radius[:, rows]
        scaled((factor[0][:, None], factor[1][:, None]), centre[:, rows], radius[:, rows], out)
    value, error = middle(*activation.values_on(entry.value, entry.value))
    steepest = torch.maximum(chords[0].abs(), chords[1].abs())
    new_centre[:, 0], new_radius[:, 0] = value, (error + steepest * radius[:, 0]) * GROW + LOST
    new_centre[:, 1], new_radius[:, 1] = middle(*activation.values_on(entry.lower, entry.upper))
    return Exit((new_centre, new_radius), slopes)


def _patched(where: Tensor, whole: Range, found: Range) -> Range:
    return torch.where(where, whole[0], found[0]), torch.where(where, whole[1], found[1])


Rule = Callable[[Block, Entry, Tensor, Tensor], Stack]  # (block, entry, centre, radius): G times rows


def through_jacobian(rule: Rule) -> Callable[[Block, list[Entry]], Exit]:
    """A block of one signal, from its rule for G (c +- r)."""

    def run(block: Block, entries: list[Entry]) -> Exit:
        (entry,) = entries
        centre, radius = entry.stack
        rows = torch.cat([torch.zeros_like(centre[:, :1]), centre[:, 2:]], dim=1)
        reach = torch.cat([radius[:, :1], radius[:, 2:]], dim=1)
        image, error = rule(block, entry, rows, reach)
        value, noise = middle(*block.values_on((entry.value, entry.value)))
        plain, spread = middle(*block.values_on((entry.lower, entry.upper)))
        value_error = (noise + image[:, 0].abs() + error[:, 0]) * GROW + LOST
        return Exit(
            (
                torch.cat([value[:, None], plain[:, None], image[:, 1:]], dim=1),
                torch.cat([value_error[:, None], spread[:, None], error[:, 1:]], dim=1),
            )
        )

    return run


def selection(block: Block, entry: Entry, centre: Tensor, radius: Tensor) -> Stack:
    """Convex combinations of the entries that may be the maximum: those not below the largest lower end."""
    assert isinstance(block, Selection)
    low, high = entry.hull
    if block.minimum:
        low, high = -high, -low
    best = _columns(block, low, -math.inf).amax(dim=0)
    least = most = None
    for column in block.windows.T:
        place = column.clamp(min=0)
        rival = ((column >= 0) & (high[:, place] >= best))[:, None]
        c, r = centre.index_select(2, place), radius.index_select(2, place)
        below, above = torch.where(rival, c - r, math.inf), torch.where(rival, c + r, -math.inf)
        least = below if least is None else torch.minimum(least, below)
        most = above if most is None else torch.maximum(most, above)
    assert least is not None
    assert most is not None
    return _rounded(least, most)


def _columns(block: Selection, side: Tensor, absent: float) -> Tensor:
    return torch.stack([torch.where(c >= 0, side[:, c.clamp(min=0)], absent) for c in block.windows.T])


def _rounded(lower: Tensor, upper: Tensor) -> Stack:
    """Centre and radius of intervals whose ends were rounded a few times. NaN and infinity mean unknown."""
    centre = lower / 2 + upper / 2
    radius = (upper - lower) / 2 + 8 * EPS * torch.maximum(lower.abs(), upper.abs()) + LOST
    known = torch.isfinite(centre) & torch.isfinite(radius)
    return torch.where(known, centre, 0.0), torch.where(known, radius, math.inf)


def _split(block: Axis, t: Tensor) -> Tensor:
    """(b, rows, size) -> (b, rows, outer, n, inner)."""
    return t.reshape(*t.shape[:2], block.outer, block.n, block.inner)


def _flat(stack: Stack) -> Stack:
    centre, radius = (side.reshape(*side.shape[:2], -1) for side in stack)
    return centre, radius


def _weights(block: Axis, entry: Entry, of: Callable[[Range], Range]) -> Range:
    """A range (b, size) of another block on the hull, as (b, 1, outer, n, inner)."""
    low, high = of(entry.hull)
    return _split(block, low[:, None]), _split(block, high[:, None])


def _mean(block: Axis, share: Range, centre: Tensor, radius: Tensor) -> Stack:
    """sum_j s_j u_j along the axis for weights s in `share` that are nonnegative and add up to 1: also within the hull
    of the u_j. (b, rows, outer, n, inner) -> the same with n = 1."""
    c, r = scaled(share, centre, radius)
    total = c.sum(dim=3, keepdim=True)
    slack = (r + gamma(block.n + 4) * c.abs()).sum(dim=3, keepdim=True) * (1 + 4 * gamma(block.n + 8)) + LOST
    least = torch.maximum(total - slack, (centre - radius).amin(dim=3, keepdim=True))
    most = torch.minimum(total + slack, (centre + radius).amax(dim=3, keepdim=True))
    return _rounded(least, most)


def _softmax_of(block: Axis) -> Callable[[Range], Range]:
    return Softmax(block.outer, block.n, block.inner).values_on


def softmax(block: Block, entry: Entry, centre: Tensor, radius: Tensor) -> Stack:
    """(diag(s) - s s') u = s (u - sum_j s_j u_j)."""
    assert isinstance(block, Axis)
    share = _weights(block, entry, _softmax_of(block))
    centre, radius = _split(block, centre), _split(block, radius)
    mean, slack = _mean(block, share, centre, radius)
    return _flat(scaled(share, *_difference(centre, radius, mean, slack)))


def _difference(centre: Tensor, radius: Tensor, c: Tensor, r: Tensor) -> Stack:
    gap = centre - c
    return gap, (radius + r + 2 * EPS * gap.abs()) * GROW


def log_softmax(block: Block, entry: Entry, centre: Tensor, radius: Tensor) -> Stack:
    """(I - 1 s') u."""
    assert isinstance(block, Axis)
    share = _weights(block, entry, _softmax_of(block))
    centre, radius = _split(block, centre), _split(block, radius)
    return _flat(_difference(centre, radius, *_mean(block, share, centre, radius)))


def logsumexp(block: Block, entry: Entry, centre: Tensor, radius: Tensor) -> Stack:
    assert isinstance(block, Axis)
    share = _weights(block, entry, _softmax_of(block))
    return _flat(_mean(block, share, _split(block, centre), _split(block, radius)))


def _dot(block: Axis, weight: Range, centre: Tensor, radius: Tensor) -> Stack:
    c, r = scaled(weight, centre, radius)
    slack = (r + gamma(block.n + 4) * c.abs()).sum(dim=3, keepdim=True) * (1 + 4 * gamma(block.n + 8)) + LOST
    return c.sum(dim=3, keepdim=True), slack


def norm2(block: Block, entry: Entry, centre: Tensor, radius: Tensor) -> Stack:
    """g' u with g = z / ||z||, or anything of the unit ball at 0."""
    assert isinstance(block, Axis)
    size = block.values_on(entry.hull)
    least, most = (side.reshape(-1, 1, block.outer, 1, block.inner) for side in size)
    low, high = _weights(block, entry, lambda u: u)
    g = _direction(low, high, least, most)
    return _flat(_dot(block, g, _split(block, centre), _split(block, radius)))


def normalise(block: Block, entry: Entry, centre: Tensor, radius: Tensor) -> Stack:
    """(I - z z' / n) P u / s, z the output, s = sqrt(|P v|^2 / n + eps)."""
    assert isinstance(block, Normalise)
    z = _weights(block, entry, block.values_on)
    low, high = _weights(block, entry, lambda u: u)
    n, slack = block.n, 64 * EPS + 8 * gamma(block.n + 8)
    centre, radius = _split(block, centre), _split(block, radius)
    if block.centred:
        mass = (low.abs().maximum(high.abs())).mean(dim=3, keepdim=True) * slack
        low, high = low - high.mean(dim=3, keepdim=True) - mass, high - low.mean(dim=3, keepdim=True) + mass
        low, high = low - slack * low.abs(), high + slack * high.abs()
        mean = centre.mean(dim=3, keepdim=True)
        noise = (radius + slack * centre.abs()).mean(dim=3, keepdim=True) * (1 + slack)
        centre, radius = _difference(centre, radius, mean, noise)
    near = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
    far = torch.maximum(low.abs(), high.abs())
    least = torch.sqrt((near * near).mean(dim=3, keepdim=True) + block.eps) * (1 - slack)
    least = least.clamp(max=1e150)  # beyond it the squares overflow
    most = torch.sqrt((far * far).mean(dim=3, keepdim=True) + block.eps) * (1 + slack)
    inverse = (1 / most) * (1 - slack), (1 / least) * (1 + slack)
    along, spread = _dot(block, z, centre, radius)
    back, spread = scaled(z, along / n, spread / n * GROW + 2 * EPS * along.abs() / n)
    return _flat(scaled(inverse, *_difference(centre, radius, back, spread)))


def radial(block: Block, entry: Entry, centre: Tensor, radius: Tensor) -> Stack:
    """phi u + (psi' - phi) n n' u, n = v / |v|, or anything of the unit ball at 0."""
    assert isinstance(block, Radial)
    least, most = block.sizes(entry.hull)
    low, high = _weights(block, entry, lambda u: u)
    n = _direction(low, high, least[:, None], most[:, None])
    across, along = block.eigenvalues((least, most))
    gap = along[0] - across[1], along[1] - across[0]
    slack = 4 * EPS * (gap[0].abs() + gap[1].abs()).nan_to_num(0.0, 0.0) + LOST
    gap = (gap[0] - slack)[:, None], (gap[1] + slack)[:, None]
    centre, radius = _split(block, centre), _split(block, radius)
    inner = scaled(gap, *_dot(block, n, centre, radius))
    return _flat(sum(scaled((across[0][:, None], across[1][:, None]), centre, radius), scaled(n, *inner)))


def _direction(low: Tensor, high: Tensor, least: Tensor, most: Tensor) -> Range:
    """Entries of v / |v| for v in [low, high], |v| in [least, most]."""
    below = torch.where(low < 0, low / least, low / most)
    above = torch.where(high > 0, high / least, high / most)
    return (
        (below - 32 * EPS * below.abs() - LOST).nan_to_num(-1.0, 1.0, -1.0).clamp(-1.0, 1.0),
        (above + 32 * EPS * above.abs() + LOST).nan_to_num(1.0, 1.0, -1.0).clamp(-1.0, 1.0),
    )


def sort(block: Block, entry: Entry, centre: Tensor, radius: Tensor) -> Stack:
    """Output k is a convex combination of the entries whose range meets that of the k-th largest."""
    assert isinstance(block, Sort)
    low, high = (_split(block, side[:, None])[:, 0] for side in entry.hull)
    rank_low, rank_high = block.function(low), block.function(high)
    c, r = _split(block, centre), _split(block, radius)
    least, most = [], []
    for k in range(block.n):
        rival = ((low <= rank_high[:, :, k : k + 1]) & (high >= rank_low[:, :, k : k + 1]))[:, None]
        least.append(torch.where(rival, c - r, math.inf).amin(dim=3))
        most.append(torch.where(rival, c + r, -math.inf).amax(dim=3))
    return _flat(_rounded(torch.stack(least, dim=3), torch.stack(most, dim=3)))


RULES: dict[type[Block], Callable[[Block, list[Entry]], Exit]] = {
    Pointwise: pointwise,
    Selection: through_jacobian(selection),
    Softmax: through_jacobian(softmax),
    LogSoftmax: through_jacobian(log_softmax),
    LogSumExp: through_jacobian(logsumexp),
    Norm2: through_jacobian(norm2),
    Normalise: through_jacobian(normalise),
    Radial: through_jacobian(radial),
    Sort: through_jacobian(sort),
    Product: product,
    MatMul: matmul,
}
