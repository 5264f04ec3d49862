"""TRAPS: how Lipschitz tools have been wrong, one test each, as far as bounds, graphs and files go."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Run, linear

import lipcert
from lipcert.load.capture.parity import check_parity
from lipcert.load.model import Model
from lipcert.load.source import Reference
from lipcert.methods import METHODS
from lipcert.methods.ladders import usual
from lipcert.network.graph import Graph, Input, Linear, Node, Nonlinear
from lipcert.operators.linear import Conv, Dense, Scale
from lipcert.report.report import Report
from lipcert.rigor.matrix_norms import matrix_norm_upper
from lipcert.terms.errors import RefusedModel
from lipcert.terms.query import Box, Region
from lipcert.terms.result import Bound, Refusal

DOUBLE = torch.float64


def model(function: Callable[[Tensor], Tensor] | nn.Module, *shape: int) -> Model:
    module = function if isinstance(function, nn.Module) else Run(function)
    return lipcert.load(module, input_shape=torch.zeros(shape, dtype=DOUBLE))


def product(
    function: Callable[[Tensor], Tensor] | nn.Module, *shape: int, norm: str = "2", region: Region = None
) -> Report:
    return lipcert.bound(model(function, *shape), norm=norm, methods=["product", "absolute", "sampled"], region=region)


def upper(report: Report) -> float:
    assert not report.contradictions
    assert report.upper is not None
    return report.upper


# Norms


def test_a_start_vector_orthogonal_to_the_top() -> None:
    """Power iteration from ones never sees (1, -1)."""
    A = torch.tensor([[5.0, -5.0], [-5.0, 5.0]]) + 0.5
    assert matrix_norm_upper(A.double(), None, "2", "2") >= 10


def test_equal_top_singular_values() -> None:
    Q = torch.linalg.qr(torch.randn(40, 40, dtype=DOUBLE))[0]
    value = matrix_norm_upper(Q, None, "2", "2")
    assert 1 - 1e-15 <= value <= 1 + 1e-9


@pytest.mark.parametrize("size", [1e-5, 1e-38, 1e-160, 5e-324, 1e150, 1e300])
def test_magnitudes_of_one_layer(size: float) -> None:
    """gloro #8: an eps in the normalisation; squares that underflow or overflow."""
    report = product(linear([[3 * size, 0.0], [4 * size, 0.0]]), 1, 2)
    true = math.hypot(3 * size, 4 * size) if size > 5e-324 else size * 5
    assert true <= upper(report) <= true * (1 + 1e-9) + 1e-300 * (size < 1e-300)


@pytest.mark.parametrize(("first", "second"), [(1e-160, 1e-160), (1e-38, 1e-300), (5e-324, 0.5), (1e-6, 1e6)])
def test_products_of_tiny_layers_are_not_zero(first: float, second: float) -> None:
    report = product(nn.Sequential(linear([[first]]), nn.ReLU(), linear([[second]])), 1, 1)
    assert upper(report) > 0
    assert upper(report) >= first * second
    assert (report.lower or 0.0) <= upper(report)


def test_an_overflow_is_a_refusal_not_infinity() -> None:
    report = product(nn.Sequential(linear([[1e200]]), nn.ReLU(), linear([[1e200]])), 1, 1)
    assert report.upper is None
    assert report.exit_code == 3
    assert any(isinstance(r, Refusal) and "overflow" in r.reason for r in report.results)


@pytest.mark.parametrize(("first", "second"), [(60, 60), (155, 0), (0, 155), (150, -150), (-160, 160), (-100, -100)])
def test_every_method_refuses_or_holds_at_extreme_scales(first: int, second: int) -> None:
    """Methods that square the weights overflow or underflow where the constant does not: a refusal, not a crash."""
    A, B = torch.randn(5, 3, dtype=DOUBLE), torch.randn(2, 5, dtype=DOUBLE)
    network = nn.Sequential(linear((10.0**first * A).tolist()), nn.ReLU(), linear((10.0**second * B).tolist()))
    names = [name for name, method in METHODS.items() if method.side == "upper" and name != "lipsdp-cvxpy"]
    report = lipcert.bound(model(network, 1, 3), methods=[*names, "sampled"])
    assert upper(report) > 0
    # f(x) - f(-x) = 10^(first + second) B A x, so the constant is at least half its norm
    least = 10.0 ** (first + second) * float(torch.linalg.matrix_norm(B @ A, 2)) / 2 * (1 - 1e-9)
    assert all(r.value >= least for r in report.results if isinstance(r, Bound) and r.side == "upper")


def test_depth_64() -> None:
    """L near 1e-6 after 64 layers, to 1e-9: no tolerance floor."""
    layers: list[nn.Module] = []
    for k in range(64):
        layers += [linear([[0.8 * 10.0 ** (6 * (-1) ** k), 0.0], [0.0, 0.5]]), nn.ReLU()]
    true = 0.8**64
    loaded = model(nn.Sequential(*layers), 1, 2)
    for norm in ("1", "2", "inf"):
        report = lipcert.bound(loaded, norm=norm, methods=["product", "absolute", "sampled"])
        assert true * (1 - 1e-12) <= upper(report) <= true * (1 + 1e-9)


def test_a_range_that_overflows_is_no_range() -> None:
    """1.6e308 x - 1.5e308 on [0.5, 2] passes through [-1, 1], though its centre overflows: slope 1.6e308, never 0."""
    layer = linear([[1.6e308]], bias=True)
    layer.bias.data = torch.tensor([-1.5e308], dtype=DOUBLE)
    box = Box(torch.full((1, 1), 0.5), torch.full((1, 1), 2.0))
    report = product(lambda x: F.hardtanh(layer(x)), 1, 1, region=box)
    for result in report.results:
        if isinstance(result, Bound) and result.side == "upper":
            assert result.value >= 1.6e308
    assert not report.contradictions


def test_kernels_of_every_kind_against_a_dense_operator() -> None:
    """Zero padding, stride, dilation, groups and transposition change the norm; the reshaped kernel knows none of it."""
    for layer in (
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(2, 3, 3, dilation=2, padding=2),
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"),
    ):
        layer = layer.double()
        eye = torch.eye(2 * 6 * 6, dtype=DOUBLE).reshape(-1, 2, 6, 6)
        with torch.no_grad():
            matrix = (layer(eye) - layer(0 * eye)).reshape(72, -1)
        true = float(torch.linalg.matrix_norm(matrix, 2))
        assert true * (1 - 1e-12) <= upper(product(layer, 1, 2, 6, 6)) <= true * (1 + 1e-8)


def test_two_zero_padded_convolutions_in_a_row_are_one_operator_but_not_one_convolution() -> None:
    first, second = (nn.Conv1d(1, 1, 3, padding=1, bias=False).double() for _ in range(2))
    eye = torch.eye(6, dtype=DOUBLE).reshape(6, 1, 6)
    with torch.no_grad():
        true = float(torch.linalg.matrix_norm(second(first(eye)).reshape(6, 6), 2))
    assert true * (1 - 1e-12) <= upper(product(nn.Sequential(first, second), 1, 1, 6)) <= true * (1 + 1e-8)


# Graphs


def test_normalisation_inside_or_outside() -> None:
    """--std divides: constants are in raw input units."""
    plain = lipcert.load(nn.Linear(3, 2), input_shape=(1, 3))
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    plain, raw = (lipcert.load(layer, input_shape=(1, 3), **extra) for extra in ({}, {"mean": [0.5], "std": [0.25]}))
    values = [upper(lipcert.bound(m, methods=["product"])) for m in (plain, raw)]
    assert values[1] == pytest.approx(4 * values[0], rel=1e-12)


def test_batch_norm_and_dropout_left_in_training_mode() -> None:
    """An nn.Module is bounded in eval mode, and its own mode stays as it was."""
    layer = nn.Sequential(linear([[1.0, 0.0], [0.0, 1.0]]), nn.BatchNorm1d(2, eps=0.0).double(), nn.Dropout(0.5))
    layer[1].running_var.fill_(0.25)  # type: ignore[union-attr,operator]
    layer.train()
    assert upper(product(layer, 1, 2)) == pytest.approx(2.0, rel=1e-12)
    assert layer.training


def test_tiny_variance_and_negative_gain() -> None:
    layer = nn.BatchNorm1d(2, eps=0.0).double().eval()
    layer.running_var.fill_(1e-30)  # type: ignore[union-attr]
    layer.weight.data.fill_(-2.0)
    assert 2e15 <= upper(product(layer, 1, 2)) <= 2e15 * (1 + 1e-9)


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrised_weights(wrap: Callable[[nn.Module], nn.Module]) -> None:
    layer = wrap(linear([[3.0, 1.0], [4.0, 1.0]])).eval()
    with torch.no_grad():
        true = float(torch.linalg.matrix_norm(layer.weight, 2))  # type: ignore[arg-type]
    assert true * (1 - 1e-12) <= upper(product(layer, 1, 2)) <= true * (1 + 1e-6)


def test_a_network_that_only_reshapes_keeps_its_input_shape() -> None:
    found = model(lambda x: x.reshape(6), 1, 2, 3)
    assert (found.input_shape, found.output_shape) == ((1, 2, 3), (6,))
    assert found.info["input_shape"] == [1, 2, 3]
    for norm in ("1", "2", "inf"):
        assert upper(lipcert.bound(found, norm=norm, methods=["product", "absolute", "sampled"])) <= 1 + 1e-12


def test_functional_reuse_of_one_module() -> None:
    layer = linear([[2.0]])
    assert upper(product(lambda x: layer(F.relu(layer(layer(x)))), 1, 1)) == pytest.approx(8.0, rel=1e-12)


def test_a_difference_of_equals() -> None:
    layer = linear([[2.0, 1.0]])
    assert upper(product(lambda x: layer(x) - layer(x), 1, 2)) <= 1e-14
    assert upper(product(lambda x: x - x, 1, 2)) == 0.0


UNBOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "x * x": lambda x: x * x,
    "x * y": lambda x: x[:, :1] * x[:, 1:2],
    "x / |x|": lambda x: x / x.abs(),
    "x / ||x||": lambda x: x / x.norm(),
    "1 / x": lambda x: 1 / x,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "attention": lambda x: torch.softmax(x.reshape(1, 2, 2) @ x.reshape(1, 2, 2).mT, -1) @ x.reshape(1, 2, 2),
    "floor": torch.floor,
    "round": torch.round,
    "sign": torch.sign,
    "trunc": torch.trunc,
    "ceil": torch.ceil,
    "step": lambda x: (x > 0).to(x.dtype),
    "where": lambda x: torch.where(x > 0, x, -x + 1),
    "argmax": lambda x: x.argmax(1).to(x.dtype),
    "cast": lambda x: x.to(torch.int64).to(x.dtype),
    "fractional part": lambda x: x - torch.floor(x),
    "gather by data": lambda x: x.gather(1, x.argsort(1)),
    "remainder": lambda x: torch.remainder(x, 1.0),
    "layer norm, eps 0": lambda x: F.layer_norm(x, (4,), eps=0.0),
    "heaviside": lambda x: torch.heaviside(x, torch.zeros((), dtype=x.dtype)),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("name", UNBOUNDED)
def test_functions_without_a_constant(name: str) -> None:
    """A refusal with a node and a reason, or `unbounded`: never a number, whatever autograd says."""
    try:
        report = product(UNBOUNDED[name], 1, 4)
    except RefusedModel:  # exit 3
        return
    assert report.upper is None
    assert report.status in ("unbounded", "refused")
    assert report.exit_code == 3
    assert all(r.reason for r in report.results if isinstance(r, Refusal))


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_an_infinite_slope_is_not_the_largest_float(norm: str) -> None:
    """sqrt has no constant on [0, 1], and its rounding no bound there; nan_to_num(inf) makes 1.8e308 of an infinity."""
    names = [name for name in usual(on_a_region=True) if name not in ("regions", "branch")]
    root, box = model(torch.sqrt, 1, 1), Box(torch.zeros(1, 1), torch.ones(1, 1))
    report = lipcert.bound(root, region=box, norm=norm, methods=names, execution="float32")
    assert report.upper is None, report.results
    assert report.summary["execution"]["error"] is None
    assert report.summary["execution"]["reason"]


def test_infinities_stay_infinite() -> None:
    """Nowhere in the sources is NaN alone replaced by infinity, which makes the largest float of an infinity."""
    wrong = re.compile(r"nan_to_num\((nan=)?-?(math|torch|np)\.inf\)(?!\.arg)")
    assert wrong.search("x.nan_to_num(math.inf)")
    assert not wrong.search("x.nan_to_num(math.inf, math.inf)")
    files = Path(lipcert.__file__).parent.rglob("*.py")
    assert [str(file) for file in files if wrong.search(file.read_text())] == []


@pytest.mark.parametrize("name", ["x * x", "x * y", "exp", "attention"])
def test_and_finite_ones_on_a_box(name: str) -> None:
    box = Box(torch.full((1, 4), -1.0), torch.full((1, 4), 1.0))
    report = product(UNBOUNDED[name], 1, 4, region=box)
    assert upper(report) > 0


def test_steps_have_no_constant_on_a_box_with_a_jump() -> None:
    for low, high, finite in ((0.2, 0.8, True), (0.2, 1.2, False), (0.2, 1.0, False)):
        box = Box(torch.full((1, 2), low), torch.full((1, 2), high))
        report = product(lambda x: torch.floor(x) + x, 1, 2, region=box)
        assert (report.upper is not None) == finite


def test_layer_norm_is_finite_through_eps_only() -> None:
    for eps in (1e-5, 1e-12):
        value = upper(product(lambda x, eps=eps: F.layer_norm(x, (4,), eps=eps), 1, 4))
        assert value == pytest.approx(1 / math.sqrt(eps), rel=1e-6)


def test_a_kink_where_autograd_says_zero() -> None:
    """relu(x) - relu(-x) is x: autograd gives 0 at 0, the witness 1."""
    report = product(lambda x: torch.relu(x) - torch.relu(-x), 1, 1)
    assert report.lower == pytest.approx(1.0, rel=1e-6)
    assert upper(report) >= 1


def test_detach_and_custom_gradients_hide_nothing() -> None:
    report = product(lambda x: x + 100 * x.detach(), 1, 2)
    assert upper(report) == pytest.approx(101.0, rel=1e-9)
    assert report.lower == pytest.approx(101.0, rel=1e-6)


def test_a_thin_piece_that_random_points_miss() -> None:
    """A ramp of slope 1e5 and width 1e-5: the upper bound knows it, the lower value is not called the constant."""
    report = product(lambda x: torch.clamp(1e5 * (x - 0.3), 0.0, 1.0), 1, 1)
    assert upper(report) >= 1e5


# Results and verdicts


def test_float32_quotients_are_not_lower_bounds() -> None:
    """The lower value of a float32 network stays below its constant, close pairs included."""
    torch.manual_seed(1)
    layer = nn.Linear(1, 1)
    report = lipcert.bound(lipcert.load(layer, input_shape=(1, 1)), methods=["product", "sampled"])
    true = abs(float(layer.weight))
    assert report.lower is not None
    assert report.lower <= true <= upper(report)


def test_parity_catches_a_wrong_weight() -> None:
    """Gate 5: a graph that reads one weight wrongly is refused, exit 3."""
    layer = linear([[1.0, 2.0]])
    wrong = linear([[1.0, 2.001]])
    reference = Reference("torch", lambda x: wrong(torch.from_numpy(x)).detach().numpy(), "float64")
    graph = model(layer, 1, 2).graph

    def ours(x: object) -> object:
        return graph.evaluate(torch.as_tensor(x)).numpy().reshape(-1, 1, 1)

    with pytest.raises(RefusedModel, match="parity") as error:
        check_parity([_batched(reference)], ours, (1, 2))  # type: ignore[arg-type]
    assert error.value.exit_code == 3


def _batched(reference: Reference) -> Reference:
    return Reference(reference.name, lambda x: reference.evaluate(x.reshape(-1, 1, 2)), reference.dtype)


def test_a_contradiction_is_exit_4() -> None:
    """lower > upper is never clamped."""
    report = Report(
        "bound",
        {},
        results=[Bound("product", "upper", "proved", 1.0), Bound("sampled", "lower", "sampled", 1.5)],
    )
    assert report.exit_code == 4
    assert report.upper is None


def test_operators_say_what_they_are() -> None:
    """One operator for conv + BatchNorm: the closed form is used, not a product of two norms."""
    layer = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)).double().eval()
    layer[1].running_var.copy_(torch.tensor([1e-2, 1e2]))  # type: ignore[union-attr,operator]
    eye = torch.eye(25, dtype=DOUBLE).reshape(25, 1, 5, 5)
    with torch.no_grad():
        true = float(torch.linalg.matrix_norm((layer(eye) - layer(0 * eye)).reshape(25, -1), 2))
    graph = model(layer, 1, 1, 5, 5).graph
    assert isinstance(graph, Graph)
    kinds = {type(node.what.operator) for node in graph.nodes if isinstance(node.what, Linear)}
    assert kinds <= {Conv, Scale, Dense}
    assert not any(isinstance(node.what, Nonlinear) for node in graph.nodes)
    assert isinstance(graph.nodes[0], Node)
    assert isinstance(graph.nodes[0].what, Input)
    assert true * (1 - 1e-12) <= upper(product(layer, 1, 1, 5, 5)) <= true * (1 + 1e-8)
