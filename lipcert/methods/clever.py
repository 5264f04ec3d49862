"""`clever`: an estimate of the constant on a ball or box by extreme value theory (Weng et al. 2018, algorithm 1). Never a bound.

The largest Jacobian norm of each of many random batches is taken for a sample of a reverse Weibull distribution,

    P(Y <= y) = exp(-((a - y) / b)^c),  y <= a,

whose end point a is the estimate. The fit says nothing of pieces that no batch met, and may lie on either side of the
constant. Its likelihood may also grow without end as a does (then the maxima look unbounded): that is a refusal.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lipcert.methods.problem import REGION, Cost, Method, Problem
from lipcert.sampling.pairs import directions
from lipcert.terms.query import Ball, Box, P
from lipcert.terms.result import Bound, Refusal, Result, Side

FAR = 100.0  # end points up to this many times the spread of the maxima beyond the largest one
GRID, ZOOMS = 64, 4
NO_REGION = "CLEVER samples a ball or a box: give --at DATA --eps E, or --box"
LARGEST_SHAPE = 1e7


@dataclass(frozen=True)
class Clever(Method):
    """`batches` maxima of `samples` Jacobian norms each. The paper takes 500 batches of 1024."""

    batches: int = 60
    samples: int = 128

    name: ClassVar[str] = "clever"
    side: ClassVar[Side] = "estimate"
    where = REGION
    cost = Cost.SWEEPS
    on_request = True

    def refuses(self, problem: Problem) -> Refusal | None:
        if problem.region is None:
            return self._refusal(NO_REGION)
        return None

    def run(self, problem: Problem) -> Result:
        begin = time.perf_counter()
        if problem.region is None:
            return self._refusal(NO_REGION)
        graph = problem.graph
        if 0 in (graph.nodes[graph.input].size, graph.nodes[graph.output].size):
            return Bound(self.name, self.side, "sampled", 0.0, time.perf_counter() - begin)
        random = torch.Generator().manual_seed(problem.seed)
        maxima = []
        for k in range(self.batches):
            problem.check_time()
            problem.say("clever", k, self.batches)
            norms = directions(graph, sample(problem.region, self.samples, random), problem.norm)[1]
            if not bool(torch.isfinite(norms).all()):
                return self._refusal("a Jacobian norm overflows float64")
            maxima.append(float(norms.max()))
        found = fit(torch.tensor(maxima, dtype=torch.float64))
        details = {"batches": self.batches, "samples": self.samples, "largest": max(maxima), **found}
        value = found["end"]
        if value is None:
            return self._refusal(
                f"the Weibull fit diverges: its likelihood still grows {FAR:g} spreads beyond the largest of "
                f"{self.batches * self.samples} norms, {max(maxima):.6g}; no estimate",
                time.perf_counter() - begin,
            )
        return Bound(self.name, self.side, "sampled", value, time.perf_counter() - begin, None, details)

    def _refusal(self, reason: str, seconds: float = 0.0) -> Refusal:
        return Refusal(self.name, self.side, "refused", reason, None, seconds)


def sample(region: Ball | Box, count: int, random: torch.Generator) -> Tensor:
    """(count, n): uniform points of the region."""
    if isinstance(region, Box):
        low, high = region.lower.reshape(1, -1), region.upper.reshape(1, -1)
        raw = torch.rand(count, low.shape[1], generator=random, dtype=torch.float64)
        return torch.minimum(low + raw * (high - low), high)
    centre = region.center.reshape(1, -1)
    return centre + region.radius * _unit_ball(count, centre.shape[1], region.norm, random)


def _unit_ball(count: int, n: int, p: P, random: torch.Generator) -> Tensor:
    """Uniform: a cube; a sphere times U^(1/n); for l1, n of n + 1 exponentials over their sum, with signs."""
    raw = torch.rand(count, n + 1, generator=random, dtype=torch.float64)
    if p == "inf":
        return 2 * raw[:, :n] - 1
    if p == "2":
        towards = torch.randn(count, n, generator=random, dtype=torch.float64)
        length = torch.linalg.vector_norm(towards, dim=1, keepdim=True).clamp(min=1e-300)
        return towards / length * raw[:, n:] ** (1 / n)
    waits = -torch.log1p(-raw)
    signs = torch.where(torch.rand(count, n, generator=random, dtype=torch.float64) < 0.5, -1.0, 1.0)
    return signs * waits[:, :n] / waits.sum(dim=1, keepdim=True).clamp(min=1e-300)


def fit(y: Tensor) -> dict[str, Any]:
    """Maximum likelihood of the reverse Weibull: "end" a (None: it diverges), "shape" c, "scale" b; and the distance of
    Kolmogorov and Smirnov with its p-value, which is too kind as the parameters were fitted to the same data.

    For each a the best c and b are those of a Weibull distribution of a - y. Shapes below 1 have an unbounded likelihood at
    a = max y and are left out (Smith 1985)."""
    top, spread = float(y.max()), float(y.max() - y.min())
    if spread <= 1e-9 * abs(top):  # one value: the Jacobian is the same everywhere it was looked at
        return {"end": top, "shape": None, "scale": None, "ks": None, "p_value": None}
    steps = torch.logspace(-6, math.log10(FAR), GRID, dtype=torch.float64)
    for _ in range(ZOOMS):  # the best of a grid, then of finer ones between its neighbours
        best = int(_likelihood(top + spread * steps[:, None] - y).argmax())
        if float(steps[best]) >= 0.999 * FAR:
            return {"end": None, "shape": None, "scale": None, "ks": None, "p_value": None}
        step = float(steps[best])
        low, high = float(steps[max(best - 1, 0)]), float(steps[min(best + 1, GRID - 1)])
        steps = torch.linspace(low, high, GRID, dtype=torch.float64)
    end = top + spread * step
    z = (end - y)[None]
    c = _shape(z)
    shape, scale = float(c), float(_log_scale(z, c).exp())
    distance = _ks(torch.exp(-((z[0] / scale) ** shape)))
    return {"end": end, "shape": shape, "scale": scale, "ks": distance, "p_value": _p_value(distance, len(y))}


def _likelihood(z: Tensor) -> Tensor:
    """(g,): of Weibull distributions with the best shape >= 1 and scale, for z (g, k); -inf where some z <= 0."""
    possible = (z > 0).all(dim=1)
    z = torch.where(possible[:, None], z, 1.0)
    c = _shape(z)
    k = z.shape[1]
    found = k * (c.log() - c * _log_scale(z, c)) + (c - 1) * z.log().sum(dim=1) - k
    return torch.where(possible, found, -math.inf)


def _log_scale(z: Tensor, c: Tensor) -> Tensor:
    """log of (mean z^c)^(1/c), (g,)."""
    return (torch.logsumexp(c[:, None] * z.log(), dim=1) - math.log(z.shape[1])) / c


def _shape(z: Tensor) -> Tensor:
    """(g,): the root of sum z^c log z / sum z^c - 1/c = mean log z, which grows in c; at least 1. Bisection."""
    logs = z.log()
    mean = logs.mean(dim=1)
    low, high = torch.ones_like(mean), torch.full_like(mean, LARGEST_SHAPE)
    for _ in range(60):
        c = (low * high).sqrt()
        above = (torch.softmax(c[:, None] * logs, dim=1) * logs).sum(dim=1) - 1 / c > mean
        low, high = torch.where(above, low, c), torch.where(above, c, high)
    return (low * high).sqrt()


def _ks(probabilities: Tensor) -> float:
    u = probabilities.sort().values
    k = len(u)
    rank = torch.arange(1, k + 1, dtype=torch.float64) / k
    return float(torch.maximum((rank - u).max(), (u - rank + 1 / k).max()))


def _p_value(distance: float, k: int) -> float:
    x = (math.sqrt(k) + 0.12 + 0.11 / math.sqrt(k)) * distance
    if x < 0.2:
        return 1.0
    total = 2 * sum((-1) ** (j - 1) * math.exp(-2 * (j * x) ** 2) for j in range(1, 101))
    return min(1.0, max(0.0, total))
