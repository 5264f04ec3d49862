"""A torch function as the graph that it is lowered to, and whether the two agree."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from helpers import f64

from lipcert.load.capture import decompose
from lipcert.load.capture.export import drop_checks
from lipcert.load.lower import lower
from lipcert.network.graph import Graph


class Function(torch.nn.Module):
    def __init__(self, function: Callable[..., Any], constants: tuple[torch.Tensor, ...]):
        super().__init__()
        self.function, self.count = function, len(constants)
        for i, value in enumerate(constants):
            self.register_buffer(f"c{i}", value)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, *(getattr(self, f"c{i}") for i in range(self.count)))


@functools.cache
def export(function: Callable[..., Any], shape: tuple[int, ...], constants: tuple[torch.Tensor, ...] = (),
           decomposed: bool = False) -> torch.export.ExportedProgram:  # fmt: skip
    with torch.no_grad():
        program = torch.export.export(Function(function, constants), (f64(*shape),), strict=False)
        if decomposed:
            program = program.run_decompositions(decompose.table())
    drop_checks(program)
    return program


def graph_of(function: Callable[..., Any], *shape: int, constants: tuple[torch.Tensor, ...] = ()) -> Graph:
    return lower(export(function, shape, constants))[0]


def same(graph: Graph, function: Callable[..., Any], shape: tuple[int, ...], constants: tuple, points: torch.Tensor):
    """The graph agrees with the function at every point; returns the largest relative difference."""
    true = torch.stack([function(x, *constants).to(torch.float64) for x in points])
    assert graph.output_shape == tuple(true.shape[1:])
    found = graph.evaluate(points.reshape(len(points), -1)).reshape(true.shape)
    assert found.dtype == torch.float64
    if not true.numel():
        return 0.0
    return float((found - true).abs().max() / true.abs().max().clamp(min=1e-3))
