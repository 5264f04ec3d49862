"""Maximum and minimum of the same two entries, which are one block: sorting two entries (MaxMin), or an absolute value.

    max(a, b) and min(a, b), read by whatever follows     Sort of (a, b): a rotation or a swap, 1 in every l_p
    max(a, -a) = |a|, min(a, -a) = -|a|                   abs

Entries are told apart by where they come from: through slices, reshapes, concatenations and exact factors of -1, so that
chunks, splits and strided slices are the same pair. A maximum is a Selection of two, or b + relu(a - b); a minimum a
Selection, a - relu(a - b), or -max(-a, -b). As two unrelated nodes they cost a factor sqrt 2 in l2 (each may be all of
the larger entry); as one they are 1-Lipschitz, as who built them meant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.selection import Selection
from lipcert.blocks.sort import Sort
from lipcert.load.lower.rewrite import Rewriter, block, operator
from lipcert.network.graph import Add, Concat, Graph, Linear, Node, Nonlinear
from lipcert.operators.linear import Scale, Select

ABS = Elementwise(ACTIVATIONS["abs"])


@dataclass(frozen=True, eq=False)
class Entries:
    """Entry i of a signal is sign[i] times entry place[i] of node base[i]. (n,) each."""

    base: Tensor
    place: Tensor
    sign: Tensor

    def at(self, index: Tensor) -> Entries:
        return Entries(self.base[index], self.place[index], self.sign[index])

    def __neg__(self) -> Entries:
        return Entries(self.base, self.place, -self.sign)

    def same(self, other: Entries) -> bool:
        return all(
            torch.equal(x, y) for x, y in ((self.base, other.base), (self.place, other.place), (self.sign, other.sign))
        )


@dataclass(frozen=True, eq=False)
class Extreme:
    """Entry by entry max (or min) of two signals."""

    one: Entries
    other: Entries
    minimum: bool


@dataclass(frozen=True, eq=False)
class Pair:
    """sign * max (or min) of the atoms `low` and `high`, entries of all signals by their numbers, low < high."""

    low: Tensor
    high: Tensor
    minimum: bool
    sign: int


class Origins:
    """Where entries come from. An entry's number counts through all nodes."""

    def __init__(self, nodes: list[Node]):
        self.nodes = nodes
        self.known: dict[int, Entries] = {}
        sizes = torch.tensor([0, *(node.size for node in nodes)])
        self.starts = sizes.cumsum(0)

    def of(self, i: int) -> Entries:
        if i not in self.known:
            self.known[i] = self._read(i)
        return self.known[i]

    def _read(self, i: int) -> Entries:
        node, found = self.nodes[i], operator(self.nodes[i])
        if isinstance(node.what, Concat):
            parts = [self.of(parent) for parent in node.parents]
            base, place, sign = (torch.cat([getattr(p, n) for p in parts]) for n in ("base", "place", "sign"))
            return Entries(base, place, sign)
        if isinstance(found, Select) and bool((found.index >= 0).all()):
            return self.of(node.parents[0]).at(found.index)
        if isinstance(found, Scale) and found.radius is None and bool((found.factor.abs() == 1).all()):
            before = self.of(node.parents[0])
            return Entries(before.base, before.place, before.sign * found.factor.to(torch.int64))
        one = torch.ones(node.size, dtype=torch.int64)
        return Entries(i * one, torch.arange(node.size), one)

    def extreme(self, i: int) -> Extreme | None:
        """Node i as the larger or the smaller of two signals."""
        found = block(self.nodes[i])
        if isinstance(found, Selection):
            if found.windows.shape[1] != 2 or bool((found.windows < 0).any()):
                return None
            read = self.of(self.nodes[i].parents[0])
            return Extreme(read.at(found.windows[:, 0]), read.at(found.windows[:, 1]), found.minimum)
        if isinstance(self.nodes[i].what, Add) and len(self.nodes[i].parents) == 2:
            first, second = self.nodes[i].parents
            return self._hinge(first, second) or self._hinge(second, first)
        return None

    def _hinge(self, w: int, t: int) -> Extreme | None:
        """b + relu(a - b) = max(a, b), a - relu(a - b) = min(a, b), and the negatives of both."""
        up = 1
        found = operator(self.nodes[t])
        if isinstance(found, Scale) and found.radius is None and bool((found.factor == -1).all()):
            up, t = -1, self.nodes[t].parents[0]
        row = block(self.nodes[t])
        gap = self.nodes[self.nodes[t].parents[0]] if isinstance(row, Pointwise) and row.label == "relu" else None
        if gap is None or not isinstance(gap.what, Add) or len(gap.parents) != 2:
            return None
        rest, (u, v) = self.of(w), (self.of(parent) for parent in gap.parents)
        for a, b in ((u, -v), (v, -u)):
            if up == 1 and rest.same(b):
                return Extreme(a, b, False)
            if up == -1 and rest.same(a):
                return Extreme(a, b, True)
            if up == 1 and rest.same(-a):  # -a + relu(a - b) = -min(a, b)
                return Extreme(-a, -b, False)
            if up == -1 and rest.same(-b):
                return Extreme(-a, -b, True)
        return None

    def numbers(self, entries: Entries) -> Tensor:
        return self.starts[entries.base] + entries.place

    def pair(self, extreme: Extreme) -> Pair | None:
        """As a maximum or minimum of plain entries, where the same sign stands before all of them."""
        signs = torch.cat([extreme.one.sign, extreme.other.sign])
        if not signs.numel() or not bool((signs == signs[0]).all()):
            return None
        sign = int(signs[0])
        numbers = torch.stack([self.numbers(extreme.one), self.numbers(extreme.other)]).sort(dim=0).values
        if torch.unique(numbers).numel() != numbers.numel():  # a window that shares entries is no pair
            return None
        return Pair(numbers[0], numbers[1], extreme.minimum != (sign < 0), sign)

    def opposites(self, extreme: Extreme) -> bool:
        """a and -a."""
        return extreme.one.same(-extreme.other)


def with_pairs(graph: Graph) -> Graph:
    """An equal graph in which maxima and minima of the same entries are one Sort, and max(a, -a) is abs. What is no part
    of a pair stays as it is."""
    nodes = list(graph.nodes)
    if not any(_candidate(node) for node in nodes):
        return graph
    origins = Origins(nodes)
    extremes = {i: e for i in range(len(nodes)) if (e := origins.extreme(i)) is not None}
    absolute = {i: e for i, e in extremes.items() if origins.opposites(e)}
    pairs = {i: p for i, e in extremes.items() if i not in absolute and (p := origins.pair(e)) is not None}
    partner = _partners(pairs)
    if not partner and not absolute:
        return graph
    new = Rewriter()
    sorts: dict[int, int] = {}
    for i, node in enumerate(nodes):
        if i in absolute:
            at = _gathered(new, origins, origins.numbers(absolute[i].one), node)
            at = new.put(Nonlinear(Pointwise(ABS, node.size)), [at], node.size, node)
            new.place[i] = _minus(new, at, node) if absolute[i].minimum else at
        elif i in partner:
            first = min(i, partner[i])
            if first not in sorts:
                atoms = torch.stack([pairs[first].low, pairs[first].high], dim=1).reshape(-1)
                at = _gathered(new, origins, atoms, node)
                sorts[first] = new.put(Nonlinear(Sort(node.size, 2, 1)), [at], 2 * node.size, node)
            rows = _rows(pairs[first], pairs[i])
            index = 2 * rows + (0 if pairs[i].minimum else 1)
            at = new.put(Linear(Select(index, 2 * node.size)), [sorts[first]], node.size, node)
            new.place[i] = _minus(new, at, node) if pairs[i].sign < 0 else at
        elif isinstance(node.what, Concat):
            new.place[i] = _joined(new, [new.place[p] for p in node.parents], node)
        else:
            new.copy(i, node)
    return new.graph(graph)


def _candidate(node: Node) -> bool:
    found = block(node)
    if isinstance(found, Selection):
        return found.windows.shape[1] == 2
    return isinstance(found, Pointwise) and found.label == "relu"


def _partners(pairs: dict[int, Pair]) -> dict[int, int]:
    """Each maximum with a minimum of the very same pairs, and back."""
    open_: dict[tuple[bool, bytes], list[int]] = {}
    partner: dict[int, int] = {}
    for i, pair in pairs.items():
        order = pair.low.argsort()
        key = torch.stack([pair.low[order], pair.high[order]]).numpy().tobytes()
        waiting = open_.get((not pair.minimum, key), [])
        if waiting:
            other = waiting.pop(0)
            partner[i], partner[other] = other, i
        else:
            open_.setdefault((pair.minimum, key), []).append(i)
    return partner


def _rows(first: Pair, pair: Pair) -> Tensor:
    """Which row of `first` each row of `pair` is."""
    order = first.low.argsort()
    return order[torch.searchsorted(first.low[order], pair.low)]


def _gathered(new: Rewriter, origins: Origins, numbers: Tensor, node: Node) -> int:
    """A signal of the entries of these numbers."""
    owner = torch.searchsorted(origins.starts, numbers, right=True) - 1
    bases = torch.unique(owner).tolist()
    sizes = torch.tensor([origins.nodes[b].size for b in bases])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    index = starts[torch.searchsorted(torch.tensor(bases), owner)] + numbers - origins.starts[owner]
    total = int(sizes.sum())
    at = new.place[bases[0]]
    if len(bases) > 1:
        at = new.put(Concat(), [new.place[b] for b in bases], total, node)
    if torch.equal(index, torch.arange(total)):
        return at
    return new.put(Linear(Select(index, total)), [at], index.numel(), node)


def _minus(new: Rewriter, at: int, node: Node) -> int:
    return new.put(Linear(Scale(-torch.ones(node.size, dtype=torch.float64))), [at], node.size, node)


def _joined(new: Rewriter, parents: list[int], node: Node) -> int:
    """A concatenation; of two halves of one Sort it is a selection of the Sort, whose norm is known without a matrix."""
    found = Origins(new.nodes)
    read = [found.of(p) for p in parents]
    bases = torch.cat([r.base for r in read])
    one = bool(bases.numel()) and bool((bases == bases[0]).all()) and isinstance(block(new.nodes[int(bases[0])]), Sort)
    if not one:
        return new.put(Concat(), parents, node.size, node)
    base = int(bases[0])
    at = new.put(Linear(Select(torch.cat([r.place for r in read]), new.nodes[base].size)), [base], node.size, node)
    sign = torch.cat([r.sign for r in read]).double()
    return at if bool((sign == 1).all()) else new.put(Linear(Scale(sign)), [at], node.size, node)
