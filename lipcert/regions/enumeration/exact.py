"""Signs that floats cannot prove, in exact integers: weights are dyadic, so affine maps are too.

s v_k >= 0 on a cell if s a_k = sum lam_i n_i with lam >= 0 and s b_k >= sum lam_i c_i (Farkas), n_i.t + c_i >= 0 among the
facets through a vertex. Degenerate networks (integers, repeated rows) have hyperplanes that only touch a cell: there every
float leaves the sign open.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from lipcert.network.affine import linear_ancestors
from lipcert.network.graph import Add, Concat, Graph, Linear, Offset
from lipcert.operators.linear import Operator
from lipcert.regions.enumeration.program import Program

NEAR = 1e-7  # a facet through the vertex, as far as floats tell
SUBSETS = 300

Row = list[Fraction]  # n slopes and a constant


def exact_layers(program: Program) -> bool:
    """Every coefficient is a float, none is only enclosed."""
    for node in program.graph.nodes:
        if isinstance(node.what, Linear) and node.what.operator.radius_operator() is not None:
            return False
        if isinstance(node.what, Offset) and node.what.radius is not None and bool(node.what.radius.any()):
            return False
    return True


class Rows:
    """Exact rows v_k of a network on the cells of one search, layer by layer from the signs; the last path is kept."""

    def __init__(self, program: Program):
        self.program = program
        self.n = len(program.radius)
        self.off = np.cumsum([0, *(layer.size for layer in program.layers)])
        nodes = {program.input: -1} | {node: k for k, node in enumerate(program.nodes[:-1])}
        parts = [_part(program.graph, read) for read in program.reads]
        self.weights = [
            [(nodes[source], *_on_t(program, nodes[source], matrix, k)) for source, (matrix, k) in weights.items()]
            for weights, _ in parts
        ]
        self.bias = [_bias(program, weights.get(program.input), bias) for weights, bias in parts]
        self.pre: list[np.ndarray] = []  # object arrays (n + 1, size)
        self.exponent: list[int] = []  # entries are times 2^-exponent
        self.sign = np.zeros(0, dtype=np.int8)

    def at(self, layer: int, sign: np.ndarray) -> None:
        """The rows of the layers up to `layer`."""
        keep = 0
        while keep < len(self.pre) - 1 and np.array_equal(
            self.sign[self.off[keep] : self.off[keep + 1]], sign[self.off[keep] : self.off[keep + 1]]
        ):
            keep += 1
        if self.pre:
            del self.pre[keep + 1 :], self.exponent[keep + 1 :]
        self.sign = sign.copy()
        for deep in range(len(self.pre), layer + 1):
            self._enter(deep)

    def _enter(self, deep: int) -> None:
        terms = []
        for source, matrix, k in self.weights[deep]:
            z, e = self._signal(source)
            terms.append((z @ matrix, k + e))
        numerators, k = self.bias[deep]
        bias = np.zeros((self.n + 1, len(numerators)), dtype=object)
        bias[-1] = numerators
        terms.append((bias, k))
        total, most = _total(terms)
        self.pre.append(total)
        self.exponent.append(most)

    def _signal(self, source: int) -> tuple[np.ndarray, int]:
        if source < 0:
            one = np.zeros((self.n + 1, self.n), dtype=object)
            for d in range(self.n):
                one[d, d] = 1
            return one, 0
        layer = self.program.layers[source]
        on = self.sign[self.off[source] : self.off[source + 1]] > 0
        slopes, k = _ints(np.where(on, layer.right, layer.left))
        return self.pre[source] * slopes, self.exponent[source] + k

    def row(self, k: int) -> Row:
        layer = int(np.searchsorted(self.off, k, side="right")) - 1
        column = self.pre[layer][:, k - self.off[layer]]
        return [Fraction(int(value), 1 << self.exponent[layer]) for value in column]

    def facet(self, name: int, sign: np.ndarray) -> Row:
        """n.t + c >= 0: a hinge with its sign, or what roots.py names by a negative number."""
        if name >= 0:
            return [value * int(sign[name]) for value in self.row(name)]
        made, code = self.program, -1 - name
        if code >= 4 * self.n:  # of a simplex
            row = [Fraction(float(v)) * (1 if (code - 4 * self.n) >> d & 1 else -1) for d, v in enumerate(made.scale)]
            return [*row, Fraction(float(made.radius[0])) * Fraction(float(made.scale[0]))]
        d, side = divmod(code % (2 * self.n), 2)
        row = [Fraction(0)] * self.n + [Fraction(float(made.radius[d])) if code < 2 * self.n else Fraction(0)]
        row[d] = Fraction(1 if side == 0 else -1)
        return row


Dyadic = tuple[np.ndarray, int]  # integers, and k: they are times 2^-k


def _part(graph: Graph, target: int) -> tuple[dict[int, Dyadic], Dyadic]:
    """What `target` is of its sources, composed exactly: source -> matrix (source size, size), and the bias (1, size)."""
    sources, nodes = linear_ancestors(graph, target)
    matrices = {}
    for source in sources:
        one = np.zeros((graph.nodes[source].size,) * 2, dtype=object)
        np.fill_diagonal(one, 1)
        matrices[source] = _carried(graph, nodes, {source: (one, 0)}, len(one), False)[target]
    zeros = {source: (np.zeros((1, graph.nodes[source].size), dtype=object), 0) for source in sources}
    return matrices, _carried(graph, nodes, zeros, 1, True)[target]


def _carried(
    graph: Graph, nodes: tuple[int, ...], values: dict[int, Dyadic], rows: int, offsets: bool
) -> dict[int, Dyadic]:
    def zero(i: int) -> Dyadic:
        return np.zeros((rows, graph.nodes[i].size), dtype=object), 0

    for i in nodes:
        node = graph.nodes[i]
        args = [values.get(p, zero(p)) for p in node.parents]
        match node.what:
            case Linear(operator):
                values[i] = _through(operator, args[0])
            case Add():
                values[i] = _total(args)
            case Concat():
                most = max(k for _, k in args)
                values[i] = np.concatenate([_shifted(a, most) for a in args], axis=1), most
            case Offset(value, _):
                numbers, k = _ints(value.numpy())
                shift = (np.repeat(numbers[None], rows, axis=0), k)
                values[i] = _total([*args, shift]) if offsets else (args[0] if args else zero(i))
    return values


def _through(operator: Operator, u: Dyadic) -> Dyadic:
    """Rows of the unit matrix are read, not summed: the dense form is exact (program.py)."""
    dense = operator.mv(torch.eye(operator.in_size, dtype=torch.float64))
    numbers, k = _ints(dense.numpy())
    return u[0] @ numbers, u[1] + k


def _shifted(a: Dyadic, k: int) -> np.ndarray:
    return a[0] * (1 << (k - a[1]))


def _total(parts: list[Dyadic]) -> Dyadic:
    most = max(k for _, k in parts)
    total = _shifted(parts[0], most)
    for part in parts[1:]:
        total = total + _shifted(part, most)
    return total, most


def _on_t(program: Program, source: int, matrix: np.ndarray, k: int) -> Dyadic:
    """The matrix on t, where it reads x."""
    if source >= 0:
        return matrix, k
    scale, e = _ints(program.scale)
    return matrix[program.moving] * scale[:, None], k + e


def _bias(program: Program, matrix: Dyadic | None, bias: Dyadic) -> Dyadic:
    """b + M c."""
    if matrix is not None:
        centre, e = _ints(program.still)
        bias = _total([bias, ((centre @ matrix[0])[None], matrix[1] + e)])
    return bias[0][0], bias[1]


def _ints(a: np.ndarray) -> tuple[np.ndarray, int]:
    """Integers and k with a = integers 2^-k."""
    ratios = [float(value).as_integer_ratio() for value in a.ravel()]
    k = max((d.bit_length() - 1 for _, d in ratios), default=0)
    out = np.empty(len(ratios), dtype=object)
    for i, (numerator, d) in enumerate(ratios):
        out[i] = numerator << (k - (d.bit_length() - 1))
    return out.reshape(a.shape), k


def sign_on(rows: Rows, k: int, x: np.ndarray, names: Sequence[int], sign: np.ndarray) -> int:
    """1 or -1 where v_k is proved not to change sign on the cell with vertices x and facets `names`; else 0."""
    row = rows.row(k)
    if not any(row[:-1]):
        return 1 if row[-1] >= 0 else -1
    floats = np.array([float(value) for value in row])
    values = x @ floats[:-1] + floats[-1]
    facets = [rows.facet(name, sign) for name in names]
    table = np.array([[float(value) for value in facet] for facet in facets])
    order = (1, -1) if values.min() > -values.max() else (-1, 1)
    for side in order:
        vertex = x[int((side * values).argmin())]
        scale = np.abs(table).sum(axis=1)
        near = np.flatnonzero(np.abs(table[:, :-1] @ vertex + table[:, -1]) <= NEAR * scale)
        if _combines([value * side for value in row], [facets[i] for i in near], table[near], floats * side):
            return side
    return 0


def _combines(row: Row, facets: list[Row], table: np.ndarray, floats: np.ndarray) -> bool:
    """row = sum lam facets with lam >= 0, up to a constant that is not negative."""
    n = len(row) - 1
    tried = 0
    for size in range(1, n + 1):
        for chosen in itertools.combinations(range(len(facets)), size):
            tried += 1
            if tried > SUBSETS * n:
                return False
            normals = table[list(chosen), :-1]
            lam, *_ = np.linalg.lstsq(normals.T, floats[:-1], rcond=None)
            if (lam < -1e-9).any() or np.abs(normals.T @ lam - floats[:-1]).max() > 1e-9 * np.abs(floats[:-1]).max():
                continue
            exact = _solve([facets[i] for i in chosen], row)
            if exact is None or any(value < 0 for value in exact):
                continue
            if row[-1] - sum(value * facets[i][-1] for value, i in zip(exact, chosen, strict=True)) >= 0:
                return True
    return False


def _solve(facets: list[Row], row: Row) -> list[Fraction] | None:
    """lam with sum lam_i facets_i = row on the slopes, exactly; None where there is none."""
    n, k = len(row) - 1, len(facets)
    system = [[facet[d] for facet in facets] + [row[d]] for d in range(n)]
    pivots: list[int] = []
    for column in range(k):
        at = next((i for i in range(len(pivots), n) if system[i][column]), None)
        if at is None:
            return None
        here = len(pivots)
        system[here], system[at] = system[at], system[here]
        lead = system[here][column]
        system[here] = [value / lead for value in system[here]]
        for i in range(n):
            if i != here and system[i][column]:
                by = system[i][column]
                system[i] = [a - by * b for a, b in zip(system[i], system[here], strict=True)]
        pivots.append(column)
    if any(line[-1] for line in system[k:]):
        return None
    return [system[i][-1] for i in range(k)]
