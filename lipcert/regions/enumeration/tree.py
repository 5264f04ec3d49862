"""All linear regions of a box that matter: cells best first, searched depth first for a while each, on all threads."""

from __future__ import annotations

import functools
import heapq
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lipcert.network.graph import Graph
from lipcert.regions.enumeration import net as places
from lipcert.regions.enumeration.exact import Rows, exact_layers, sign_on
from lipcert.regions.enumeration.facets import search_facets
from lipcert.regions.enumeration.flat import flat, memory
from lipcert.regions.enumeration.net import BEST, CLOSED, INVERSE, NORMS, OFF, SIGNS, STUCK, VALUES, Memory, Net, Stack
from lipcert.regions.enumeration.program import INPUTS, HingeLayer, Program
from lipcert.regions.enumeration.roots import box, corner, simplices
from lipcert.regions.enumeration.search import probe, search
from lipcert.regions.enumeration.sizes import patterns
from lipcert.terms.query import Norm

ROUND = 16  # cells searched between two looks at the best value: the same on any number of threads
FIRST, MOST = 128, 4096  # cells of one search, at first and later
CLIMBS = 12
CHEAP = 2**8  # sign vectors of a norm that are nothing beside the rest
SAMPLED = 24  # questions


@dataclass(frozen=True, eq=False)
class Cell:
    """A polytope on which the layers before `layer` are settled. `sign`: of their hinges and of those of this layer."""

    layer: int
    sign: np.ndarray
    x: np.ndarray
    mask: np.ndarray
    live: np.uint64
    places: np.ndarray
    facets: np.ndarray
    box: np.ndarray
    u: np.ndarray
    forced: int = -1


@dataclass(eq=False)
class Best:
    """Per question: `upper`, `best` (a norm, or a value, met in some cell) and `witness` (questions, n) in t."""

    upper: np.ndarray
    best: np.ndarray
    witness: np.ndarray
    cells: int = 0
    leaves: int = 0
    failed: int = 0
    stuck: int = 0
    cramped: int = 0
    open: int = 0


Tell = Callable[[np.ndarray, np.ndarray], None]  # (upper, best) after each round


class Tree:
    """`asks`: see net.py. `rtol`: relative for norms, absolute for values; negative: nothing is pruned. `still`: Jacobians
    are taken of all inputs but the last, and what is met in the cube is a better start than points at random."""

    asks = NORMS
    keeps = False
    most = MOST

    def __init__(
        self,
        program: Program,
        rows: list[int],
        norm: Norm,
        rtol: float,
        *,
        ball: tuple[float, str] | None = None,
        threads: int = 1,
        still: bool = False,
    ):
        self.program, self.rtol = program, rtol
        self.net = flat(program, rows, norm.input, norm.output, ball, self.asks)._replace(keeps=self.keeps)
        if still:
            self.net.side[INVERSE, -1] = 0.0
        self.memories = [memory(self.net) for _ in range(threads)]
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None
        questions = len(rows) - 1
        least = np.full(questions, -np.inf if self.asks == VALUES else 0.0)
        self.found = Best(least.copy(), least.copy(), np.zeros((questions, self.net.n)))
        self.closed = least.copy()
        self.heap: list[tuple[float, int, Cell]] = []
        self.made = 0
        self.share = CHEAP / max(CHEAP, self._patterns())
        self.most = max(1, int(self.most * self.share))
        self.budget = max(1, min(int(FIRST * self.share), self.most))
        if self.asks != SIGNS and not still:
            self._sample()
        few = self.net.n <= INPUTS
        self.cross = self.asks == NORMS and ball is not None and ball[1] == "1" and few
        if self.cross:  # the cells lie in it
            self.net = self.net._replace(ball=np.inf)
        for root in self._roots():
            self._add(root)

    @cached_property
    def rows(self) -> Rows | None:
        """Made where floats leave a sign open: few searches meet one."""
        return Rows(self.program) if exact_layers(self.program) else None

    def _roots(self) -> list[Cell]:
        start = functools.partial(Cell, 0, np.zeros(int(self.net.shape[OFF][min(1, self.net.layers)]), dtype=np.int8))
        u = np.full(len(self.closed), np.inf)
        alone = box if self.net.n <= INPUTS else corner
        shapes = simplices(self.program) if self.cross else [alone(self.program)]
        return [start(s.x, s.mask, s.live, s.places, s.facets, s.box, u.copy()) for s in shapes]

    def _patterns(self) -> int:
        """Sign vectors of one norm, over all questions: what a cell costs beside its geometry."""
        if self.asks != NORMS:
            return 1
        return int(sum(patterns(int(rows), self.net.n, self.net.p, self.net.q) for rows in np.diff(self.net.question)))

    def _sample(self) -> None:
        """Floating norms at random points, and around the best of them; drawn into the ball where that is the region."""
        n, radius = self.net.n, self.program.radius
        dice = np.random.default_rng(0)
        points = dice.uniform(-1, 1, (max(16, int(1024 * self.share)), n)) * radius
        self._probe(points)
        for turn in range(CLIMBS):
            for question in range(min(SAMPLED, len(self.closed))):
                step = dice.normal(size=(max(1, int(128 * self.share)), n)) * radius * 0.5 ** (1 + turn)
                within = dice.uniform(1 - 1e-6, 1.0, step.shape)  # where the box or the ball is cut off kinks may meet
                self._probe(np.clip(self.found.witness[question] + step, -radius, radius) * within)

    def _probe(self, points: np.ndarray) -> None:
        if np.isfinite(self.net.ball):
            order = 1 if self.net.ball_norm == 1 else 2
            length = np.linalg.norm(points * self.program.scale, ord=order, axis=1, keepdims=True)
            points = points * np.minimum(1.0, self.net.ball * (1 - 1e-9) / np.maximum(length, 1e-300))
        values = np.zeros((len(points), len(self.closed)))
        probe(self.net, self.memories[0][0], points, values)
        for question, column in enumerate(values.T):
            i = int(column.argmax())
            if column[i] > self.found.best[question]:
                self.found.best[question], self.found.witness[question] = column[i], points[i]

    def _add(self, cell: Cell) -> None:
        """To what is open, the most promising first; or done with."""
        if bool((cell.u <= self._enough()).all()):
            self.closed = np.maximum(self.closed, cell.u)
            return
        self.made += 1
        heapq.heappush(self.heap, (self._order(cell), self.made, cell))

    def _enough(self) -> np.ndarray:
        best = self.found.best
        return best * (1 + self.rtol) if self.asks == NORMS else best + self.rtol

    def _order(self, cell: Cell) -> float:
        """The least comes first."""
        best = self.found.best
        ahead = cell.u / np.maximum(best, 1e-300) if self.asks == NORMS else cell.u - best
        return -float(ahead.max())

    def run(self, deadline: float | None, tell: Tell | None = None, stop: Callable[[], bool] = lambda: False) -> Best:
        """Until every question is closed to rtol, the deadline (monotonic), or `stop`, asked after each round."""
        while self.heap and not stop() and not (deadline is not None and time.monotonic() > deadline):
            cells = [heapq.heappop(self.heap)[2] for _ in range(min(ROUND, len(self.heap)))]
            best, witness = self.found.best.copy(), self.found.witness.copy()
            for outcome in self._all(cells, best, witness, deadline):
                self._take(outcome)
            self.budget = min(self.most, 2 * self.budget)
            if tell is not None:
                tell(self.upper(), self.found.best)
        if self.pool is not None:
            self.pool.shutdown()
        self.found.upper = self.upper()
        self.found.open = len(self.heap)
        return self.found

    def upper(self) -> np.ndarray:
        upper = self.closed.copy()
        for _, _, cell in self.heap:
            upper = np.maximum(upper, cell.u)
        return upper

    def _all(self, cells: list[Cell], best: np.ndarray, witness: np.ndarray, deadline: float | None) -> list[Outcome]:
        free = list(self.memories)

        def one(cell: Cell) -> Outcome:
            if deadline is not None and time.monotonic() > deadline:
                counts = np.zeros(16, dtype=np.int64)
                return Outcome(
                    [cell], np.full_like(best, -np.inf), best, witness, counts, None, np.zeros((0, 0)), np.zeros(0)
                )
            mine = free.pop()
            try:
                return searched(self.net, *mine, cell, best, witness, self.rtol, self.budget)
            finally:
                free.append(mine)

        return list(map(one, cells) if self.pool is None else self.pool.map(one, cells))

    def _take(self, outcome: Outcome) -> None:
        found = self.found
        for question in np.flatnonzero(outcome.best > found.best):
            found.best[question], found.witness[question] = outcome.best[question], outcome.witness[question]
        self.closed = np.maximum(self.closed, outcome.closed)
        counts = outcome.counts
        found.cells += int(counts[places.CELLS])
        found.leaves += int(counts[places.LEAVES])
        found.failed += int(counts[places.FAILED])
        found.cramped += int(counts[places.CRAMPED])
        for cell in outcome.left:
            self._add(cell)
        if outcome.stuck is not None:
            self._go_on(outcome, outcome.stuck)

    def _go_on(self, outcome: Outcome, cell: Cell) -> None:
        """What a search could not go on with."""
        self.found.stuck += 1
        self._add(self._decided(cell))

    def _decided(self, cell: Cell) -> Cell:
        """The cell with the signs that floats left open, in exact integers; a hinge that is open even then is cut at."""
        sign = cell.sign.copy()
        before, after = self.net.shape[OFF][cell.layer : cell.layer + 2]
        names = [int(name) for name in cell.facets[:, -1]]
        forced = -1
        if self.rows is not None:
            self.rows.at(cell.layer, sign)
        for k in range(before, after):
            if sign[k] == 0:
                sign[k] = 0 if self.rows is None else sign_on(self.rows, k, self._corners(cell, k), names, cell.sign)
                if sign[k] == 0 and (forced < 0 or k == cell.forced):
                    forced = k
        return replace(cell, sign=sign, forced=forced)

    def _corners(self, cell: Cell, k: int) -> np.ndarray:
        """Vertices among which is one where hinge k is least, and one where it is largest."""
        if self.net.n <= INPUTS:
            return cell.x
        assert self.rows is not None
        row = np.array([float(value) for value in self.rows.row(k)[:-1]])
        return np.stack([lowest(cell.facets, side * row, cell.x[0]) for side in (1, -1)])


def lowest(facets: np.ndarray, row: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Where row.t is least on {N t + c >= 0}, a floating proposal; facets (k, n + 3)."""
    from scipy.optimize import linprog

    n = len(row)
    found = linprog(
        row, A_ub=-facets[:, :n], b_ub=facets[:, n] + facets[:, n + 1], bounds=(None, None), method="highs-ds"
    )
    return found.x if found.status == 0 else otherwise


@dataclass(frozen=True, eq=False)
class Outcome:
    """`stuck`: what could not be gone on with, and `outputs` (n + 4, outputs) as in Memory.pre there. `pieces`: records."""

    left: list[Cell]
    closed: np.ndarray
    best: np.ndarray
    witness: np.ndarray
    counts: np.ndarray
    stuck: Cell | None
    outputs: np.ndarray
    pieces: np.ndarray


def searched(
    net: Net, mine: Memory, stack: Stack, cell: Cell, best: np.ndarray, witness: np.ndarray, rtol: float, budget: int
) -> Outcome:
    """One search from one cell."""
    _load(net, mine, stack, cell)
    mine.best[:, : net.n], mine.best[:, CLOSED], mine.best[:, BEST] = witness, -np.inf, best
    stamp, at = mine.counts[places.STAMP], mine.counts[places.AT]
    mine.counts[:] = 0
    mine.counts[places.AT] = at
    mine.counts[places.STAMP], mine.counts[places.TOP], mine.counts[places.FORCED] = stamp, 1, cell.forced
    (search if net.n <= INPUTS else search_facets)(net, mine, stack, rtol, budget)
    left = _unload(net, mine, stack)
    stuck = left.pop() if mine.counts[places.STATUS] >= STUCK else None
    return Outcome(
        left,
        mine.best[:, CLOSED].copy(),
        mine.best[:, BEST].copy(),
        mine.best[:, : net.n].copy(),
        mine.counts.copy(),
        stuck,
        mine.pre[:, net.shape[OFF, net.layers] :].copy(),
        mine.piece[: mine.counts[places.KEPT]].copy(),
    )


def _load(net: Net, mine: Memory, stack: Stack, cell: Cell) -> None:
    before = int(net.shape[OFF][cell.layer])
    mine.sign[:before] = cell.sign[:before]
    stack.sign[0, : len(cell.sign) - before] = cell.sign[before:]
    count = len(cell.x)
    stack.x[:count, : net.n], stack.mask[:count] = cell.x, cell.mask
    stack.place[0, 0], stack.place[0, 1], stack.live[0] = cell.layer, count, cell.live
    stack.facet[0][cell.places] = cell.facets
    stack.u[0], stack.box[0] = cell.u, cell.box


def _unload(net: Net, mine: Memory, stack: Stack) -> list[Cell]:
    cells, used = [], 0
    for f in range(int(mine.counts[places.TOP])):
        layer, count = int(stack.place[f, 0]), int(stack.place[f, 1])
        before = int(net.shape[OFF][layer])
        after = int(net.shape[OFF][layer + 1]) if layer < net.layers else before
        sign = np.concatenate([mine.sign[:before], stack.sign[f, : after - before]])
        live = stack.live[f]
        kept = np.array([i for i in range(64) if (int(live) >> i) & 1], dtype=np.int64)
        cells.append(
            Cell(
                layer,
                sign,
                stack.x[used : used + count, : net.n].copy(),
                stack.mask[used : used + count].copy(),
                live,
                kept,
                stack.facet[f][kept],
                stack.box[f].copy(),
                stack.u[f].copy(),
            )
        )
        used += count
    return cells


def prepare(inputs: int = 1) -> None:
    """Machine code is made or read by searching |t_d| <= 1 for relu(t_0): that for up to INPUTS inputs, or for more."""
    n = 1 if inputs <= INPUTS else INPUTS + 1
    one, row, zero = np.ones(1), np.eye(1, n), np.zeros(n)
    hinge = HingeLayer(((-1, row, None),), np.zeros(1), np.zeros(1), np.zeros(1), one)
    output = HingeLayer(((0, np.ones((1, 1)), None),), np.zeros(1), np.zeros(1), one, one)
    program = Program((hinge, output), zero, np.ones(n), np.ones(n), np.arange(n), zero, Graph((), 0))
    Tree(program, [0, 1], Norm("inf", "inf"), 1e-3).run(None)
