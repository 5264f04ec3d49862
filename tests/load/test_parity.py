"""Parity: wrong readings are refused whatever the scale of the outputs, right ones pass in every arithmetic."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import lipcert
from lipcert.load.capture.parity import LARGE, SCALES, check_parity
from lipcert.load.read import read
from lipcert.load.source import Reference
from lipcert.terms.errors import RefusedModel

SHAPE = (1, 16)


def network(seed: int = 0, width: int = 64, depth: int = 4, gain: float = 1.0) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes = [16] + [width] * depth
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    module = nn.Sequential(*layers, nn.Linear(width, 5)).double()
    for parameter in module.parameters():
        parameter.data *= (
            gain if gain == 1.0 or parameter.dim() == 2 else 0.0
        )  # scaled networks have no bias to hide in
    return module.eval().requires_grad_(False)


def rows(module: nn.Module, dtype: torch.dtype):
    def evaluate(points: np.ndarray) -> np.ndarray:
        return np.stack([module(torch.from_numpy(p).to(dtype)).double().numpy() for p in points])

    return evaluate


def copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    other = network()
    other.load_state_dict(module.state_dict())
    return other.to(dtype)


def plant(module: nn.Module, layer: int) -> None:
    """One weight 1 % of the layer's largest off, between units that are not switched off at most points."""
    x = 10 * torch.randn(64, 16, dtype=torch.float64)
    before, after = module[:layer](x).abs().mean(0), module[: layer + 2](x).abs().mean(0)
    module[layer].weight[after.argmax(), before.argmax()] += 0.01 * module[layer].weight.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_original_agrees_with_itself_in_its_own_arithmetic(dtype) -> None:
    theirs = copied(network(), dtype)
    ours = copied(theirs, torch.float64)  # the stored weights, promoted exactly
    name = str(dtype).removeprefix("torch.")
    records = check_parity([Reference("torch", rows(theirs, dtype), name)], rows(ours, torch.float64), SHAPE)
    assert [record.scale for record in records] == [name for name, _ in SCALES]
    assert all(record.points == 4 and record.difference <= record.allowed for record in records)
    json.dumps([record.to_dict() for record in records])


@pytest.mark.every(4)
@pytest.mark.parametrize("layer", [0, 2, 4, 6, 8])
@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_weight_wrong_by_one_percent_in_a_deep_network(layer, gain, dtype) -> None:
    theirs = network(gain=gain).to(dtype)
    ours = copied(theirs, torch.float64)
    plant(ours, layer)
    references = read(theirs, input_shape=SHAPE).references
    with pytest.raises(RefusedModel, match=r"^parity with torch.*, inputs of scale .* differs from the original by"):
        check_parity(references, rows(ours, torch.float64), SHAPE)


@pytest.mark.parametrize("layer", [0, 2])
def test_one_weight_wrong_by_one_percent_seen_from_float32_alone(layer) -> None:
    theirs = network(depth=1).float()
    ours = network(depth=1).float().double()
    plant(ours, layer)
    with pytest.raises(RefusedModel, match="parity"):
        check_parity([Reference("onnxruntime", rows(theirs, torch.float32))], rows(ours, torch.float64), SHAPE)


def test_a_single_linear_layer_with_one_weight_off_by_one_percent() -> None:
    theirs = nn.Linear(16, 5).requires_grad_(False)
    ours = nn.Linear(16, 5).requires_grad_(False).double()
    ours.load_state_dict(theirs.state_dict())
    ours.weight[2, 3] *= 1.01
    with pytest.raises(RefusedModel, match="parity"):
        check_parity([Reference("torch", rows(theirs, torch.float32))], rows(ours, torch.float64), SHAPE)


def test_a_large_constant_output_hides_nothing() -> None:
    theirs = nn.Linear(16, 5).requires_grad_(False)
    theirs.bias += 50.0
    ours = nn.Linear(16, 5).requires_grad_(False).double()
    ours.load_state_dict(theirs.state_dict())
    ours.weight[0] *= 1.01
    with pytest.raises(RefusedModel, match="parity"):
        check_parity([Reference("torch", rows(theirs, torch.float32))], rows(ours, torch.float64), SHAPE)


def test_large_networks_are_compared_at_eight_points_and_four_of_them_in_float64() -> None:
    theirs = network().float()
    ours = copied(theirs, torch.float64)
    references, asked = read(theirs, input_shape=SHAPE).references, []

    def evaluate(points: np.ndarray) -> np.ndarray:
        asked.append(len(points))
        return rows(ours, torch.float64)(points)

    for entries, points in ((LARGE - 1, [4] * 8), (LARGE, [2] * 4 + [1] * 4)):
        records = check_parity(references, evaluate, SHAPE, entries=entries)
        assert [record.points for record in records] == points
    assert sum(asked) == 16 + 8  # ours once at each point
    plant(ours, 4)
    with pytest.raises(RefusedModel, match="parity"):
        check_parity(references, rows(ours, torch.float64), SHAPE, entries=LARGE)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda y: y[:, :, ::-1],
        lambda y: -y,
        lambda y: y + 1e-3,
        lambda y: np.where(y > 0, y, 0.99 * y),
        lambda y: np.full_like(y, np.nan),
        lambda y: y[:, :, :4],
    ],
    ids=["reversed", "negated", "shifted", "kinked", "nan", "cut"],
)
def test_planted_errors(wrong) -> None:
    evaluate = rows(network(), torch.float64)
    with pytest.raises(RefusedModel, match="parity"):
        check_parity([Reference("torch", evaluate, "float64")], lambda x: wrong(evaluate(x)), SHAPE)


def test_scales_where_the_original_overflows_are_skipped_and_said() -> None:
    def theirs(x: np.ndarray) -> np.ndarray:
        return np.where(np.abs(x) > 5, np.inf, x)

    records = check_parity([Reference("torch", theirs)], lambda x: x, (4096,))
    assert [record.points for record in records] == [4, 4, 0, 4]
    assert "overflows" in records[2].note
    with pytest.raises(RefusedModel, match="no finite output"):
        check_parity([Reference("torch", lambda x: x / 0.0 * np.nan)], lambda x: x, (3,))


def test_kernels_that_leave_the_definition_far_out() -> None:
    """onnxruntime's float32 sigmoid is constant below -18; elsewhere the runtime's word counts, and a wrong reading shows."""

    def exact(x: np.ndarray) -> np.ndarray:
        return -np.logaddexp(0.0, -x)

    kernel = Reference("onnxruntime", lambda x: exact(np.maximum(x, -18.0)), definition=exact)
    records = check_parity([kernel], exact, (64,))
    assert ["definition" in record.note for record in records] == [False, False, True, False]
    with pytest.raises(RefusedModel, match="scale 10"):
        check_parity([replace(kernel, definition=None)], exact, (64,))
    with pytest.raises(RefusedModel, match="scale 10"):  # wrong by the definition too
        check_parity([kernel], lambda x: exact(np.maximum(x, -17.0)), (64,))
    with pytest.raises(RefusedModel, match="scale 10"):  # what the runtime does is not what is read
        check_parity([replace(kernel, definition=lambda x: exact(x) * np.nan)], exact, (64,))
    with pytest.raises(RefusedModel, match="parity"):
        check_parity([kernel], lambda x: exact(1.01 * x), (64,))
    near = Reference("onnxruntime", lambda x: exact(np.maximum(x, 0.0)), definition=exact)
    with pytest.raises(RefusedModel, match=r"scale 0\.01"):
        check_parity([near], exact, (64,))


def test_a_function_that_vanishes_is_compared_absolutely() -> None:
    zero = Reference("torch", lambda x: 0.0 * x)
    check_parity([zero], lambda x: 0.0 * x, (3,))
    with pytest.raises(RefusedModel):
        check_parity([zero], lambda x: 0.0 * x + 1e-30, (3,))


def test_points_are_the_same_for_the_same_seed() -> None:
    seen: list[np.ndarray] = []
    reference = Reference("torch", lambda x: seen.append(x) or x)
    for seed in (1, 1, 2):
        check_parity([reference], lambda x: x, (3,), seed)
    assert np.array_equal(seen[0], seen[4])
    assert not np.array_equal(seen[0], seen[8])


def test_no_reference_gives_no_records() -> None:
    assert check_parity([], lambda x: x, (3,)) == []


def test_errors_of_the_original_pass_through() -> None:
    source = read(nn.Linear(4, 2), input_shape=(1, 5))
    with pytest.raises(RuntimeError, match="shapes"):
        check_parity(source.references, lambda x: x, (1, 5))


class Cancelling(nn.Module):
    """Two deep networks that differ by 1 part in 3000: the output is small beside what it is the difference of, as in
    the ACAS networks (where onnxruntime is 2.8e-6 from exact arithmetic, and we were 1.03e-6 from onnxruntime)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = network().float(), network().float()
        for parameter in self.other.parameters():
            parameter.data *= 1 + 1 / 3000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) - self.other(x)


def cancelling_file(folder, weight: float = 1.0):
    """The same network as ONNX, one weight of the first layer times `weight`."""
    module, path = Cancelling(), folder / "cancelling.onnx"
    module.one[0].weight[0] *= weight
    nodes, constants = [], []
    for side, part in (("a", module.one), ("b", module.other)):
        last = "x"
        for k, layer in enumerate(part):
            out = f"{side}{k}"
            if isinstance(layer, nn.Linear):
                constants += [
                    onnx.numpy_helper.from_array(t.numpy(), f"{out}{n}") for n, t in layer.state_dict().items()
                ]
                nodes.append(onnx.helper.make_node("Gemm", [last, f"{out}weight", f"{out}bias"], [out], transB=1))
            else:
                nodes.append(onnx.helper.make_node("Relu", [last], [out]))
            last = out
    nodes.append(onnx.helper.make_node("Sub", ["a8", "b8"], ["y"]))
    values = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [1, 16]), ("y", [1, 5]))]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_networks_that_cancel_are_allowed_their_measured_error(tmp_path) -> None:
    model = lipcert.load(cancelling_file(tmp_path))
    records = model.info["parity"]
    assert any(record["difference"] > 2e-6 * record["allowed"] / 2e-5 for record in records)
    source = read(cancelling_file(tmp_path))
    assert source.references[0].rounding is not None
    exact = rows(source.module, torch.float64)
    check_parity(source.references, exact, SHAPE)
    plain = [Reference(r.name, r.evaluate, r.dtype) for r in source.references]
    with pytest.raises(RefusedModel, match="parity"):  # without the measurement the right reading is refused
        check_parity(plain, exact, SHAPE)


def test_a_wrong_reading_does_not_hide_in_the_measured_error(tmp_path) -> None:
    source = read(cancelling_file(tmp_path))
    exact = rows(source.module, torch.float64)
    for wrong in (lambda y: y * (1 + 1e-3), lambda y: y + 1e-3 * np.abs(y).max(), lambda y: y[:, :, ::-1]):
        with pytest.raises(RefusedModel, match="parity"):
            check_parity(source.references, lambda x, wrong=wrong: wrong(exact(x)), SHAPE)
    (tmp_path / "other").mkdir()
    other = read(cancelling_file(tmp_path / "other", 1.001))
    with pytest.raises(RefusedModel, match="parity"):
        check_parity(source.references, rows(other.module, torch.float64), SHAPE)


def test_modules_that_cancel_are_read() -> None:
    module = Cancelling().eval().requires_grad_(False)
    assert lipcert.load(module, input_shape=SHAPE).output_shape == (1, 5)


class Nothing(nn.Module):
    """Two layers of which one half undoes the other, but for a part `left`: what floats add up to is mostly their rounding."""

    def __init__(self, left: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(16, 64, bias=False), nn.Linear(64, 5, bias=False)
        with torch.no_grad():
            self.one.weight[32:] = self.one.weight[:32]
            self.two.weight[:, 32:] = -self.two.weight[:, :32].flip(0) * (1 + left)
            self.two.weight[:, :32] = self.two.weight[:, :32].flip(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


@pytest.mark.parametrize("left", [0.0, 1e-7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_that_cancel_whole_are_read(left: float, dtype: torch.dtype) -> None:
    """The original's own unrest says that it has nothing but rounding to say; one weight of 64 wrong still shows."""
    module = Nothing(left).to(dtype).eval().requires_grad_(False)
    report = lipcert.bound(module, input_shape=SHAPE, methods=["product", "sampled"])
    assert report.upper is not None
    assert report.upper < 1e-5
    references = read(module, input_shape=SHAPE).references
    other = Nothing(left).to(dtype).double().requires_grad_(False)
    other.two.weight[2, 3] *= 1.01
    with pytest.raises(RefusedModel, match="parity"):
        check_parity(references, rows(other, torch.float64), SHAPE)


def test_a_jump_of_the_original_is_no_unrest() -> None:
    jumping = Reference("torch", lambda x: np.where((x.view(np.int64) & 1) == 1, 1.0, 0.0), "float64")
    with pytest.raises(RefusedModel, match="parity"):
        check_parity([jumping], lambda x: 0.5 * np.ones_like(x), (16,))


class Ones(nn.Module):
    """A constant: relu of a convolution of ones, whose exact zeros rounding leaves at 1.1e-308."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.convolution(torch.ones_like(x))) * 2


def test_what_rounding_leaves_of_a_zero_is_no_difference() -> None:
    report = lipcert.bound(Ones().eval(), input_shape=(1, 1, 4, 4))
    assert (report.lower, report.upper) == (0.0, 0.0)
