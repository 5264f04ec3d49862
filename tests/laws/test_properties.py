"""Laws that hold for every method, model and norm, without knowing a single constant."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from families import FAMILIES
from programs import Maker, Program, Step
from torch import Tensor

from lipcert.methods.absolute import Absolute
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.problem import Method, Problem
from lipcert.methods.product import ProductBound
from lipcert.methods.sampled import Sampled
from lipcert.network.graph import Graph
from lipcert.terms.query import Box, Norm, Region
from lipcert.terms.result import Bound, Refusal

METHODS: dict[str, Method] = {"product": ProductBound(), "absolute": Absolute()}
NORMS = ("1", "2", "inf", "1->2", "inf->1")
EXACT = 1e-9


def value(graph: Graph, method: Method, norm: str, region: Region = None) -> float | None:
    """None where the method refuses."""
    with torch.no_grad():
        result = method.run(Problem(graph, Norm.parse(norm), region))
    if isinstance(result, Refusal):
        return None
    assert isinstance(result, Bound)
    return result.value


def chain(shape: tuple[int, ...], calls: Sequence[tuple[str, tuple[object, ...]]]) -> Program:
    m = Maker("law", 0, shape)
    x = m.input
    for op, rest in calls:
        x = m.add(op, x, *rest)
    return m.program()


def extended(program: Program, op: str, *rest: object) -> Program:
    """The program followed by one more call."""
    m = Maker(program.name, 0, program.shape)
    for step in program.steps:
        m.add(step.op, *step.args)
    m.add(op, type(m.input)(len(m.steps)), *rest)
    return m.program()


MODELS = {name: FAMILIES[name](7) for name in ("mlp", "conv2d", "residual", "dense_concat", "pools", "normalising")}
CASES = [(model, method, norm) for model in MODELS for method in METHODS for norm in NORMS]


@pytest.mark.every(6)
@pytest.mark.parametrize(("model", "method", "norm"), CASES)
@pytest.mark.parametrize("c", [-3.0, 1e-12])
def test_a_factor_comes_out(model: str, method: str, norm: str, c: float) -> None:
    """L(c f) = |c| L(f)."""
    plain = value(MODELS[model].graph(), METHODS[method], norm)
    scaled = value(extended(MODELS[model], "mul.Tensor", c).graph(), METHODS[method], norm)
    if plain is None:
        assert scaled is None
        return
    assert scaled == pytest.approx(abs(c) * plain, rel=EXACT)


@pytest.mark.every(6)
@pytest.mark.parametrize(("model", "method", "norm"), CASES)
def test_a_bias_changes_nothing(model: str, method: str, norm: str) -> None:
    plain = value(MODELS[model].graph(), METHODS[method], norm)
    moved = value(extended(MODELS[model], "add.Tensor", 1234.5).graph(), METHODS[method], norm)
    assert moved == (plain if plain is None else pytest.approx(plain, rel=1e-12))


def mlp(order: Tensor | None = None, signs: Tensor | None = None, turn: Tensor | None = None) -> Program:
    """4-6-5-3 with ReLU and tanh; hidden units permuted, output signs flipped, or the input turned."""
    m = Maker("permuted", 3, (1, 4))
    first, bias, second, last = m.randn(6, 4), m.randn(6), m.randn(5, 6), m.randn(3, 5)
    if order is not None:
        first, bias, second = first[order], bias[order], second[:, order]
    if signs is not None:
        last = signs[:, None] * last
    if turn is not None:
        first = first @ turn
    calls = [
        ("linear.default", (first, bias)),
        ("relu.default", ()),
        ("linear.default", (second,)),
        ("tanh.default", ()),
        ("linear.default", (last,)),
    ]
    return chain((1, 4), calls)


SDP: dict[str, Method] = {**METHODS, "lipsdp": Lipsdp("neuron")}


@pytest.mark.every(3)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", SDP)
def test_hidden_units_and_signs_in_any_order(method: str, norm: str) -> None:
    plain = value(mlp().graph(), SDP[method], norm)
    same = EXACT if method != "lipsdp" else 1e-6  # the solver stops at its tolerance
    for other in (mlp(order=torch.randperm(6)), mlp(signs=torch.tensor([1.0, -1.0, -1.0]).double())):
        changed = value(other.graph(), SDP[method], norm)
        assert changed == (None if plain is None else pytest.approx(plain, rel=same))


@pytest.mark.parametrize("method", ["product", "lipsdp"])
def test_a_rotation_of_the_input_is_an_isometry_of_l2(method: str) -> None:
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert value(mlp(turn=turn).graph(), SDP[method], "2") == pytest.approx(
        value(mlp().graph(), SDP[method], "2"), rel=1e-6
    )


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("method", SDP)
def test_the_identity_is_one(method: str, norm: str) -> None:
    if method == "lipsdp" and norm != "2":
        return
    found = value(chain((1, 5), [("reshape.default", ([5],))]).graph(), SDP[method], norm)
    assert found == pytest.approx(1.0, rel=1e-12)


def linear_only() -> dict[str, Program]:
    """Affine networks: one operator each, whose norm is the constant."""
    m = Maker("linear", 0, (1, 2, 5, 5))
    w, k = m.randn(7, 12), m.randn(3, 2, 3, 3)
    square = m.randn(6, 6)
    conv = ("convolution.default", (k, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1))
    norm = (m.randn(3), m.randn(3), m.randn(3), m.randn(3).abs(), 0.1, 1e-5)
    programs = {
        "dense": chain((1, 12), [("linear.default", (w,))]),
        "two dense": chain((1, 12), [("linear.default", (w,)), ("linear.default", (m.randn(4, 7),))]),
        "conv": chain((1, 2, 5, 5), [conv]),
        "conv + BatchNorm": chain((1, 2, 5, 5), [conv, ("_native_batch_norm_legit_no_training.default", norm)]),
        "conv + pool + dense": chain(
            (1, 2, 5, 5),
            [conv, ("avg_pool2d.default", ([2, 2],)), ("reshape.default", ([1, 12],)), ("linear.default", (w,))],
        ),
    }
    r = Maker("x + R x", 0, (1, 6))
    r.add("add.Tensor", r.input, r.add("linear.default", r.input, square))
    programs["x + R x"] = r.program()
    s = Maker("W x - V x", 0, (1, 6))
    s.add("sub.Tensor", s.add("linear.default", s.input, square), s.add("linear.default", s.input, m.randn(6, 6)))
    programs["W x - V x"] = s.program()
    return programs


LINEAR = linear_only()


@pytest.mark.every(3)
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_network_is_one_operator(name: str, norm: str) -> None:
    """upper / lower <= 1 + 1e-8 (issue 2, "What it must reach")."""
    graph = LINEAR[name].graph()
    upper = value(graph, ProductBound(), norm)
    # the witness of l1 is a unit vector, of linf a sign vector, of l2 a singular vector: all found exactly
    lower = value(graph, Sampled(), norm)
    assert upper is not None
    assert lower is not None
    assert lower <= upper <= lower * (1 + 1e-8)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["product", "absolute"])
def test_a_difference_of_equals_is_exactly_zero(method: str, norm: str) -> None:
    m = Maker("zero", 0, (1, 4))
    m.add("sub.Tensor", m.input, m.input)
    found = value(m.program().graph(), METHODS[method], norm)
    if method == "product":
        assert found == 0.0
    else:  # `absolute` adds up absolute values: 2, times the conversion of the norms
        assert found is not None


@pytest.mark.every(3)
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("family", ["mlp", "conv2d", "residual", "products", "spelled", "table"])
def test_a_smaller_box_has_a_smaller_constant(family: str, norm: str) -> None:
    program = FAMILIES[family](11)
    graph = program.graph()
    centre = torch.randn(program.shape, dtype=torch.float64)
    radii = (0.0, 0.01, 0.3, 2.0, 30.0)
    found = [value(graph, ProductBound(), norm, Box(centre - r, centre + r)) for r in radii]
    found.append(value(graph, ProductBound(), norm))
    known = [v for v in found if v is not None]
    assert found[: len(known)] == known  # once infinite, infinite on every larger region
    assert all(a <= b * (1 + EXACT) for a, b in pairwise(known)), found


def test_a_law_can_fail() -> None:
    """A bound off by one percent breaks the first law."""
    plain = value(MODELS["mlp"].graph(), ProductBound(), "2")
    scaled = value(extended(MODELS["mlp"], "mul.Tensor", 3.03).graph(), ProductBound(), "2")
    assert plain is not None
    assert scaled != pytest.approx(3 * plain, rel=EXACT)
    assert isinstance(MODELS["mlp"].steps[0], Step)
