"""Proved upper bounds of ||T||_{p->q} for zero-padded convolutions T, without forming T.

Per axis, T is y[o] = sum_k w_k x[s o + t_k], 0 <= o < m, with taps t_k = d k - p_low and x = 0 outside 0 .. n-1.

**l2, torus lemma** (MATH section 2). Let N be a multiple of s with N >= n + max(p_low, 0), N > s (m-1) + max t_k and
N >= s m. On the torus Z_N an index outside 0 .. n-1 that T reads stays outside after wrapping, so T = P C E with C the
circular convolution, E embedding by zeros and P restriction: ||T|| <= ||C||. Sorting the input by i mod s (polyphase)
turns C into a block circulant on Z_{N/s} with blocks Q_j, one for each coarse tap j = floor(t / s), hence

    ||C||^2 = max over w of lambda_max( H(w)* H(w) ),    H(w) = sum_j Q_j e^{i w j},    w in 2 pi Z_{N/s} / (N/s).

The Gram symbol is formed from the lags of the kernel with itself, H* H = sum_tau R_tau e^{i w tau},
R_tau = sum_j Q_j' Q_{j+tau}: a few real products in all, instead of one complex product for every frequency. Its
largest eigenvalues are proved in `psd`.

**Everything else** needs sums of |w| or w^2 over the taps that fall inside the map; per axis only a few different sets
of such taps occur, so the sums over all rows or columns of T are found exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.norms import matrix_norms_upper
from lipcert.psd import LADDER, Hermitian, eigenvalues_below, frobenius_upper, propose, row_sum_upper
from lipcert.query import P
from lipcert.rounding import TINY, add_up, gamma, mul_up, norm_up, power_of_two_scale, sqrt_up, sum_up

DENSE_SIDE, DENSE_SIZE = 512, 1 << 22  # T itself is formed up to this smaller side and this many entries
CHUNK = 1 << 23  # complex entries of the Gram symbol held at once (128 MB, and two or three temporaries)
# e^{i a} of one axis is off by less than 2^-48: the angle 2 pi q / M, |q| <= M/2, carries three roundings (at most
# 1.1e-15), and libm's cos and sin are good to one unit in the last place. Products over three axes: less than 2^-46.
PHASE = 2.0**-46
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
class _Axis:
    """y[o] = sum_k w_k x[stride o + taps[k]] for 0 <= o < m, x zero outside 0 .. n-1."""

    n: int
    m: int
    stride: int
    taps: tuple[int, ...]

    def of_row(self) -> Tensor:
        """(k, m): whether output o reads a true entry through tap k."""
        reads = torch.tensor(self.taps)[:, None] + self.stride * torch.arange(self.m)[None, :]
        return (reads >= 0) & (reads < self.n)

    def of_column(self) -> Tensor:
        """(k, n): whether input i is read through tap k."""
        steps = torch.arange(self.n)[None, :] - torch.tensor(self.taps)[:, None]
        return (steps % self.stride == 0) & (steps >= 0) & (steps < self.stride * self.m)

    def incidence(self) -> Tensor:
        """(k, m, n) 0/1: output o reads input i through tap k; at most one k for each pair (o, i)."""
        reads = torch.tensor(self.taps)[:, None] + self.stride * torch.arange(self.m)[None, :]
        return (reads[:, :, None] == torch.arange(self.n)).double()

    def torus(self) -> int:
        """N / s for the smallest torus of the lemma."""
        least = max(self.n, self.n - min(self.taps), self.stride * (self.m - 1) + max(self.taps) + 1)
        return max(-(-least // self.stride), self.m)


@dataclass(frozen=True)
class _Conv:
    """One convolution, taps that only ever meet padding removed."""

    C: Tensor  # (g, a, c, *k) float64: groups, outputs and inputs of each group
    R: Tensor | None
    axes: tuple[_Axis, ...]

    def size(self) -> Tensor:
        return self.C.abs() if self.R is None else add_up(self.C.abs(), self.R)


def conv_norm_upper(weight: Tensor, radius: Tensor | None, geometry: ConvGeometry, p: P, q: P) -> float:
    """Upper bound of ||T||_{p->q} over all kernels within `radius` (entrywise, None: exact) of `weight`.

    weight: (c_out, c_in / groups, *k) float64, or (c_in, c_out / groups, *k) where transposed; 1 to 3 spatial axes.
    Norms of the flattened maps, one sample. 0.0 for zero kernels and empty maps, `inf` where an entry is not finite.
    """
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
        axis = _Axis(n, m, s, tuple(d * i - low for i in range(k)))
        keep = axis.of_row().any(1).nonzero().flatten()
        if len(keep) == 0:
            return None
        axes.append(_Axis(n, m, s, tuple(axis.taps[i] for i in keep.tolist())))
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


def _underflow(conv: _Conv) -> float:
    """Squares below the normal range: the largest entry is about 1, so this costs nothing."""
    return conv.C.numel() * TINY


def _one_to_one(conv: _Conv) -> float:
    return float(_columns(conv, 1)[0].amax())


def _inf_to_inf(conv: _Conv) -> float:
    return float(_rows(conv, 1)[0].amax())


def _one_to_two(conv: _Conv) -> float:
    return sqrt_up(add_up(float(_columns(conv, 2)[0].amax()), _underflow(conv)))


def _two_to_inf(conv: _Conv) -> float:
    return sqrt_up(add_up(float(_rows(conv, 2)[0].amax()), _underflow(conv)))


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
    return min(schur, _torus(conv))


def _dense(weight: Tensor, axes: tuple[_Axis, ...]) -> Tensor:
    """T of each group (g, rows, columns), exact: each entry is one weight plus zeros."""
    T = weight
    for axis in axes:  # (g, a, c, k, .., o, i, ..) -> (g, a, c, .., o, i)
        T = torch.tensordot(T, axis.incidence().to(weight.device), dims=([3], [0]))
    d = len(axes)
    T = T.permute(0, 1, *(3 + 2 * e for e in range(d)), 2, *(4 + 2 * e for e in range(d)))
    rows = T.shape[1] * math.prod(axis.m for axis in axes)
    return T.reshape(T.shape[0], rows, -1)


# The torus lemma.


def _torus(conv: _Conv) -> float:
    """||C||_2 of the circular convolution, radius and rounding included."""
    Q, coarse = _polyphase(conv.C, conv.axes)
    R, lags = _lags(Q, coarse)
    J, r = Q.shape[1], Q.shape[2]
    # |R_tau - exact| <= gamma_{r+J} sum_j |Q_j|' |Q_{j+tau}|, and over all tau these add up to A'A, A = sum_j |Q_j|.
    # The sum over tau, the phases and X + X* err by 2 gamma_{L+2} + PHASE of the same (factor 2: real + imaginary).
    relative = 2 * add_up(add_up(gamma(r + J), gamma(len(lags) + 2)), PHASE)
    weight = _schur_squared(sum_up(Q.abs(), 1))
    proved = 0.0
    t = 0.0
    for G in _symbols(R, lags, conv.axes, coarse):
        value, t = _largest_of(G, t)
        proved = max(proved, value)
    total = add_up(add_up(proved, mul_up(weight, relative)), 4.0 * Q.numel() ** 2 * TINY)
    value = sqrt_up(total)
    if conv.R is None:
        return value
    # |H_R(w)| <= sum_j R_j entry by entry.
    return add_up(value, sqrt_up(_schur_squared(sum_up(_polyphase(conv.R, conv.axes)[0], 1))))


def _schur_squared(A: Tensor) -> float:
    """||A||_1 ||A||_inf >= ||A||_2^2 of the largest of nonnegative matrices (g, r, n)."""
    return float(mul_up(sum_up(A, 1).amax(1), sum_up(A, 2).amax(1)).amax())


def _polyphase(weight: Tensor, axes: tuple[_Axis, ...]) -> tuple[Tensor, Tensor]:
    """The blocks Q (g, J, r, n), n the smaller side, and their coarse taps (J, axes) as integers."""
    g, a, c = weight.shape[:3]
    taps = list(itertools.product(*(axis.taps for axis in axes)))
    split = [[divmod(t, axis.stride) for t, axis in zip(tap, axes, strict=True)] for tap in taps]
    coarse = sorted({tuple(j for j, _ in tap) for tap in split})
    phases = sorted({tuple(f for _, f in tap) for tap in split})
    J = torch.tensor([coarse.index(tuple(j for j, _ in tap)) for tap in split], device=weight.device)
    F = torch.tensor([phases.index(tuple(f for _, f in tap)) for tap in split], device=weight.device)
    Q = weight.new_zeros(len(coarse), len(phases), g, a, c)
    Q[J, F] = weight.reshape(g, a, c, -1).permute(3, 0, 1, 2)
    Q = Q.permute(2, 0, 3, 1, 4).reshape(g, len(coarse), a, -1)
    return (Q if Q.shape[3] <= a else Q.mT), torch.tensor(coarse)


def _lags(Q: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """R_tau (L, g, n, n) of one of each pair +-tau, R_0 halved (exactly), and the lags tau (L, axes)."""
    position = {tuple(j): i for i, j in enumerate(coarse.tolist())}
    pairs: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for (first, i), (second, j) in itertools.product(position.items(), repeat=2):
        lag = tuple(b - a for a, b in zip(first, second, strict=True))
        if lag >= (0,) * len(lag):
            pairs.setdefault(lag, []).append((i, j))
    R = []
    for lag, both in pairs.items():
        left, right = (torch.tensor(side, device=Q.device) for side in zip(*both, strict=True))
        product = (Q[:, left].mT @ Q[:, right]).sum(1)
        R.append(0.5 * product if not any(lag) else product)
    return torch.stack(R), torch.tensor(list(pairs))


def _symbols(R: Tensor, lags: Tensor, axes: tuple[_Axis, ...], coarse: Tensor) -> Iterator[Hermitian]:
    """The Gram symbols H* H at all frequencies of the torus up to conjugation, in chunks of Hermitian (b, n, n)."""
    L, g, n, _ = R.shape
    # An axis on which all blocks sit at one coarse tap has a constant symbol. Conjugation halves the first other axis.
    moves = [int(span) > 0 for span in coarse.amax(0) - coarse.amin(0)]
    sizes = [axis.torus() if move else 1 for axis, move in zip(axes, moves, strict=True)]
    halved = max(range(len(sizes)), key=lambda d: sizes[d])
    counts = [size // 2 + 1 if d == halved else size for d, size in enumerate(sizes)]
    total = math.prod(counts)
    chunk = max(1, CHUNK // max(g * n * n, L))
    flat = R.reshape(L, -1)
    for start in range(0, total, chunk):
        index = torch.arange(start, min(start + chunk, total))
        cos, sin = torch.ones(len(index), L, dtype=torch.float64), torch.zeros(len(index), L, dtype=torch.float64)
        for d in reversed(range(len(sizes))):
            frequency, index = index % counts[d], index // counts[d]
            table_cos, table_sin = _phases(sizes[d])
            turn = (frequency[:, None] * lags[None, :, d]) % sizes[d]
            c, s = table_cos[turn], table_sin[turn]
            cos, sin = cos * c - sin * s, cos * s + sin * c
        re = (cos.to(R.device) @ flat).reshape(-1, n, n)
        im = (sin.to(R.device) @ flat).reshape(-1, n, n)
        yield Hermitian(re + re.mT, im - im.mT)


def _phases(M: int) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi q / M, q = 0 .. M-1, each within 2^-49 (see PHASE). On the CPU, by libm."""
    angles = [2 * math.pi * (q if 2 * q <= M else q - M) / M for q in range(M)]
    return (
        torch.tensor([math.cos(a) for a in angles], dtype=torch.float64),
        torch.tensor([math.sin(a) for a in angles], dtype=torch.float64),
    )


def _largest_of(G: Hermitian, t: float) -> tuple[float, float]:
    """An upper value of the largest eigenvalue of all matrices of a batch that is proved near `t`, and the raised t.

    Matrices whose Frobenius norm or row sums are below t are done. The others are tried at t; those without a Cholesky
    factor raise t to the largest of them, as a few power steps rank them, and keep the cheap bound if all steps fail.
    """
    cheap = torch.minimum(row_sum_upper(G), frobenius_upper(G))
    if G.re.shape[-1] == 1 or not math.isfinite(float(cheap.amax())):
        return float(cheap.amax()), t  # 1 x 1: the Gram matrix is its eigenvalue
    todo = (cheap > t).nonzero().flatten()
    value = float(cheap[cheap <= t].amax()) if len(todo) < len(cheap) else 0.0
    inflations = iter(LADDER)
    while len(todo):
        some = G if len(todo) == len(cheap) else G.pick(todo)
        proved = torch.full_like(cheap[todo], math.inf)
        if t > 0:
            proved = eigenvalues_below(some, torch.full_like(proved, t))
        failed = torch.isinf(proved)
        value = max([value, *proved[~failed].tolist()])
        todo = todo[failed]
        if len(todo) == 0:
            break
        some = some if bool(failed.all()) else some.pick(failed)
        best = _power_steps(some).argsort(descending=True)[:3]
        higher = float(propose(some.pick(best)).amax()) * (1 + LADDER[0])
        if not higher > t:  # proposed no higher than what has just failed: step up by more each time, then give up
            inflation = next(inflations, None)
            if inflation is None:
                return max(value, float(cheap[todo].amax())), t
            higher = t * (1 + inflation)
        t = higher
    return value, t


def _power_steps(G: Hermitian, steps: int = 6) -> Tensor:
    """Estimates (b,) of the largest eigenvalues, to rank them."""
    b, n, _ = G.re.shape
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(n, 2, generator=generator, dtype=torch.float64)  # real and imaginary part
    v = start.to(G.re.device).expand(b, n, 2)
    for _ in range(steps):
        v = v / torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True).clamp(min=TINY)
        re, im = G.re @ v, (torch.zeros_like(v) if G.im is None else G.im @ v)
        v = torch.stack([re[:, :, 0] - im[:, :, 1], re[:, :, 1] + im[:, :, 0]], 2)
    return torch.linalg.vector_norm(v, dim=(1, 2))


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
