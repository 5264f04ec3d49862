"""Values that inner signals take along segments of inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import ENCLOSURES, Enclosure, Graph
from lipcert.network.walk import forward
from lipcert.terms.query import Ball, Box, Region

TRIES = 12  # segments
HALVINGS = 60


def pointwise(graph: Graph, i: int) -> Pointwise:
    block = graph.nodes[i].what.block  # type: ignore[union-attr]
    assert isinstance(block, Pointwise)
    return block


def row(graph: Graph, i: int) -> str | None:
    block = graph.nodes[i].what.block  # type: ignore[union-attr]
    return block.label if isinstance(block, Pointwise) else None


def segments(graph: Graph, region: Region) -> Iterator[tuple[Tensor, Tensor]]:
    """Ends (1, n) of segments that lie in the scope, well inside."""
    g, n = torch.Generator().manual_seed(0), graph.nodes[graph.input].size
    for k in range(TRIES):
        ends = torch.randn(2, n, generator=g, dtype=torch.float64)
        if isinstance(region, Box):
            lower, upper = (
                torch.as_tensor(s, dtype=torch.float64).reshape(1, -1) for s in (region.lower, region.upper)
            )
            share = torch.rand(2, n, generator=g, dtype=torch.float64)
            ends = (lower + (upper - lower) * share).clamp(min=lower, max=upper)
        elif isinstance(region, Ball):
            p = {"1": 1.0, "2": 2.0, "inf": math.inf}[region.norm]
            size = torch.linalg.vector_norm(ends, p, dim=1, keepdim=True)
            ends = torch.as_tensor(region.center, dtype=torch.float64).reshape(1, -1) + ends / size * (
                0.99 * region.radius
            )
        else:
            ends = ends * 10.0 ** (k % 4 - 1)
        yield ends[:1], ends[1:]


def values(graph: Graph, x: Enclosure, changed: dict[int, Enclosure] | None = None) -> list[Enclosure]:
    """Enclosures of all nodes; those in `changed` are what they say."""
    found = forward(graph, ENCLOSURES, x, start=changed, keep=True)
    return [found[i] for i in range(len(graph.nodes))]


def hull(a: Tensor, b: Tensor) -> Enclosure:
    centre = a / 2 + b / 2
    reach = torch.maximum((a - centre).abs(), (b - centre).abs())
    return Enclosure(centre, torch.nextafter(reach * (1 + 1e-15), torch.full_like(reach, math.inf)))


def _between(a: Tensor, b: Tensor, t: float) -> Tensor:
    return torch.minimum(torch.maximum(a + t * (b - a), torch.minimum(a, b)), torch.maximum(a, b))


def narrowed(
    graph: Graph, i: int, k: int, a: Tensor, b: Tensor, passes: Callable[[float, float], bool]
) -> tuple[Tensor, Tensor]:
    """A short piece of the segment on which entry k of what node i reads still `passes`, as floating values go."""
    read = graph.nodes[i].parents[0]
    part = Graph(graph.nodes[: read + 1], read, graph.input)
    low, high = 0.0, 1.0
    ends = [float(part.evaluate(_between(a, b, t))[0, k]) for t in (low, high)]
    for _ in range(HALVINGS):
        middle = low / 2 + high / 2
        if high - low < 1e-11 or not low < middle < high:
            break
        v = float(part.evaluate(_between(a, b, middle))[0, k])
        if passes(ends[0], v):
            high, ends[1] = middle, v
        else:
            low, ends[0] = middle, v
    return _between(a, b, low), _between(a, b, high)


def finite(f: Elementwise, u: Enclosure) -> Tensor:
    """Entries with bounded slopes on the enclosure."""
    low, high = f.slopes_on(u.lower, u.upper)
    return (torch.isfinite(low) & torch.isfinite(high)).reshape(-1)


def single(f: Elementwise, k: int) -> Elementwise:
    return Elementwise(f.row, tuple(p[k : k + 1] if isinstance(p, Tensor) and p.numel() > 1 else p for p in f.params))
