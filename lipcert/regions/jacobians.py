"""What the Jacobian is on a whole box, proved: ranges of its entries, its smallest singular value, and how little f can move.

A cover of the box by cells with an enclosure C +- R of all Jacobians of each: the linear pieces of a network where they can be
enumerated, else, and where they were not told in time, the halves of boxes. For x, y in the box f(x) - f(y) = M (x - y) with
M in the convex hull of the Jacobians (Clarke 1983, 2.6.5), so that for any T

    ||f(x) - f(y)|| >= K ||x - y||,   K = min over the cells of the least v'T J v / ||T||,   |v| = 1;

the smallest singular value on the box says less: |x| has slopes +-1 and K = 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.enumeration.constant import inside, reads
from lipcert.regions.forward.curvature import curved, is_curved
from lipcert.regions.forward.slope import rows_per_chunk, sweep
from lipcert.rigor.matrix_norms import matrix_norm_upper
from lipcert.rigor.rounding import EPS, div_down
from lipcert.rigor.smallest import gains_along, singular_values_attained, smallest_singular_values
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import Norm

LEAVES = 4096  # boxes, at most
ENTRIES = 2**24  # of the Jacobians of all of them
PIECES = 50_000
BATCH = 256
SHARE = 0.6  # of the time for the linear pieces
ATTAINED = 256  # smallest singular values that are looked at
RTOL = 1e-6


@dataclass(frozen=True, eq=False)
class JacobianOnBox:
    """Of the inputs `moving`. Entries (m, n) lie in [lower, upper]; entry (i, j) is at most `low` (i, j) at one point, at least
    `high` (i, j) at another. `smallest`: (lower, upper) of the min(m, n)-th singular value, l2, over the box; `gain`: of K,
    the largest number with ||f(x) - f(y)|| >= K ||x - y||. `point` (inputs,) attains the second number of `smallest`."""

    moving: Tensor
    lower: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor
    smallest: tuple[float, float]
    gain: tuple[float, float]
    point: Tensor
    method: str
    cells: int


@dataclass(eq=False)
class _Cover:
    """Cells with enclosures (k, m, n) of their Jacobians, and what is attained at points."""

    graph: Graph
    moving: Tensor
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        m, n = self.graph.nodes[self.graph.output].size, int(self.moving.sum())
        self.low, self.high = torch.full((m, n), torch.inf).double(), torch.full((m, n), -torch.inf).double()
        self.smallest, self.point = torch.inf, torch.zeros(len(self.moving), dtype=torch.float64)

    def enclose(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """(k, m, n) of all Jacobians on each cell."""
        n = len(self.moving)
        unit = torch.diag(self.moving.double())[self.moving].expand(len(cells), -1, n).contiguous()
        points = not bool(cells.radius.any())
        how = curved if is_curved(self.graph) and not points else sweep
        parts = []
        rows = rows_per_chunk(self.graph, n, cells.centre.device)
        for start in range(0, len(cells), rows):
            part = slice(start, start + rows)
            swept = how(self.graph, cells[part], unit[part])
            parts.append((swept.centre.mT, swept.radius.mT))
        return known(*(torch.cat(side) for side in zip(*parts, strict=True)))

    def attain(self, x: Tensor) -> None:
        """At the points x (k, inputs)."""
        if not len(x):
            return
        C, R = self.enclose(Cells(x, torch.zeros_like(x), "inf", self.moving.expand(len(x), -1)))
        low, high = ends(C, R)
        self.low, self.high = torch.minimum(self.low, high.amin(dim=0)), torch.maximum(self.high, low.amax(dim=0))
        values = singular_values_attained(C, R)
        best = int(values.argmin())
        if float(values[best]) < self.smallest:
            self.smallest, self.point = float(values[best]), x[best]

    def ranges(self) -> tuple[Tensor, Tensor]:
        sides = [ends(C, R) for C, R in self.found]
        return torch.cat([low for low, _ in sides]).amin(dim=0), torch.cat([high for _, high in sides]).amax(dim=0)

    def least(self) -> float:
        return min(float(smallest_singular_values(C, R).min()) for C, R in self.found)

    def gain(self) -> float:
        """The best of a few T."""
        m, n = self.low.shape
        if m < n or any(not bool(torch.isfinite(R).all()) for _, R in self.found):
            return 0.0
        middle = torch.cat([C for C, _ in self.found]).mean(dim=0)
        if not bool(torch.isfinite(middle).all()):
            return 0.0
        U, _, V = torch.linalg.svd(middle, full_matrices=False)
        best = 0.0
        for T in ((U @ V).mT.contiguous(), torch.linalg.pinv(middle)):
            least = min(float(gains_along(T, C, R).min()) for C, R in self.found)
            size = matrix_norm_upper(T, None, "2", "2")
            if least > 0 and 0 < size < torch.inf:
                best = max(best, div_down(least, size))
        return best


def known(C: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """C +- R, with 0 +- infinity for what has overflowed."""
    lost = ~torch.isfinite(C) | R.isnan()
    return torch.where(lost, 0.0, C), torch.where(lost, torch.inf, R)


def ends(C: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """C - R and C + R, rounded outward."""
    slack = R + 2 * EPS * (C.abs() + R)
    return C - slack, C + slack


def jacobian_on(graph: Graph, cells: Cells, deadline: float | None) -> JacobianOnBox:
    """On the one box in `cells`. What is still open at the deadline (monotonic) has wider enclosures."""
    moving = cells.moving[0]
    cover = _Cover(graph, moving)
    boxes, count, method = _by_pieces(cover, cells, deadline)
    leaves = _Halving(cover, boxes, cells, count == 0).run(deadline) if len(boxes) else 0
    lower, upper = cover.ranges()
    m, n = lower.shape
    return JacobianOnBox(
        moving,
        lower,
        upper,
        torch.minimum(cover.low, upper),  # at a kink little is known of a point, and `upper` holds there too
        torch.maximum(cover.high, lower),
        (cover.least(), cover.smallest),
        (cover.gain(), cover.smallest) if m >= n else (0.0, 0.0),
        cover.point,
        method,
        count + leaves,
    )


def _by_pieces(cover: _Cover, cells: Cells, deadline: float | None) -> tuple[Cells, int, str]:
    """Linear pieces into the cover; boxes of what they leave, how many there are, and by which method."""
    try:
        reads(cover.graph, cells)
        from lipcert.regions.enumeration.pieces import pieces
        from lipcert.regions.enumeration.tree import prepare
    except (RefusedModel, ImportError):
        return cells, 0, "branch"
    prepare()
    now = time.monotonic()
    end = None if deadline is None else now + SHARE * (deadline - now)
    found = pieces(cover.graph, cells, Norm("inf", "inf"), end, most=PIECES)
    exact = [piece for piece in found.found if piece.affine]
    made, still = found.program, ~cover.moving
    if exact:
        rows = torch.from_numpy(np.stack([piece.outputs for piece in exact]))
        scale, radius = torch.from_numpy(made.scale), torch.from_numpy(made.radius)
        C = rows[:, :, :-2] / scale  # powers of two
        R = rows[:, :, -1:] / radius / scale * (1 + 16 * EPS)
        cover.found.append(known(C, R))
        middles = torch.from_numpy(found.points(np.stack([piece.corners.mean(axis=0) for piece in exact])))
        x = torch.from_numpy(np.repeat(made.still[None], len(exact), axis=0))
        x[:, cover.moving] = middles
        _attain_of_pieces(cover, C, x, cells)
    rest = [piece.box for piece in [*found.found, *found.left] if not piece.affine]
    if not rest:
        return cells[:0], len(exact), "regions"
    both = np.array(rest)
    low, high = (made.point(both[:, side]) for side in (0, 1))
    low, high = (torch.nextafter(end, end.new_tensor(to)) for end, to in ((low, -torch.inf), (high, torch.inf)))
    low[:, still] = high[:, still] = cells.centre[0, still]
    return Cells.boxes(low, high), len(exact), "regions"


def _attain_of_pieces(cover: _Cover, C: Tensor, x: Tensor, cells: Cells) -> None:
    """At the middles of those pieces where an entry is least or largest, or a singular value the smallest."""
    finite = torch.isfinite(C).flatten(1).all(dim=1)
    C, x = C[finite], x[finite]
    if not len(x):
        return
    flat = C.flatten(1)
    singular = torch.linalg.svdvals(C)[:, -1]
    few = singular.topk(min(ATTAINED, len(x)), largest=False).indices
    chosen = torch.cat([flat.argmin(dim=0), flat.argmax(dim=0), few]).unique()
    cover.attain(torch.stack([inside(point, cells) for point in x[chosen]]))


class _Halving:
    """Boxes halved while their enclosures reach farther than what is attained, the worst first."""

    def __init__(self, cover: _Cover, boxes: Cells, whole: Cells, alone: bool):
        self.cover, self.whole = cover, whole
        m, n = cover.low.shape
        self.most = max(1, min(LEAVES, ENTRIES // max(1, m * n))) if n <= 16 else 1
        self.boxes = _free(boxes, cover.moving)
        self.C, self.R = cover.enclose(self.boxes)
        if alone:
            dice = torch.Generator().manual_seed(0)
            t = torch.rand(64, whole.centre.shape[1], generator=dice, dtype=torch.float64) * 2 - 1
            t[0] = 0.0
            cover.attain(torch.stack([inside(x, whole) for x in whole.centre + whole.radius * t]))

    def run(self, deadline: float | None) -> int:
        while len(self.boxes) < self.most and not (deadline is not None and time.monotonic() > deadline):
            excess = self._excess()
            worst = excess.topk(min(BATCH, len(excess))).indices
            worst = worst[excess[worst] > RTOL]
            if not len(worst) or not self._halve(worst):
                break
        self.cover.found.append((self.C, self.R))
        return len(self.boxes)

    def _excess(self) -> Tensor:
        """How far each box reaches beyond what is attained, relative."""
        low, high = ends(self.C, self.R)
        size = (
            torch.maximum(self.cover.low.abs(), self.cover.high.abs())
            .nan_to_num(0.0, 0.0, 0.0)
            .amax()
            .clamp(min=1e-300)
        )
        beyond = torch.maximum(high - self.cover.high, self.cover.low - low).flatten(1).amax(dim=1) / size
        least = smallest_singular_values(self.C, self.R)
        under = (self.cover.smallest - least) / max(self.cover.smallest, 1e-300)
        return torch.maximum(beyond, under).nan_to_num(torch.inf, torch.inf, 0.0)

    def _halve(self, chosen: Tensor) -> bool:
        boxes = self.boxes[chosen]
        share = boxes.radius / self.whole.radius.clamp(min=1e-300)
        axis = share.argmax(dim=1, keepdim=True)
        low, high = boxes.ends()
        cut = boxes.centre.gather(1, axis)
        if not bool(((low.gather(1, axis) < cut) & (cut < high.gather(1, axis))).all()):  # floats have no room
            return False
        halves = Cells.boxes(torch.cat([low, low.scatter(1, axis, cut)]), torch.cat([high.scatter(1, axis, cut), high]))
        halves = _free(halves, self.cover.moving)
        C, R = self.cover.enclose(halves)
        parents_low, parents_high = ends(self.C[chosen].repeat(2, 1, 1), self.R[chosen].repeat(2, 1, 1))
        C, R = _met((C, R), (parents_low, parents_high))
        rest = torch.ones(len(self.boxes), dtype=torch.bool)
        rest[chosen] = False
        kept = self.boxes[rest]
        self.boxes = _free(
            Cells(torch.cat([kept.centre, halves.centre]), torch.cat([kept.radius, halves.radius])), self.cover.moving
        )
        self.C, self.R = torch.cat([self.C[rest], C]), torch.cat([self.R[rest], R])
        self.cover.attain(torch.stack([inside(x, self.whole) for x in halves.centre]))
        return True


def _met(own: tuple[Tensor, Tensor], parent: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The enclosure of a half, and that of the box that it is a half of."""
    low, high = ends(*own)
    low, high = torch.fmax(low, parent[0]), torch.fmin(high, parent[1])
    C = (low / 2 + high / 2).nan_to_num(0.0, 0.0, 0.0)
    R = torch.maximum(high - C, C - low) * (1 + 4 * EPS) + 1e-290
    return C, R.nan_to_num(torch.inf, torch.inf)


def _free(cells: Cells, moving: Tensor) -> Cells:
    return Cells(cells.centre, cells.radius, "inf", moving.expand(len(cells), -1))
