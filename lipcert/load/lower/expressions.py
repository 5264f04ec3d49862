"""Maximal expressions of one signal: x / sqrt(1 + x^2), exp(-x^2), log(exp x + 1), ... are one elementwise function each.

Every node that acts entry by entry (rows, scales, offsets, sums, products, maxima of two signals) has an origin: the one
signal that it is a function of, if there is one. Where such an expression holds a product or a row without a finite slope,
it becomes one row (activations/composed.py), whose slopes are proved as a whole. The rest stays as it is.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.activations.composed import DISTINCT, composed
from lipcert.activations.jets import Coefficient, Slot, Step, Uniform, needed
from lipcert.blocks.normalise import Norm2
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import Product
from lipcert.blocks.selection import Selection
from lipcert.load.lower.rewrite import Rewriter, block, operator, steep, uniform
from lipcert.network.graph import Add, Concat, Graph, Linear, Node, Nonlinear, Offset
from lipcert.operators.linear import Scale

LONGEST = 64  # steps of one expression


def operands(nodes: tuple[Node, ...], i: int) -> tuple[int, ...] | None:
    """The signals that node i combines entry by entry, None if it does something else."""
    node = nodes[i]
    match node.what:
        case Linear(Scale()) | Add():
            return node.parents
        case Offset() if node.parents:
            return node.parents
        case Nonlinear(Pointwise() as found):
            return None if any(isinstance(p, Tensor) for p in found.activation.params) else node.parents
        case Nonlinear(Product()):
            return node.parents
        case Nonlinear(Selection() as chosen):
            both = nodes[node.parents[0]]
            n = node.size
            if not (isinstance(both.what, Concat) and len(both.parents) == 2 and chosen.windows.shape == (n, 2)):
                return None
            pairs = torch.stack([torch.arange(n), torch.arange(n) + n], dim=1)
            same = all(nodes[p].size == n for p in both.parents) and torch.equal(chosen.windows, pairs)
            return both.parents if same else None
    return None


def origins(nodes: tuple[Node, ...]) -> list[int]:
    """For each node the farthest signal of which it is an elementwise function: itself where there is no other."""
    found: list[int] = []
    for i in range(len(nodes)):
        read = operands(nodes, i)
        sources = set() if read is None else {found[p] for p in read}
        found.append(sources.pop() if len(sources) == 1 else i)
    return found


def fused(graph: Graph) -> Graph:
    """The graph with its expressions of one signal as rows."""
    nodes = graph.nodes
    origin = origins(nodes)
    readers: dict[int, set[int]] = {i: set() for i in range(len(nodes))}
    for i in range(len(nodes)):
        for p in operands(nodes, i) or nodes[i].parents:
            readers[p].add(i)
    rows: dict[int, Found] = {}
    for i in range(len(nodes)):
        leaves = i == graph.output or any(origin[k] != origin[i] for k in readers[i])
        if leaves and origin[i] != i:
            end = _peeled(nodes, i, origin[i])
            if end not in rows and (made := _row(nodes, end, origin[i])) is not None:
                rows[end] = made
    if not rows:
        return graph
    new = Rewriter()
    for i, node in enumerate(nodes):
        if i not in rows:
            new.copy(i, node)
            continue
        root, row, after = rows[i]
        new.place[i] = new.place[root]
        if row is not None:
            new.place[i] = new.put(Nonlinear(row), [new.place[root]], node.size, node)
        for factor in after:
            new.place[i] = new.put(Linear(scale_of(factor, node.size)), [new.place[i]], node.size, node)
    return new.graph(graph)


def _peeled(nodes: tuple[Node, ...], end: int, root: int) -> int:
    """Scales and offsets at the end stay linear."""
    while end != root and _affine(nodes[end]):
        end = nodes[end].parents[0]
    return end


def _affine(node: Node) -> bool:
    return isinstance(operator(node), Scale) or (isinstance(node.what, Offset) and len(node.parents) == 1)


def _cone(nodes: tuple[Node, ...], end: int, root: int) -> list[int]:
    """Nodes between root (not included) and end, in order."""
    seen: set[int] = set()
    waiting = [end]
    while waiting:
        i = waiting.pop()
        if i not in seen and i != root:
            seen.add(i)
            waiting += operands(nodes, i) or ()
    return sorted(seen)


Found = tuple[int, Pointwise | None, list[Uniform]]  # the signal read, the row (None: that signal), factors behind it


def _row(nodes: tuple[Node, ...], end: int, origin: int) -> Found | None:
    """What the expression that ends there is, if it is worth a row."""
    cone, root = _cone(nodes, end, origin), origin
    positive = isinstance(block(nodes[origin]), Norm2)
    while not positive:  # scales and offsets that all of it reads through stay linear
        first = [i for i in cone if root in (operands(nodes, i) or ())]
        if len(first) != 1 or not _affine(nodes[first[0]]) or first[0] == end:
            break
        root = first[0]
        cone.remove(root)
    inner = [i for i in cone if isinstance(nodes[i].what, Nonlinear)]
    worth = any(isinstance(block(nodes[i]), Product) or steep(nodes[i]) for i in inner)
    products = any(isinstance(block(nodes[i]), Product | Selection) for i in inner)
    if not worth or len(cone) > LONGEST or not (products or positive or len(inner) > 1):
        return None
    builder = Writing(positive)
    at = {root: builder.start}
    for i in cone:
        at[i] = builder.node(nodes[i], [at[p] for p in operands(nodes, i) or ()])
    last, after = builder.peeled(at[end])
    if last == builder.start:
        return root, None, after
    made = builder.finish(last)
    if made is None or not made.row.continuous:  # jumps stay where they are: proofs about them need the row
        return None
    return root, Pointwise(made, nodes[end].size), after


class Writing:
    """An expression being written, simplified on the way. `positive`: x >= 0, so x is read as |x|."""

    def __init__(self, positive: bool = False):
        self.steps: list[Step] = []
        self.params: list[Tensor] = []
        self.start = 0
        if positive:
            self.start = self.row("abs", 0)

    def put(self, op: str, reads: tuple[int, ...], value: Coefficient | Elementwise | None = None) -> int:
        step = self.steps[reads[0] - 1] if reads[0] else None
        if op == "scale" and step is not None and step.op == "scale" and _exact(step.value) and _exact(value):
            both = step.value.exact * value.exact  # type: ignore[union-attr, operator]
            return step.reads[0] if both == 1 else self.put("scale", step.reads, Uniform.of(both))
        if op == "times":
            for one, other in (reads, reads[::-1]):  # sign(u) |u| = u
                size = (
                    self._argument(other, "abs")
                    if not self._is(other, "relu")
                    else self._argument(self._argument(other, "relu"), "abs")
                )
                if size is not None and self._argument(one, "sign") == size:
                    return size
        self.steps.append(Step(op, reads, value))
        return len(self.steps)

    def node(self, node: Node, args: list[int]) -> int:
        what = node.what
        if isinstance(what, Linear):
            scale = operator(node)
            exact = None if scale.divisor is None else 1 / Fraction(scale.divisor)
            return self.put("scale", (args[0],), self.coefficient(scale.factor, scale.radius, exact))
        if isinstance(what, Offset):
            return self.put("shift", (args[0],), self.coefficient(what.value, what.radius))
        if isinstance(what, Add):
            total = args[0]
            for other in args[1:]:
                total = self.put("add", (total, other))
            return total
        found = block(node)
        if isinstance(found, Pointwise):
            return self.row(found.label, args[0], found.activation)
        if isinstance(found, Product):
            return self.row("square", args[0]) if args[0] == args[1] else self.put("times", (args[0], args[1]))
        return self.put("min" if found.minimum else "max", (args[0], args[1]))

    def coefficient(self, centre: Tensor, radius: Tensor | None, exact: Fraction | None = None) -> Coefficient:
        if exact is not None:
            return Uniform.of(exact)
        if uniform(centre) and uniform(radius):
            value = float(centre[0])
            if radius is None:
                return Uniform.of(Fraction(value))
            r = float(radius[0])
            return Uniform(math.nextafter(value - r, -math.inf), math.nextafter(value + r, math.inf))
        self.params.append(centre)
        if radius is None:
            return Slot(len(self.params) - 1)
        self.params.append(radius)
        return Slot(len(self.params) - 2, len(self.params) - 1)

    def _is(self, i: int, name: str) -> bool:
        value = self.steps[i - 1].value if i > 0 else None
        return isinstance(value, Elementwise) and value.name == name

    def _argument(self, i: int | None, name: str) -> int | None:
        return self.steps[i - 1].reads[0] if i is not None and self._is(i, name) else None

    def peeled(self, end: int) -> tuple[int, list[Uniform]]:
        """Uniform factors at the end, innermost first: they stay linear."""
        after: list[Uniform] = []
        while end and self.steps[end - 1].op == "scale" and isinstance(self.steps[end - 1].value, Uniform):
            after.append(self.steps[end - 1].value)  # type: ignore[arg-type]
            end = self.steps[end - 1].reads[0]
        return end, after[::-1]

    def row(self, name: str, i: int, given: Elementwise | None = None) -> int:
        """A row of step i, or something equal that is simpler."""
        step = self.steps[i - 1] if i else None
        below = step.reads[0] if step else 0
        if name == "square" and self._is(i, "abs"):
            return self.row("square", below)
        if name == "square" and (self._is(i, "sin") or self._is(i, "cos")):  # (1 -+ cos 2u) / 2
            turned = self.row("cos", self.put("scale", (below,), Uniform.of(Fraction(2))))
            half = Uniform.of(Fraction(-1 if self._is(i, "sin") else 1, 2))
            return self.put("shift", (self.put("scale", (turned,), half),), Uniform.of(Fraction(1, 2)))
        if name == "sqrt" and self._is(i, "square"):
            if self.start and below == 0:
                return self.start
            return below if self._is(below, "abs") else self.row("abs", below)
        if name == "sqrt" and step and step.op == "scale" and self._is(below, "square"):
            root = _root(step.value)
            if root is not None:
                return self.put("scale", (self.row("sqrt", below),), root)
        if name == "reciprocal" and self._is(i, "sqrt"):
            return self.row("rsqrt", below)
        if name == "reciprocal" and self._is(i, "exp"):
            return self.row("exp", self.put("scale", (below,), Uniform.of(Fraction(-1))))
        return self.put("row", (i,), given or Elementwise(ACTIVATIONS[name]))

    def finish(self, end: int) -> Elementwise | None:
        """The steps that `end` needs, as a row; a row of the table where it is one. None: too many coefficients."""
        expression = needed(self.steps, end)
        if len(expression.steps) == 1 and isinstance(expression.steps[0].value, Elementwise):
            return expression.steps[0].value
        if self.params and torch.unique(torch.stack(self.params), dim=1).shape[1] > DISTINCT:
            return None
        return composed(expression, [p.contiguous() for p in self.params])


def _exact(value: object) -> bool:
    return isinstance(value, Uniform) and value.exact is not None


def scale_of(factor: Uniform, n: int) -> Scale:
    """A factor as an operator on n entries."""
    exact = factor.exact
    if exact is not None and factor.low == factor.high:
        return Scale(torch.full((n,), factor.low, dtype=torch.float64))
    value = factor.low / 2 + factor.high / 2
    radius = math.nextafter(max(factor.high - value, value - factor.low), math.inf)
    divisor = float(1 / exact) if exact is not None and exact != 0 and Fraction(float(1 / exact)) == 1 / exact else None
    return Scale(torch.full((n,), value, dtype=torch.float64), torch.full((n,), radius, dtype=torch.float64), divisor)


def _root(value: Coefficient | Elementwise | None) -> Uniform | None:
    """The square root of a positive uniform coefficient."""
    if not isinstance(value, Uniform) or value.low <= 0:
        return None
    low, high = (math.sqrt(side) for side in (value.low, value.high))
    if value.exact is not None and Fraction(low) ** 2 == value.exact:
        return Uniform.of(Fraction(low))
    return Uniform(math.nextafter(low, 0.0), math.nextafter(high, math.inf))
