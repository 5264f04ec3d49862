"""The network at many points, one per column: what sampling spends its time on. Floating values, no error term.

A plain chain of dense layers runs as one matrix product per layer into a buffer that stays in cache, the bias as the
weight of a row of ones, the activation in place. Columns and not rows: a layer of 100 neurons is then a long matrix for
the product, and the row of ones costs nothing. Every other network runs as `Graph.evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.network import walk
from lipcert.network.affine import linear_ancestors
from lipcert.network.graph import VALUES, Graph
from lipcert.sampling.directions import flops_of, widest

PIECE = 1000  # of one product on a CPU: the signals of a hundred neurons stay in the second-level cache
CUDA_ENTRIES, CPU_ENTRIES = 2**27, 2**22  # of the widest signal
SMALL = 4096  # flops of a matrix that is not worth a question

# In place, (x, *parameters); every other row of the activation table is evaluated and copied.
IN_PLACE: Mapping[str, Callable[..., Any]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "sigmoid": torch.sigmoid_,
    "abs": torch.abs_,
    "leaky_relu": torch.nn.functional.leaky_relu_,
}


@dataclass(frozen=True, eq=False)
class Stage:
    """z -> act(W z + b): `weight` is (m, n + 1) with b last. `activation` None: affine."""

    weight: Tensor
    activation: Elementwise | None


class Forward:
    """`run(x)`: x (n + 1, k) with ones in the last row -> (m, k). `columns`: how many are good to bring at once."""

    def __init__(self, graph: Graph, device: str | torch.device, dtype: torch.dtype):
        self.device, self.dtype = torch.device(device), dtype
        self.size = graph.nodes[graph.input].size
        self.outputs = graph.nodes[graph.output].size
        stages = chain(graph)
        self.graph = graph.to(self.device, dtype) if stages is None else graph
        self.stages = stages and [Stage(s.weight.to(self.device, dtype).contiguous(), s.activation) for s in stages]
        entries = max(1, widest(graph))
        most = CPU_ENTRIES if self.device.type == "cpu" else CUDA_ENTRIES
        self.columns = max(1, min(16 * PIECE if self.device.type == "cpu" else 2**20, most // entries))
        self._buffers: dict[int, list[Tensor]] = {}

    def ones(self, k: int) -> Tensor:
        """An input for `run`, to be filled but for its last row."""
        return torch.ones(self.size + 1, k, device=self.device, dtype=self.dtype)

    def run(self, x: Tensor) -> Tensor:
        if self.stages is None:
            return self.graph.evaluate(x[:-1].T).T
        k = x.shape[1]
        piece = -(-k // max(1, round(k / PIECE))) if self.device.type == "cpu" else k
        y = x.new_empty(self.outputs, k)
        for start in range(0, k, piece):
            y[:, start : start + piece] = self._chain(x[:, start : start + piece])
        return y

    def _chain(self, x: Tensor) -> Tensor:
        assert self.stages is not None
        k = x.shape[1]
        if k not in self._buffers:
            if len(self._buffers) > 3:
                self._buffers.clear()
            self._buffers[k] = [x.new_ones(stage.weight.shape[0] + 1, k) for stage in self.stages]
        z = x
        for stage, buffer in zip(self.stages, self._buffers[k], strict=True):
            v = buffer[:-1]
            torch.mm(stage.weight, z, out=v)
            if stage.activation is not None:
                activate(stage.activation, v)
            z = buffer
        return z[:-1]


def activate(activation: Elementwise, v: Tensor) -> None:
    in_place = IN_PLACE.get(activation.name)
    if in_place is None:
        v.copy_(activation(v))
    else:
        in_place(v, *activation.params)


def chain(graph: Graph) -> list[Stage] | None:
    """The stages of a plain chain whose affine parts cost no more as matrices; None for every other network."""
    stages: list[Stage] = []
    source = graph.input
    for i in graph.nonlinear:
        node = graph.nodes[i]
        block = node.what.block  # type: ignore[union-attr]
        if not isinstance(block, Pointwise) or any(isinstance(p, Tensor) for p in block.activation.params):
            return None  # parameters per neuron are laid out for rows
        matrix = affine(graph, source, node.parents[0])
        if matrix is None:
            return None
        stages.append(Stage(matrix, block.activation))
        source = i
    if source == graph.output:
        return stages
    matrix = affine(graph, source, graph.output)
    return None if matrix is None else [*stages, Stage(matrix, None)]


def affine(graph: Graph, source: int, target: int) -> Tensor | None:
    """(m, n + 1): the affine map from one signal to another, b last. None where other signals enter, or where the
    matrix costs much more than its parts (convolutions)."""
    sources, nodes = linear_ancestors(graph, target)
    if sources != (source,):
        return None
    n, m = graph.nodes[source].size, graph.nodes[target].size
    cost = sum(flops_of(graph.nodes[i]) for i in nodes)
    if 2 * n * m > 1.5 * cost + SMALL:
        return None
    rows = torch.cat([torch.eye(n, dtype=torch.float64), torch.zeros(1, n, dtype=torch.float64)])
    values = walk.forward(graph, VALUES, rows, start={source: rows}, nodes=nodes)[target]
    at_zero = values[-1]
    return torch.cat([values[:-1] - at_zero, at_zero[None]]).T
