"""Parity: wrong readings are refused whatever the scale of the outputs, right ones pass in every arithmetic."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from lipcert.errors import RefusedModel
from lipcert.load.read import read
from lipcert.load.source import Reference
from lipcert.parity import SCALES, check_parity

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
