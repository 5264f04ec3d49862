"""No upper value is ever below what the function attains: random networks, every norm, every method.

The left side is the library, the right side `oracles.attained`: torch's own evaluation of the original calls. Hundreds
of graphs are lowered rule by rule without export; some of each family go through the whole pipeline.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from oracles import NOISE, attained, quotient
from programs import Maker, Program
from torch import Tensor

import lipcert
from lipcert.activations import ACTIVATIONS
from lipcert.blocks.selection import Selection
from lipcert.blocks.sort import Sort
from lipcert.load.lower import RULES
from lipcert.load.lower.builder import Builder, Signal
from lipcert.methods import METHODS
from lipcert.methods.absolute import Absolute
from lipcert.methods.branch import Branch
from lipcert.methods.cplip import CplipBound
from lipcert.methods.eclipse import Eclipse
from lipcert.methods.jacobian import Jacobian
from lipcert.methods.linear import LinearBound
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.lipsdp_segments import LipsdpSegments
from lipcert.methods.lipsdp_torus import LipsdpTorus
from lipcert.methods.local_product import LocalProduct
from lipcert.methods.problem import Method, Problem
from lipcert.methods.product import ProductBound
from lipcert.methods.regions import Regions
from lipcert.methods.sampled import Sampled
from lipcert.methods.transfer import Transfer
from lipcert.network.graph import Graph
from lipcert.terms.query import Box, Norm, Region
from lipcert.terms.result import Bound, Refusal

MIXED = [("1", "2"), ("2", "inf"), ("inf", "2"), ("inf", "1"), ("2", "1"), ("1", "inf")]
FAST: tuple[Method, ...] = (ProductBound(), Absolute())
LOCAL: tuple[Method, ...] = (
    LocalProduct(),
    Jacobian(),
    Transfer(),
    LinearBound(),
    Regions(seconds=0.5),
    Branch(seconds=0.3),
)
DEEPER: tuple[Method, ...] = (CplipBound(),)
SWEEPS = 60  # any multipliers give a true bound: soundness does not need the optimum
SDP: tuple[Method, ...] = (
    Eclipse(),
    *(Lipsdp(kind, sweeps=SWEEPS) for kind in ("neuron", "channel", "layer")),
    LipsdpTorus(sweeps=SWEEPS),
    LipsdpSegments(dense=4),
)
SLACK = 1 - 1e-9  # against the rounding of the oracle's own norms

SEEDS = {name: len(ACTIVATIONS) if name == "table" else 17 for name in FAMILIES}
CASES = [(name, seed) for name, count in SEEDS.items() for seed in range(count)]
# Families whose members may be refused globally: rows without a finite slope.
MAY_BE_UNBOUNDED = {"table"}


def norms_of(seed: int) -> list[tuple[str, str]]:
    return [("1", "1"), ("2", "2"), ("inf", "inf"), MIXED[seed % len(MIXED)]]


def check(program: Program, graph: Graph, methods: tuple[Method, ...], norms: list[tuple[str, str]], seed: int,
          box: tuple[Tensor, Tensor] | None = None) -> list[Refusal]:  # fmt: skip
    """Every bound of every method against what is attained. Returns the refusals."""
    low, high = box or (None, None)
    region: Region = None if box is None else Box(*box)
    best = attained(program, program.shape, norms, points=5, seed=seed, low=low, high=high)
    refusals = []
    for p, q in norms:
        problem = Problem(graph, Norm(p, q), region)  # type: ignore[arg-type]
        for method in methods:
            with torch.no_grad():
                result = method.run(problem)
            if isinstance(result, Refusal):
                refusals.append(result)
                continue
            assert result.value >= best[p, q] * SLACK, f"{program} {method} {p}->{q}: {result.value} < {best[p, q]}"
    return refusals


# Whose proved values are tested elsewhere, or which never give one.
NOT_HERE = {"sampled", "seqlip", "clever", "lipsdp-cvxpy", "lipsdp-network", "lipsdp-norms"}


def test_at_least_300_graphs() -> None:
    assert len(CASES) >= 300


def test_every_method_of_the_table_is_here() -> None:
    """A new method is added to one of the tuples above, or to NOT_HERE with a reason."""
    tested = {method.name for method in (*FAST, *DEEPER, *LOCAL, *SDP)} | {"lipsdp-layer"}
    assert tested | NOT_HERE == set(METHODS)


@pytest.mark.every(10)
@pytest.mark.parametrize(("family", "seed"), CASES, ids=lambda value: str(value))
def test_uppers_hold_everywhere(family: str, seed: int) -> None:
    program = FAMILIES[family](seed)
    methods = FAST + DEEPER if seed % 3 == 0 else FAST  # the dearer ones on a third of the graphs
    refusals = check(program, program.graph(), methods, norms_of(seed), seed)
    if family not in MAY_BE_UNBOUNDED:
        assert not [r for r in refusals if r.method == "product"]


def box_of(program: Program, seed: int) -> tuple[Tensor, Tensor]:
    """Around a random point; small, medium, large, and one that is a point in some coordinates."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(program.shape, generator=generator, dtype=torch.float64)
    radius = torch.rand(program.shape, generator=generator, dtype=torch.float64) * [0.02, 0.4, 3.0][seed % 3]
    if seed % 4 == 3:
        radius = radius * (torch.rand(program.shape, generator=generator) < 0.5)
    return centre - radius, centre + radius


@pytest.mark.every(9)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(100, 103))
def test_uppers_hold_on_a_box(family: str, seed: int) -> None:
    program = FAMILIES[family](seed)
    check(program, program.graph(), FAST + DEEPER + LOCAL, norms_of(seed)[1:3], seed, box_of(program, seed))


@pytest.mark.every(6)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_row_of_the_table_on_a_box_inside_its_domain(name: str) -> None:
    """Global where the slope has a bound, else `unbounded` with the node; on a box inside the domain always sound."""
    row = ACTIVATIONS[name]
    m = Maker(f"row {name}", 0, (1, 2))
    m.add(f"row:{name}", m.input)
    program = m.program()
    graph = program.graph()
    (whole,) = [ProductBound().run(Problem(graph, Norm()))]
    finite = all(math.isfinite(float(side)) for side in row.slopes(*row.parameters.values()))
    assert isinstance(whole, Bound) == finite
    if isinstance(whole, Refusal):
        assert whole.status == ("refused" if name == "pow" else "unbounded")  # x^2.5 has no values for x < 0
        assert whole.node == "row:" + name + "_0"
    start, end = max(row.domain[0], -3.0), min(row.domain[1], 3.0)
    for a, b in ((0.35, 0.6), (0.52, 0.55)):
        low, high = (torch.full((1, 2), start + t * (end - start), dtype=torch.float64) for t in (a, b))
        check(program, graph, FAST + LOCAL, norms_of(0), 0, (low, high))


SDP_FAMILIES = ("mlp", "conv2d", "residual", "residual_conv", "dense_concat", "pools", "spelled", "normalising", "deep")


@pytest.mark.every(4)
@pytest.mark.parametrize("family", SDP_FAMILIES)
@pytest.mark.parametrize("seed", range(200, 202))
def test_lipsdp_holds(family: str, seed: int) -> None:
    program = FAMILIES[family](seed)
    graph = program.graph()
    check(program, graph, SDP, [("2", "2")], seed)
    check(program, graph, SDP[:2], [("2", "2")], seed, box_of(program, seed))


@pytest.mark.every(4)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sampled_value_is_attained_by_its_witness(family: str) -> None:
    """The lower value, taken again from the witness by torch alone; and never above the product."""
    program = FAMILIES[family](1)
    graph = program.graph()
    for p, q in (("2", "2"), ("inf", "1")):
        problem = Problem(graph, Norm(p, q))  # type: ignore[arg-type]
        with torch.no_grad():
            lower, upper = Sampled(points=16, rounds=3).run(problem), ProductBound().run(problem)
        assert isinstance(lower, Bound)
        if isinstance(upper, Bound):
            assert lower.value <= upper.value
        if lower.value > 0:
            assert lower.witness is not None
            a, b = (_point(lower.witness[key], program.shape) for key in ("x", "x2"))
            again = quotient(program, a, b, p, q, noise=-NOISE)
            assert again >= lower.value * (1 - 1e-6)


def _point(stored: Any, shape: tuple[int, ...]) -> Tensor:
    if isinstance(stored, dict):
        stored = np.frombuffer(base64.b64decode(stored["base64"]), dtype=stored["dtype"])
    return torch.tensor(np.array(stored), dtype=torch.float64).reshape(shape)


# `table` calls functions of the library; col2im is exported as index_put, which no rule claims.
NOT_EXPORTED = {"table", "patches"}


@pytest.mark.every(4)
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_EXPORTED))
def test_the_whole_pipeline_holds(family: str) -> None:
    """nn.Module -> export -> parity -> graph -> methods, self-check included. The graph is the one of the fast way."""
    program = FAMILIES[family](2)
    module = program.module()
    model = lipcert.load(module, input_shape=torch.zeros(program.shape, dtype=torch.float64))
    norms = [("2", "2"), ("inf", "inf")]
    best = attained(program, program.shape, norms, points=6, seed=2)
    for p, _ in norms:
        report = lipcert.bound(model, norm=p, methods=["product", "absolute", "sampled"])
        assert not report.contradictions
        assert report.upper is not None
        assert report.upper >= best[p, p] * SLACK
        fast = ProductBound().run(Problem(program.graph(), Norm(p, p)))  # type: ignore[arg-type]
        slow = next(r for r in report.results if r.method == "product")
        assert isinstance(fast, Bound)
        assert isinstance(slow, Bound)
        assert slow.value == pytest.approx(fast.value, rel=1e-6)


# The oracle must be able to fail: errors of tools in use, each planted and caught.


def product_of(graph: Graph, p: str = "2") -> float:
    with torch.no_grad():
        result = ProductBound().run(Problem(graph, Norm(p, p)))  # type: ignore[arg-type]
    assert isinstance(result, Bound)
    return result.value


def found(program: Program, p: str = "2") -> float:
    return attained(program, program.shape, [(p, p)], points=15)[p, p]


def skip(b: Builder, x: Signal, *_: Any) -> Signal:
    return x


def second(b: Builder, x: Signal, y: Signal, *_: Any) -> Signal:
    return y


def reading(**wrong: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {**RULES, **{f"aten.{name.replace('__', '.')}": rule for name, rule in wrong.items()}}


def _program(shape: tuple[int, ...], *calls: tuple[Any, ...]) -> Program:
    """A chain: each call gets the last value first."""
    m = Maker("planted", 0, shape)
    x = m.input
    for op, *rest in calls:
        x = m.add(op, x, *rest)
    return m.program()


TAIL = ([1], [1], [1], False, [0], 1)
CONV = ("convolution.default", 3 * torch.ones(1, 1, 3).double(), None, *TAIL)
BN = torch.tensor([-50.0]).double(), None, torch.zeros(1).double(), torch.full((1,), 1e-4).double(), 0.1, 1e-5
W = torch.tensor([[0.0, 3.0], [2.0, 1.0]]).double()


def _twice() -> Program:
    m = Maker("twice", 0, (1, 2))
    x = m.input
    for _ in range(3):
        x = m.add("relu.default", m.add("linear.default", x, W))
    return m.program()


def _residual() -> Program:
    m = Maker("residual", 0, (1, 2))
    m.add("add.Tensor", m.input, m.add("relu.default", m.input))
    return m.program()


WRONG_READINGS: dict[str, tuple[Program, dict[str, Callable[..., Any]]]] = {
    "Conv1d skipped": (_program((1, 1, 6), CONV), reading(convolution__default=skip)),
    "BatchNorm skipped": (
        _program((1, 1, 4), ("_native_batch_norm_legit_no_training.default", *BN)),
        reading(_native_batch_norm_legit_no_training__default=skip),
    ),
    "a residual read as a chain": (_residual(), reading(add__Tensor=second)),
    "SiLU taken for ReLU": (
        _program((1, 1), ("silu.default",)),
        reading(silu__default=RULES["aten.relu.default"]),
    ),
    "LeakyReLU(2) taken for ReLU": (
        _program((1, 1), ("leaky_relu.default", 2.0)),
        reading(leaky_relu__default=lambda b, x, slope: RULES["aten.relu.default"](b, x)),
    ),
    "reflection pad taken for a zero pad": (
        _program((1, 1, 1, 4), ("reflection_pad2d.default", [2, 2, 0, 0])),
        reading(reflection_pad2d__default=RULES["aten.constant_pad_nd.default"]),
    ),
    "a sum taken for a mean": (
        _program((1, 4), ("sum.dim_IntList", [1])),
        reading(sum__dim_IntList=RULES["aten.mean.dim"]),
    ),
    "a temperature dropped": (
        _program((1, 3), ("mul.Tensor", 4.0), ("_softmax.default", 1, False)),
        reading(mul__Tensor=skip),
    ),
}


@pytest.mark.parametrize("error", WRONG_READINGS)
def test_the_oracle_catches_a_wrong_reading(error: str) -> None:
    program, rules = WRONG_READINGS[error]
    assert product_of(program.graph()) >= found(program) * SLACK
    assert product_of(program.graph(rules)) < found(program) * (1 - 1e-3)


def test_the_oracle_catches_a_shared_layer_counted_once() -> None:
    program = _twice()
    once = Program("once", program.shape, program.steps[:2])
    assert product_of(program.graph()) >= found(program) * SLACK
    assert product_of(once.graph()) < found(program)


def test_the_oracle_catches_one_percent() -> None:
    ones = torch.ones(2, 2).double()
    program = _program((1, 2), ("linear.default", ones), ("relu.default",), ("linear.default", ones))
    for p in ("1", "inf"):
        value = product_of(program.graph(), p)
        assert value >= found(program, p) * SLACK
        assert 0.99 * value < found(program, p) * SLACK


def test_the_oracle_catches_a_forgotten_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry can be the maximum of nine windows."""
    program = _program((1, 1, 5, 5), ("max_pool2d_with_indices.default", [3, 3], [1, 1], [1, 1]))
    for p, factor in (("1", 9.0), ("2", 3.0), ("inf", 1.0)):
        assert found(program, p) == pytest.approx(factor, rel=1e-6)
        assert product_of(program.graph(), p) == pytest.approx(factor, rel=1e-6)
    monkeypatch.setattr(Selection, "overlap", 1)
    assert product_of(program.graph()) < found(program)


def test_the_oracle_catches_a_concatenation_by_its_largest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Maker("concat", 0, (1, 2))
    a, b = m.add("relu.default", m.input), m.add("leaky_relu.default", m.input, 0.5)
    m.add("cat.default", [a, b], 1)
    program = m.program()
    assert product_of(program.graph()) >= found(program) * SLACK
    monkeypatch.setattr("lipcert.network.affine.concat_norm", lambda parts, p: max(parts))
    assert product_of(program.graph()) < found(program)


def test_the_oracle_catches_sorting_taken_for_a_monotone_map() -> None:
    """What LipSDP gives for x - sort(x) with slopes [0, 1]: those of softmax, doubled."""
    m = Maker("sort", 0, (1, 2))
    m.add("sub.Tensor", m.input, m.add("sort.default", m.input))
    program = m.program()
    assert found(program) > 2 * (1 - 1e-6)
    graph = program.graph()
    assert any(isinstance(getattr(node.what, "block", None), Sort) for node in graph.nodes)
    with torch.no_grad():
        result = METHODS["lipsdp"].run(Problem(graph, Norm()))
    assert isinstance(result, Bound)
    assert result.value >= found(program) * SLACK
