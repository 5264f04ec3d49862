"""Directed rounding, built on IEEE float64 with round to nearest (the only mode Python and torch offer).

Sums, products and quotients are correctly rounded, so its exact result lies between the two neighbours of the computed
one; `*_up` returns the computed value or its upper neighbour, `*_down` the mirror image. Sums of many terms use the
standard bound of Higham, *Accuracy and Stability of Numerical Algorithms*, (3.4): n roundings, in any order and with
or without FMA, change a nonnegative sum by a factor between 1 - n u and 1 + gamma_n.

All functions take Python floats or float64 tensors (any device) and return the same kind. NaN stays NaN.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from lipcert.terms.query import P

EPS = 2.0**-53  # unit roundoff u
TINY = 2.0**-1022  # smallest normal number: no operation errs by more through underflow, flush to zero included

# float type -> (significand bits, exponent of the smallest normal number, largest finite number)
FORMATS: dict[torch.dtype, tuple[int, int, float]] = {
    torch.float16: (11, -14, 65504.0),
    torch.bfloat16: (8, -126, (2.0 - 2.0**-7) * 2.0**127),
    torch.float32: (24, -126, (2.0 - 2.0**-23) * 2.0**127),
}

Real = TypeVar("Real", float, Tensor)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Dim = int | tuple[int, ...] | None


def _is_tensor(*values: object) -> bool:
    for value in values:
        if isinstance(value, Tensor) and value.dtype != torch.float64:
            raise TypeError(f"directed rounding needs float64 tensors, got {value.dtype}: convert with .double()")
    return any(isinstance(value, Tensor) for value in values)


def require_float64(*tensors: Tensor | None) -> None:
    """TypeError for any other dtype: the error terms of this package are those of float64."""
    _is_tensor(*tensors)


def up(x: Real) -> Real:
    """The next float above; `inf` stays `inf`."""
    return _next(x, math.inf)


def down(x: Real) -> Real:
    """The next float below; `-inf` stays `-inf`."""
    return _next(x, -math.inf)


def all_finite(x: Tensor) -> bool:
    """No NaN and no infinity: a sum with one of them has no finite value. A sum takes a tenth of the time of `isfinite`."""
    return math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all())


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return torch.where(condition, yes, no) if isinstance(condition, Tensor) else (yes if condition else no)


def add_up(a: Real, b: Real | float) -> Real:
    """Upper value of a + b; exact where the float sum is exact (Knuth's TwoSum finds its rounding error)."""
    x, y = _pair(a, b)
    s = x + y
    t = s - x
    error = (x - (s - t)) + (y - t)
    return _where((error <= 0) & (error > -math.inf), s, up(s))  # NaN or -inf: TwoSum overflowed, so step outward


def add_down(a: Real, b: Real | float) -> Real:
    """Lower value of a + b; exact where the float sum is exact."""
    return -add_up(-a, -b)


def sub_up(a: Real, b: Real | float) -> Real:
    """Upper value of a - b; exact where the float difference is exact."""
    return add_up(a, -b)


def sub_down(a: Real, b: Real | float) -> Real:
    """Lower value of a - b; exact where the float difference is exact."""
    return -add_up(-a, b)


def mul_up(a: Real, b: Real | float) -> Real:
    """Upper value of a * b. Exactly 0 where a factor is 0, and only there for positive factors (no underflow to 0)."""
    x, y = _pair(a, b)
    product = x * y
    return _where((x == 0) | (y == 0), product, up(product))


def mul_down(a: Real, b: Real | float) -> Real:
    """Lower value of a * b; 0, not a negative number, where a positive product underflows."""
    x, y = _pair(a, b)
    return _not_below_zero(-mul_up(-x, y), (x > 0) & (y > 0))


def div_up(a: Real, b: Real | float) -> Real:
    """Upper value of a / b, b not 0; 0 / b is 0. Floats divided by zero give `inf` or NaN, never an exception."""
    x, y = _pair(a, b)
    if not isinstance(y, Tensor) and not isinstance(x, Tensor) and y == 0:
        quotient: Any = math.nan if x == 0 or math.isnan(x) else math.inf
        return quotient
    quotient = x / y
    return _where((x == 0) & (y != 0), quotient, up(quotient))


def div_down(a: Real, b: Real | float) -> Real:
    """Lower value of a / b, b not 0; 0 where a positive quotient underflows."""
    x, y = _pair(a, b)
    return _not_below_zero(-div_up(-x, y), (x > 0) & (y > 0))


def sqrt_up(x: Real) -> Real:
    """Upper value of sqrt(x), x >= 0; sqrt(0) is 0."""
    return _sqrt(x, up)


def sqrt_down(x: Real) -> Real:
    """Lower value of sqrt(x), x >= 0; sqrt(0) is 0."""
    return _sqrt(x, down)


def _sqrt(x: Any, outward: Any) -> Any:
    if not _is_tensor(x):
        root = math.sqrt(x)
        return root if x == 0 else outward(root)
    # torch takes tensor roots from MKL's vector library, which is not correctly rounded (7600948972553121 gives the
    # wrong neighbour) but good to one unit in the last place: one more step.
    return torch.where(x == 0, x, outward(outward(x.sqrt())))


def _next(x: Any, to: float) -> Any:
    if _is_tensor(x):
        return torch.nextafter(x, torch.full((), to, dtype=torch.float64, device=x.device))
    return math.nextafter(x, to)


def _pair(a: Any, b: Any) -> tuple[Any, Any]:
    return (a, b) if _is_tensor(a, b) else (float(a), float(b))


def _not_below_zero(value: Any, where: Any) -> Any:
    return _where(where & (value < 0), abs(value * 0.0), value)


def gamma(n: int) -> float:
    """Upper value of gamma_n = n u / (1 - n u): n roundings multiply by 1 + t, |t| <= gamma_n. `inf` for n u >= 1."""
    nu = n * EPS  # exact, and so is 1 - nu
    return div_up(nu, 1.0 - nu) if nu < 1 else math.inf


def _dims(t: Tensor, dim: Dim) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(t.ndim))
    return (dim,) if isinstance(dim, int) else tuple(dim)


def _count(t: Tensor, dims: tuple[int, ...]) -> int:
    return math.prod(t.shape[d] for d in dims)


def _largest(t: Tensor, dims: tuple[int, ...], keepdim: bool = False) -> Tensor:
    if not dims:
        return t
    if _count(t, dims) == 0:
        return t.sum(dims, keepdim=keepdim)  # the largest of no nonnegative numbers is 0
    return t.amax(dims, keepdim=keepdim)


def sum_up(t: Tensor, dim: Dim = None) -> Tensor:
    """Upper value of the sum of a nonnegative tensor over `dim` (None: all). Exact zero for zeros.

    computed >= exact (1 - u)^{n-1} >= exact (1 - (n-1) u), and 1 / (1 - k u) = 1 + gamma_k.
    """
    dims = _dims(t, dim)
    n = _count(t, dims)
    total = t.sum(dims) if dims else t
    return total if n <= 1 else mul_up(total, add_up(1.0, gamma(n - 1)))


def sum_down(t: Tensor, dim: Dim = None) -> Tensor:
    """Lower value of the sum of a nonnegative tensor: computed <= exact (1 + gamma_{n-1})."""
    dims = _dims(t, dim)
    n = _count(t, dims)
    total = t.sum(dims) if dims else t
    return total if n <= 1 else div_down(total, add_up(1.0, gamma(n - 1)))


def power_of_two_scale(x: Real) -> Real:
    """A power of two s with |x| / s in [1, 2), within 2^-1021 .. 2^1021 so that s and 1 / s are both normal floats.

    x * (1 / s) is then exact but for entries that become subnormal. 1 for zero, infinities and NaN.
    """
    return _scale(x)


def _scale(x: Any) -> Any:
    if _is_tensor(x):
        exponent = (torch.frexp(x).exponent.to(torch.int64) - 1).clamp(-1021, 1021)
        scale = ((exponent + 1023) << 52).view(torch.float64)  # the bits of 2^exponent
        return torch.where(torch.isfinite(x) & (x != 0), scale, torch.ones_like(scale))
    if x == 0 or not math.isfinite(x):
        return 1.0
    return math.ldexp(1.0, min(max(math.frexp(x)[1] - 1, -1021), 1021))


def norm_up(t: Tensor, p: P, dim: Dim = None) -> Tensor:
    """Upper value of the p-norm over `dim` (None: all entries). Empty and zero vectors: exactly 0."""
    dims = _dims(t, dim)
    size = t.abs()
    if p == "inf":
        return _largest(size, dims)
    if p == "1":
        return sum_up(size, dims)
    largest = _largest(size, dims, keepdim=True)
    scale = power_of_two_scale(largest)  # keeps the squares away from overflow and underflow
    scaled = size * (1.0 / scale)
    squares = (scaled * scaled).sum(dims, keepdim=True)
    n = _count(t, dims)
    # Entries that leave the normal range on scaling or squaring are below 2^-1021: each adds less than TINY, and the
    # sum is at least 2^-106 (largest entry subnormal), so the term costs nothing.
    total = add_up(mul_up(squares, add_up(1.0, gamma(n))), 4 * n * TINY)
    value = mul_up(sqrt_up(total), scale)
    value = torch.where(largest == 0, torch.zeros_like(value), value)
    value = torch.where(torch.isinf(largest), torch.full_like(value, math.inf), value)
    return value.sum(dims) if dims else value  # drops the kept dimensions of size one


def norm_down(t: Tensor, p: P, dim: Dim = None) -> Tensor:
    """Lower value of the p-norm over `dim`."""
    dims = _dims(t, dim)
    size = t.abs()
    if p == "inf":
        return _largest(size, dims)
    if p == "1":
        return sum_down(size, dims)
    largest = _largest(size, dims, keepdim=True)
    scale = power_of_two_scale(largest)
    n = _count(t, dims)
    scaled = size * (1.0 / scale)
    squares = (scaled * scaled).sum(dims, keepdim=True)
    total = div_down(add_down(squares, -4 * n * TINY).clamp(min=0.0), add_up(1.0, gamma(n)))
    value = mul_down(sqrt_down(total), scale)
    value = torch.where(torch.isinf(largest), torch.full_like(value, math.inf), value)
    return value.sum(dims) if dims else value


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x, float64 with finite entries, to the nearest number of the type, ties to even; infinite beyond its largest.

    One rounding: x / q and its nearest integer are exact float64 numbers for the power of two q of the last place.
    """
    if dtype == torch.float64:
        return x
    bits, smallest, largest = FORMATS[dtype]
    exponent = torch.frexp(x).exponent.to(torch.int64) - 1
    place = (exponent.clamp(min=smallest) - (bits - 1)).clamp(-1000, 1000)
    q = ((place + 1023) << 52).view(torch.float64)
    near = torch.round(x / q) * q
    return torch.where(near.abs() > largest, torch.copysign(torch.full_like(near, torch.inf), near), near)


# Flushed subnormals. torch.set_flush_denormal(True), or a library built with -ffast-math, makes the processor read and
# write subnormal numbers as zero, thread by thread: weights vanish, `up(x)` is x, and a norm comes out as 0.

_depth = threading.local()


def subnormals_kept() -> tuple[bool, bool]:
    """Whether subnormal numbers survive in this thread, and in every thread that torch shares its work with."""
    smallest = torch.ones((), dtype=torch.int64).view(torch.float64)
    here = int((smallest * 1.0).view(torch.int64)) == 1
    many = torch.ones(torch.get_num_threads() * 2**16, dtype=torch.int64).view(torch.float64)
    return here, bool(((many * 1.0).view(torch.int64) == 1).all())


@contextmanager
def gradual_underflow() -> Iterator[None]:
    """Proofs run inside: with subnormal numbers as IEEE 754 has them. The caller's flag is restored.

    Another thread's flag cannot be changed from here; where one flushes, torch works in this thread alone meanwhile.
    """
    if getattr(_depth, "value", 0):
        yield
        return
    here, _ = subnormals_kept()
    threads = torch.get_num_threads()
    _depth.value = 1
    try:
        if not here:
            torch.set_flush_denormal(False)
        if threads > 1 and not subnormals_kept()[1]:
            torch.set_num_threads(1)
        if not all(subnormals_kept()):
            raise ArithmeticError(
                "subnormal numbers are flushed to zero, and this cannot be turned off: no proof holds"
            )
        yield
    finally:
        _depth.value = 0
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if not here:
            torch.set_flush_denormal(True)


def keeps_subnormals(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, run under `gradual_underflow`."""

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with gradual_underflow():
            return function(*args, **kwargs)

    return run
