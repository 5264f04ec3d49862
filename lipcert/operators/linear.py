"""Primitive linear operators: selections, diagonal scales, dense matrices along one axis, convolutions, adjoints.

Every linear part of a network is a directed acyclic graph of these. An operator holds the *stored* coefficients in
float64 and, where those are themselves computed (BatchNorm scales, weight norm), an entrywise radius: the operator of
the network in real arithmetic is some A with |A - stored| <= radius. Signals are flat; a batch of them is (r, n).

    mv(x): (r, in_size) -> (r, out_size)        floating product with the stored coefficients
    rmv(y): (r, out_size) -> (r, in_size)       product with the transpose
    absolute()                                  nonnegative operator >= |A| entry by entry, for every A in the enclosure
    radius_operator()                           nonnegative operator >= |A - stored|, or None where the coefficients are exact
    pattern()                                   1 where a coefficient may be other than 0: its mv counts the terms of each entry
    terms, terms_adjoint                        most products summed in an entry of mv, rmv; 0 means that nothing is computed

The rounding of `mv` is bounded by gamma(terms + 1) |A| |x| plus terms * 2^-1074 (Higham, Accuracy and Stability, eq. 3.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lipcert.operators.conv_norm import ConvGeometry, conv_norm_upper
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import mul_up, up
from lipcert.terms.query import P

KEPT = 2**19  # entries of a dense matrix whose sizes are kept, 4 MiB
_INVERSE = {"1": 1.0, "2": 0.5, "inf": 0.0}
DUAL: dict[P, P] = {"1": "inf", "2": "2", "inf": "1"}


def copies_factor(copies: int, p: P, q: P) -> float:
    """||diag(A, ..., A)||_{p->q} <= copies^max(0, 1/q - 1/p) ||A||_{p->q}: Hoelder over the blocks; exact for p <= q."""
    power = _INVERSE[q] - _INVERSE[p]
    return 1.0 if power <= 0 or copies <= 1 else up(up(float(copies) ** power))


def _nonzero(stored: Tensor, radius: Tensor | None) -> Tensor:
    """1 where a coefficient may be other than 0."""
    return ((stored != 0) if radius is None else (stored != 0) | (radius != 0)).to(stored.dtype)


def _max_up(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


@dataclass(frozen=True, eq=False)
class Operator:
    """Interface: no state of its own. `memo` keeps norms that were proved for this very object: a copy, changed or
    moved, begins with an empty one."""

    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    in_size: int = field(init=False)
    out_size: int = field(init=False)

    def mv(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def rmv(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def absolute(self) -> Operator:
        raise NotImplementedError

    def radius_operator(self) -> Operator | None:
        raise NotImplementedError

    def pattern(self) -> Operator:
        raise NotImplementedError

    @property
    def terms(self) -> int:
        raise NotImplementedError

    @property
    def terms_adjoint(self) -> int:
        raise NotImplementedError

    @property
    def flops(self) -> int:
        """Multiplications and additions of one mv: what decides whether a dense form is affordable."""
        return 2 * self.out_size * max(1, self.terms)

    def _norm(self, p: P, q: P) -> float:
        raise NotImplementedError

    def norm_upper(self, p: P, q: P) -> float:
        """Proved upper bound of ||A||_{p->q} over the enclosure; inf where the coefficients overflow."""
        if (p, q) not in self.memo:
            self.memo[p, q] = 0.0 if 0 in (self.in_size, self.out_size) else self._norm(p, q)
        return self.memo[p, q]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Operator:
        """The same operator with its tensors moved: for evaluation in bulk, and in float64 for proofs."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device) if name == "index" else value.to(device, dtype)
            elif isinstance(value, Operator):
                moved[name] = value.to(device, dtype)
        keep = {name: value for name, value in moved.items() if name in self.__dataclass_fields__}
        return replace(self, **{n: v for n, v in keep.items() if self.__dataclass_fields__[n].init})


@dataclass(frozen=True, eq=False)
class Select(Operator):
    """y_i = x_{index_i}, or 0 where index_i = -1: reshapes, transposes, slices, zero pads, expands, gathers, flips."""

    index: Tensor  # int64 (out_size,)
    size: int  # in_size
    pad: tuple[tuple[int, ...], tuple[tuple[int, int], ...]] | None = (
        None  # hint: zero pad of (shape, (low, high) per axis)
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_size", self.size)
        object.__setattr__(self, "out_size", self.index.numel())

    def _holes(self) -> Tensor | None:
        if "holes" not in self.memo:
            self.memo["holes"] = bool((self.index < 0).any())
        return (self.index >= 0) if self.memo["holes"] else None

    def mv(self, x: Tensor) -> Tensor:
        kept = self._holes()
        if kept is None:
            return x.index_select(1, self.index)
        if self.in_size == 0:
            return x.new_zeros(x.shape[0], self.out_size)
        return torch.where(kept, x.index_select(1, self.index.clamp(min=0)), x.new_zeros(()))

    def rmv(self, y: Tensor) -> Tensor:
        kept = self._holes()
        out = y.new_zeros(y.shape[0], self.in_size)
        if kept is None:
            return out.index_add_(1, self.index, y)
        return out.index_add_(1, self.index[kept], y[:, kept])

    def absolute(self) -> Select:
        return self

    def radius_operator(self) -> None:
        return None

    def pattern(self) -> Select:
        return self

    def multiplicity(self) -> int:
        """How often the most used entry is repeated."""
        if "multiplicity" not in self.memo:
            kept = self.index[self.index >= 0]
            self.memo["multiplicity"] = int(torch.bincount(kept).max()) if kept.numel() else 0
        return int(self.memo["multiplicity"])

    @property
    def terms(self) -> int:
        return 0

    @property
    def terms_adjoint(self) -> int:
        return self.multiplicity() if self.multiplicity() > 1 else 0

    def _norm(self, p: P, q: P) -> float:
        most = self.multiplicity()
        if most == 0:
            return 0.0
        # p <= q: the largest column q-norm, most^(1/q) (||x||_q <= ||x||_p). p > q: Hoelder over the read entries as well.
        value = 1.0 if q == "inf" else (float(most) if q == "1" else up(math.sqrt(most)))
        read = int((torch.bincount(self.index[self.index >= 0]) > 0).sum())
        return up(value * copies_factor(read, p, q)) if copies_factor(read, p, q) > 1 else value


@dataclass(frozen=True, eq=False)
class Scale(Operator):
    """y = factor * x, entry by entry."""

    factor: Tensor  # (n,)
    radius: Tensor | None = None  # (n,), |true - factor| <= radius
    divisor: float | None = None  # where known: every true factor is 1 / divisor

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_size", self.factor.numel())
        object.__setattr__(self, "out_size", self.factor.numel())

    def mv(self, x: Tensor) -> Tensor:
        return x * self.factor

    def rmv(self, y: Tensor) -> Tensor:
        return self.mv(y)

    def absolute(self) -> Scale:
        return Scale(self.factor.abs() if self.radius is None else up(self.factor.abs() + self.radius))

    def radius_operator(self) -> Scale | None:
        return None if self.radius is None else Scale(self.radius)

    def pattern(self) -> Scale:
        return Scale(_nonzero(self.factor, self.radius))

    @property
    def exact_signs(self) -> bool:
        return self.radius is None and bool(((self.factor.abs() == 1) | (self.factor == 0)).all())

    @property
    def terms(self) -> int:
        return 0 if self.exact_signs else 1

    terms_adjoint = terms

    def _norm(self, p: P, q: P) -> float:
        largest = _max_up(self.absolute().factor)
        factor = copies_factor(self.in_size, p, q)
        return largest if factor == 1 else mul_up(largest, factor)


@dataclass(frozen=True, eq=False)
class Dense(Operator):
    """Matrices along one axis: x as (outer, g, n, inner) -> (outer, g, m, inner), y[o, b, :, i] = W_b x[o, b, :, i].

    A linear layer has outer = leading dims, g = inner = 1; a product with a batch of constant matrices has g > 1;
    sums, means, poolings and linear interpolation along an axis are small matrices with inner > 1.
    """

    weight: Tensor  # (g, m, n)
    outer: int = 1
    inner: int = 1
    radius: Tensor | None = None  # (g, m, n)

    def __post_init__(self) -> None:
        g, m, n = self.weight.shape
        object.__setattr__(self, "in_size", self.outer * g * n * self.inner)
        object.__setattr__(self, "out_size", self.outer * g * m * self.inner)

    def _apply(self, weight: Tensor, x: Tensor) -> Tensor:
        g, m, n = weight.shape
        if g == 1 and self.inner == 1:
            return (x.reshape(x.shape[0] * self.outer, n) @ weight[0].T).reshape(x.shape[0], self.outer * m)
        y = weight @ x.reshape(x.shape[0] * self.outer, g, n, self.inner)
        return y.reshape(x.shape[0], self.outer * g * m * self.inner)

    def mv(self, x: Tensor) -> Tensor:
        return self._apply(self.weight, x)

    def rmv(self, y: Tensor) -> Tensor:
        return self._apply(self.weight.transpose(1, 2), y)

    def absolute(self) -> Dense:
        kept = self.memo.get("absolute")
        if kept is None:
            weight = self.weight.abs() if self.radius is None else up(self.weight.abs() + self.radius)
            kept = Dense(weight, self.outer, self.inner)
            if weight.numel() <= KEPT:
                self.memo["absolute"] = kept
        return kept

    def radius_operator(self) -> Dense | None:
        return None if self.radius is None else Dense(self.radius, self.outer, self.inner)

    def pattern(self) -> Dense:
        return Dense(_nonzero(self.weight, self.radius), self.outer, self.inner)

    @property
    def terms(self) -> int:
        return self.weight.shape[2]

    @property
    def terms_adjoint(self) -> int:
        return self.weight.shape[1]

    def _norm(self, p: P, q: P) -> float:
        norms = matrix_norms_upper(self.weight, self.radius, p, q)
        blocks = _max_up(norms)
        factor = copies_factor(self.outer * self.inner * self.weight.shape[0], p, q)
        return blocks if factor == 1 else mul_up(blocks, factor)


@dataclass(frozen=True, eq=False)
class Conv(Operator):
    """Zero-padded convolution of `batch` independent maps, x as (batch, c_in, *in_shape)."""

    weight: Tensor  # (c_out, c_in / groups, *kernel)
    geometry: ConvGeometry
    batch: int = 1
    radius: Tensor | None = None

    def __post_init__(self) -> None:
        channels = self.weight.shape[1] * self.geometry.groups
        object.__setattr__(self, "in_size", self.batch * channels * math.prod(self.geometry.in_shape))
        object.__setattr__(self, "out_size", self.batch * self.weight.shape[0] * math.prod(self.out_shape))

    @property
    def out_shape(self) -> tuple[int, ...]:
        g = self.geometry
        return tuple(
            (n + low + high - d * (k - 1) - 1) // s + 1
            for n, (low, high), d, k, s in zip(
                g.in_shape, g.padding, g.dilation, self.weight.shape[2:], g.stride, strict=True
            )
        )

    def mv(self, x: Tensor) -> Tensor:
        g = self.geometry
        channels = self.weight.shape[1] * g.groups
        maps = x.reshape(-1, channels, *g.in_shape)
        pads = [side for axis in reversed(g.padding) for side in axis]
        maps = F.pad(maps, pads) if any(pads) else maps
        y = _CONV[len(g.in_shape)](maps, self.weight, None, g.stride, 0, g.dilation, g.groups)
        return y.reshape(x.shape[0], self.out_size)

    def rmv(self, y: Tensor) -> Tensor:
        g = self.geometry
        maps = y.reshape(-1, self.weight.shape[0], *self.out_shape)
        kernel = self.weight.shape[2:]
        padded = [n + low + high for n, (low, high) in zip(g.in_shape, g.padding, strict=True)]
        spare = [
            full - ((m - 1) * s + d * (k - 1) + 1)
            for full, m, s, d, k in zip(padded, self.out_shape, g.stride, g.dilation, kernel, strict=True)
        ]
        x = _CONV_TRANSPOSE[len(g.in_shape)](maps, self.weight, None, g.stride, 0, 0, g.groups, g.dilation)
        pads = [side for axis in reversed([(0, s) for s in spare]) for side in axis]
        x = F.pad(x, pads) if any(pads) else x
        crop = [-side for axis in reversed(g.padding) for side in axis]
        x = F.pad(x, crop) if any(crop) else x
        return x.reshape(y.shape[0], self.in_size)

    def absolute(self) -> Conv:
        weight = self.weight.abs() if self.radius is None else up(self.weight.abs() + self.radius)
        return Conv(weight, self.geometry, self.batch)

    def radius_operator(self) -> Conv | None:
        return None if self.radius is None else Conv(self.radius, self.geometry, self.batch)

    def pattern(self) -> Conv:
        return Conv(_nonzero(self.weight, self.radius), self.geometry, self.batch)

    @property
    def terms(self) -> int:
        return self.weight[0].numel()

    @property
    def terms_adjoint(self) -> int:
        return self.weight.numel() // (self.weight.shape[1] * self.geometry.groups)

    def _norm(self, p: P, q: P) -> float:
        value = conv_norm_upper(self.weight, self.radius, self.geometry, p, q)
        factor = copies_factor(self.batch, p, q)
        return value if factor == 1 else mul_up(value, factor)


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, eq=False)
class Adjoint(Operator):
    """The transpose of another operator: ||A'||_{p->q} = ||A||_{q*->p*} with dual exponents."""

    of: Operator

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_size", self.of.out_size)
        object.__setattr__(self, "out_size", self.of.in_size)

    def mv(self, x: Tensor) -> Tensor:
        return self.of.rmv(x)

    def rmv(self, y: Tensor) -> Tensor:
        return self.of.mv(y)

    def absolute(self) -> Adjoint:
        return Adjoint(self.of.absolute())

    def radius_operator(self) -> Adjoint | None:
        radius = self.of.radius_operator()
        return None if radius is None else Adjoint(radius)

    def pattern(self) -> Adjoint:
        return Adjoint(self.of.pattern())

    @property
    def flops(self) -> int:
        return self.of.flops

    @property
    def terms(self) -> int:
        return self.of.terms_adjoint

    @property
    def terms_adjoint(self) -> int:
        return self.of.terms

    def _norm(self, p: P, q: P) -> float:
        return self.of.norm_upper(DUAL[q], DUAL[p])
