"""Attention masks: -inf that a softmax reads is the weight 0, in every format; nothing else may read it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attentions import ATTENTIONS, INF, Attention, D, Filled, Nothing, T
from torch import Tensor, nn

import lipcert
from lipcert.blocks.softmax import Softmax
from lipcert.load.lower import masks
from lipcert.terms.errors import RefusedModel

FORMATS = ("module", "onnx", "pt2", "torchscript", "dynamo")
X = torch.randn(1, T, D, generator=torch.Generator().manual_seed(1))
EPS = 0.01
# torch's new exporter masks with the lowest number of float32: a row that shows nothing has equal weights in its file
CASES = [(kind, cls) for kind in FORMATS for cls in ATTENTIONS if (kind, cls) != ("dynamo", Nothing)]


def made(kind: str, module: nn.Module, folder: Path) -> Any:
    path = folder / "m"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.trace(module, X).save(str(path))
        elif kind == "pt2":
            torch.export.save(torch.export.export(module, (X,), strict=False), str(path) + ".pt2")
            return folder / "m.pt2"
        elif kind != "module":
            torch.onnx.export(module, (X,), str(path), dynamo=kind == "dynamo", opset_version=18, verbose=False)
    return module if kind == "module" else path


def attained(module: nn.Module, points: int = 20) -> float:
    """The largest Jacobian at points of the ball, by autograd in float64."""
    twin = type(module)().double()
    twin.load_state_dict(module.state_dict())
    draw, best = torch.Generator().manual_seed(2), 0.0
    for k in range(points):
        away = torch.randn(X.shape, generator=draw).double()
        x = X.double() + (EPS if k else 0.0) * away / away.norm()
        J = torch.autograd.functional.jacobian(twin, x).reshape(T * D, T * D)
        best = max(best, float(torch.linalg.matrix_norm(J, 2)))
    return best


@pytest.mark.every(12)
@pytest.mark.parametrize(("kind", "cls"), CASES)
def test_attention_on_a_ball(kind: str, cls: type[Attention], tmp_path: Path) -> None:
    module = cls().eval()
    given = made(kind, module, tmp_path)
    model = lipcert.load(given, input_shape=(1, T, D))
    assert np.allclose(
        model.graph.evaluate(X.double()[None][0]).numpy().reshape(T, D), module(X)[0].numpy(force=True), atol=1e-5
    )
    report = lipcert.bound(model, region=lipcert.Ball(X, EPS, "2"), methods=["transfer", "sampled"])
    truth = attained(module)
    assert report.upper is not None
    assert report.lower <= report.upper
    assert truth * (1 - 1e-6) <= report.upper  # a file holds the weights in float32, as the module does
    assert report.upper <= 1.02 * truth


def test_every_row_is_there_and_no_weight_is_moved() -> None:
    """The weights themselves, of a mask with 0, 1, 2 .. entries in a row, along each axis."""
    from lipcert.load.lower.builder import Builder, Signal

    shape = (2, 5, 3)
    draw = torch.Generator().manual_seed(0)
    for dim in range(3):
        hidden = torch.rand(shape, generator=draw) < 0.5
        builder = Builder(shape, "x")
        found = masks.softmax(builder, Signal(0, shape, hidden=hidden), dim, safe=True)
        graph = builder.graph(found)
        x = torch.randn(shape, generator=draw).double()
        truth = x.masked_fill(hidden, -INF).softmax(dim).nan_to_num(0.0)
        assert torch.allclose(graph.evaluate(x[None]).reshape(shape), truth)


def test_a_mask_that_is_dropped_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the softmax of all entries."""

    def unmasked(b: Any, x: Any, dim: int, safe: bool) -> Any:
        n = x.shape[dim]
        return b.block(Softmax(x.size // n, n, 1), [masks.split(b, x)[0]], x.shape)

    monkeypatch.setattr(masks, "softmax", unmasked)
    with pytest.raises(RefusedModel, match="parity"):
        lipcert.load(Filled(), input_shape=(1, T, D))


class Read(nn.Module):
    """-inf where something else reads it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("mask", torch.tensor([[0.0, -INF]]))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.mask
        if self.how == "exp":
            return y.exp()
        if self.how == "minus":
            return (-y).softmax(-1)
        if self.how == "output":
            return y
        if self.how == "nothing":
            return (y + self.mask.flip(1)).softmax(-1)
        if self.how == "product":
            return (x * self.mask).softmax(-1)
        return y.log_softmax(-1)


@pytest.mark.parametrize("how", ["exp", "minus", "output", "nothing", "product", "log"])
def test_what_else_reads_it_is_refused(how: str) -> None:
    with pytest.raises(RefusedModel, match=r"-inf|not finite|no finite"):
        lipcert.load(Read(how), input_shape=(1, 2))


def test_rows_that_show_nothing_are_zero_in_every_spelling(tmp_path: Path) -> None:
    """SDPA exports as softmax, IsNaN, Where; a row that shows one key has the weight 1, without slope."""
    module = Nothing().eval()
    model = lipcert.load(made("onnx", module, tmp_path))
    assert np.allclose(
        model.graph.evaluate(X.double()).numpy().reshape(T, D), module(X)[0].numpy(force=True), atol=1e-5
    )
