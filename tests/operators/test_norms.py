"""Dense norms: never below a 40-digit value or an attained quotient, and tight where they are promised to be."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipcert.rigor import matrix_norms as norms
from lipcert.rigor import psd
from lipcert.rigor.matrix_norms import NORM_RULES, matrix_norm_upper, matrix_norms_upper, perron_upper
from lipcert.rigor.psd import Hermitian, eigenvalues_below, largest_eigenvalue_upper
from lipcert.rigor.rounding import TINY, add_up, gamma, mul_up, norm_down, norm_up
from lipcert.terms.query import NORMS

INF = math.inf
ORDER = {"1": 1.0, "2": 2.0, "inf": INF}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_spectral_norm(A: torch.Tensor) -> mpmath.mpf:
    """40-digit spectral norm of the stored matrix."""
    with mpmath.workdps(45):
        M = mpmath.matrix([[mpmath.mpf(float(x)) for x in row] for row in A])
        largest = max(abs(x) for x in M)
        if largest == 0:
            return mpmath.mpf(0)
        return largest * mpmath.sqrt(max(mpmath.eigsy((M / largest).T * (M / largest), eigvals_only=True)))


def attained(A: torch.Tensor, x: torch.Tensor, p: str, q: str) -> float:
    """||A x||_q / ||x||_p, a lower bound of the norm up to 1e-14."""
    return float(torch.linalg.vector_norm(A @ x, ORDER[q]) / torch.linalg.vector_norm(x, ORDER[p]))


def tricky() -> dict[str, torch.Tensor]:
    """Matrices at which iterations, scaling or rounding have gone wrong."""
    orthogonal, _ = torch.linalg.qr(randn(12, 12))
    graded = randn(9, 7) * 10.0 ** torch.arange(0, -21, -3, dtype=torch.float64)
    top = torch.zeros(6, 6, dtype=torch.float64)
    top[0, 0], top[1, 1] = 1.0, 3.0  # the start vector e_0, or one of equal entries, hides the top vector
    return {
        "equal singular values": 2.5 * orthogonal,
        "rank one": randn(30, 1) @ randn(1, 17),
        "orthogonal to the start": top,
        "ones minus mean": torch.eye(8, dtype=torch.float64) * 8 - 1,
        "graded": graded,
        "one by one": torch.tensor([[-0.1]], dtype=torch.float64),
        "row": randn(1, 40),
        "column": randn(40, 1),
        "Hilbert": 1.0 / (1 + torch.arange(8.0, dtype=torch.float64)[:, None] + torch.arange(8.0, dtype=torch.float64)),
        "nearly equal": torch.diag(torch.tensor([1.0, 1.0 - 2**-53, 1.0 - 2**-50], dtype=torch.float64)),
        "Jordan": torch.diag(torch.ones(9, dtype=torch.float64), 1) * 1e8 + torch.eye(10, dtype=torch.float64),
    }


@pytest.mark.parametrize("name", tricky())
def test_never_below_the_40_digit_value(name):
    A = tricky()[name]
    exact = exact_spectral_norm(A)
    for B in (A, A.T):
        upper = matrix_norm_upper(B, None, "2", "2")
        assert exact <= upper <= exact * (1 + 1e-8)


def test_never_below_the_40_digit_value_random():
    A = torch.stack([randn(6, 5, seed=seed) for seed in range(40)])
    upper = matrix_norms_upper(A, None, "2", "2").tolist()
    exact = [exact_spectral_norm(matrix) for matrix in A]
    assert all(e <= u <= e * (1 + 1e-9) for u, e in zip(upper, exact, strict=True))
    # Planted error: LAPACK's largest singular value passes for a bound only until it is looked at closely.
    lapack = torch.linalg.svdvals(A)[:, 0].tolist()
    assert not all(e <= u for u, e in zip(lapack, exact, strict=True))


@pytest.mark.parametrize("exponent", [-1074, -1060, -1022, -1000, -538, -512, 0, 300, 511, 1000, 1010])
def test_magnitudes(exponent):
    # Entries of 12 bits stay exact on the way down to the subnormal numbers.
    A = torch.round(randn(7, 5) * 2**10)
    scaled = torch.tensor([[math.ldexp(x, exponent) for x in row] for row in A.tolist()], dtype=torch.float64)
    exact = exact_spectral_norm(scaled)
    for p, q in NORM_RULES:
        value = matrix_norm_upper(scaled, None, p, q)
        reference = mpmath.ldexp(matrix_norm_upper(A, None, p, q), exponent)
        assert value > 0
        assert value >= reference * (1 - 1e-12) - 5e-324
        # Sums of subnormal numbers step outward by one such number each.
        assert value <= reference * (1 + 1e-9) + 60 * 5e-324 or reference > 1.7e308
    assert matrix_norm_upper(scaled, None, "2", "2") >= exact


def test_entries_of_very_different_size():
    A = torch.diag(torch.tensor([1e300, 1e-300, 5e-324, 1.0], dtype=torch.float64))
    assert 1e300 <= matrix_norm_upper(A, None, "2", "2") <= 1e300 * (1 + 1e-9)
    B = torch.diag(torch.tensor([1e-320, 1e-300, 0.0], dtype=torch.float64))
    assert 1e-300 <= matrix_norm_upper(B, None, "2", "2") <= 1e-300 * (1 + 1e-9)


@pytest.mark.parametrize(("p", "q"), NORM_RULES)
def test_zero_empty_and_not_finite(p, q):
    zero = torch.zeros(3, 4, dtype=torch.float64)
    assert matrix_norm_upper(zero, None, p, q) == 0.0
    assert matrix_norm_upper(zero, zero, p, q) == 0.0
    for shape in ((0, 4), (4, 0), (0, 0)):
        assert matrix_norm_upper(torch.zeros(shape, dtype=torch.float64), None, p, q) == 0.0
    for bad in (math.nan, INF, -INF):
        batch = torch.ones(3, 2, 2, dtype=torch.float64)
        batch[1, 0, 1] = bad
        value = matrix_norms_upper(batch, None, p, q)
        assert value[1] == INF
        assert bool(torch.isfinite(value[[0, 2]]).all())
        assert matrix_norms_upper(torch.ones_like(batch), batch.abs(), p, q)[1] == INF


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_all_norms_against_attained_values(m, n, seed):
    A = randn(m, n, seed=seed)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)
    trials = {
        "1": torch.eye(n, dtype=torch.float64),
        "2": torch.cat([torch.linalg.svd(A)[2], A, randn(20, n, seed=seed + 1)]),
        "inf": signs,
    }
    for p, q in NORM_RULES:
        upper = matrix_norm_upper(A, None, p, q)
        best = max(attained(A, x, p, q) for x in trials[p])
        assert upper >= best * (1 - 1e-14)
        if p == "1" or q == "inf" or (p, q) == ("2", "2"):
            exact = best if p != "2" or q == "2" else float(torch.linalg.vector_norm(A, 2, 1).amax())
            assert p == "inf" or upper <= exact * (1 + 1e-9)
        else:  # NP-hard in general: by enumeration at this size, for which only l2 inputs are not tried exactly here
            if p == "2":
                best = matrix_norm_upper(A.T, None, "inf", "2")
            assert upper <= best * (1 + 1e-9)
    largest_row = float(A.abs().sum(1).amax())
    assert largest_row <= matrix_norm_upper(A, None, "inf", "inf") * (1 + 1e-15) <= largest_row * (1 + 1e-13)


@pytest.mark.parametrize(("m", "n"), [(14, 13), (13, 40), (40, 13)])
def test_conversions_beyond_enumeration(m, n, monkeypatch):
    """Larger matrices keep to bounds by sums and sqrt(n): above the exact values, and within their factor."""
    A, R = randn(m, n), 1e-3 * randn(m, n).abs()
    loose = {pair: matrix_norm_upper(A, R, *pair) for pair in (("inf", "1"), ("inf", "2"), ("2", "1"))}
    monkeypatch.setattr(norms, "SIGNS", 14)
    for pair, value in loose.items():
        if pair != ("inf", "2") or n <= 14:
            exact = matrix_norm_upper(A, R, *pair)
            assert exact * (1 - 1e-12) <= value <= exact * math.sqrt(m * n)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6), st.sampled_from([1e-12, 1e-3, 1.0]))
def test_members_of_an_enclosure_never_exceed(m, n, seed, width):
    C, R = randn(m, n, seed=seed), width * randn(m, n, seed=seed + 1).abs()
    for p, q in NORM_RULES:
        upper = matrix_norm_upper(C, R, p, q)
        for member in range(6):
            t = randn(m, n, seed=seed + 2 + member).clamp(-1, 1) if member else torch.sign(C)
            A = C + R * t * (1 - 1e-15)
            x = torch.linalg.svd(A)[2][0] if p == "2" else torch.sign(A[0])
            x = torch.eye(n, dtype=torch.float64)[0] if p == "1" else torch.where(x == 0, 1.0, x)
            assert upper >= attained(A, x, p, q) * (1 - 1e-13)


@pytest.mark.parametrize(("m", "n"), [(64, 64), (300, 128), (128, 1100), (600, 600), (2048, 300)])
def test_tight_at_size(m, n):
    A = randn(m, n)
    value = float(torch.linalg.matrix_norm(A, 2))
    assert value * (1 - 1e-13) <= matrix_norm_upper(A, None, "2", "2") <= value * (1 + 1e-9)


def test_long_sums_are_cut_into_chunks():
    """More rows than one chunk: both orientations, and scaling by powers of two is exact."""
    A = randn(3000, 20)
    upper = matrix_norm_upper(A, None, "2", "2")
    value = float(torch.linalg.matrix_norm(A, 2))
    for B in (A, A.T, A.T.contiguous(), A * 2.0**-300):
        scale = float(B[0, 0] / A[0, 0])
        assert value * (1 - 1e-13) <= matrix_norm_upper(B, None, "2", "2") / scale <= value * (1 + 1e-9)
    assert matrix_norm_upper(A * 2.0**-300, None, "2", "2") == upper * 2.0**-300


def test_batch_and_single_agree():
    A = torch.cat([randn(5, 6, 4), torch.zeros(1, 6, 4, dtype=torch.float64), 1e-200 * randn(1, 6, 4)])
    R = 1e-3 * A.abs()
    for p, q in NORM_RULES:
        single = torch.tensor([matrix_norm_upper(a, r, p, q) for a, r in zip(A, R, strict=True)], dtype=torch.float64)
        torch.testing.assert_close(matrix_norms_upper(A, R, p, q), single, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("p", "q"), NORM_RULES)
def test_other_dtypes_are_refused(p, q):
    with pytest.raises(TypeError, match="float64"):
        matrix_norm_upper(torch.ones(2, 2), None, p, q)
    assert matrix_norm_upper(randn(2, 2).requires_grad_(), None, p, q) > 0


def test_every_pair_of_norms_has_a_rule():
    assert set(NORM_RULES) == set(itertools.product(NORMS, repeat=2))


# Eigenvalue proof


def hermitian(n: int, seed: int, complex_: bool) -> tuple[Hermitian, torch.Tensor]:
    X = randn(n, n, seed=seed)
    if complex_:
        X = torch.complex(X, randn(n, n, seed=seed + 1))
    G = X @ X.mH
    re = 0.5 * (G.real + G.real.T)
    im = 0.5 * (G.imag - G.imag.T) if complex_ else None
    H = Hermitian(re[None], None if im is None else im[None])
    return H, torch.linalg.eigvalsh(H.dense()[0])[-1]


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 40, 150, 300])
def test_eigenvalue_proof(n, complex_):
    G, largest = hermitian(n, n, complex_)
    upper = float(largest_eigenvalue_upper(G)[0])
    assert largest * (1 - 1e-14) <= upper <= largest * (1 + 1e-9)
    assert upper <= float(
        largest_eigenvalue_upper(G.scaled(torch.tensor([2.0**-600], dtype=torch.float64)))[0]
    ) * 2.0**600 * (1 + 1e-12)
    # A t below the largest eigenvalue has no proof, however little below.
    for factor in (0.5, 1 - 1e-6, 1 - 1e-10):
        if n > 1:
            assert eigenvalues_below(G, largest[None] * factor) == INF


def test_eigenvalue_proof_against_40_digits():
    for seed in range(10):
        G, _ = hermitian(5, seed, True)
        with mpmath.workdps(45):
            M = mpmath.matrix(5, 5)
            for i, j in itertools.product(range(5), repeat=2):
                M[i, j] = mpmath.mpc(float(G.re[0, i, j]), float(G.im[0, i, j]))
            exact = max(mpmath.eighe(M, eigvals_only=True))
        upper = float(largest_eigenvalue_upper(G)[0])
        assert exact <= upper <= exact * (1 + 1e-9)


@pytest.mark.parametrize("complex_", [False, True])
def test_a_wrong_factor_is_noticed(monkeypatch, complex_):
    """Planted errors: whatever a broken Cholesky returns, the residual pays for it."""
    G, largest = hermitian(30, 3, complex_)
    true_cholesky = torch.linalg.cholesky_ex
    for spoil in (lambda L: 0.5 * L, lambda L: L * (1 + 1e-6), lambda L: torch.eye(30, dtype=L.dtype)[None]):
        monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda M: (spoil(true_cholesky(M)[0]), true_cholesky(M)[1]))  # noqa: B023
        assert float(eigenvalues_below(G, largest[None] * (1 + 1e-9))[0]) >= float(largest)

    def pretend(M: torch.Tensor):  # "factors" a matrix that is not positive definite
        return torch.zeros_like(M), torch.zeros(M.shape[0], dtype=torch.int32)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", pretend)
    assert float(eigenvalues_below(G, largest[None] * 0.25)[0]) >= float(largest)


def test_a_bad_proposal_costs_tightness_not_truth(monkeypatch):
    A = randn(40, 30)
    value = float(torch.linalg.matrix_norm(A, 2))
    for factor in (0.0, 0.5, 1 - 1e-7, 2.0):
        monkeypatch.setattr(psd, "propose", lambda G: torch.linalg.eigvalsh(G.dense())[:, -1] * factor)  # noqa: B023
        assert matrix_norm_upper(A, None, "2", "2") >= value * (1 - 1e-14)


def test_an_oracle_that_can_fail():
    """Planted error: a power iteration stopped early lies below, and `attained` shows it."""
    A = randn(20, 20)
    x = torch.ones(20, dtype=torch.float64)
    for _ in range(3):
        x = A.T @ (A @ x)
        x = x / torch.linalg.vector_norm(x)
    early = attained(A, x, "2", "2")
    assert not early >= attained(A, torch.linalg.svd(A)[2][0], "2", "2") * (1 - 1e-14)


# Perron bound of nonnegative operators


def matmul_up(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Upper value of a @ b for nonnegative a (.., m, k) and b (.., k, n).

    k products and k - 1 sums; the additive term covers products that underflow, and is left out where every product
    is exactly zero.
    """
    k = a.shape[-1]
    product = a @ b
    outward = add_up(mul_up(product, add_up(1.0, gamma(k))), k * TINY)
    if bool((product != 0).all()):
        return outward
    touched = (a != 0).double() @ (b != 0).double()
    return torch.where(touched == 0, torch.zeros_like(outward), outward)


def perron(M: torch.torch.Tensor, **options) -> float:
    return perron_upper(
        lambda w: matmul_up(M, w[:, None])[:, 0], lambda y: matmul_up(M.T, y[:, None])[:, 0], M.shape[1], **options
    )


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([0.0, 0.7, 0.95]))
def test_perron_bound(m, n, seed, sparsity):
    generator = torch.Generator().manual_seed(seed)
    M = torch.rand(m, n, generator=generator, dtype=torch.float64)
    M[torch.rand(m, n, generator=generator) < sparsity] = 0
    value = float(torch.linalg.matrix_norm(M, 2))
    upper = perron(M)
    assert upper >= value * (1 - 1e-14)
    if sparsity == 0:
        assert upper <= value * (1 + 1e-3)
    if value == 0:
        assert upper == 0.0
    assert perron(M, steps=1) >= value * (1 - 1e-14)


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_perron_magnitudes(size):
    M = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64) * size
    exact = exact_spectral_norm(M)
    upper = perron(M)
    assert exact <= upper
    assert size < 1e-320 or upper <= exact * 1.01


def test_perron_of_nothing():
    assert perron(torch.zeros(3, 4, dtype=torch.float64)) == 0.0
    assert perron_upper(lambda w: w, lambda y: y, 0) == 0.0
    assert perron(torch.full((2, 2), INF, dtype=torch.float64)) == INF


def test_vector_norms_bracket():
    for n in (1, 5, 1000):
        x = randn(n)
        assert norm_down(x, "2") <= torch.linalg.vector_norm(x) <= norm_up(x, "2")
