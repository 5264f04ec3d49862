"""The inequalities that `product` chains: the constant of one signal from those of the signals it is made of.

    affine part   ||change of A u + B w||_r <= sum over sources of min_s ||A||_{s->r} c_s     (or node by node)
    block         ||change of phi(u, ..)||_r <= sum over parents of min_s (s -> r constant of phi in it) c_s

Signals come in topological order; their constants are with respect to the input, in its norm p. Trusted by
`lipcert verify`, which takes the constants of the earlier signals from the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lipcert.blocks.base import Range
from lipcert.network.affine import Constants, Path, embed, linear_ancestors, node_constants
from lipcert.network.closed_forms import times, total
from lipcert.network.graph import Graph, Nonlinear
from lipcert.terms.query import Norm, P

JOINT_SOURCES = 8  # parts that read more signals than this keep the node-by-node bound

Ranges = Callable[[], dict[int, Range]]  # ranges of all nodes, found only where a block needs them


class Infinite(Exception):
    """No finite constant at this node."""

    def __init__(self, node: int, reason: str):
        super().__init__(reason)
        self.node, self.reason = node, reason


def links(graph: Graph) -> tuple[int, ...]:
    """The signals of a chain in order: every nonlinearity, then the output."""
    return tuple(dict.fromkeys((*graph.nonlinear, graph.output)))


def sources_of(graph: Graph, i: int) -> tuple[int, ...]:
    """The signals from whose constants `link` takes that of i."""
    read = graph.nodes[i].parents if isinstance(graph.nodes[i].what, Nonlinear) else (i,)
    return tuple(dict.fromkeys(s for target in read for s in linear_ancestors(graph, target)[0]))


def start(graph: Graph, norm: Norm) -> dict[int, Constants]:
    """The input with respect to itself: ||x||_r <= c ||x||_p."""
    size = graph.nodes[graph.input].size
    return {graph.input: {r: embed(norm.input, r, size) for r in (norm.input, norm.output)}}


def link(graph: Graph, i: int, known: dict[int, Constants], ranges: Ranges, on_region: bool = False) -> Constants:
    """Constants of signal i of `links` from `known`: those of all sources before it. Adds the affine signals that a
    block reads to `known`. Raises Infinite."""
    node = graph.nodes[i]
    if not isinstance(node.what, Nonlinear):
        return known[i] if i in known else affine_constants(graph, i, known)
    for parent in node.parents:
        if parent not in known:
            known[parent] = affine_constants(graph, parent, known)
    return {r: _through_block(graph, i, known, r, ranges, on_region) for r in known[graph.input]}


def affine_constants(graph: Graph, target: int, known: dict[int, Constants]) -> Constants:
    """Constants of an affine signal from those of its sources: node by node, and part by part; the least of both."""
    sources, nodes = linear_ancestors(graph, target)
    seeds = {source: known[source] for source in sources}
    if not seeds:  # a constant signal
        return dict.fromkeys(known[graph.input], 0.0)
    constants = node_constants(graph, nodes, seeds, target, graph.memo)
    if len(sources) > JOINT_SOURCES or not nodes:
        return constants
    joint: Constants = {}
    for r in constants:
        joint[r] = total(
            min(times(Path(graph, source, target).norm_upper(s, r), c) for s, c in known[source].items())
            for source in sources
        )
    return {r: min(constants[r], joint[r]) for r in constants}


def block_slopes(
    graph: Graph,
    i: int,
    r: P,
    ranges: Ranges,
    on_region: bool = False,
    moving: tuple[bool, ...] | None = None,
) -> tuple[float, ...]:
    """l_r constants of block i in each parent: global ones where finite, else on the interval ranges. Raises Infinite.
    A parent that never moves (`moving` false) needs no constant."""
    node = graph.nodes[i]
    assert isinstance(node.what, Nonlinear)
    block = node.what.block
    moving = moving or (True,) * len(node.parents)
    slopes = (math.inf,) * len(node.parents) if on_region else block.lipschitz(r)
    if any(slope == math.inf and moves for slope, moves in zip(slopes, moving, strict=True)):
        found = ranges()
        slopes = block.lipschitz(r, tuple(found[parent] for parent in node.parents))
    for slope, moves in zip(slopes, moving, strict=True):
        if not math.isfinite(slope) and moves:
            raise Infinite(i, f"{block.label} at {node.name}: {block.reason}")
    return slopes


def _through_block(graph: Graph, i: int, known: dict[int, Constants], r: P, ranges: Ranges, on_region: bool) -> float:
    """The least of the ways from each norm in which the parents are known to l_r."""
    node = graph.nodes[i]
    assert isinstance(node.what, Nonlinear)
    found = []
    for s in known[graph.input]:
        parents = [known[parent][s] for parent in node.parents]
        moving = tuple(c > 0 for c in parents)
        slopes = node.what.block.between(s, r) if s != r else block_slopes(graph, i, r, ranges, on_region, moving)
        found.append(total(times(slope, c) for slope, c in zip(slopes, parents, strict=True)))
    return min(found)
