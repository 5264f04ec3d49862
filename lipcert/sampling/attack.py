"""Projected gradient descent on the margin (Madry et al. 2018), in l1, l2 or linf, many samples at once.

It bounds radii from above: `attacked` is the distance of an input whose margin was proved not to be positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.graph import Enclosure, Graph
from lipcert.rigor.rounding import norm_up, up
from lipcert.terms.query import P

ORDER = {"1": 1.0, "2": 2.0, "inf": torch.inf}
ROWS = 2**13


@dataclass(frozen=True)
class Pgd:
    """`restarts` per round, half of them from the sample itself; step sizes in units of radius / steps, dealt out in
    turn; `rounds` of growing and shrinking the radius. `clip`: box of valid inputs."""

    restarts: int = 4
    steps: int = 20
    rounds: int = 6
    sizes: tuple[float, ...] = (2.5, 1.0, 8.0)
    clip: tuple[float, float] | None = None
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Nearest:
    """`distance` (b,): rounded up, inf where nothing was found; `x` (b, n): the input found, or the sample."""

    distance: Tensor
    x: Tensor

    def __getitem__(self, rows: Tensor) -> Nearest:
        return Nearest(self.distance[rows], self.x[rows])


def search(
    graph: Graph, x: Tensor, seeds: Tensor, tolerance: Tensor | None, norm: P, start: Tensor, pgd: Pgd
) -> Nearest:
    """The nearest inputs that PGD finds with some functional of `seeds` (b, k, m) not positive, or moved by `tolerance`
    (b, k) or more. `start` (b,): radius to begin with."""
    goal = Goal.of(graph, x, seeds, tolerance, pgd.device)
    best = Nearest(torch.full_like(start, torch.inf), x.clone())
    radius, failed = start.clone(), torch.zeros_like(start)
    for turn in range(pgd.rounds):
        found = within(goal, x, radius, norm, pgd, turn)
        better = found.distance < best.distance
        best = Nearest(
            torch.where(better, found.distance, best.distance), torch.where(better[:, None], found.x, best.x)
        )
        failed = torch.where(torch.isinf(found.distance), torch.maximum(failed, radius), failed)
        middle = torch.maximum(0.9 * best.distance, (failed + best.distance) / 2)
        radius = torch.where(torch.isinf(best.distance), radius * 2.0, middle)
    return best


@dataclass(frozen=True, eq=False)
class Goal:
    """Functional values at any inputs: `margin` (b, k), <= 0 where the attack has succeeded."""

    graph: Graph
    fast: Graph
    seeds: Tensor
    origin: Tensor  # (b, k): values at the samples, for tolerances
    tolerance: Tensor | None

    @classmethod
    def of(cls, graph: Graph, x: Tensor, seeds: Tensor, tolerance: Tensor | None, device: str) -> Goal:
        with torch.no_grad():
            origin = torch.einsum("bkm,bm->bk", seeds, graph.evaluate(x))
        fast = graph.to(device, torch.float32)
        return cls(graph, fast, seeds, origin, tolerance)

    def loss(self, at: Tensor, rows: Tensor) -> Tensor:
        """(r,): least margin, floating, in the dtype of `at`."""
        y = self.fast.evaluate(at)
        value = torch.einsum("bkm,bm->bk", self.seeds[rows].to(y), y)
        if self.tolerance is not None:
            moved = (value - self.origin[rows].to(y)).abs()
            value = self.tolerance[rows].to(y) - moved
        return value.amin(dim=1)

    def reached(self, at: Tensor, rows: Tensor) -> Tensor:
        """(r,): proved in real arithmetic that a margin is not positive there. `at` float64."""
        found = self.graph.enclose(Enclosure(at))
        seeds = self.seeds[rows]
        value = torch.einsum("bkm,bm->bk", seeds, found.centre)
        slack = torch.einsum("bkm,bm->bk", seeds.abs(), found.reach() + 1e-15 * found.centre.abs()) * (1 + 1e-12)
        if self.tolerance is None:
            return (value + slack <= 0).any(dim=1)
        origin = self.origin[rows]
        moved = (value - origin).abs() - 2 * slack - 1e-12 * origin.abs()
        return (moved >= self.tolerance[rows]).any(dim=1)


def within(goal: Goal, x: Tensor, radius: Tensor, norm: P, pgd: Pgd, turn: int = 0) -> Nearest:
    """The nearest proved adversarial inputs among those that one round finds within `radius` (b,) of x (b, n)."""
    b = x.shape[0]
    best, where = torch.full((b,), torch.inf, dtype=torch.float64), x.clone()
    rows = max(1, ROWS // pgd.restarts)
    for begin in range(0, b, rows):
        part = torch.arange(begin, min(b, begin + rows))
        distance, at = _round(goal, x[part], part, radius[part], norm, pgd, turn)
        best[part], where[part] = distance, at
    return Nearest(best, where)


def _round(goal: Goal, x: Tensor, part: Tensor, radius: Tensor, norm: P, pgd: Pgd, turn: int) -> tuple[Tensor, Tensor]:
    b, n = x.shape
    count = pgd.restarts
    dice = torch.Generator().manual_seed(pgd.seed * 1_000_003 + turn * 10_007 + int(part[0]))
    rows, home = part.repeat_interleave(count), x.repeat_interleave(count, dim=0)
    reach = radius.repeat_interleave(count)[:, None]
    turns = torch.arange(count).repeat(b)
    size = torch.tensor(pgd.sizes, dtype=torch.float64)[(turns + turn) % len(pgd.sizes)][:, None]
    noise = _direction(torch.randn(b * count, n, generator=dice, dtype=torch.float64), norm)
    noise = noise * torch.rand(b * count, 1, generator=dice, dtype=torch.float64) * reach
    move = torch.where((turns % 2 == 0)[:, None], torch.zeros_like(noise) if turn == 0 else noise * 0.1, noise)
    device = pgd.device
    at = _clipped((home + project(move, reach, norm)), pgd).to(device, torch.float32)
    home32, reach32 = home.to(device, torch.float32), reach.to(device, torch.float32)
    steps = (reach * size / pgd.steps).to(device, torch.float32)
    least = torch.full((b * count,), torch.inf, device=device)
    seen = at.clone()
    for step in range(pgd.steps + 1):
        at.requires_grad_(True)
        with torch.enable_grad():
            loss = goal.loss(at, rows)
            (gradient,) = torch.autograd.grad(loss.sum(), at) if loss.requires_grad else (torch.zeros_like(at),)
        at = at.detach()
        better = loss.detach() < least
        least, seen = torch.where(better, loss.detach(), least), torch.where(better[:, None], at, seen)
        if step == pgd.steps:
            break
        slow = 1.0 if step < pgd.steps // 2 else 0.3
        at = home32 + project(at - slow * steps * _direction(gradient, norm) - home32, reach32, norm)
        at = _clipped(at, pgd)
    distance, found = _nearest(goal, seen.detach().cpu().double(), home, rows, reach, norm, pgd)
    nearest = distance.reshape(b, count).min(dim=1)
    return nearest.values, found.reshape(b, count, -1)[torch.arange(b), nearest.indices]


def _nearest(
    goal: Goal, at: Tensor, home: Tensor, rows: Tensor, reach: Tensor, norm: P, pgd: Pgd
) -> tuple[Tensor, Tensor]:
    """Shrink what succeeded towards the sample by bisection on the segment: distances, inf where nothing did, and inputs."""
    at = _clipped(home + project(at - home, reach, norm), pgd)
    done = goal.reached(at, rows)
    inside, outside = torch.zeros(len(at), 1, dtype=torch.float64), torch.ones(len(at), 1, dtype=torch.float64)
    hit = done.nonzero()[:, 0]
    if len(hit):
        low, high = inside[hit], outside[hit]
        for _ in range(12):
            middle = (low + high) / 2
            ok = goal.reached(_between(home[hit], at[hit], middle, pgd), rows[hit])[:, None]
            low, high = torch.where(ok, low, middle), torch.where(ok, middle, high)
        at[hit] = _between(home[hit], at[hit], high, pgd)
    away = up(up((at - home).abs()))
    return torch.where(done, norm_up(away, norm, 1), torch.inf), at


def project(move: Tensor, reach: Tensor, norm: P) -> Tensor:
    """The nearest point of the ball of radius `reach` (r, 1) to `move` (r, n); l1: by sorting (Duchi et al. 2008)."""
    if norm == "inf":
        return torch.minimum(torch.maximum(move, -reach), reach)
    if norm == "2":
        length = torch.linalg.vector_norm(move, dim=1, keepdim=True)
        return move * (reach / length.clamp(min=1e-30)).clamp(max=1.0)
    size = move.abs()
    ranked = size.sort(dim=1, descending=True).values
    excess = ranked.cumsum(dim=1) - reach
    count = torch.arange(1, move.shape[1] + 1, dtype=move.dtype, device=move.device)
    last = (ranked * count > excess).sum(dim=1, keepdim=True).clamp(min=1)
    cut = excess.gather(1, last - 1) / last
    inside = size.sum(dim=1, keepdim=True) <= reach
    return torch.where(inside, move, move.sign() * (size - cut).clamp(min=0.0))


def _direction(gradient: Tensor, norm: P) -> Tensor:
    """The step of unit length that lowers the margin most; l1: spread over the largest few entries."""
    if norm == "inf":
        return gradient.sign()
    if norm == "2":
        return gradient / torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp(min=1e-30)
    few = max(1, gradient.shape[1] // 20)
    size = gradient.abs()
    kept = size >= size.topk(few, dim=1).values[:, -1:]
    step = gradient.sign() * kept
    return step / step.abs().sum(dim=1, keepdim=True).clamp(min=1.0)


def _between(home: Tensor, at: Tensor, part: Tensor, pgd: Pgd) -> Tensor:
    return _clipped(home + part * (at - home), pgd)


def _clipped(at: Tensor, pgd: Pgd) -> Tensor:
    return at if pgd.clip is None else at.clamp(*pgd.clip)
