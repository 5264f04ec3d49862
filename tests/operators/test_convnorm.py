"""Convolution norms against the dense operator that torch itself applies."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace

import mpmath
import pytest
import torch
import torch.nn.functional as F
from thorough import FULL, by_turns

from lipcert.operators import conv_norm as convnorm
from lipcert.operators import torus_norm as torus_module
from lipcert.operators.conv_norm import ConvGeometry, conv_norm_upper
from lipcert.operators.torus_norm import PHASE, Taps, gram_symbols, kernel_lags, phases, polyphase, torus_norm_upper
from lipcert.rigor import matrix_norms as norms
from lipcert.rigor.matrix_norms import matrix_norm_upper
from lipcert.terms.query import NORMS

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
LARGEST_MAP = {1: 24, 2: 9, 3: 5}


@dataclass(frozen=True)
class Case:
    weight: torch.Tensor
    geometry: ConvGeometry

    def dense(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """The operator as torch applies it to the unit vectors: (out, in)."""
        g, weight = self.geometry, self.weight if weight is None else weight
        d = len(g.in_shape)
        channels = weight.shape[0] if g.transposed else weight.shape[1] * g.groups
        size = channels * math.prod(g.in_shape)
        x = torch.eye(size, dtype=torch.float64).reshape(size, channels, *g.in_shape)
        pads = [side for pair in reversed(g.padding) for side in pair]
        if g.transposed:
            y = CONV_TRANSPOSE[d](x, weight, None, g.stride, 0, 0, g.groups, g.dilation)
            extra = g.output_padding or (0,) * d
            crop = [-side for side in pads]
            for axis in range(d):
                crop[2 * (d - 1 - axis) + 1] += extra[axis]
            y = F.pad(y, crop)
        else:
            y = CONV[d](F.pad(x, pads), weight, None, g.stride, 0, g.dilation, g.groups)
        return y.reshape(size, -1).T


def random_case(seed: int) -> Case | None:
    rng = random.Random(seed)
    d = rng.choice([1, 1, 2, 2, 2, 3])
    groups = rng.choice([1, 1, 1, 2, 3])
    a, c = (rng.randint(1, 4 - d // 3) for _ in range(2))
    kernel = tuple(rng.randint(1, 5 if d == 1 else 4 - d // 3) for _ in range(d))
    stride = tuple(rng.randint(1, 3) for _ in range(d))
    dilation = tuple(rng.choice([1, 1, 2, 3]) for _ in range(d))
    least = -2 if rng.random() < 0.2 else 0
    padding = tuple((rng.randint(least, 4), rng.randint(least, 4)) for _ in range(d))
    shape = tuple(rng.randint(1, LARGEST_MAP[d]) for _ in range(d))
    transposed = rng.random() < 0.25
    extra = tuple(rng.randint(0, s - 1) for s in stride) if transposed and rng.random() < 0.5 else ()
    geometry = ConvGeometry(shape, stride, padding, dilation, groups, transposed, extra)
    for n, k, s, (low, high), e, dil in zip(shape, kernel, stride, padding, extra or (0,) * d, dilation, strict=True):
        reach = dil * (k - 1) + 1
        out = (n - 1) * s - low - high + reach + e if transposed else n + low + high - reach
        if out < (1 if transposed else 0) or n + min(low, 0) + min(high, 0) < 1:
            return None
    rows = (a * groups, c, *kernel)
    weight = torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if rng.random() < 0.2:
        weight = weight.abs()
    return Case(weight, geometry)


CASES = [case for case in map(random_case, range(520)) if case is not None]


def torus(case: Case) -> float:
    """The torus lemma alone, also for the small maps that are otherwise formed densely."""
    conv = convnorm._prepare(case.weight, None, case.geometry)
    return 0.0 if conv is None else torus_norm_upper(conv.C, conv.R, conv.axes)


def spectral(T: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(T, 2)) if T.numel() else 0.0


def test_there_are_enough_cases():
    assert len(CASES) >= 200
    assert sum(case.geometry.transposed for case in CASES) >= 60
    assert sum(min(map(min, case.geometry.padding)) < 0 for case in CASES) >= 20


def test_two_norm_never_below_the_dense_operator():
    for index, case in enumerate(by_turns(CASES[:: 1 if FULL else 4])):
        value = spectral(case.dense())
        assert torus(case) >= value * (1 - 1e-13), (index, case.geometry)
        upper = conv_norm_upper(case.weight, None, case.geometry, "2", "2")
        assert value * (1 - 1e-13) <= upper <= value * (1 + 1e-8), (index, case.geometry)


def test_all_norms_equal_those_of_the_dense_operator(monkeypatch):
    monkeypatch.setattr(norms, "SIGNS", 0)  # the same conversions of NP-hard norms on both sides
    for index, case in enumerate(by_turns(CASES[:: 6 if FULL else 12])):
        T = case.dense()
        for p, q in itertools.product(NORMS, repeat=2):
            upper = conv_norm_upper(case.weight, None, case.geometry, p, q)
            reference = matrix_norm_upper(T, None, p, q)
            assert upper >= reference * (1 - 1e-8), (index, p, q, case.geometry)
            assert upper <= reference * (1 + 1e-8), (index, p, q, case.geometry)


def test_torus_is_tight_on_larger_maps():
    ratios = []
    for seed, (k, s, dilation, n) in enumerate(itertools.product((1, 2, 3), (1, 2), (1, 2), (14, 17))):
        weight = torch.randn(4, 3, k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        pad = dilation * (k - 1) // 2
        case = Case(weight, ConvGeometry((n, n), (s, s), ((pad, pad), (pad, pad)), (dilation, dilation)))
        ratios.append(torus(case) / spectral(case.dense()))
    assert min(ratios) >= 1 - 1e-13
    assert max(ratios) <= 1.1
    assert sorted(ratios)[len(ratios) // 2] <= 1.03


def test_a_smaller_torus_is_caught(monkeypatch):
    """Planted error: norms on the torus of the unpadded map are not bounds, and the oracle of this file sees it."""
    ones = Case(torch.tensor([[[1.0, -1.0]]], dtype=torch.float64), ConvGeometry((3,), (1,), ((1, 1),), (1,)))
    assert torus(ones) >= spectral(ones.dense())
    monkeypatch.setattr(Taps, "torus", lambda axis: max(1, axis.n // axis.stride))
    assert torus(ones) < spectral(ones.dense()) * (1 - 1e-6)
    assert any(torus(case) < spectral(case.dense()) * (1 - 1e-6) for case in CASES)


def test_a_lost_phase_is_caught(monkeypatch):
    """Planted error: treating all polyphase parts as one (stride forgotten) is seen too."""
    monkeypatch.setattr(Taps, "torus", lambda axis: 1)
    strided = [case for case in CASES if any(s > 1 for s in case.geometry.stride)]
    assert any(torus(case) < spectral(case.dense()) * (1 - 1e-6) for case in strided)


def test_members_of_an_enclosure_never_exceed():
    for seed, case in enumerate(by_turns(CASES[: 120 if FULL else 40])):
        generator = torch.Generator().manual_seed(seed)
        radius = 0.2 * torch.rand(case.weight.shape, generator=generator, dtype=torch.float64)
        for p, q in (("1", "1"), ("2", "2"), ("inf", "inf"), ("1", "2"), ("2", "inf"), ("1", "inf")):
            upper = conv_norm_upper(case.weight, radius, case.geometry, p, q)
            for member in range(2):
                t = torch.sign(case.weight) if member == 0 else 2 * torch.rand(radius.shape, generator=generator) - 1
                T = case.dense(case.weight + radius * t * (1 - 1e-15))
                value = spectral(T) if (p, q) == ("2", "2") else matrix_norm_upper(T, None, p, q)
                assert upper >= value * (1 - 1e-12)
        if (conv := convnorm._prepare(case.weight, radius, case.geometry)) is not None:
            worst = case.dense(case.weight + radius * torch.sign(case.weight) * (1 - 1e-15))
            assert torus_norm_upper(conv.C, conv.R, conv.axes) >= spectral(worst) * (1 - 1e-13)


@pytest.mark.parametrize("groups", [4, 32])
def test_depthwise(groups):
    weight = torch.randn(groups, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    case = Case(weight, ConvGeometry((22, 22), (1, 1), ((2, 2), (2, 2)), (1, 1), groups))
    single = [Case(w[None], replace(case.geometry, groups=1)) for w in weight]
    value = max(spectral(one.dense()) for one in single)
    assert value * (1 - 1e-13) <= torus(case) <= value * 1.1
    assert torus(case) == pytest.approx(max(torus(one) for one in single), rel=1e-12)
    assert value * (1 - 1e-13) <= conv_norm_upper(weight, None, case.geometry, "2", "2") <= torus(case) * (1 + 1e-8)


def test_chunks_change_nothing(monkeypatch):
    cases = [case for case in CASES if len(case.geometry.in_shape) > 1][:40]
    whole = [torus(case) for case in cases]
    monkeypatch.setattr(torus_module, "CHUNK", 50)
    assert [torus(case) for case in cases] == pytest.approx(whole, rel=1e-9)


def test_equal_and_vanishing_symbols():
    """Isometries: every frequency attains the norm. Difference kernels: the symbol vanishes at zero."""
    for n in (6, 7, 30):
        delta = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
        delta[range(3), range(3), 1, 1] = 2.0
        geometry = ConvGeometry((n, n), (1, 1), ((1, 1), (1, 1)), (1, 1))
        assert 2.0 <= torus(Case(delta, geometry)) <= 2.0 * (1 + 1e-9)
        difference = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
        assert torus(Case(difference, ConvGeometry((n,), (1,), ((0, 0),), (1,)))) <= 2.0 * (1 + 1e-9)


@pytest.mark.parametrize("exponent", [-1074, -1000, -540, 0, 500, 1000])
def test_magnitudes(exponent):
    weight = torch.round(torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 256)
    for n in (5, 40):
        geometry = ConvGeometry((n, n), (1, 1), ((1, 1), (1, 1)), (1, 1))
        scaled = (weight * 2.0 ** (exponent // 2)) * 2.0 ** (exponent - exponent // 2)
        for p, q in itertools.product(NORMS, repeat=2):
            value = conv_norm_upper(scaled, None, geometry, p, q)
            reference = mpmath.ldexp(conv_norm_upper(weight, None, geometry, p, q), exponent)
            assert value > 0
            assert abs(value - reference) <= reference * 1e-9 + 100 * 5e-324


def test_zero_empty_and_not_finite():
    geometry = ConvGeometry((5, 5), (1, 1), ((1, 1), (1, 1)), (1, 1))
    weight = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    outside = ConvGeometry((2, 2), (1, 1), ((5, 5), (5, 5)), (9, 9))
    for p, q in itertools.product(NORMS, repeat=2):
        assert conv_norm_upper(weight, None, geometry, p, q) == 0.0
        assert conv_norm_upper(weight, torch.zeros_like(weight), geometry, p, q) == 0.0
        assert conv_norm_upper(weight, weight + 1, geometry, p, q) > 0
        assert conv_norm_upper(weight[:0], None, geometry, p, q) == 0.0
        assert conv_norm_upper(weight + 1, None, replace(geometry, in_shape=(0, 5)), p, q) == 0.0
        assert math.isfinite(conv_norm_upper(weight + 1, None, outside, p, q))
        assert conv_norm_upper(weight + 1e-300, weight + 1e200, geometry, p, q) >= 1e200
        for bad in (math.nan, math.inf):
            spoiled = weight.clone()
            spoiled[0, 0, 0, 0] = bad
            assert conv_norm_upper(spoiled, None, geometry, p, q) == math.inf
            assert conv_norm_upper(weight, spoiled, geometry, p, q) == math.inf


def test_other_dtypes_are_refused():
    geometry = ConvGeometry((5,), (1,), ((1, 1),), (1,))
    for p, q in itertools.product(NORMS, repeat=2):
        with pytest.raises(TypeError, match="float64"):
            conv_norm_upper(torch.ones(1, 1, 3), None, geometry, p, q)
        assert conv_norm_upper(torch.ones(1, 1, 3, dtype=torch.float64).requires_grad_(), None, geometry, p, q) > 0


def test_every_pair_of_norms_has_a_rule():
    assert set(convnorm.CONV_RULES) == set(itertools.product(NORMS, repeat=2))


def test_taps_that_only_meet_padding_do_not_count():
    """A dilated kernel on a map smaller than its reach is its centre tap."""
    weight = torch.full((1, 1, 3, 3), 5.0, dtype=torch.float64)
    weight[0, 0, 1, 1] = 1.0
    geometry = ConvGeometry((14, 14), (1, 1), ((18, 18), (18, 18)), (18, 18))
    for p, q in (("1", "1"), ("2", "2"), ("inf", "inf"), ("1", "inf")):
        assert 1.0 <= conv_norm_upper(weight, None, geometry, p, q) <= 1.0 + 1e-9
    assert torus(Case(weight, geometry)) <= 1.0 + 1e-9


def test_phases_are_as_good_as_claimed():
    """PHASE allows 2^-48 for each axis; checked at 40 digits, all of them for small tori and every 37th for large."""
    with mpmath.workdps(40):
        for M, step in [*((m, 1) for m in range(1, 40)), (113, 1), (226, 1), (1000, 3), (4097, 37), (65536, 371)]:
            cos, sin = phases(M)
            for q in range(0, M, step):
                angle = 2 * mpmath.pi * q / M
                error = mpmath.hypot(mpmath.cos(angle) - float(cos[q]), mpmath.sin(angle) - float(sin[q]))
                assert error < PHASE / 4


def test_a_rounding_term_covers_the_symbol():
    """The Gram symbol from lags against H* H at 40 digits: within the claimed entrywise error."""
    case = next(c for c in CASES if len(c.geometry.in_shape) == 1 and c.weight.shape[2] >= 4 and c.weight.shape[1] > 1)
    conv = convnorm._prepare(case.weight, None, case.geometry)
    assert conv is not None
    Q, coarse = polyphase(conv.C, conv.axes)
    R, lags = kernel_lags(Q, coarse)
    (G,) = gram_symbols(R, lags, conv.axes, coarse)
    g, J, r, n = Q.shape
    M = conv.axes[0].torus()
    A = Q.abs().sum(1)
    allowed = 2 * ((r + J + len(lags) + 2) * 2.0**-53 + PHASE) * (A.mT @ A)
    with mpmath.workdps(40):
        for f, group in itertools.product(range(M // 2 + 1), range(g)):
            H = mpmath.matrix(r, n)
            for j in range(J):
                z = mpmath.expj(2 * mpmath.pi * f * int(coarse[j, 0]) / M)
                H += z * mpmath.matrix(Q[group, j].tolist())
            exact = H.H * H
            for i, k in itertools.product(range(n), repeat=2):
                stored = mpmath.mpc(float(G.re[f * g + group, i, k]), float(G.im[f * g + group, i, k]))
                assert abs(stored - exact[i, k]) <= float(allowed[group, i, k])
