"""Other ways to the same number, behind one call: `attempt(name, problem...)` never raises, it records what happened.

A rival says what its value is (`claim`): "proved" upper bound, "estimate" (an upper value without an error term), or
"lower". Tolerances are relative and the same for everybody; a rival that cannot promise one says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

TOLERANCE = 1e-4  # relative excess over the true value that an upper bound may have where methods are compared

Claim = Literal["proved", "estimate", "lower"]


@dataclass(frozen=True)
class Attempt:
    """`status`: "ok", "failed" (note says why), or "published" (seconds of its authors, on their machine)."""

    rival: str
    claim: Claim
    status: Literal["ok", "failed", "published"]
    seconds: float | None = None
    value: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def attempt(name: str, *arguments: Any) -> Attempt:
    """Run one rival of the table below once. Whatever it raises, or a value that is no number, is recorded."""
    rival, claim, note = RIVALS[name]
    start = time.perf_counter()
    try:
        value = float(rival(*arguments))
    except Exception as problem:
        text = str(problem).splitlines()[0][:200] if str(problem) else ""
        return Attempt(name, claim, "failed", time.perf_counter() - start, None, f"{type(problem).__name__}: {text}")
    seconds = time.perf_counter() - start
    if not math.isfinite(value):
        return Attempt(name, claim, "failed", seconds, None, f"returned {value}")
    return Attempt(name, claim, "ok", seconds, value, note)


EXACT_RATIONAL = Attempt(
    "exact-rational certifier",
    "proved",
    "published",
    1005.0,
    None,
    "784-8x128-10 MNIST network, as published; their machine, not this run",
)


def svd_product(weights: list[Any]) -> float:
    """Product of floating singular values of matrices (m, n): right to about 1e-15, on either side of the truth."""
    import torch

    return math.prod(float(torch.linalg.matrix_norm(w, 2)) for w in weights)


def rational_norm(weight: list[list[float]], tolerance: float) -> float:
    """Upper bound of the spectral norm of one matrix by Gram iteration in exact integer arithmetic.

    ||A||^2 = ||A'A||, and entries of A'A cut to `BITS` bits move the norm by at most n units; after k steps the
    Frobenius norm is off by at most n^(1/2^(k+1)) (Delattre et al. 2023). The way of exact-rational certifiers, small.
    """
    n = len(weight[0])
    steps = math.ceil(math.log2(math.log(n) / math.log1p(tolerance / 2)))
    exact = [[Fraction(x) for x in row] for row in weight]
    unit = max(x.denominator for row in exact for x in row)  # powers of two: all denominators divide the largest
    whole = [[int(x * unit) for x in row] for row in exact]
    return _outward(_gram_norm(whole, steps) / unit)


BITS = 64  # kept of the largest entry at each step


def _gram_norm(a: list[list[int]], steps: int) -> Fraction:
    """>= ||a||_2 for a matrix of integers."""
    if steps == 0:
        return _root(Fraction(sum(x * x for row in a for x in row)))
    columns = list(zip(*a, strict=True))
    gram = [[sum(x * y for x, y in zip(u, v, strict=True)) for v in columns] for u in columns]
    shift = max(0, max(abs(x) for row in gram for x in row).bit_length() - BITS)
    cut = [[x >> shift for x in row] for row in gram]  # each entry moves by less than one unit of 2^shift
    return _root((_gram_norm(cut, steps - 1) + (len(gram) if shift else 0)) * 2**shift)


def _root(x: Fraction) -> Fraction:
    """>= sqrt(x), to about 80 bits."""
    scale = 1 << max(0, 160 - x.numerator.bit_length() + x.denominator.bit_length())
    scale *= scale
    return Fraction(math.isqrt(-(-x.numerator * scale // x.denominator)) + 1, math.isqrt(scale))


def _outward(x: Fraction) -> float:
    value = float(x)
    return value if Fraction(value) >= x else math.nextafter(value, math.inf)


def dense_svd(operator: Any) -> float:
    """Largest floating singular value of the matrix of a linear operator, formed column by column."""
    import torch

    return float(torch.linalg.matrix_norm(operator.mv(torch.eye(operator.in_size, dtype=torch.float64)), 2))


def power_iteration(operator: Any, steps: int = 100) -> float:
    """||A v|| of the last unit vector: a lower value, however often it is sold as the norm."""
    import torch

    v = torch.randn(1, operator.in_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = 0.0
    for _ in range(steps):
        w = operator.mv(v / v.norm())
        size = float(w.norm())
        v = operator.rmv(w)
        if size == 0.0:
            break
    return size


def power_each(operators: list[Any]) -> float:
    """Product over operators by power iteration, 20 steps each: the cost of what most training code does."""
    return math.exp(sum(math.log(power_iteration(operator, 20)) for operator in operators))


RIVALS: dict[str, tuple[Callable[..., float], Claim, str]] = {
    "float SVD product": (svd_product, "estimate", "no error term"),
    "rational Gram iteration": (rational_norm, "proved", f"one layer, to {TOLERANCE:g}"),
    "dense float SVD": (dense_svd, "estimate", "no error term"),
    "power iteration": (power_iteration, "lower", "100 steps"),
    "power iteration of every layer": (power_each, "estimate", "20 steps for each layer, graph ignored: for its cost"),
}
