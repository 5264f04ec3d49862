"""Slow and obvious: every linear region of a ReLU network of two inputs as a polygon, and distances to sets made of them."""

from __future__ import annotations

import numpy as np
from torch import nn

Piece = tuple[np.ndarray, np.ndarray, np.ndarray]  # corners (k, 2) in order; y = A x + c there


def clipped(corners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The part of a convex polygon where an affine function, `values` (k,) at its corners, is at most 0."""
    kept = []
    for k in range(len(corners)):
        a, b, u, v = corners[k - 1], corners[k], values[k - 1], values[k]
        if (u <= 0) != (v <= 0):
            kept.append(a + (b - a) * (u / (u - v)))
        if v <= 0:
            kept.append(b)
    return np.array(kept).reshape(-1, 2)


def pieces(module: nn.Sequential, low: np.ndarray, high: np.ndarray) -> list[Piece]:
    """Of Linear and ReLU layers, on a box: neuron by neuron, each polygon that a neuron's zero crosses is cut in two."""
    square = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    found: list[Piece] = [(square, np.eye(2), np.zeros(2))]
    for layer in module:
        if isinstance(layer, nn.Linear):
            W, b = (t.detach().double().numpy() for t in (layer.weight, layer.bias))
            found = [(corners, W @ A, W @ c + b) for corners, A, c in found]
            continue
        assert isinstance(layer, nn.ReLU)
        for i in range(len(found[0][2])):
            halves = []
            for corners, A, c in found:
                z = corners @ A[i] + c[i]
                for sign in (1.0, -1.0):
                    part = clipped(corners, sign * z)
                    if len(part) >= 3:
                        on = np.ones(len(c))
                        on[i] = float(sign < 0)
                        halves.append((part, A * on[:, None], c * on))
            found = halves
    return found


def distance(x: np.ndarray, corners: np.ndarray, order: float) -> float:
    """From x to a convex polygon that does not hold it: the least over its edges. On an edge the norm is convex in the
    place t; l2 is least at the foot, l1 and linf where two of their linear pieces meet."""
    a = corners - x
    d = np.roll(corners, -1, axis=0) - corners
    with np.errstate(divide="ignore", invalid="ignore"):
        places = [-(a * d).sum(1) / (d * d).sum(1), -a[:, 0] / d[:, 0], -a[:, 1] / d[:, 1]]
        places += [-(a[:, 0] + s * a[:, 1]) / (d[:, 0] + s * d[:, 1]) for s in (1.0, -1.0)]
    t = np.clip(np.nan_to_num(np.stack([*places, np.zeros(len(a))])), 0.0, 1.0)
    return float(np.linalg.norm(a + t[:, :, None] * d, ord=order, axis=2).min())


def boundary_distance(found: list[Piece], x: np.ndarray, own: int, order: float) -> float:
    """From x to the nearest point of the box where another class is not below `own`."""
    least = np.inf
    for corners, A, c in found:
        for j in range(len(c)):
            if j != own:
                part = clipped(corners, corners @ (A[own] - A[j]) + c[own] - c[j])
                if len(part):
                    least = min(least, distance(x, part, order))
    return least
