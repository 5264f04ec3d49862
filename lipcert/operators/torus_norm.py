"""The torus lemma: a proved upper bound of the spectral norm of a zero-padded convolution (MATH section 2).

Per axis, T is y[o] = sum_k w_k x[s o + t_k], 0 <= o < m, with taps t_k = d k - p_low and x = 0 outside 0 .. n-1. Let N
be a multiple of s with N >= n + max(p_low, 0), N > s (m-1) + max t_k and N >= s m. On the torus Z_N an index outside
0 .. n-1 that T reads stays outside after wrapping, so T = P C E with C the circular convolution, E embedding by zeros
and P restriction: ||T|| <= ||C||. Sorting the input by i mod s (polyphase) turns C into a block circulant on Z_{N/s}
with blocks Q_j, one for each coarse tap j = floor(t / s), hence

    ||C||^2 = max over w of lambda_max( H(w)* H(w) ),    H(w) = sum_j Q_j e^{i w j},    w in 2 pi Z_{N/s} / (N/s).

The Gram symbol is formed from the lags of the kernel with itself, H* H = sum_tau R_tau e^{i w tau},
R_tau = sum_j Q_j' Q_{j+tau}: a few real products in all, instead of one complex product for every frequency. Its
largest eigenvalues are proved in `psd`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.rigor.psd import LADDER, Hermitian, eigenvalues_below, frobenius_upper, propose, row_sum_upper
from lipcert.rigor.rounding import TINY, add_up, gamma, keeps_subnormals, mul_up, sqrt_up, sum_up
from lipcert.terms.clock import tick

CHUNK = 1 << 23  # complex entries of the Gram symbol held at once (128 MB, and two or three temporaries)
# e^{i a} of one axis is off by less than 2^-48: the angle 2 pi q / M, |q| <= M/2, carries three roundings (at most
# 1.1e-15), and libm's cos and sin are good to one unit in the last place. Products over three axes: less than 2^-46.
PHASE = 2.0**-46


@dataclass(frozen=True)
class Taps:
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

    def torus(self) -> int:
        """N / s for the smallest torus of the lemma."""
        least = max(self.n, self.n - min(self.taps), self.stride * (self.m - 1) + max(self.taps) + 1)
        return max(-(-least // self.stride), self.m)


@keeps_subnormals
def torus_norm_upper(weight: Tensor, radius: Tensor | None, axes: tuple[Taps, ...]) -> float:
    """Upper bound of ||T||_2 over all kernels within `radius` of `weight` (g, a, c, *k): the largest of g groups.

    Entries about 1 (underflow is covered from there down to nothing, overflow is not).
    """
    Q, coarse = polyphase(weight, axes)
    R, lags = kernel_lags(Q, coarse)
    J, r = Q.shape[1], Q.shape[2]
    # |R_tau - exact| <= gamma_{r+J} sum_j |Q_j|' |Q_{j+tau}|, and over all tau these add up to A'A, A = sum_j |Q_j|.
    # The sum over tau, the phases and X + X* err by 2 gamma_{L+2} + PHASE of the same (factor 2: real + imaginary).
    relative = 2 * add_up(add_up(gamma(r + J), gamma(len(lags) + 2)), PHASE)
    size = _schur_squared(sum_up(Q.abs(), 1))
    proved = 0.0
    t = 0.0
    for G in gram_symbols(R, lags, axes, coarse):
        value, t = _largest_of(G, t)
        proved = max(proved, value)
    total = add_up(add_up(proved, mul_up(size, relative)), 4.0 * Q.numel() ** 2 * TINY)
    value = sqrt_up(total)
    if radius is None:
        return value
    # |H_R(w)| <= sum_j R_j entry by entry.
    return add_up(value, sqrt_up(_schur_squared(sum_up(polyphase(radius, axes)[0], 1))))


def _schur_squared(A: Tensor) -> float:
    """||A||_1 ||A||_inf >= ||A||_2^2 of the largest of nonnegative matrices (g, r, n)."""
    return float(mul_up(sum_up(A, 1).amax(1), sum_up(A, 2).amax(1)).amax())


def polyphase(weight: Tensor, axes: tuple[Taps, ...]) -> tuple[Tensor, Tensor]:
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


def kernel_lags(Q: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
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


def gram_symbols(R: Tensor, lags: Tensor, axes: tuple[Taps, ...], coarse: Tensor) -> Iterator[Hermitian]:
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
    tables = [phases(size) for size in sizes]
    for start in range(0, total, chunk):
        tick()
        index = torch.arange(start, min(start + chunk, total))
        cos, sin = torch.ones(len(index), L, dtype=torch.float64), torch.zeros(len(index), L, dtype=torch.float64)
        for d in reversed(range(len(sizes))):
            frequency, index = index % counts[d], index // counts[d]
            turn = (frequency[:, None] * lags[None, :, d]) % sizes[d]
            c, s = (table[turn] for table in tables[d])
            cos, sin = cos * c - sin * s, cos * s + sin * c
        re = (cos.to(R.device) @ flat).reshape(-1, n, n)
        im = (sin.to(R.device) @ flat).reshape(-1, n, n)
        yield Hermitian(re + re.mT, im - im.mT)


def phases(M: int) -> tuple[Tensor, Tensor]:
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
