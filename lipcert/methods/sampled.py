"""`sampled`: a lower bound with a witness, by ascent on the Jacobian norm.

Points are found in floating arithmetic (random starts at several scales, power iteration for the best direction, shrinking
random search and gradient steps on the norm). The value is then a difference quotient of a stored pair (x, x'),

    (||f(x) - f(x')||_q - rounding) / ||x - x'||_p <= L,

with f enclosed rigorously at both points: it holds whatever kinks, steps or autograd conventions lie between them.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lipcert.methods.deviation import evaluate_within
from lipcert.methods.problem import REGION, SPACE, Cost, Method, Problem
from lipcert.network.graph import Enclosure
from lipcert.rigor.rounding import add_up, div_down, norm_down, norm_up
from lipcert.sampling.directions import ascent, best_directions, differences, dual_ascent, flops, size, unit
from lipcert.sampling.inside import inside, into_region, middle, points_of, spread
from lipcert.sampling.pullback import pulled
from lipcert.terms.clock import OutOfTime, halfway, late, until
from lipcert.terms.query import Ball, Region
from lipcert.terms.result import Bound, Refusal, Result, Side

SCALES = (0.03, 0.3, 1.0, 3.0)
STEPS = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
WORK = 1e10  # flops of the search: a second or two of one core, less where the network is small
ROUNDS = 16
SCREEN, ENTRIES = (
    16,
    2**22,
)  # times the batch is looked at for other hills, where an eighth of the work and 32 MB allow it
NEAR = 0.75  # of what was found
FEW_OUTPUTS = 12  # full Jacobians in the search
DENSE_SIDE = 256  # full Jacobians at the best points up to this side


@dataclass(frozen=True)
class Sampled(Method):
    """`points` per round, `rounds` of search (0: as many as the work allows, at most 16)."""

    points: int = 64
    rounds: int = 0

    name: ClassVar[str] = "sampled"
    side: ClassVar[Side] = "lower"
    where = SPACE | REGION
    cost = Cost.SEARCH

    def refuses(self, problem: Problem) -> Refusal | None:
        return None

    def run(self, problem: Problem) -> Result:
        start = time.perf_counter()
        graph = problem.graph
        if graph.nodes[graph.input].size == 0 or graph.nodes[graph.output].size == 0:
            return Bound(self.name, self.side, "sampled", 0.0, time.perf_counter() - start)
        search = Search(problem, self.points, self.rounds)
        with until(halfway(problem.deadline)):  # the rest is for the proof of what is found
            x, v = search.run()
        value, pair = certify(problem, x, v)
        seconds = time.perf_counter() - start
        if pair is None:  # constant as far as rounding lets us see; 0 is a lower bound of any constant
            return Bound(self.name, self.side, "sampled", 0.0, seconds, None, {"points": search.evaluated})
        witness = {"x": stored(pair[0]), "x2": stored(pair[1]), "shape": list(graph.input_shape)}
        details = {"points": search.evaluated, "rounds": search.done}
        return Bound(self.name, self.side, "sampled", value, seconds, witness, details)


def stored(x: Tensor) -> Any:
    flat = x.reshape(-1).to(torch.float64)
    if flat.numel() <= 4096:
        return flat.tolist()
    return {"dtype": "<f8", "base64": base64.b64encode(flat.contiguous().numpy().astype("<f8").tobytes()).decode()}


class Search:
    """State of the ascent: the best points with their directions, all in floating arithmetic."""

    def __init__(self, problem: Problem, points: int, rounds: int):
        self.problem = problem
        self.p, self.q = problem.norm.input, problem.norm.output
        cost = flops(problem.graph)
        dtype = torch.float32 if cost > 3e7 else torch.float64
        self.graph = problem.graph.to(problem.device, dtype)
        self.like = torch.empty(0, device=problem.device, dtype=dtype)
        entries = max(node.size for node in problem.graph.nodes)
        self.batch = int(max(1, min(points, WORK / (40 * cost), 2e8 / max(1, 4 * entries))))
        self.steps = 8 if cost < 1e9 else 4
        self.width = 1e-5 if dtype == torch.float64 else 1e-2  # of the central differences, relative
        outputs = problem.graph.nodes[problem.graph.output].size
        per_round = self.batch * cost * (3 * outputs if outputs <= FEW_OUTPUTS else 5 * self.steps)
        self.rounds = rounds or int(max(2, min(ROUNDS, WORK / per_round)))
        screening = self.batch * cost * 8  # two steps: four evaluations, two passes back
        self.screened = self.batch * int(min(SCREEN, WORK / 8 / screening, ENTRIES / max(1, self.batch * entries)))
        self.random = torch.Generator().manual_seed(problem.seed)
        self.evaluated = self.done = 0
        self.scale = None if problem.region is None else spread(problem.region).to(self.like)

    def run(self) -> tuple[Tensor, Tensor]:
        """Best points and directions, (k, input_size) each, float64 on the CPU, best first."""
        x = self._fresh(self.batch)
        self.found = x, torch.ones_like(x), x.new_zeros(x.shape[0])  # a pair is a lower value in any direction
        try:
            self._climb(x, *self._directions(x, None), self.rounds)
            self._again()
            return self._polish(*_best(*self.found))
        except OutOfTime:
            return _best(*self.found)

    def _climb(self, x: Tensor, v: Tensor, value: Tensor, rounds: int) -> None:
        """Rounds of ascent, into `found`."""
        self.found = x, v, value
        for done in range(1, rounds + 1):
            self.done = done
            if late():
                break
            self.problem.say("sampled", self.done, rounds)
            if self.done == rounds:
                break
            self.found = self._round(*self.found)

    def _again(self) -> None:
        """Ascents end on the hill where they begin. Where the best of many more points, by two steps of power iteration, comes near
        what was found, once more from there."""
        if not self.screened or late():
            return
        first, x = self.found, self._fresh(self.screened)
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            y = self.graph.evaluate(at)
        if not y.requires_grad:
            return
        v, value = self._power(x, at, y, None, 2)
        if bool(value.max() > NEAR * first[2].max()):
            best = value.argsort(descending=True)[: self.batch]
            try:
                self._climb(x[best], v[best], value[best], self.rounds)
            finally:
                x, v, value = (torch.cat(pair) for pair in zip(first, self.found, strict=True))
                self.found = x, v, value

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64).to(self.like)

    def _fresh(self, k: int) -> Tensor:
        n = self.graph.nodes[self.graph.input].size
        if self.problem.region is not None:
            raw = torch.rand(k, n, generator=self.random, dtype=torch.float64)
            points = points_of(self.problem.region, raw, self.random)
            if not self.done:
                points[:1] = middle(self.problem.region)
            return into_region(points, self.problem.region).to(self.like)
        scales = torch.tensor(SCALES, dtype=torch.float64).repeat(-(-k // len(SCALES)))[:k, None].to(self.like)
        uniform = torch.rand(k, n, generator=self.random, dtype=torch.float64).to(self.like)
        mixed = torch.arange(k)[:, None].to(self.like.device) % 2 == 0
        return torch.where(mixed, self._normal(k, n) * scales, uniform * scales)

    def _directions(self, x: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """Good directions and the size of J v / ||v||_p there, all rows at once. Few outputs: from the full Jacobian."""
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            y = self.graph.evaluate(at)
        if not y.requires_grad:
            return self._normal(*x.shape), x.new_zeros(x.shape[0])
        if y.shape[1] <= FEW_OUTPUTS:
            J = torch.stack([self._pulled(y, at, _basis(y, j)) for j in range(y.shape[1])], dim=1)
            self.evaluated += x.shape[0]
            v = best_directions(self._lit(J, x), self.p, self.q)
            return v, size(self._pushed(x, v), self.q).nan_to_num(-1.0)
        return self._power(x, at, y, v, self.steps)

    def _power(self, x: Tensor, at: Tensor, y: Tensor, v: Tensor | None, steps: int) -> tuple[Tensor, Tensor]:
        """Generalised power iteration for max ||J v||_q over ||v||_p = 1 (Boyd 1974)."""
        v = unit(self._normal(*x.shape) if v is None else v, self.p)
        best, top = v, x.new_full((x.shape[0],), -1.0)
        for _ in range(steps):
            image = self._pushed(x, v)
            length = size(image, self.q).nan_to_num(-1.0)
            better = length > top
            best, top = torch.where(better[:, None], v, best), torch.where(better, length, top)
            back = self._pulled(y, at, ascent(image, self.q))
            dark = ~torch.isfinite(back).all(dim=1, keepdim=True)
            v = unit(torch.where(dark, self._normal(*x.shape), dual_ascent(back, self.p)), self.p)
        self.evaluated += x.shape[0] * steps
        return best, top

    def _pulled(self, y: Tensor, at: Tensor, u: Tensor) -> Tensor:
        """J'u row by row; NaN where autograd fails."""
        return pulled(y, at, u, keep=True)[0]

    def _lit(self, J: Tensor, x: Tensor) -> Tensor:
        """J (r, m, n) with differences, or noise where there are many inputs, for the rows that autograd leaves NaN."""
        dark = ~torch.isfinite(J).all(dim=(1, 2))
        if bool(dark.any()):
            wide = x.shape[1] > DENSE_SIDE
            shape = (int(dark.sum()), *J.shape[1:])
            found = self._normal(*shape) if wide else differences(self.graph, x[dark], self.width)
            J[dark] = torch.where(torch.isfinite(found), found, 0.0)
        return J

    def _pushed(self, x: Tensor, v: Tensor) -> Tensor:
        """J v by a central difference: what is certified later is a difference too."""
        h = (
            self.width
            * x.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
            / v.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
        )
        return (self.graph.evaluate(x + h * v) - self.graph.evaluate(x - h * v)) / (2 * h)

    def _round(self, x: Tensor, v: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Half the batch around the best, by gradient and by shrinking noise; the rest fresh."""
        k = x.shape[0]
        order = value.argsort(descending=True)
        x, v, value = x[order], v[order], value[order]
        keep = max(1, k // 4)
        shrink = 0.5 ** (self.done / 2)
        parents = torch.arange(k) % keep
        scale = self.scale if self.scale is not None else x[parents].abs().mean(dim=1, keepdim=True).clamp(min=1e-3)
        trial = x[parents] + self._normal(*x.shape) * shrink * scale
        if self.done % 2 == 0:
            trial = x[parents] + self._gradient(x[parents], v[parents], shrink)
        fresh = max(1, k // 4)
        trial[-fresh:] = self._fresh(fresh)
        if self.problem.region is not None:
            trial = into_region(trial.double().cpu(), self.problem.region).to(self.like)
        w, found = self._directions(trial, v[parents])
        joined = torch.cat([value, found]).argsort(descending=True)[:k]
        return torch.cat([x, trial])[joined], torch.cat([v, w])[joined], torch.cat([value, found])[joined]

    def _gradient(self, x: Tensor, v: Tensor, shrink: float) -> Tensor:
        """A step along the gradient of ||J(x) v||_q, plain noise where it vanishes (piecewise affine networks); on a region
        of the difference quotient over the step, which does not vanish there."""
        far = None if self.scale is None else shrink * self.scale
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            if far is None:
                length = size(self._pushed(at, v), self.q).sum()
            else:
                across = far * v / v.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
                ends = self.graph.evaluate(at + across), self.graph.evaluate(at - across)
                length = size(ends[0] - ends[1], self.q).sum()
        if not length.requires_grad:
            return self._normal(*x.shape) * 1e-3
        gradient = torch.autograd.grad(length, at)[0].nan_to_num(0.0, 0.0, 0.0)
        if far is not None:
            even = self.problem.region is not None and not (
                isinstance(self.problem.region, Ball) and self.problem.region.norm != "inf"
            )
            step = gradient.sign() if even else unit(gradient, "2") * gradient.shape[1] ** 0.5
            return step * far
        length = gradient.norm(dim=1, keepdim=True)
        step = shrink * x.norm(dim=1, keepdim=True).clamp(min=1e-3)
        return torch.where(length > 0, gradient / length.clamp(min=1e-30) * step, self._normal(*x.shape) * 1e-3)

    def _polish(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The best direction from the full Jacobian where it is small enough, in float64."""
        graph = self.problem.graph
        n, m = graph.nodes[graph.input].size, graph.nodes[graph.output].size
        if m > DENSE_SIDE or n * m > 2**22 or flops(graph) * m > WORK:
            return x, v
        found = []
        for point in x:
            with torch.enable_grad():
                at = point.expand(m, n).clone().requires_grad_(True)
                y = graph.evaluate(at)
            if not y.requires_grad:
                return x, v
            jacobian = pulled(y, at, torch.eye(m, dtype=torch.float64))[0]
            if not bool(torch.isfinite(jacobian).all()):
                jacobian = differences(graph, point[None])[0].nan_to_num(0.0, 0.0, 0.0)
            found.append(best_directions(jacobian[None], self.p, self.q)[0])
        return torch.cat([x, x]), torch.cat([torch.stack(found), v])


def _best(x: Tensor, v: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    best = value.argsort(descending=True)[:4]
    return x[best].double().cpu(), v[best].double().cpu()


def _basis(y: Tensor, j: int) -> Tensor:
    one = torch.zeros_like(y)
    one[:, j] = 1.0
    return one


def certify(problem: Problem, x: Tensor, v: Tensor) -> tuple[float, tuple[Tensor, Tensor] | None]:
    """The greatest proved difference quotient over pairs x +- h v, and the pair that attains it.

    Pairs are ranked by their floating quotients; the best few are enclosed.
    """
    cost = flops(problem.graph)
    reach = x.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    if problem.region is not None:
        reach = torch.minimum(reach, spread(problem.region).amax())
    reach = reach / v.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
    steps = STEPS if cost < 1e9 else STEPS[1::2]
    rows = range(x.shape[0]) if cost < 1e9 else range(1)
    pairs = [_pair(x[i : i + 1], h * reach[i : i + 1] * v[i : i + 1], problem.region) for i in rows for h in steps]
    best: tuple[float, tuple[Tensor, Tensor] | None] = 0.0, None
    try:
        guesses, error = _guesses(problem, pairs), 0.0
        for _ in range(8 if cost < 1e9 else 2):
            # what a pair may show: of a deep network short steps show nothing, for rounding hides their differences
            hopes = {k: (gap - error) / apart for k, (gap, apart) in guesses.items()}
            k = max(hopes, key=hopes.__getitem__, default=-1)
            if k < 0 or hopes[k] <= best[0]:
                break
            del guesses[k]
            problem.say("sampled: certifying")
            value, hidden = _shown(problem, *pairs[k])
            error = max(error, hidden)
            if value > best[0]:
                best = value, (pairs[k][0][0], pairs[k][1][0])
            if late():
                break
    except OutOfTime:
        if best[1] is None:
            raise
    return best


def _guesses(problem: Problem, pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[int, tuple[float, float]]:
    """Floating ||f(a) - f(b)||_q, less what noise it has, and ||a - b||_p, by the place of the pair; of those for which there
    was time."""
    found: dict[int, tuple[float, float]] = {}
    for k, (a, b) in enumerate(pairs):
        if found and late():
            break
        fa, fb = problem.graph.evaluate(a), problem.graph.evaluate(b)
        noise = 1e-13 * float(size(fa, problem.norm.output)[0])
        apart = float(size(a - b, problem.norm.input)[0])
        gap = float(size(fa - fb, problem.norm.output)[0]) - noise
        if apart > 0 and math.isfinite(gap):
            found[k] = gap, apart
    return found


def _pair(x: Tensor, step: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """x + step and x - step, both in the region."""
    at = into_region(x, region, step)
    return into_region(at + step, region), into_region(at - step, region)


def quotient(problem: Problem, a: Tensor, b: Tensor) -> float:
    """Lower value of ||f(a) - f(b)||_q / ||a - b||_p for two points (1, n) of the region; 0 where nothing is shown."""
    return _shown(problem, a, b)[0]


def _shown(problem: Problem, a: Tensor, b: Tensor) -> tuple[float, float]:
    """The quotient, and how much of ||f(a) - f(b)||_q rounding hides: floating, for what is tried next."""
    if not bool((inside(a, problem.region) & inside(b, problem.region)).all()):
        return 0.0, 0.0
    apart = torch.nextafter((a - b).abs(), torch.full_like(a, float("inf")))
    apart = torch.where(a == b, 0.0, apart)
    if not bool((apart > 0).any()):
        return 0.0, 0.0
    gap, hidden = gap_below(problem, a, b)
    return float(div_down(gap, float(norm_up(apart[0], problem.norm.input)))), hidden


def gap_below(problem: Problem, a: Tensor, b: Tensor) -> tuple[float, float]:
    """Lower value of ||f(a) - f(b)||_q, and the floating size of what hides the rest. Rounding is enclosed entry by entry; where
    that hides half of what is seen or more (deep networks), in the norm as well."""
    graph, q = problem.graph, problem.norm.output
    fa, fb = (graph.enclose(Enclosure(point)) for point in (a, b))
    gap = torch.maximum(fa.lower - fb.upper, fb.lower - fa.upper).clamp(min=0.0)
    gap = torch.nextafter(gap, torch.zeros_like(gap))
    shown = float(norm_down(gap[0], q)) if bool(torch.isfinite(gap).all()) else 0.0
    seen = float(size(fa.centre - fb.centre, q)[0])
    hidden = float(size(fa.reach() + fb.reach(), q)[0])
    if shown > 0.5 * seen:
        return shown, hidden
    (ya, ea), (yb, eb) = (evaluate_within(graph, point, q) for point in (a, b))
    error = add_up(ea, eb)
    if not math.isfinite(error):
        return shown, hidden
    distance = torch.nextafter((ya - yb).abs(), torch.zeros_like(ya))
    by_norms = math.nextafter(float(norm_down(distance[0], q)) - error, 0.0)
    return max(shown, by_norms), min(error, hidden) if math.isfinite(hidden) else error
