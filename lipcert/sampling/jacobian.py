"""Jacobian norms in bulk, and their statistics. Floating values at points: measurements, never bounds.

Up to `FULL` rows or columns J is formed, and its norms follow from the entries and from the eigenvalues of J J'. Larger
ones are met by power iteration only: its norms are never too large, and Frobenius and the smallest singular value are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.sampling.directions import differences, jacobians, power, pushed, widest
from lipcert.sampling.pullback import pulled

QUANTITIES = ("spectral", "frobenius", "l1", "linf", "smallest")
FULL = 64  # passes through the network that form J: one per output, or one per input where those are fewer
ENTRIES = 2**21  # of all Jacobians of one batch, and of the widest signal
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 40
STEPS = 24  # of the block power iteration
BLOCK = 3


def is_full(graph: Graph) -> bool:
    return min(graph.nodes[graph.input].size, graph.nodes[graph.output].size) <= FULL


def batch(graph: Graph) -> int:
    """Points whose Jacobians are formed together: memory does not grow with the data."""
    n, m = graph.nodes[graph.input].size, graph.nodes[graph.output].size
    return max(1, min(1024, ENTRIES // max(1, widest(graph), n * m if is_full(graph) else 0)))


def norms_at(graph: Graph, x: Tensor) -> dict[str, Tensor]:
    """QUANTITIES -> (r,) at x (r, n); NaN where one is not computed or overflows. Where autograd gives NaN, from differences
    of the function (`blind` says where)."""
    r = x.shape[0]
    missing = x.new_full((r,), math.nan)
    if 0 in (r, x.shape[1], graph.nodes[graph.output].size):
        return dict.fromkeys(QUANTITIES, x.new_zeros(r))
    if not is_full(graph):
        one, infinite = (power(graph, x, p, p)[1] for p in ("1", "inf"))
        return {"spectral": spectral(graph, x), "frobenius": missing, "l1": one, "linf": infinite, "smallest": missing}
    J = jacobians(graph, x) if graph.nodes[graph.output].size <= x.shape[1] else by_columns(graph, x)
    known = torch.isfinite(J).all(dim=(1, 2)) if J.numel() else torch.ones(r, dtype=torch.bool)
    if not bool(known.all()):
        J[~known] = differences(graph, x[~known])
        known = torch.isfinite(J).all(dim=(1, 2))
    J = torch.where(known[:, None, None], J, 0.0)
    largest, smallest = extreme_singular_values(J)
    size_of = J.abs()
    found = {
        "spectral": largest,
        "frobenius": torch.linalg.vector_norm(J, dim=(1, 2)),
        "l1": size_of.sum(dim=1).amax(dim=1),
        "linf": size_of.sum(dim=2).amax(dim=1),
        "smallest": smallest,
    }
    return {name: torch.where(known, values, math.nan) for name, values in found.items()}


def blind(graph: Graph, x: Tensor) -> Tensor:
    """(r,): where the gradient of the sum of all outputs is NaN or infinite, and automatic differentiation says nothing."""
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        y = graph.evaluate(at)
    if not y.requires_grad or not x.shape[0]:
        return torch.zeros(x.shape[0], dtype=torch.bool)
    (back,) = pulled(y, at, torch.ones_like(y))
    return (~torch.isfinite(back).all(dim=1) & torch.isfinite(y).all(dim=1)).cpu()


def extreme_singular_values(J: Tensor) -> tuple[Tensor, Tensor]:
    """(largest, smallest of min(m, n)) of (r, m, n), from the Gram matrix, which is scaled first.

    Its smallest eigenvalue is noise below about 1e-16 of the largest; those rows take the SVD."""
    if J.shape[1] > J.shape[2]:
        J = J.transpose(1, 2)
    scale = J.abs().amax(dim=(1, 2)).clamp(min=1e-300)
    J = J / scale[:, None, None]
    if J.shape[1] == 1:
        only = torch.linalg.vector_norm(J[:, 0], dim=1) * scale
        return only, only
    values = torch.linalg.eigvalsh(J @ J.transpose(1, 2)).clamp(min=0.0)
    largest, smallest = values[:, -1].sqrt(), values[:, 0].sqrt()
    doubtful = smallest < 1e-6 * largest
    if bool(doubtful.any()):
        smallest[doubtful] = torch.linalg.svdvals(J[doubtful])[:, -1]
    return largest * scale, smallest * scale


def by_columns(graph: Graph, x: Tensor) -> Tensor:
    """J (r, m, n) by one forward pass per input."""
    columns = []
    for j in range(x.shape[1]):
        unit = torch.zeros_like(x)
        unit[:, j] = 1.0
        columns.append(pushed(graph, x, unit)[1])
    return torch.stack(columns, dim=2)


def spectral(graph: Graph, x: Tensor, seed: int = 0) -> Tensor:
    """(r,): the largest Ritz value of a block of BLOCK vectors under J'J. Never above ||J||_2 but for rounding."""
    r, n = x.shape
    k = min(BLOCK, n)
    random = torch.Generator().manual_seed(seed)
    V = torch.linalg.qr(torch.randn(r, n, k, generator=random, dtype=torch.float64).to(x)).Q
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        y = graph.evaluate(at)
    if not y.requires_grad:
        return x.new_zeros(r)
    top = x.new_zeros(r)
    dark = torch.zeros(r, dtype=torch.bool, device=x.device)
    for _ in range(STEPS):
        images = torch.stack([pushed(graph, x, V[:, :, j])[1] for j in range(k)], dim=2)
        known = torch.isfinite(images).all(dim=(1, 2))
        images = torch.where(known[:, None, None], images, 0.0)
        ritz = extreme_singular_values(images)[0]
        still = bool((ritz > top * (1 + 1e-7)).any())
        top = torch.where(known, torch.maximum(top, ritz), math.nan)
        if not still:
            break
        back = [pulled(y, at, images[:, :, j], keep=True)[0] for j in range(k)]
        W = torch.stack(back, dim=2)
        lost = ~torch.isfinite(W).all(dim=(1, 2))
        dark |= lost
        V = torch.linalg.qr(torch.where(lost[:, None, None], 0.0, W) + 1e-30).Q
    dark |= top.isnan()
    if bool(dark.any()):
        top[dark] = power(graph, x[dark], "2", "2")[1]
    return top


def summary(values: Sequence[float | None]) -> dict[str, Any]:
    """Count, mean, standard deviation, extremes, quantiles (linear interpolation) and a histogram of the known values."""
    known = torch.tensor([v for v in values if v is not None], dtype=torch.float64)
    found: dict[str, Any] = {"count": len(known), "missing": len(values) - len(known)}
    if not len(known):
        return found | dict.fromkeys(("mean", "std", "min", "max")) | {"quantiles": {}, "histogram": None}
    quantiles = torch.quantile(known, torch.tensor(LEVELS, dtype=torch.float64)).tolist()
    low, high = float(known.min()), float(known.max())
    counts = torch.histc(known, BINS, min=low, max=high) if high > low else torch.tensor([float(len(known))])
    edges = torch.linspace(low, high, len(counts) + 1, dtype=torch.float64).tolist()
    return found | {
        "mean": float(known.mean()),
        "std": float(known.std()) if len(known) > 1 else 0.0,
        "min": low,
        "max": high,
        "quantiles": {f"{level:g}": q for level, q in zip(LEVELS, quantiles, strict=True)},
        "histogram": {"edges": edges, "counts": [int(c) for c in counts]},
    }


def meaning(graph: Graph) -> dict[str, str | None]:
    """What each quantity is: "value" of J; "lower" from power iteration; None: not computed."""
    if is_full(graph):
        return dict.fromkeys(QUANTITIES, "value")
    return {"spectral": "lower", "frobenius": None, "l1": "lower", "linf": "lower", "smallest": None}
