"""One module in every format: what one of them can say, all can, with the same blocks and the same proved constants."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lipcert
from lipcert.network.graph import Nonlinear

EPS = 2.0**-10  # exact in float32: exporters write it as that
ROOT = 1 / math.sqrt(EPS)


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


# (the function of one row, the l2 constant of its one block)
SCALAR: list[tuple[Callable[[Tensor], Tensor], float]] = [
    (lambda x: torch.exp(-(x**2)), math.sqrt(2 / math.e)),
    (lambda x: torch.exp(-x * x), math.sqrt(2 / math.e)),
    (lambda x: torch.sqrt(x * x + EPS), 1.0),
    (lambda x: (x.pow(2) + EPS) ** 0.5, 1.0),
    (lambda x: x / torch.sqrt(1 + x**2), 1.0),
    (lambda x: x * torch.rsqrt(1 + x * x), 1.0),
    (lambda x: 1 / (1 + x**2), 3 * math.sqrt(3) / 8),
    (lambda x: torch.log(1 + torch.exp(x)), 1.0),
    (lambda x: -torch.log(1 + torch.exp(-x)), 1.0),
    (lambda x: F.logsigmoid(x), 1.0),
    (lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)), 1.0),
    (lambda x: 1 - 2 / (torch.exp(2 * x) + 1), 0.25),  # the block is 1 / (exp(v) + 1), with v = 2 x
]
OF_ROWS: list[tuple[Callable[[Tensor], Tensor], float]] = [
    (lambda x: F.normalize(x, dim=-1, eps=EPS), 1 / EPS),
    (lambda x: x / torch.sqrt((x * x).sum(-1, keepdim=True) + EPS), ROOT),
    (lambda x: x * torch.rsqrt(mean(x.pow(2)) + EPS), ROOT),
    (lambda x: F.layer_norm(x, [4], eps=EPS), ROOT),
    (lambda x: (x - mean(x)) / torch.sqrt(mean((x - mean(x)) ** 2) + EPS), ROOT),
    (lambda x: F.lp_pool1d(x.unsqueeze(1), 2.0, 2).squeeze(1), 1.0),
    (lambda x: torch.topk(x, 4, -1).values, 1.0),
    (lambda x: torch.sort(x, -1).values, 1.0),
]


class All(nn.Module):
    """Each function of a small linear map of its own, side by side."""

    def __init__(self, functions: list[tuple[Callable[[Tensor], Tensor], float]]):
        super().__init__()
        torch.manual_seed(0)
        self.functions = [function for function, _ in functions]
        self.maps = nn.ModuleList(nn.Linear(4, 4) for _ in functions)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([f(layer(x)) for f, layer in zip(self.functions, self.maps, strict=True)], dim=-1)


def constants(model: lipcert.Model) -> list[float]:
    """The l2 constants of the functions in order: nonlinearities in a row, one after the other, multiply."""
    graph, found = model.graph, {}
    for i, node in enumerate(graph.nodes):
        before = [found[p] for p in node.parents if p in found]
        if isinstance(node.what, Nonlinear):
            found[i] = math.prod(before) * max(node.what.block.lipschitz("2"))
        elif before and i != graph.output:
            found[i] = max(before)
    ends = [i for i, node in enumerate(graph.nodes) if isinstance(node.what, Nonlinear)]
    inner = {p for i in ends for p in ancestors(graph, i)}
    return [found[i] for i in ends if i not in inner]


def ancestors(graph: object, i: int) -> set[int]:
    seen, todo = set(), list(graph.nodes[i].parents)  # type: ignore[attr-defined]
    while todo:
        p = todo.pop()
        if p not in seen:
            seen.add(p)
            todo += graph.nodes[p].parents  # type: ignore[attr-defined]
    return seen


@pytest.mark.every(2)
@pytest.mark.parametrize("functions", [SCALAR, OF_ROWS], ids=["scalar", "rows"])
def test_every_format_says_the_same(functions: list[tuple[Callable[[Tensor], Tensor], float]], tmp_path: Path) -> None:
    module, x = All(functions).eval(), torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    paths = [tmp_path / f"m.{ending}" for ending in ("onnx", "pt", "pt2")]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(paths[0]), dynamo=False, opset_version=17)
        torch.jit.save(torch.jit.trace(module, x, check_trace=False), str(paths[1]))
        torch.export.save(torch.export.export(module, (x,)), paths[2])
    models = [lipcert.load(module, input_shape=(1, 4))]
    models += [lipcert.load(path, input_shape=(1, 4)) for path in paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
    reports = [lipcert.bound(model, methods=["product"]) for model in models]
    for model, report in zip(models, reports, strict=True):
        found = constants(model)
        assert len(found) == len(functions)
        for value, (_, exact) in zip(found, functions, strict=True):
            assert exact * (1 - 1e-9) <= value <= exact * 1.00001
        assert report.upper == pytest.approx(reports[0].upper, rel=1e-5)  # type: ignore[arg-type]
    points = torch.randn(64, 1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first, *others = (model.graph.evaluate(points) for model in models)
    for out in others:
        torch.testing.assert_close(out, first, rtol=1e-9, atol=1e-9)
