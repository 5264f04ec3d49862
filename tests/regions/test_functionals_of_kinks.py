"""Lower values of functionals by lines of their own: below what is attained, above what chords give."""

from __future__ import annotations

import pytest
import torch
from deviating import Builder, inside
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.transfer import functionals
from lipcert.regions.transfer.deviations import values
from lipcert.regions.transfer.functionals import is_kink, least
from lipcert.terms.query import Ball, P


def network(kind: str, attending: bool) -> Graph:
    built = Builder(2, 4, 11)
    u = built.dense(0)
    if attending:
        u = built.sum(u, built.attention(built.normalise(u), 2))
    inner = built.pointwise(built.dense(u, 10), kind)
    u = built.sum(u, built.dense(inner, 4))
    built.dense(built.pointwise(built.dense(u, 10), kind), 4)
    return built.graph(3)


def found(kind: str, attending: bool, norm: P, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Lower values by lines and by chords, and the least values attained."""
    graph = network(kind, attending)
    generator = torch.Generator().manual_seed(4)
    region = Ball(torch.randn(1, 8, generator=generator, dtype=torch.float64), radius, norm)
    wanted = torch.cat([torch.eye(3), torch.randn(6, 3, generator=generator)]).double()
    x = inside(region.center[0], radius, norm, 600, generator)
    with torch.no_grad():
        lines = least(graph, values(graph, Cells.of(region), None, is_kink), wanted)
        chords = least(graph, values(graph, Cells.of(region)), wanted)
        attained = (graph.evaluate(x) @ wanted.T).amin(0)
    return lines, chords, attained


@pytest.mark.every(2)
@pytest.mark.parametrize("attending", [False, True])
@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "abs"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_between_chords_and_what_is_attained(kind: str, attending: bool, norm: P) -> None:
    for radius in (0.0, 0.02, 0.3):
        lines, chords, attained = found(kind, attending, norm, radius)
        assert bool((lines <= attained + 1e-12 * (1 + attained.abs())).all())
        assert bool((lines >= chords).all())
    assert attending or bool((lines > chords + 1e-6).any())


def test_other_activations_have_no_lines() -> None:
    lines, chords, _ = found("gelu_erf", False, "inf", 0.3)
    assert torch.equal(lines, chords)


def test_a_slope_beyond_the_kink_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = functionals._sides
    monkeypatch.setattr(functionals, "_sides", lambda block: None if right(block) is None else (-1.0, 3.0))
    lines, _, attained = found("relu", False, "inf", 0.3)
    assert bool((lines > attained).any())
