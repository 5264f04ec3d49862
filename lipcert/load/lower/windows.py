"""Means over windows, interpolation and folding: linear maps of an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lipcert.load.lower.builder import Builder, Signal
from lipcert.operators.linear import Adjoint, Dense
from lipcert.rigor import constants
from lipcert.rigor.arithmetic import folding
from lipcert.rigor.constants import Constant
from lipcert.rigor.rounding import EPS

aten = torch.ops.aten


def stored_weight(value: Constant) -> tuple[Tensor, Tensor | None]:
    return value.centre.contiguous(), None if value.radius is None else value.radius.contiguous()


def along_axis(b: Builder, x: Signal, matrix: Constant, axis: int) -> Signal:
    """Apply an (m, n) matrix along one axis."""
    axis %= len(x.shape)
    w, radius = stored_weight(matrix)
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    operator = Dense(w[None], outer, inner, None if radius is None else radius[None])
    return b.linear(x, operator, (*x.shape[:axis], w.shape[0], *x.shape[axis + 1 :]))


def _windows_mean(spans: Sequence[tuple[int, int]], counts: Sequence[int], n: int) -> Constant:
    rows = torch.zeros(len(spans), n, dtype=torch.float64)
    for row, (start, stop) in enumerate(spans):
        rows[row, start:stop] = 1.0
    return constants.divide(rows, torch.tensor(counts, dtype=torch.float64)[:, None])


def pool_spans(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> list[tuple[int, int]]:
    """Unclipped (start, stop) of each window along an axis, as torch counts them; stop - start <= d (k - 1) + 1."""
    reach = d * (k - 1) + 1
    count = (n + 2 * p - reach + (s - 1 if ceil else 0)) // s + 1
    if ceil and (count - 1) * s >= n + p:  # the last window must start inside the input or the left padding
        count -= 1
    return [(i * s - p, i * s - p + reach) for i in range(count)]


def avg_pool(dims: int) -> Callable[..., Signal]:
    def rule(
        b: Builder,
        x: Signal,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Signal:
        kernel, padding = (tuple(v) * (dims if len(v) == 1 else 1) for v in (kernel, padding))
        stride = tuple(stride or kernel) * (dims if len(stride or kernel) == 1 else 1)
        for axis in range(dims):
            place = len(x.shape) - dims + axis
            n, p = x.shape[place], padding[axis]
            spans = pool_spans(n, kernel[axis], stride[axis], p, 1, ceil_mode)
            inside = [(max(a, 0), max(min(z, n), 0)) for a, z in spans]
            padded = [min(z, n + p) - a for a, z in spans]
            counts = padded if count_include_pad else [z - a for a, z in inside]
            x = along_axis(b, x, _windows_mean(inside, [1] * len(spans) if divisor_override else counts, n), place)
        return x if divisor_override is None else b.scale(x, constants.reciprocal(float(divisor_override)))

    return rule


def adaptive_avg_pool(dims: int) -> Callable[..., Signal]:
    def rule(b: Builder, x: Signal, size: Sequence[int]) -> Signal:
        for axis, m in enumerate(size):
            place = len(x.shape) - dims + axis
            n = x.shape[place]
            spans = [(i * n // m, -((-(i + 1) * n) // m)) for i in range(m)]
            x = along_axis(b, x, _windows_mean(spans, [z - a for a, z in spans], n), place)
        return x

    return rule


def interpolation(dims: int, reach: int, matrix_of: Callable[..., Tensor]) -> Callable[..., Signal]:
    """Linear and cubic interpolation act axis by axis. The weights that torch computes in float64 are off by at most
    a few units of the source coordinate (n + m) u times the slope of the kernel (below 2); a neighbour may enter."""

    def rule(b: Builder, x: Signal, size: Sequence[int], align_corners: bool, *scales: float | None) -> Signal:
        how = folding()
        unit = EPS if how is None else how.unit
        for axis, m in enumerate(size):
            place = len(x.shape) - dims + axis
            n = x.shape[place]
            weights = matrix_of(n, int(m), align_corners, scales[axis] if axis < len(scales) else None)
            near = torch.nn.functional.max_pool1d((weights != 0).double()[None], 2 * reach + 1, 1, reach)[0]
            x = along_axis(b, x, Constant(weights, near * 64 * (n + m) * unit), place)
        return x

    return rule


def linear_matrix(n: int, m: int, align: bool, scale: float | None) -> Tensor:
    return aten.upsample_linear1d.default(torch.eye(n, dtype=torch.float64)[None], [m], align, scale)[0].T.contiguous()


def cubic_matrix(n: int, m: int, align: bool, scale: float | None) -> Tensor:
    columns = torch.eye(n, dtype=torch.float64)[None, :, :, None]
    return aten.upsample_bicubic2d.default(columns, [m, 1], align, scale, None)[0, :, :, 0].T.contiguous()


def smoothed_matrix(name: str) -> Callable[..., Tensor]:
    """Of antialiased interpolation, whose kernel is as wide as an output entry."""
    target = getattr(aten, name).default

    def matrix(n: int, m: int, align: bool, scale: float | None) -> Tensor:
        # along the last axis: torch 2.13 takes (1, n, n, 1) for channels last, and errs
        columns = torch.eye(n, dtype=torch.float64)[None, :, None, :].contiguous()
        return target(columns, [1, m], align, None, scale)[0, :, 0, :].T.contiguous()

    return matrix


def fold(b: Builder, x: Signal, *args: Any) -> Signal:
    """col2im adds patches back: the transpose of im2col."""
    size, *rest = args
    squeezed = x.shape if len(x.shape) == 3 else (1, *x.shape)
    channels = squeezed[1] // math.prod(rest[0])
    image = torch.arange(1, squeezed[0] * channels * math.prod(size) + 1, dtype=torch.float64)
    patches = aten.im2col.default(image.reshape(squeezed[0], channels, *size), *rest)
    from lipcert.operators.linear import Select

    back = Adjoint(Select(patches.reshape(-1).to(torch.int64) - 1, image.numel()))
    shape = (squeezed[0], channels, *size)
    return b.linear(x, back, shape if len(x.shape) == 3 else shape[1:])
