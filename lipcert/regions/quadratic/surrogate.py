"""A network with one piecewise quadratic layer on each path, as a piecewise linear one whose pieces are its own.

On a cell where all hinges are settled and each entry v_k of a quadratic layer lies between two kinks,

    y = L x + sum_k w_k s_k(v_k(x)) + const,   s_k'(v) = m_k v + b_k,   J(x) = L + W diag(m_k v_k(x) + b_k) V,

affine in x. The surrogate puts out what this needs: L x without the quadratic part, the v_k, and relu(v_k - c) for each kink
c, which says on which side of it the cell lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.blocks.pointwise import Pointwise
from lipcert.network.graph import Concat, Graph, Node, Nonlinear, Offset, What
from lipcert.proofs.maxima import without_maxima
from lipcert.regions.enumeration.hinges import CORNER
from lipcert.regions.enumeration.program import affine_part
from lipcert.terms.errors import RefusedModel

Sides = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class QuadraticLayer:
    """One quadratic node. `values`: its first row v among the outputs of the surrogate; `above`: the first rows relu(v - c),
    kink by kink. `ramps`: (m, b), each (low, high) of (size,), of the pieces. W (outputs, size) and its error."""

    size: int
    values: int
    above: tuple[int, ...]
    ramps: tuple[tuple[Sides, Sides], ...]
    weight: np.ndarray
    error: np.ndarray


@dataclass(frozen=True, eq=False)
class Surrogate:
    """`graph`: piecewise linear; its first `outputs` rows are L x."""

    graph: Graph
    outputs: int
    layers: tuple[QuadraticLayer, ...]


def is_quadratic(block: object) -> bool:
    return isinstance(block, Pointwise) and bool(block.activation.ramps())


def surrogate(graph: Graph) -> Surrogate:
    """Raises RefusedModel where no layer is piecewise quadratic, or something nonlinear follows one."""
    if ("quadratic",) not in graph.memo:
        graph.memo["quadratic",] = _Builder(without_maxima(graph)).made()
    return graph.memo["quadratic",]


class _Builder:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes: list[Node] = []
        self.place: list[int] = []
        self.quadratic = [i for i in graph.nonlinear if is_quadratic(graph.nodes[i].what.block)]  # type: ignore[union-attr]
        if not self.quadratic:
            raise RefusedModel("no layer is piecewise quadratic")
        self._check()

    def _check(self) -> None:
        after: set[int] = set()
        for i, node in enumerate(self.graph.nodes):
            behind = not after.isdisjoint(node.parents)
            if behind and isinstance(node.what, Nonlinear):
                raise RefusedModel(
                    f"{node.name} follows a piecewise quadratic layer, and pieces are enumerated where nothing "
                    "nonlinear does: use --method branch",
                    node=node.name,
                )
            if behind or i in self.quadratic:
                after.add(i)

    def _put(self, what: What, parents: tuple[int, ...], size: int, name: str) -> int:
        self.nodes.append(Node(what, parents, size, (size,), name))
        return len(self.nodes) - 1

    def made(self) -> Surrogate:
        for i, node in enumerate(self.graph.nodes):
            if i in self.quadratic:
                zero = Offset(torch.zeros(node.size, dtype=torch.float64))
                self.place.append(self._put(zero, (), node.size, node.name))
            else:
                self.nodes.append(
                    Node(node.what, tuple(self.place[p] for p in node.parents), node.size, node.shape, node.name)
                )
                self.place.append(len(self.nodes) - 1)
        outputs = self.graph.nodes[self.graph.output].size
        parts, rows = [self.place[self.graph.output]], outputs
        matrices, _ = affine_part(self.graph, self.graph.output)
        layers = []
        for i in self.quadratic:
            if i not in matrices:  # the output does not read it
                continue
            values, above = rows, []
            for signal in self._signals(i):
                above.append(rows)
                parts.append(signal)
                rows += self.graph.nodes[i].size
            layers.append(self._layer(i, values, tuple(above[1:]), matrices[i]))
        whole = self._put(Concat(), tuple(parts), rows, "pieces")
        return Surrogate(Graph(tuple(self.nodes), whole, self.place[self.graph.input]), outputs, tuple(layers))

    def _signals(self, i: int) -> list[int]:
        """v, and relu(v - c) for each kink c, known up to the rounding of its parameters."""
        node, relu = self.graph.nodes[i], Elementwise(ACTIVATIONS["relu"], ())
        v = self.place[node.parents[0]]
        found = [v]
        for kink in _block(node).activation.kinks():
            c = _full(torch.as_tensor(kink, dtype=torch.float64), node.size)
            moved = self._put(Offset(-c, CORNER * c.abs()), (v,), node.size, node.name)
            found.append(self._put(Nonlinear(Pointwise(relu, node.size)), (moved,), node.size, node.name))
        return found

    def _layer(
        self, i: int, values: int, above: tuple[int, ...], matrix: tuple[Tensor, Tensor | None]
    ) -> QuadraticLayer:
        node, (weight, error) = self.graph.nodes[i], matrix

        def sides(pair: tuple[Tensor, Tensor]) -> Sides:
            low, high = (_full(side, node.size).numpy() for side in pair)
            return low, high

        ramps = tuple((sides(m), sides(b)) for m, b in _block(node).activation.ramps())
        slack = torch.zeros_like(weight) if error is None else error
        return QuadraticLayer(node.size, values, above, ramps, weight.T.numpy().copy(), slack.T.numpy().copy())


def _block(node: Node) -> Pointwise:
    assert isinstance(node.what, Nonlinear)
    assert isinstance(node.what.block, Pointwise)
    return node.what.block


def _full(t: Tensor, size: int) -> Tensor:
    return t.reshape(-1).expand(size).contiguous()
