"""b + z (a - b) with 0 <= z <= 1, as gates of GRUs are traced, is written as z a + (1 - z) b.

Bounds go through a product by |z| |da| + |a| |dz|, and the first form has b in it twice: |db| + |da - db| + |a - b| |dz|.
"""

from __future__ import annotations

import torch

from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import Product
from lipcert.load.lower.rewrite import Rewriter, block, operator
from lipcert.network.graph import Add, Graph, Linear, Node, Nonlinear, Offset
from lipcert.operators.linear import Scale

ROUNDING = 1e-9  # of what is only about tightness: the two forms are equal for any z


def with_mixtures(graph: Graph) -> Graph:
    """An equal graph, over the reals."""
    new, changed = Rewriter(), False
    for i, node in enumerate(graph.nodes):
        found = _mixture(graph.nodes, node)
        if found is None:
            new.copy(i, node)
            continue
        changed = True
        gate, a, b = (new.place[p] for p in found)
        one = torch.ones(node.size, dtype=torch.float64)
        minus = new.put(Linear(Scale(-one)), [gate], node.size, node)
        rest = new.put(Offset(one), [minus], node.size, node)
        parts = [new.put(Nonlinear(Product(node.size)), pair, node.size, node) for pair in ((gate, a), (rest, b))]
        new.place[i] = new.put(Add(), parts, node.size, node)
    return new.graph(graph) if changed else graph


def _mixture(nodes: tuple[Node, ...], node: Node) -> tuple[int, int, int] | None:
    """(z, a, b) of a node that is b + z (a - b)."""
    if not isinstance(node.what, Add) or len(node.parents) != 2:
        return None
    for b, product in (node.parents, node.parents[::-1]):
        if not isinstance(block(nodes[product]), Product) or len(nodes[product].parents) != 2:
            continue
        for gate, gap in (nodes[product].parents, nodes[product].parents[::-1]):
            if _is_gate(nodes[gate]) and (a := _minuend(nodes, gap, b)) is not None:
                return gate, a, b
    return None


def _is_gate(node: Node) -> bool:
    found = block(node)
    if not isinstance(found, Pointwise):
        return False
    line = torch.tensor(torch.inf, dtype=torch.float64)
    least, most = found.activation.values_on(-line, line)
    return bool((least >= -ROUNDING).all()) and bool((most <= 1 + ROUNDING).all())


def _minuend(nodes: tuple[Node, ...], gap: int, b: int) -> int | None:
    """a of a gap that is a - b."""
    if not isinstance(nodes[gap].what, Add) or len(nodes[gap].parents) != 2:
        return None
    for a, negative in (nodes[gap].parents, nodes[gap].parents[::-1]):
        scale = operator(nodes[negative])
        exact = isinstance(scale, Scale) and scale.radius is None and bool((scale.factor == -1).all())
        if exact and nodes[negative].parents == (b,):
            return a
    return None
