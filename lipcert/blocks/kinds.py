"""Nonlinear blocks: what a graph applies between its affine maps. Each states its l_p constants and value ranges.

A block with several parents bounds `||dz||_p <= sum_j k_j ||du_j||_p`; `lipschitz` returns the k_j, inf where there is no
finite one on the given ranges. Ranges are (lower, upper) pairs of (size,) tensors, None for the whole space.
Values and constants are rounded outward; exp, sqrt and log of the platform are trusted to 8 eps (activations.py).
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.rigor.rounding import EPS, TINY, div_up, gamma, mul_up, norm_down, norm_up, sqrt_up, up
from lipcert.terms.query import P

Range = tuple[Tensor, Tensor]
SLACK = 16 * EPS  # relative error granted to one exp, log, sqrt or division
WIDE, AT_ONCE = 64, 2**20  # windows of so many entries are wide; entries that are gathered in one step


def down(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, -math.inf))


@dataclass(frozen=True, eq=False)
class Block:
    """Interface. `label` is what people read; `reason` says why a constant is infinite."""

    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    label = "block"
    reason = "its slope has no finite bound"
    steps = False  # discontinuous: no region of positive size has a constant

    def fits(self, sizes: list[int], size: int) -> bool:
        raise NotImplementedError

    def __call__(self, *u: Tensor) -> Tensor:
        raise NotImplementedError

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        raise NotImplementedError

    def values_on(self, *u: Range) -> Range:
        raise NotImplementedError

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Block:
        """Tensors moved (indices keep their type)."""
        moved: dict[str, Any] = {
            name: value.to(device) if value.dtype == torch.int64 else value.to(device, dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Pointwise(Block):
    """An elementwise activation; one row of the traits table with its parameters."""

    activation: Elementwise
    size: int

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.activation.row.name

    @property
    def steps(self) -> bool:  # type: ignore[override]
        return not self.activation.continuous

    @property
    def reason(self) -> str:  # type: ignore[override]
        return f"{self.label} jumps" if self.steps else f"the slope of {self.label} has no finite bound there"

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [size] and size == self.size

    def __call__(self, u: Tensor) -> Tensor:  # type: ignore[override]
        return self.activation(u)

    def slopes(self, ranges: tuple[Range, ...] | None = None) -> Range:
        """[a, b] per neuron, (size,) each, on the ranges (None: everywhere)."""
        if ranges is None:
            if "slopes" not in self.memo:
                self.memo["slopes"] = tuple(
                    torch.as_tensor(side, dtype=torch.float64).reshape(-1).expand(self.size)
                    for side in self.activation.slopes()
                )
            return self.memo["slopes"]
        lower, upper = self.activation.slopes_on(*ranges[0])
        return lower.reshape(-1).expand(self.size), upper.reshape(-1).expand(self.size)

    def largest_slopes(self, ranges: tuple[Range, ...] | None = None) -> Tensor:
        """max |s'| per neuron, (size,); inf where unbounded."""
        lower, upper = self.slopes(ranges)
        return torch.maximum(lower.abs(), upper.abs())

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (float(self.largest_slopes(ranges).max()) if self.size else 0.0,)

    def values_on(self, u: Range) -> Range:  # type: ignore[override]
        return self.activation.values_on(*u)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Pointwise:
        params = tuple(p.to(device, dtype) if isinstance(p, Tensor) else p for p in self.activation.params)
        moved = copy(self.activation)  # an Elementwise that is made anew insists on float64
        object.__setattr__(moved, "params", params)
        return Pointwise(moved, self.size)


@dataclass(frozen=True, eq=False)
class Selection(Block):
    """z_i = max over j of u[windows[i, j]], entries -1 absent: max pooling, amax, maximum of two signals.

    On each piece z is a selection of entries, an entry chosen by at most `overlap` windows, hence
    ||dz||_p <= overlap^(1/p) ||du||_p, attained where one entry is the maximum of all its windows.
    """

    windows: Tensor  # int64 (out_size, width)
    in_size: int
    minimum: bool = False

    label = "max"

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [self.in_size] and size == self.windows.shape[0]

    def _pick(self, u: Tensor) -> Tensor:
        absent = math.inf if self.minimum else -math.inf
        best: Tensor | None = None
        for columns in self.windows.split(self._at_once(u), dim=1):
            entry = u.index_select(1, columns.clamp(min=0).reshape(-1)).reshape(u.shape[0], *columns.shape)
            entry = torch.where(columns >= 0, entry, absent)
            entry = entry[:, :, 0] if columns.shape[1] == 1 else entry.amin(2) if self.minimum else entry.amax(2)
            best = entry if best is None else (torch.minimum if self.minimum else torch.maximum)(best, entry)
        assert best is not None
        return best

    def _at_once(self, u: Tensor) -> int:
        """Columns that are taken in one step: one of a pool, (r, out_size) of memory; many of a maximum over thousands."""
        out_size, width = self.windows.shape
        return 1 if width <= WIDE else max(1, AT_ONCE // max(1, u.shape[0] * out_size))

    def __call__(self, u: Tensor) -> Tensor:  # type: ignore[override]
        return self._pick(u)

    @property
    def overlap(self) -> int:
        if "overlap" not in self.memo:
            used = self.windows[self.windows >= 0]
            self.memo["overlap"] = int(torch.bincount(used).max()) if used.numel() else 0
        return self.memo["overlap"]

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        most = float(self.overlap)
        return ({"1": most, "2": most if most <= 1 else sqrt_up(most), "inf": min(most, 1.0)}[p],)

    def values_on(self, u: Range) -> Range:  # type: ignore[override]
        lower, upper = (side.reshape(-1, self.in_size) for side in u)
        return self._pick(lower), self._pick(upper)


@dataclass(frozen=True, eq=False)
class Axis(Block):
    """Blocks that act along one axis of the signal seen as (outer, n, inner)."""

    outer: int
    n: int
    inner: int

    reduces = False

    def fits(self, sizes: list[int], size: int) -> bool:
        total = self.outer * self.n * self.inner
        return sizes == [total] and size == (self.outer * self.inner if self.reduces else total)

    def _view(self, u: Tensor) -> Tensor:
        return u.reshape(-1, self.outer, self.n, self.inner)

    def function(self, u: Tensor) -> Tensor:
        """On (r, outer, n, inner), along dim 2."""
        raise NotImplementedError

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        raise NotImplementedError

    def __call__(self, u: Tensor) -> Tensor:  # type: ignore[override]
        return self.function(self._view(u)).reshape(u.shape[0], -1)

    def values_on(self, u: Range) -> Range:  # type: ignore[override]
        lower, upper = self._range(self._view(u[0]), self._view(u[1]))
        rows = u[0].reshape(-1, self.outer * self.n * self.inner).shape[0]
        return lower.reshape(rows, -1), upper.reshape(rows, -1)


def _softmax_range(lower: Tensor, upper: Tensor) -> Range:
    """s_i = e_i / (e_i + sum_{j != i} e_j): increasing in u_i, decreasing in the others.

    fl(u - top) is off by EPS |u - top|, at most 800 EPS unless exp underflows; TINY stands for what underflows.
    """
    top = torch.nan_to_num(upper.amax(dim=2, keepdim=True), posinf=0.0, neginf=0.0)
    slack = SLACK + 1024 * EPS + gamma(lower.shape[2] + 8)
    low = (torch.exp(lower - top) * (1 - slack) - TINY).clamp(min=0)
    high = torch.exp(upper - top) * (1 + slack) + TINY
    others_high = (high.sum(dim=2, keepdim=True) - high).clamp(min=0) + slack * high.sum(dim=2, keepdim=True)
    others_low = ((low.sum(dim=2, keepdim=True) - low) - slack * low.sum(dim=2, keepdim=True)).clamp(min=0)
    least = (low / (low + others_high)).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
    most = (high / (high + others_low)).nan_to_num(1.0, 1.0, 1.0)
    return down(least * (1 - 2 * slack)).clamp(min=0), up(most * (1 + 2 * slack)).clamp(max=1)


@dataclass(frozen=True, eq=False)
class Softmax(Axis):
    """Jacobian diag(s) - s s'. l2: at most 1/2 (Gao & Pavel 2017, Prop. 4). l1, linf: row sums 2 s_i (1 - s_i) <= 1/2."""

    label = "softmax"

    def function(self, u: Tensor) -> Tensor:
        return torch.softmax(u, dim=2)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (0.5 if self.n > 1 else 0.0,)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        return _softmax_range(lower, upper)


@dataclass(frozen=True, eq=False)
class LogSoftmax(Axis):
    """Jacobian I - 1 s', convex in s, so the extremes are at s = e_j: the columns other than j are unit vectors and
    column j is -1 outside j. l2: sqrt(n) (A A' = I + 1 1' on the n - 1 other rows). linf: 2 (1 - s_i) <= 2.
    l1: column j sums to 1 + (n - 2) s_j <= n - 1.
    """

    label = "log_softmax"

    def function(self, u: Tensor) -> Tensor:
        return torch.log_softmax(u, dim=2)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        if self.n <= 1:
            return (0.0,)
        return ({"1": float(max(1, self.n - 1)), "2": sqrt_up(float(self.n)), "inf": 2.0}[p],)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        least, most = (torch.log(side) for side in _softmax_range(lower, upper))
        return down(least - SLACK * (least.abs() + 1)), up(most + SLACK * (most.abs() + 1)).clamp(max=0)


@dataclass(frozen=True, eq=False)
class LogSumExp(Axis):
    """Gradient s, s >= 0, sum s = 1: ||s||_2 <= 1, dual of linf: ||s||_1 = 1, dual of l1: max s <= 1. Over the
    `outer * inner` groups the map is block diagonal with scalar outputs, so the same constants hold."""

    label = "logsumexp"
    reduces = True

    def function(self, u: Tensor) -> Tensor:
        return torch.logsumexp(u, dim=2)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (1.0,)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        least, most = torch.logsumexp(lower, dim=2), torch.logsumexp(upper, dim=2)
        slack = SLACK + gamma(self.n + 8)
        return down(least - slack * (least.abs() + 1)), up(most + slack * (most.abs() + 1))


@dataclass(frozen=True, eq=False)
class Norm2(Axis):
    """Euclidean norm along the axis: gradient u / ||u||, dual norms 1 (l2), sqrt(n) (linf), 1 (l1)."""

    label = "norm2"
    reduces = True

    def function(self, u: Tensor) -> Tensor:
        return torch.linalg.vector_norm(u, dim=2)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (sqrt_up(float(self.n)) if p == "inf" and self.n > 1 else 1.0,)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        inside = (lower <= 0) & (upper >= 0)
        small = torch.where(inside, 0.0, torch.minimum(lower.abs(), upper.abs()))
        large = torch.maximum(lower.abs(), upper.abs())
        return norm_down(small, "2", 2), norm_up(large, "2", 2)  # scaled: squares neither overflow nor underflow


@dataclass(frozen=True, eq=False)
class Normalise(Axis):
    """z = (u - mean(u)) / sqrt(var(u) + eps) along the axis (layer, group, instance norm); without the mean for RMS norm.

    With c = P u (P the centring projection, or I) and s^2 = |c|^2 / n + eps the Jacobian is (I - c c' / (n s^2)) P / s:
    eigenvalues 1 / s across c and eps / s^3 along c, both largest at c = 0. So the l2 constant is exactly 1 / sqrt(eps)
    (0 for n = 1 with a mean). l1 and linf: times sqrt(n).
    """

    eps: float = 1e-5
    centred: bool = True

    label = "normalise"

    @property
    def reason(self) -> str:  # type: ignore[override]
        return f"its eps is {self.eps}: the slope at equal entries is 1 / sqrt(eps)"

    def function(self, u: Tensor) -> Tensor:
        c = u - u.mean(dim=2, keepdim=True) if self.centred else u
        return c / torch.sqrt((c * c).mean(dim=2, keepdim=True) + self.eps)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        if self.n == 1 and self.centred:
            return (0.0,)
        if self.eps <= 0:
            return (math.inf,)
        value = div_up(1.0, math.nextafter(math.sqrt(self.eps), 0.0))
        return (value if p == "2" or self.n == 1 else mul_up(value, sqrt_up(float(self.n))),)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        slack = SLACK + 4 * gamma(self.n + 8)
        if self.centred:
            mass = torch.maximum(lower.abs(), upper.abs())
            pad = slack * (mass + mass.mean(dim=2, keepdim=True))
            lower, upper = lower - upper.mean(dim=2, keepdim=True) - pad, upper - lower.mean(dim=2, keepdim=True) + pad
        inside = (lower <= 0) & (upper >= 0)
        small = torch.where(inside, 0.0, torch.minimum(lower.abs(), upper.abs()))
        large = torch.maximum(lower.abs(), upper.abs())
        least = torch.sqrt((small * small).mean(dim=2, keepdim=True) + self.eps) * (1 - slack)
        most = torch.sqrt((large * large).mean(dim=2, keepdim=True) + self.eps) * (1 + slack)
        least = torch.where(torch.isinf(least), 0.0, least)  # the squares overflowed
        limit = math.sqrt(self.n) * (1 + slack)  # |z_i| <= sqrt(n) always
        low = torch.where(lower < 0, lower / least, lower / most)
        high = torch.where(upper > 0, upper / least, upper / most)
        pads = slack * torch.maximum(low.abs(), high.abs())
        low, high = down(low - pads).nan_to_num(-limit), up(high + pads).nan_to_num(limit)
        return low.clamp(min=-limit), high.clamp(max=limit)


@dataclass(frozen=True, eq=False)
class Sort(Axis):
    """Sorted along the axis: a permutation of the entries on each piece, so 1 in every l_p."""

    descending: bool = False

    label = "sort"

    def function(self, u: Tensor) -> Tensor:
        return torch.sort(u, dim=2, descending=self.descending).values

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        return (1.0,)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        return self.function(lower), self.function(upper)


def _interval_product(a: Range, b: Range) -> Range:
    corners = [(x * y).nan_to_num(0.0, math.inf, -math.inf) for x in a for y in b]  # 0 * inf = 0: x itself is finite
    low = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
    high = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
    return down(low), up(high)


def _largest(side: Range) -> Tensor:
    return torch.maximum(side[0].abs(), side[1].abs())


@dataclass(frozen=True, eq=False)
class Product(Block):
    """z = u * v entry by entry: ||dz||_p <= max|v| ||du||_p + max|u| ||dv||_p, finite only on bounded ranges."""

    size: int

    label = "product"
    reason = "a product of two signals is Lipschitz only where both are bounded"

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [size, size] and size == self.size

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        return u * v

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        if ranges is None:
            return (math.inf, math.inf) if self.size else (0.0, 0.0)
        u, v = (float(_largest(side).max()) if self.size else 0.0 for side in ranges)
        return (v, u)

    def values_on(self, u: Range, v: Range) -> Range:  # type: ignore[override]
        return _interval_product(u, v)


@dataclass(frozen=True, eq=False)
class MatMul(Block):
    """Z_b = U_b V_b for signals U: (batch, m, k), V: (batch, k, n).

    ||dZ||_F <= ||V||_F ||dU||_F + ||U||_F ||dV||_F per batch; l1, linf of the flat signals: entry by entry,
    sum |dU_il| |V_lj| <= (max over l of the row sum of |V|) ||dU||_1, and the like. Finite only on bounded ranges.
    """

    batch: int
    m: int
    k: int
    n: int

    label = "matmul"
    reason = "a matrix product of two signals (dot-product attention) is Lipschitz only where both are bounded"

    def fits(self, sizes: list[int], size: int) -> bool:
        return sizes == [self.batch * self.m * self.k, self.batch * self.k * self.n] and (
            size == self.batch * self.m * self.n
        )

    def _views(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return u.reshape(-1, self.batch, self.m, self.k), v.reshape(-1, self.batch, self.k, self.n)

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        a, b = self._views(u, v)
        return (a @ b).reshape(u.shape[0], -1)

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        if ranges is None:
            return (math.inf, math.inf)
        u, v = self._views(_largest(ranges[0]).reshape(1, -1), _largest(ranges[1]).reshape(1, -1))
        if p == "2":
            return (_frobenius(v), _frobenius(u))
        # flat norms of dZ = dU V + U dV with |.| taken entry by entry
        grow = 1 + gamma(max(self.m, self.n, self.k) + 8)

        def size(t: Tensor, dim: int) -> float:
            return up(float(t.sum(dim=dim).max()) * grow)

        return (size(v, 3), size(u, 2)) if p == "1" else (size(v, 2), size(u, 3))

    def values_on(self, u: Range, v: Range) -> Range:  # type: ignore[override]
        if not all(bool(torch.isfinite(side).all()) for side in (*u, *v)):
            rows = u[0].reshape(-1, self.batch * self.m * self.k).shape[0]
            full = u[0].new_full((rows, self.batch * self.m * self.n), math.inf)
            return -full, full
        (al, bl), (ah, bh) = self._views(u[0], v[0]), self._views(u[1], v[1])
        ac, bc = al / 2 + ah / 2, bl / 2 + bh / 2
        ar, br = up(torch.maximum(ah - ac, ac - al)), up(torch.maximum(bh - bc, bc - bl))
        centre = ac @ bc
        radius = ac.abs() @ br + ar @ (bc.abs() + br) + gamma(self.k + 4) * (ac.abs() @ bc.abs())
        radius = radius * (1 + 4 * gamma(self.k + 8)) + self.k * 2.0**-1000
        rows = centre.shape[0]
        return down(centre - radius).reshape(rows, -1), up(centre + radius).reshape(rows, -1)


def _frobenius(t: Tensor) -> float:
    """Largest Frobenius norm over the batch, upward."""
    return float(max(norm_up(block.reshape(-1), "2") for block in t.reshape(-1, *t.shape[-2:])))
