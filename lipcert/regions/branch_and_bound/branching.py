"""Branch and bound for the Lipschitz constant on many regions at once, best first.

Leaves of all regions share one list; each round halves the worst of them, whatever region they are of, and sweeps the
children together. The upper value of a region is the largest of all its leaves, pruned ones too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.device import by_device, proving_on
from lipcert.regions.forward.curvature import curved, is_curved
from lipcert.regions.forward.directions import ORDER, Directions, best_weights, directions, norms_above, norms_below
from lipcert.regions.forward.slope import Sweep, rows_per_chunk, sweep
from lipcert.regions.forward.telescope import is_deep, pays, telescoped
from lipcert.regions.forward.vertices import elementwise_only, unsettled, vertex_norms
from lipcert.rigor.rounding import norm_down
from lipcert.terms.clock import OutOfTime
from lipcert.terms.query import Norm

BATCH = {"cpu": 512, "cuda": 2**15}  # leaves to halve in a round
VERTICES = 3
LEAVES = 2_000_000
SETTLED = 2.0**-32  # of the region's radius: where hinges meet, some neurons never settle, and no halving helps
HOPELESS = 2.0**-6  # of the region's radius: what is not bounded there will not be


@dataclass(frozen=True)
class Effort:
    """`rtol`: a region is closed when upper <= lower (1 + rtol). `seconds` (monotonic deadline) and `leaves` at most."""

    rtol: float = 1e-6
    deadline: float | None = None
    leaves: int = LEAVES
    vertices: int = VERTICES


@dataclass(frozen=True, eq=False)
class Brackets:
    """Per region: upper, lower (b,), the point (b, n) that attains lower, whether it is closed; leaves made in all. On the
    CPU. `culprit`: a node whose slope is not bounded on some leaf."""

    upper: Tensor
    lower: Tensor
    point: Tensor
    closed: Tensor
    leaves: int
    culprit: int | None = None


@dataclass(frozen=True, eq=False)
class Leaves:
    low: Tensor  # (k, n)
    high: Tensor
    value: Tensor  # (k,) upper value
    root: Tensor  # (k,)
    axis: Tensor  # (k,) to halve next

    def __getitem__(self, rows: Tensor | slice) -> Leaves:
        return Leaves(self.low[rows], self.high[rows], self.value[rows], self.root[rows], self.axis[rows])

    def __len__(self) -> int:
        return len(self.value)

    def __add__(self, other: Leaves) -> Leaves:
        return Leaves(*(torch.cat([getattr(self, f), getattr(other, f)]) for f in self.__dataclass_fields__))


Report = Callable[[Tensor, Tensor], None]  # (upper, lower) after each round


def bracket(
    graph: Graph,
    regions: Cells,
    norm: Norm,
    effort: Effort,
    *,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    report: Report | None = None,
    device: str = "cpu",
) -> Brackets:
    """Brackets of the constants on all regions. `lower`, `upper`: what is proved already."""
    with proving_on(device):
        known = [None if side is None else side.to(device) for side in (lower, upper)]
        search = _Search(graph.on(device), regions.to(device), norm, effort, *known)
        try:
            while search.round():
                if report is not None:
                    report(search.upper().cpu(), search.lower.cpu())
        except OutOfTime:
            pass
        return search.result()


class _Search:
    def __init__(
        self, graph: Graph, regions: Cells, norm: Norm, effort: Effort, lower: Tensor | None, upper: Tensor | None
    ):
        self.graph, self.regions, self.norm, self.effort = graph, regions, norm, effort
        self.elementwise = elementwise_only(graph)
        self.deep, self.telescope, self.calls = is_deep(graph), False, 0
        self.curved = is_curved(graph)
        b, self.device = len(regions), regions.centre.device
        self.free = regions.moving
        self.known = torch.full((b,), math.inf, dtype=torch.float64) if upper is None else upper.clone()
        self.lower = torch.zeros(b, dtype=torch.float64) if lower is None else lower.clone()
        self.point = regions.centre.clone()
        self.settled = torch.zeros(b, dtype=torch.float64)  # largest value of the leaves that are not halved any more
        self.culprit: int | None = None
        low, high = regions.ends()
        start = Leaves(low, high, self.known.clone(), torch.arange(b), torch.zeros(b, dtype=torch.int64))
        self.made = b
        self.open = start[:0]
        self._look(self._samples(max(2, min(64, 4096 // max(1, b)))))
        self._settle(self._bounded(start, regions))

    def target(self) -> Tensor:
        return self.lower * (1 + self.effort.rtol)

    def upper(self) -> Tensor:
        worst = self.settled.clone()
        if len(self.open):
            worst.scatter_reduce_(0, self.open.root, self.open.value, "amax")
        return torch.minimum(worst, self.known)

    def result(self) -> Brackets:
        upper = self.upper()
        closed = upper <= self.target()
        found = [side.cpu() for side in (upper, self.lower, self.point, closed)]
        return Brackets(found[0], found[1], found[2], found[3], self.made, self.culprit)

    def round(self) -> bool:
        """Halve the worst leaves. False when nothing is left to do or the effort is spent."""
        self._settle(self.open)
        if not len(self.open) or self.made >= self.effort.leaves:
            return False
        if self.effort.deadline is not None and time.monotonic() > self.effort.deadline:
            return False
        count = min(by_device(BATCH, self.device), len(self.open))
        urgency = self.open.value / self.lower.clamp(min=1e-300)[self.open.root]
        chosen = urgency.topk(count).indices
        rest = torch.ones(len(self.open), dtype=torch.bool)
        rest[chosen] = False
        parents, self.open = self.open[chosen], self.open[rest]
        children, stuck = _halved(
            parents,
            self.regions.radius[parents.root] * torch.where(torch.isinf(parents.value), HOPELESS, SETTLED)[:, None],
        )
        self.settled.scatter_reduce_(0, stuck.root, stuck.value, "amax")
        children = children[self._meets(children)]
        self.made += len(children)
        cells = replace(Cells.boxes(children.low, children.high), free=self.free[children.root])
        try:
            bounded = self._bounded(children, cells)
        except OutOfTime:  # their parents stand for them
            self.open = self.open + parents
            raise
        self._settle(bounded, self.open)
        return True

    def _settle(self, new: Leaves, old: Leaves | None = None) -> None:
        """Keep as open what is above the target of its region."""
        done = new.value <= self.target()[new.root]
        self.settled.scatter_reduce_(0, new.root[done], new.value[done], "amax")
        self.open = new[~done] if old is None else old + new[~done]

    def _meets(self, leaves: Leaves) -> Tensor:
        """False only for boxes that certainly lie outside the ball of their region."""
        if self.regions.norm == "inf":
            return torch.ones(len(leaves), dtype=torch.bool)
        centre, radius = self.regions.centre[leaves.root], self.regions.radius[leaves.root]
        gap = torch.maximum(leaves.low - centre, centre - leaves.high).clamp(min=0.0) * (1 - 2.0**-50)
        return norm_down(gap, self.regions.norm, 1) <= radius.amax(dim=1)

    def _bounded(self, leaves: Leaves, cells: Cells) -> Leaves:
        """The leaves with their values and the axis to halve next. Finds lower values on the way."""
        values, axes = [], []
        rows = rows_per_chunk(self.graph, cells.centre.shape[1], self.device)
        for start in range(0, len(leaves), rows):
            part = slice(start, start + rows)
            value, axis = self._swept(cells[part], leaves[part])
            values.append(value)
            axes.append(axis)
        if not values:
            return leaves
        value = torch.minimum(torch.cat(values), leaves.value)  # a part of its parent
        return replace(leaves, value=value, axis=torch.cat(axes))

    def _swept(self, cells: Cells, leaves: Leaves) -> tuple[Tensor, Tensor]:
        root = leaves.root
        chosen = directions(self.graph, cells, self.norm, adjoints=True)
        swept = self._enclose(cells, chosen)
        if swept.culprit is not None:
            self.culprit = swept.culprit
        value = norms_above(swept.centre, swept.radius, chosen, self.norm)
        inside = self._inside(cells.centre, root)
        self._raise(root, cells.centre, norms_below(swept.centre, swept.radius, chosen.toward, self.norm) * inside)
        self._look((root[inside], cells.centre[inside], _seen(chosen, cells, self.norm)[inside]))
        if swept.uphill is not None:
            self._climb(swept.uphill, leaves, value > self.target()[root])
        if self.elementwise and self.effort.vertices:
            count = unsettled(swept.slopes, value)
            few = (value > self.target()[root]) & (count >= 1) & (count <= self.effort.vertices)
            if bool(few.any()):
                some = {i: (low[few], high[few]) for i, (low, high) in swept.slopes.items()}
                mine = Directions(
                    chosen.toward[few], chosen.kind, None if chosen.defect is None else chosen.defect[few]
                )
                better = vertex_norms(self.graph, some, mine, self.norm, self.effort.vertices)
                value[few] = torch.minimum(value[few], better)
        assert swept.score is not None
        wide = cells.radius / cells.radius.amax(dim=1, keepdim=True).clamp(min=1e-300)
        score = torch.where(swept.score.amax(dim=1, keepdim=True) > 0, swept.score, wide) * (cells.radius > 0)
        return value, score.argmax(dim=1)

    def _enclose(self, cells: Cells, chosen: Directions) -> Sweep:
        """By the sweep that is the better one for cells of this size, asked again every now and then."""
        if self.deep:
            if self.calls % 16 == 0:
                self.telescope = pays(self.graph, cells[:16], self.norm)
            self.calls += 1
        how = telescoped if self.telescope else curved if self.curved else sweep
        return how(self.graph, cells, chosen.toward, chosen.adjoints)

    def _climb(self, uphill: Tensor, leaves: Leaves, where: Tensor) -> None:
        """Look at the points of open leaves where second order says that the gradient is largest."""
        x, root = torch.minimum(torch.maximum(uphill, leaves.low), leaves.high)[where], leaves.root[where]
        x = self._within(x, root)
        inside = self._inside(x, root)
        x, root = x[inside], root[inside]
        cells = Cells(x, torch.zeros_like(x), "inf", self.free[root])
        self._look((root, x, _seen(directions(self.graph, cells, self.norm, adjoints=True), cells, self.norm)))

    def _room(self, root: Tensor) -> Tensor:
        """How far a float surely is inside the box that the region came from; its cell is rounded outward."""
        return (self.regions.radius[root] * (1 - 1e-12) - 2.0**-50 * self.regions.centre[root].abs()).clamp(min=0.0)

    def _within(self, x: Tensor, root: Tensor) -> Tensor:
        centre, room = self.regions.centre[root], self._room(root)
        return torch.minimum(torch.maximum(x, centre - room), centre + room)

    def _inside(self, x: Tensor, root: Tensor) -> Tensor:
        if self.regions.norm == "inf":
            return ((x - self.regions.centre[root]).abs() <= self._room(root) * (1 + 2.0**-50)).all(dim=1)
        away = (x - self.regions.centre[root]).abs() * (1 + 1e-14)
        length = torch.linalg.vector_norm(away, ord=ORDER[self.regions.norm], dim=1)
        return length * (1 + 1e-12) <= self.regions.radius[root].amin(dim=1)

    def _raise(self, root: Tensor, x: Tensor, value: Tensor) -> None:
        """New proved lower values, each attained at every x of its cell."""
        best = self.lower.clone().scatter_reduce_(0, root, value, "amax")
        winners = ((value > self.lower[root]) & (value == best[root])).nonzero()[:, 0]
        self.point[root[winners]] = x[winners]
        self.lower = best

    def _samples(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points of each region with their floating gradient norms: the centre, corners, and random ones."""
        b, n = self.regions.centre.shape
        dice = torch.Generator().manual_seed(0)
        t = torch.rand(count, n, generator=dice, dtype=torch.float64, device=dice.device).to(self.device) * 2 - 1
        t[1 : 1 + count // 4] = t[1 : 1 + count // 4].sign()
        if self.regions.norm != "inf":
            length = torch.linalg.vector_norm(t, ord=ORDER[self.regions.norm], dim=1, keepdim=True)
            t = t / length.clamp(min=1.0)
        t[0] = 0.0
        root = torch.arange(b).repeat_interleave(count)
        x = (self.regions.centre[:, None] + self.regions.radius[:, None] * t * (1 - 1e-9)).reshape(-1, n)
        x = self._within(x, root)
        seen = []
        cells = Cells(x, torch.zeros_like(x), "inf", self.free[root])
        for part in cells.chunks(rows_per_chunk(self.graph, n, self.device)):
            seen.append(_seen(directions(self.graph, part, self.norm, adjoints=True), part, self.norm))
        return root, x, torch.cat(seen) if seen else x.new_zeros(0)

    def _look(self, found: tuple[Tensor, Tensor, Tensor]) -> None:
        """Prove the best point of each region where its floating gradient beats what is attained already."""
        root, x, seen = found
        best = (self.lower * (1 + self.effort.rtol / 4)).scatter_reduce(0, root, seen, "amax")
        winners = ((seen == best[root]) & (seen > self.lower[root] * (1 + self.effort.rtol / 4))).nonzero()[:, 0]
        if not len(winners):
            return
        first = torch.full_like(self.lower, -1, dtype=torch.int64)
        first[root[winners]] = winners
        winners = first[first >= 0]
        cells = Cells(x[winners], torch.zeros_like(x[winners]), "inf", self.free[root[winners]])
        start = 0
        for part in cells.chunks(rows_per_chunk(self.graph, x.shape[1], self.device)):
            chosen = directions(self.graph, part, self.norm)
            swept = sweep(self.graph, part, chosen.toward)
            value = norms_below(swept.centre, swept.radius, chosen.toward, self.norm)
            self._raise(root[winners[start : start + len(part)]], part.centre, value)
            start += len(part)


def _seen(chosen: Directions, cells: Cells, norm: Norm) -> Tensor:
    """Floating norms (b,) of the gradients at the centres (of the outputs looked at)."""
    assert chosen.gradient is not None
    moving = cells.moving.to(chosen.gradient)
    rows = (chosen.gradient * moving[:, None]).mT.contiguous()
    unit = torch.eye(rows.shape[1], dtype=rows.dtype)[None].expand(len(rows), -1, -1)
    weights = best_weights(rows, unit, norm.input, norm.output)
    image = torch.bmm(weights[:, None], rows)[:, 0]
    length = torch.linalg.vector_norm(weights * moving, ord=ORDER[norm.input], dim=1)
    return torch.linalg.vector_norm(image, ord=ORDER[norm.output], dim=1) / length.clamp(min=1e-300)


def _halved(parents: Leaves, least: Tensor) -> tuple[Leaves, Leaves]:
    """Children, and the parents too narrow to be halved: `least` (k, n) or less, or no float lies between."""
    axis = parents.axis[:, None]
    low, high = parents.low.gather(1, axis), parents.high.gather(1, axis)
    cut = low / 2 + high / 2
    narrow = ~((low < cut) & (cut < high) & (high - low > least.gather(1, axis)))[:, 0]
    left, right = parents.high.scatter(1, axis, cut), parents.low.scatter(1, axis, cut)
    both = replace(parents, high=left) + replace(parents, low=right)
    return both[(~narrow).repeat(2)], parents[narrow]
