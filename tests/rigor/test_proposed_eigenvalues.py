"""Proposals of large matrices come from a few products: proofs are no looser for it, and a wrong one costs time alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lipcert.rigor import psd
from lipcert.rigor.psd import LARGE, Hermitian, from_products, largest_eigenvalue_upper

N = LARGE + 44


def gram(kind: str) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    if kind == "twice":  # the largest eigenvalue many times
        return 3.0 * torch.eye(N, dtype=torch.float64)
    if kind == "zero":
        return torch.zeros(N, N, dtype=torch.float64)
    a = torch.randn(2 * N, N, generator=draw, dtype=torch.float64)
    if kind == "close":  # 1 and 1 - 1e-9
        q = torch.linalg.qr(a[:N])[0]
        size = torch.full((N,), 0.5, dtype=torch.float64)
        size[:2] = torch.tensor([1.0, 1 - 1e-9])
        a = (q * size.sqrt()) @ q.T
        return (a @ a.T + (a @ a.T).T) / 2
    a = a * {"wishart": 1.0, "tiny": 1e-140, "huge": 1e140}[kind]
    return a.T @ a


@pytest.mark.parametrize("kind", ["wishart", "close", "twice", "zero", "tiny", "huge"])
def test_proofs_are_no_looser_than_with_all_eigenvalues(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    G = gram(kind)
    G = G.tril() + G.tril(-1).T
    exact = float(torch.linalg.eigvalsh(G)[-1])
    quick = float(largest_eigenvalue_upper(Hermitian(G[None])))
    monkeypatch.setattr(psd, "LARGE", N + 1)
    slow = float(largest_eigenvalue_upper(Hermitian(G[None])))
    assert exact * (1 - 1e-13) <= quick <= slow <= exact * (1 + 1e-8)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1 - 1e-9])
def test_a_wrong_proposal_is_not_believed(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    G = gram("wishart")
    exact = float(torch.linalg.eigvalsh(G)[-1])
    monkeypatch.setattr(psd, "from_products", lambda G: factor * exact)
    assert exact * (1 - 1e-13) <= float(largest_eigenvalue_upper(Hermitian(G[None]))) <= exact * (1 + 1e-8)


def test_estimates_are_from_below_and_close() -> None:
    for kind in ("wishart", "twice"):
        G = gram(kind)
        exact = float(torch.linalg.eigvalsh(G)[-1])
        assert exact * (1 - 1e-11) <= from_products(G) <= exact
