"""Attained lower values in many boxes at once: the sampling of Rosca et al. 2020, appendix A.1, and sampled Jacobians.

A.1 draws pairs of points in each cell of a grid and takes the largest ratio ||f(x) - f(x')||_q / ||x - x'||_p. The ratios
of all pairs are screened in float32; of each cell's best, both ends are enclosed in float64 and the rounding is taken off:

    (||f(x) - f(x')||_q - rounding) / ||x - x'||_p <= L(cell),

for float32 quotients of close pairs exceed the true constant. The pair is the witness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.graph import Enclosure, Graph
from lipcert.rigor.rounding import div_down, norm_down, norm_up
from lipcert.sampling.directions import best_directions, differences, jacobians, power, size, unit, widest
from lipcert.sampling.forward import Forward
from lipcert.sampling.reduced import FEWEST, Reduced, cast, reduced, reducible
from lipcert.terms.query import Norm, P

Say = Callable[[str, float | None, float | None], None]

KEPT = 2  # pairs of each cell that are enclosed
STEPS = (1e-2, 1e-4, 1e-6)  # half lengths of the pairs around a Jacobian's point, relative to the cell
NARROW = 2.0**-10  # cells narrower than this, relative to their place, are screened in float64
ENTRIES = 2**23  # of the widest signal while enclosing: 64 MiB each
IN_CACHE = 2**18  # of the widest signal while differentiating
FEW_OUTPUTS = 32  # full Jacobians; beyond it, the best of a few power iterations


@dataclass(frozen=True, eq=False)
class Found:
    """Lower values (b,) of the constants in b cells, attained by the pairs x, x2 (b, n); 0 where x = x2."""

    value: Tensor
    x: Tensor
    x2: Tensor

    def better(self, other: Found) -> Found:
        """Cell by cell the larger one."""
        wins = other.value > self.value
        chosen = (torch.where(wins[:, None], b, a) for a, b in ((self.x, other.x), (self.x2, other.x2)))
        return Found(torch.maximum(self.value, other.value), *chosen)


def nothing(points: Tensor) -> Found:
    """The value 0 of the pairs (x, x)."""
    return Found(points.new_zeros(points.shape[0]), points.clone(), points.clone())


# Certified quotients.


def quotients(graph: Graph, x: Tensor, x2: Tensor, norm: Norm) -> Tensor:
    """(b,): lower values of ||f(x) - f(x2)||_q / ||x - x2||_p, rounding inside; 0 where nothing is shown. (b, n) float64."""
    step = max(1, ENTRIES // max(1, 2 * widest(graph)))
    parts = [_quotients(graph, x[i : i + step], x2[i : i + step], norm) for i in range(0, x.shape[0], step)]
    return torch.cat(parts) if parts else x.new_zeros(0)


def _quotients(graph: Graph, x: Tensor, x2: Tensor, norm: Norm) -> Tensor:
    k = x.shape[0]
    y = graph.enclose(Enclosure(torch.cat([x, x2])))
    lower, upper = y.lower, y.upper
    gap = torch.maximum(lower[:k] - upper[k:], lower[k:] - upper[:k]).clamp(min=0.0)
    gap = torch.nextafter(gap, torch.zeros_like(gap))
    gap = torch.where(torch.isfinite(gap), gap, 0.0)
    apart = torch.nextafter((x - x2).abs(), torch.full_like(x, math.inf))
    apart = torch.where(x == x2, 0.0, apart)
    distance = norm_up(apart, norm.input, 1)
    shown = div_down(norm_down(gap, norm.output, 1), torch.where(distance > 0, distance, 1.0))
    return torch.where((distance > 0) & torch.isfinite(shown), shown, 0.0)


# Pairs.


def largest_ratios(
    graph: Graph,
    lower: Tensor,
    upper: Tensor,
    pairs: int,
    norm: Norm,
    *,
    seed: int = 0,
    device: str = "cpu",
    say: Say | None = None,
) -> Found:
    """The largest difference quotient of `pairs` random pairs in each box [lower, upper] (b, n), rounded down."""
    best = nothing(lower)
    if 0 in (*lower.shape, pairs, graph.nodes[graph.output].size):
        return best
    search = _Screen(graph, lower, upper, norm, device)
    random = torch.Generator(search.forward.device).manual_seed(seed)
    b, n = lower.shape
    step = max(1, search.forward.columns // (2 * pairs))
    for block in _slices(b, max(step, ENTRIES // (8 * max(n, widest(graph))))):  # enclosed together
        if pairs >= FEWEST:
            search.prepare(graph, block)
        ends = []
        for cells in _slices(block.stop - block.start, step):
            if say is not None:
                say("pairs", block.start + cells.start, b)
            ends.append(search.best(slice(block.start + cells.start, block.start + cells.stop), pairs, random))
        x, x2 = (torch.cat(side, dim=1) for side in zip(*ends, strict=True))  # (kept, c, n)
        values = quotients(graph, x.flatten(0, 1), x2.flatten(0, 1), norm).reshape(x.shape[:2])
        top, place = values.max(dim=0)
        rows = torch.arange(top.shape[0])
        best.value[block], best.x[block], best.x2[block] = top, x[place, rows], x2[place, rows]
    return best


class _Screen:
    """Ratios of all pairs in floating arithmetic, and the best few of each cell."""

    def __init__(self, graph: Graph, lower: Tensor, upper: Tensor, norm: Norm, device: str):
        width, reach = upper - lower, torch.maximum(lower.abs(), upper.abs())
        narrow = bool(((width > 0) & (width < NARROW * reach)).any())
        dtype = torch.float64 if narrow else torch.float32
        self.lower, self.upper, self.norm = lower, upper, norm
        self.forward = Forward(graph, device, dtype)
        place, kind = self.forward.device, dtype
        self.low, self.width = lower.T.to(place, kind), width.T.to(place, kind)
        self.noise = self._noise(graph, dtype)
        self.small: dict[int, Reduced | None] = {}  # what is left of the network on a cell
        self.memory = self.forward.ones(0)

    def prepare(self, graph: Graph, cells: slice) -> None:
        """Find what is left of the network on each of these cells, on which many pairs will be tried."""
        stages = reducible(graph) if self.forward.device.type == "cpu" else None
        if stages is not None:
            found = reduced(graph, stages, self.lower[cells], self.upper[cells])
            self.small = {cells.start + k: cast(case, self.forward.dtype) for k, case in enumerate(found)}

    def _noise(self, graph: Graph, dtype: torch.dtype) -> float:
        """What rounding can move an output by, seen at corners: close pairs must beat it. It ranks, it proves nothing."""
        step = max(1, self.lower.shape[0] // 64)
        x = torch.cat([self.lower[::step], self.upper[::step]])[:128]
        y = graph.evaluate(x)
        if dtype == torch.float64:
            seen = float(y.abs().nan_to_num(0.0, 0.0, 0.0).max()) * 2.0**-50
        else:
            rough = graph.to("cpu", dtype).evaluate(x.to(dtype)).double()
            seen = float((rough - y).abs().nan_to_num(0.0, 0.0, 0.0).max())
        return 4 * seen

    def best(self, cells: slice, pairs: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """The ends of the best pairs of each cell, (kept, cells, n) each, float64 on the CPU, inside their cells."""
        most = max(1, self.forward.columns // 2)
        rounds = [self._round(cells, k, random) for k in _sizes(pairs, most)]
        score, ends = torch.cat([r[0] for r in rounds], dim=1), torch.cat([r[1] for r in rounds], dim=3)
        kept = score.topk(min(KEPT, score.shape[1]), dim=1).indices  # (c, kept)
        chosen = ends.gather(3, kept[None, :, None, :].expand(*ends.shape[:3], -1))  # (n, c, 2, kept)
        low, high = self.lower[cells], self.upper[cells]
        x, x2 = (
            torch.minimum(torch.maximum(chosen[:, :, side].permute(2, 1, 0).double().cpu(), low), high)
            for side in (0, 1)
        )
        return x, x2

    def _values(self, x: Tensor, cells: slice) -> Tensor:
        """f at x (n + 1, k), as many columns for each of the cells: by the network that is left on the cell, if known."""
        small = [self.small.get(k) for k in range(cells.start, cells.stop)]
        if not any(small):
            return self.forward.run(x)
        y, each = x.new_empty(self.forward.outputs, x.shape[1]), x.shape[1] // len(small)
        rows = max(case.rows for case in small if case is not None)
        if self.memory.shape[0] < rows or self.memory.shape[1] != each:
            self.memory = x.new_empty(rows, each)
        for k, case in enumerate(small):
            columns = slice(k * each, (k + 1) * each)
            if case is None:
                y[:, columns] = self.forward.run(x[:, columns])
            else:
                case.run(x[:, columns], y[:, columns], self.memory)
        return y

    def _round(self, cells: slice, pairs: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Scores (c, kept) and ends (n, c, 2, kept) of the best of `pairs` fresh pairs in each cell."""
        forward = self.forward
        low, width = self.low[:, cells], self.width[:, cells]
        n, c = low.shape
        unit = torch.rand(n, c, 2, pairs, generator=random, device=forward.device, dtype=forward.dtype)
        x = forward.ones(2 * c * pairs)
        points = torch.addcmul(low[:, :, None, None], unit, width[:, :, None, None])
        x[:-1] = points.reshape(n, -1)
        y = self._values(x, cells).reshape(forward.outputs, c, 2, pairs)
        gap = size_first(y[:, :, 0] - y[:, :, 1], self.norm.output)
        apart = size_first((unit[:, :, 0] - unit[:, :, 1]) * width[:, :, None], self.norm.input)
        score = torch.where(apart > 0, (gap - self.noise) / apart, -math.inf).nan_to_num(
            -math.inf, -math.inf, -math.inf
        )
        top = score.topk(min(KEPT, pairs), dim=1)
        place = top.indices[None, :, None, :].expand(n, c, 2, -1)
        return top.values, points.gather(3, place)


def size_first(y: Tensor, q: P) -> Tensor:
    """q-norms over the first axis, which is short; vector_norm is slow there."""
    if q == "inf":
        return y.abs().amax(dim=0)
    if q == "1":
        return y.abs().sum(dim=0)
    return y[0].abs() if y.shape[0] == 1 else (y * y).sum(dim=0).sqrt()


def _slices(total: int, step: int) -> Iterator[slice]:
    return (slice(i, min(i + step, total)) for i in range(0, total, step))


def _sizes(total: int, most: int) -> Iterator[int]:
    return (min(most, total - i) for i in range(0, total, most))


# Jacobians.


def jacobian_norms(
    graph: Graph, points: Tensor, norm: Norm, *, lower: Tensor | None = None, upper: Tensor | None = None
) -> Found:
    """Lower values of the constant around each point (b, n): quotients of short pairs along the Jacobian's best direction.

    With `lower` and `upper` (b, n) the pairs stay inside those boxes; without, they are as short as rounding allows, so
    that the value is that of ||J(x)|| where f is smooth.
    """
    points = points.double()
    if 0 in (*points.shape, graph.nodes[graph.output].size):
        return nothing(points)
    v, _ = directions(graph, points, norm)
    return _around(graph, points, v, norm, lower, upper)


def largest_jacobians(
    graph: Graph,
    lower: Tensor,
    upper: Tensor,
    samples: int,
    norm: Norm,
    *,
    seed: int = 0,
    say: Say | None = None,
) -> Found:
    """The largest of `samples` sampled Jacobian norms in each box (b, n), as quotients of pairs inside it."""
    best = nothing(lower)
    b, n = lower.shape
    if 0 in (b, n, samples, graph.nodes[graph.output].size):
        return best
    random = torch.Generator().manual_seed(seed)
    most = max(1, IN_CACHE // max(1, widest(graph), n * min(FEW_OUTPUTS, graph.nodes[graph.output].size)))
    for cells in _slices(b, max(1, most // samples)):
        if say is not None:
            say("jacobians", cells.start, b)
        low, high = lower[cells], upper[cells]
        c = low.shape[0]
        top, x, v = low.new_full((c,), -1.0), low, torch.zeros_like(low)
        for k in _sizes(samples, most):
            raw = torch.rand(c, k, n, generator=random, dtype=torch.float64)
            points = torch.minimum(low[:, None] + raw * (high - low)[:, None], high[:, None])
            towards, sizes = directions(graph, points.flatten(0, 1), norm)
            found, place = sizes.reshape(c, k).max(dim=1)
            rows = torch.arange(c)
            wins = (found > top)[:, None]
            x = torch.where(wins, points[rows, place], x)
            v = torch.where(wins, towards.reshape(c, k, n)[rows, place], v)
            top = torch.maximum(top, found)
        found_here = _around(graph, x, v, norm, low, high)
        best.value[cells], best.x[cells], best.x2[cells] = found_here.value, found_here.x, found_here.x2
    return best


def directions(graph: Graph, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Directions v (r, n) of ||v||_p = 1 in which J(x) is largest, and ||J v||_q (r,), in floating arithmetic."""
    found = []
    m = graph.nodes[graph.output].size
    step = max(1, IN_CACHE // max(1, widest(graph), min(m, FEW_OUTPUTS) * x.shape[1]))
    for rows in _slices(x.shape[0], step):
        found.append(_directions(graph, x[rows], norm))
    return torch.cat([v for v, _ in found]), torch.cat([s for _, s in found])


def _directions(graph: Graph, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    if graph.nodes[graph.output].size <= FEW_OUTPUTS:
        J = jacobians(graph, x)
        dark = ~torch.isfinite(J).all(dim=(1, 2))
        if bool(dark.any()):
            J[dark] = differences(graph, x[dark]).nan_to_num(0.0, 0.0, 0.0)
        v = unit(best_directions(J, norm.input, norm.output), norm.input)
        return v, size((J @ v[:, :, None])[:, :, 0], norm.output)
    v, found = power(graph, x, norm.input, norm.output)
    return v, found.nan_to_num(0.0)


def _around(graph: Graph, x: Tensor, v: Tensor, norm: Norm, lower: Tensor | None, upper: Tensor | None) -> Found:
    """The best quotient of x +- h v over a few h."""
    best = nothing(x)
    scale = x.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    steps: tuple[float, ...] = STEPS[1:]
    if lower is not None and upper is not None:
        scale, steps = (upper - lower).amax(dim=1, keepdim=True), STEPS
    v = scale * unit(v, "inf")
    ends = [(x + h * v, x - h * v) for h in steps]
    if lower is not None and upper is not None:
        ends = [(torch.minimum(torch.maximum(e, lower), upper) for e in pair) for pair in ends]  # type: ignore[misc]
    firsts, lasts = zip(*ends, strict=True)
    shown = quotients(graph, torch.cat(firsts), torch.cat(lasts), norm).split(len(x))
    for value, a, b in zip(shown, firsts, lasts, strict=True):
        best = best.better(Found(value, a, b))
    return best
