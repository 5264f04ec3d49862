"""The value of a captured graph."""

from __future__ import annotations

import torch
from torch.fx.node import map_arg

from lipcert.load.capture.capture import Captured, constants


def evaluate(captured: Captured, x: torch.Tensor) -> torch.Tensor:
    """Node by node, by the operators of torch that it names, with floating constants in the dtype of `x`."""
    stored = {name: t.to(x.dtype) if t.is_floating_point() else t for name, t in constants(captured.program).items()}
    values = {}
    for node in captured.program.graph.nodes:
        if node.op == "placeholder":
            values[node] = stored.get(node.name, x)
        elif node.op == "output":
            return values[node.args[0][0]]
        else:
            values[node] = node.target(*map_arg(node.args, values.get), **map_arg(node.kwargs, values.get))
    raise AssertionError("no output")
