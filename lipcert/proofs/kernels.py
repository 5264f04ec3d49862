"""Affine parts between feature maps as kernels: what they do is the same at every position (MATH sections 2 and 12).

    v[c, o] = sum over c', t of weight[c, c', t] z[c', stride o + start + t],    o in the window of v, z = 0 outside its own

holds exactly, for some weight within `radius`. Two convolutions in a row are one kernel only where the second never reads
a padded zero in whose place the first, left alone, would have put something else: else the reason names the node.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lipcert.network.affine import linear_ancestors
from lipcert.network.graph import Add, Concat, Graph, Linear, Node, Offset
from lipcert.network.walk import Rules, Visit, forward
from lipcert.operators.compose import product_enclosure
from lipcert.operators.linear import Adjoint, Conv, Dense, Operator, Scale, Select
from lipcert.rigor.rounding import TINY, gamma, up
from lipcert.terms.errors import RefusedModel

Shape = tuple[int, ...]  # (channels, *window)


class NotAMap(Exception):
    """This affine part is no kernel. `padding`: the node that reads that of another linear operator."""

    def __init__(self, node: str, reason: str, padding: Node | None = None):
        super().__init__(reason)
        self.node, self.reason, self.padding = node, reason, padding


@dataclass(frozen=True, eq=False)
class Kernel:
    """One entry per axis in `start`, `stride` and the windows `before` (of z) and `after` (of v).

    `up`: v is what the transpose of this kernel makes of z, as of transposed convolutions and nearest neighbours; then `before`
    is the window of v, the finer one, and `after` that of z."""

    weight: Tensor  # (c_out, c_in, *k) float64
    radius: Tensor | None
    start: Shape
    stride: Shape
    before: Shape
    after: Shape
    up: bool = False

    @property
    def taps(self) -> Shape:
        return tuple(self.weight.shape[2:])

    @property
    def shape(self) -> Shape:
        """Of v."""
        return (self.weight.shape[1], *self.before) if self.up else (self.weight.shape[0], *self.after)

    def transposed(self) -> Kernel:
        """The kernel that the transpose of one of stride 1 is."""
        axes = tuple(range(2, self.weight.dim()))
        turned = lambda t: None if t is None else t.transpose(0, 1).flip(axes)  # noqa: E731
        start = tuple(-(s + t - 1) for s, t in zip(self.start, self.taps, strict=True))
        weight = turned(self.weight)
        assert weight is not None
        return Kernel(weight, turned(self.radius), start, self.stride, self.after, self.before)

    def reach(self) -> Tensor:
        return torch.zeros_like(self.weight) if self.radius is None else self.radius

    def reads(self, axis: int) -> Tensor:
        """(outputs, taps): positions of z that are read along an axis."""
        o, t = torch.arange(self.after[axis]), torch.arange(self.taps[axis])
        return self.stride[axis] * o[:, None] + self.start[axis] + t[None, :]

    def wraps(self, axis: int, torus: int) -> bool:
        """Whether, on a torus of this size, a read outside the window of z comes round to its inside."""
        reads, n = self.reads(axis), self.before[axis]
        inside = (reads >= 0) & (reads < n)
        return bool((torch.remainder(reads, torus) < n).ne(inside).any())


def box(edges: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
    """The last axes of a tensor between (start, length)."""
    return (..., *(slice(start, start + length) for start, length in edges))


def identity(shape: Shape) -> Kernel:
    channels, window = shape[0], shape[1:]
    ones = (1,) * len(window)
    weight = torch.eye(channels, dtype=torch.float64).reshape(channels, channels, *ones)
    return Kernel(weight, None, (0,) * len(window), ones, window, window)


def composed(second: Kernel, first: Kernel, node: Node) -> Kernel:
    """The kernel of second, of this node, after first, either way up. Raises NotAMap."""
    if not second.up and not first.up:
        return after(second, first, node)
    flat = lambda kernel: set(kernel.stride) <= {1}  # noqa: E731
    if not (second.up or flat(second)) or not (first.up or flat(first)):
        reason = f"{node.name} goes to another resolution and back: no activation lies between"
        raise NotAMap(node.name, reason, node)
    inner = second if second.up else second.transposed()  # (second first)' = first' second'
    outer = first if first.up else first.transposed()
    return replace(after(replace(outer, up=False), replace(inner, up=False), node), up=True)


def after(second: Kernel, first: Kernel, node: Node) -> Kernel:
    """The kernel of second, of this node, after first, none of them up. Raises NotAMap."""
    for d in range(len(first.after)):
        reads = second.reads(d).flatten()
        padded = reads[(reads < 0) | (reads >= first.after[d])]
        left_alone = first.stride[d] * padded[:, None] + first.start[d] + torch.arange(first.taps[d])[None, :]
        if bool(((left_alone >= 0) & (left_alone < first.before[d])).any()):
            reason = f"{node.name} reads the padding of another linear operator: no activation lies between them"
            raise NotAMap(node.name, reason, node)
    taps = [s * (b - 1) + a for s, a, b in zip(first.stride, first.taps, second.taps, strict=True)]
    shape = (second.weight.shape[0], first.weight.shape[1], *taps)
    centre, mass, radius = (first.weight.new_zeros(shape) for _ in range(3))
    a, b, ra, rb = first.weight, second.weight, first.reach(), second.reach()
    exact = first.radius is None and second.radius is None
    for tap in itertools.product(*map(range, second.taps)):
        place = box([(s * t, k) for s, t, k in zip(first.stride, tap, first.taps, strict=True)])
        here: Any = (..., *tap)
        at, rat = b[here], rb[here]
        centre[place] += torch.tensordot(at, a, dims=1)
        mass[place] += torch.tensordot(at.abs(), a.abs(), dims=1)
        if not exact:
            radius[place] += torch.tensordot(rat, a.abs() + ra, dims=1) + torch.tensordot(at.abs(), ra, dims=1)
    n = b.shape[1] * math.prod(second.taps)
    found = up((gamma(n + 2) * mass + radius) * (1 + 4 * gamma(n + 8)) + 4 * n * TINY)
    start = tuple(s * t + u for s, t, u in zip(first.stride, second.start, first.start, strict=True))
    stride = tuple(s * t for s, t in zip(first.stride, second.stride, strict=True))
    return Kernel(centre, found, start, stride, first.before, second.after)


def added(kernels: Sequence[Kernel], node: str) -> Kernel:
    """The sum, on the box of all taps."""
    if len(kernels) == 1:
        return kernels[0]
    one = kernels[0]
    if any((k.stride, k.before, k.shape, k.up) != (one.stride, one.before, one.shape, one.up) for k in kernels):
        raise NotAMap(node, f"{node} adds maps of different strides of one signal")
    axes = range(len(one.start))
    start = tuple(min(k.start[d] for k in kernels) for d in axes)
    end = [max(k.start[d] + k.taps[d] for k in kernels) for d in axes]
    centre, mass, radius = (
        one.weight.new_zeros(*one.weight.shape[:2], *(e - s for s, e in zip(start, end, strict=True))) for _ in range(3)
    )
    for k in kernels:
        place = box([(k.start[d] - start[d], k.taps[d]) for d in axes])
        centre[place] += k.weight
        mass[place] += k.weight.abs()
        radius[place] += k.reach()
    n = len(kernels)
    slack = up((radius + gamma(n) * mass) * (1 + 4 * gamma(n + 4)))
    return Kernel(centre, slack, start, one.stride, one.before, one.after, one.up)


def stacked(parts: Sequence[Kernel | None], channels: Sequence[int], node: str) -> Kernel:
    """Concatenation of channels; a part that is None is zero."""
    given = [k for k in parts if k is not None]
    padded = []
    for k, first in zip(parts, itertools.accumulate(channels, initial=0), strict=False):
        if k is None:
            continue
        dim = int(k.up)  # of the channels of v
        rows = (slice(None),) * dim + (slice(first, first + k.shape[0]),)
        sizes = [sum(channels) if d == dim else n for d, n in enumerate(k.weight.shape)]
        weight, radius = (k.weight.new_zeros(sizes) for _ in range(2))
        weight[rows], radius[rows] = k.weight, k.reach()
        padded.append(replace(k, weight=weight, radius=None if k.radius is None else radius))
    if any(k.shape[1:] != given[0].shape[1:] for k in given):
        raise NotAMap(node, f"{node} joins maps of different sizes")
    return added(padded, node)


def kernel_of(operator: Operator, shape: Shape, out: Shape, node: str) -> Kernel:
    """The kernel of one operator on a map of this shape. `out`: what the node says of its shape. Raises NotAMap."""
    match operator:
        case Conv() if operator.batch == 1 and not operator.geometry.transposed:
            found = _of_convolution(operator, shape)
        case Adjoint(of=Conv() as of) if of.batch == 1 and shape == (of.weight.shape[0], *of.out_shape):
            found = _of_convolution(of, (of.weight.shape[1] * of.geometry.groups, *of.geometry.in_shape))
            found = None if found is None else replace(found, up=True)
        case Scale():
            found = _of_scale(operator, shape)
        case Select():
            found = _of_selection(operator, shape, out) or _of_neighbours(operator, shape, out)
        case Dense():
            found = _of_matrix(operator, shape)
        case _:
            found = None
    if found is None:
        raise NotAMap(node, f"{node} does not do the same at every position of its map")
    return replace(found, up=False).transposed() if found.up and set(found.stride) <= {1} else found


def _of_convolution(operator: Conv, shape: Shape) -> Kernel | None:
    g = operator.geometry
    outputs, inner = operator.weight.shape[:2]
    if shape != (inner * g.groups, *g.in_shape):
        return None

    def spread(t: Tensor | None) -> Tensor | None:  # groups side by side, dilation filled with zeros
        if t is None:
            return None
        lengths = [d * (k - 1) + 1 for d, k in zip(g.dilation, t.shape[2:], strict=True)]
        wide = t.new_zeros(outputs, inner * g.groups, *lengths)
        steps = tuple(slice(None, None, d) for d in g.dilation)
        rows = outputs // g.groups
        for i in range(g.groups):
            wide[(slice(i * rows, (i + 1) * rows), slice(i * inner, (i + 1) * inner), *steps)] = t[
                i * rows : (i + 1) * rows
            ]
        return wide

    weight = spread(operator.weight)
    assert weight is not None
    start = tuple(-low for low, _ in g.padding)
    return Kernel(weight, spread(operator.radius), start, tuple(g.stride), tuple(g.in_shape), operator.out_shape)


def _of_scale(operator: Scale, shape: Shape) -> Kernel | None:
    table = operator.factor.reshape(shape[0], -1)
    radius = None if operator.radius is None else operator.radius.reshape(shape[0], -1).amax(1)
    if table.numel() == 0 or not bool((table == table[:, :1]).all()):
        return None
    one = identity(shape)
    ones = (1,) * (len(shape) - 1)
    spread = lambda t: torch.diag(t).reshape(shape[0], shape[0], *ones)  # noqa: E731
    return replace(one, weight=spread(table[:, 0]), radius=None if radius is None else spread(radius))


def _of_selection(operator: Select, shape: Shape, out: Shape) -> Kernel | None:
    """A pick of channels, a stride and a shift, checked against every entry of the index."""
    if math.prod(out) != operator.out_size or len(out) != len(shape) or not operator.out_size:
        return None
    index = operator.index.reshape(out)
    places = torch.unravel_index(index.clamp(min=0), shape)
    there = (index >= 0).nonzero()
    if len(there) == 0:
        return None
    start, stride = [], []
    for d in range(1, len(shape)):
        p, o = places[d][index >= 0], there[:, d]
        low, high = int(o.argmin()), int(o.argmax())
        step = 1 if o[low] == o[high] else int((p[high] - p[low]) // (o[high] - o[low]))
        if step < 1:
            return None
        start.append(int(p[low] - step * o[low]))
        stride.append(step)
    chosen = torch.full((out[0],), -1)
    chosen[there[:, 0]] = places[0][index >= 0]
    weight = torch.zeros(out[0], shape[0], dtype=torch.float64)
    weight[chosen >= 0, chosen[chosen >= 0]] = 1.0
    kernel = Kernel(
        weight.reshape(*weight.shape, *(1,) * len(start)), None, tuple(start), tuple(stride), shape[1:], out[1:]
    )
    claimed = chosen.reshape(-1, *(1,) * len(start)).expand(out).clone()
    for d in range(len(start)):
        reads = kernel.reads(d)[:, 0].reshape(-1, *(1,) * (len(start) - 1 - d))
        inside = (claimed >= 0) & (reads >= 0) & (reads < shape[1 + d])
        claimed = torch.where(inside, claimed * shape[1 + d] + reads, -1)
    return kernel if torch.equal(claimed, index) else None


def _of_neighbours(operator: Select, shape: Shape, out: Shape) -> Kernel | None:
    """Every entry several times, side by side: the transpose of sums over boxes."""
    if math.prod(out) != operator.out_size or len(out) != len(shape) or out[0] != shape[0] or 0 in out:
        return None
    ratios = [n // max(m, 1) for n, m in zip(out[1:], shape[1:], strict=True)]
    index = torch.arange(math.prod(shape)).reshape(shape)
    for d, ratio in enumerate(ratios, start=1):
        index = index.repeat_interleave(ratio, d)
    if not torch.equal(index.reshape(-1), operator.index):
        return None
    one = identity(shape)
    weight = one.weight.expand(-1, -1, *ratios).contiguous()
    return replace(one, weight=weight, stride=tuple(ratios), before=out[1:], up=True)


def _of_matrix(operator: Dense, shape: Shape) -> Kernel | None:
    """A mix of channels, or along one axis a matrix whose rows are one row, shifted (average pooling)."""
    g, m, n = operator.weight.shape
    if g != 1:
        return None
    one = identity(shape)
    if (operator.outer, n, operator.inner) == (1, shape[0], math.prod(shape[1:])):
        ones = (1,) * (len(shape) - 1)
        radius = None if operator.radius is None else operator.radius[0].reshape(m, n, *ones)
        return replace(one, weight=operator.weight[0].reshape(m, n, *ones), radius=radius)
    for d in range(1, len(shape)):
        if (operator.outer, n, operator.inner) == (math.prod(shape[:d]), shape[d], math.prod(shape[d + 1 :])) and m > 1:
            row = _shifted_row(operator.weight[0])
            beside = operator.radius is not None and bool((operator.radius[operator.weight == 0] != 0).any())
            if row is None or beside:  # what is off the taps must be zero, and known to be
                return None
            taps, start, stride = row
            lengths = tuple(len(taps) if e == d else 1 for e in range(1, len(shape)))
            weight = one.weight.reshape(shape[0], shape[0], *(1,) * len(lengths)) * taps.reshape(lengths)
            slack = None if operator.radius is None else (weight != 0) * operator.radius.amax()
            put = lambda old, new, d=d: tuple(new if e == d - 1 else v for e, v in enumerate(old))  # noqa: E731
            return Kernel(weight, slack, put(one.start, start), put(one.stride, stride), one.before, put(one.after, m))
    return None


def _shifted_row(matrix: Tensor) -> tuple[Tensor, int, int] | None:
    """(taps, start, stride) with matrix[o, i] = taps[i - stride o - start]; None where it is not of that form."""
    m, n = matrix.shape
    o, i = matrix.nonzero(as_tuple=True)
    if len(o) == 0:
        return None
    for stride in range(1, n + 1):
        t = i - stride * o
        start = int(t.min())
        if int(t.max()) - start >= n:
            continue
        taps = matrix.new_zeros(int(t.max()) - start + 1)
        taps[t - start] = matrix[o, i]
        shift = torch.arange(n)[None, :] - stride * torch.arange(m)[:, None] - start
        inside = (shift >= 0) & (shift < len(taps))
        if bool((torch.where(inside, taps[shift.clamp(0, len(taps) - 1)], 0.0) == matrix).all()):
            return taps, start, stride
    return None


def _linear(at: Visit, u: Kernel) -> Kernel:
    kernel = kernel_of(at.what.operator, u.shape, tuple(at.node.shape[1:]), at.node.name)
    if u is at.state:  # the signal itself
        return kernel
    if isinstance(at.what.operator, Scale):
        factor = kernel.weight.flatten(1).sum(1)  # the diagonal, exactly
        slack = None if kernel.radius is None else kernel.radius.flatten(1).sum(1)
        shape = (1,) * u.up + (-1,) + (1,) * (u.weight.dim() - 1 - u.up)
        weight, radius = product_enclosure(
            u.weight, u.radius, factor.reshape(shape), None if slack is None else slack.reshape(shape)
        )
        return replace(u, weight=weight, radius=radius)
    return composed(kernel, u, at.node)


def _concat(at: Visit, *parts: Kernel | None) -> Kernel:
    window = next(k for k in parts if k is not None).shape[1:]
    sizes = [at.graph.nodes[p].size for p in at.node.parents]
    if any(size % math.prod(window) for size in sizes):
        raise NotAMap(at.node.name, f"{at.node.name} joins maps of different sizes")
    return stacked(parts, [size // math.prod(window) for size in sizes], at.node.name)


KERNELS: Rules = {  # Kernel from the source to here; state: the source's identity
    Linear: _linear,
    Add: lambda at, *us: added([u for u in us if u is not None], at.node.name),
    Concat: _concat,
    Offset: lambda at, *us: us[0] if us else None,
}


def kernels(graph: Graph, shapes: dict[int, Shape], target: int) -> dict[int, Kernel]:
    """The kernel from each source of an affine signal. `shapes`: of those sources that are maps. Raises NotAMap."""
    sources, nodes = linear_ancestors(graph, target)
    found: dict[int, Kernel] = {}
    for source in sources:
        if source not in shapes:
            name = graph.nodes[source].name
            raise NotAMap(name, f"{name} is no feature map")
        one = identity(shapes[source])
        values: dict[int, Any] = forward(graph, KERNELS, one, start={source: one}, nodes=nodes)
        if target in values:
            found[source] = values[target]
    return found


def input_shape(graph: Graph) -> Shape:
    """As the first convolution reads it, where that is all of it: (1, 28, 28, 1) of a file may be 28 x 28."""
    for node in graph.nodes:
        if isinstance(node.what, Linear) and isinstance(node.what.operator, Conv):
            g = node.what.operator.geometry
            channels = node.what.operator.weight.shape[1] * g.groups
            if channels * math.prod(g.in_shape) == graph.nodes[graph.input].size:
                return (channels, *g.in_shape)
            break
    shape = graph.input_shape
    if 3 <= len(shape) <= 5 and shape[0] == 1:  # torus_norm.PHASE is of three axes
        return tuple(shape[1:])
    raise RefusedModel("the input is no feature map", node=graph.nodes[graph.input].name)
