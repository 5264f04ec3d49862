"""Networks whose Lipschitz constants are known exactly, by a line of algebra each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Known:
    """`constant[p]`: the constant in the norms p -> p. `tight`: the product attains it; else it is only a lower limit.
    `approached`: only in a limit, so that sampling stays below it."""

    module: Callable[[], nn.Module]
    shape: tuple[int, ...]
    constant: dict[str, float]
    tight: bool = True
    approached: bool = False


class Run(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def run(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Run(function)


def linear(rows: list[list[float]], bias: bool = False) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias).double()
    layer.weight.data = torch.tensor(rows, dtype=torch.float64)
    return layer


def conv(kernel: list[float], **options: int) -> nn.Conv1d:
    layer = nn.Conv1d(1, 1, len(kernel), bias=False, **options).double()
    layer.weight.data = torch.tensor([[kernel]], dtype=torch.float64)
    return layer


def norm_of(variance: float, gain: float) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(2, eps=1.0).double()
    assert layer.running_var is not None
    layer.running_var.fill_(variance)
    layer.weight.data.fill_(gain)
    return layer.eval()


class Shared(nn.Module):
    """One layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear([[0.0, 3.0], [2.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.relu(self.layer(x))
        return x


def same(value: float) -> dict[str, float]:
    return dict.fromkeys(("1", "2", "inf"), value)


ROOT2, ROOT3 = math.sqrt(2), math.sqrt(3)

ZOO: dict[str, Known] = {
    "identity": Known(nn.Identity, (1, 3), same(1.0)),
    "x - x": Known(run(lambda x: x - x), (1, 3), same(0.0)),
    "constant": Known(run(lambda x: torch.ones(1, 2, dtype=x.dtype)), (1, 3), same(0.0)),
    "scale by -3": Known(run(lambda x: -3 * x), (1, 3), same(3.0)),
    "dense": Known(lambda: linear([[3.0, 0.0], [4.0, 0.0]]), (1, 2), {"1": 7.0, "2": 5.0, "inf": 4.0}),
    "rank one": Known(lambda: linear([[1.0, 1.0], [1.0, 1.0]]), (1, 2), same(2.0)),
    "two linear layers": Known(lambda: nn.Sequential(linear([[1.0, -1.0]]), linear([[1.0], [1.0]])), (1, 2), same(2.0)),
    "linear layers that cancel": Known(
        lambda: nn.Sequential(linear([[1.0, 0.0], [0.0, 0.0]]), linear([[0.0, 0.0], [0.0, 5.0]])), (1, 2), same(0.0)
    ),
    "x + R x, R = -1": Known(run(lambda x: x + (-1.0) * x), (1, 3), same(0.0)),
    "x + flip": Known(run(lambda x: x + x.flip(1)), (1, 4), same(2.0)),
    "sum": Known(run(lambda x: x.sum(1, keepdim=True)), (1, 4), {"1": 1.0, "2": 2.0, "inf": 4.0}),
    "mean": Known(run(lambda x: x.mean(1, keepdim=True)), (1, 4), {"1": 0.25, "2": 0.5, "inf": 1.0}),
    "expand": Known(run(lambda x: x.expand(1, 4)), (1, 1), {"1": 4.0, "2": 2.0, "inf": 1.0}),
    "repeat": Known(run(lambda x: x.repeat(1, 3)), (1, 2), {"1": 3.0, "2": ROOT3, "inf": 1.0}),
    "concat": Known(run(lambda x: torch.cat([3 * x, 4 * x], 1)), (1, 2), {"1": 7.0, "2": 5.0, "inf": 4.0}),
    "concat of activations": Known(
        run(lambda x: torch.cat([torch.relu(x), torch.relu(3 * x)], 1)),
        (1, 2),
        {"1": 4.0, "2": math.sqrt(10), "inf": 3.0},
    ),
    "residual": Known(run(lambda x: x + torch.relu(x)), (1, 3), same(2.0)),
    "shared layer": Known(Shared, (1, 2), {"1": 18.0, "2": 18.0, "inf": 18.0}, tight=False),
    "conv, circular sums": Known(lambda: conv([1.0, 1.0], stride=2), (1, 1, 4), {"1": 1.0, "2": ROOT2, "inf": 2.0}),
    "conv, one tap": Known(lambda: conv([0.0, 2.0, 0.0], padding=1), (1, 1, 5), same(2.0)),
    "BatchNorm, negative gain": Known(lambda: norm_of(3.0, -4.0), (1, 2), same(2.0)),
    "reflection": Known(
        run(lambda x: nn.functional.pad(x, (2, 2), mode="reflect")), (1, 1, 3), {"1": 3.0, "2": ROOT3, "inf": 1.0}
    ),
    "max pool 3 x 3": Known(lambda: nn.MaxPool2d(3, 1, 1), (1, 1, 5, 5), {"1": 9.0, "2": 3.0, "inf": 1.0}),
    "max pool, disjoint": Known(lambda: nn.MaxPool2d(2), (1, 1, 4, 4), same(1.0)),
    "average pool": Known(lambda: nn.AvgPool2d(2), (1, 1, 4, 4), {"1": 0.25, "2": 0.5, "inf": 1.0}),
    "global average pool": Known(lambda: nn.AdaptiveAvgPool2d(1), (1, 1, 4, 4), {"1": 1 / 16, "2": 0.25, "inf": 1.0}),
    "nearest upsampling": Known(
        lambda: nn.Upsample(scale_factor=2, mode="nearest"), (1, 1, 2, 2), {"1": 4.0, "2": 2.0, "inf": 1.0}
    ),
    "softmax": Known(lambda: nn.Softmax(1), (1, 2), same(0.5)),
    "softmax, temperature 1/8": Known(run(lambda x: torch.softmax(8 * x, 1)), (1, 2), same(4.0)),
    "log-softmax": Known(lambda: nn.LogSoftmax(1), (1, 3), {"1": 2.0, "2": ROOT3, "inf": 2.0}, approached=True),
    "logsumexp": Known(run(lambda x: torch.logsumexp(x, 1)), (1, 3), same(1.0), approached=True),
    "layer norm": Known(lambda: nn.LayerNorm(2, eps=0.25).double(), (1, 2), same(2.0), tight=False),
    "sort": Known(run(lambda x: torch.sort(x, 1).values), (1, 3), same(1.0)),
    "maximum": Known(run(lambda x: torch.maximum(x[:, :1], x[:, 1:])), (1, 2), same(1.0)),
    "euclidean norm": Known(run(lambda x: x.norm(dim=1)), (1, 4), {"1": 1.0, "2": 1.0, "inf": 2.0}),
    "absolute sum": Known(run(lambda x: x.abs().sum(1)), (1, 4), {"1": 1.0, "2": 2.0, "inf": 4.0}),
}
