"""What one signal on a torus reads of another, frequency by frequency: H(f) = sum_t w_t e^{2 pi i f t / N}, and how wrong it may be.

Trusted by `lipcert verify`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.operators.torus_norm import PHASE, phases
from lipcert.proofs.kernels import Shape
from lipcert.rigor.rounding import EPS, TINY, gamma, sum_up, up


@dataclass(frozen=True, eq=False)
class Coupling:
    """Row signal k reads column signal j: taps (c_k, c_j, T), scaled, at places (T, axes) of j's torus. k >= sites: flat.
    `window` (T,): its taps are (c_k, c_j, 1), times these."""

    k: int
    j: int
    taps: Tensor
    places: Tensor
    window: Tensor | None = None


def factored(
    factor: Tensor, taps: Tensor, radius: Tensor | None, window: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The taps times a factor of at most eight roundings; the sums of their absolute values; and by how much |sum of
    taps e^{i ..}| may be wrong when it is formed, by one entry each. Of a `window` the sum is formed first, one more rounding."""
    value = factor[:, :, None] * taps
    mass, n, whole = sum_up(value.abs(), 2), taps.shape[2], 1.0
    tiny = torch.full_like(mass, TINY)
    if window is not None:
        n, whole = len(window), float(sum_up(window.abs()))
        mass, tiny = up(mass * whole), TINY * (1 + whole + (1 + whole) * mass)
    wrong = 2 * (gamma(n + 16) + PHASE) * (1 + 16 * EPS) * mass + 2 * n * tiny
    if radius is not None:
        wrong = wrong + (1 + 1e-6) * sum_up(factor.abs()[:, :, None] * radius, 2) * whole
    return value, mass, up(wrong * (1 + 1e-12))


def boxed(shape: Shape, start: Shape) -> Tensor:
    """(T, axes): the places of a box, the last axis fastest."""
    return torch.tensor(list(itertools.product(*map(range, shape)))).reshape(-1, len(shape)) + torch.tensor(start)


def symbols(c: Coupling, frequencies: Tensor, torus: Shape) -> Tensor:
    """(F, n_k, n_j) complex: sum over t of taps_t e^{2 pi i f t / N}, each phase within PHASE."""
    cos = torch.ones(len(frequencies), len(c.places), dtype=torch.float64)
    sin = torch.zeros_like(cos)
    for d, size in enumerate(torus):
        turn = torch.remainder(frequencies[:, None, d] * c.places[None, :, d], size)
        cs, sn = (table[turn] for table in phases(size))
        cos, sin = cos * cs - sin * sn, cos * sn + sin * cs
    if c.window is not None:
        return torch.complex(cos @ c.window, sin @ c.window)[:, None, None] * c.taps[:, :, 0]
    flat = c.taps.reshape(-1, c.taps.shape[2]).T
    shape = (len(frequencies), *c.taps.shape[:2])
    return torch.complex((cos @ flat).reshape(shape), (sin @ flat).reshape(shape))
