"""A piecewise linear network as one of hinges: every nonlinearity becomes s(v) = l min(v, 0) + r max(v, 0), entry by entry.

Activations are recognised by their traits: between two kinks the table's slope range is one number. So
s(v) = s(c) + m_0 (v - c) + sum_i (m_i - m_{i-1}) relu(v - c_i). Maxima are v + relu(u - v), and sorting along an axis is a
network of comparisons (Batcher's odd-even transposition). The function is the same in real arithmetic.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.sort import Sort
from lipcert.network.graph import Add, Graph, Linear, Node, Nonlinear, Offset, What
from lipcert.operators.linear import Scale
from lipcert.proofs.maxima import compared, without_maxima
from lipcert.terms.errors import RefusedModel

LONGEST = 16  # entries to sort
CORNER = 16 * 2.0**-53  # relative width granted to a kink that is not a float
SAME = 2.0**-48  # relative width of a slope that is one number up to the rounding of its parameters

Sides = tuple[Tensor, Tensor]


class _Rewriter:
    """Nodes of the new graph. `place`: old position -> new one."""

    def __init__(self, graph: Graph):
        self.nodes: list[Node] = []
        self.place: list[int] = []
        self.relu = Elementwise(ACTIVATIONS["relu"], ())
        for node in graph.nodes:
            parents = tuple(self.place[p] for p in node.parents)
            if isinstance(node.what, Nonlinear):
                self.place.append(self._block(node, parents))
            else:
                self.nodes.append(Node(node.what, parents, node.size, node.shape, node.name))
                self.place.append(len(self.nodes) - 1)

    def put(self, what: What, parents: tuple[int, ...], size: int, name: str) -> int:
        self.nodes.append(Node(what, parents, size, (size,), name))
        return len(self.nodes) - 1

    def _block(self, node: Node, parents: tuple[int, ...]) -> int:
        assert isinstance(node.what, Nonlinear)
        block = node.what.block
        if isinstance(block, Pointwise):
            return self._pointwise(node, block, parents[0])
        if isinstance(block, Sort):
            return self._sort(node, block, parents[0])
        raise RefusedModel(f"{block.label} at {node.name} is not piecewise linear", node=node.name)

    def _pointwise(self, node: Node, block: Pointwise, u: int) -> int:
        if is_hinge(block):
            return self.put(node.what, (u,), node.size, node.name)
        kinks, slopes, start = pieces(block, node.name)
        terms = []
        for i, (low, high) in enumerate(kinks):
            middle = low / 2 + high / 2
            radius = None if torch.equal(low, high) else torch.nextafter(high - middle, middle.new_tensor(torch.inf))
            moved = self.put(Offset(-middle, radius), (u,), node.size, node.name)
            if i == 0:
                terms += self._scaled(moved, slopes[0], node)
            above = self.put(Nonlinear(Pointwise(self.relu, node.size)), (moved,), node.size, node.name)
            terms += self._scaled(above, _difference(slopes[i + 1], slopes[i]), node)
        if not kinks:
            terms = self._scaled(u, slopes[0], node)
        total = self.put(Add(), tuple(terms), node.size, node.name) if terms else self._zero(node)
        middle = start[0] / 2 + start[1] / 2
        radius = None if torch.equal(*start) else torch.nextafter(start[1] - middle, middle.new_tensor(torch.inf))
        if radius is None and not bool(middle.any()):
            return total
        return self.put(Offset(middle, radius), (total,), node.size, node.name)

    def _zero(self, node: Node) -> int:
        return self.put(Offset(torch.zeros(node.size, dtype=torch.float64)), (), node.size, node.name)

    def _scaled(self, u: int, slope: Sides, node: Node) -> list[int]:
        if torch.equal(*slope):
            if not bool(slope[0].any()):
                return []
            return [u if bool((slope[0] == 1).all()) else self.put(Linear(Scale(slope[0])), (u,), node.size, node.name)]
        middle = slope[0] / 2 + slope[1] / 2
        radius = torch.maximum(slope[1] - middle, middle - slope[0]) * (1 + 2.0**-50)
        return [self.put(Linear(Scale(middle, radius)), (u,), node.size, node.name)]

    def _sort(self, node: Node, block: Sort, u: int) -> int:
        if block.n > LONGEST:
            raise RefusedModel(f"{node.name} sorts {block.n} entries, more than {LONGEST}", node=node.name)
        index = torch.arange(node.size).reshape(block.outer, block.n, block.inner)
        for turn in range(block.n):
            first = index[:, turn % 2 : block.n - 1 : 2].reshape(-1)
            second = index[:, turn % 2 + 1 : block.n : 2].reshape(-1)
            if not first.numel():
                continue
            low, high = (second, first) if block.descending else (first, second)
            u = compared(self.put, u, node, low, high)
        return u


def hinged(graph: Graph) -> Graph:
    """Raises RefusedModel, which names the node, where a nonlinearity is not piecewise linear."""
    if ("hinged",) not in graph.memo:
        maxima_free = without_maxima(graph)
        new = _Rewriter(maxima_free)
        graph.memo["hinged",] = Graph(tuple(new.nodes), new.place[maxima_free.output], new.place[maxima_free.input])
    return graph.memo["hinged",]


def is_hinge(block: Pointwise) -> bool:
    """s(v) = l v for v <= 0 and r v for v >= 0, with slopes that are floats."""
    kinks = block.activation.kinks()
    if not block.activation.row.homogeneous or len(kinks) != 1 or bool(torch.as_tensor(kinks[0]).any()):
        return False
    return all(torch.equal(*side) for side in sides(block))


def sides(block: Pointwise) -> tuple[Sides, Sides]:
    """Slope ranges on the left and on the right of 0, (size,) each."""
    ends = torch.full((block.size,), 1.0, dtype=torch.float64)
    return block.slopes(((-2 * ends, -ends),)), block.slopes(((ends, 2 * ends),))


def pieces(block: Pointwise, name: str) -> tuple[list[Sides], list[Sides], Sides]:
    """Enclosures of the kinks c_i, of the slopes m_0 .. m_k between them, and of s(c_0) (s(0) without kinks)."""
    activation, size = block.activation, block.size
    whole = torch.full((size,), torch.inf, dtype=torch.float64)
    if not activation.continuous:
        raise RefusedModel(f"{block.label} at {name} jumps", node=name)
    kinks: list[Sides] = []
    for kink in activation.kinks():
        c = torch.as_tensor(kink, dtype=torch.float64).reshape(-1).expand(size).contiguous()
        if not bool(c.isfinite().all()):
            raise RefusedModel(f"{block.label} at {name}: some of its entries have fewer kinks than others", node=name)
        wide = CORNER * c.abs()
        kinks.append((c - wide, c + wide) if not _is_corner(block, c) else (c, c))
    edges = [(-whole, -whole), *kinks, (whole, whole)]
    slopes = []
    for (_, left), (right, _) in itertools.pairwise(edges):
        low, high = block.slopes(((torch.nextafter(left, whole), torch.nextafter(right, -whole)),))
        one = (high - low <= SAME * torch.maximum(low.abs(), high.abs())) & low.isfinite() & high.isfinite()
        if not bool(one.all()):
            raise RefusedModel(f"{block.label} at {name} is not piecewise linear", node=name)
        slopes.append((low.contiguous(), high.contiguous()))
    first = kinks[0] if kinks else (torch.zeros_like(whole), torch.zeros_like(whole))
    low, high = activation.values_on(*first)
    return kinks, slopes, (low.expand(size).contiguous(), high.expand(size).contiguous())


def _is_corner(block: Pointwise, c: Tensor) -> bool:
    """The slope changes at the float c itself: it is one number on each side of it."""
    far = torch.full_like(c, torch.inf)
    near = (block.slopes(((torch.nextafter(c, -far),) * 2,)), block.slopes(((torch.nextafter(c, far),) * 2,)))
    return all(torch.equal(*side) for side in near)


def _difference(a: Sides, b: Sides) -> Sides:
    if torch.equal(*a) and torch.equal(*b) and torch.equal((a[0] - b[0]) + b[0], a[0]) and _short(a[0], b[0]):
        return a[0] - b[0], a[0] - b[0]
    low, high = a[0] - b[1], a[1] - b[0]
    return torch.nextafter(low, low - 1), torch.nextafter(high, high + 1)


def _short(*values: Tensor) -> bool:
    """Multiples of 2^-20 below 2^20: their differences are floats."""
    return all(bool(((v * 2.0**20).frac() == 0).all() and (v.abs() < 2.0**20).all()) for v in values)
