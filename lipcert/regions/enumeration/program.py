"""The network of hinges as layers of dense matrices: what the search runs on.

HingeLayer k reads earlier signals (the input t and outputs of hinge layers): v_k = sum_j M_kj z_j + b_k, z_k = l min(v_k, 0) +
r max(v_k, 0). The last layer is the output. The coordinates that move are x_i = centre_i + scale_i t_i with |t_i| <= radius_i <= 1, a
box that contains the region; scale_i are powers of two, so nothing is rounded by them. Every matrix entry and bias is
known up to an error, 0 where floats hold it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lipcert.blocks.pointwise import Pointwise
from lipcert.network.affine import is_source, linear_ancestors
from lipcert.network.graph import Add, Concat, Enclosure, Graph, Linear, Nonlinear, Offset, enclose_linear
from lipcert.operators.linear import Operator
from lipcert.regions.enumeration.hinges import hinged, sides
from lipcert.rigor.rounding import EPS, TINY, gamma, power_of_two_scale, up
from lipcert.terms.errors import RefusedModel

INPUTS = 7  # that move: a box of n has 2^n vertices
MORE_INPUTS = 16  # of norms, by facets
ENTRIES = 2**24  # of all matrices together


@dataclass(frozen=True, eq=False)
class HingeLayer:
    """`blocks`: (source layer, matrix (size, source size), error or None); source -1 is t. `left`, `right`: slopes.
    `front` (size, inputs): its matrix on x, where it reads x. `plain_bias`: before x became t, where floats hold it."""

    blocks: tuple[tuple[int, np.ndarray, np.ndarray | None], ...]
    bias: np.ndarray
    bias_error: np.ndarray
    left: np.ndarray
    right: np.ndarray
    front: np.ndarray | None = None
    plain_bias: np.ndarray | None = None

    @property
    def size(self) -> int:
        return len(self.bias)


@dataclass(frozen=True, eq=False)
class Program:
    layers: tuple[HingeLayer, ...]  # the last one is the output
    centre: np.ndarray  # (n,) of the coordinates that move
    scale: np.ndarray  # (n,)
    radius: np.ndarray  # (n,)
    moving: np.ndarray  # their positions in the input
    still: np.ndarray  # (inputs,): the centre of the region, all coordinates
    graph: Graph = field(repr=False)  # of hinges
    nodes: tuple[int, ...] = ()  # of the layers' signals in it
    reads: tuple[int, ...] = ()  # and of what they read

    @property
    def input(self) -> int:
        return self.graph.input

    @property
    def hinges(self) -> int:
        return sum(layer.size for layer in self.layers[:-1])

    def point(self, t: np.ndarray) -> Tensor:
        """(k, inputs) of t (k, n)."""
        x = np.repeat(self.still[None], len(t), axis=0)
        x[:, self.moving] = self.centre + self.scale * t
        return torch.from_numpy(x)


def program(graph: Graph, centre: Tensor, radius: Tensor) -> Program:
    """The layers on the box |x - centre| <= radius, (inputs,) float64 each; coordinates of radius 0 stay fixed.

    Raises RefusedModel for networks that are not piecewise linear, or too large to be written out."""
    new = hinged(graph)
    moving = (radius > 0).nonzero().flatten()
    scale = 2 * power_of_two_scale(radius[moving])
    sources = {new.input: -1}
    layers: list[HingeLayer] = []
    nodes: list[tuple[int, int]] = []
    entries = 0
    for i, last in (*((i, False) for i in new.nonlinear), (new.output, True)):  # the output may be a hinge itself
        node = new.nodes[i]
        read = i if last else node.parents[0]
        if not last and not _matters(new, i):
            continue
        matrices, bias = affine_part(new, read)
        blocks, front = [], None
        plain = None if bool(bias[1].any()) else _array(bias[0])
        for source, matrix in matrices.items():
            centre_rows, error = matrix
            if source == new.input:
                bias = _moved(matrix, bias, centre)
                front = _array(centre_rows.T)
                plain = plain if error is None else None
                centre_rows = _scaled(centre_rows[moving], scale)
                error = None if error is None else error[moving] * scale[:, None] + TINY * (error[moving] != 0)
            if bool(centre_rows.any()) or error is not None:
                entries += centre_rows.numel()
                if entries > ENTRIES:
                    raise RefusedModel(f"its matrices have more than {ENTRIES:,} entries: use --method linear")
                blocks.append((sources[source], _array(centre_rows.T), None if error is None else _array(error.T)))
        left, right = (torch.ones(node.size, dtype=torch.float64),) * 2
        if not last:
            assert isinstance(node.what, Nonlinear)
            assert isinstance(node.what.block, Pointwise)
            (left, _), (right, _) = sides(node.what.block)
        value, slack = bias
        numbers = (_array(value), _array(slack), _array(left), _array(right))
        layers.append(HingeLayer(tuple(blocks), *numbers, front, plain))
        sources[i] = len(layers) - 1
        nodes.append((i, read))
    box = (_array(centre[moving]), _array(scale), _array(radius[moving] / scale))
    places = tuple(i for i, _ in nodes), tuple(read for _, read in nodes)
    return Program(tuple(layers), *box, moving.numpy(), _array(centre), new, *places)


def _scaled(rows: Tensor, scale: Tensor) -> Tensor:
    """Rows times powers of two, which is exact: RefusedModel where they would leave the numbers of float64."""
    scaled = rows * scale[:, None]
    if bool((scaled / scale[:, None] != rows).any()):
        raise RefusedModel("weights times the size of the region underflow or overflow: take a region of another size")
    return scaled


def _matters(graph: Graph, i: int) -> bool:
    """The output reads it, directly or not."""
    if ("matters",) not in graph.memo:
        wanted = {graph.output}
        for k in range(graph.output, -1, -1):
            if k in wanted:
                wanted.update(graph.nodes[k].parents)
        graph.memo["matters",] = wanted
    return i in graph.memo["matters",]


def _array(t: Tensor) -> np.ndarray:
    return np.array(t.detach().numpy(), dtype=np.float64, order="C", copy=True)


Rows = tuple[Tensor, Tensor | None]


def affine_part(graph: Graph, target: int) -> tuple[dict[int, Rows], tuple[Tensor, Tensor]]:
    """What `target` is of its sources: source -> (matrix (source size, size), error or None), and (bias, error)."""
    key = ("affine part", target)
    if key not in graph.memo:
        found, nodes = linear_ancestors(graph, target)
        matrices: dict[int, Rows] = {}
        for source in found:
            size = graph.nodes[source].size
            start = Enclosure(torch.eye(size, dtype=torch.float64))
            matrices[source] = _rows(_carried(graph, nodes, {source: start}, size, False)[target])
        zeros = {source: Enclosure(torch.zeros(1, graph.nodes[source].size, dtype=torch.float64)) for source in found}
        value = _carried(graph, nodes, zeros, 1, True)[target]
        graph.memo[key] = matrices, (value.centre[0], value.reach()[0])
    return graph.memo[key]


def _rows(u: Enclosure) -> Rows:
    return u.centre, None if u.radius is None or not bool(u.radius.any()) else u.radius


def _carried(
    graph: Graph, nodes: tuple[int, ...], values: dict[int, Enclosure], rows: int, offsets: bool
) -> dict[int, Enclosure]:
    """Signals carried through affine nodes; absent parents are zero. Exact where every sum is."""
    for i in nodes:
        node = graph.nodes[i]
        zero = [Enclosure(torch.zeros(rows, graph.nodes[p].size, dtype=torch.float64)) for p in node.parents]
        args = [values.get(p, z) for p, z in zip(node.parents, zero, strict=True)]
        match node.what:
            case Linear(operator):
                values[i] = _through(operator, args[0])
            case Add():
                values[i] = _total(args)
            case Concat():
                radius = None if all(a.radius is None for a in args) else torch.cat([a.reach() for a in args], dim=1)
                values[i] = Enclosure(torch.cat([a.centre for a in args], dim=1), radius)
            case Offset(value, slack):
                shift = Enclosure(value.expand(rows, -1), None if slack is None else slack.expand(rows, -1))
                if offsets:
                    values[i] = _total([*args, shift])
                else:
                    values[i] = args[0] if args else Enclosure(torch.zeros(rows, node.size, dtype=torch.float64))
            case _:
                assert is_source(graph, i)
    return values


def _through(operator: Operator, u: Enclosure) -> Enclosure:
    """A product with rows of at most one entry, which is +-1, makes no rounding error: entries are read, not summed."""
    one = (u.centre != 0).sum(dim=1) <= 1
    signs = (u.centre == 0) | (u.centre.abs() == 1)
    if u.radius is None and bool(one.all()) and bool(signs.all()):
        error = operator.radius_operator()
        return Enclosure(operator.mv(u.centre), None if error is None else up(error.mv(u.centre.abs())))
    return enclose_linear(operator, u)


def _total(parts: list[Enclosure]) -> Enclosure:
    total = parts[0]
    for part in parts[1:]:
        a, b = total.centre, part.centre
        s = a + b
        t = s - a
        error = (a - (s - t)) + (b - t)  # TwoSum (Knuth)
        if total.radius is None and part.radius is None and bool((error == 0).all()):
            total = Enclosure(s)
        else:
            radius = total.reach() + part.reach() + EPS * s.abs() * (error != 0)
            total = Enclosure(s, up(radius * (1 + 8 * EPS)) * (radius > 0))
    return total


def _moved(matrix: Rows, bias: tuple[Tensor, Tensor], centre: Tensor) -> tuple[Tensor, Tensor]:
    """b + M c for x = c + t."""
    rows, error = matrix
    if not bool(centre.any()):
        return bias
    products = rows * centre[:, None]
    made = products.sum(dim=0)
    n = len(centre) + 2
    mass = products.abs().sum(dim=0) + bias[0].abs()
    radius = bias[1] + gamma(n) * mass + (0 if error is None else (error * centre.abs()[:, None]).sum(dim=0))
    radius = up(radius * (1 + 4 * gamma(n + 8))) + TINY * (mass > 0)
    return bias[0] + made, torch.where(mass > 0, radius, bias[1])
