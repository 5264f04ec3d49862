"""Independent lower bounds of a Lipschitz constant: what an upper bound must never fall below.

They evaluate the original function in float64 with torch alone, one sample at a time, and share no code with lipcert.
Two ways: norms of Jacobians at random points (autograd; random points are differentiable points), and difference
quotients over pairs (steps along the best directions, across kinks and ties, tiny and huge), rounding subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]  # one sample in, one sample out, float64

ORDER = {"1": 1.0, "2": 2.0, "inf": math.inf}
DUAL = {"1": "inf", "2": "2", "inf": "1"}
SCALES = (1e-3, 0.1, 1.0, 10.0, 100.0)
STEPS = (1e-4, 1e-2, 1.0, 30.0)
# Error granted to an evaluation in float64 of a network of a few layers, relative to its largest output.
NOISE = 1e-12


def size(x: Tensor, p: str) -> float:
    return float(torch.linalg.vector_norm(x.reshape(-1), ord=ORDER[p]))


def jacobian(f: Function, x: Tensor) -> Tensor:
    """(m, n) by one backward pass per output."""
    at = x.detach().clone().requires_grad_(True)
    y = f(at)
    if not y.requires_grad:
        return torch.zeros(y.numel(), x.numel(), dtype=torch.float64)
    rows = [torch.autograd.grad(entry, at, retain_graph=True)[0].reshape(-1) for entry in y.reshape(-1)]
    return torch.stack(rows)


def best_direction(J: Tensor, p: str, q: str) -> Tensor:
    """A v that makes ||J v||_q / ||v||_p large: the largest for p = 1, q = inf and p = q = 2, else a good one."""
    m, n = J.shape
    if p == "1":
        return torch.eye(n, dtype=torch.float64)[int(torch.linalg.vector_norm(J, ord=ORDER[q], dim=0).argmax())]
    if q == "inf":
        row = J[int(torch.linalg.vector_norm(J, ord=ORDER[DUAL[p]], dim=1).argmax())]
        return row if p == "2" else torch.where(row >= 0, 1.0, -1.0).double()
    if p == "2":
        candidates = [torch.linalg.svd(J, full_matrices=False).Vh[0]]
        if q == "1":
            candidates += [s @ J for s in _signs(m)]
    else:
        candidates = list(_signs(n))
    return max(candidates, key=lambda v: size(J @ v, q) / max(size(v, p), 1e-300))


def _signs(n: int) -> Tensor:
    if n <= 6:
        return torch.cartesian_prod(*[torch.tensor([1.0, -1.0]).double()] * n).reshape(-1, n)
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 2, (64, n), generator=generator).double() * 2 - 1


def norm_below(J: Tensor, p: str, q: str) -> float:
    """A lower bound of ||J||_{p->q}: the largest ||J v||_q / ||v||_p that was found."""
    if J.numel() == 0 or not bool(torch.isfinite(J).all()):
        return 0.0
    v = best_direction(J, p, q)
    v = v / v.abs().max().clamp(min=1e-300)
    return size(J @ v, q) / size(v, p) if size(v, p) > 0 else 0.0


def quotient(f: Function, a: Tensor, b: Tensor, p: str, q: str, noise: float = NOISE) -> float:
    """||f(a) - f(b)||_q / ||a - b||_p with a generous error of the evaluation subtracted, relative to the values."""
    with torch.no_grad():
        fa, fb = f(a), f(b)
    apart = size(a - b, p)
    if apart == 0 or not bool(torch.isfinite(fa).all() and torch.isfinite(fb).all()):
        return 0.0
    error = noise * (size(fa, q) + size(fb, q))
    return max(0.0, size(fa - fb, q) - error) / (apart * (1 + 1e-12))


def starting_points(shape: Iterable[int], count: int, seed: int, low: Tensor | None = None, high: Tensor | None = None):
    """Random points of several scales, or of the box [low, high]."""
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(shape)
    for k in range(count):
        if low is not None and high is not None:
            yield low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
        else:
            yield SCALES[k % len(SCALES)] * torch.randn(shape, generator=generator, dtype=torch.float64)


def adversarial_points(shape: Iterable[int]) -> list[Tensor]:
    """Kinks and ties: zero, all entries equal, whole numbers with repeats."""
    shape = tuple(shape)
    n = math.prod(shape)
    ramp = torch.arange(n, dtype=torch.float64).reshape(shape)
    return [
        torch.zeros(shape, dtype=torch.float64),
        torch.ones(shape, dtype=torch.float64),
        (ramp % 3) - 1,
        -torch.ones(shape, dtype=torch.float64) * 3,
    ]


def attained(
    f: Function,
    shape: Iterable[int],
    norms: Iterable[tuple[str, str]],
    *,
    points: int = 10,
    seed: int = 0,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> dict[tuple[str, str], float]:
    """For each (p, q): the largest value found of a Jacobian norm or a difference quotient, over the space or a box."""
    shape, norms = tuple(shape), list(norms)
    found = dict.fromkeys(norms, 0.0)

    def inside(x: Tensor) -> Tensor:
        return x if low is None or high is None else torch.minimum(torch.maximum(x, low), high)

    places = list(starting_points(shape, points, seed, low, high))
    for k, x in enumerate(places):
        J = jacobian(f, x)
        if not bool(torch.isfinite(J).all()):
            continue
        for p, q in norms:
            found[p, q] = max(found[p, q], norm_below(J, p, q) * (1 - 1e-9))
            if k % 3 == 0 and J.numel() and bool(J.any()):
                v = best_direction(J, p, q).reshape(shape)
                v = v / v.abs().max()
                for h in STEPS[k % 2 :: 2]:
                    a, b = inside(x + h * v), inside(x - h * v)
                    found[p, q] = max(found[p, q], quotient(f, a, b, p, q))
    adversarial = [inside(x) for x in adversarial_points(shape)]
    generator = torch.Generator().manual_seed(seed + 1)
    for k, x in enumerate(adversarial):
        v = torch.randn(shape, generator=generator, dtype=torch.float64)
        unit = torch.zeros(shape, dtype=torch.float64)
        unit.view(-1)[k % unit.numel()] = 1.0
        for direction, h in ((v, 1e-2), (unit, 0.5), (v.sign(), 3.0)):
            a, b = inside(x + h * direction), inside(x - h * direction)
            for p, q in norms:
                found[p, q] = max(found[p, q], quotient(f, a, b, p, q), quotient(f, a, x, p, q))
    return found
