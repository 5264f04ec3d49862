"""General solvers: their multipliers are proved or refused, their word is never taken. LipSDP-Network is unsound."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from helpers import f64
from nets import Layer, Net, chain, conv, residual
from torch import Tensor

import lipcert
from lipcert.methods import METHODS
from lipcert.methods.ladders import usual
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.lipsdp_cvxpy import LipsdpCvxpy
from lipcert.methods.lipsdp_network import LipsdpNetwork
from lipcert.methods.problem import Problem
from lipcert.sdp import via_cvxpy
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound, Refusal


def run(method: LipsdpCvxpy | Lipsdp, net: Net) -> Bound | Refusal:
    with torch.no_grad():
        result = method.run(Problem(net.graph(), Norm()))
    assert isinstance(result, Bound | Refusal)
    return result


def value(method: LipsdpCvxpy | Lipsdp, net: Net) -> float:
    found = run(method, net)
    assert isinstance(found, Bound), found
    assert found.rigor == "proved"
    return found.value


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("net", [chain(2), chain(5), residual(4), residual(7), conv(3)], ids=lambda net: net.name)
def test_solvers_reach_the_sweeps(net: Net) -> None:
    """Clarabel to 1e-6; SCS at its default tolerance to 1e-2, and always from above."""
    best = value(Lipsdp(net.grouping), net)
    assert value(LipsdpCvxpy("CLARABEL", multipliers=net.grouping), net) == pytest.approx(best, rel=1e-6)
    found = value(LipsdpCvxpy(multipliers=net.grouping), net)
    assert best * (1 - 1e-7) <= found <= best * 1.01


@pytest.mark.parametrize("lie", [0.0, 0.5, 0.999, 2.0, 1e6])
def test_a_lying_solver_is_not_believed(lie: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever multipliers come back, the value is proved: never below the dual of the sweeps."""
    net = chain(2)
    dual = run(Lipsdp("neuron"), net)
    assert isinstance(dual, Bound)
    honest = via_cvxpy._solve
    monkeypatch.setattr(via_cvxpy, "_solve", lambda *a: lie * honest(*a))
    found = run(LipsdpCvxpy("CLARABEL"), net)
    assert isinstance(found, Refusal) or found.value >= dual.details["dual"] * (1 - 1e-12)


def test_not_a_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(via_cvxpy, "_solve", lambda s, p, o: torch.full((int(p.groups.max()) + 1,), math.nan).double())
    assert isinstance(run(LipsdpCvxpy("CLARABEL"), chain(2)), Refusal)


def test_sizes_and_solvers_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Net("large", 10, (Layer({0: f64(300, 10)}),), {1: f64(1, 300)})
    refused = run(LipsdpCvxpy("CLARABEL"), large)
    assert isinstance(refused, Refusal)
    assert "310 rows" in refused.reason
    unknown = run(LipsdpCvxpy("SIMPLEX"), chain(2))
    assert isinstance(unknown, Refusal)
    assert "SCS" in unknown.reason
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    missing = run(LipsdpCvxpy(), chain(2))
    assert isinstance(missing, Refusal)
    assert "pip install cvxpy scs" in missing.reason


def test_a_missing_solver_is_named() -> None:
    cvxpy = pytest.importorskip("cvxpy")
    if "MOSEK" in cvxpy.installed_solvers():
        pytest.skip("MOSEK is installed here")
    refused = run(LipsdpCvxpy("MOSEK"), chain(2))
    assert isinstance(refused, Refusal)
    assert "MOSEK" in refused.reason


def test_only_on_request() -> None:
    model = lipcert.load(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)),
                         input_shape=(1, 3))  # fmt: skip
    assert [r.method for r in lipcert.bound(model).results] == list(usual(on_a_region=False))
    asked = lipcert.bound(model, methods=["lipsdp-cvxpy", "product"]).results
    assert [r.method for r in asked] == ["product", "lipsdp-cvxpy"]
    for name, method in METHODS.items():
        assert method.name == name


# LipSDP-Network


def network_value(A: Tensor, B: Tensor) -> tuple[float, str]:
    """LipSDP with multipliers that couple neurons, T = sum lambda_ii e_i e_i' + sum lambda_ij (e_i - e_j)(e_i - e_j)'
    (Fazlyab et al. 2019, Lemma 1 as printed), slopes [0, 1]: sqrt of the solver's objective, its status."""
    import cvxpy as cp

    n, d = A.shape
    rho, own, pairs = cp.Variable(nonneg=True), cp.Variable(n, nonneg=True), []
    T = cp.diag(own)
    for i in range(n):
        for j in range(i):
            e = torch.eye(n)[i] - torch.eye(n)[j]
            pairs.append(cp.Variable(nonneg=True))
            T = T + pairs[-1] * torch.outer(e, e).numpy()
    cross = A.numpy().T @ T
    M = cp.bmat([[rho * torch.eye(d).numpy(), -cross], [-cross.T, 2 * T - (B.T @ B).numpy()]])
    problem = cp.Problem(cp.Minimize(rho), [(M + M.T) / 2 >> 0])
    problem.solve(solver="CLARABEL")
    return math.sqrt(max(0.0, float(problem.value))), problem.status


def test_coupled_multipliers_are_unsound() -> None:
    """Pauli et al. 2021: f(x) = relu(x_1) - relu(x_1 - 1) goes from 0 to 1 between x_1 = 0 and 1."""
    A, B = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([[1.0, -1.0]]).double()
    net = Net("Pauli", 2, (Layer({0: A}),), {1: B}, biases=(torch.tensor([0.0, -1.0]).double(),))
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double()
    y = net.graph().evaluate(x)
    assert float((y[1] - y[0]).abs()) == 1.0
    found, status = network_value(A, B)
    assert status == "optimal"
    assert found < 1e-2
    assert value(Lipsdp("neuron"), net) >= 1.0
    # the oracle without coupling is LipSDP-Neuron
    single = Net("single", 2, (Layer({0: A[:1]}),), {1: B[:, :1]})
    assert network_value(A[:1], B[:, :1])[0] == pytest.approx(value(Lipsdp("neuron"), single), rel=1e-5)


def test_lipsdp_network_answers_why_it_does_not_exist() -> None:
    model = lipcert.load(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)),
                         input_shape=(1, 2))  # fmt: skip
    (result,) = lipcert.bound(model, methods=["lipsdp-network"]).results
    assert isinstance(result, Refusal)
    assert "unsound" in result.reason
    assert "Pauli" in result.reason
    assert LipsdpNetwork().refuses(Problem(model.graph, Norm())) is not None
