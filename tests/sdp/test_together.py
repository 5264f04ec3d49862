"""Functionals that are swept in step: each moves as it would by itself, and what comes of it is proved by itself."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.methods import METHODS, Problem
from lipcert.network.edit import functionals, row_of, with_output
from lipcert.network.graph import Graph
from lipcert.proofs.normal_form import normal_form
from lipcert.sdp.sweep import Anderson, Dual
from lipcert.sdp.together import AndersonEach, DualInStep, begun
from lipcert.terms.query import Norm, Output
from lipcert.terms.result import Bound, Refusal

LIPSDP = METHODS["lipsdp"]


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 9), nn.Linear(4, 9), nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.d(torch.relu(self.c(h)) + torch.tanh(self.b(x)) + h)


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 10), nn.LeakyReLU(0.1), nn.Linear(10, 4))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)
    )


MADE = {"chain": chain, "skips": Skips, "convolution": convolution}


def graph_of(name: str) -> Graph:
    torch.manual_seed(0)
    return lipcert.load(MADE[name](), input_shape=(1, 4)).graph


def pairs_of(graph: Graph) -> tuple[list[Output], Tensor]:
    outputs = functionals(graph, Output("pairs"))
    return outputs, torch.stack([row_of(output, 4) for output in outputs])


def difference(graph: Graph, grouping: str, wrong: float = 0.0) -> float:
    """Largest over three sweeps of what the states in step and those of the networks of the pairs differ by."""
    outputs, rows = pairs_of(graph)
    form = normal_form(graph, grouping, None)
    together = DualInStep(form, rows=3, functionals=rows * (1 + wrong))
    state = together.start()
    alone = [Dual(normal_form(with_output(graph, output), grouping, None), rows=3) for output in outputs]
    states = [dual.state(flat.clone()) for dual, flat in zip(alone, state.flat, strict=True)]
    worst = 0.0
    for _ in range(3):
        swept, each = together.sweep(state), [d.sweep(s) for d, s in zip(alone, states, strict=True)]
        state, states = swept.after, [s.after for s in each]
        values = torch.tensor([s.value for s in each], dtype=torch.float64)
        worst = max(worst, float((torch.as_tensor(swept.value) / values - 1).abs().max()))
        worst = max(worst, *(float((a - b.flat).abs().max()) for a, b in zip(state.flat, states, strict=True)))
    return worst


@pytest.mark.parametrize("grouping", ["neuron", "channel", "layer"])
@pytest.mark.parametrize("name", MADE)
def test_sweeps_in_step_are_those_of_each(name: str, grouping: str) -> None:
    assert difference(graph_of(name), grouping) < 1e-11


def test_the_comparison_can_fail() -> None:
    assert difference(graph_of("chain"), "neuron", wrong=1e-9) > 1e-10


def test_each_is_accelerated_as_by_itself() -> None:
    """One of three forgets on the way; the map is affine, so a few differences find its fixed point."""
    generator = torch.Generator().manual_seed(1)
    A, b = 0.2 * torch.randn(5, 5, generator=generator).double(), torch.randn(3, 5, generator=generator).double()
    points = torch.ones(3, 5, dtype=torch.float64)
    together, alone = AndersonEach(points), [Anderson() for _ in range(3)]
    singles = list(points)
    for step in range(14):
        points, sizes = together.next(points, points @ A.T + b)
        singles = [one.next(x, A @ x + b[k]) for k, (one, x) in enumerate(zip(alone, singles, strict=True))]
        assert torch.allclose(points, torch.stack(singles), rtol=1e-7, atol=1e-7)
        assert torch.allclose(
            sizes, torch.tensor([one.residual for one in alone], dtype=torch.float64), rtol=1e-4, atol=1e-7
        )
        if step == 2:
            together.forget(torch.tensor([False, True, False]))
            alone[1].forget()
    assert float(sizes.max()) < 1e-6


@pytest.mark.parametrize("name", MADE)
def test_values_are_those_of_one_by_one(name: str) -> None:
    graph = graph_of(name)
    outputs, _ = pairs_of(graph)
    together = LIPSDP.run_together(Problem(graph, Norm()), outputs)
    assert together is not None
    for output, [found] in zip(outputs, together, strict=True):
        alone = LIPSDP.run(Problem(with_output(graph, output), Norm()))
        assert isinstance(found, Bound)
        assert isinstance(alone, Bound)
        assert found.rigor == "proved"
        assert found.value == pytest.approx(alone.value, rel=1e-4)
        assert found.value >= found.details["dual"]


def test_a_pair_of_equal_rows_and_a_dead_one() -> None:
    """Differences that are constant have no state to begin from."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        module[2].weight[1] = module[2].weight[0]
        module[2].weight[2] = 0.0
    graph = lipcert.load(module, input_shape=(1, 3)).graph
    outputs = [*functionals(graph, Output("pairs")), *functionals(graph, Output("each"))]
    form = normal_form(graph, "neuron", None)
    states = begun(form, torch.stack([row_of(output, 3) for output in outputs]), 8, 1e-8, 0, None)
    assert [state is None for state in states] == [True, False, False, False, False, True]
    together = LIPSDP.run_together(Problem(graph, Norm()), outputs)
    assert together is not None
    for output, [found] in zip(outputs, together, strict=True):
        alone = LIPSDP.run(Problem(with_output(graph, output), Norm()))
        assert type(found) is type(alone)
        if isinstance(found, Bound) and isinstance(alone, Bound):
            assert found.value == pytest.approx(alone.value, rel=1e-4, abs=1e-9)


def test_without_time_nothing_false_is_left() -> None:
    graph = graph_of("chain")
    outputs, _ = pairs_of(graph)
    for seconds in (0.0, 0.02):
        found = LIPSDP.run_together(Problem(graph, Norm(), deadline=time.monotonic() + seconds), outputs)
        assert found is not None
        for output, [result] in zip(outputs, found, strict=True):
            whole = LIPSDP.run(Problem(with_output(graph, output), Norm()))
            assert isinstance(whole, Bound)
            if isinstance(result, Bound):
                assert result.value >= whole.details["dual"]
            else:
                assert result.status == "timeout"


def test_pairs_of_two_processes_are_those_of_one() -> None:
    torch.manual_seed(3)
    model = lipcert.load(nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 13)), input_shape=(1, 3))  # 78 pairs
    ask = {"methods": ["lipsdp"], "output": "pairs"}
    here, there = lipcert.bound(model, **ask), lipcert.bound(model, workers=2, **ask)
    rows = [{k: row[k] for k in ("pair", "upper")} for row in here.summary["pairs"]]
    assert rows == [{k: row[k] for k in ("pair", "upper")} for row in there.summary["pairs"]]
    assert len(rows) == 78


def test_never_above_what_one_multiplier_per_layer_proves() -> None:
    """Cut off, the value is that of `lipsdp-layer` of the same pair."""
    graph = graph_of("chain")
    one = Problem(with_output(graph, Output("pair", 0, 1)), Norm())
    coarse = METHODS["lipsdp-layer"].run(one)
    one.known.append(coarse)
    late = Refusal("lipsdp", "upper", "timeout", "the budget was spent: raise --budget", None, 0.5)
    found = LIPSDP.better(late, one)
    assert isinstance(coarse, Bound)
    assert isinstance(found, Bound)
    assert (found.method, found.value) == ("lipsdp", coarse.value)
