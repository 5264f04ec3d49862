"""Multipliers for the proof on a torus: dual sweeps (sweep.py) on the network whose convolutions are circular (MATH sections 4b and 12).

Its LipSDP optimum is that of proofs/torus.py, so the dual value measures the gap of the proof. Nothing here is trusted.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.network.graph import Add, Graph, Input, Linear, Node, Nonlinear, What
from lipcert.operators.conv_norm import ConvGeometry
from lipcert.operators.linear import Adjoint, Conv, Dense, Operator, Scale, Select
from lipcert.proofs.heads import Pooled
from lipcert.proofs.kernels import Kernel, Shape
from lipcert.proofs.normal_form import Increment, Layer, NormalForm
from lipcert.proofs.torus import LEAST, MOST, prove
from lipcert.proofs.torus_form import TorusForm
from lipcert.sdp.families import KnownFamilies, Proposal, Proposals
from lipcert.sdp.multipliers import positive
from lipcert.sdp.sweep import MEMORY, Anderson, Dual, Pass
from lipcert.terms.clock import OutOfTime
from lipcert.terms.kept import NOTHING, Kept
from lipcert.terms.memory import allowed
from lipcert.terms.progress import Progress, heard

ANDERSON = 4  # differences that the acceleration keeps of a large network
MARGINS = (3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.3)  # of the repair, per layer; the last ones for few sweeps


@dataclass(frozen=True)
class Units:
    """Factors by which signals are multiplied, powers of two: constraints on slopes do not see them, and float32 overflows
    without them (gradients reach L^2, and their squares L^4)."""

    sites: tuple[float, ...]
    flat: tuple[float, ...]
    output: float = 1.0

    def of(self, kind: str, j: int) -> float:
        return self.sites[j] if kind == "site" else self.flat[j]


def circular_network(form: TorusForm, units: Units | None = None) -> NormalForm:
    """The network on the torus as a graph: what a dense LipSDP of it would take. Float64."""
    unit = units or Units((1.0,) * len(form.sites), (1.0,) * len(form.flat))
    nodes: list[Node] = []

    def put(what: What, parents: tuple[int, ...], size: int, name: str) -> int:
        nodes.append(Node(what, parents, size, (size,), name))
        return len(nodes) - 1

    def total(parts: list[int], size: int, name: str) -> int:
        return parts[0] if len(parts) == 1 else put(Add(), tuple(parts), size, name)

    sizes = [site.channels * math.prod(form.torus(j)) for j, site in enumerate(form.sites)]
    place = [put(Input(), (), sizes[0], "x")]
    layers: list[Layer] = []
    for k, site in enumerate(form.sites[1:], start=1):
        name, parts = form.graph.nodes[site.node].name, []
        for j, kernel in site.rows.items():
            pad, conv = circular(kernel, form.torus(k if kernel.up else j), unit.sites[k] / unit.sites[j])
            ways: tuple[Operator, Operator] = (Adjoint(conv), Adjoint(pad)) if kernel.up else (pad, conv)
            wide = put(Linear(ways[0]), (place[j],), ways[0].out_size, name)
            parts.append(put(Linear(ways[1]), (wide,), ways[1].out_size, name))
        if site.pool is not None:
            layers.append(_pooled(form, k, parts[0], put))
            first = Select(_corner(site.channels, layers[-1].size // site.channels, form.torus(k)), layers[-1].size)
            place.append(put(Linear(first), (layers[-1].node,), sizes[k], name))
            continue
        read = total(parts, sizes[k], name)
        if form.ends_on_map and k == len(form.sites) - 1:
            return NormalForm(Graph(tuple(nodes), read, 0), tuple(layers), "channel")
        place.append(put(Nonlinear(Increment(sizes[k], name)), (read,), sizes[k], name))
        low, high, groups = (
            t[:, None].expand(-1, sizes[k] // site.channels).reshape(-1)
            for t in (site.low, site.high, torch.arange(site.channels))
        )
        layers.append(Layer(place[-1], read, low, high, groups, site.channels))
    behind: list[int] = []
    for at, row in enumerate(form.rows):
        size = form.flat[at].size if at < len(form.flat) else form.outputs
        here, parts = (unit.flat[at] if at < len(form.flat) else unit.output), []
        for (kind, j), matrix in row.items():
            source = place[j] if kind == "site" else behind[j]
            if kind == "site":
                window = inside(form, j)
                source = put(Linear(window), (source,), window.out_size, "window")
            if isinstance(matrix, Pooled):
                sums = Dense(matrix.weights[None, None], form.sites[j].channels)
                source, matrix = put(Linear(sums), (source,), sums.out_size, "pool"), matrix.matrix
            scaled = matrix.centre if units is None else matrix.centre * (here / unit.of(kind, j))
            parts.append(put(Linear(Dense(scaled[None])), (source,), size, "matrix"))
        read = total(parts, size, "dense")
        if at < len(form.flat):
            layer = form.flat[at]
            behind.append(put(Nonlinear(Increment(size, "dense")), (read,), size, "dense"))
            layers.append(Layer(behind[-1], read, layer.low, layer.high, layer.groups, layer.count))
    return NormalForm(Graph(tuple(nodes), read, 0), tuple(layers), "channel")


def _pooled(form: TorusForm, k: int, read: int, put: Callable[..., int]) -> Layer:
    """Maxima as a ball about 0: as many directions as there are entries of v, each counted as often as it is in a window.
    All but as many as there are maxima are free of effect (`_corner`)."""
    site = form.sites[k]
    assert site.pool is not None
    torus = tuple(n * s for n, s in zip(form.torus(k), site.pool.stride, strict=True))
    weights = site.pool.counts(torus).sqrt().expand(site.channels, *torus).reshape(-1)
    size, name = weights.numel(), form.graph.nodes[site.node].name
    counted = put(Linear(Scale(weights.contiguous())), (read,), size, name)
    node = put(Nonlinear(Increment(size, name)), (counted,), size, name)
    spread = lambda t: t[:, None].expand(-1, size // site.channels).reshape(-1)  # noqa: E731
    return Layer(node, counted, spread(site.low), spread(site.high), spread(torch.arange(site.channels)), site.channels)


def _corner(channels: int, entries: int, torus: Shape) -> Tensor:
    """The first entries of each channel, as many as there are maxima."""
    return (torch.arange(channels)[:, None] * entries + torch.arange(math.prod(torus))[None, :]).reshape(-1)


def circular(kernel: Kernel, torus: Shape, factor: float = 1.0) -> tuple[Select, Conv]:
    """The kernel on a torus, times a factor: what it reads laid out with repetitions, and a convolution without padding."""
    outputs = [n // s for n, s in zip(torus, kernel.stride, strict=True)]
    lengths = [s * (m - 1) + t for s, m, t in zip(kernel.stride, outputs, kernel.taps, strict=True)]
    index = torch.arange(kernel.weight.shape[1])
    for n, length, start in zip(torus, lengths, kernel.start, strict=True):
        index = index[..., None] * n + torch.remainder(torch.arange(length) + start, n)
    size = kernel.weight.shape[1] * math.prod(torus)
    geometry = ConvGeometry(tuple(lengths), kernel.stride, ((0, 0),) * len(torus), (1,) * len(torus))
    weight = kernel.weight if factor == 1 else kernel.weight * factor
    return Select(index.reshape(-1), size), Conv(weight, geometry)


def inside(form: TorusForm, j: int) -> Select:
    """The window of a site, of its torus."""
    index = torch.arange(form.sites[j].channels)
    for n, window in zip(form.torus(j), form.sites[j].window, strict=True):
        index = index[..., None] * n + torch.arange(window)
    return Select(index.reshape(-1), form.sites[j].channels * math.prod(form.torus(j)))


@dataclass
class Searched:
    """`multipliers` of s_x = 1 and `rho` prove the value again; empty where nothing was proved."""

    proved: float = math.inf  # L
    dual: float = 0.0  # a lower value of the optimum, from the sweeps: floating point
    sweeps: int = 0
    proofs: int = 0
    multipliers: list[Tensor] = field(default_factory=list)
    rho: float = 1.0


def search(
    form: TorusForm,
    tolerance: float,
    sweeps: int,
    seed: int,
    deadline: float | None,
    say: Progress,
    kept: Kept = NOTHING,
) -> Searched:
    """Sweeps until the value settles, then a proof with the gentlest margin that stands; again until the gap is closed.
    `kept`: what an earlier run has proposed and proved is not swept and proved again."""
    found = Searched()
    with (
        torch.no_grad(),
        heard(say),
        contextlib.suppress(OutOfTime),
    ):  # in a sweep or a proof: what was proved before stands
        _search(found, form, tolerance, sweeps, seed, deadline, say, kept)
    return found


def _search(
    found: Searched,
    form: TorusForm,
    tolerance: float,
    sweeps: int,
    seed: int,
    deadline: float | None,
    say: Progress,
    kept: Kept,
) -> None:
    of, proposals = KnownFamilies(kept), Proposals.of(kept, form, seed, tolerance, sweeps)
    enough = max(1 + tolerance, (1 + MARGINS[0]) ** max(_depths(form)))  # below it no more sweeps help
    for proposal in proposals.earlier():
        found.sweeps, found.dual = proposal.sweeps, proposal.dual
        _certify(form, found, proposal, tolerance, of)
        if found.proved <= found.dual * enough or found.sweeps >= sweeps:
            return
    before, found.sweeps = found.sweeps, 0  # sweeps whose multipliers have been tried
    normal, units, rows = _prepared(form, seed)
    small = units is None
    dtype = torch.float64 if small else torch.float32
    dual = Dual(normal, rows, seed, dtype)
    anderson = Anderson(MEMORY if small else ANDERSON)
    state = dual.start()
    fallback, history = None, [0.0]
    newest: Pass | None = None
    aim, overdue = 0.1 * tolerance, 40
    late = lambda: deadline is not None and time.monotonic() > deadline  # noqa: E731
    while found.sweeps < sweeps and not late():
        swept = dual.sweep(state)
        found.sweeps += 1
        if not math.isfinite(swept.value) or swept.value <= 0:
            break
        if fallback is not None and swept.value < history[-1] * (1 - 1e-7):
            anderson.forget()
            state, fallback = fallback, None
            continue
        history.append(swept.value)
        newest, fallback = swept, swept.after
        found.dual = max(found.dual, math.sqrt(swept.value) / _output_unit(form, units))
        state = dual.unit(dual.state(anderson.next(state.flat, swept.after.flat)))
        say("lipsdp-torus, sweeps", found.sweeps, sweeps)
        still = len(history) > 8 and history[-1] <= history[-8] * (1 + aim)
        if still or found.sweeps >= overdue:
            if found.sweeps > before:
                proposals.add(proposal := _proposal(form, found, swept, units))
                _certify(form, found, proposal, tolerance, of)
            if found.proved <= found.dual * enough:
                break
            aim, overdue = aim / 4, found.sweeps * 2
    if newest is not None and not found.multipliers:
        proposals.add(proposal := _proposal(form, found, newest, units))
        _certify(form, found, proposal, tolerance, of)


def _prepared(form: TorusForm, seed: int) -> tuple[NormalForm, Units | None, int]:
    """The network to sweep, in float32 and units of its own where it is large, and r, the number of coupled samples."""
    normal = circular_network(form)
    size, state = sum(node.size for node in normal.graph.nodes), sum(layer.size for layer in normal.layers)
    rows = 16 if size < 2e5 else 12 if size < 5e6 else 8
    if size * rows < 2**20:
        return normal, None, rows
    kept = 2 * (ANDERSON + 3)  # copies of the state
    while rows > 3 and 4.0 * rows * (size + kept * state) > 0.75 * allowed() * 2**30:
        rows -= 1
    exact = Dual(normal, 1, seed)
    first = exact.sweep(exact.sweep(exact.start()).after)  # random directions give next to nothing, those after them do
    power = lambda size: 2.0 ** -math.frexp(size)[1] if size > 0 else 1.0  # noqa: E731
    layers = [power(float(radius.norm())) for radius in first.radii]
    maps, output = len(form.maps), power(math.sqrt(first.value))
    sites = (1.0, *layers[:maps], *([output] if form.ends_on_map else []))
    units = Units(sites, tuple(layers[maps:]), output)
    normal = circular_network(form, units)
    return NormalForm(normal.graph.to("cpu", torch.float32), normal.layers, normal.grouping), units, rows


def _output_unit(form: TorusForm, units: Units | None) -> float:
    return 1.0 if units is None else units.output


def _proposal(form: TorusForm, found: Searched, swept: Pass, units: Units | None) -> Proposal:
    """In the units of the network."""
    raw, value = positive([m.double() for m in swept.multipliers]), swept.value
    if units is not None:
        own = (*units.sites[1 : len(form.maps) + 1], *units.flat)
        raw, value = [m * (u / units.output) ** 2 for m, u in zip(raw, own, strict=True)], value / units.output**2
    return Proposal(found.sweeps, value, found.dual, raw)


def _certify(form: TorusForm, found: Searched, proposal: Proposal, tolerance: float, of: KnownFamilies) -> None:
    """Multipliers of layer k lowered by (1 + margin)^(2 k - 1): then every pivot has room, from the input on."""
    raw, top = proposal.multipliers, proposal.value
    depth = _depths(form)
    for margin in MARGINS:
        if (1 + margin) ** max(depth) >= found.proved / found.dual:
            return  # would not improve
        lowered = [
            (m / top / (1 + margin) ** (2 * d - 1)).clamp(LEAST, MOST)  # of maps without effect: next to nothing
            for m, d in zip(raw, depth[: len(raw)], strict=True)
        ]
        expected = top * (1 + margin) ** (2 * max(depth) - form.ends_on_map)  # as a layer, where it is one
        value = prove(form, lowered, expected, of)
        found.proofs += 1
        if value < found.proved**2:
            found.proved = math.nextafter(math.sqrt(value), math.inf)
            found.multipliers, found.rho = lowered, expected
            if margin <= tolerance:
                return
        if math.isfinite(value):
            return


def _depths(form: TorusForm) -> list[int]:
    """How many layers lie at most between the input and this one, itself included; an output on maps is one."""
    sites = [0]
    for site in form.sites[1:]:
        sites.append(1 + max(sites[j] for j in site.rows))
    flat: list[int] = []
    for row in form.rows[:-1]:
        flat.append(1 + max((sites[j] if kind == "site" else flat[j] for kind, j in row), default=0))
    return sites[1:] + flat
