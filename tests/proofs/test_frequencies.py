"""Complex products by real ones: of any size, as torch has them, and residuals that see every entry that counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lipcert.proofs.frequencies import (
    BLOCK,
    mirrored,
    parts,
    product,
    residual,
    residual_square,
    square,
    squares,
)

SIZES = (0, 1, 5, BLOCK, BLOCK + 3)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128)


@pytest.mark.parametrize("n", SIZES)
def test_products_are_those_of_complex_numbers(n: int) -> None:
    X, Y = drawn(2, 7, n), drawn(2, 7, 4)
    assert torch.allclose(product(parts(X), parts(Y)), X.mH @ Y)
    whole = X.mH @ X
    assert torch.allclose(square(parts(X)).tril(), whole.tril())
    assert torch.allclose(mirrored(square(parts(X))), whole)
    assert torch.allclose(product(parts(X.mH.mH), parts(Y.conj())), X.mH @ Y.conj())  # lazily conjugated


@pytest.mark.parametrize("n", SIZES[1:])
def test_residuals_see_every_entry_of_the_lower_triangle(n: int) -> None:
    L, X = drawn(2, n, n).tril(), drawn(2, n, 3)
    target, whole = L @ X, L @ L.mH
    scale = float(squares(whole).amax())
    assert float(residual(parts(L), parts(X), target).amax()) < 1e-24 * max(1.0, scale)
    lower = whole.tril()  # what is above is not read
    assert float(residual_square(parts(L), lower).amax()) < 1e-24 * max(1.0, scale)
    for i, j in {(0, 0), (n - 1, 0), (n - 1, n - 1), (n // 2, n // 3)}:
        for by in (1e3, 1e3j):
            off = target.clone()
            off[1, i, min(j, 2)] += by
            assert residual(parts(L), parts(X), off).tolist() == pytest.approx([0.0, 1e6], rel=1e-9, abs=1e-9)
            off = lower.clone()
            off[1, i, j] += by
            assert float(residual_square(parts(L), off)[1]) == pytest.approx(2e6, rel=1e-9)
