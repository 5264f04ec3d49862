"""A network as a chain of feature maps and a dense tail: what is proved on a torus (MATH section 12).

Signal 0 is the input; then the activations that lie on maps; behind them, `flat`, everything else. A map of window n lies
on a torus of coarse * level >= n entries per axis, where every kernel becomes circular. Conditions, checked exactly:

    a kernel of stride s leads from level l to level l / s, the transpose of one to l s, and l is divisible by every coarser level
    no read outside the window of a map comes round to its inside                        (Kernel.wraps)
    slopes [a, b] of an activation that reads a map, with a <= 0 <= b                    (widened, where a > 0)

Then increments of the network, continued by zeros, are increments on the torus: inside the windows all signals agree, and
outside z = 0, so that (z - a v)(z - b v) = a b v^2 <= 0: the torus's quadratic form is not above that of the network.
Overlapping maxima are one constraint with what they read (pools.py), with a = -h and b = h: on the torus it has more
terms v^2, all with the same sign.

An output of many entries that is a map itself is the last site: on the torus there is more of it, so that |dy| only grows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from lipcert.blocks.base import Block
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.selection import Selection
from lipcert.network.affine import linear_ancestors
from lipcert.network.graph import Enclosure, Graph, Linear, Node, Nonlinear
from lipcert.operators.linear import Scale
from lipcert.proofs.heads import Pooled, matrix, pooling
from lipcert.proofs.kernels import Kernel, NotAMap, Shape, input_shape, kernels
from lipcert.proofs.masks import Unmasked, is_mask, masked
from lipcert.proofs.maxima import without_maxima
from lipcert.proofs.normal_form import Layer, constraint
from lipcert.proofs.one_sign import falling, of_one_sign
from lipcert.proofs.pools import Windows, before_pool, overlapping, windows_of
from lipcert.terms.errors import RefusedModel

DENSE_ENTRIES = 6e7  # of the matrices of the flat part, with their enclosures: 1 GB
WIDEST = 1 << 13  # entries of one signal in a chunk of families: the rounding of their sums grows with its square
OUTPUTS = 2048  # more of them are a map, where they can be
LARGEST_TORUS = 4  # times the window: a network that needs more has no use of this method


@dataclass(frozen=True, eq=False)
class Site:
    """A signal on maps. `level`: entries of its torus per entry of the coarsest; `fold`: of the torus on which its frequencies
    are kept together, coarser where maxima are taken of it. `rows`: kernels by site that it reads; `low`, `high` (channels,):
    slopes. The input has neither; an output has [0, 1]. `pool`: it is a maximum over windows of what the one kernel gives."""

    node: int
    channels: int
    window: Shape
    level: Shape
    rows: Mapping[int, Kernel]
    low: Tensor
    high: Tensor
    fold: Shape
    pool: Windows | None = None


@dataclass(frozen=True, eq=False)
class TorusForm:
    """`flat`: the layers behind the maps; `rows[k]`: the matrices of flat layer k (the last: of the output) by what it
    reads: ("site", j), window entries in order, or ("flat", j). `coarse`: entries of the coarsest torus per axis.
    `ends_on_map`: the last site is the output, and there is nothing flat: `outputs` is 0."""

    graph: Graph
    sites: tuple[Site, ...]
    flat: tuple[Layer, ...]
    rows: tuple[Mapping[tuple[str, int], Enclosure | Pooled], ...]
    coarse: Shape
    outputs: int
    ends_on_map: bool = False

    @property
    def maps(self) -> tuple[Site, ...]:
        """The activations on maps."""
        return self.sites[1 : len(self.sites) - self.ends_on_map]

    def torus(self, j: int) -> Shape:
        return tuple(g * s for g, s in zip(self.coarse, self.sites[j].level, strict=True))

    @property
    def counts(self) -> list[int]:
        """Multipliers of each layer: one per channel, then one per group of the flat layers."""
        return [site.channels for site in self.maps] + [layer.count for layer in self.flat]

    @property
    def inner(self) -> list[dict[int, Enclosure]]:
        """Of `rows`: what reads flat layers."""
        return [
            {j: m for (kind, j), m in row.items() if kind == "flat" and isinstance(m, Enclosure)} for row in self.rows
        ]

    @property
    def neurons(self) -> int:
        """Those of the network: neither masks nor the falling part of an activation beside its rising one."""
        sizes = [(s.node, s.channels * math.prod(s.window)) for s in self.maps]
        sizes += [(layer.node, layer.size) for layer in self.flat]
        nodes = self.graph.nodes
        return sum(size for i, size in sizes if not falling(nodes[i]) and not is_mask(nodes[i]))


def torus_form(graph: Graph, maps: int | None = None) -> TorusForm:
    """`maps`: at most so many activations, the first, lie on maps. Raises RefusedModel with the node that has no place."""
    windows = _kept if any(_kept(graph.nodes[i].what.block) for i in graph.nonlinear) else None  # type: ignore[union-attr]
    refusal = RefusedModel("")
    for kept, masks in dict.fromkeys(((windows, False), (None, False), (windows, True))):
        try:
            return _with_masks(_plain(graph, kept), maps, masks)
        except RefusedModel as fault:
            refusal = refusal if masks else fault
    raise refusal


def _with_masks(graph: Graph, maps: int | None, masks: bool) -> TorusForm:
    """`masks`: signals of their own between two linear operators in a row, where there would be no kernel."""
    while True:
        try:
            return _form(graph, maps, masks)
        except Unmasked as fault:
            graph = masked(graph, fault.node)


def _plain(graph: Graph, kept: Callable[[Block], bool] | None) -> Graph:
    """Without maxima that are not kept, and with slopes of one sign; of what a pool reads only the largest slope counts."""
    found = without_maxima(graph, kept, maps=True)
    return of_one_sign(found, _merged(found))


def entries(form: TorusForm) -> float:
    """How many floats the blocks of a chunk of families take: large where very many frequencies meet in a pool."""
    width = [s.channels * (math.prod(s.level) // math.prod(s.fold)) for s in form.sites]
    beside = list(width)
    for k, site in enumerate(form.sites):
        for j, kernel in site.rows.items():
            fine, coarse = (k, j) if kernel.up else (j, k)
            beside[fine] += width[coarse] if site.pool is None else site.channels * math.prod(site.pool.size)
    for row, size in zip(form.rows, (*(layer.size for layer in form.flat), form.outputs), strict=True):
        for kind, j in row:
            if kind == "site":
                beside[j] += size
    families = max(1, WIDEST // max(s.channels * math.prod(s.level) for s in form.sites))
    per = (math.prod(s.fold) * w * b for s, w, b in zip(form.sites, width, beside, strict=True))
    return 2.0 * families * sum(per)


def _kept(block: Block) -> bool:
    return isinstance(block, Selection) and overlapping(block)


def _windows(graph: Graph) -> list[int]:
    return [i for i in graph.nonlinear if _kept(graph.nodes[i].what.block)]  # type: ignore[union-attr]


def _merged(graph: Graph) -> set[int]:
    """Activations that pools take in."""
    return {graph.nodes[i].parents[0] for i in _windows(graph) if before_pool(graph, i)[1].dim()}


def _form(graph: Graph, maps: int | None, masks: bool) -> TorusForm:
    """Raises RefusedModel; with `masks` Unmasked as well."""
    empty = next((node.name for node in graph.nodes if node.size == 0), None)
    if empty is not None:
        raise RefusedModel(f"{empty} is empty", node=empty)
    shapes: dict[int, Shape] = {graph.input: input_shape(graph)}
    rows: dict[int, dict[int, Kernel]] = {}
    flat: list[int] = []
    why: dict[int, NotAMap] = {}
    pools: dict[int, tuple[Windows, Tensor]] = {}
    kept = _windows(graph)
    merged = _merged(graph)
    for i in graph.nonlinear:
        node = graph.nodes[i]
        assert isinstance(node.what, Nonlinear)
        if i in merged:
            continue
        if i in kept:
            rows[i], shapes[i], *pools[i] = _pooled(graph, shapes, i, maps is not None and len(rows) >= maps)  # type: ignore[assignment]
            continue
        try:
            if maps is not None and len(rows) >= maps:
                raise NotAMap(node.name, f"{node.name} comes after the maps")
            if not isinstance(node.what.block, Pointwise):
                raise NotAMap(node.name, f"{node.what.block.label} at {node.name} does not act entry by entry")
            found = kernels(graph, shapes, node.parents[0])
            if not found:
                raise NotAMap(node.name, f"{node.name} reads nothing that moves")
            shape = next(iter(found.values())).shape
            if any(kernel.shape != shape for kernel in found.values()) or math.prod(shape) != node.size:
                raise NotAMap(node.name, f"{node.name} reads maps of different shapes")
            rows[i], shapes[i] = found, shape
        except NotAMap as reason:
            if masks and reason.padding is not None:
                raise Unmasked(reason.padding) from None
            flat.append(i)
            why[i] = reason
    if not rows:
        fault = why[flat[0]] if flat else NotAMap("", "there is no activation between its convolutions")
        raise RefusedModel(f"no activation lies on feature maps: {fault.reason}", node=fault.node or None)
    if not flat and graph.nodes[graph.output].size > OUTPUTS:
        try:
            return _assembled(*_ending_on_map(graph, shapes, rows), flat, why, pools, True)
        except NotAMap as reason:
            if masks and reason.padding is not None:
                raise Unmasked(reason.padding) from None
        except RefusedModel:
            pass
    return _assembled(graph, shapes, rows, flat, why, pools)


def _ending_on_map(
    graph: Graph, shapes: dict[int, Shape], rows: dict[int, dict[int, Kernel]]
) -> tuple[Graph, dict[int, Shape], dict[int, dict[int, Kernel]]]:
    """With the output as one more signal on maps. Raises NotAMap."""
    found = kernels(graph, shapes, graph.output)
    shape = next(iter(found.values())).shape if found else ()
    size, name = graph.nodes[graph.output].size, graph.nodes[graph.output].name
    if any(kernel.shape != shape for kernel in found.values()) or math.prod(shape) != size:
        raise NotAMap(name, f"{name} reads maps of different shapes")
    if graph.output in shapes:  # a signal of its own: the activation is another
        one = Scale(torch.ones(size, dtype=torch.float64))
        graph = graph.then(Node(Linear(one), (graph.output,), size, (1, *shape), name))
    return graph, shapes | {graph.output: shape}, rows | {graph.output: found}


def _pooled(
    graph: Graph, shapes: dict[int, Shape], i: int, late: bool
) -> tuple[dict[int, Kernel], Shape, Windows, Tensor]:
    node = graph.nodes[i]
    block: Any = node.what.block  # type: ignore[union-attr]
    read, slopes = before_pool(graph, i)
    try:
        found = kernels(graph, shapes, read)
    except NotAMap as fault:
        raise RefusedModel(fault.reason, node=fault.node) from fault
    shape = next(iter(found.values())).shape if len(found) == 1 else ()
    out = tuple(node.shape[1:])
    once = shape and not late and not any(kernel.up for kernel in found.values())
    windows = windows_of(block, shape, out) if once else None
    if windows is None:
        raise RefusedModel(f"{node.name} takes no maxima over windows of one map", node=node.name)
    return found, out, windows, slopes.expand(math.prod(shape)).reshape(shape[0], -1).amax(1)


def _assembled(
    graph: Graph,
    shapes: dict[int, Shape],
    rows: dict[int, dict[int, Kernel]],
    flat: list[int],
    why: dict[int, NotAMap],
    pools: dict[int, Any],
    ends_on_map: bool = False,
) -> TorusForm:
    """`ends_on_map`: the last row is the output's, which no activation stands behind. An activation that is the output has its slopes."""
    order = [graph.input, *rows]
    place = {node: j for j, node in enumerate(order)}
    levels = _levels(graph, order, rows, pools)
    folds = _folds(graph, levels, rows, pools)
    sites = []
    for node in order:
        channels, window = shapes[node][0], shapes[node][1:]
        low = high = torch.zeros(channels, dtype=torch.float64)
        windows, largest = pools.get(node, (None, None))
        if windows is not None:
            low, high = -largest, largest
        elif ends_on_map and node == graph.output:
            high = torch.ones_like(high)
        elif node != graph.input:
            found = constraint(graph, node, "layer", None)
            low = found.low.reshape(channels, -1).amin(1).clamp(max=0.0)
            high = found.high.reshape(channels, -1).amax(1).clamp(min=0.0)
            _refuse_both_signs(graph, node, low, high)
        reads = {place[source]: kernel for source, kernel in rows.get(node, {}).items()}
        sites.append(Site(node, channels, window, levels[node], reads, low, high, folds[node], windows))
    coarse = _coarse(graph, sites)
    if ends_on_map:
        return TorusForm(graph, tuple(sites), (), ({},), coarse, 0, True)
    layers, table = _flat_part(graph, place, {site.node: site.channels for site in sites}, flat, why)
    return TorusForm(graph, tuple(sites), tuple(layers), tuple(table), coarse, graph.nodes[graph.output].size)


def _refuse_both_signs(graph: Graph, node: int, low: Tensor, high: Tensor) -> None:
    """The products of slopes are left out of the inequality: one of the two is zero (one_sign.py)."""
    if bool(((low < 0) & (high > 0)).any()):
        name = graph.nodes[node].name
        raise RefusedModel(f"{name} has slopes of both signs, which this method does not take", node=name)


def _folds(
    graph: Graph, levels: Mapping[int, Shape], rows: dict[int, dict[int, Kernel]], pools: Mapping[int, Any]
) -> dict[int, Shape]:
    """Squares of what a pool reads join all frequencies that meet in it."""
    folds = dict(levels)
    for node in pools:
        (source,) = rows[node]
        if folds[source] != levels[source]:
            name = graph.nodes[node].name
            raise RefusedModel(f"{name} takes maxima of a signal of which others are taken", node=name)
        folds[source] = levels[node]
    for node, row in rows.items():
        for source, kernel in row.items():
            fine, coarse = (node, source) if kernel.up else (source, node)
            if any(f % c for f, c in zip(folds[fine], folds[coarse], strict=True)):
                name = graph.nodes[node].name
                raise RefusedModel(f"{name} reads a finer signal than maxima are taken of", node=name)
    return folds


def _levels(
    graph: Graph, order: Sequence[int], rows: dict[int, dict[int, Kernel]], pools: Mapping[int, Any]
) -> dict[int, Shape]:
    """Entries of each torus per entry of the coarsest."""
    axes = len(next(iter(next(iter(rows.values())).values())).stride)
    strides = {graph.input: (Fraction(1),) * axes}
    for node in order[1:]:
        windows = pools[node][0].stride if node in pools else (1,) * axes
        found = {
            tuple((a / b if k.up else a * b) * c for a, b, c in zip(strides[j], k.stride, windows, strict=True))
            for j, k in rows[node].items()
        }
        if len(found) > 1:
            name = graph.nodes[node].name
            raise RefusedModel(f"{name} reads maps whose strides do not agree", node=name)
        strides[node] = found.pop()
    most = [
        math.lcm(*(strides[node][d].numerator for node in order)) for d in range(axes)
    ]  # whole: the input has stride 1
    levels = {node: tuple(int(m / s) for m, s in zip(most, strides[node], strict=True)) for node in order}
    ranked = sorted(set(levels.values()), key=math.prod)
    for coarse, fine in itertools.pairwise(ranked):
        if any(f % c for c, f in zip(coarse, fine, strict=True)):
            raise RefusedModel(f"resolutions {coarse} and {fine} are not multiples of each other")
    return levels


def _coarse(graph: Graph, sites: Sequence[Site]) -> Shape:
    """The smallest torus of the claim, axis by axis."""
    found = []
    for d in range(len(sites[0].window)):
        least = max(-(-site.window[d] // site.level[d]) for site in sites)
        read = [
            (kernel, (site if kernel.up else sites[j]).level[d]) for site in sites for j, kernel in site.rows.items()
        ]
        for kernel, level in read:  # what is read fits, also where it is no site itself
            least = max(least, -(-kernel.after[d] * kernel.stride[d] // level))
        for size in range(least, LARGEST_TORUS * least + 8):
            if not any(kernel.wraps(d, size * level) for kernel, level in read):
                found.append(size)
                break
        else:
            raise RefusedModel("its kernels are much longer than its maps")
    return tuple(found)


def _flat_part(
    graph: Graph,
    place: Mapping[int, int],
    channels: Mapping[int, int],
    flat: Sequence[int],
    why: Mapping[int, NotAMap],
) -> tuple[list[Layer], list[dict[tuple[str, int], Enclosure | Pooled]]]:
    """Layers with the slopes of single neurons, and all matrices; those that read maps have a = 0 or b = 0."""
    number = {node: k for k, node in enumerate(flat)}
    layers: list[Layer] = []
    table: list[dict[tuple[str, int], Enclosure | Pooled]] = []
    budget = DENSE_ENTRIES
    for node in (*flat, None):
        read = graph.output if node is None else graph.nodes[node].parents[0]
        row: dict[tuple[str, int], Enclosure | Pooled] = {}
        for source in linear_ancestors(graph, read)[0]:
            pool = pooling(graph, source, read, channels[source]) if source in place else None
            budget -= graph.nodes[source if pool is None else pool[0]].size * graph.nodes[read].size
            if budget < 0:
                fault = why.get(node) if node is not None else None
                name = fault.node if fault else graph.nodes[read].name
                reason = fault.reason if fault else "the output is too large a map"
                raise RefusedModel(f"{reason}; without it, matrices would be too large", node=name)
            key = ("site", place[source]) if source in place else ("flat", number[source])
            row[key] = matrix(graph, source, read) if pool is None else Pooled(matrix(graph, pool[0], read), pool[1])
        table.append(row)
        if node is None:
            break
        found = constraint(graph, node, "neuron", None)
        low, high = found.low, found.high
        if any(kind == "site" for kind, _ in row):
            low, high = low.clamp(max=0.0), high.clamp(min=0.0)
            _refuse_both_signs(graph, node, low, high)
        groups = torch.unique(found.groups, return_inverse=True)[1]
        layers.append(Layer(node, read, low, high, groups, int(groups.max()) + 1))
    return layers, table
