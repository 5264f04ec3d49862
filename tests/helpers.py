"""Factories and slow, obvious oracles that the tests of the core share: exact matrices, exact evaluation, small graphs.

The oracles work on `fractions.Fraction`, entry by entry, and share no code with what they judge.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.selection import Selection
from lipcert.network.graph import Add, Concat, Enclosure, Graph, Input, Linear, Node, Nonlinear, Offset
from lipcert.operators.conv_norm import ConvGeometry
from lipcert.operators.linear import Adjoint, Conv, Dense, Operator, Scale, Select

Matrix = np.ndarray  # of Fraction, (out_size, in_size)
NORMS = ("1", "2", "inf")


def f64(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64) * scale


def exact(values: Tensor) -> np.ndarray:
    """The numbers that the floats are."""
    out = np.empty(tuple(values.shape), dtype=object)
    for place in np.ndindex(out.shape):
        out[place] = Fraction(float(values[place]))
    return out


def member(values: Tensor, radius: Tensor | None, how: random.Random | None) -> np.ndarray:
    """A random member of the entrywise enclosure, often one of its corners; the stored values where `how` is None."""
    out = exact(values)
    if radius is None or how is None:
        return out
    width = exact(radius)
    for place in np.ndindex(out.shape):
        out[place] += width[place] * how.choice([Fraction(-1), Fraction(1), Fraction(how.randint(-8, 8), 8)])
    return out


# Operators: matrices written out from the definition.


def zeros(rows: int, columns: int) -> Matrix:
    out = np.empty((rows, columns), dtype=object)
    out[...] = Fraction(0)
    return out


def matrix(operator: Operator, how: random.Random | None = None) -> Matrix:
    """The matrix of a random operator of the enclosure (`how` None: of the stored one)."""
    return MATRICES[type(operator)](operator, how)


def _select(a: Select, how: random.Random | None) -> Matrix:
    out = zeros(a.out_size, a.in_size)
    for row, source in enumerate(a.index.tolist()):
        if source >= 0:
            out[row, source] = Fraction(1)
    return out


def _scale(a: Scale, how: random.Random | None) -> Matrix:
    out = zeros(a.out_size, a.in_size)
    for i, value in enumerate(member(a.factor, a.radius, how)):
        out[i, i] = value
    return out


def _dense(a: Dense, how: random.Random | None) -> Matrix:
    weight = member(a.weight, a.radius, how)
    g, m, n = weight.shape
    out = zeros(a.out_size, a.in_size)
    for o, k, r, c, i in itertools.product(range(a.outer), range(g), range(m), range(n), range(a.inner)):
        out[((o * g + k) * m + r) * a.inner + i, ((o * g + k) * n + c) * a.inner + i] = weight[k, r, c]
    return out


def _conv(a: Conv, how: random.Random | None) -> Matrix:
    weight = member(a.weight, a.radius, how)
    g = a.geometry
    c_out, per_group, *kernel = weight.shape
    sizes = [
        (n + low + high - d * (k - 1) - 1) // s + 1
        for n, (low, high), d, k, s in zip(g.in_shape, g.padding, g.dilation, kernel, g.stride, strict=True)
    ]
    channels = per_group * g.groups
    out = zeros(a.batch * c_out * math.prod(sizes), a.batch * channels * math.prod(g.in_shape))
    for b, o, c in itertools.product(range(a.batch), range(c_out), range(per_group)):
        source = c + (o // (c_out // g.groups)) * per_group
        for place in itertools.product(*(range(m) for m in sizes)):
            for tap in itertools.product(*(range(k) for k in kernel)):
                at = [
                    p * s + t * d - low
                    for p, s, t, d, (low, _) in zip(place, g.stride, tap, g.dilation, g.padding, strict=True)
                ]
                if all(0 <= x < n for x, n in zip(at, g.in_shape, strict=True)):
                    row = np.ravel_multi_index((b, o, *place), (a.batch, c_out, *sizes))
                    column = np.ravel_multi_index((b, source, *at), (a.batch, channels, *g.in_shape))
                    out[row, column] += weight[(o, c, *tap)]
    return out


MATRICES: dict[type, Callable[..., Matrix]] = {
    Select: _select,
    Scale: _scale,
    Dense: _dense,
    Conv: _conv,
    Adjoint: lambda a, how: matrix(a.of, how).T,
}


def floats(m: Matrix) -> Tensor:
    return torch.tensor([[float(v) for v in row] for row in m], dtype=torch.float64).reshape(m.shape)


def operators() -> Iterator[tuple[str, Operator]]:
    """Small members of every operator class, odd shapes and empty ones included."""
    radius = lambda t: t.abs() * 1e-3 + 1e-4  # noqa: E731
    yield "select", Select(torch.tensor([2, 0, 1]), 3)
    yield "select with repeats", Select(torch.tensor([2, 0, 2, 2, 1]), 4)
    yield "select with holes", Select(torch.tensor([-1, 0, 0, -1, 3]), 4)
    yield "select nothing", Select(torch.tensor([-1, -1]), 3)
    yield "select from nothing", Select(torch.tensor([-1, -1]), 0)
    yield "select empty", Select(torch.tensor([], dtype=torch.int64), 2)
    yield "scale", Scale(f64(4))
    yield "scale signs", Scale(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
    yield "scale radius", Scale(f64(3), radius(f64(3)))
    yield "scale empty", Scale(f64(0))
    yield "dense", Dense(f64(1, 3, 4))
    yield "dense 1x1", Dense(f64(1, 1, 1))
    yield "dense outer inner", Dense(f64(1, 2, 3), 2, 3)
    yield "dense groups", Dense(f64(3, 2, 2))
    yield "dense groups inner", Dense(f64(2, 1, 3), 2, 2)
    yield "dense radius", Dense(f64(1, 3, 2), 2, 1, radius(f64(1, 3, 2)))
    yield "dense groups radius", Dense(f64(2, 2, 3), 1, 2, radius(f64(2, 2, 3)))
    yield "dense empty", Dense(f64(1, 0, 3))
    yield "dense from nothing", Dense(f64(1, 2, 0))

    def conv(shape: tuple[int, ...], weight: tuple[int, ...], stride: int = 1, pad: object = 0, dilation: int = 1,
             groups: int = 1, batch: int = 1, uncertain: bool = False) -> Conv:  # fmt: skip
        axes = len(shape)
        pads = pad if isinstance(pad, tuple) else ((pad, pad),) * axes
        w = f64(*weight)
        geometry = ConvGeometry(shape, (stride,) * axes, pads, (dilation,) * axes, groups)
        return Conv(w, geometry, batch, radius(w) if uncertain else None)

    yield "conv1d", conv((5,), (2, 2, 3), pad=1)
    yield "conv1d 1x1", conv((1,), (1, 1, 1))
    yield "conv1d asymmetric", conv((4,), (2, 1, 2), stride=2, pad=((2, 1),))
    yield "conv1d spare rows", conv((6,), (1, 2, 2), stride=3)
    yield "conv2d", conv((3, 4), (2, 1, 3, 2), pad=1)
    yield "conv2d grouped", conv((3, 2), (4, 1, 2, 2), groups=2, batch=2)
    yield "conv2d dilated", conv((5, 5), (1, 1, 2, 2), stride=2, dilation=2, pad=((1, 0), (2, 1)))
    yield "conv2d radius", conv((3, 3), (2, 1, 2, 2), pad=1, uncertain=True)
    yield "conv3d", conv((2, 3, 2), (1, 2, 2, 2, 1))
    yield "adjoint conv", Adjoint(conv((4, 3), (2, 1, 2, 2), stride=2, pad=1))
    yield "adjoint conv radius", Adjoint(conv((5,), (2, 2, 3), stride=2, pad=1, groups=1, uncertain=True))
    yield "adjoint select", Adjoint(Select(torch.tensor([1, 1, -1, 0]), 3))
    yield "adjoint scale signs", Adjoint(Scale(torch.tensor([-1.0, 1.0], dtype=torch.float64)))
    yield "adjoint dense", Adjoint(Dense(f64(1, 2, 3), 2, 2, radius(f64(1, 2, 3))))
    yield "adjoint adjoint", Adjoint(Adjoint(Dense(f64(1, 2, 3))))


def product(m: Matrix, x: np.ndarray) -> np.ndarray:
    """m @ x for Fractions (empty sums are 0)."""
    return np.array([sum((a * b for a, b in zip(row, x, strict=True)), Fraction(0)) for row in m], dtype=object)


# Norms of small dense matrices, from below.


def norm_below(A: Tensor, p: str, q: str) -> float:
    """A value that ||A||_{p->q} reaches up to 1e-12 relative: exact formulas, or all sign vectors of a side <= 12."""
    if 0 in A.shape:
        return 0.0
    order = {"1": 1.0, "2": 2.0, "inf": math.inf}
    if p == "1":
        return float(torch.linalg.vector_norm(A, order[q], dim=0).max())
    if q == "inf":
        return float(torch.linalg.vector_norm(A, {"2": 2.0, "inf": 1.0}[p], dim=1).max())
    if (p, q) == ("2", "2"):
        return float(torch.linalg.matrix_norm(A, 2))
    if q == "1":  # = ||A'||_{inf -> p*}
        A, q = A.T, {"2": "2", "inf": "1"}[p]
    signs = sign_vectors(A.shape[1])
    return float(torch.linalg.vector_norm(signs @ A.T, order[q], dim=1).max())


def sign_vectors(n: int) -> Tensor:
    if n <= 12:
        return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)
    return torch.randint(0, 2, (4096, n)).double() * 2 - 1


# Graphs.


def contains(found: Enclosure, true: np.ndarray) -> bool:
    """Every true value (Fractions, flat) lies in its enclosure (one row)."""
    lower, upper = exact(found.lower[0]), exact(found.upper[0])
    return all(low <= t <= high for low, t, high in zip(lower, true, upper, strict=True))


SCALAR: dict[str, Callable[[Fraction], Fraction]] = {
    "relu": lambda x: max(x, Fraction(0)),
    "abs": abs,
    "square": lambda x: x * x,
    "hardtanh": lambda x: max(Fraction(-1), min(Fraction(1), x)),
    "relu6": lambda x: max(Fraction(0), min(Fraction(6), x)),
}


def run_exactly(graph: Graph, x: np.ndarray, how: random.Random | None = None) -> list[np.ndarray]:
    """Every signal of the graph at x in exact arithmetic, for random members of its enclosed coefficients."""
    values: list[np.ndarray] = []
    for node in graph.nodes:
        args = [values[p] for p in node.parents]
        match node.what:
            case Input():
                values.append(x)
            case Linear(operator):
                values.append(product(matrix(operator, how), args[0]))
            case Add():
                values.append(sum(args[1:], start=args[0]))
            case Concat():
                values.append(np.concatenate(args))
            case Offset(value, radius):
                shift = member(value, radius, how)
                values.append(args[0] + shift if args else shift)
            case Nonlinear(Pointwise(activation, _)):
                values.append(np.array([SCALAR[activation.name](v) for v in args[0]], dtype=object))
            case Nonlinear(Selection() as block):
                pick = min if block.minimum else max
                rows = block.windows.tolist()
                values.append(np.array([pick(args[0][i] for i in row if i >= 0) for row in rows], dtype=object))
            case _:
                raise AssertionError(node.what)
    return values


def pointwise(name: str, size: int) -> Nonlinear:
    row = ACTIVATIONS[name]
    return Nonlinear(Pointwise(Elementwise(row, tuple(row.parameters.values())), size))


def random_operator(size: int, dice: random.Random) -> Operator:
    """An operator on signals of `size` entries, of any class."""
    kind = dice.choice(["select", "scale", "signs", "dense", "radius", "conv", "transposed"])
    if kind == "select":
        return Select(torch.randint(-1, size, (dice.randint(1, 5),)), size)
    if kind == "scale":
        return Scale(f64(size), f64(size).abs() * 1e-9 if dice.random() < 0.3 else None)
    if kind == "signs":
        return Scale(torch.randint(-1, 2, (size,)).double())
    if kind in ("conv", "transposed"):
        k = dice.randint(1, min(3, size))
        if kind == "conv":
            geometry = ConvGeometry((size,), (dice.randint(1, 2),), ((dice.randint(0, 1), 1),), (1,))
            return Conv(f64(dice.randint(1, 2), 1, k), geometry)
        return Adjoint(Conv(f64(1, 1, k), ConvGeometry((size + k - 1,), (1,), ((0, 0),), (1,))))
    m = dice.randint(1, 4)
    weight = f64(1, m, size)
    return Dense(weight, 1, 1, weight.abs() * 1e-9 if kind == "radius" else None)


def random_graph(seed: int, *, nonlinear: bool = False, nodes: int = 9) -> Graph:
    """A random small graph: shared nodes, repeated parents, constants, concatenations; `nonlinear`: exact ones."""
    dice = random.Random(seed)
    torch.manual_seed(seed)
    found = [Node(Input(), (), n := dice.randint(1, 4), (n,), "x")]

    def append(what: object, parents: tuple[int, ...], size: int) -> None:
        found.append(Node(what, parents, size, (size,), f"n{len(found)}"))  # type: ignore[arg-type]

    while len(found) < nodes:
        i = dice.randrange(len(found))
        size = found[i].size
        kinds = ["linear", "linear", "linear", "add", "concat", "offset", "constant"]
        kind = dice.choice(kinds + (["act", "act", "max"] if nonlinear else []))
        if kind == "linear":
            operator = random_operator(size, dice)
            append(Linear(operator), (i,), operator.out_size)
        elif kind == "add":
            same = [j for j, node in enumerate(found) if node.size == size]
            append(Add(), tuple(dice.choice(same) for _ in range(dice.randint(1, 3))), size)
        elif kind == "concat":
            parents = tuple(dice.randrange(len(found)) for _ in range(dice.randint(1, 3)))
            if (total := sum(found[p].size for p in parents)) <= 10:
                append(Concat(), parents, total)
        elif kind == "offset":
            append(Offset(f64(size), f64(size).abs() * 1e-9 if dice.random() < 0.3 else None), (i,), size)
        elif kind == "constant":
            append(Offset(f64(size)), (), size)
        elif kind == "act":
            append(pointwise(dice.choice(["relu", "abs", "hardtanh"]), size), (i,), size)
        else:
            windows = torch.randint(-1, size, (dice.randint(1, 3), 3))
            windows[:, 0] = windows[:, 0].clamp(min=0)
            append(Nonlinear(Selection(windows, size, dice.random() < 0.5)), (i,), windows.shape[0])
    return Graph(tuple(found), len(found) - 1)
