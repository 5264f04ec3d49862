"""Normalisations as exporters spell them: sums of squares over groups of entries, and a signal scaled by a function of its
own sum of squares.

    c sum over a group of u^2             = c |u_group|^2                 (blocks.Norm2, then a square)
    u^2 + v^2                             = |(u_i, v_i)|^2 for each i     (magnitudes of complex numbers)
    u_i f(|u_group of i|)                                                 (radial.Radial)
    u / sqrt(mean u^2 + eps)              = blocks.Normalise(eps), with the mean subtracted where u = x - mean x

Groups are index sets, read off the selections and sums between the signals, so that any axes and reshapes will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.activations.composed import composed
from lipcert.activations.jets import Expression, Step, Uniform, spliced
from lipcert.blocks.normalise import Norm2, Normalise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import Product
from lipcert.blocks.radial import Radial
from lipcert.blocks.softmax import LogSumExp, Softmax
from lipcert.load.lower.expressions import scale_of
from lipcert.load.lower.grouped import factor_of, grouped
from lipcert.load.lower.rewrite import Rewriter, block, operator
from lipcert.network.graph import Add, Concat, Graph, Linear, Node, Nonlinear, Offset
from lipcert.operators.linear import Dense, Scale, Select

SQUARE = Elementwise(ACTIVATIONS["square"])


def with_variances(graph: Graph) -> Graph:
    """mean x^2 - (mean x)^2 = mean (x - mean x)^2 over the same groups, equal in real arithmetic. And with e = exp v:
    e / sum e is a softmax, log sum e a log-sum-exp."""
    nodes = list(graph.nodes)
    new = Rewriter()
    for i, node in enumerate(nodes):
        place = _variance(nodes, i, new, node) or _exponential(nodes, i, new, node)
        if place is None:
            new.copy(i, node)
        else:
            new.place[i] = place
    return new.graph(graph)


def _variance(nodes: list[Node], i: int, new: Rewriter, node: Node) -> int | None:
    if not isinstance(node.what, Add) or len(node.parents) != 2:
        return None
    for one, other in (node.parents, node.parents[::-1]):
        minus = operator(nodes[other])
        if not (isinstance(minus, Scale) and factor_of(minus) == Uniform.of(Fraction(-1))):
            continue
        squared = nodes[other].parents[0]
        if not _squares(nodes[squared]):
            continue
        squares, means = grouped(nodes, one), grouped(nodes, nodes[squared].parents[0])
        if not _squares(nodes[squares.base]) or nodes[squares.base].parents[0] != means.base:
            continue
        size = nodes[means.base].size
        groups = means.groups(size)
        same = torch.equal(squares.table.sort(dim=1).values, means.table.sort(dim=1).values)
        average = means.exact == squares.exact == Fraction(1, means.n)
        if groups is None or not same or not average:
            continue
        x, n = new.place[means.base], means.n
        mean = new.place[nodes[squared].parents[0]]
        spread = new.put(Linear(Select(groups, means.count)), [mean], size, node)
        spread = new.put(Linear(Scale(-torch.ones(size, dtype=torch.float64))), [spread], size, node)
        centred = new.put(Add(), [x, spread], size, node)
        at = new.put(Nonlinear(Pointwise(SQUARE, size)), [centred], size, node)
        at = _select(new, at, means.table.reshape(-1), size, node)
        ones = Dense(torch.ones(1, 1, n, dtype=torch.float64), means.count, 1)
        at = new.put(Linear(ones), [at], means.count, node)
        return new.put(Linear(scale_of(Uniform.of(Fraction(1, n)), means.count)), [at], means.count, node)
    return None


def _exponential(nodes: list[Node], i: int, new: Rewriter, node: Node) -> int | None:
    found = block(node)
    if isinstance(found, Pointwise) and found.label == "log":
        sums = grouped(nodes, node.parents[0])
        if sums.n == 1 or sums.exact != 1 or not _row(nodes[sums.base], "exp") or bool((sums.table < 0).any()):
            return None
        at = _select(new, new.place[nodes[sums.base].parents[0]], sums.table.reshape(-1), nodes[sums.base].size, node)
        return new.put(Nonlinear(LogSumExp(sums.count, sums.n, 1)), [at], sums.count, node)
    if not isinstance(found, Product):
        return None
    for one, other in (node.parents, node.parents[::-1]):
        scalar, spread = _unspread(nodes, other, node.size)
        if not (_row(nodes[one], "exp") and _row(nodes[scalar], "reciprocal")):
            continue
        sums = grouped(nodes, nodes[scalar].parents[0])
        own = sums.groups(node.size) if sums.base == one and sums.exact == 1 else None
        if own is None or not torch.equal(own, spread):
            continue
        order = sums.table.reshape(-1)
        at = _select(new, new.place[_unshifted(nodes, nodes[one].parents[0], own)], order, node.size, node)
        at = new.put(Nonlinear(Softmax(sums.count, sums.n, 1)), [at], node.size, node)
        return _select(new, at, torch.argsort(order), node.size, node)
    return None


def _unshifted(nodes: list[Node], v: int, groups: Tensor) -> int:
    """x where v = x + (one value per group): a softmax does not see that value."""
    if isinstance(nodes[v].what, Add) and len(nodes[v].parents) == 2:
        for x, other in (nodes[v].parents, nodes[v].parents[::-1]):
            while isinstance(found := operator(nodes[other]), Scale) and factor_of(found) is not None:
                other = nodes[other].parents[0]
            found = operator(nodes[other])
            if isinstance(found, Select) and bool((found.index >= 0).all()):
                pairs = torch.unique(torch.stack([groups, found.index]), dim=1).shape[1]
                if pairs == torch.unique(groups).numel():
                    return x
    return v


def _select(new: Rewriter, at: int, order: Tensor, size: int, node: Node) -> int:
    """The entries in another order, nothing where it is the same."""
    if torch.equal(order, torch.arange(size)):
        return at
    return new.put(Linear(Select(order.contiguous(), size)), [at], order.numel(), node)


def _row(node: Node, name: str) -> bool:
    found = block(node)
    return isinstance(found, Pointwise) and found.label == name


def _unspread(nodes: list[Node], i: int, size: int) -> tuple[int, Tensor]:
    """(s, index) with node i = s[index]."""
    spread = torch.arange(size)
    while isinstance(found := operator(nodes[i]), Select) and bool((found.index >= 0).all()):
        spread, i = found.index[spread], nodes[i].parents[0]
    return i, spread


def with_norms(graph: Graph) -> Graph:
    """Sums of squares that a nonlinearity reads, as squares of norms."""
    nodes = list(graph.nodes)
    read = _read_by_rows(graph)
    new = Rewriter()
    for i, node in enumerate(nodes):
        if i in read and (signals := _squared(nodes, i)) is not None:
            new.place[i] = _magnitudes(new, [new.place[v] for v in signals], node)
            continue
        found = grouped(nodes, i) if i in read and isinstance(node.what, Linear) else None
        if found is None or found.n == 1 or not _squares(nodes[found.base]):
            new.copy(i, node)
            continue
        u = new.place[nodes[found.base].parents[0]]
        u = _select(new, u, found.table.reshape(-1), nodes[found.base].size, node)
        norm = new.put(Nonlinear(Norm2(found.count, found.n, 1)), [u], found.count, node)
        at = new.put(Nonlinear(Pointwise(SQUARE, found.count)), [norm], found.count, node)
        for factor in found.factors:
            at = new.put(Linear(scale_of(factor, found.count)), [at], found.count, node)
        new.place[i] = at
    return new.graph(graph)


def _squared(nodes: list[Node], i: int) -> list[int] | None:
    """The signals of which node i is the sum of squares, entry by entry."""
    if not isinstance(nodes[i].what, Add):
        return None
    found: list[int] = []
    for parent in nodes[i].parents:
        more = list(nodes[parent].parents) if _squares(nodes[parent]) else _squared(nodes, parent)
        if more is None:
            return None
        found += more
    return found


def _magnitudes(new: Rewriter, signals: list[int], node: Node) -> int:
    """|(u_i, v_i, ..)|^2 for each entry i of signals u, v, .. of one size."""
    many, size = len(signals), node.size
    at = new.put(Concat(), signals, many * size, node)
    at = _select(new, at, torch.arange(many * size).reshape(many, size).T.reshape(-1), many * size, node)
    norm = new.put(Nonlinear(Norm2(size, many, 1)), [at], size, node)
    return new.put(Nonlinear(Pointwise(SQUARE, size)), [norm], size, node)


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


def with_radials(graph: Graph) -> Graph:
    """Products of a signal with functions of the norms of its own groups, as one block each."""
    nodes = list(graph.nodes)
    new = Rewriter()
    known: dict[int, Scaled] = {}
    for i, node in enumerate(nodes):
        made = _scaled(nodes, i, known) if isinstance(block(node), Product) else None
        if made is None:
            new.copy(i, node)
            continue
        known[i] = made
        root, chosen = _block(nodes, made)
        at = _select(new, new.place[root], made.order, node.size, node)
        at = new.put(Nonlinear(chosen), [at], node.size, node)
        at = _select(new, at, torch.argsort(made.order), node.size, node)
        for scale in made.scales:
            at = new.put(Linear(scale), [at], node.size, node)
        new.place[i] = at
    return new.graph(graph)


@dataclass(frozen=True)
class Scaled:
    """scales(u f(|u_group|)): u is node `root`, its entries group after group are `order`, n in each."""

    root: int
    order: Tensor
    n: int
    factor: Elementwise
    scales: tuple[Scale, ...]


def _scaled(nodes: list[Node], i: int, known: dict[int, Scaled]) -> Scaled | None:
    for one, other in (nodes[i].parents, nodes[i].parents[::-1]):
        scalar, scales = other, []
        while isinstance(found := operator(nodes[scalar]), Scale):
            scales.append(found)
            scalar = nodes[scalar].parents[0]
        scalar, spread = _unspread(nodes, scalar, nodes[i].size)
        while isinstance(found := operator(nodes[scalar]), Scale) and factor_of(found) is not None:
            scales.append(scale_of(factor_of(found), nodes[i].size))  # type: ignore[arg-type]
            scalar = nodes[scalar].parents[0]
        sizes = _behind(nodes, scalar)
        if sizes is None:
            continue
        factor, norm = sizes
        measured, order = _reordered(nodes, nodes[norm].parents[0])
        n = block(nodes[norm]).n
        group = torch.empty_like(order)
        group[order] = torch.arange(order.numel()) // n
        if order.numel() != spread.numel() or not torch.equal(group, spread):
            continue
        signal = one
        while signal != measured and isinstance(found := operator(nodes[signal]), Scale):
            scales.append(found)
            signal = nodes[signal].parents[0]
        if signal == measured:
            return Scaled(measured, order, n, factor, tuple(scales))
        before = known.get(signal)
        if before is not None and before.root == measured and before.n == n and torch.equal(before.order, order):
            return Scaled(measured, order, n, _times(before.factor, factor), (*before.scales, *scales))
    return None


def _times(f: Elementwise, g: Elementwise) -> Elementwise:
    first = spliced(f, 0)
    second = tuple(Step(s.op, tuple(r if r == 0 else r + len(first) for r in s.reads), s.value) for s in spliced(g, 0))
    steps = (*first, *second)
    return composed(Expression((*steps, Step("times", (len(first), len(steps))))))


def _behind(nodes: list[Node], i: int) -> tuple[Elementwise, int] | None:
    """(f, node of the norm r) with node i = f(r)."""
    found = block(nodes[i])
    if not isinstance(found, Pointwise) or any(isinstance(p, Tensor) for p in found.activation.params):
        return None
    below = nodes[i].parents[0]
    norm = block(nodes[below])
    return (found.activation, below) if isinstance(norm, Norm2) and norm.inner == 1 else None


def _permutes(select: Select) -> bool:
    n = select.index.numel()
    return n == select.in_size and bool((select.index >= 0).all()) and torch.unique(select.index).numel() == n


def _reordered(nodes: list[Node], i: int) -> tuple[int, Tensor]:
    """(signal, order) with node i = the signal's entries in that order."""
    order = torch.arange(nodes[i].size)
    while isinstance(found := operator(nodes[i]), Select) and _permutes(found):
        order, i = found.index[order], nodes[i].parents[0]
    return i, order


def _block(nodes: list[Node], made: Scaled) -> tuple[int, Radial | Normalise]:
    """(signal read, block)."""
    groups = made.order.numel() // made.n
    eps = _epsilon(made.factor, made.n)
    if eps is None:
        return made.root, Radial(groups, made.n, 1, factor=made.factor)
    centred = _centred(nodes, made.root, made.order, made.n)
    if centred is not None:
        return centred, Normalise(groups, made.n, 1, eps=eps)
    return made.root, Normalise(groups, made.n, 1, eps=eps, centred=False)


def _epsilon(factor: Elementwise, n: int) -> float | None:
    """eps of 1 / sqrt(r^2 / n + eps)."""
    steps = getattr(factor.row.function, "steps", None)
    if steps is None or len(steps) < 4:
        return None
    *before, square, scale, shift, last = steps
    names = [s.value.name if isinstance(s.value, Elementwise) else s.op for s in (*before, square, scale, shift, last)]
    chained = all(s.reads == (k,) for k, s in enumerate(steps))
    if not chained or names not in (
        ["square", "scale", "shift", "rsqrt"],
        ["abs", "square", "scale", "shift", "rsqrt"],
    ):
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
        own = means.groups(nodes[u].size) if means.base == x else None
        if own is None or means.exact is None or total * means.exact != Fraction(-1, n):
            continue
        if torch.equal(own, spread) and _same_partition(own, group):
            return x
    return None


def _same_partition(a: Tensor, b: Tensor) -> bool:
    pairs = torch.unique(torch.stack([a, b]), dim=1).shape[1]
    return pairs == torch.unique(a).numel() == torch.unique(b).numel()
