"""Neurons that cannot matter: leaving them out changes neither the function's increments nor the optimum of LipSDP."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import f64, floats, matrix, operators, random_graph
from nets import KINDS, Layer, Net, clarabel, dead
from torch import Tensor

from lipcert.methods.lipsdp import Lipsdp
from lipcert.methods.problem import Problem
from lipcert.network.graph import VALUES, Graph, Nonlinear
from lipcert.network.idle import idle, pattern
from lipcert.network.walk import Visit, forward
from lipcert.operators.linear import Conv
from lipcert.proofs.normal_form import normal_form
from lipcert.terms.query import Norm
from lipcert.terms.result import Bound


def signals(graph: Graph, x: Tensor, frozen: dict[int, Tensor] | None = None) -> dict[int, Tensor]:
    """Every signal at x (r, n); `frozen` neurons put out noise instead of their values."""
    generator = torch.Generator().manual_seed(0)

    def thawed(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def found(at: Visit, *us: Tensor) -> Tensor:
            value = rule(at, *us)
            if frozen is None or at.i not in frozen:
                return value
            noise = torch.randn(1, at.node.size, generator=generator, dtype=torch.float64)
            return torch.where(frozen[at.i], noise, value)

        return found

    return forward(graph, {kind: thawed(rule) for kind, rule in VALUES.items()}, x, keep=True)


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", range(60))
def test_idle_neurons_may_put_out_anything_constant(seed: int) -> None:
    graph = random_graph(seed, nonlinear=True, nodes=12)
    found = idle(graph)
    x = 3 * torch.randn(40, graph.nodes[0].size, dtype=torch.float64)
    normal, changed = (signals(graph, x, frozen)[graph.output] for frozen in (None, found))
    assert torch.allclose(normal - normal[:1], changed - changed[:1], rtol=1e-9, atol=1e-9) or _shifts_kinks(graph)


def _shifts_kinks(graph: Graph) -> bool:
    """A constant that is replaced by another one moves the kinks of what reads it: only slopes can be compared then."""
    return any(bool(mask.any()) for mask in idle(graph).values()) and len(graph.nonlinear) > 1


def test_what_moves_and_is_heard_is_never_idle() -> None:
    """Perturbing an idle neuron never shows at the output; in random networks most others do."""
    told = 0
    for make in KINDS:
        for seed in range(6):
            graph = make(seed).graph()
            x = 3 * torch.randn(30, graph.nodes[0].size, dtype=torch.float64)
            values = signals(graph, x)
            for i, mask in idle(graph).items():
                moved = (values[i] - values[i][:1]).abs().amax(dim=0) > 0
                for k in mask.nonzero().flatten().tolist():
                    told += 1
                    if moved[k]:  # then nobody hears it
                        only = torch.zeros(graph.nodes[i].size, dtype=torch.bool)
                        only[k] = True
                        again = signals(graph, x, {i: only})[graph.output]
                        assert torch.equal(again, values[graph.output])
    assert told > 50


def test_zeros_by_hand() -> None:
    """Neuron 0 sees nothing, neuron 2 is read by neuron 1 of the next layer, which nobody reads."""
    A = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 0.0]]).double()
    B = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    C = torch.tensor([[1.0, 0.0]]).double()
    net = Net("hand", 2, (Layer({0: A}), Layer({1: B})), {2: C})
    masks = [mask.tolist() for mask in idle(net.graph()).values()]
    assert masks == [[True, False, True], [False, True]]
    assert [layer.size for layer in normal_form(net.graph()).layers] == [1, 1]


def test_the_smallest_float_is_heard() -> None:
    A = torch.tensor([[5e-324], [1.0]], dtype=torch.float64)
    net = Net("tiny", 1, (Layer({0: A}),), {1: torch.tensor([[1.0, 5e-324]], dtype=torch.float64)})
    assert [mask.tolist() for mask in idle(net.graph()).values()] == [[False, False]]


def test_blocks_move_as_a_whole() -> None:
    """An entry of a softmax whose own input never moves does move."""
    from lipcert.blocks.softmax import Softmax
    from lipcert.network.graph import Input, Linear, Node
    from lipcert.operators.linear import Dense

    a, b = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    graph = Graph(
        (
            Node(Input(), (), 1, (1,), "x"),
            Node(Linear(Dense(a[None])), (0,), 2, (2,), "a"),
            Node(Nonlinear(Softmax(1, 2, 1)), (1,), 2, (2,), "s"),
            Node(Linear(Dense(b[None])), (2,), 1, (1,), "b"),
        ),
        3,
    )
    assert idle(graph) == {}
    found = Lipsdp().run(Problem(graph, Norm()))
    assert isinstance(found, Bound)
    assert found.value >= 0.25  # the slope at equal entries


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_the_optimum_stays() -> None:
    """Clarabel keeps the idle neurons."""
    compared = 0
    for seed in range(30):
        net = dead(seed)
        found = Lipsdp().run(Problem(net.graph(), Norm()))
        assert isinstance(found, Bound)
        if found.value > 1e-3 and net.neurons <= 16:
            compared += 1
            assert found.value == pytest.approx(clarabel(net), rel=1e-4)
    assert compared >= 5


def test_a_wrong_mask_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking one live neuron for idle moves the value away from Clarabel's."""
    net = Net("positive", 3, (Layer({0: f64(4, 3).abs()}),), {1: f64(2, 4).abs()})
    assert not any(bool(mask.any()) for mask in idle(net.graph()).values())
    monkeypatch.setattr(
        "lipcert.proofs.normal_form.idle", lambda graph: {i: torch.arange(4) == 0 for i in graph.nonlinear}
    )
    found = Lipsdp().run(Problem(net.graph(), Norm()))
    assert isinstance(found, Bound)
    assert found.value < clarabel(net) * (1 - 1e-3)


@pytest.mark.parametrize("name", [name for name, _ in operators()])
def test_patterns_are_those_of_the_matrices(name: str) -> None:
    operator = dict(operators())[name]
    stored = floats(matrix(operator)) != 0
    found = floats(matrix(pattern(operator)))
    assert bool(((found == 0) | (found == 1) | isinstance(operator, Conv)).all())
    assert bool((found[stored] != 0).all())
    if operator.radius_operator() is None:
        assert torch.equal(found != 0, stored)
