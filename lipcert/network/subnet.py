"""A part of the network as a network: from one signal to another (features to output, input to features)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lipcert.network.graph import Graph, Input, Node
from lipcert.terms.errors import UsageError

SHOWN = 12  # names in an error


def find(graph: Graph, name: str, flag: str) -> int:
    """The last node of that name: what is called "Gemm node '8'" is the sum of its product and its bias."""
    matches = [i for i, node in enumerate(graph.nodes) if name in (node.name, _quoted(node.name))]
    if not matches:
        names = list(dict.fromkeys(node.name for node in graph.nodes))
        more = f" and {len(names) - SHOWN} more (lipcert inspect shows them)" if len(names) > SHOWN else ""
        raise UsageError(f"{flag} {name}: no such node; the nodes are {', '.join(names[:SHOWN])}{more}")
    return matches[-1]


def _quoted(name: str) -> str | None:
    found = re.search(r"'(.*)'$", name)
    return found[1] if found else None


def named(graph: Graph) -> dict[str, int]:
    """All signals by name: the input and the output by theirs, of several nodes of one name the last, as `find`; the others have
    their number behind it."""
    found: dict[str, int] = {}
    ends = [graph.input, graph.output]
    for i in dict.fromkeys((*ends, *reversed(range(len(graph.nodes))))):
        name = graph.nodes[i].name
        while name in found:
            name = f"{name}#{i}"
        found[name] = i
    return found


def moving(graph: Graph) -> set[int]:
    """What the input reaches: everything else is constant."""
    reached = {graph.input}
    for i, node in enumerate(graph.nodes):
        if reached.intersection(node.parents):
            reached.add(i)
    return reached


def passed(graph: Graph, start: int, stop: int) -> list[int]:
    """The signals that everything passes on its way from `start` to `stop`, both included, in order."""
    needed = _ancestors(graph, stop, start)
    reach: dict[int, int] = {}  # of what moves with `start`: the last node that reads it
    for i in sorted(needed):
        moves = [p for p in graph.nodes[i].parents if p in reach] if i != start else []
        if i == start or moves:
            reach[i] = i
            reach.update(dict.fromkeys(moves, i))
    found, furthest = [], start
    for i in sorted(reach):
        if furthest <= i:
            found.append(i)
        furthest = max(furthest, reach[i])
    return found


def prefix(graph: Graph, stop: int) -> Graph:
    """From the input to the signal `stop`."""
    return cut(graph, graph.input, stop)


def cut(graph: Graph, start: int, stop: int) -> Graph:
    """From the signal `start` to the signal `stop`. UsageError where the input reaches `stop` past `start`."""
    needed = _ancestors(graph, stop, start)
    moved = [i for i in sorted(needed) if i != start]
    if start not in needed:
        raise UsageError(f"{graph.nodes[stop].name} does not depend on {graph.nodes[start].name}: no network between")
    if graph.input in needed and start != graph.input:
        names = graph.nodes[start].name, graph.nodes[stop].name
        raise UsageError(
            f"{names[1]} depends on the input past {names[0]} as well: choose a node that everything passes"
        )
    first = graph.nodes[start]
    place = {start: 0} | {i: k for k, i in enumerate(moved, start=1)}
    nodes = [Node(Input(), (), first.size, first.shape, first.name)]
    for i in moved:
        node = graph.nodes[i]
        nodes.append(Node(node.what, tuple(place[p] for p in node.parents), node.size, node.shape, node.name))
    return Graph(tuple(nodes), place[stop])


def _ancestors(graph: Graph, stop: int, start: int) -> set[int]:
    """Everything that `stop` is made of, not looking behind `start`."""
    seen: set[int] = set()
    stack = [stop]
    while stack:
        i = stack.pop()
        if i not in seen:
            seen.add(i)
            stack.extend(() if i == start else graph.nodes[i].parents)
    return seen


def layers(graph: Graph) -> Iterable[int]:
    """Signals that people call layers: what every nonlinearity gives, and the output."""
    return dict.fromkeys((*graph.nonlinear, graph.output))
