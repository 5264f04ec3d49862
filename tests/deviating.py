"""Small random graphs of what transformers and gated networks are made of, built without a file; and what they attain."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.base import Block
from lipcert.blocks.normalise import Normalise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.softmax import Softmax
from lipcert.network.graph import Add, Concat, Graph, Input, Linear, Node, Nonlinear, Offset, What
from lipcert.operators.linear import Dense, Operator, Scale, Select
from lipcert.terms.query import Ball, Norm, P

NORMS: tuple[P, ...] = ("1", "2", "inf")
ROWS = ("relu", "gelu_erf", "silu", "tanh", "sigmoid", "abs", "softplus", "leaky_relu", "elu", "sin", "hardswish")


class Builder:
    """Tokens of `width` entries; every method adds nodes and returns the position of the last."""

    def __init__(self, tokens: int, width: int, seed: int, dtype: torch.dtype = torch.float64):
        self.dice, self.tokens, self.width, self.dtype = random.Random(seed), tokens, width, dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.nodes: list[Node] = []
        self.add(Input(), (), tokens * width)

    def add(self, what: What, parents: tuple[int, ...], size: int) -> int:
        self.nodes.append(Node(what, parents, size, (1, size), f"n{len(self.nodes)}"))
        return len(self.nodes) - 1

    def weights(self, *shape: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale
        return drawn.to(self.dtype).double()

    def linear(self, u: int, operator: Operator) -> int:
        return self.add(Linear(operator), (u,), operator.out_size)

    def block(self, block: Block, *parents: int, size: int) -> int:
        return self.add(Nonlinear(block), parents, size)

    def dense(self, u: int, width: int | None = None, scale: float = 1.0) -> int:
        """One layer at each token, with a bias."""
        width = width or self.width
        below = self.nodes[u].size // self.tokens
        moved = self.linear(u, Dense(self.weights(1, width, below, scale=scale / below**0.5), outer=self.tokens))
        bias = self.weights(width, scale=0.3).repeat(self.tokens)
        return self.add(Offset(bias), (moved,), moved_size(self, moved))

    def pointwise(self, u: int, name: str | None = None) -> int:
        row = ACTIVATIONS[name or self.dice.choice(ROWS)]
        size = self.nodes[u].size
        return self.block(Pointwise(Elementwise(row, tuple(row.parameters.values())), size), u, size=size)

    def normalise(self, u: int, centred: bool = True, over: str = "tokens", eps: float = 1e-5) -> int:
        size = self.nodes[u].size
        width = size // self.tokens
        outer, n, inner = (self.tokens, width, 1) if over == "tokens" else (1, self.tokens, width)
        return self.block(Normalise(outer, n, inner, eps=eps, centred=centred), u, size=size)

    def softmax(self, u: int, over: str = "tokens") -> int:
        size = self.nodes[u].size
        width = size // self.tokens
        outer, n, inner = (self.tokens, width, 1) if over == "tokens" else (1, self.tokens, width)
        return self.block(Softmax(outer, n, inner), u, size=size)

    def attention(self, u: int, heads: int, scale: float = 1.0) -> int:
        t, d = self.tokens, self.width // heads
        order = torch.arange(t * heads * d).reshape(t, heads, d)
        q, k, v = (self.dense(u, scale=scale) for _ in range(3))
        q, v = (self.linear(w, Select(order.movedim(1, 0).reshape(-1), order.numel())) for w in (q, v))
        k = self.linear(k, Select(order.permute(1, 2, 0).reshape(-1), order.numel()))
        scores = self.block(MatMul(heads, t, d, t), q, k, size=heads * t * t)
        scores = self.linear(scores, Scale(torch.full((heads * t * t,), d**-0.5).double()))
        weights = self.block(Softmax(heads * t, t, 1), scores, size=heads * t * t)
        mixed = self.block(MatMul(heads, t, t, d), weights, v, size=heads * t * d)
        back = torch.arange(heads * t * d).reshape(heads, t, d).movedim(0, 1).reshape(-1)
        return self.dense(self.linear(mixed, Select(back, back.numel())))

    def gate(self, u: int, name: str = "sigmoid") -> int:
        size = self.nodes[u].size
        return self.block(Product(size), self.pointwise(self.dense(u), name), self.dense(u), size=size)

    def sum(self, *parents: int) -> int:
        return self.add(Add(), parents, self.nodes[parents[0]].size)

    def concat(self, *parents: int) -> int:
        return self.add(Concat(), parents, sum(self.nodes[p].size for p in parents))

    def graph(self, outputs: int | None = None) -> Graph:
        last = len(self.nodes) - 1
        if outputs is not None:
            size = self.nodes[last].size
            self.linear(last, Dense(self.weights(1, outputs, size, scale=size**-0.5)))
        return Graph(tuple(self.nodes), len(self.nodes) - 1)


def moved_size(builder: Builder, u: int) -> int:
    return builder.nodes[u].size


def random_graph(seed: int) -> Graph:
    """A few of: layer, activation, normalisation, attention, gate, softmax, each with or without a skip."""
    dice = random.Random(seed)
    heads = dice.choice((1, 2))
    built = Builder(
        dice.choice((1, 2, 3)), heads * dice.choice((1, 2, 3)), seed, dice.choice((torch.float64, torch.float32))
    )
    u = 0
    for _ in range(dice.choice((1, 2, 3, 4))):
        kind = dice.choice(("dense", "act", "norm", "rms", "across", "attention", "gate", "twice", "softmax"))
        match kind:
            case "dense":
                made = built.dense(u)
            case "act":
                made = built.pointwise(built.dense(u))
            case "norm" | "rms" | "across":
                eps = dice.choice((1e-12, 1e-5, 1e-2, 1.0))
                made = built.normalise(u, kind != "rms", "across" if kind == "across" else "tokens", eps)
            case "attention":
                made = built.attention(u, heads, dice.choice((0.5, 1.0, 3.0)))
            case "gate":
                made = built.gate(u, dice.choice(("sigmoid", "silu", "relu")))
            case "softmax":
                made = built.softmax(built.dense(u, scale=3.0), dice.choice(("tokens", "across")))
            case _:
                made = built.block(Product(built.nodes[u].size), u, built.dense(u), size=built.nodes[u].size)
        u = built.sum(u, made) if dice.random() < 0.5 else made
    return built.graph(dice.choice((None, 1, 2, 3)))


def inside(centre: Tensor, radius: float, norm: P, count: int, dice: torch.Generator) -> Tensor:
    """Corners, points of the surface, and points between."""
    x = torch.rand(count, centre.numel(), generator=dice, dtype=torch.float64) * 2 - 1
    x[: count // 2] = x[: count // 2].sign()
    if norm == "2":
        x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if norm == "1":
        x = x / x.abs().sum(dim=1, keepdim=True)
    x[::3] *= torch.rand(len(x[::3]), 1, generator=dice, dtype=torch.float64)
    return centre + radius * x


def jacobians(graph: Graph, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(lambda t: graph.evaluate(t[None])[0]))(x)


def at_least(J: Tensor, p: P, q: P) -> float:
    """Of the largest of these norms: the norm itself, or its value at some vectors."""
    if (p, q) == ("2", "2"):
        return float(torch.linalg.matrix_norm(J, 2).max())
    if p == "1":
        return float(torch.linalg.vector_norm(J, float(q), dim=1).max())
    if q == "inf":
        return float(torch.linalg.vector_norm(J, {"2": 2.0, "inf": 1.0}[p], dim=2).max())
    v = torch.randn(J.shape[2], 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = v.sign() if p == "inf" else v / torch.linalg.vector_norm(v, dim=0)
    return float(torch.linalg.vector_norm(J @ v, float(q), dim=1).max())


def case(seed: int) -> tuple[Graph, Ball, Norm, Tensor]:
    dice, generator = random.Random(seed + 10**6), torch.Generator().manual_seed(seed)
    graph = random_graph(seed)
    centre = torch.randn(graph.nodes[0].size, generator=generator, dtype=torch.float64) * dice.choice((0.1, 1, 1, 3))
    region = Ball(centre, 10 ** dice.uniform(-5, 0), dice.choice(NORMS))
    x = inside(centre, region.radius, region.norm, 48, generator)
    return graph, region, Norm(dice.choice(NORMS), dice.choice(NORMS)), x
