"""LipSDP on a torus: its kernels, its families of frequencies and its values against slow and obvious ones."""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.selection import Selection
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.lipsdp_torus import LipsdpTorus
from lipcert.methods.problem import Problem
from lipcert.network.affine import Path
from lipcert.network.graph import Add, Concat, Graph, Input, Linear, Node, Nonlinear, What
from lipcert.network.subnet import cut
from lipcert.operators.conv_norm import ConvGeometry
from lipcert.operators.linear import Adjoint, Conv, Dense, Operator, Scale, Select
from lipcert.proofs import lmi, torus
from lipcert.proofs import torus_form as torus_form_room
from lipcert.proofs.kernels import NotAMap, kernels
from lipcert.proofs.kinds import Torus
from lipcert.proofs.masks import is_mask
from lipcert.proofs.normal_form import normal_form
from lipcert.proofs.one_sign import of_one_sign
from lipcert.proofs.pools import before_pool
from lipcert.proofs.torus_form import TorusForm, entries, torus_form
from lipcert.rigor.rounding import gamma
from lipcert.sdp.torus import circular, circular_network, inside, search
from lipcert.terms.errors import CertificateRejected, RefusedModel
from lipcert.terms.progress import heard
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound, Refusal

SLOPES = ("relu", "tanh", "leaky_relu", "sigmoid")


class Build:
    """A graph, operator by operator; maps as (channels, *window)."""

    def __init__(self, shape: tuple[int, ...], seed: int):
        self.how, self.shapes = random.Random(seed), [shape]
        self.torch = torch.Generator().manual_seed(seed)
        self.nodes = [Node(Input(), (), math.prod(shape), (1, *shape), "x")]

    def normal(self, *shape: int) -> Tensor:
        fan = math.prod(shape[1:]) or 1
        return torch.randn(shape, generator=self.torch, dtype=torch.float64) * math.sqrt(2 / fan)

    def put(self, what: What, parents: tuple[int, ...], shape: tuple[int, ...], name: str) -> int:
        self.nodes.append(Node(what, parents, math.prod(shape), (1, *shape), f"{name} {len(self.nodes)}"))
        self.shapes.append(shape)
        return len(self.nodes) - 1

    def conv(self, at: int, channels: int, k: int, stride: int = 1, padding: int | None = None, groups: int = 1, dilation: int = 1) -> int:  # fmt: skip
        c, *window = self.shapes[at]
        p = dilation * (k - 1) // 2 if padding is None else padding
        axes = len(window)
        geometry = ConvGeometry(tuple(window), (stride,) * axes, ((p, p),) * axes, (dilation,) * axes, groups)
        operator = Conv(self.normal(channels, c // groups, *(k,) * axes), geometry)
        return self.put(Linear(operator), (at,), (channels, *operator.out_shape), "conv")

    def act(self, at: int, row: str = "relu") -> int:
        size = math.prod(self.shapes[at])
        elementwise = Elementwise(ACTIVATIONS[row], tuple(ACTIVATIONS[row].parameters.values()))
        return self.put(Nonlinear(Pointwise(elementwise, size)), (at,), self.shapes[at], row)

    def linear(self, operator: Operator, at: int, shape: tuple[int, ...], name: str = "linear") -> int:
        return self.put(Linear(operator), (at,), shape, name)

    def dense(self, at: int, rows: int) -> int:
        return self.linear(Dense(self.normal(rows, math.prod(self.shapes[at]))[None]), at, (rows,), "dense")

    def add(self, *parents: int) -> int:
        return self.put(Add(), parents, self.shapes[parents[0]], "add")

    def up(self, at: int, channels: int, k: int, stride: int = 2) -> int:
        """A transposed convolution, or nearest neighbours where k is 0."""
        c, *window = self.shapes[at]
        if k == 0:
            index = torch.arange(c * math.prod(window)).reshape(c, *window)
            for d in range(len(window)):
                index = index.repeat_interleave(stride, d + 1)
            return self.linear(Select(index.reshape(-1), c * math.prod(window)), at, tuple(index.shape), "nearest")
        out, p = [stride * (n - 1) + k - 2 * (k // 3) for n in window], k // 3
        geometry = ConvGeometry(tuple(out), (stride,) * len(out), ((p, p),) * len(out), (1,) * len(out))
        operator = Adjoint(Conv(self.normal(c, channels, *(k,) * len(out)), geometry))
        assert operator.in_size == c * math.prod(window)
        return self.linear(operator, at, (channels, *out), "up")

    def norm(self, at: int) -> int:
        """A folded BatchNorm, negative factors included, with an enclosure."""
        c, *window = self.shapes[at]
        factor = self.normal(c)[:, None].expand(c, math.prod(window)).reshape(-1)
        return self.linear(Scale(factor.contiguous(), factor.abs() * 1e-12), at, self.shapes[at], "scale")

    def pool(self, at: int, k: int, stride: int, padding: int) -> int:
        """Maxima over windows, absent entries -1."""
        c, *window = self.shapes[at]
        entries = torch.arange(c * math.prod(window), dtype=torch.float64).reshape(1, c, *window)
        padded = torch.nn.functional.pad(entries, [padding, padding] * len(window), value=-1.0)
        out = [(n + 2 * padding - k) // stride + 1 for n in window]
        columns = []
        for o in itertools.product(range(k), repeat=len(window)):
            steps = (slice(a, a + stride * (m - 1) + 1, stride) for a, m in zip(o, out, strict=True))
            columns.append(padded[(slice(None), slice(None), *steps)].reshape(-1))  # type: ignore[index]
        block = Selection(torch.stack(columns, 1).long(), c * math.prod(window))
        return self.put(Nonlinear(block), (at,), (c, *out), "pool")

    def graph(self) -> Graph:
        return Graph(tuple(self.nodes), len(self.nodes) - 1)


def random_net(seed: int) -> Graph:
    """1 to 3 stages of convolutions in one or two dimensions, strides, groups, dilation, residual blocks; a head."""
    how = random.Random(seed)
    axes = how.choice([1, 2, 2])
    window = tuple(how.randint(4, 7) if axes == 2 else how.randint(5, 12) for _ in range(axes))
    net = Build((how.randint(1, 2), *window), seed)
    at = 0
    for _ in range(how.randint(1, 3)):
        stride = how.choice([1, 1, 2])
        kind = how.choice(["plain", "norm", "residual", "projection", "depthwise", "dilated"])
        row, before = how.choice(SLOPES), at
        if kind == "depthwise" and net.shapes[at][0] > 1:
            at = net.act(net.conv(at, net.shapes[at][0], 3, stride, groups=net.shapes[at][0]), row)
            at = net.act(net.conv(at, 3, 1), row)
        elif kind == "dilated" and min(net.shapes[at][1:]) > 3:
            at = net.act(net.conv(at, 2, 3, 1, dilation=2), row)
        elif kind == "residual":
            inner = net.act(net.conv(at, 2, 3), row)
            at = net.act(net.add(net.conv(inner, net.shapes[at][0], 3), before), row)
        elif kind == "projection":
            inner = net.act(net.conv(at, 2, 3, stride), row)
            at = net.act(net.add(net.conv(inner, 3, 3), net.conv(before, 3, 1, stride)), row)
        else:
            k = min(how.choice([1, 2, 3]), *net.shapes[at][1:])
            at = net.conv(at, how.randint(1, 4), k, stride, how.choice([0, 1]))
            at = net.act(net.norm(at) if kind == "norm" else at, row)
    head = how.choice(["flat", "flat", "pool", "two"])
    if head == "pool":
        c, *rest = net.shapes[at]
        n = math.prod(rest)
        at = net.linear(Dense(torch.full((1, 1, n), 1 / n, dtype=torch.float64), outer=c), at, (c,), "mean")
    if head == "two":
        at = net.act(net.dense(at, 4))
    net.dense(at, 3)
    return net.graph()


def value(method: Any, graph: Graph) -> Bound:
    with torch.no_grad():
        found = method.run(Problem(graph, Norm()))
    assert isinstance(found, Bound), found
    assert found.rigor == "proved"
    return found


def attained(graph: Graph, seed: int) -> float:
    """Largest Jacobian norm at a few points."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(6, graph.nodes[graph.input].size, generator=generator, dtype=torch.float64) * 2
    jacobians = (torch.autograd.functional.jacobian(lambda u: graph.evaluate(u[None])[0], x) for x in points)
    return max(float(torch.linalg.matrix_norm(J, 2)) for J in jacobians)


@pytest.mark.every(8)
@pytest.mark.parametrize("seed", range(120))
def test_the_torus_is_above_the_padded_network_and_both_above_what_is_attained(seed: int) -> None:
    graph = random_net(seed)
    found = value(LipsdpTorus(dense=0), graph)
    padded = value(Lipsdp("channel"), graph)
    widened = any(graph.nodes[i].what.block.label == "leaky_relu" for i in graph.nonlinear)  # type: ignore[union-attr]
    assert found.value >= padded.details["dual"] * (1 - 1e-9)
    assert found.value >= found.details["dual"] * (1 - 1e-9)
    assert found.details["gap"] < (0.1 if widened else 0.02)
    assert found.value >= attained(graph, seed) * (1 - 1e-12)


def headless(seed: int) -> Graph:
    """`random_net` up to its last convolution or activation: the output is a map, or several added."""
    how, graph = random.Random(seed), random_net(seed)
    last = max(i for i in graph.nonlinear if len(graph.nodes[i].shape) > 2)
    ends = [last, graph.nodes[last].parents[0]]
    end = how.choice(ends if any(i < ends[1] for i in graph.nonlinear) else ends[:1])
    return Graph(graph.nodes[: end + 1], end)


@pytest.mark.every(8)
@pytest.mark.parametrize("seed", range(80))
def test_an_output_may_be_a_map(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the padded network, its own dual and what is attained, and the same as one matrix of the whole torus."""
    monkeypatch.setattr(torus_form_room, "OUTPUTS", 0)
    graph = headless(seed)
    form = torus_form(graph)
    assert form.ends_on_map
    assert not form.flat
    found = value(LipsdpTorus(dense=0), graph)
    padded = value(Lipsdp("channel"), graph)
    widened = any(graph.nodes[i].what.block.label == "leaky_relu" for i in graph.nonlinear)  # type: ignore[union-attr]
    assert found.value >= padded.details["dual"] * (1 - 1e-9)
    assert found.value >= found.details["dual"] * (1 - 1e-9)
    assert found.details["gap"] < (0.1 if widened else 0.02)
    assert found.value >= attained(graph, seed) * (1 - 1e-12)
    assert isinstance(found.proof, Torus)
    assert found.proof.prove(graph, Norm()) <= found.value
    rows = [torch.tensor(row, dtype=torch.float64) for row in found.proof.multipliers]
    whole = dense_torus(form, rows, found.proof.rho)
    assert whole <= found.value**2 * (1 + 1e-8)
    less = whole * (1 - 1e-4)  # nothing below what the dense problem shows is proved
    assert torus.prove(form, rows, less) == math.inf


def dense_torus(form: TorusForm, multipliers: list[Tensor], rho: float) -> float:
    """The same inequality as one matrix of all positions of the torus."""
    normal = circular_network(form)
    return lmi.prove(normal, lmi.coefficients(normal), multipliers, last=len(normal.layers) + 1, rho=rho)


def found_for(seed: int) -> tuple[TorusForm, Any]:
    form = torus_form(random_net(seed))
    return form, search(form, 1e-3, 200, 0, None, lambda *_: None)


@pytest.mark.every(6)
@pytest.mark.parametrize("seed", range(60))
def test_the_families_are_one_dense_problem(seed: int) -> None:
    form, found = found_for(seed)
    whole = dense_torus(form, found.multipliers, found.rho)
    assert torus.prove(form, found.multipliers, found.rho) == pytest.approx(whole, rel=1e-8)
    raised = [m * 3 for m in found.multipliers]  # far from the optimum, the two still agree, also that nothing is shown
    whole, families = (f(form, raised, found.rho) for f in (dense_torus, torus.prove))
    assert families == pytest.approx(whole, rel=1e-7)


@pytest.mark.parametrize("mutant", ["sign", "aliases", "weight"])
def test_the_dense_problem_would_see_an_error(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = map(torus_form, map(random_net, range(20)))
    form = next(f for f in forms if len({site.level for site in f.sites}) > 1 and math.prod(f.coarse) > 4)
    found = search(form, 1e-3, 200, 0, None, lambda *_: None)
    assert found.multipliers
    whole = dense_torus(form, found.multipliers, found.rho)
    if mutant == "sign":
        right = torus.symbols
        monkeypatch.setattr(torus, "symbols", lambda c, f, n: right(replace(c, places=c.places.abs()), f, n))
    if mutant == "aliases":
        right_children = torus.Families.children
        monkeypatch.setattr(
            torus.Families, "children", lambda s, j, k: right_children(s, j, k).roll(1, 0) if k < s.sites else right_children(s, j, k)
        )  # fmt: skip
    if mutant == "weight":
        right_chunks = torus.chunks
        monkeypatch.setattr(torus, "chunks", lambda problem: ((f, 1.0) for f, _ in right_chunks(problem)))
    assert torus.prove(form, found.multipliers, found.rho) != pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("routine", ["cholesky_ex", "solve_triangular"])
def test_no_factor_is_trusted(routine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routines that are off by 1e-6 can only raise the value."""
    form, found = found_for(5)
    right = torus.prove(form, found.multipliers, found.rho)
    honest = getattr(torch.linalg, routine)

    def wrong(*args: Any, **options: Any) -> Any:
        answer = honest(*args, **options)
        off = lambda t: t * (1 - 1e-6)  # noqa: E731
        return (off(answer[0]), answer[1]) if isinstance(answer, tuple) else off(answer)

    monkeypatch.setattr(torch.linalg, routine, wrong)
    assert torus.prove(form, found.multipliers, found.rho) > right * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_kernels_are_the_linear_parts(seed: int) -> None:
    """On the torus of the form and with zeros outside the window, each kernel does what the part of the graph does."""
    form = torus_form(random_net(seed))
    generator = torch.Generator().manual_seed(seed)
    for k, site in enumerate(form.sites):
        for j, kernel in site.rows.items():
            read = form.graph.nodes[site.node].parents[0]
            x = torch.randn(2, form.graph.nodes[form.sites[j].node].size, generator=generator, dtype=torch.float64)
            there = Path(form.graph, form.sites[j].node, read).mv(x)
            pad, conv = circular(kernel, form.torus(j))
            around = inside(form, k).mv(conv.mv(pad.mv(inside(form, j).rmv(x))))
            assert torch.allclose(there, around, rtol=1e-12, atol=1e-12)
    smaller = tuple(g - 1 for g in form.coarse)
    least = all(g * s >= n for site in form.sites for g, s, n in zip(smaller, site.level, site.window, strict=True))
    wraps = any(
        kernel.wraps(d, smaller[d] * form.sites[j].level[d])
        for site in form.sites
        for j, kernel in site.rows.items()
        for d in range(len(smaller))
    )
    assert wraps or not least  # no smaller torus would do


def up_and_down(seed: int) -> Graph:
    """Encoders and decoders: transposed convolutions and nearest neighbours, with a convolution behind, beside skips."""
    how = random.Random(seed)
    axes = how.choice([1, 2])
    net = Build((how.randint(1, 2), *(2 * how.randint(2, 3) for _ in range(axes))), seed)
    first = net.act(net.conv(0, 2, 3), how.choice(SLOPES)) if how.random() < 0.7 else 0
    down = net.act(net.conv(first, 2, 3, 2), how.choice(SLOPES)) if how.random() < 0.7 else first
    k = how.choice([0, 2, 2, 3])
    at = net.up(down, 2, k)
    if k == 0 or how.random() < 0.5:
        at = net.norm(at) if how.random() < 0.3 else net.conv(at, 2, 3)
    if net.shapes[at][1:] == net.shapes[first][1:] and how.random() < 0.8:
        shape = (net.shapes[at][0] + net.shapes[first][0], *net.shapes[at][1:])
        at = net.conv(net.put(Concat(), (at, first), shape, "concat"), 2, 3)
    at = net.act(at, how.choice(SLOPES))
    if how.random() < 0.5:
        at = net.act(net.conv(at, 2, 3, how.choice([1, 2])), how.choice(SLOPES))
    net.dense(at, 3)
    return net.graph()


@pytest.mark.every(8)
@pytest.mark.parametrize("seed", range(96))
def test_what_is_made_finer_is_a_kernel_too(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the padded network, what is attained, and one matrix of the whole torus; each kernel against its part of the graph."""
    graph = up_and_down(seed)
    monkeypatch.setattr(torus_form_room, "DENSE_ENTRIES", 3.0 * graph.nodes[graph.nonlinear[-1]].size)
    form = torus_form(graph)
    assert any(kernel.up for site in form.sites for kernel in site.rows.values())
    generator = torch.Generator().manual_seed(seed)
    for k, site in enumerate(form.sites):
        for j, kernel in site.rows.items():
            read = form.graph.nodes[site.node].parents[0]
            x = torch.randn(2, form.graph.nodes[form.sites[j].node].size, generator=generator, dtype=torch.float64)
            there = Path(form.graph, form.sites[j].node, read).mv(x)
            pad, conv = circular(kernel, form.torus(k if kernel.up else j))
            wide = inside(form, j).rmv(x)
            around = inside(form, k).mv(pad.rmv(conv.rmv(wide)) if kernel.up else conv.mv(pad.mv(wide)))
            assert torch.allclose(there, around, rtol=1e-12, atol=1e-12)
    found = search(form, 1e-3, 200, 0, None, lambda *_: None)
    assert torus.prove(form, found.multipliers, found.rho) == pytest.approx(
        dense_torus(form, found.multipliers, found.rho), rel=1e-8
    )
    padded = value(Lipsdp("channel"), graph)
    assert found.proved >= padded.details["dual"] * (1 - 1e-9)
    assert found.proved >= attained(graph, seed) * (1 - 1e-12)


def two_in_a_row(first: int, second: int, act: bool = False) -> Graph:
    net = Build((2, 6, 6), 1)
    at = net.act(net.conv(0, 2, 3))
    at = net.conv(at, 3, first)
    at = net.conv(net.act(at) if act else at, 2, second)
    net.dense(net.act(at), 2)
    return net.graph()


def test_a_convolution_that_reads_the_padding_of_another_is_no_kernel() -> None:
    graph = two_in_a_row(3, 3)
    shapes = {0: (2, 6, 6), 2: (2, 6, 6)}
    with pytest.raises(NotAMap, match="conv 4 reads the padding") as caught:
        kernels(graph, shapes, 4)
    assert caught.value.node == "conv 4"
    form = torus_form(graph)  # small enough: what follows is dense
    assert (len(form.sites), len(form.flat)) == (2, 1)
    value(LipsdpTorus(), graph)


def test_what_is_too_large_to_be_dense_is_refused_with_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torus_form_room, "DENSE_ENTRIES", 200.0)
    net = Build((2, 6, 6), 1)
    at = net.act(net.conv(0, 2, 3))
    mixed = torch.randperm(72, generator=torch.Generator().manual_seed(0))
    at = net.act(net.conv(net.linear(Select(mixed, 72), at, (2, 6, 6), "mix"), 2, 3))
    net.dense(at, 2)
    found = LipsdpTorus().run(Problem(net.graph(), Norm()))
    assert isinstance(found, Refusal)
    assert found.node == "mix 3"
    assert "does not do the same" in found.reason


@pytest.mark.every(6)
@pytest.mark.parametrize("seed", range(48))
def test_what_lies_between_two_convolutions_is_masked(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the padded network and what is attained, and not above the product of what is before and behind."""
    how = random.Random(seed)
    net = Build((how.randint(1, 2), how.randint(5, 7), how.randint(4, 6)), seed)
    at = net.act(net.conv(0, 2, 3, how.choice([1, 2])), how.choice(SLOPES))
    between = net.conv(at, how.randint(1, 3), 3)
    at = net.conv(between, 2, how.choice([2, 3]), how.choice([1, 1, 2]), 1)
    if net.shapes[at][1:] == net.shapes[between][1:] and how.random() < 0.5:
        at = net.add(at, net.conv(between, 2, 1))  # beside the mask
    end = net.dense(net.act(at, how.choice(SLOPES)), 2)
    graph = net.graph()
    monkeypatch.setattr(torus_form_room, "DENSE_ENTRIES", 2.0 * graph.nodes[end - 1].size)  # no room for anything else
    form = torus_form(graph)
    assert any(is_mask(form.graph.nodes[site.node]) for site in form.maps)
    assert form.neurons == graph.neurons
    found, padded = value(LipsdpTorus(dense=0), graph), value(Lipsdp("channel"), graph)
    assert found.value >= padded.details["dual"] * (1 - 1e-9)
    assert found.value >= attained(graph, seed) * (1 - 1e-12)
    monkeypatch.setattr(torus_form_room, "DENSE_ENTRIES", 6e7)
    monkeypatch.setattr(torus_form_room, "OUTPUTS", 0)
    parts = [value(LipsdpTorus(dense=0), cut(graph, *ends)).value for ends in ((0, between), (between, end))]
    assert found.value <= parts[0] * parts[1] * 1.02


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1), (1, 1)])
def test_pointwise_convolutions_join_their_neighbour(first: int, second: int) -> None:
    graph = two_in_a_row(first, second)
    form = torus_form(graph)
    assert (len(form.sites), len(form.flat)) == (3, 0)
    (kernel,) = form.sites[2].rows.values()
    assert kernel.taps == (max(first, second),) * 2
    assert value(LipsdpTorus(dense=0), graph).value >= value(Lipsdp("channel"), graph).details["dual"]


def test_selections_pools_and_concatenations_are_kernels() -> None:
    net = Build((2, 6, 6), 4)
    at = net.act(net.conv(0, 2, 3))
    picked = torch.arange(72).reshape(2, 6, 6)[:, ::2, ::2].flip(0)  # every second entry, channels exchanged
    half = net.linear(Select(picked.reshape(-1), 72), at, (2, 3, 3), "pick")
    pool = torch.zeros(3, 6, dtype=torch.float64)
    for o in range(3):
        pool[o, 2 * o : 2 * o + 2] = 0.5
    rows = net.linear(Dense(pool[None], outer=2, inner=6), at, (2, 3, 6), "pool rows")
    mean = net.linear(Dense(pool[None], outer=6), rows, (2, 3, 3), "pool columns")
    both = net.put(Concat(), (half, mean), (4, 3, 3), "concat")
    net.dense(net.act(net.conv(both, 2, 3)), 2)
    graph = net.graph()
    form = torus_form(graph)
    assert [site.channels for site in form.sites] == [2, 2, 2]
    x = torch.randn(3, 72, dtype=torch.float64)
    pad, conv = circular(form.sites[2].rows[1], form.torus(1))
    around = inside(form, 2).mv(conv.mv(pad.mv(inside(form, 1).rmv(x))))
    assert torch.allclose(around, Path(graph, 2, 7).mv(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("why", "node"), [("flat", None), ("empty", "conv"), ("axes", "x")])
def test_refusals(why: str, node: str | None) -> None:
    net = Build((2, 2, 2, 2, 2) if why == "axes" else (2, 4, 4), 0)
    if why == "axes":
        net.dense(net.act(0), 2)
    elif why == "flat":
        net.dense(net.act(net.dense(0, 4)), 2)
    else:
        net.dense(net.act(net.conv(0, 2, 5, padding=0)), 2)
    found = LipsdpTorus().run(Problem(net.graph(), Norm()))
    assert isinstance(found, Refusal)
    assert found.status == "refused"
    assert node is None or (found.node or "").startswith(node)


# Certificates.


def proof_of(seed: int) -> tuple[Graph, Torus, float]:
    graph = random_net(seed)
    found = value(LipsdpTorus(), graph)
    assert isinstance(found.proof, Torus)
    return graph, found.proof, found.value


def test_a_certificate_proves_again_what_it_claims() -> None:
    graph, proof, claim = proof_of(7)
    again = Torus.read("x", json.loads(json.dumps(proof.fields())), False)
    assert again.multipliers == proof.multipliers
    assert again.prove(graph, Norm()) <= claim * (1 + 1e-12)
    assert any("torus" in line for line in proof.steps(graph, Norm()))


def test_other_multipliers_show_no_less_than_is_attained() -> None:
    graph, proof, _ = proof_of(7)
    least, refused = attained(graph, 7), 0
    how = random.Random(0)
    for _ in range(60):
        bent = tuple(tuple(v * how.choice([0.1, 0.5, 1, 1, 2, 10]) for v in row) for row in proof.multipliers)
        shown = replace(proof, multipliers=bent, rho=proof.rho * how.choice([1, 1e-6, 1e6])).prove(graph, Norm())
        assert shown >= least
        refused += math.isinf(shown)
    assert 0 < refused < 60


def test_proofs_of_another_form_are_rejected() -> None:
    graph, proof, _ = proof_of(7)
    for wrong, place in (
        (replace(proof, maps=proof.maps + 1), "proof.maps"),
        (replace(proof, multipliers=proof.multipliers[:-1]), "proof.multipliers"),
        (replace(proof, multipliers=(*proof.multipliers[:-1], proof.multipliers[-1][:-1])), "proof.multipliers"),
    ):
        with pytest.raises(CertificateRejected) as caught:
            wrong.prove(graph, Norm())
        assert caught.value.place == place
    with pytest.raises(CertificateRejected):
        proof.prove(graph, Norm("1", "1"))


def test_padded_values_agree_where_nothing_is_padded() -> None:
    """A convolution of one tap: the torus is the network, channel multipliers the same problem."""
    net = Build((2, 3, 3), 2)
    at = net.act(net.conv(net.act(net.conv(0, 3, 1)), 3, 1))
    net.dense(at, 2)
    graph = net.graph()
    form = torus_form(graph)
    assert form.coarse == (3, 3)
    found = value(LipsdpTorus(tolerance=1e-6, dense=0), graph)
    assert found.details["dual"] == pytest.approx(value(Lipsdp("channel"), graph).value, rel=1e-5)
    assert normal_form(graph, "channel").neurons == form.neurons


def pooled(seed: int) -> Graph:
    """A convolution, an activation or none, overlapping or padded maxima, and another convolution."""
    net = Build([(2, 6, 6), (1, 9), (2, 5, 7)][seed % 3], seed)
    at = net.conv(0, 3, 3, 2 if seed % 4 == 1 else 1)
    at = net.act(at, SLOPES[seed % 4]) if seed % 5 else at
    at = net.pool(at, *[(3, 2, 1), (3, 1, 1), (2, 1, 0), (3, 2, 0)][seed % 4])
    at = net.act(net.conv(at, 2, 3))
    net.dense(at, 3)
    return net.graph()


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", range(24))
def test_overlapping_maxima_are_one_constraint(seed: int) -> None:
    graph = pooled(seed)
    form = torus_form(graph)
    assert [site.pool is not None for site in form.sites] == [False, True, False]
    found = search(form, 1e-3, 300, 0, None, lambda *_: None)
    whole = dense_torus(form, found.multipliers, found.rho)
    assert torus.prove(form, found.multipliers, found.rho) == pytest.approx(whole, rel=1e-8)
    assert found.proved <= found.dual * 1.01
    assert found.proved >= attained(graph, seed)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["after a map", "two", "finer"])
def test_maxima_of_what_reads_another_map(kind: str, channels: int) -> None:
    """The map before the pool keeps several frequencies together, and is read and written as one of its own."""
    net = Build((1, 8) if kind == "two" else (1, 6, 4), channels)
    at = net.act(net.conv(0, channels, 3, 2 if kind == "finer" else 1))
    if kind == "two":
        at = net.pool(at, 3, 2, 1)
    at = net.pool(net.act(net.conv(at, channels, 3)), 3, 2, 1)
    net.dense(net.act(net.conv(at, channels, 3)), 2)
    graph = net.graph()
    form = torus_form(graph)
    assert sum(site.pool is not None for site in form.sites) == (2 if kind == "two" else 1)
    assert any(site.fold != site.level for site in form.sites[1:])
    found = search(form, 1e-3, 300, 0, None, lambda *_: None)
    whole = dense_torus(form, found.multipliers, found.rho)
    assert torus.prove(form, found.multipliers, found.rho) == pytest.approx(whole, rel=1e-8)
    assert attained(graph, 0) <= found.proved <= found.dual * 1.02


@pytest.mark.parametrize("seed", range(8))
def test_windows_cover_the_maxima(seed: int) -> None:
    """The sum of squares that a pool may move by, written out window by window."""
    graph = pooled(seed)
    form = torus_form(graph)
    site, (kernel,) = form.sites[1], form.sites[1].rows.values()
    assert site.pool is not None
    read, slopes = before_pool(form.graph, site.node)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, form.graph.nodes[0].size, generator=generator, dtype=torch.float64)
    v = Path(form.graph, 0, read).mv(x)[0] * slopes
    block = form.graph.nodes[site.node].what.block  # type: ignore[union-attr]
    assert isinstance(block, Selection)
    real = torch.where(block.windows >= 0, v[block.windows.clamp(min=0)] ** 2, 0.0).reshape(site.channels, -1).sum(1)
    pad, conv = circular(kernel, form.torus(0))
    around = conv.mv(pad.mv(inside(form, 0).rmv(x)))[0].reshape(site.channels, -1)
    torus_v = tuple(n * s for n, s in zip(form.torus(1), site.pool.stride, strict=True))
    claimed = (site.high[:, None] ** 2 * around**2 * site.pool.counts(torus_v).reshape(1, -1)).sum(1)
    assert bool((claimed >= real * (1 - 1e-12)).all())
    fewer = replace(site.pool, size=(1,) * len(site.pool.size)).counts(torus_v)
    assert bool((site.high[:, None] ** 2 * around**2 * fewer.reshape(1, -1)).sum() < real.sum())  # it would be seen


def test_pools_of_one_signal_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their squares are formed together: each sum is as long as all their windows, and its rounding is counted so."""
    net = Build((32, 4, 4), 0)
    both = net.add(*(net.conv(net.pool(0, 3, 1, 1), 2, 1) for _ in range(2)))
    net.dense(net.act(both), 2)
    form = torus_form(net.graph())
    assert sum(site.pool is not None for site in form.sites) == 2
    problem = torus.scaled(form, [torch.ones(n, dtype=torch.float64) for n in form.counts], 1.0)
    needed, honest = [0.0], torus.square

    def noted(X: tuple[Tensor, Tensor]) -> Tensor:
        size = float(sum(part.square().sum((1, 2)) for part in X).amax())
        needed[0] += math.sqrt(2) * gamma(2 * X[0].shape[1]) * size
        return honest(X)

    monkeypatch.setattr(torus, "square", noted)
    torus.Families(problem, torch.zeros(1, 2, dtype=torch.int64))
    assert 0 < needed[0] <= problem.error


def test_maxima_that_are_no_windows_of_a_map_are_written_out() -> None:
    """Pools of one signal twice: the form of two constraints does not exist, that of differences does."""
    net = Build((1, 6, 6), 0)
    at = net.act(net.conv(0, 2, 3))
    both = net.add(net.pool(at, 3, 1, 1), net.pool(at, 3, 1, 1))
    net.dense(net.act(net.conv(both, 2, 3)), 2)
    found = value(LipsdpTorus(), net.graph())
    assert found.value >= attained(net.graph(), 0)


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", range(24))
def test_a_dense_tail_is_between_the_torus_and_the_neurons(seed: int) -> None:
    """Neurons that are not on maps lose no padding, and have a multiplier each."""
    graph = random_net(seed)
    form = torus_form(graph)
    if len(form.sites) < 3:
        return
    whole, tail = (value(LipsdpTorus(dense=n), graph) for n in (0, 3500))
    assert whole.details["dense_neurons"] <= tail.details["dense_neurons"]
    assert tail.value <= whole.value
    assert tail.value >= value(Lipsdp("neuron"), graph).details["dual"] * (1 - 1e-9)
    assert tail.proof is not None
    assert tail.proof.prove(graph, Norm()) <= tail.value * (1 + 1e-12)


def test_maps_without_effect_do_not_matter() -> None:
    """The second convolution reads nothing but zeros beside its map: what comes before it has no multiplier to speak of."""
    net = Build((1, 3, 3), 0)
    idle = net.act(net.conv(0, 2, 3))
    picked = net.linear(Select(torch.full((18,), -1), 18), idle, (2, 3, 3), "nothing")
    both = net.add(picked, net.conv(0, 2, 3))
    net.dense(net.act(both), 2)
    found = value(LipsdpTorus(dense=0), net.graph())
    assert found.value >= attained(net.graph(), 0)
    assert found.value <= found.details["dual"] * 1.02


@pytest.mark.parametrize("zero", ["convolution", "head"])
def test_constant_networks_have_the_constant_0(zero: str) -> None:
    net = Build((1, 4, 4), 0)
    conv = net.conv(0, 2, 3)
    head = net.dense(net.act(conv), 2)
    net.nodes[conv if zero == "convolution" else head].what.operator.weight.zero_()  # type: ignore[union-attr]
    found = value(LipsdpTorus(), net.graph())
    assert found.value == 0.0
    assert found.proof is not None
    assert found.proof.prove(net.graph(), Norm()) == 0.0


def test_pools_in_which_too_many_frequencies_meet_are_refused() -> None:
    """Maxima over 65 entries of every 64: 64 frequencies of 300 channels in one block."""
    net = Build((300, 256), 0)
    index = torch.arange(300 * 256).reshape(300, 256)
    windows = torch.nn.functional.pad(index, (0, 1), value=-1).unfold(1, 65, 64).reshape(300 * 4, 65)
    at = net.put(Nonlinear(Selection(windows.contiguous(), index.numel())), (0,), (300, 4), "pool")
    net.dense(net.act(net.conv(at, 2, 3)), 2)
    graph = net.graph()
    form = torus_form(graph)
    assert entries(form) > 2 * (300 * 64) ** 2
    found = LipsdpTorus().run(Problem(graph, Norm()))
    assert isinstance(found, Refusal)
    assert "--memory" in found.reason
    proof = Torus("x", len(form.sites) - 1, 1.0, tuple((1.0,) * n for n in form.counts))
    with pytest.raises(CertificateRejected, match="frequencies"):
        proof.prove(graph, Norm())


def test_models_without_maps_name_a_node() -> None:
    net = Build((2, 4, 4), 0)
    net.dense(0, 3)
    with pytest.raises(RefusedModel, match="feature maps"):
        torus_form(net.graph())


def test_other_maxima_are_differences_of_maps() -> None:
    """2 x 2 windows side by side: three more activations, all on maps, of which a convolution reads a combination."""
    net = Build((2, 8, 8), 3)
    at = net.pool(net.act(net.conv(0, 3, 3)), 2, 2, 0)
    net.dense(net.act(net.conv(at, 2, 3)), 3)
    graph = net.graph()
    form = torus_form(graph)
    assert ([site.channels for site in form.sites], form.flat) == ([2, 3, 3, 3, 3, 2], ())
    found = search(form, 1e-3, 300, 0, None, lambda *_: None)
    whole = dense_torus(form, found.multipliers, found.rho)
    assert torus.prove(form, found.multipliers, found.rho) == pytest.approx(whole, rel=1e-8)
    assert found.proved >= value(Lipsdp("neuron"), graph).details["dual"] * (1 - 1e-9)


# Slopes of both signs (one_sign.py).


def bent(row: str, strided: bool = False, tail: bool = False) -> Graph:
    """Two convolutions with this activation, a residual sum between them."""
    net = Build((2, 6, 6), 3)
    first = net.act(net.conv(0, 3, 3), row)
    inner = net.act(net.conv(first, 2, 3, 2 if strided else 1), row)
    beside = net.conv(first, 3, 1, 2 if strided else 1)
    at = net.act(net.add(net.conv(inner, 3, 3), beside), row)
    net.dense(net.act(net.dense(at, 4), row) if tail else at, 2)
    return net.graph()


@pytest.mark.parametrize(("row", "strided", "tail"), [("silu", False, False), ("gelu_erf", True, True)])
def test_slopes_of_both_signs_are_two_parts_of_one_activation(row: str, strided: bool, tail: bool) -> None:
    """Nothing is lost: the dual value is that of the whole activation, which a dense LipSDP of the torus takes as it is."""
    graph = bent(row, strided, tail)
    form = torus_form(graph)
    assert form.neurons == graph.neurons
    assert all(bool((s.low * s.high == 0).all()) for s in form.sites)
    found = search(form, 1e-3, 300, 0, None, lambda *_: None)
    assert torus.prove(form, found.multipliers, found.rho) == pytest.approx(
        dense_torus(form, found.multipliers, found.rho), rel=1e-8
    )
    least = value(Lipsdp("channel"), graph).details["dual"]
    assert attained(graph, 0) <= least * (1 - 1e-9) <= found.proved <= found.dual * 1.02


def test_the_two_parts_are_the_ball_of_the_whole() -> None:
    """Where nothing is padded, one multiplier per channel shows the same with two parts as with one activation."""
    net = Build((2, 3, 3), 2)
    at = net.act(net.conv(net.act(net.conv(0, 3, 1), "silu"), 3, 1), "gelu_erf")
    net.dense(at, 2)
    graph = net.graph()
    found = value(LipsdpTorus(tolerance=1e-6, dense=0), graph)
    assert found.details["dual"] == pytest.approx(value(Lipsdp("channel"), graph).value, rel=1e-4)


def test_the_parts_have_one_sign_and_add_up() -> None:
    graph = bent("silu")
    parts = of_one_sign(graph, ())
    low, high = graph.nodes[graph.nonlinear[0]].what.block.slopes()  # type: ignore[union-attr]
    (a, b), (c, d) = (parts.nodes[i].what.block.slopes() for i in parts.nonlinear[:2])  # type: ignore[union-attr]
    assert bool((low < 0).all() and (high > 0).all())
    assert torch.equal(b, high)
    assert torch.equal(c, low)
    assert not bool(a.any() or d.any())
    assert of_one_sign(graph, graph.nonlinear) is graph
    with pytest.raises(NotImplementedError):
        parts.evaluate(torch.zeros(1, 72, dtype=torch.float64))


def test_a_long_proof_says_how_far_it_is() -> None:
    form, found = found_for(0)
    said: list[tuple[str, float | None, float | None]] = []
    with heard(lambda *what: said.append(what)):
        torus.prove(form, found.multipliers, found.rho)
    parts = list(torus.chunks(torus.scaled(form, found.multipliers, found.rho)))
    assert said == [("families of frequencies", k, len(parts)) for k in range(len(parts))]
