"""Proved upper bounds of ||T||_{p->q} for zero-padded convolutions T, without forming T (MATH section 2).

Per axis, T is y[o] = sum_k w_k x[s o + t_k], 0 <= o < m, with taps t_k = d k - p_low and x = 0 outside 0 .. n-1.

**l2**: the dense proof where T is small, else the torus lemma of `torus`.

**Everything else** needs sums of |w| or w^2 over the taps that fall inside the map; per axis only a few different sets
of such taps occur, so the sums over all rows or columns of T are found exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.operators.torus_norm import Taps, torus_norm_upper
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import (
    TINY,
    add_up,
    gamma,
    keeps_subnormals,
    mul_up,
    norm_up,
    power_of_two_scale,
    require_float64,
    sqrt_up,
    sum_up,
)
from lipcert.terms.query import P

DENSE_SIDE, DENSE_SIZE = 512, 1 << 22  # T itself is formed up to this smaller side and this many entries
MOST_TAPS = 4096  # the lags of a kernel with itself are listed pair by pair: longer kernels keep Schur's bound
DUAL: dict[P, P] = {"1": "inf", "2": "2", "inf": "1"}


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of `torch.nn.ConvNd` or `ConvTransposeNd`, one entry per spatial axis; negative padding crops."""

    in_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # (low, high)
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()  # transposed only; () is all zeros


@dataclass(frozen=True)
class _Conv:
    """One convolution, taps that only ever meet padding removed."""

    C: Tensor  # (g, a, c, *k) float64: groups, outputs and inputs of each group
    R: Tensor | None
    axes: tuple[Taps, ...]

    def size(self) -> Tensor:
        return self.C.abs() if self.R is None else add_up(self.C.abs(), self.R)


@keeps_subnormals
def conv_norm_upper(weight: Tensor, radius: Tensor | None, geometry: ConvGeometry, p: P, q: P) -> float:
    """Upper bound of ||T||_{p->q} over all kernels within `radius` (entrywise, None: exact) of `weight`.

    weight: (c_out, c_in / groups, *k) float64, or (c_in, c_out / groups, *k) where transposed; 1 to 3 spatial axes.
    Norms of the flattened maps, one sample. 0.0 for zero kernels and empty maps, `inf` where an entry is not finite;
    TypeError for other dtypes.
    """
    require_float64(weight, radius)
    weight, radius = weight.detach(), None if radius is None else radius.detach()
    if weight.numel() == 0:
        return 0.0
    if not bool(torch.isfinite(weight).all()) or (radius is not None and not bool(torch.isfinite(radius).all())):
        return math.inf
    if geometry.transposed:
        p, q = DUAL[q], DUAL[p]  # ||T'||_{p->q} = ||T||_{q*->p*}
    scale = power_of_two_scale(max(float(t.abs().amax()) for t in (weight, radius) if t is not None))
    conv = _prepare(weight * (1.0 / scale), None if radius is None else radius * (1.0 / scale), geometry)
    if conv is None or not bool(conv.size().any()):
        return 0.0
    # Entries that became subnormal on scaling moved by at most TINY each; every ||.||_{p->q} of such a change is at
    # most the sum of the changed entries of T.
    rows = math.prod(axis.m for axis in conv.axes)
    moved = 2 * weight.numel() * rows * TINY
    return mul_up(add_up(CONV_RULES[p, q](conv), moved), scale)


def _prepare(weight: Tensor, radius: Tensor | None, geometry: ConvGeometry) -> _Conv | None:
    """The convolution whose norm is asked; None where T has no entries. A transposed one is the adjoint of this."""
    axes, used = [], []
    kernel = weight.shape[2:]
    extra = geometry.output_padding or (0,) * len(kernel)
    for n, k, s, (low, high), d, e in zip(
        geometry.in_shape, kernel, geometry.stride, geometry.padding, geometry.dilation, extra, strict=True
    ):
        reach = d * (k - 1) + 1
        if geometry.transposed:
            m, n = n, (n - 1) * s - low - high + reach + e
        else:
            m = (n + low + high - reach) // s + 1
        if m <= 0 or n <= 0:
            return None
        axis = Taps(n, m, s, tuple(d * i - low for i in range(k)))
        keep = axis.of_row().any(1).nonzero().flatten()
        if len(keep) == 0:
            return None
        axes.append(Taps(n, m, s, tuple(axis.taps[i] for i in keep.tolist())))
        used.append(keep)

    def grouped(t: Tensor) -> Tensor:
        for d, keep in enumerate(used):
            t = t.index_select(2 + d, keep.to(t.device))
        return t.reshape(geometry.groups, -1, *t.shape[1:])

    return _Conv(grouped(weight), None if radius is None else grouped(radius), tuple(axes))


# Sums over rows and columns of T.


def _over_taps(values: Tensor, sets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Upper sums (.., *u) of nonnegative values (.., *k) over each set of taps that occurs, and how often (*u) it does.

    `sets`: per axis, (k, positions) bool.
    """
    counts = torch.ones((), dtype=torch.float64, device=values.device)
    lead = values.ndim - len(sets)
    terms = 1
    for d, membership in enumerate(sets):
        unique, count = torch.unique(membership.to(torch.int8), dim=1, return_counts=True)
        values = torch.tensordot(values, unique.double().to(values.device), dims=([lead], [0]))
        counts = counts[..., None] * count.double().to(values.device)
        terms += sets[d].shape[0]
    return mul_up(values, add_up(1.0, gamma(terms))), counts


def _rows(conv: _Conv, power: int) -> tuple[Tensor, Tensor]:
    """Upper values (g, a, *u) of sum_j |t_ij|^power over each kind of row, and the number of such rows (*u)."""
    size = conv.size()
    return _over_taps(sum_up(size if power == 1 else mul_up(size, size), 2), [axis.of_row() for axis in conv.axes])


def _columns(conv: _Conv, power: int) -> tuple[Tensor, Tensor]:
    """Upper values (g, c, *u) of sum_i |t_ij|^power over each kind of column, and the number of such columns (*u)."""
    size = conv.size()
    return _over_taps(sum_up(size if power == 1 else mul_up(size, size), 1), [axis.of_column() for axis in conv.axes])


def _one_to_one(conv: _Conv) -> float:
    return float(_columns(conv, 1)[0].amax())


def _inf_to_inf(conv: _Conv) -> float:
    return float(_rows(conv, 1)[0].amax())


def _one_to_two(conv: _Conv) -> float:
    return sqrt_up(float(_columns(conv, 2)[0].amax()))


def _two_to_inf(conv: _Conv) -> float:
    return sqrt_up(float(_rows(conv, 2)[0].amax()))


def _one_to_inf(conv: _Conv) -> float:
    return float(conv.size().amax())


def _inf_to_two(conv: _Conv) -> float:
    """||T x||_2 <= || |T| 1 ||_2, and ||x||_2 <= sqrt(n) ||x||_inf."""
    sums, counts = _rows(conv, 1)
    rows = float(norm_up(mul_up(sums, sqrt_up(counts)), "2"))
    entries = conv.C.shape[0] * conv.C.shape[2] * math.prod(axis.n for axis in conv.axes)
    return min(rows, mul_up(_two_to_two(conv), sqrt_up(float(entries))))


def _two_to_one(conv: _Conv) -> float:
    """The adjoint of `_inf_to_two`: columns for rows."""
    sums, counts = _columns(conv, 1)
    columns = float(norm_up(mul_up(sums, sqrt_up(counts)), "2"))
    entries = conv.C.shape[0] * conv.C.shape[1] * math.prod(axis.m for axis in conv.axes)
    return min(columns, mul_up(_two_to_two(conv), sqrt_up(float(entries))))


def _inf_to_one(conv: _Conv) -> float:
    """||T x||_1 <= sum |t_ij|, and ||y||_1 <= sqrt(m) ||y||_2."""
    sums, counts = _rows(conv, 1)
    entries = conv.C.shape[0] * conv.C.shape[1] * math.prod(axis.m for axis in conv.axes)
    return min(float(sum_up(mul_up(sums, counts))), mul_up(_inf_to_two(conv), sqrt_up(float(entries))))


def _two_to_two(conv: _Conv) -> float:
    """The dense proof where T is small, else the torus lemma; never more than Schur's sqrt(||T||_1 ||T||_inf)."""
    schur = mul_up(sqrt_up(_one_to_one(conv)), sqrt_up(_inf_to_inf(conv)))
    g, a, c = conv.C.shape[:3]
    rows, columns = a * math.prod(axis.m for axis in conv.axes), c * math.prod(axis.n for axis in conv.axes)
    if min(rows, columns) <= DENSE_SIDE and g * rows * columns <= DENSE_SIZE:
        C, R = _dense(conv.C, conv.axes), None if conv.R is None else _dense(conv.R, conv.axes)
        return min(schur, float(matrix_norms_upper(C, R, "2", "2").amax()))
    if math.prod(conv.C.shape[3:]) > MOST_TAPS:
        return schur
    return min(schur, torus_norm_upper(conv.C, conv.R, conv.axes))


def _dense(weight: Tensor, axes: tuple[Taps, ...]) -> Tensor:
    """T of each group (g, rows, columns), exact: every entry is one weight or zero."""
    tap = row = column = torch.zeros(1, dtype=torch.int64)
    for axis in axes:
        k, o = axis.of_row().nonzero(as_tuple=True)
        i = torch.tensor(axis.taps)[k] + axis.stride * o
        tap, row, column = (
            (old[:, None] * size + new).flatten()
            for old, size, new in ((tap, len(axis.taps), k), (row, axis.m, o), (column, axis.n, i))
        )
    g, a, c = weight.shape[:3]
    rows, columns = math.prod(axis.m for axis in axes), math.prod(axis.n for axis in axes)
    T = weight.new_zeros(g, a, c, rows, columns)
    T[:, :, :, row, column] = weight.reshape(g, a, c, -1)[:, :, :, tap]
    return T.permute(0, 1, 3, 2, 4).reshape(g, a * rows, c * columns)


CONV_RULES: dict[tuple[P, P], Callable[[_Conv], float]] = {
    ("1", "1"): _one_to_one,
    ("1", "2"): _one_to_two,
    ("1", "inf"): _one_to_inf,
    ("2", "1"): _two_to_one,
    ("2", "2"): _two_to_two,
    ("2", "inf"): _two_to_inf,
    ("inf", "1"): _inf_to_one,
    ("inf", "2"): _inf_to_two,
    ("inf", "inf"): _inf_to_inf,
}
