"""Slopes of products of two signals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipcert.blocks.base import Block
from lipcert.blocks.product import MatMul
from lipcert.regions.forward.entry import GROW, Entry, Exit, middle, or_infinite
from lipcert.regions.forward.stack import LOST, Stack
from lipcert.rigor.rounding import EPS, gamma


def product(block: Block, entries: list[Entry]) -> Exit:
    """u v - u_0 v_0 = u (v - v_0) + v_0 (u - u_0), and J = u J_v + v J_u."""
    return _bilinear(block, entries, _times)


def matmul(block: Block, entries: list[Entry]) -> Exit:
    assert isinstance(block, MatMul)
    return _bilinear(block, entries, lambda a, b: _matrix_times(block, a, b))


Bilinear = Callable[[Stack, Stack], Stack]  # both broadcast over rows


def _bilinear(block: Block, entries: list[Entry], times: Bilinear) -> Exit:
    u, v = entries
    n = u.slopes

    def around(entry: Entry) -> Stack:
        centre, radius = middle(*entry.hull)
        return centre[:, None], radius[:, None]

    def rows(entry: Entry, where: slice) -> Stack:
        return entry.stack[0][:, where], entry.stack[1][:, where]

    def error(entry: Entry) -> Stack:
        return torch.zeros_like(entry.stack[0][:, :1]), entry.stack[1][:, :1]

    def point(entry: Entry) -> Stack:
        return entry.value[:, None], torch.zeros_like(entry.value[:, None])

    chord = slice(2, 2 + n)
    tangent = slice(2 + n, None)
    slopes = sum(times(around(u), rows(v, chord)), times(rows(u, chord), point(v)))
    jacobian = sum(times(around(u), rows(v, tangent)), times(rows(u, tangent), around(v)))
    drift = sum(times(around(u), error(v)), times(error(u), point(v)))
    value, noise = middle(*block.values_on((u.value, u.value), (v.value, v.value)))
    plain, spread = middle(*block.values_on((u.lower, u.upper), (v.lower, v.upper)))
    off = (noise[:, None] + drift[0].abs() + drift[1]) * GROW + LOST
    return Exit(
        (
            torch.cat([value[:, None], plain[:, None], slopes[0], jacobian[0]], dim=1),
            torch.cat([off, spread[:, None], slopes[1], jacobian[1]], dim=1),
        )
    )


def sum(a: Stack, b: Stack) -> Stack:
    centre = a[0] + b[0]
    return centre, (a[1] + b[1] + 2 * EPS * centre.abs()) * GROW + LOST


def _times(a: Stack, b: Stack) -> Stack:
    centre = a[0] * b[0]
    radius = (a[0].abs() + a[1]) * b[1] + a[1] * b[0].abs()
    return centre, or_infinite((radius + 2 * EPS * centre.abs()) * GROW + LOST)


def _matrix_times(block: MatMul, a: Stack, b: Stack) -> Stack:
    ac, ar = (t.reshape(*t.shape[:2], block.batch, block.m, block.k) for t in a)
    bc, br = (t.reshape(*t.shape[:2], block.batch, block.k, block.n) for t in b)
    noise = 2 * gamma(block.k + 4)
    radius = (ac.abs() + ar) @ br + ar @ bc.abs() + noise * (ac.abs() @ bc.abs())
    return _flat5(ac @ bc), _flat5(or_infinite(radius * (1 + 4 * gamma(block.k + 8)) + LOST))


def _flat5(t: Tensor) -> Tensor:
    return t.reshape(*t.shape[:2], -1)
