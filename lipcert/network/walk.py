"""The one walk over a network: nodes in order, values freed after their last use, what fans out added up.

A value domain (floating values, enclosures, intervals, slope stacks, rows of linear bounds, 0-1 patterns ...) says what
each kind of node does to values of its sort, in a literal table of rules at the foot of its own file:

    forward    rule(at, *values of the parents) -> value of the node
    backward   rule(at, value at the node)      -> one value for each parent

`None` is the zero signal: a node all of whose parents are zero has no value, and a rule may return None. (Domains of
linear maps use it; in the others every node has a value.) A kind without a rule is a refusal that names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.terms.clock import tick
from lipcert.terms.errors import RefusedModel

if TYPE_CHECKING:
    from lipcert.network.graph import Graph, Node

Rules = dict[type, Callable[..., Any]]  # by the type of Node.what


@dataclass(slots=True)
class Visit:
    """Where the walk stands: what a rule may look at beside its arguments. `state`: the domain's own, the same all the way."""

    graph: Graph
    i: int
    node: Node
    state: Any
    values: Mapping[int, Any]  # alive: those that this node or a later one reads

    @property
    def what(self) -> Any:
        return self.node.what

    def ends(self, parent: int) -> bool:
        """Nobody reads `parent` after this node."""
        return last_use(self.graph)[parent] == self.i


def forward(
    graph: Graph,
    rules: Rules,
    state: Any = None,
    *,
    start: Mapping[int, Any] | None = None,
    nodes: Iterable[int] | None = None,
    keep: bool = False,
) -> dict[int, Any]:
    """Values by node: of the output, or of all nodes with `keep`. `start`: values that are given, by node. `nodes`: the
    part of the graph to visit, in topological order; nothing is freed then."""
    values: dict[int, Any] = dict(start or {})
    last = None if keep or nodes is not None else last_use(graph)
    for i in range(len(graph.nodes)) if nodes is None else nodes:
        if start is not None and i in start:
            continue
        node = graph.nodes[i]
        arguments = [values.get(parent) for parent in node.parents]
        if arguments and all(argument is None for argument in arguments):
            continue
        tick()
        found = _rule(rules, node)(Visit(graph, i, node, state, values), *arguments)
        if found is not None:
            values[i] = found
        if last is not None:
            for parent in {*node.parents}:
                if last[parent] == i:
                    values.pop(parent, None)
    return values


def backward(
    graph: Graph,
    rules: Rules,
    seeds: Mapping[int, Any],
    total: Callable[[Visit, Sequence[Any]], Any],
    state: Any = None,
    *,
    nodes: Sequence[int] | None = None,
) -> dict[int, Any]:
    """Carries values at the nodes `seeds` back through `nodes` (default: all but the input), given in topological order.

    `total` adds up what arrives at a node. Returns what has arrived at nodes that were not visited: at the input."""
    waiting: dict[int, list[Any]] = {i: [value] for i, value in seeds.items()}
    order: Sequence[int] = [i for i in range(max(seeds) + 1) if i != graph.input] if nodes is None else list(nodes)
    for i in reversed(order):
        if i not in waiting:
            continue
        tick()
        step = Visit(graph, i, graph.nodes[i], state, waiting)
        pieces = _rule(rules, step.node)(step, total(step, waiting.pop(i)))
        for parent, piece in zip(step.node.parents, pieces, strict=True):
            if piece is not None:
                waiting.setdefault(parent, []).append(piece)
    return {i: total(Visit(graph, i, graph.nodes[i], state, waiting), parts) for i, parts in waiting.items()}


def last_use(graph: Graph) -> dict[int, int]:
    """The last reader of each signal; the output outlives the walk."""
    key = ("last use", graph.output)
    if key not in graph.memo:
        last = {parent: i for i, node in enumerate(graph.nodes) for parent in node.parents}
        graph.memo[key] = last | {graph.output: len(graph.nodes)}
    return graph.memo[key]


def _rule(rules: Rules, node: Node) -> Callable[..., Any]:
    try:
        return rules[type(node.what)]
    except KeyError:
        kind = type(node.what).__name__.lower()
        raise RefusedModel(f"{node.name}: no rule here for a node of kind {kind}", node=node.name) from None
