"""How much work the linear-relaxed adjoint may be on one region: the method `linear`, and certificates by it."""

from __future__ import annotations

import math

from lipcert.network.graph import Graph
from lipcert.network.graph import Linear as LinearNode

WORK = 1e11  # flops of the rows of J
REFINED = 2e10  # and of bounding intermediate gradients too
VERTICES = 6  # neurons tried at both ends of their slope


def flops(graph: Graph) -> int:
    return sum(node.what.operator.flops for node in graph.nodes if isinstance(node.what, LinearNode))


def rows_of_gradients(graph: Graph) -> int:
    """Functionals that refining takes, for all outputs."""
    return 2 * graph.nodes[graph.output].size * sum(graph.nodes[i].size for i in graph.nonlinear[:-2])


def effort(graph: Graph) -> tuple[bool, int]:
    """(whether intermediate gradients are bounded too, how many neurons are tried at both ends)."""
    cost = max(1, 6 * graph.nodes[graph.output].size * flops(graph))  # no linear node at all: 0
    return rows_of_gradients(graph) * flops(graph) <= REFINED, min(VERTICES, int(math.log2(max(1.0, WORK / cost))))
