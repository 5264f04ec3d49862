"""Maximum pooling: windows as selections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lipcert.blocks.selection import Selection
from lipcert.load.lower.builder import Builder, Signal
from lipcert.load.lower.signals import POSITIONS, Unread, all_dims, reduced_shape


def extreme(minimum: bool) -> Callable[..., Signal]:
    def rule(b: Builder, x: Signal, dim: Any = None, keepdim: bool = False) -> Signal:
        dims = all_dims(x, dim)
        gone = sorted({d % max(1, len(x.shape)) for d in dims})
        rest = [d for d in range(len(x.shape)) if d not in gone]
        numbers = torch.arange(x.size).reshape(x.shape)
        windows = numbers.permute(*rest, *gone).reshape(-1, math.prod(x.shape[d] for d in gone)) if x.shape else numbers
        windows = windows.reshape(-1, max(1, windows.shape[-1] if windows.dim() else 1)).contiguous()
        return b.block(Selection(windows, x.size, minimum), [x], reduced_shape(x, dims, keepdim))

    return rule


def extreme_with_index(minimum: bool) -> Callable[..., tuple[Signal, Unread]]:
    return lambda b, x, dim, keepdim=False: (extreme(minimum)(b, x, dim, keepdim), POSITIONS)


def pooling_windows(
    shape: Sequence[int], spans: Sequence[Sequence[tuple[int, int]]], dilation: Sequence[int]
) -> Tensor:
    """(planes * prod(out), prod(kernel)) entry numbers of pooling windows over the last len(spans) axes, -1 outside."""
    dims = len(spans)
    spatial, planes = list(shape[-dims:]), math.prod(shape[:-dims])
    flat = torch.zeros([1] * (2 * dims), dtype=torch.int64)
    inside = torch.ones([1] * (2 * dims), dtype=torch.bool)
    for axis, (n, windows, d) in enumerate(zip(spatial, spans, dilation, strict=True)):
        reach = windows[0][1] - windows[0][0] if windows else 1
        places = torch.tensor([start for start, _ in windows])[:, None] + torch.arange(0, reach, d)[None, :]
        view = [1] * (2 * dims)
        view[axis], view[dims + axis] = places.shape
        places = places.reshape(view)
        flat = flat * n + places
        inside = inside & (places >= 0) & (places < n)
    window = torch.where(inside, flat, torch.full_like(flat, -1)).reshape(-1, math.prod(flat.shape[dims:]))
    offsets = torch.arange(planes)[:, None, None] * math.prod(spatial)
    return torch.where(window[None] >= 0, window[None] + offsets, window[None]).reshape(-1, window.shape[1])


def max_pool(dims: int) -> Callable[..., tuple[Signal, Unread]]:
    def rule(
        b: Builder,
        x: Signal,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> tuple[Signal, Unread]:
        from lipcert.load.lower.windows import pool_spans

        kernel, padding, dilation, stride = (
            tuple(v) * (dims if len(v) == 1 else 1) for v in (kernel, padding, dilation, stride or kernel)
        )
        spans = [
            pool_spans(n, k, s, p, d, ceil_mode)
            for n, k, s, p, d in zip(x.shape[-dims:], kernel, stride, padding, dilation, strict=True)
        ]
        windows = pooling_windows(x.shape, spans, dilation)
        return _select_windows(b, x, windows, (*x.shape[:-dims], *(len(s) for s in spans))), POSITIONS

    return rule


def adaptive_max_pool(dims: int) -> Callable[..., tuple[Signal, Unread]]:
    def rule(b: Builder, x: Signal, size: Sequence[int]) -> tuple[Signal, Unread]:
        numbers = torch.arange(x.size).reshape(-1, *x.shape[-dims:])
        rows = []
        grids = [
            [(i * n // m, -((-(i + 1) * n) // m)) for i in range(m)] for n, m in zip(x.shape[-dims:], size, strict=True)
        ]
        for cell in _cells(grids):
            rows.append(numbers[(slice(None), *(slice(a, z) for a, z in cell))].reshape(numbers.shape[0], -1))
        width = max(r.shape[1] for r in rows)
        rows = [torch.nn.functional.pad(r, (0, width - r.shape[1]), value=-1) for r in rows]
        windows = torch.stack(rows, dim=1).reshape(-1, width)
        return _select_windows(b, x, windows, (*x.shape[:-dims], *size)), POSITIONS

    return rule


def _cells(grids: list[list[tuple[int, int]]]) -> list[tuple[tuple[int, int], ...]]:
    cells: list[tuple[tuple[int, int], ...]] = [()]
    for spans in grids:
        cells = [(*cell, span) for cell in cells for span in spans]
    return cells


def _select_windows(b: Builder, x: Signal, windows: Tensor, shape: Sequence[int]) -> Signal:
    if x.pad_minus_inf is not None:
        pad = x.pad_minus_inf
        windows = torch.where(windows >= 0, pad[windows.clamp(min=0)], windows)
        x = Signal(x.node, (b.nodes[x.node].size,))
    if bool((windows < 0).all(dim=1).any()):
        b.refuse("a pooling window lies in the padding only")
    return b.block(Selection(windows.contiguous(), b.nodes[x.node].size), [x], shape)
