"""The network as a graph of linear operators and nonlinearities.

A node is a flat float64 signal. Five kinds of node make every network that lipcert can treat:

    Input                        x
    Linear(operator)             A u                       one parent
    Add                          u_1 + ... + u_k           constants of a sum are Offsets
    Concat                       (u_1, ..., u_k)           one after the other
    Offset(value, radius)        u + b                     no parent: the constant b
    Nonlinear(block)             phi(u_1, ...)             elementwise activation or a block of blocks.py

`sources` of the normal form are the input and the nonlinear nodes; between them everything is affine
(v_k = sum_j A_kj z_j + B_k x + b_k, DESIGN section 3), see parts.py.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lipcert.activations import Activation
from lipcert.blocks.base import Block
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.linear import Operator
from lipcert.rigor.rounding import EPS, TINY, all_finite, down, gamma, up


@dataclass(frozen=True)
class Input:
    pass


@dataclass(frozen=True, eq=False)
class Linear:
    operator: Operator


@dataclass(frozen=True)
class Add:
    pass


@dataclass(frozen=True)
class Concat:
    pass


@dataclass(frozen=True, eq=False)
class Offset:
    value: Tensor  # (size,)
    radius: Tensor | None = None  # (size,)


@dataclass(frozen=True, eq=False)
class Nonlinear:
    block: Block


What = Input | Linear | Add | Concat | Offset | Nonlinear


@dataclass(frozen=True, eq=False)
class Node:
    what: What
    parents: tuple[int, ...]
    size: int
    shape: tuple[int, ...]
    name: str  # where it came from in the file


@dataclass(frozen=True, eq=False)
class Enclosure:
    """A batch of signals known to lie in centre +- radius. `radius` None: exact. Both (r, size).

    Entries without radius have exact ends: one float further would make subnormal numbers of zeros, with which matrix
    products are 40 times slower."""

    centre: Tensor
    radius: Tensor | None = None

    def reach(self) -> Tensor:
        return torch.zeros_like(self.centre) if self.radius is None else self.radius

    @property
    def lower(self) -> Tensor:
        if self.radius is None:
            return self.centre
        return self._outward(self.radius, down(self.centre - self.radius))

    @property
    def upper(self) -> Tensor:
        if self.radius is None:
            return self.centre
        return self._outward(self.radius, up(self.centre + self.radius))

    def _outward(self, radius: Tensor, end: Tensor) -> Tensor:
        exact = radius == 0
        return torch.where(exact, self.centre, end) if bool(exact.any()) else end  # choosing takes longer than looking


def overflow_known(centre: Tensor, radius: Tensor) -> Enclosure:
    """Entries whose centre overflowed are only known to be real numbers: centre 0, radius inf. Never NaN."""
    if all_finite(centre) and not math.isnan(float(radius.sum())):
        return Enclosure(centre, radius)
    known = torch.isfinite(centre) & ~radius.isnan()
    return Enclosure(torch.where(known, centre, 0.0), torch.where(known, radius, math.inf))


# Kinds of memo keys whose values are about the nodes named in the key and those before them, whatever is the output.
ABOUT_NODES = ("ancestors", "path", "norm", "compose", "add", "row norms", "absolute")


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order. `input` and `output` are positions. Nothing in it changes after construction.

    `memo` keeps what was computed of this very graph. A key is a tuple (kind, everything that the value depends on);
    no graph takes over the memo of another, but for `then`, which hands on the kinds of ABOUT_NODES.
    """

    nodes: tuple[Node, ...]
    output: int
    input: int = 0
    memo: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for position, node in enumerate(self.nodes):
            if any(parent >= position for parent in node.parents):
                raise ValueError(f"node {position} ({node.name}) reads a later node")
            sizes = [self.nodes[parent].size for parent in node.parents]
            match node.what:
                case Input():
                    ok = not sizes
                case Linear(operator):
                    ok = sizes == [operator.in_size] and node.size == operator.out_size
                case Add():
                    ok = bool(sizes) and all(size == node.size for size in sizes)
                case Concat():
                    ok = bool(sizes) and sum(sizes) == node.size
                case Offset(value, _):
                    ok = sizes in ([], [node.size]) and value.numel() == node.size
                case Nonlinear(block):
                    ok = block.fits(sizes, node.size)
            if not ok:
                raise ValueError(f"node {position} ({node.name}): sizes {sizes} -> {node.size} do not fit {node.what}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.nodes[self.input].shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.nodes[self.output].shape

    @property
    def nonlinear(self) -> tuple[int, ...]:
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node.what, Nonlinear))

    @property
    def neurons(self) -> int:
        """Entries of all elementwise and block nonlinearities."""
        return sum(self.nodes[i].size for i in self.nonlinear)

    def evaluate(self, x: Tensor) -> Tensor:
        """The network at (r, *input_shape) or (r, input_size), in x's dtype: floating values, no error term.

        Returns (r, output_size). Differentiable. Signals are freed after their last use.
        """
        return forward(self, VALUES, x)[self.output]

    def enclose(self, x: Enclosure) -> Enclosure:
        """The network in real arithmetic at every point of `x`, with the rounding of this very computation inside."""
        return forward(self, ENCLOSURES, x)[self.output]

    def then(self, node: Node) -> Graph:
        """The same nodes with one more, which is the output. What is known of the nodes stays known; whatever else was
        computed of this graph may depend on its output, and is not handed on."""
        more = Graph((*self.nodes, node), len(self.nodes), self.input)
        more.memo.update({key: value for key, value in dict(self.memo).items() if key[0] in ABOUT_NODES})
        return more

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Graph:
        """A copy for evaluation in bulk (CUDA, float32); proofs stay with float64: see `on`."""
        nodes = []
        for node in self.nodes:
            what = node.what
            if isinstance(what, Linear):
                what = Linear(what.operator.to(device, dtype))
            elif isinstance(what, Offset):
                what = Offset(
                    what.value.to(device, dtype), what.radius if what.radius is None else what.radius.to(device, dtype)
                )
            elif isinstance(what, Nonlinear):
                what = Nonlinear(what.block.to(device, dtype))
            nodes.append(Node(what, node.parents, node.size, node.shape, node.name))
        return Graph(tuple(nodes), self.output, self.input)

    def on(self, device: torch.device | str) -> Graph:
        """The same float64 graph with what is known of its errors, on a device: for proofs there."""
        if str(device) == "cpu":
            return self
        key = ("on", str(device), self.output)
        if key not in self.memo:
            self.memo[key] = self.to(device, torch.float64)
        return self.memo[key]

    def fingerprint(self) -> str:
        """sha256 over structure and coefficients: what a certificate is about."""
        key = ("fingerprint", self.output)
        if key not in self.memo:
            self.memo[key] = self._fingerprint()
        return self.memo[key]

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for node in self.nodes:
            digest.update(repr((type(node.what).__name__, node.parents, node.size)).encode())
            for part in _contents(node.what):
                digest.update(part)
        digest.update(repr((self.input, self.output)).encode())
        return digest.hexdigest()


def _contents(value: Any) -> list[bytes]:
    """Everything that determines a node's function, in the order of its fields (hash input)."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        return [repr((str(plain.dtype), tuple(plain.shape))).encode(), plain.numpy().tobytes()]
    if isinstance(value, Activation):  # a row of the table, all functions: its name says which
        return [value.name.encode()]
    if hasattr(value, "__dataclass_fields__"):
        inner: list[bytes] = [type(value).__name__.encode()]
        for name in value.__dataclass_fields__:
            if name != "memo":
                inner += [name.encode(), *_contents(getattr(value, name))]
        return inner
    if isinstance(value, tuple | list):
        return [b"(", *(part for item in value for part in _contents(item)), b")"]
    return [repr(value).encode()]


def reach_about(centre: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The radius of [lower, upper] about `centre`; 0 where that is both ends, as of a ReLU that is off."""
    return torch.where((lower == centre) & (upper == centre), 0.0, up(torch.maximum(upper - centre, centre - lower)))


def enclose_linear(operator: Operator, u: Enclosure) -> Enclosure:
    """|A u - fl(A~ c)| <= |A~| rho + E (|c| + rho) + gamma |A~| |c| (+ underflow), all upward."""
    centre = operator.mv(u.centre)
    if operator.terms == 0:
        return Enclosure(centre, None if u.radius is None else operator.absolute().mv(u.radius))
    n = operator.terms
    mass = u.centre.abs()
    reach = u.reach()
    inner = up(gamma(n + 1) * mass + reach)  # up: the product may underflow where a large coefficient meets it
    inner = torch.where((mass == 0) & (reach == 0), 0.0, inner)
    radius = operator.absolute().mv(inner)
    error = operator.radius_operator()
    if error is not None:
        radius = radius + error.mv(mass + reach)
    return overflow_known(centre, up(radius * (1 + 4 * gamma(n + 8)) + 8 * n * TINY))


def enclose_sum(*terms: Enclosure) -> Enclosure:
    """|sum u - fl(sum c)| <= sum rho + gamma sum |c|."""
    if len(terms) == 1:
        return terms[0]
    centre = sum((t.centre for t in terms[1:]), start=terms[0].centre)
    mass = sum((t.centre.abs() for t in terms[1:]), start=terms[0].centre.abs())
    reach = sum((t.reach() for t in terms[1:]), start=terms[0].reach())
    n = len(terms)
    return overflow_known(centre, up((reach + gamma(n) * mass) * (1 + 4 * gamma(n + 4))))


def enclose_stack(*terms: Enclosure) -> Enclosure:
    exact = all(t.radius is None for t in terms)
    centre = torch.cat([t.centre for t in terms], dim=1)
    return Enclosure(centre, None if exact else torch.cat([t.reach() for t in terms], dim=1))


def _enclose_offset(at: Visit, *given: Enclosure) -> Enclosure:
    value, slack = at.what.value, at.what.radius
    if not given:
        rows = at.state.centre.shape[0]
        return Enclosure(value.expand(rows, -1), None if slack is None else slack.expand(rows, -1))
    centre = given[0].centre + value
    reach = given[0].reach() + (0 if slack is None else slack)
    return overflow_known(centre, up((reach + EPS * centre.abs()) * (1 + 8 * EPS)))


def _enclose_block(at: Visit, *given: Enclosure) -> Enclosure:
    lower, upper = at.what.block.values_on(*((u.lower, u.upper) for u in given))
    centre = lower + (upper - lower) / 2
    return overflow_known(centre, reach_about(centre, lower, upper))


def _value_offset(at: Visit, *given: Tensor) -> Tensor:
    return given[0] + at.what.value if given else at.what.value.expand(at.state.shape[0], -1)


VALUES: Rules = {  # floating values (r, size); state: the input, (r, ...)
    Input: lambda at: at.state.reshape(at.state.shape[0], at.node.size),
    Linear: lambda at, u: at.what.operator.mv(u),
    Add: lambda at, *us: sum(us[1:], start=us[0]),
    Concat: lambda at, *us: torch.cat(us, dim=1),
    Offset: _value_offset,
    Nonlinear: lambda at, *us: at.what.block(*us),
}
ENCLOSURES: Rules = {  # real arithmetic and our rounding; state: the input's Enclosure
    Input: lambda at: at.state,
    Linear: lambda at, u: enclose_linear(at.what.operator, u),
    Add: lambda at, *us: enclose_sum(*us),
    Concat: lambda at, *us: enclose_stack(*us),
    Offset: _enclose_offset,
    Nonlinear: _enclose_block,
}
