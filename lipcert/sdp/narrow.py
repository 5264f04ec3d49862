"""A deep narrow chain, scaled for an interior point method: layers one after the other, few neurons each.

    v_k = W_k z_{k-1},   y = C z_K,   z_0 = x

W_k and C are divided by their norms, so that 64 layers neither overflow nor vanish, and where the input is wider than the
first layer it is rotated into the rows of W_1 (QR): multipliers do not change under rotations of x. With N_k the product of
the norms behind layer k, a multiplier of the scaled chain stands for N_k^2 times itself. Nothing here is trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lipcert.proofs.lmi import Coefficients
from lipcert.proofs.normal_form import NormalForm

WIDEST, SHALLOWEST, MOST = 64, 6, 2100  # neurons of a layer, layers, neurons: Newton's matrix has their square
ROWS = 16  # coupled samples of the sweeps
LEAST = 1e-300


def narrow(form: NormalForm) -> bool:
    """Whether its layers are many and small."""
    sizes = [layer.size for layer in form.layers]
    return len(sizes) >= SHALLOWEST and max(sizes) <= WIDEST and sum(sizes) <= MOST


@dataclass(frozen=True, eq=False)
class Narrow:
    """`weights`: W_1 .. W_K; `low`, `high`: slopes of each layer; `gram`: C'C; `behind`: N_k; `whole`: N_0^2, of rho."""

    weights: tuple[Tensor, ...]
    low: tuple[Tensor, ...]
    high: tuple[Tensor, ...]
    last: Tensor
    behind: tuple[float, ...]
    whole: float

    @staticmethod
    def of(form: NormalForm, table: Coefficients) -> Narrow | None:
        """None: it is no such chain, or its numbers leave float64."""
        layers, rows = form.layers, table.rows
        if not narrow(form):
            return None
        if any(set(rows[k]) != {k - 1} for k in range(1, len(rows))) or any(x.count != x.size for x in layers):
            return None
        matrices = [rows[k][k - 1].centre for k in range(1, len(rows))]
        if matrices[0].shape[1] > matrices[0].shape[0]:
            matrices[0] = torch.linalg.qr(matrices[0].T).R.T
        norms = [float(torch.linalg.matrix_norm(m, 2)) if bool(torch.isfinite(m).all()) else math.inf for m in matrices]
        if not all(1e-150 < n < 1e150 for n in norms):
            return None
        behind = [math.prod(norms[k:]) ** 2 for k in range(len(norms))]
        if not all(1e-250 < n < 1e250 for n in behind):
            return None
        scaled = [m / n for m, n in zip(matrices, norms, strict=True)]
        low, high = tuple(x.low for x in layers), tuple(x.high for x in layers)
        return Narrow(tuple(scaled[:-1]), low, high, scaled[-1], tuple(behind[1:]), behind[0])

    @property
    def sizes(self) -> list[int]:
        return [w.shape[0] for w in self.weights]

    def unscaled(self, multipliers: Sequence[Tensor]) -> list[Tensor]:
        """Multipliers of the chain as it was, for s_y = 1."""
        return [m * n for m, n in zip(multipliers, self.behind, strict=True)]

    def swept(self, sweeps: int, seed: int) -> tuple[list[Tensor], float]:
        """Multipliers and dual value after plain sweeps of MATH section 4 (sdp/sweep.py, without graph or acceleration):
        near the optimum, not at it. In numpy, whose calls take a microsecond where torch takes five."""
        dice = np.random.default_rng(seed)
        weights, last = [w.numpy() for w in self.weights], self.last.numpy()
        centre = [((a + b) / 2).numpy() for a, b in zip(self.low, self.high, strict=True)]
        half = [((b - a) / 2).numpy() for a, b in zip(self.low, self.high, strict=True)]
        y0 = dice.standard_normal((ROWS, weights[0].shape[1]))
        y0 /= np.linalg.norm(y0)
        u = [dice.standard_normal((ROWS, n)) for n in self.sizes]
        u = [x / _lengths(x) for x in u]
        squares = [h * h for h in half]
        lengths: list[np.ndarray] = [np.empty(0)] * len(weights)
        radii, value = lengths, 0.0
        for _ in range(sweeps):
            y, seen, radii = y0, [], []
            for w, c, h, direction in zip(weights, centre, half, u, strict=True):
                v = y @ w.T
                seen.append(v)
                radii.append(np.maximum(h * _lengths(v), LEAST))
                y = c * v + direction * radii[-1]
            out = y @ last.T
            value = float((out * out).sum())
            g = out @ last
            for k in range(len(weights) - 1, -1, -1):
                length = lengths[k] = _lengths(g)
                u[k] = g / length
                g = (centre[k] * g + squares[k] * (length / radii[k]) * seen[k]) @ weights[k]
            y0 = g / max(float(np.linalg.norm(g)), LEAST)
        return [torch.from_numpy(n / (2 * r)) for n, r in zip(lengths, radii, strict=True)], value


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.maximum(np.sqrt(np.einsum("ij,ij->j", rows, rows)), LEAST)
