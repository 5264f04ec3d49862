"""Normalisations as exporters spell them: sums of squares over groups of entries, and a signal scaled by a function of its
own sum of squares.

    c sum over a group of u^2             = c |u_group|^2                 (blocks.Norm2, then a square)
    u_i f(|u_group of i|)                                                 (radial.Radial)
    u / sqrt(mean u^2 + eps)              = blocks.Normalise(eps), with the mean subtracted where u = x - mean x

Groups are index sets, read off the selections and sums between the signals, so that any axes and reshapes will do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.activations.jets import Uniform
from lipcert.blocks import Norm2, Normalise, Pointwise, Product
from lipcert.ir import Add, Graph, Linear, Node, Nonlinear, Offset
from lipcert.linops import Dense, Scale, Select
from lipcert.lower.rewrite import Rewriter, block, operator, uniform
from lipcert.radial import Radial

SQUARE = Elementwise(ACTIVATIONS["square"])


@dataclass(frozen=True)
class Grouped:
    """A node whose entry g is a factor times the sum of `base` over the entries with group g. Groups have one size."""

    base: int
    group: Tensor  # int64 (base size,)
    count: int
    factors: tuple[Uniform, ...]
    reduces: bool

    @property
    def n(self) -> int:
        return self.group.numel() // self.count

    @property
    def exact(self) -> Fraction | None:
        total = Fraction(1)
        for factor in self.factors:
            if factor.exact is None:
                return None
            total *= factor.exact
        return total

    def order(self) -> Tensor:
        """Entries of the base, group after group."""
        return torch.argsort(self.group, stable=True)


def factor_of(scale: Scale) -> Uniform | None:
    """The one number by which it multiplies."""
    if scale.divisor is not None:
        return Uniform.of(1 / Fraction(scale.divisor))
    return _number(scale.factor, scale.radius)


def _number(values: Tensor, radius: Tensor | None) -> Uniform | None:
    values, radius = values.reshape(-1), None if radius is None else radius.reshape(-1)
    if not (uniform(values) and uniform(radius)):
        return None
    value = float(values[0])
    if radius is None:
        return Uniform.of(Fraction(value))
    r = float(radius[0])
    return Uniform(math.nextafter(value - r, -math.inf), math.nextafter(value + r, math.inf))


def grouped(nodes: list[Node], i: int) -> Grouped:
    """Follow sums over axes, permutations and uniform scales upwards from node i."""
    chain: list[Node] = []
    while True:
        found = operator(nodes[i])
        if isinstance(found, Scale):
            ok = factor_of(found) is not None
        elif isinstance(found, Select):
            ok = _permutes(found)
        else:
            ok = isinstance(found, Dense) and _sums(found)
        if not ok:
            break
        chain.append(nodes[i])
        i = nodes[i].parents[0]
    size = nodes[i].size
    place, count, factors, reduces = torch.arange(size), size, [], False
    for node in reversed(chain):
        found = operator(node)
        if isinstance(found, Scale):
            factors.append(factor_of(found))
        elif isinstance(found, Select):
            back = torch.empty_like(found.index)
            back[found.index] = torch.arange(found.index.numel())
            place = back[place]
        else:
            n, inner = found.weight.shape[2], found.inner
            place = place // (n * inner) * inner + place % inner
            count, reduces = found.out_size, reduces or n > 1
            factors.append(_number(found.weight, found.radius))
    return Grouped(i, place, count, tuple(f for f in factors if f is not None and f.exact != 1), reduces)


def _permutes(select: Select) -> bool:
    n = select.index.numel()
    return n == select.in_size and bool((select.index >= 0).all()) and torch.unique(select.index).numel() == n


def _sums(dense: Dense) -> bool:
    """All weights of one row are one positive number: a sum or a mean over an axis."""
    g, m, _ = dense.weight.shape
    return g == 1 and m == 1 and bool((dense.weight > 0).all()) and _number(dense.weight, dense.radius) is not None


def with_norms(graph: Graph) -> Graph:
    """Sums of squares that a nonlinearity reads, as squares of norms."""
    nodes = list(graph.nodes)
    read = _read_by_rows(graph)
    new = Rewriter()
    for i, node in enumerate(nodes):
        found = grouped(nodes, i) if i in read and isinstance(node.what, Linear) else None
        if found is None or not found.reduces or not _squares(nodes[found.base]):
            new.copy(i, node)
            continue
        u = new.place[nodes[found.base].parents[0]]
        order = found.order()
        if not torch.equal(order, torch.arange(order.numel())):
            u = new.put(Linear(Select(order, order.numel())), [u], order.numel(), node)
        size = new.put(Nonlinear(Norm2(found.count, found.n, 1)), [u], found.count, node)
        at = new.put(Nonlinear(Pointwise(SQUARE, found.count)), [size], found.count, node)
        for factor in found.factors:
            at = new.put(Linear(_scale(factor, found.count)), [at], found.count, node)
        new.place[i] = at
    return new.graph(graph)


def _squares(node: Node) -> bool:
    found = block(node)
    if not isinstance(found, Pointwise):
        return False
    return found.label == "square" or (found.label == "pow_int" and found.activation.params == (2.0,))


def _read_by_rows(graph: Graph) -> set[int]:
    """Nodes that reach an elementwise row through scales and offsets."""
    read: set[int] = set()
    for i in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[i]
        affine = isinstance(operator(node), Scale) or isinstance(node.what, Offset)
        if isinstance(block(node), Pointwise | Product) or (i in read and affine):
            read.update(node.parents)
    return read


def _scale(factor: Uniform, n: int) -> Scale:
    exact = factor.exact
    if exact is not None and factor.low == factor.high:
        return Scale(torch.full((n,), factor.low, dtype=torch.float64))
    value = factor.low / 2 + factor.high / 2
    radius = math.nextafter(max(factor.high - value, value - factor.low), math.inf)
    divisor = float(1 / exact) if exact is not None and exact != 0 and Fraction(float(1 / exact)) == 1 / exact else None
    return Scale(torch.full((n,), value, dtype=torch.float64), torch.full((n,), radius, dtype=torch.float64), divisor)


def with_radials(graph: Graph) -> Graph:
    """Products of a signal with a function of the norms of its own groups, as one block each."""
    nodes = list(graph.nodes)
    new = Rewriter()
    for i, node in enumerate(nodes):
        made = _radial(nodes, i) if isinstance(block(node), Product) else None
        if made is None:
            new.copy(i, node)
            continue
        root, order, blocked, scales = made
        at, n = new.place[root], node.size
        if not torch.equal(order, torch.arange(n)):
            at = new.put(Linear(Select(order, n)), [at], n, node)
        at = new.put(Nonlinear(blocked), [at], n, node)
        if not torch.equal(order, torch.arange(n)):
            back = torch.empty_like(order)
            back[order] = torch.arange(n)
            at = new.put(Linear(Select(back, n)), [at], n, node)
        for scale in scales:
            at = new.put(Linear(scale), [at], n, node)
        new.place[i] = at
    return new.graph(graph)


Found = tuple[int, Tensor, Radial | Normalise, list[Scale]]  # signal read, group after group, block, scales behind it


def _radial(nodes: list[Node], i: int) -> Found | None:
    for one, other in (nodes[i].parents, nodes[i].parents[::-1]):
        scalar, scales = other, []
        while isinstance(found := operator(nodes[scalar]), Scale):
            scales.append(found)
            scalar = nodes[scalar].parents[0]
        spread = torch.arange(nodes[i].size)
        while isinstance(found := operator(nodes[scalar]), Select):
            if not bool((found.index >= 0).all()):
                break
            spread, scalar = found.index[spread], nodes[scalar].parents[0]
        sizes = _behind(nodes, scalar)
        if sizes is None:
            continue
        factor, norm = sizes
        measured, order = _reordered(nodes, nodes[norm].parents[0])
        group = torch.empty_like(order)
        group[order] = torch.arange(order.numel()) // block(nodes[norm]).n
        if order.numel() != spread.numel() or not torch.equal(group, spread):
            continue
        signal, more = one, []
        while signal != measured and isinstance(found := operator(nodes[signal]), Scale):
            more.append(found)
            signal = nodes[signal].parents[0]
        if signal == measured:
            return _block(nodes, measured, order, block(nodes[norm]).n, factor, scales + more[::-1])
    return None


def _behind(nodes: list[Node], i: int) -> tuple[Elementwise, int] | None:
    """(f, node of the norm r) with node i = f(r)."""
    found = block(nodes[i])
    if not isinstance(found, Pointwise) or any(isinstance(p, Tensor) for p in found.activation.params):
        return None
    below = nodes[i].parents[0]
    norm = block(nodes[below])
    return (found.activation, below) if isinstance(norm, Norm2) and norm.inner == 1 else None


def _reordered(nodes: list[Node], i: int) -> tuple[int, Tensor]:
    """(signal, order) with node i = the signal's entries in that order."""
    order = torch.arange(nodes[i].size)
    while isinstance(found := operator(nodes[i]), Select) and _permutes(found):
        order, i = found.index[order], nodes[i].parents[0]
    return i, order


def _block(nodes: list[Node], root: int, order: Tensor, n: int, factor: Elementwise, scales: list[Scale]) -> Found:
    groups = order.numel() // n
    eps = _epsilon(factor, n)
    if eps is None:
        return root, order, Radial(groups, n, 1, factor=factor), scales
    centred = _centred(nodes, root, order, n)
    if centred is not None:
        return centred, order, Normalise(groups, n, 1, eps=eps), scales
    return root, order, Normalise(groups, n, 1, eps=eps, centred=False), scales


def _epsilon(factor: Elementwise, n: int) -> float | None:
    """eps of 1 / sqrt(r^2 / n + eps)."""
    steps = getattr(factor.row.function, "steps", None)
    if steps is None or len(steps) < 4:
        return None
    *before, square, scale, shift, last = steps
    names = [s.value.name if isinstance(s.value, Elementwise) else s.op for s in (*before, square, scale, shift, last)]
    chained = all(s.reads == (k,) for k, s in enumerate(steps))
    if not chained or names not in (["square", "scale", "shift", "rsqrt"], ["abs", "square", "scale", "shift", "rsqrt"]):
        return None
    if scale.value.exact != Fraction(1, n) or shift.value.exact is None or shift.value.low != shift.value.high:
        return None
    return shift.value.low if shift.value.low > 0 else None


def _centred(nodes: list[Node], u: int, order: Tensor, n: int) -> int | None:
    """x where u = x - (mean of x over each group)."""
    if not isinstance(nodes[u].what, Add) or len(nodes[u].parents) != 2:
        return None
    group = torch.empty_like(order)
    group[order] = torch.arange(order.numel()) // n
    for x, other in (nodes[u].parents, nodes[u].parents[::-1]):
        total, at = Fraction(1), other
        spread = torch.arange(nodes[u].size)
        while True:  # the mean may be scaled before or after it is repeated
            found = operator(nodes[at])
            if isinstance(found, Scale) and (factor := factor_of(found)) is not None and factor.exact is not None:
                total *= factor.exact
            elif isinstance(found, Select) and bool((found.index >= 0).all()):
                spread = found.index[spread]
            else:
                break
            at = nodes[at].parents[0]
        means = grouped(nodes, at)
        same = means.base == x and means.exact is not None and total * means.exact == Fraction(-1, n)
        if same and means.group.numel() == spread.numel() and torch.equal(means.group[torch.arange(spread.numel())], spread):
            first = torch.full((means.count,), -1, dtype=torch.int64)
            first[means.group] = group
            if torch.equal(first[means.group], group) and torch.unique(first).numel() == means.count:
                return x
    return None
