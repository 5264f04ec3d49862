"""The network as linear segments between cuts (Combettes & Pesquet 2020, section 3; MATH section 3).

An activation with slopes [a, b] is `c id + h Q`, c = (a + b) / 2, h = (b - a) / 2 and Q nonexpansive entry by entry, hence
in every l_p. Written as z = c v + w with the cut signal w = h Q(v), the network is linear in the input and the cuts:

    v_i = T_i0 x + sum_{j < i} T_ij w_j,    ||w_i|| <= ||diag(h_i) T_i0|| ||x|| + sum_j ||diag(h_i) T_ij|| ||w_j||

with T_ij the operator from cut j to v_i that passes the activations between them through c. Summing over which
activations are passed and which are cut takes O(m^2) norms. An activation that is not passed has c = 0 and h = max |slope|;
where all are so this is the product. On a graph nothing changes; other blocks are cut with their l_p constants.

Any float c does: h is rounded up to cover [a, b] from it. To be trusted by a checker; it imports no bound method.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.blocks.base import Block, Range
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.affine import (
    DENSE_FLOPS,
    ENCLOSED,
    Constants,
    Path,
    linear_ancestors,
    node_constants,
    pull,
    targets,
)
from lipcert.network.closed_forms import times, total
from lipcert.network.graph import Add, Concat, Enclosure, Graph, Linear, Node, Nonlinear, What
from lipcert.operators.linear import Scale
from lipcert.proofs.chain import Infinite, Ranges, block_slopes, link
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import sub_up
from lipcert.terms.query import P

SMALL_ENTRIES, SMALL_FLOPS = 2**17, 1e9  # segments whose matrices are formed together


@dataclass(frozen=True, eq=False)
class Cut(Block):
    """A signal of which only its l_r constants in its parents are kept: `constants[r]`, one for each parent."""

    sizes: tuple[int, ...] = ()
    size: int = 0
    constants: Mapping[P, tuple[float, ...]] = field(default_factory=dict)

    label = "cut"

    def fits(self, sizes: list[int], size: int) -> bool:
        return tuple(sizes) == self.sizes and size == self.size

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return self.constants[p]


def slopes(graph: Graph, i: int, ranges: Ranges, on_region: bool = False) -> tuple[Tensor, Tensor]:
    """[a, b] of a pointwise node, (n,) each: global where finite, else on the ranges. Raises Infinite."""
    node = graph.nodes[i]
    assert isinstance(node.what, Nonlinear)
    block = node.what.block
    assert isinstance(block, Pointwise)
    if not on_region:
        low, high = block.slopes()
        if bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            return low, high
    low, high = block.slopes((ranges()[node.parents[0]],))
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise Infinite(i, f"{block.label} at {node.name}: {block.reason}")
    return low, high


def passable(graph: Graph) -> tuple[int, ...]:
    """The nodes that can be passed through a linear centre: the pointwise ones."""
    return tuple(i for i in graph.nonlinear if isinstance(graph.nodes[i].what.block, Pointwise))  # type: ignore[union-attr]


def cut(graph: Graph, passed: Collection[int], norms: Collection[P], ranges: Ranges, on_region: bool = False) -> Graph:
    """The same increments with z = c v + w at the `passed` nodes and every nonlinearity a Cut. Raises Infinite."""
    nodes: list[Node] = []
    place: list[int] = []

    def put(what: What, parents: tuple[int, ...], like: Node) -> int:
        nodes.append(Node(what, parents, like.size, like.shape, like.name))
        return len(nodes) - 1

    for i, node in enumerate(graph.nodes):
        parents = tuple(place[parent] for parent in node.parents)
        if not isinstance(node.what, Nonlinear):
            place.append(put(node.what, parents, node))
            continue
        if not isinstance(node.what.block, Pointwise):
            sizes = tuple(graph.nodes[parent].size for parent in node.parents)
            constants = {r: block_slopes(graph, i, r, ranges, on_region) for r in norms}
            place.append(put(Nonlinear(Cut(sizes, node.size, constants)), parents, node))
            continue
        low, high = slopes(graph, i, ranges, on_region)
        centre = low + (high - low) / 2 if i in passed else torch.zeros_like(low)
        half = torch.maximum(sub_up(high, centre), sub_up(centre, low))
        terms = []
        if bool((centre != 0).any()):
            terms.append(put(Linear(Scale(centre.contiguous())), parents, node))
        if bool((half != 0).any()) or not terms:
            inner = put(Linear(Scale(half.contiguous())), parents, node)
            once = dict.fromkeys(norms, (1.0,))
            terms.append(put(Nonlinear(Cut((node.size,), node.size, once)), (inner,), node))
        place.append(terms[0] if len(terms) == 1 else put(Add(), tuple(terms), node))
    return Graph(tuple(nodes), place[graph.output], place[graph.input])


def segment_link(graph: Graph, i: int, known: dict[int, Constants]) -> Constants:
    """Constants of signal i of `chain.links(graph)`, a graph made by `cut`, from those of all cuts before it."""
    node = graph.nodes[i]
    for target in node.parents if isinstance(node.what, Nonlinear) else (i,):
        if target not in known:
            known[target] = _joined(graph, target, known)
    return link(graph, i, known, _never)


def _joined(graph: Graph, target: int, known: dict[int, Constants]) -> Constants:
    """sum over the cuts of min_s ||T||_{s->r} ||cut||_s; node by node as well where a concatenation may be smaller."""
    sources, nodes = linear_ancestors(graph, target)
    norms = _segment_norms(graph, target, known[graph.input])
    joint: Constants = {
        r: total(min(times(norms[source, s, r], c) for s, c in known[source].items()) for source in sources)
        for r in known[graph.input]
    }
    if not any(isinstance(graph.nodes[k].what, Concat) for k in nodes) or not sources:
        return joint
    stepwise = node_constants(graph, nodes, {s: known[s] for s in sources}, target, graph.memo)
    return {r: min(joint[r], stepwise[r]) for r in joint}


def _segment_norms(graph: Graph, target: int, norms: Collection[P]) -> dict[tuple[int, P, P], float]:
    """||T||_{s->r} for all segments that end at `target`, by (source, s, r).

    Small ones together: one pass of the identity back from the target gives all matrices with their enclosures.
    """
    sources, nodes = linear_ancestors(graph, target)
    pairs = [(s, r) for s in norms for r in norms]
    size = graph.nodes[target].size
    largest = max((graph.nodes[source].size for source in sources), default=0)
    if size * largest > SMALL_ENTRIES or size * _flops(graph, nodes) > SMALL_FLOPS or len(sources) < 2:
        return {(k, s, r): Path(graph, k, target).norm_upper(s, r) for k in sources for s, r in pairs}
    found: dict[tuple[int, P, P], float] = {}
    matrices = pull(graph, nodes, {target: Enclosure(torch.eye(size, dtype=torch.float64))}, ENCLOSED)
    for columns in {graph.nodes[source].size for source in sources}:
        same = [source for source in sources if graph.nodes[source].size == columns]
        centre = torch.stack([matrices[source].centre for source in same])
        radius = torch.stack([matrices[source].reach() for source in same])
        for s, r in pairs:
            values = matrix_norms_upper(centre, radius if bool(radius.any()) else None, s, r)
            found |= {(source, s, r): value for source, value in zip(same, values.tolist(), strict=True)}
    return found


def _flops(graph: Graph, nodes: Iterable[int]) -> float:
    whats = (graph.nodes[i].what for i in nodes)
    return float(sum(what.operator.flops for what in whats if isinstance(what, Linear)))


def _never() -> dict[int, Range]:
    raise AssertionError("cuts carry their constants")


def cost(graph: Graph) -> float:
    """About the floating point operations of the norms of all segments of a graph made by `cut`. A segment that is too
    large for a dense norm takes a structured one (its price is the limit of a dense one), and gains nothing."""
    work = 0.0
    for target in targets(graph):
        sources, nodes = linear_ancestors(graph, target)
        flops, waiting = 0.0, list(nodes)
        for source in reversed(sources):  # the affine nodes behind the source are those of its segment, or more
            while waiting and waiting[-1] > source:
                flops += _flops(graph, [waiting.pop()])
            small, large = sorted((graph.nodes[source].size, graph.nodes[target].size))
            work += min(DENSE_FLOPS, small * (4 * flops + 4.0 * small * large))
    return work
