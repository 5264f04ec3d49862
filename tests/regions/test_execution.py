"""Executions in floating point: the stated accuracy of functions, the bound of the error, radii that hold for what runs."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from thorough import FULL
from torch import Tensor, nn

import lipcert
from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.cli.main import main
from lipcert.regions.cells import Cells
from lipcert.regions.execution.accuracy import ROWS, UNITS, units
from lipcert.regions.execution.functionals import execution_errors
from lipcert.rigor.arithmetic import ARITHMETICS
from lipcert.rigor.constants import Constant, add, multiply
from lipcert.rigor.rounding import norm_down
from lipcert.tasks.radius import samples
from lipcert.terms.errors import RefusedModel, UsageError

F32 = ARITHMETICS["float32"]
F = nn.functional
TORCH = {  # torch's own float32 functions where the table's formula is another
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": F.softplus, "gelu_erf": F.gelu, "silu": F.silu, "mish": F.mish,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "elu": F.elu, "selu": F.selu, "hardswish": F.hardswish,
    "logsigmoid": F.logsigmoid, "softsign": F.softsign, "hardsigmoid": F.hardsigmoid,
}  # fmt: skip


def nets() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    faraway = nn.BatchNorm1d(12)  # the folded shift is beta - mean scale: two numbers of 1e4 that cancel
    with torch.no_grad():
        faraway.running_mean.fill_(1e4)
        faraway.bias.fill_(1e4)
    lifted = nn.Linear(8, 12)
    with torch.no_grad():
        lifted.bias += 1e4
    biased = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    with torch.no_grad():
        biased[0].bias += 3000.0
        biased[2].bias -= 3000.0
    convolved = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.LeakyReLU(0.1),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    return {
        "mlp": (nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4)), (1, 10)),
        "bias that cancels": (biased, (1, 6)),
        "batch norm far away": (nn.Sequential(lifted, faraway, nn.ReLU(), nn.Linear(12, 3)), (1, 8)),
        "convolutions": (convolved, (1, 2, 8, 8)),
        "smooth": (nn.Sequential(nn.Linear(5, 30), nn.GELU(), nn.Linear(30, 20), nn.Mish(), nn.Linear(20, 2)), (1, 5)),
        "softmax": (nn.Sequential(nn.Linear(5, 30), nn.Sigmoid(), nn.Linear(30, 6), nn.Softmax(dim=1)), (1, 5)),
        "two in a row": (nn.Sequential(nn.Linear(7, 30), nn.Linear(30, 9), nn.Tanh(), nn.Linear(9, 2)), (1, 7)),
    }


NETS = nets()


def shuffled(module: nn.Module, seed: int) -> nn.Module:
    """The same real function with the hidden units of adjacent dense layers in another order: another order of additions."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.ReLU | nn.Sequential)]
    again = [type(layer)(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]
    order = torch.Generator().manual_seed(seed)
    old = [layer for layer in layers if isinstance(layer, nn.Linear)]
    places = [torch.arange(old[0].in_features)]
    for k, layer in enumerate(old):
        rows = (
            torch.randperm(layer.out_features, generator=order)
            if k < len(old) - 1
            else torch.arange(layer.out_features)
        )
        with torch.no_grad():
            again[k].weight.copy_(layer.weight[rows][:, places[-1]])
            again[k].bias.copy_(layer.bias[rows])
        places.append(rows)
    parts = [part for layer in again for part in (layer, nn.ReLU())][:-1]
    return nn.Sequential(*parts)


def computed(module: nn.Module, x: Tensor, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    with torch.no_grad():
        return module.to(kind)(x.to(kind).reshape(-1, *shape[1:])).double()


def off_by(name: str, x: Tensor, reach: float, norm: str, how: str, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """What torch's evaluation is off by at random points of the balls, and the bound of it: (b, m) each."""
    import copy

    module, shape = NETS[name]
    module = copy.deepcopy(module).eval()
    model = lipcert.load(module, input_shape=shape)
    arithmetic = ARITHMETICS[how]
    m = model.graph.nodes[model.graph.output].size
    cells = Cells(x, torch.full_like(x, reach), norm)  # type: ignore[arg-type]
    bound = execution_errors(
        model.executed(arithmetic), arithmetic, cells, torch.eye(m).double().expand(len(x), -1, -1)
    )
    worst = torch.zeros_like(bound)
    for _ in range(20):
        move = torch.randn_like(x)
        at = x + move / norm_up_of(move, norm) * reach * torch.rand(len(x), 1, dtype=torch.float64)
        real = model.graph.evaluate(at)
        worst = torch.maximum(worst, (computed(copy.deepcopy(module), at, shape, kind) - real).abs())
    return worst, bound


def norm_up_of(move: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(move, ord={"1": 1, "2": 2, "inf": math.inf}[norm], dim=1, keepdim=True)


@pytest.mark.parametrize("name", sorted(ROWS - {"prelu", "neg", "clamp", "hardtanh", "quick_gelu"}))
def test_functions_are_as_accurate_as_stated(name: str) -> None:
    row = ACTIVATIONS[name]
    scalar = Elementwise(row, tuple(row.parameters.values()))
    size = torch.cat(
        [torch.logspace(-9, 4, 4000, dtype=torch.float64), torch.linspace(0, 30, 4000, dtype=torch.float64)]
    )
    z = torch.cat([size, -size]).float()
    z = z[(z > row.domain[0]) & (z < row.domain[1])]
    true = scalar(z.double())
    for function in (lambda z: row.function(z, *scalar.params), TORCH.get(name)):
        if function is not None:
            found = function(z).double()
            scale = torch.maximum(true.abs(), z.double().abs()).clamp(min=1.0) * F32.unit
            known = true.isfinite() & found.isfinite()
            assert float(((found - true).abs() / scale)[known].max()) <= UNITS / 4  # a runtime may be worse than torch


ORT = [
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Exp",
    "Erf",
    "Elu",
    "Selu",
    "HardSigmoid",
    "Sqrt",
    "Reciprocal",
    "Log",
    "Sin",
    "Cos",
]


@pytest.mark.parametrize("name", ORT)
def test_functions_of_onnxruntime_are_as_accurate_as_stated(name: str) -> None:
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    z = np.concatenate([np.logspace(-9, 1.9, 4000), np.linspace(0.01, 80, 4000)]).astype(np.float32)
    z = z if name in ("Sqrt", "Reciprocal", "Log") else np.concatenate([z, -z])
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [len(z)]) for n in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node(name, ["x"], ["y"])], "g", info[:1], info[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    found = ort.InferenceSession(model.SerializeToString()).run(None, {"x": z})[0]
    functions = {
        "Softplus": F.softplus,
        "Elu": F.elu,
        "Selu": F.selu,
        "Erf": torch.erf,
        "HardSigmoid": lambda v: (v * np.float64(np.float32(0.2)) + 0.5).clamp(0, 1),
    }
    true = functions.get(name, getattr(torch, name.lower(), None))(torch.from_numpy(z).double()).numpy()
    scale = np.maximum(np.maximum(np.abs(true), np.abs(z.astype(np.float64))), 1.0) * F32.unit
    known = np.isfinite(found)
    assert float((np.abs(found.astype(np.float64) - true) / scale)[known].max()) <= UNITS


@pytest.mark.every(2)
@pytest.mark.parametrize(("norm", "reach"), [("2", 0.0), ("2", 0.1), ("inf", 0.1)] if FULL else [("2", 0.1)])
@pytest.mark.parametrize("name", NETS)
def test_the_bound_holds_for_what_torch_computes(name: str, norm: str, reach: float) -> None:
    torch.manual_seed(1)
    x = torch.randn(8, math.prod(NETS[name][1]), dtype=torch.float64)
    for how, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        worst, bound = off_by(name, x, reach, norm, how, kind)
        assert bool((worst <= bound).all())
        if how == "float32":
            assert bool(torch.isfinite(bound).all())
            assert float(worst.max()) > 0  # it is about something


def test_other_orders_of_additions_are_covered() -> None:
    module, shape = NETS["mlp"]
    model = lipcert.load(module.eval(), input_shape=shape)
    x = torch.randn(200, 10).double()
    x = x.float().double()
    m = 4
    bound = execution_errors(
        model.executed(F32), F32, Cells(x, torch.zeros_like(x)), torch.eye(m).double().expand(len(x), -1, -1)
    )
    real = model.graph.evaluate(x)
    worst = torch.stack(
        [(computed(shuffled(module, s), x, shape, torch.float32) - real).abs() for s in range(30)]
    ).amax(0)
    assert bool((worst <= bound).all())
    assert float((worst / bound).max()) > 0.01  # no more than two digits are given away


def test_an_arithmetic_that_is_too_good_is_found_out() -> None:
    """The comparison above can fail: the bound of a format with four more digits is broken by float32."""
    import copy

    module, shape = NETS["bias that cancels"]
    model = lipcert.load(copy.deepcopy(module).eval(), input_shape=shape)
    better = replace(F32, unit=2.0**-38)
    x = torch.randn(50, 6, dtype=torch.float64)
    eye = torch.eye(3).double().expand(50, -1, -1)
    bound = execution_errors(model.executed(F32), better, Cells(x, torch.zeros_like(x)), eye)
    off = (computed(copy.deepcopy(module), x, shape, torch.float32) - model.graph.evaluate(x)).abs()
    assert not bool((off <= bound).all())


def test_folded_constants_are_those_of_the_runtime() -> None:
    """beta - mean scale, 1e4 each: in float32 the shift itself is off by much more than its own size suggests."""
    model = lipcert.load(NETS["batch norm far away"][0].eval(), input_shape=(1, 8))
    shifts = [
        n.what for n in model.executed(F32).nodes if type(n.what).__name__ == "Offset" and n.what.radius is not None
    ]
    assert max(float(what.radius.max()) for what in shifts) > 1e4 * F32.unit
    assert all(
        float(what.radius.max()) < 1e-6
        for n in model.graph.nodes
        if type(what := n.what).__name__ == "Offset" and what.radius is not None
    )


def test_constants_keep_what_every_format_computes_exactly() -> None:
    from lipcert.rigor.arithmetic import folded_in

    with folded_in(F32):
        assert add(0.5, 0.25).radius is None
        assert float(multiply(0.1, 0.3).reach()) >= 0.03 * F32.unit
    assert isinstance(multiply(0.1, 0.3), Constant)
    assert float(multiply(0.1, 0.3).reach()) < 1e-16


def cancelling() -> nn.Module:
    """f_0 - f_1 = x_0 - x_1, by way of numbers near 64, which float32 has 2^-17 apart."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[0].bias.fill_(64.0)
        net[2].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        net[2].bias.zero_()
    return net.eval()


def broken(module: nn.Module, x: Tensor, radius: Tensor, norm: str, shape: tuple[int, ...], tries: int) -> int:
    """Samples x (b, n) for which a search in float32 finds another class inside the ball of this radius."""
    net = module.float()
    own = computed(net, x, shape, torch.float32).argmax(1)
    found = torch.zeros(len(x), dtype=torch.bool)
    size = x.shape[1]
    for k in range(tries):
        at = x.float().clone().requires_grad_()
        y = net(at.reshape(-1, *shape[1:]))
        rest = y.scatter(1, own[:, None], -math.inf).amax(1)
        (grad,) = torch.autograd.grad((y.gather(1, own[:, None])[:, 0] - rest).sum(), at)
        move = -(
            grad.double()
            + (0.0 if k == 0 else 0.3 * float(grad.norm()) / size**0.5) * torch.randn(x.shape, dtype=torch.float64)
        )
        move = move.sign() if norm == "inf" else move
        step = move / norm_up_of(move, norm).clamp(min=1e-300) * radius[:, None]
        near = (x + step * (1 - 1e-6 * torch.rand(len(x), 1, dtype=torch.float64))).float()
        for _ in range(4):
            near = torch.nextafter(near, near + torch.randn(near.shape))  # around the place, to what rounds worst
            inside = norm_down((near.double() - x).abs(), norm, 1) <= radius  # type: ignore[arg-type]
            found |= inside & (computed(net, near, shape, torch.float32).argmax(1) != own)
    return int(found.sum())


def test_radii_hold_where_float32_is_coarse() -> None:
    """Attacks near the resolution of float32: radii of real arithmetic are broken, those of the execution are not."""
    net = cancelling()
    torch.manual_seed(3)
    x = torch.rand(60, 2, dtype=torch.float64).mul(6 * 2.0**-14).float().double()
    real, safe = (
        lipcert.radius(net, x.numpy(), input_shape=(1, 2), methods=["pairs"], execution=how)
        for how in (None, "float32")
    )
    radii = [torch.tensor([p["radius"] for p in report.points], dtype=torch.float64) for report in (real, safe)]
    assert bool((radii[1] <= radii[0]).all())
    assert int((radii[1] > 0).sum()) > 20
    exact = (x[:, 0] - x[:, 1]).abs() / 2**0.5
    assert broken(net, x, exact * (1 - 1e-9), "2", (1, 2), 20) > 5  # the search finds what it should
    assert broken(net, x, radii[1], "2", (1, 2), 20) == 0
    assert safe.question is not None
    assert safe.question.execution == "float32"
    assert "executed in float32" in str(safe.question)


@pytest.mark.parametrize("seed", range(20 if FULL else 1))
def test_no_radius_is_broken_in_float32(seed: int) -> None:
    torch.manual_seed(seed)
    count = 200 if FULL else 12
    wide = 10 ** (seed % 4)
    net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4))
    with torch.no_grad():
        net[0].bias += wide
        net[2].bias -= wide
    x = torch.randn(count, 6).double() * (1 + wide)
    for norm in ("2", "inf"):
        methods = ["local"] if FULL or norm == "2" else ["sqrt2"]
        report = lipcert.radius(
            net.eval(), x.numpy(), input_shape=(1, 6), norm=norm, methods=methods, execution="float32"
        )
        radius = torch.tensor([p["radius"] for p in report.points], dtype=torch.float64)
        known = radius > 0
        assert broken(net, x[known], radius[known], norm, (1, 6), 10) == 0


@pytest.mark.skipif(not FULL, reason="LIPCERT_FULL=1: half a minute")
def test_little_is_lost_on_mnist(shared: Path) -> None:
    model = lipcert.load(shared / "models" / "mnist_fc_256x2.onnx")
    with np.load(shared / "data" / "mnist_test_1000.npz") as data:
        x, y = data["x"][:6].astype(np.float64) / 255, data["y"][:6]
    x = x.reshape(6, *model.input_shape[1:]) if model.input_shape[0] == 1 else x.reshape(6, *model.input_shape)
    real = lipcert.radius(model, x, y, methods=["local"])
    safe = lipcert.radius(model, x, y, methods=["local"], execution="float32")
    assert safe.summary["radius"]["mean"] >= 0.99 * real.summary["radius"]["mean"]
    assert 0 < safe.summary["execution"]["error"] < 0.02


def test_a_regression_pays_at_both_ends() -> None:
    net = cancelling()
    x = np.array([[1.0, 0.25]]) * 2.0**-14
    real, safe = (
        lipcert.radius(net, x, input_shape=(1, 2), tolerance=5.0 * 2.0**-14, methods=["pairs"], execution=how)
        for how in (None, "float32")
    )
    lost = (real.points[0]["radius"] - safe.points[0]["radius"]) * 2**0.5
    assert lost >= 1.9 * safe.points[0]["error"]


def test_a_smaller_ball_is_tried_where_nothing_is_left_of_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 overflows at the end of the large ball: a smaller one has a radius."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(0.0)
        net[2].weight.copy_(torch.tensor([[0.0], [2.0**-12]]))
        net[2].bias.copy_(torch.tensor([16.0, 0.0]))
    report = lipcert.radius(net.eval(), np.array([[8.0]]), input_shape=(1, 1), methods=["pairs"], execution="float16")
    assert 0 < report.points[0]["radius"] < 2.0**15
    monkeypatch.setattr(samples, "SHARES", (1.0,))
    monkeypatch.setattr(samples, "FAR", ())
    report = lipcert.radius(net.eval(), np.array([[8.0]]), input_shape=(1, 1), methods=["pairs"], execution="float16")
    assert report.points[0]["radius"] == 0


def test_what_is_not_stated_is_refused_by_name() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    with pytest.raises(RefusedModel, match="no accuracy of normalise"):
        lipcert.radius(net, np.zeros((1, 4)), input_shape=(1, 4), execution="float32")
    report = lipcert.bound(
        net, input_shape=(1, 4), region=lipcert.Box([[-1.0] * 4], [[1.0] * 4]), methods=["product"], execution="float32"
    )
    assert report.upper is not None
    assert report.summary["execution"]["error"] is None
    assert "normalise" in report.summary["execution"]["reason"]
    with pytest.raises(UsageError, match="formats are float32"):
        lipcert.bound(net, input_shape=(1, 4), execution="float8")


def test_bound_and_local_report_the_error(tmp_path, capsys) -> None:
    net = NETS["mlp"][0].eval()
    box = lipcert.Box([[-1.0] * 10], [[1.0] * 10])
    region = lipcert.bound(net, input_shape=(1, 10), region=box, methods=["product"], execution="float32")
    assert 0 < region.summary["execution"]["error"] < 1e-3
    assert any("L |x - x'| + 2 E" in line for line in region.assumptions)
    whole = lipcert.bound(net, input_shape=(1, 10), methods=["product"], execution="float32")
    assert whole.summary["execution"]["error"] is None
    assert "whole input space" in whole.summary["execution"]["reason"]
    around = lipcert.local(net, np.zeros((2, 10)), [0.0, 0.1], input_shape=(1, 10), methods=[], execution="float32")
    errors = [row["error"] for row in around.points]
    assert max(errors) == around.summary["execution"]["error"]
    assert errors[0] <= errors[1]
    small = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).eval()
    cells = lipcert.local_grid(small, lipcert.Box([-1.0, -1.0], [1.0, 1.0]), (3, 3), rtol=0.0, execution="float32")
    each = cells.summary["execution"]["cells"]
    assert len(each) == 9
    assert max(each) == cells.summary["execution"]["error"]


def status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_the_command_line_and_the_gate(tmp_path, capsys) -> None:
    model = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(NETS["mlp"][0].eval(), torch.zeros(1, 10), str(model), dynamo=False)
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(3, 10)))
    (tmp_path / "gate.toml").write_text('[[rule]]\nmin_median_radius = 1e-9\nexecution = "float32"\n')
    reports = []
    for more in ([], ["--execution", "float32"]):
        reports.append(str(tmp_path / f"r{len(more)}.json"))
        arguments = ["radius", str(model), "--data", str(tmp_path / "d.npz"), "--method", "local", "-q", *more]
        assert status([*arguments, "--json", reports[-1]]) == 0
    assert "executed in float32: |computed f - f| <= " in capsys.readouterr().out
    data = json.loads(Path(reports[1]).read_text())
    assert data["question"]["options"]["execution"] == "float32"
    policy = ["--policy", str(tmp_path / "gate.toml")]
    assert status(["gate", reports[0], *policy]) == 1
    assert "real arithmetic" in capsys.readouterr().out
    assert status(["gate", reports[1], *policy]) == 0
    assert status(["radius", str(model), "--data", str(tmp_path / "d.npz"), "--execution", "float8"]) == 2


@pytest.mark.parametrize("module", [nn.ELU(1e4), nn.CELU(50.0), nn.Softplus(beta=0.01)])
def test_parameters_that_make_a_function_worse_are_counted(module: nn.Module) -> None:
    """alpha (exp(z) - 1) loses alpha u near 0, where the value is small."""
    model = lipcert.load(nn.Sequential(nn.Linear(1, 1), module), input_shape=(1, 1))
    blocks = [model.graph.nodes[i].what.block for i in model.graph.nonlinear]
    assert [units(block) for block in blocks if isinstance(block, Pointwise)][0] > 2 * UNITS  # noqa: RUF015
    usual = lipcert.load(nn.Sequential(nn.Linear(1, 1), nn.ELU()), input_shape=(1, 1))
    assert units(usual.graph.nodes[usual.graph.nonlinear[0]].what.block) == UNITS


class ThereAndBack(nn.Module):
    """silu over the reals, by way of numbers near 64."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(8 * ((x + 64.0) - 64.0))


def test_what_is_recognised_over_the_reals_is_not_in_a_runtime() -> None:
    model = lipcert.load(ThereAndBack(), input_shape=(1, 50))
    assert [model.graph.nodes[i].what.block.label for i in model.graph.nonlinear] == ["silu"]
    x = (0.3 * torch.randn(1, 50)).double()
    eye = torch.eye(50).double()[None]
    bound = execution_errors(model.executed(F32), F32, Cells(x, torch.zeros_like(x)), eye)
    off = (computed(ThereAndBack(), x, (1, 50), torch.float32) - model.graph.evaluate(x)).abs()
    assert bool((off <= bound).all())
    assert not bool((off <= UNITS * F32.unit * x.abs().clamp(min=1.0) / 8).all())  # far from what silu itself errs
