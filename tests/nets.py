"""Small networks for the l2 methods, written down as the matrices of the normal form: the graph and the oracle of
LipSDP (the matrix inequality through Clarabel) are both made from them and share nothing else.

Signal 0 is the input, signal k the output of layer k: v_k = sum_j A_kj z_j, z_k = phi_k(v_k), y = sum_j C_j z_j.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from helpers import f64, floats, matrix
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Add, Graph, Input, Linear, Node, Nonlinear, Offset
from lipcert.operators.conv_norm import ConvGeometry
from lipcert.operators.linear import Conv, Dense, Operator

Map = Tensor | Operator


@dataclass(frozen=True, eq=False)
class Layer:
    """`act`: a row of the table, or per-neuron slopes s of a PReLU ([min(s, 1), max(s, 1)]; s = 1: never bends)."""

    rows: Mapping[int, Map]
    act: str | Tensor = "relu"
    shape: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return _out_size(next(iter(self.rows.values())))

    def slopes(self) -> tuple[Tensor, Tensor]:
        if isinstance(self.act, Tensor):
            return self.act.clamp(max=1.0), self.act.clamp(min=1.0)
        row = ACTIVATIONS[self.act]
        low, high = row.slopes(*row.parameters.values())
        return tuple(torch.full((self.size,), side, dtype=torch.float64) for side in (low, high))  # type: ignore[return-value]

    def activation(self) -> Elementwise:
        if isinstance(self.act, Tensor):
            return Elementwise(ACTIVATIONS["prelu"], (self.act,))
        row = ACTIVATIONS[self.act]
        return Elementwise(row, tuple(row.parameters.values()))


@dataclass(frozen=True, eq=False)
class Net:
    name: str
    inputs: int
    layers: tuple[Layer, ...]
    out: Mapping[int, Map]
    grouping: str = "neuron"
    biases: tuple[Tensor, ...] = field(default=())

    @property
    def neurons(self) -> int:
        return sum(layer.size for layer in self.layers)

    def graph(self) -> Graph:
        nodes = [Node(Input(), (), self.inputs, (self.inputs,), "x")]
        place = [0]

        def put(what: object, parents: tuple[int, ...], size: int, shape: tuple[int, ...] | None = None) -> int:
            nodes.append(Node(what, parents, size, shape or (size,), f"n{len(nodes)}"))  # type: ignore[arg-type]
            return len(nodes) - 1

        def affine(rows: Mapping[int, Map]) -> int:
            terms = []
            for j, a in rows.items():
                operator = Dense(a[None]) if isinstance(a, Tensor) else a
                terms.append(put(Linear(operator), (place[j],), operator.out_size))
            return terms[0] if len(terms) == 1 else put(Add(), tuple(terms), nodes[terms[0]].size)

        for k, layer in enumerate(self.layers):
            read = affine(layer.rows)
            if self.biases:
                read = put(Offset(self.biases[k]), (read,), layer.size)
            place.append(put(Nonlinear(Pointwise(layer.activation(), layer.size)), (read,), layer.size, layer.shape))
        output = affine(self.out)
        return Graph(tuple(nodes), output)


def dense(a: Map) -> Tensor:
    return a if isinstance(a, Tensor) else floats(matrix(a))


def _out_size(a: Map) -> int:
    return a.shape[0] if isinstance(a, Tensor) else a.out_size


def group_ids(layer: Layer, grouping: str) -> Tensor:
    """The group of each neuron, from the definition: a channel is the second axis of (1, channels, ...)."""
    if grouping == "layer":
        return torch.zeros(layer.size, dtype=torch.int64)
    if grouping == "channel" and layer.shape is not None and len(layer.shape) >= 3:
        return torch.arange(layer.size) // math.prod(layer.shape[2:])
    return torch.arange(layer.size)


def clarabel(net: Net, **options: float) -> float:
    """sqrt of the optimal rho of LipSDP, to about 1e-9: every neuron's v and z as rows over the free variables."""
    import cvxpy as cp
    import numpy as np

    free = [(low < high) for low, high in (layer.slopes() for layer in net.layers)]
    total = net.inputs + sum(int(f.sum()) for f in free)
    signals = [torch.eye(net.inputs, total).double()]
    at, terms, rhs = net.inputs, [], torch.zeros(total, total).double()
    rhs[: net.inputs, : net.inputs] = torch.eye(net.inputs)
    for layer, moves in zip(net.layers, free, strict=True):
        v = sum(dense(a) @ signals[j] for j, a in layer.rows.items())
        low, high = layer.slopes()
        z = low[:, None] * v
        for i in moves.nonzero().flatten().tolist():
            z[i] = 0.0
            z[i, at] = 1.0
            at += 1
        signals.append(z)
        ids = group_ids(layer, net.grouping)
        for g in ids[moves].unique().tolist():
            p, q = ((z - s[:, None] * v)[(ids == g) & moves] for s in (low, high))
            terms.append(p.T @ q + q.T @ p)
    y = sum(dense(a) @ signals[j] for j, a in net.out.items())
    rho, weights = cp.Variable(nonneg=True), cp.Variable(max(1, len(terms)), nonneg=True)
    inequality = rho * rhs.numpy() - (y.T @ y).numpy()
    if terms:
        stack = np.stack([t.numpy().reshape(-1) for t in terms], axis=1)
        inequality = inequality + cp.reshape(stack @ weights, (total, total), order="C")
    problem = cp.Problem(cp.Minimize(rho), [inequality >> 0])
    tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-10, "tol_feas": 1e-10} | options
    problem.solve(solver="CLARABEL", **tight)
    assert rho.value is not None, problem.status
    return math.sqrt(max(0.0, float(rho.value)))


# Factories, seed -> Net.

BENDING = ("relu", "tanh", "sigmoid", "gelu_erf", "silu", "softplus", "abs", "elu", "hardtanh")


def act_of(dice: random.Random, n: int) -> str | Tensor:
    kind = dice.randrange(5)
    if kind == 0:  # leaky, some of the neurons linear
        return torch.tensor([dice.choice([0.1, 0.3, 1.0]) for _ in range(n)], dtype=torch.float64)
    if kind == 1:  # negative, above 1
        return torch.tensor([dice.choice([-0.5, -1.0, 0.2, 2.0]) for _ in range(n)], dtype=torch.float64)
    return dice.choice(BENDING)


def weight(dice: random.Random, m: int, n: int) -> Tensor:
    return f64(m, n) / math.sqrt(n)


def chain(seed: int, most: int = 16, deepest: int = 3) -> Net:
    dice, _ = random.Random(seed), torch.manual_seed(seed)
    hidden = dice.randint(1, deepest)
    sizes = [dice.randint(1, 6), *(dice.randint(1, max(2, most // hidden)) for _ in range(hidden)), dice.randint(1, 4)]
    maps = [weight(dice, m, n) for n, m in pairwise(sizes)]
    layers = tuple(Layer({k: a}, act_of(dice, a.shape[0])) for k, a in enumerate(maps[:-1]))
    return Net(f"chain {sizes}", sizes[0], layers, {hidden: maps[-1]})


def residual(seed: int, most: int = 16) -> Net:
    """z_2 = phi(S x + W z_1), y = C z_2 + D x, and the like: identities and shortcuts over one or two layers."""
    dice, _ = random.Random(seed), torch.manual_seed(seed)
    n, hidden = dice.randint(1, 4), dice.randint(1, 3)
    sizes = [n, *(dice.randint(1, max(2, most // hidden)) for _ in range(hidden))]
    layers = []
    for k in range(1, hidden + 1):
        rows: dict[int, Map] = {k - 1: weight(dice, sizes[k], sizes[k - 1])}
        for j in range(k - 1):
            if dice.random() < 0.6:
                rows[j] = (
                    torch.eye(sizes[k], sizes[j]).double() if dice.random() < 0.5 else weight(dice, sizes[k], sizes[j])
                )
        layers.append(Layer(rows, act_of(dice, sizes[k])))
    m = dice.randint(1, 3)
    out: dict[int, Map] = {hidden: weight(dice, m, sizes[hidden]), 0: torch.eye(m, n).double()}
    return Net(f"residual {sizes}", n, tuple(layers), out)


def concat(seed: int, most: int = 16) -> Net:
    """Every layer and the output read everything before them (a DenseNet)."""
    dice, _ = random.Random(seed), torch.manual_seed(seed)
    n, hidden = dice.randint(1, 4), dice.randint(2, 3)
    sizes = [n, *(dice.randint(1, most // hidden) for _ in range(hidden))]
    layers = tuple(
        Layer({j: weight(dice, sizes[k], sizes[j]) for j in range(k)}, act_of(dice, sizes[k]))
        for k in range(1, hidden + 1)
    )
    m = dice.randint(1, 3)
    return Net(f"concat {sizes}", n, layers, {j: weight(dice, m, size) for j, size in enumerate(sizes)})


def conv(seed: int) -> Net:
    """One or two 1-d convolutions, padded, and a linear head; multipliers by channel."""
    dice, _ = random.Random(seed), torch.manual_seed(seed)
    width = dice.randint(3, 4)
    geometry = ConvGeometry((width,), (1,), ((1, 1),), (1,))
    channels = [1, *(dice.randint(1, 2) for _ in range(dice.randint(1, 2)))]
    layers = []
    for k, (a, b) in enumerate(pairwise(channels)):
        act = act_of(dice, b)
        act = act.repeat_interleave(width) if isinstance(act, Tensor) else act
        layers.append(Layer({k: Conv(f64(b, a, 3) / 2, geometry)}, act, (1, b, width)))
    out = weight(dice, 2, channels[-1] * width)
    return Net(f"conv {channels} of {width}", width, tuple(layers), {len(layers): out}, "channel")


def by_layer(seed: int) -> Net:
    make: Callable[[int], Net] = (chain, residual, concat)[seed % 3]
    return replace(make(seed), grouping="layer")


def scaled(seed: int) -> Net:
    """Layers of norm 1e-6 to 1e6."""
    dice = random.Random(seed)
    net = chain(seed, most=24, deepest=5)
    factor = [10.0 ** dice.uniform(-6, 6) for _ in range(len(net.layers) + 1)]
    layers = tuple(
        replace(layer, rows={j: a * factor[k] for j, a in layer.rows.items()})  # type: ignore[operator]
        for k, layer in enumerate(net.layers)
    )
    return replace(net, name=f"scaled {factor}", layers=layers, out={j: a * factor[-1] for j, a in net.out.items()})  # type: ignore[operator]


def _each(net: Net, change: Callable[[Tensor], Tensor], name: str) -> Net:
    layers = tuple(replace(layer, rows={j: change(dense(a)) for j, a in layer.rows.items()}) for layer in net.layers)
    return replace(net, name=f"{name} {net.name}", layers=layers, out={j: change(dense(a)) for j, a in net.out.items()})


def sparse(seed: int) -> Net:
    return _each(chain(seed, 24, 5), lambda a: a * (torch.rand_like(a) < 0.3), "sparse")


def integer(seed: int) -> Net:
    return _each(chain(seed, 24, 5), lambda a: (2 * a).round(), "integer")


def positive(seed: int) -> Net:
    return _each(chain(seed, 24, 5), torch.abs, "positive")


def low_rank(seed: int) -> Net:
    return _each(chain(seed, 24, 5), lambda a: a[:, :1] @ a[:1], "low rank")


def dead(seed: int) -> Net:
    """Rows and columns of zeros: neurons that see nothing, neurons that nobody reads."""

    def some_zero(a: Tensor) -> Tensor:
        return a * (torch.rand(a.shape[0], 1) < 0.6) * (torch.rand(1, a.shape[1]) < 0.6)

    return _each(chain(seed, 24, 5), some_zero, "dead")


def duplicate(seed: int) -> Net:
    """Every neuron twice, and once more with the opposite sign."""
    net = chain(seed, 8, 3)

    def grown(layer: Layer) -> Layer:
        act = torch.cat([layer.act] * 3) if isinstance(layer.act, Tensor) else layer.act
        return replace(layer, rows={j: _thrice(dense(a), j) for j, a in layer.rows.items()}, act=act)

    def _thrice(a: Tensor, j: int) -> Tensor:
        rows = torch.cat([a, a, -a])
        return rows if j == 0 else torch.cat([rows] * 3, dim=1) / 3

    out = {j: torch.cat([dense(a)] * 3, dim=1) if j else dense(a) for j, a in net.out.items()}
    return replace(net, name=f"duplicate {net.name}", layers=tuple(grown(layer) for layer in net.layers), out=out)


def scalar(seed: int) -> Net:
    """One input, one output, layers of one or two neurons."""
    dice, _ = random.Random(seed), torch.manual_seed(seed)
    sizes = [1, *(dice.randint(1, 2) for _ in range(dice.randint(1, 5))), 1]
    maps = [f64(m, n) for n, m in pairwise(sizes)]
    layers = tuple(Layer({k: a}, act_of(dice, a.shape[0])) for k, a in enumerate(maps[:-1]))
    return Net(f"scalar {sizes}", 1, layers, {len(layers): maps[-1]})


def zero(seed: int) -> Net:
    """The zero map: a layer of zeros, or two layers that miss each other."""
    dice = random.Random(seed)
    net = chain(seed, 24, 4)
    k = dice.randrange(len(net.layers) + 1)
    if dice.random() < 0.5:
        maps = [*(layer.rows for layer in net.layers), net.out]
        maps[k] = {j: torch.zeros_like(dense(a)) for j, a in maps[k].items()}
        layers = tuple(replace(layer, rows=rows) for layer, rows in zip(net.layers, maps, strict=False))
        return replace(net, name=f"zero at {k}", layers=layers, out=maps[-1])
    a, b = f64(4, net.inputs), f64(3, 4)
    a[2:], b[:, :2] = 0.0, 0.0
    return Net("missing each other", net.inputs, (Layer({0: a}),), {1: b})


def wide(seed: int) -> Net:
    """More inputs and outputs than neurons, and the other way round."""
    dice, _ = random.Random(seed), torch.manual_seed(seed)
    sizes = dice.choice([[30, 3, 2, 20], [2, 25, 20, 1], [40, 10, 1], [1, 10, 40]])
    maps = [weight(dice, m, n) for n, m in pairwise(sizes)]
    layers = tuple(Layer({k: a}, act_of(dice, a.shape[0])) for k, a in enumerate(maps[:-1]))
    return Net(f"wide {sizes}", sizes[0], layers, {len(layers): maps[-1]})


def deeper(seed: int) -> Net:
    return chain(seed, 30, 5)


def biased(seed: int) -> Net:
    net = residual(seed)
    torch.manual_seed(seed)
    return replace(net, biases=tuple(f64(layer.size, scale=3.0) for layer in net.layers))


KINDS: tuple[Callable[[int], Net], ...] = (
    *(deeper, residual, concat, conv, scaled, sparse, integer, positive),
    *(low_rank, dead, duplicate, scalar, zero, wide, biased),
)
