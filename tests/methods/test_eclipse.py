"""ECLipsE-Fast against its published recursion, in both orientations."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from helpers import f64
from nets import KINDS, Layer, Net, chain
from torch import Tensor

from lipcert.methods.eclipse import Eclipse
from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.problem import Problem
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.lmi import coefficients, prove
from lipcert.proofs.normal_form import normal_form
from lipcert.sdp.mirror import mirrored_closed_form, transposed
from lipcert.sdp.multipliers import closed_form
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound, Refusal


def run(method: Eclipse | Lipsdp, net: Net) -> Bound:
    with torch.no_grad():
        result = method.run(Problem(net.graph(), Norm()))
    assert isinstance(result, Bound), result
    return result


def relu_chain(seed: int) -> tuple[Net, list[Tensor]]:
    torch.manual_seed(seed)
    maps = [f64(6, 4), f64(5, 6), f64(7, 5), f64(2, 7)]
    return Net("chain", 4, tuple(Layer({k: a}) for k, a in enumerate(maps[:-1])), {3: maps[-1]}), maps


def published(maps: list[Tensor]) -> float:
    """Xu & Sivaranjani 2024, from the input on, for slopes [0, 1]: Lambda_i = 1 / ||W_i M_{i-1}^{-1} W_i'||,
    M_i = 2 Lambda_i - Lambda_i^2 W_i M_{i-1}^{-1} W_i', L^2 = ||W_l M_{l-1}^{-1} W_l'||."""
    inverse = torch.eye(maps[0].shape[1]).double()
    for a in maps[:-1]:
        X = a @ inverse @ a.T
        weight = 1 / torch.linalg.matrix_norm(X, 2)
        inverse = torch.linalg.inv(2 * weight * torch.eye(len(X)).double() - weight**2 * X)
    return math.sqrt(float(torch.linalg.matrix_norm(maps[-1] @ inverse @ maps[-1].T, 2)))


@pytest.mark.parametrize("seed", range(5))
def test_both_orientations_are_the_published_recursion(seed: int) -> None:
    net, maps = relu_chain(seed)
    form = normal_form(net.graph())
    table = coefficients(form)
    from_input, from_output = mirrored_closed_form(form, table), closed_form(form, table)
    forward, backward = published(maps), published([a.T for a in reversed(maps)])
    assert math.sqrt(from_input.rho) == pytest.approx(forward, rel=1e-9)
    assert math.sqrt(from_output.rho) == pytest.approx(backward, rel=1e-9)
    found = run(Eclipse(), net)
    assert found.value == pytest.approx(min(forward, backward), rel=1e-6)
    assert found.details["from"] == ("input" if forward < backward else "output")


def test_the_recursion_sees_another_multiplier() -> None:
    net, maps = relu_chain(0)
    assert run(Eclipse(), net).value != pytest.approx(published([1.01 * maps[0], *maps[1:]]), rel=1e-3)


@pytest.mark.every(3)
@pytest.mark.parametrize("make", KINDS)
def test_between_lipsdp_and_infinity_on_every_kind(make: Callable[[int], Net]) -> None:
    for seed in range(300, 306):
        net = make(seed)
        assert run(Eclipse(), net).value >= run(Lipsdp("neuron"), net).value * (1 - 1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_carried_back_multipliers_are_feasible_for_any_slopes(seed: int) -> None:
    """Leaky, negative and curved slopes: what the mirror image promises is proved to 1e-6."""
    net = chain(seed + 10)
    form = normal_form(net.graph())
    table = coefficients(form)
    found = mirrored_closed_form(form, table)
    output = len(form.layers) + 1
    multipliers = [m * (1 - 1e-9) for m in found.multipliers]
    assert prove(form, table, multipliers, last=output, rho=found.rho) <= found.rho * (1 + 1e-6)
    # the widths (b - a)^2 belong in it: without them nothing, or more, is proved where a width is not 1
    widths = [layer.high - layer.low for layer in form.layers]
    if any(not torch.allclose(w, torch.ones_like(w)) for w in widths):
        wrong = [m * w.square() for m, w in zip(multipliers, widths, strict=True)]
        assert not prove(form, table, wrong, last=output, rho=found.rho) <= found.rho * (1 + 1e-6)


def test_transposing_twice_is_nothing() -> None:
    form = normal_form(chain(3).graph())
    table = coefficients(form)
    back, again = transposed(*transposed(form, table))
    assert back.layers == form.layers
    assert again.sizes == table.sizes
    for row, other in zip(table.rows, again.rows, strict=True):
        assert {j: b.centre.tolist() for j, b in row.items()} == {j: b.centre.tolist() for j, b in other.items()}


def test_the_proof_is_proved_again() -> None:
    net, _ = relu_chain(1)
    found = run(Eclipse(), net)
    assert isinstance(found.proof, Lmi)
    form = normal_form(net.graph(), found.proof.grouping)
    last = found.proof.block(len(form.layers))
    rho = prove(form, coefficients(form), found.proof.tensors, last=last, rho=found.proof.rho)
    assert math.sqrt(rho) <= found.value


def test_other_norms_are_refused() -> None:
    refused = Eclipse().run(Problem(relu_chain(0)[0].graph(), Norm("inf", "inf")))
    assert isinstance(refused, Refusal)
    assert refused.method == "eclipse"
