"""Semidefinite constants between l1, l2 and linf: above every activation pattern, below what the formulas give."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import f64
from nets import Layer, Net
from torch import Tensor

from lipcert.methods import METHODS
from lipcert.methods.lipsdp_norms import LipsdpNorms
from lipcert.methods.problem import Problem
from lipcert.network.graph import Graph
from lipcert.proofs import weighted
from lipcert.proofs.kinds.weighted import Weighted
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import NORMS, Norm, P
from lipcert.terms.result import Bound, Refusal

ORDER = {"1": 1.0, "2": 2.0, "inf": math.inf}
MIXED: list[tuple[P, P]] = [(p, q) for p in NORMS for q in NORMS if (p, q) != ("2", "2")]


def net(widths: list[int], seed: int) -> tuple[Graph, list[Tensor]]:
    torch.manual_seed(seed)
    maps = [f64(m, n) / math.sqrt(n) for n, m in pairwise(widths)]
    layers = tuple(Layer({k: a}, "relu") for k, a in enumerate(maps[:-1]))
    return Net("net", widths[0], layers, {len(layers): maps[-1]}).graph(), maps


def patterns(maps: list[Tensor]) -> Iterator[Tensor]:
    """W_L D .. D W_1 for every choice of gates."""
    sizes = [a.shape[0] for a in maps[:-1]]
    for bits in itertools.product([0.0, 1.0], repeat=sum(sizes)):
        gates = torch.tensor(bits, dtype=torch.float64).split(sizes)
        J = maps[0]
        for gate, a in zip(gates, maps[1:], strict=True):
            J = a @ (gate[:, None] * J)
        yield J


def induced(J: Tensor, p: P, q: P) -> float:
    """||J||_{p->q} by extreme points of the input ball, or of the dual of the output's."""
    if p == "1":
        return float(torch.linalg.vector_norm(J, ORDER[q], dim=0).max())
    if q == "inf":
        return float(torch.linalg.vector_norm(J, {"inf": 1.0, "2": 2.0}[p], dim=1).max())
    if p == "inf":
        signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=J.shape[1])), dtype=torch.float64)
        return float(torch.linalg.vector_norm(signs @ J.T, ORDER[q], dim=1).max())
    return induced(J.T, "inf", "2")


def value(graph: Graph, p: P, q: P, method: str = "lipsdp-norms") -> float:
    with torch.no_grad():
        found = METHODS[method].run(Problem(graph, Norm(p, q)))
    assert isinstance(found, Bound), found
    return found.value


def formulas(graph: Graph, p: P, q: P) -> float:
    return min(value(graph, p, q, name) for name in ("product", "absolute", "cplip"))


@pytest.mark.every(2)
@pytest.mark.parametrize(("p", "q"), MIXED)
@pytest.mark.parametrize("widths", [[3, 5, 2], [2, 4, 4, 2], pytest.param([4, 6, 5, 3], marks=pytest.mark.slow)])
def test_no_pattern_exceeds_it(p: P, q: P, widths: list[int]) -> None:
    graph, maps = net(widths, 0)
    true = max(induced(J, p, q) for J in patterns(maps))
    found = value(graph, p, q)
    assert true <= found * (1 + 1e-9)
    assert found <= 1.6 * true  # Grothendieck's factor and the relaxation


def test_weights_that_are_not_paid_for_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, maps = net([3, 5, 2], 0)
    true = max(induced(J, "inf", "1") for J in patterns(maps))
    monkeypatch.setattr(weighted, "lost", lambda weights: 0.5)
    assert value(graph, "inf", "1") < true


@pytest.mark.parametrize("widths", [[5, 12, 1], [5, 10, 10, 1]])
def test_linf_is_clearly_below_the_formulas(widths: list[int]) -> None:
    ratios = []
    for seed in range(3):
        graph, _ = net(widths, seed)
        ratios.append(value(graph, "inf", "inf") / formulas(graph, "inf", "inf"))
    assert max(ratios) <= 1 + 1e-4
    assert min(ratios) < 0.8


def test_a_linear_map_has_its_own_norm() -> None:
    a = f64(3, 4)
    graph = Net("linear", 4, (), {0: a}).graph()
    for p, q in (("inf", "inf"), ("1", "1"), ("1", "inf"), ("1", "2"), ("2", "inf")):
        assert value(graph, p, q) == pytest.approx(induced(a, p, q), rel=1e-6)


@pytest.mark.parametrize(("p", "q"), MIXED)
def test_the_proof_is_proved_again(p: P, q: P) -> None:
    graph, _ = net([3, 4, 2], 1)
    with torch.no_grad():
        found = LipsdpNorms().run(Problem(graph, Norm(p, q)))
        assert isinstance(found, Bound)
        proof = found.proof
        assert isinstance(proof, Weighted)
        again = Weighted.read(proof.method, proof.fields(), positions=False)
        assert again == proof
        assert again.prove(graph, Norm(p, q)) == pytest.approx(found.value, rel=1e-9)
        # fewer parts, weights of another length, weights where there should be none
        with pytest.raises(CertificateRejected):
            replace(again, parts=again.parts[1:]).prove(graph, Norm(p, q))
        part = again.parts[0]
        for wrong in (replace(part, input=(1.0,) * 7), replace(part, output=(1.0,) * 7)):
            with pytest.raises(CertificateRejected):
                replace(again, parts=(wrong, *again.parts[1:])).prove(graph, Norm(p, q))
        if p == "inf":  # smaller constants are not to be had by other weights alone
            assert part.input is not None
            halved = replace(part, input=tuple(2 * t for t in part.input))
            lower = replace(again, parts=(halved, *again.parts[1:]))
            assert lower.prove(graph, Norm(p, q)) >= found.value * (1 - 1e-3)


def test_refusals() -> None:
    graph, _ = net([3, 4, 2], 0)
    assert isinstance(LipsdpNorms().run(Problem(graph, Norm())), Refusal)
    wide, _ = net([400, 4, 2], 0)
    found = LipsdpNorms().run(Problem(wide, Norm("1", "1")))
    assert isinstance(found, Refusal)
    assert "400 programs" in found.reason


def test_a_constant_network_is_zero() -> None:
    zero = Net("zero", 3, (), {0: torch.zeros(2, 3, dtype=torch.float64)}).graph()
    for p, q in MIXED:
        assert value(zero, p, q) < 1e-300
