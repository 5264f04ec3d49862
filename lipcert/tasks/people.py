"""What people call what a network is made of: attention, LayerNorm, residual blocks, counted."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

from lipcert.blocks.normalise import Normalise
from lipcert.blocks.product import MatMul, Product
from lipcert.blocks.softmax import Softmax
from lipcert.network.affine import linear_ancestors
from lipcert.network.graph import Add, Graph, Nonlinear

MOST = 4000  # nodes: beyond them residual blocks are not counted


def blocks_of(graph: Graph) -> dict[str, int]:
    """Name -> how many. Attention: a softmax of a product of signals that weighs another signal. Residual block: a sum that
    adds a signal to what was made of it."""
    found: Counter[str] = Counter()
    for i in graph.nonlinear:
        block = _block(graph, i)
        if isinstance(block, Normalise):
            found["LayerNorm" if block.centred else "RMSNorm"] += 1
        elif isinstance(block, Product):
            found["gate"] += 1
        elif isinstance(block, MatMul) and any(_weighs(graph, parent) for parent in graph.nodes[i].parents):
            found["attention"] += 1
    if len(graph.nodes) <= MOST and (residual := _residuals(graph)):
        found["residual block"] = residual
    return dict(sorted(found.items()))


def _block(graph: Graph, i: int) -> object:
    what = graph.nodes[i].what
    return what.block if isinstance(what, Nonlinear) else None


def _weighs(graph: Graph, signal: int) -> bool:
    """Whether a signal is made of softmaxes of products of signals."""
    return any(
        isinstance(_block(graph, source), Softmax)
        and any(
            isinstance(_block(graph, scores), MatMul)
            for scores in linear_ancestors(graph, graph.nodes[source].parents[0])[0]
        )
        for source in linear_ancestors(graph, signal)[0]
    )


def _residuals(graph: Graph) -> int:
    above: list[int] = []  # as bits
    for node in graph.nodes:
        bits = 0
        for parent in node.parents:
            bits |= above[parent] | (1 << parent)
        above.append(bits)
    count = 0
    for node in graph.nodes:
        if isinstance(node.what, Add) and len(node.parents) > 1:
            sides = [linear_ancestors(graph, parent)[0] for parent in node.parents]
            pairs = ((a, b) for one, other in permutations(sides, 2) for a in one for b in other)
            count += any(above[b] >> a & 1 for a, b in pairs)
    return count
