"""Linear parts: everything affine between two signals is one operator, and its norm is bounded as one.

`push` and `pull` run the affine nodes forward and backward in one of three arithmetics:
PLAIN (floating values), ENCLOSED (centre and radius, rounding inside), UPWARD (absolute coefficients, rounded up).
A `Path` is the operator A_kj from one signal to another, with all other signals held at zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipcert.network.closed_forms import closed_forms, concat_norm, times, total
from lipcert.network.graph import (
    Add,
    Concat,
    Enclosure,
    Graph,
    Input,
    Linear,
    Nonlinear,
    Offset,
    enclose_linear,
    enclose_stack,
    enclose_sum,
)
from lipcert.network.walk import Rules, Visit, backward, forward
from lipcert.operators.linear import Adjoint, Dense, Operator, Scale, Select
from lipcert.rigor.matrix_norms import matrix_norm_upper
from lipcert.rigor.rounding import TINY, gamma, sqrt_up, up
from lipcert.terms.clock import late
from lipcert.terms.memory import share
from lipcert.terms.query import P

DENSE_FLOPS = 4e10  # about two seconds of one core: above this a part keeps its structured bound
DENSE_ENTRIES = 2**26


@dataclass(frozen=True)
class Arithmetic:
    """How a batch of signals goes through an operator, a sum, a concatenation. `zeros(like, n)`: (r, n)."""

    apply: Callable[[Operator, Any], Any]
    total: Callable[[Sequence[Any]], Any]
    join: Callable[[list[Any]], Any]
    cut: Callable[[Any, int, int], Any]
    zeros: Callable[[Any, int], Any]


def apply_up(operator: Operator, x: Tensor) -> Tensor:
    """>= |A| x for x >= 0, entry by entry."""
    y = operator.absolute().mv(x)
    n = operator.terms
    return y if n == 0 and operator.radius_operator() is None else up(y * (1 + 2 * gamma(n + 4)) + n * TINY)


def _sum_up(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = up(total + term)
    return total


PLAIN = Arithmetic(
    apply=lambda op, x: op.mv(x),
    total=lambda terms: sum(terms[1:], start=terms[0]),
    join=lambda terms: torch.cat(terms, dim=1),
    cut=lambda x, start, stop: x[:, start:stop],
    zeros=lambda like, n: like.new_zeros(like.shape[0], n),
)
ENCLOSED = Arithmetic(
    apply=enclose_linear,
    total=lambda terms: enclose_sum(*terms),
    join=lambda terms: enclose_stack(*terms),
    cut=lambda x, a, b: Enclosure(x.centre[:, a:b], None if x.radius is None else x.radius[:, a:b]),
    zeros=lambda like, n: Enclosure(like.centre.new_zeros(like.centre.shape[0], n)),
)
UPWARD = Arithmetic(apply_up, _sum_up, PLAIN.join, PLAIN.cut, PLAIN.zeros)


def push(graph: Graph, nodes: Iterable[int], values: dict[int, Any], how: Arithmetic = PLAIN) -> dict[int, Any]:
    """Carry the given signals through the affine `nodes` (topological order); absent parents are zero signals.
    Offsets are dropped: this is the linear map. Fills and returns `values`."""
    values |= forward(graph, PUSH, how, start=values, nodes=nodes)
    return values


def pull(graph: Graph, nodes: Iterable[int], values: Mapping[int, Any], how: Arithmetic = PLAIN) -> dict[int, Any]:
    """The transpose of `push`: carry signals at later nodes back through `nodes` (given in topological order)."""
    return backward(graph, PULL, values, lambda at, terms: how.total(terms), how, nodes=list(nodes))


def _push_stack(at: Visit, *signals: Any) -> Any:
    how, like = at.state, next(signal for signal in signals if signal is not None)
    sizes = (at.graph.nodes[parent].size for parent in at.node.parents)
    return how.join([how.zeros(like, n) if u is None else u for u, n in zip(signals, sizes, strict=True)])


def split(at: Visit) -> list[tuple[int, int]]:
    """Where the parents of a Concat begin and end in it."""
    edges = list(itertools.accumulate((at.graph.nodes[parent].size for parent in at.node.parents), initial=0))
    return list(itertools.pairwise(edges))


PUSH: Rules = {  # state: the arithmetic
    Linear: lambda at, u: at.state.apply(at.what.operator, u),
    Add: lambda at, *us: at.state.total([u for u in us if u is not None]),
    Concat: _push_stack,
    Offset: lambda at, *us: us[0] if us else None,
}
PULL: Rules = {
    Linear: lambda at, here: [at.state.apply(Adjoint(at.what.operator), here)],
    Add: lambda at, here: [here] * len(at.node.parents),
    Concat: lambda at, here: [at.state.cut(here, a, b) for a, b in split(at)],
    Offset: lambda at, here: [here] * len(at.node.parents),
}


def is_source(graph: Graph, i: int) -> bool:
    return isinstance(graph.nodes[i].what, Input | Nonlinear)


def linear_ancestors(graph: Graph, target: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(sources, affine nodes) that `target` is made of, both in topological order. A source is its own ancestor."""
    key = ("ancestors", target)
    if key not in graph.memo:
        seen: set[int] = set()
        stack = [target]
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen.add(i)
            if not is_source(graph, i):
                stack.extend(graph.nodes[i].parents)
        sources = tuple(i for i in sorted(seen) if is_source(graph, i))
        graph.memo[key] = (sources, tuple(i for i in sorted(seen) if not is_source(graph, i)))
    return graph.memo[key]


def targets(graph: Graph) -> tuple[int, ...]:
    """Signals that a nonlinearity or the output reads: the v_k of the normal form, and y."""
    read = {parent for i in graph.nonlinear for parent in graph.nodes[i].parents}
    return tuple(sorted(read | {graph.output}))


Constants = dict[P, float]  # norm r -> bound of the signal's change in norm r


def through(operator: Operator, before: Constants) -> Constants:
    """min over s of ||A||_{s->r} c_s, for the norms r present."""
    after: Constants = {}
    for r in before:
        after[r] = min(times(operator.norm_upper(s, r), c) for s, c in before.items())
    return after


def node_constants(
    graph: Graph, nodes: Iterable[int], seeds: Mapping[int, Constants], target: int, memo: dict[Any, Any]
) -> Constants:
    """Constants of the seed signals carried through affine nodes to `target`: ||change of target||_r <= c_r.

    A node that is one primitive operator of an earlier signal takes its constant from there. Norms are proved for the
    nodes that this way of reading needs, no others. With two norms in play the step from the parent may be the better
    one; with a single norm it never is: ||B A|| <= ||B|| ||A||, and both sides are known to a few units of rounding.
    """
    nodes = list(nodes)
    forms = closed_forms(graph, nodes, set(seeds), memo)
    several = any(len(constants) > 1 for constants in seeds.values())

    def chained(i: int) -> tuple[int, Operator] | None:
        """The parent's step, where it is worth a norm of its own."""
        node, parents = graph.nodes[i], [parent for parent in graph.nodes[i].parents if parent in forms]
        single = isinstance(node.what, Linear) and several and len(parents) == 1 and parents[0] != forms[i][0]
        return (parents[0], node.what.operator) if single else None  # type: ignore[union-attr]

    needed = {target}
    for i in reversed(nodes):
        if i in needed and i in forms:
            step = chained(i)
            needed.update([forms[i][0]] if forms[i][0] != i else graph.nodes[i].parents)
            needed.update([step[0]] if step is not None else [])
    known: dict[int, Constants] = dict(seeds)
    for i in nodes:
        if i not in needed or i not in forms:
            continue
        anchor, operator = forms[i]
        parents = [parent for parent in graph.nodes[i].parents if parent in known]
        if anchor != i:
            known[i] = known[anchor] if operator is None else through(operator, known[anchor])
            step = chained(i)
            if step is not None:
                chain = through(step[1], known[step[0]])
                known[i] = {r: min(c, chain[r]) for r, c in known[i].items()}
        elif isinstance(graph.nodes[i].what, Concat):
            known[i] = {r: concat_norm([known[parent][r] for parent in parents], r) for r in known[parents[0]]}
        else:
            known[i] = {r: total(known[parent][r] for parent in parents) for r in known[parents[0]]}
    return known[target]


@dataclass(frozen=True, eq=False)
class Path:
    """A_kj: the linear map from signal `source` to signal `target` through affine nodes, other signals zero."""

    graph: Graph
    source: int
    target: int

    @property
    def nodes(self) -> tuple[int, ...]:
        """Affine nodes that lie on a way from source to target."""
        key = ("path", self.source, self.target)
        if key not in self.graph.memo:
            _, affine = linear_ancestors(self.graph, self.target)
            reached = {self.source}
            for i in affine:
                if any(parent in reached for parent in self.graph.nodes[i].parents):
                    reached.add(i)
            self.graph.memo[key] = tuple(i for i in affine if i in reached and i != self.source)
        return self.graph.memo[key]

    @property
    def in_size(self) -> int:
        return self.graph.nodes[self.source].size

    @property
    def out_size(self) -> int:
        return self.graph.nodes[self.target].size

    def mv(self, x: Any, how: Arithmetic = PLAIN) -> Any:
        """(r, in_size) -> (r, out_size)."""
        return push(self.graph, self.nodes, {self.source: x}, how)[self.target]

    def rmv(self, y: Any, how: Arithmetic = PLAIN) -> Any:
        """(r, out_size) -> (r, in_size)."""
        return pull(self.graph, self.nodes, {self.target: y}, how)[self.source]

    @property
    def flops(self) -> int:
        whats = [self.graph.nodes[i].what for i in self.nodes]
        return sum(what.operator.flops for what in whats if isinstance(what, Linear))

    def dense(self) -> Enclosure:
        """Entrywise enclosure of the (out_size, in_size) matrix: centre and radius (None where exact)."""
        if self.in_size <= self.out_size:
            columns = self.mv(Enclosure(torch.eye(self.in_size, dtype=torch.float64)), ENCLOSED)
            return Enclosure(columns.centre.T, None if columns.radius is None else columns.radius.T)
        return self.rmv(Enclosure(torch.eye(self.out_size, dtype=torch.float64)), ENCLOSED)

    def is_exact(self) -> bool:
        """One primitive operator whose own norm bound is already the dense one."""
        forms = closed_forms(self.graph, self.nodes, {self.source}, self.graph.memo)
        anchor, operator = forms[self.target]
        return anchor == self.source and (operator is None or isinstance(operator, Dense | Scale | Select))

    def affordable(self) -> bool:
        small, large = sorted((self.in_size, self.out_size))
        return (
            small * large <= DENSE_ENTRIES * min(1.0, share())
            and small * (self.flops * 4 + small * large) <= DENSE_FLOPS
        )

    def norm_upper(self, p: P, q: P) -> float:
        """Proved upper bound of ||A_kj||_{p->q}: the least of the structured and (where affordable, and there is time) the
        dense one."""
        key = ("norm", self.source, self.target, p, q)
        if self.source != self.target and self.target not in self.nodes:
            return 0.0  # no way from source to target: the zero operator
        if key not in self.graph.memo:
            seed: Constants = {p: 1.0} if p == q else {p: 1.0, q: embed(p, q, self.in_size)}
            value = node_constants(self.graph, self.nodes, {self.source: seed}, self.target, self.graph.memo)[q]
            if late():  # not remembered: whoever has more time finds the better one
                return value
            if value > 0 and not (p == q and self.is_exact()) and self.affordable() and self._gains(value, p, q):
                matrix = self.dense()
                value = min(value, matrix_norm_upper(matrix.centre, matrix.radius, p, q))
            self.graph.memo[key] = value
        return self.graph.memo[key]

    def _gains(self, value: float, p: P, q: P) -> bool:
        """False where the structured bound is seen to be tight to 1e-6: a few dozen products against a dense matrix."""
        if (p, q) != ("2", "2") or self.in_size * self.out_size <= 10_000:
            return True
        forward: Callable[[Tensor], Tensor] = self.mv
        back: Callable[[Tensor], Tensor] = self.rmv
        n = self.in_size
        if self.out_size < n:
            forward, back, n = self.rmv, self.mv, self.out_size
        seen: list[float] = []
        for estimate in lanczos(lambda v: back(forward(v)), n):
            if not value > estimate * (1 + 1e-6):
                return False
            seen.append(estimate)
            if len(seen) > 20 and 100 * (seen[-1] - seen[-6]) < value - seen[-1]:  # it will not get there
                return True
        return True


def lanczos(gram: Callable[[Tensor], Tensor], n: int, steps: int = 100) -> Iterator[float]:
    """Growing estimates, from below up to rounding, of the square root of the largest eigenvalue of a positive
    semidefinite operator on (1, n) (Golub & Van Loan, 10.1, all vectors kept orthogonal)."""
    v = torch.randn(1, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = v / v.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, n)):
        w = gram(basis[-1:])
        diagonal.append(float(w @ basis[-1]))
        T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            T += torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        if not bool(torch.isfinite(T).all()):
            return
        yield math.sqrt(max(0.0, float(torch.linalg.eigvalsh(T, UPLO="U")[-1])))
        for _ in range(2):  # once leaves components of the size of the cancellation, twice is enough (Kahan, Parlett)
            w = w - (w @ basis.T) @ basis
        size = float(w.norm())
        if not size > 1e-14 * max(diagonal):
            return
        beside.append(size)
        basis = torch.cat([basis, w / size])


def embed(p: P, q: P, n: int) -> float:
    """||id||_{p->q} on R^n: 1 for p <= q, else n^(1/q - 1/p)."""
    order = {"1": 0, "2": 1, "inf": 2}
    if order[p] <= order[q]:
        return 1.0
    return float(n) if (p, q) == ("inf", "1") else sqrt_up(float(n))
