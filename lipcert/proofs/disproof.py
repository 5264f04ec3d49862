"""Proofs that a network has no Lipschitz constant on a scope: what `unbounded` stands for (DESIGN section 4).

Three theorems, each on enclosures of the whole network, so that they speak of the output and not of a node:

jump    On a segment in the scope one entry v of a step function's argument passes its threshold: v is continuous there (no
        other jump above it is met) and lies on different sides at the two ends. So there are points arbitrarily near each
        other on both sides (intermediate values). With the step's result set to what it is on either side, the enclosures
        of an output over the whole segment are disjoint: it jumps.
growth  Along x = a + t d the output is a sum of powers of t with enclosed coefficients (growth.py). One that grows faster
        than t: |f(a + t d) - f(a)| / t has no bound. Or two parallel rays a, b whose outputs move apart without end while
        |a - b| stays: the same for their difference quotient. (Dot-product attention: the two rays attend to different
        tokens.)
slope   One entry of a row with an infinite slope or a pole (sqrt and log at 0, 1 / v) reads an affine v that passes that
        place on a segment, reaches the output by affine operators alone with a coefficient that is not 0, and everything
        else is Lipschitz near there: the difference quotients of the output have no bound.

turn    u / |u| with u linear in x (no offsets) turns round as x passes 0: along t d it is sign(t) z(d), and reaches the output by
        affine operators that do not take z(d) to 0.

Where none of them applies nothing is said: such a network is `refused`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.blocks.normalise import Normalise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul
from lipcert.blocks.radial import Radial
from lipcert.network.affine import ENCLOSED, Path
from lipcert.network.graph import Enclosure, Graph, Linear, Nonlinear, Offset
from lipcert.proofs.growth import apart, superlinear
from lipcert.proofs.segment_values import TRIES, finite, hull, narrowed, pointwise, row, segments, single, values
from lipcert.terms.query import Ball, Box, Region

WORK = 1e8  # operations of one evaluation times attempts: an attempt takes tens of evaluations
CANDIDATES = 4  # entries of one segment
# Distance between neighbouring jumps, by row: between them the slope is 0 or 1.
GAPS: dict[str, Callable[..., float]] = {
    "floor": lambda: 1.0,
    "ceil": lambda: 1.0,
    "round": lambda: 1.0,
    "trunc": lambda: 1.0,
    "frac": lambda: 1.0,
    "fmod": lambda c: abs(float(c)),
    "remainder": lambda c: abs(float(c)),
    "sign": lambda: math.inf,
    "heaviside": lambda v: math.inf,
    "hardshrink": lambda k: 2 * float(k),
    "threshold": lambda t, v: math.inf,
}
# Where a row has an infinite slope or a pole.
STEEP: dict[str, Callable[..., tuple[float, ...]]] = {
    "sqrt": lambda: (0.0,),
    "rsqrt": lambda: (0.0,),
    "log": lambda: (0.0,),
    "log1p": lambda: (-1.0,),
    "reciprocal": lambda: (0.0,),
    "pow_int": lambda n: (0.0,) if n < 0 else (),
    "pow": lambda r: (0.0,) if r < 1 else (),
    "asin": lambda: (-1.0, 1.0),
    "acos": lambda: (-1.0, 1.0),
    "acosh": lambda: (1.0,),
    "atanh": lambda: (-1.0, 1.0),
    "tan": lambda: (-math.pi / 2, math.pi / 2),
}


@dataclass(frozen=True)
class Disproof:
    """No constant exists on the scope: why, and at which node it shows."""

    node: str
    reason: str


def disproof(graph: Graph, region: Region = None) -> Disproof | None:
    """A proof that the network is not Lipschitz on the region (None: the whole space), or None."""
    key = "disproof", _key(region)
    if key not in graph.memo:
        with torch.no_grad():
            graph.memo[key] = next(_found(graph, region), None)
    return graph.memo[key]


def _key(region: Region) -> object:
    if isinstance(region, Box):
        return "box", *(torch.as_tensor(s, dtype=torch.float64).numpy().tobytes() for s in (region.lower, region.upper))
    if isinstance(region, Ball):
        return "ball", torch.as_tensor(region.center, dtype=torch.float64).numpy().tobytes(), region.radius, region.norm
    return None


def _found(graph: Graph, region: Region) -> Iterator[Disproof]:
    if region is None:
        yield from _growth(graph)
    if _holds_zero(region):
        yield from _turns(graph)
    steps = [i for i in graph.nonlinear if row(graph, i) in GAPS and not pointwise(graph, i).activation.continuous]
    steep = [i for i in graph.nonlinear if row(graph, i) in STEEP]
    if not steps and not steep:
        return
    for a, b in islice(segments(graph, region), _tries(graph, TRIES)):
        yield from _jumps(graph, steps, a, b)
        yield from _slopes(graph, steep, a, b)


def _tries(graph: Graph, most: int) -> int:
    """Fewer attempts with larger networks, by the operations of one evaluation: the same for the same network."""
    cost = sum(node.what.operator.flops for node in graph.nodes if isinstance(node.what, Linear))
    return max(1, min(most, int(WORK / max(1, cost))))


def _jumps(graph: Graph, steps: list[int], a: Tensor, b: Tensor) -> Iterator[Disproof]:
    if not steps:
        return
    at_a, at_b = (values(graph, Enclosure(x)) for x in (a, b))
    for i in steps:
        f, read = pointwise(graph, i).activation, graph.nodes[i].parents[0]
        u, w = at_a[read].centre, at_b[read].centre
        low, high = f.slopes_on(torch.minimum(u, w), torch.maximum(u, w))
        crossed = (~(torch.isfinite(low) & torch.isfinite(high))).reshape(-1).nonzero().flatten().tolist()
        for k in crossed[:CANDIDATES]:
            g = single(f, k)

            def passes(v: float, w: float, g: Elementwise = g) -> bool:
                ends = torch.tensor([min(v, w)], dtype=torch.float64), torch.tensor([max(v, w)], dtype=torch.float64)
                return not bool(torch.isfinite(torch.stack(g.slopes_on(*ends))).all())

            if _jump(graph, i, k, g, *narrowed(graph, i, k, a, b, passes)):
                node = graph.nodes[i]
                yield Disproof(node.name, f"{node.what.block.label} at {node.name} jumps, and the output with it")  # type: ignore[union-attr]


def _jump(graph: Graph, i: int, k: int, f: Elementwise, p: Tensor, q: Tensor) -> bool:
    """The theorem on the segment from p to q, for entry k of step node i."""
    read = graph.nodes[i].parents[0]
    before, after = (values(graph, Enclosure(x))[read] for x in (p, q))
    over = values(graph, hull(p, q))
    above = _ancestors(graph, i)
    for j in graph.nonlinear:
        block = graph.nodes[j].what.block  # type: ignore[union-attr]
        if j not in above and j != i:
            continue
        if not isinstance(block, Pointwise):
            if block.steps or j == i:
                return False
            continue
        calm = finite(block.activation, over[graph.nodes[j].parents[0]])
        if j == i:
            calm[k] = True
        if not bool(calm.all()):
            return False
    ends = [Enclosure(u.centre[:, k], u.reach()[:, k]) for u in (before, after)]
    width = float(over[read].upper[0, k] - over[read].lower[0, k])
    apart_ = float(ends[0].upper) < float(ends[1].lower) or float(ends[1].upper) < float(ends[0].lower)
    if not apart_ or not all(bool(finite(f, end).all()) for end in ends) or not width < GAPS[f.name](*f.params) / 4:
        return False
    outputs = []
    for end in ends:  # between jumps the slope is 0 or 1
        low, high = f.values_on(end.lower, end.upper)
        side = Enclosure(over[i].centre.clone(), over[i].reach().clone())
        side.centre[:, k] = low / 2 + high / 2
        side.radius[:, k] = torch.nextafter((high - low) / 2 + 2 * width, torch.tensor(math.inf, dtype=torch.float64))  # type: ignore[index]
        outputs.append(values(graph, hull(p, q), {i: side})[graph.output])
    return bool(((outputs[0].upper < outputs[1].lower) | (outputs[1].upper < outputs[0].lower)).any())


def _ancestors(graph: Graph, i: int) -> set[int]:
    found: set[int] = set()
    waiting = list(graph.nodes[i].parents)
    while waiting:
        j = waiting.pop()
        if j not in found:
            found.add(j)
            waiting += graph.nodes[j].parents
    return found


def _slopes(graph: Graph, steep: list[int], a: Tensor, b: Tensor) -> Iterator[Disproof]:
    for i in steep:
        f, read = pointwise(graph, i).activation, graph.nodes[i].parents[0]
        linear = not any(isinstance(graph.nodes[j].what, Nonlinear) for j in _ancestors(graph, i))
        below = [
            j
            for j in graph.nonlinear
            if i in _ancestors(graph, j) and (j == graph.output or j in _ancestors(graph, graph.output))
        ]
        if not linear or below or any(isinstance(p, Tensor) for p in f.params):
            continue
        sides = [values(graph, Enclosure(x))[read].centre for x in (a, b)]
        for place in STEEP[f.name](*f.params):
            crossed = ((sides[0] < place) != (sides[1] < place)).reshape(-1).nonzero().flatten().tolist()
            for k in crossed[:CANDIDATES]:
                p, q = narrowed(graph, i, k, a, b, lambda v, w, place=place: (v < place) != (w < place))  # type: ignore[misc]
                if _steep_there(graph, i, k, place, p, q):
                    node = graph.nodes[i]
                    yield Disproof(
                        node.name, f"{f.name} at {node.name} is infinitely steep at {place:g}, and the output with it"
                    )


def _steep_there(graph: Graph, i: int, k: int, place: float, p: Tensor, q: Tensor) -> bool:
    read = graph.nodes[i].parents[0]
    before, after = (values(graph, Enclosure(x))[read] for x in (p, q))
    first, last = (
        (float(before.upper[0, k]), float(after.lower[0, k])),
        (float(after.upper[0, k]), float(before.lower[0, k])),
    )
    nearly = 4e-16 * abs(place)  # a place that is not a float
    if not any(pair[0] < place - nearly and place + nearly < pair[1] for pair in (first, last)):
        return False
    over = values(graph, hull(p, q))
    for j in graph.nonlinear:
        block = graph.nodes[j].what.block  # type: ignore[union-attr]
        parents = [(over[s].lower, over[s].upper) for s in graph.nodes[j].parents]
        if isinstance(block, Pointwise):
            calm = finite(block.activation, over[graph.nodes[j].parents[0]])
            if j == i:
                calm[k] = True
            if not bool(calm.all()):
                return False
        elif block.steps or not all(map(math.isfinite, block.lipschitz("2", tuple(parents)))):
            return False
    return _heard(graph, i, k)


def _holds_zero(region: Region) -> bool:
    """x = 0 lies inside the scope, not on its border."""
    if isinstance(region, Box):
        return bool(((torch.as_tensor(region.lower) < 0) & (torch.as_tensor(region.upper) > 0)).all())
    return region is None


def _turns(graph: Graph) -> Iterator[Disproof]:
    d = torch.randn(1, graph.nodes[graph.input].size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for i in graph.nonlinear:
        block, above = graph.nodes[i].what.block, _ancestors(graph, i)  # type: ignore[union-attr]
        unit = isinstance(block, Radial) and block.factor.name in ("reciprocal", "reciprocal(abs(x))")
        if not unit and not (isinstance(block, Normalise) and block.eps == 0):
            continue
        if any(isinstance(graph.nodes[j].what, Nonlinear | Offset) for j in above):
            continue
        others = [j for j in graph.nonlinear if j != i]
        if any(i in _ancestors(graph, j) for j in others):
            continue
        near = values(graph, Enclosure(torch.zeros_like(d), torch.full_like(d, 1e-9)))
        ranges = {j: tuple((near[p].lower, near[p].upper) for p in graph.nodes[j].parents) for j in others}
        calm = all(all(map(math.isfinite, graph.nodes[j].what.block.lipschitz("2", ranges[j]))) for j in others)  # type: ignore[union-attr]
        z = values(graph, Enclosure(d))[i]
        moved = z if i == graph.output else Path(graph, i, graph.output).mv(z, ENCLOSED)
        if calm and bool(((moved.lower > 0) | (moved.upper < 0)).any()):
            name = graph.nodes[i].name
            yield Disproof(
                name, f"{block.label} at {name} turns round where its input passes 0, and the output with it"
            )


def _growth(graph: Graph) -> Iterator[Disproof]:
    g, n = torch.Generator().manual_seed(1), graph.nodes[graph.input].size
    culprit = _culprit(graph)
    if culprit is None:
        return
    for _ in range(_tries(graph, 4)):
        a, d = torch.randn(2, 1, n, generator=g, dtype=torch.float64)
        if superlinear(graph, a, d):
            yield Disproof(culprit, f"along a ray the output grows faster than its input, by {culprit}")
        if _explodes(graph, a, d):
            yield Disproof(culprit, f"along a ray the output grows exponentially, by {culprit}")
    if not any(isinstance(graph.nodes[i].what.block, MatMul) for i in graph.nonlinear):  # type: ignore[union-attr]
        return
    for mask, shift in islice(_partly(graph, g), _tries(graph, 24)):
        if apart(graph, shift, -shift, mask):
            yield Disproof(
                culprit, f"two parallel rays of inputs have outputs that move apart without end, by {culprit}"
            )


def _explodes(graph: Graph, a: Tensor, d: Tensor) -> bool:
    """One node of exponentials of affine signals, affine from there on, beside signals of finite slope: along the ray its
    fastest entry outweighs everything else."""
    steep = [i for i in graph.nonlinear if not all(map(math.isfinite, graph.nodes[i].what.block.lipschitz("2")))]  # type: ignore[union-attr]
    if len(steep) != 1 or row(graph, steep[0]) not in ("exp", "expm1", "sinh", "cosh"):
        return False
    i = steep[0]
    if any(isinstance(graph.nodes[j].what, Nonlinear) for j in _ancestors(graph, i)):
        return False
    if any(i in _ancestors(graph, j) for j in graph.nonlinear):
        return False
    read = graph.nodes[i].parents[0]
    rate = Path(graph, graph.input, read).mv(Enclosure(d), ENCLOSED)
    low, high = rate.lower[0], rate.upper[0]
    if row(graph, i) in ("sinh", "cosh"):
        both = low.abs(), high.abs()
        low, high = torch.where(low * high > 0, torch.minimum(*both), 0.0), torch.maximum(*both)
    k = int(low.argmax())
    others = torch.cat([high[:k], high[k + 1 :]])
    if not float(low[k]) > max(0.0, float(others.max()) if others.numel() else 0.0):
        return False
    return _heard(graph, i, k)


def _heard(graph: Graph, i: int, k: int) -> bool:
    """Entry k of node i reaches an output by affine operators with a coefficient that is not 0."""
    if i == graph.output:
        return True
    unit = torch.zeros(1, graph.nodes[i].size, dtype=torch.float64)
    unit[0, k] = 1.0
    moved = Path(graph, i, graph.output).mv(Enclosure(unit), ENCLOSED)
    return bool(((moved.lower > 0) | (moved.upper < 0)).any())


def _culprit(graph: Graph) -> str | None:
    """The first node without a finite constant."""
    for i in graph.nonlinear:
        if not all(map(math.isfinite, graph.nodes[i].what.block.lipschitz("2"))):  # type: ignore[union-attr]
            return graph.nodes[i].name
    return None


def _partly(graph: Graph, g: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """(direction, start): some rows of the input go to infinity, the others stay at the start."""
    shape = graph.input_shape
    for axis in [k for k, size in enumerate(shape) if size > 1]:
        for _ in range(6):
            kept = torch.zeros(shape, dtype=torch.float64)
            kept.select(axis, int(torch.randint(shape[axis], (), generator=g))).fill_(1.0)
            direction = torch.randn(shape, generator=g, dtype=torch.float64) * (1 - kept)
            start = torch.randn(shape, generator=g, dtype=torch.float64) * kept * 8
            yield direction.reshape(1, -1), start.reshape(1, -1)
