"""What is taken for granted of the functions of a runtime: the accuracy with which each is evaluated.

A library states its exp, tanh, erf .. to a few units in the last place; what a runtime makes of them may be worse relative
to a small value (gelu as x/2 (1 + erf(x / sqrt 2)), the sigmoid of onnxruntime, which is constant below -18) but not
relative to max(1, |z|, |s(z)|). Tests measure torch and onnxruntime against this: the largest so far is torch's gelu, 4.3 units
on processors with AVX-512.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lipcert.blocks.base import Axis, Block
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.softmax import LogSoftmax, LogSumExp, Softmax
from lipcert.network.graph import Graph, Nonlinear

UNITS = 20  # |computed s(z) - s(z)| <= UNITS u max(1, |z|, |s(z)|) at the computed z
PER_TERM = 2  # softmax and its kin over n entries: (UNITS + PER_TERM n) u, for each sum of n is taken in any order

EXACT = frozenset(
    {"relu", "relu6", "abs"}
)  # others that only compare have limits, which may not be numbers of the format
# rows of the table of activations that runtimes have as they are, or write as a few operations without cancellation
ROWS = frozenset(
    """leaky_relu prelu neg clamp hardtanh hardsigmoid hardswish softshrink sigmoid logsigmoid tanh tanhshrink softplus softsign
    atan asinh erf elu selu celu gelu_erf gelu_tanh silu quick_gelu mish exp expm1 log log1p sqrt rsqrt reciprocal square
    sin cos""".split()
)


# How much worse parameters can make a function than at their usual values, where a runtime writes it as an exponential less
# 1, a logarithm over beta, a product with a clip ..; rows that are not here scale with their value or their argument.
SCALES: dict[str, Callable[..., float]] = {
    "elu": lambda alpha, scale, inner: max(1.0, alpha) * max(1.0, scale) * max(1.0, inner),
    "celu": lambda alpha: max(1.0, alpha),
    "softplus": lambda beta, threshold: max(1.0, 1 / beta),
    "hardsigmoid": lambda alpha, beta: max(1.0, alpha) + beta,
    "hardswish": lambda shift, cap, divisor: max(1.0, shift, cap) / min(1.0, divisor),
    "gelu_erf": lambda k, c: max(1.0, c),
    "gelu_tanh": lambda k, cubic: max(1.0, k) * max(1.0, 0.04 / cubic),
}


def scale_of(block: Pointwise) -> float:
    """At least 1; inf where a parameter makes no sense of it."""
    sizes = [float(torch.as_tensor(p).abs().max()) for p in block.activation.params]
    try:
        return max(1.0, SCALES[block.label](*sizes)) if block.label in SCALES else 1.0
    except ZeroDivisionError:
        return math.inf


def units(block: Block) -> float | None:
    """In units u of max(1, |z|, |s(z)|): how well the block is evaluated. 0: exactly; None: nothing is stated."""
    if isinstance(block, Pointwise):
        if block.label in EXACT:
            return 0.0
        return UNITS * scale_of(block) if block.label in ROWS else None
    if block.exact:
        return 0.0
    if isinstance(block, Softmax | LogSoftmax | LogSumExp):
        assert isinstance(block, Axis)
        return float(UNITS + PER_TERM * block.n)
    return None


def stated(block: Block) -> bool:
    """Products are stated in their own way: as sums of products."""
    return not block.steps and (isinstance(block, Product | MatMul) or units(block) is not None)


def unstated(graph: Graph) -> tuple[str, str] | None:
    """(name, reason) of the first node of whose evaluation nothing is stated."""
    for i in graph.nonlinear:
        node = graph.nodes[i]
        assert isinstance(node.what, Nonlinear)
        block = node.what.block
        if not stated(block):
            why = block.reason if block.steps else f"no accuracy of {block.label} in floating point is stated"
            return node.name, f"node {node.name}: {why}"
    return None
