"""Maxima over windows of a map as one constraint (MATH section 12: ReLU and max pool merged).

A maximum over a window moves by no more than what its entries move by, and an activation of slopes in [-h, h] by no more than
h times its own: with v the signal before both, for each channel

    sum over p of du(p)^2  <=  sum over p and o of h^2 dv(stride p + start + o)^2,    0 <= o < size,

where an entry that several windows share counts once for each. Entries that the windows do not have only add to the right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.selection import Selection
from lipcert.network.graph import Graph, Nonlinear
from lipcert.proofs.kernels import Kernel, Shape


@dataclass(frozen=True)
class Windows:
    """Window p of a map covers stride p + start + 0 .. size - 1, one entry per axis."""

    start: Shape
    stride: Shape
    size: Shape

    def shifts(self, kernel: Kernel) -> Iterator[tuple[Shape, Shape]]:
        """(start, stride) of the kernels of v(stride p + start + o), for all o; `kernel` is that of v."""
        stride = tuple(a * b for a, b in zip(kernel.stride, self.stride, strict=True))
        for o in torch.cartesian_prod(*(torch.arange(k) for k in self.size)).reshape(-1, len(self.size)).tolist():
            moved = (a * (s + d) + b for a, b, s, d in zip(kernel.stride, kernel.start, self.start, o, strict=True))
            yield tuple(moved), stride

    def counts(self, torus: Shape) -> Tensor:
        """(*torus): in how many windows of the torus each entry of v lies."""
        found = torch.ones((), dtype=torch.float64)
        for n, start, stride, size in zip(torus, self.start, self.stride, self.size, strict=True):
            places = stride * torch.arange(n // stride)[:, None] + start + torch.arange(size)[None, :]
            along = torch.bincount(torch.remainder(places, n).flatten(), minlength=n).double()
            found = found[..., None] * along
        return found


def windows_of(block: Selection, shape: Shape, out: Shape) -> Windows | None:
    """Boxes that cover all windows, those of a channel in that channel; None where that is not so. `shape` of the map that is
    read, `out` of the maxima."""
    if math.prod(shape) != block.in_size or math.prod(out) != block.windows.shape[0] or shape[0] != out[0]:
        return None
    there = block.windows >= 0
    row = there.nonzero()[:, 0]
    places, at = torch.unravel_index(block.windows[there], shape), torch.unravel_index(row, out)
    if len(shape) != len(out) or not bool((places[0] == at[0]).all()):
        return None
    found = []
    for d in range(1, len(shape)):
        ends = []
        for stride in range(1, max(2, 2 * -(-shape[d] // out[d]))):
            shift = places[d] - stride * at[d]
            off = abs(stride - shape[d] / out[d])  # of equal sizes the one that looks like this pool
            ends.append((int(shift.max() - shift.min()) + 1, off, stride, int(shift.min())))
        found.append(min(ends))
    sizes, _, strides, starts = zip(*found, strict=True)
    return Windows(starts, strides, sizes)


def overlapping(block: Selection) -> bool:
    """Windows that share entries, or lack some: others are differences of maps, one by one (maxima.without_maxima)."""
    return block.overlap > 1 or bool((block.windows < 0).any())


def before_pool(graph: Graph, i: int) -> tuple[int, Tensor]:
    """The signal v that pool i reads through at most one activation of its own, and h, (size,) or ()."""
    parent = graph.nodes[i].parents[0]
    node = graph.nodes[parent]
    readers = sum(other.parents.count(parent) for other in graph.nodes) + (graph.output == parent)
    if isinstance(node.what, Nonlinear) and isinstance(node.what.block, Pointwise) and readers == 1:
        slopes = node.what.block.largest_slopes()
        if bool(torch.isfinite(slopes).all()):
            return node.parents[0], slopes
    return parent, torch.ones((), dtype=torch.float64)
