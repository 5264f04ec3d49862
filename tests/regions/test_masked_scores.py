"""Attention masks as numbers: entries far below the others of their row are left out of it, and what they weigh is accounted for."""

from __future__ import annotations

import pytest
import torch
from deviating import Builder, at_least, inside, jacobians
from torch import Tensor

from lipcert.blocks.product import MatMul
from lipcert.blocks.softmax import Softmax
from lipcert.network.graph import Graph, Offset
from lipcert.network.intervals import interval_ranges
from lipcert.operators.linear import Select
from lipcert.regions.cells import Cells
from lipcert.regions.transfer import softmax
from lipcert.regions.transfer.constant import constant_on
from lipcert.regions.transfer.deviations import values
from lipcert.regions.transfer.reach import entrywise
from lipcert.regions.transfer.rows import CENTRE
from lipcert.terms.query import Ball, Norm

LEAST = float(torch.finfo(torch.float32).min)
TOKENS, WIDTH = 4, 5


def attending(offset: Tensor) -> Graph:
    """softmax(Q K' + offset) V of TOKENS tokens."""
    built = Builder(TOKENS, WIDTH, 3)
    u = built.normalise(built.dense(0))
    q, k, v = (built.dense(u) for _ in range(3))
    k = built.linear(k, Select(torch.arange(TOKENS * WIDTH).reshape(TOKENS, WIDTH).T.reshape(-1), TOKENS * WIDTH))
    size = TOKENS * TOKENS
    scores = built.block(MatMul(1, TOKENS, WIDTH, TOKENS), q, k, size=size)
    scores = built.add(Offset(offset.reshape(-1)), (scores,), size)
    weights = built.block(Softmax(TOKENS, TOKENS, 1), scores, size=size)
    mixed = built.block(MatMul(1, TOKENS, TOKENS, WIDTH), weights, v, size=TOKENS * WIDTH)
    built.sum(u, built.dense(mixed))
    return built.graph(3)


def hiding(amount: float) -> Tensor:
    """The last token is hidden from all, and the first sees itself alone."""
    offset = torch.zeros(TOKENS, TOKENS, dtype=torch.float64)
    offset[:, -1] = amount
    offset[0, 1:] = amount
    return offset


def proved(offset: Tensor, norm: Norm) -> tuple[float, float, bool]:
    """The bound, what is attained, and whether outputs stay where they are said to be."""
    graph = attending(offset)
    generator = torch.Generator().manual_seed(1)
    region = Ball(torch.randn(1, TOKENS * WIDTH, generator=generator, dtype=torch.float64), 0.02, "inf")
    x = inside(region.center[0], region.radius, "inf", 64, generator)
    cells = Cells.of(region)
    with torch.no_grad():
        found = constant_on(graph, cells, norm, interval_ranges(graph, region))
        output = values(graph, cells)
    away = (graph.evaluate(x) - output.output[CENTRE].centre).abs().amax(0)
    held = bool((away <= entrywise(output.sources, output.output) * (1 + 1e-9) + 1e-12).all())
    return found.value, at_least(jacobians(graph, x), norm.input, norm.output), held


@pytest.mark.parametrize("norm", [Norm("2", "2"), Norm("inf", "inf"), Norm("1", "2")])
def test_any_number_that_hides_gives_the_same_bound(norm: Norm) -> None:
    """-1e4 is enough; of -3.4e38 no float holds the scores beside it."""
    bounds = []
    for amount in (-1e4, LEAST):
        value, attained, held = proved(hiding(amount), norm)
        assert attained <= value * (1 + 1e-9)
        assert value <= 1.5 * attained
        assert held
        bounds.append(value)
    assert max(bounds) <= min(bounds) * (1 + 1e-6)


def test_what_is_only_far_below_still_counts() -> None:
    """-5 is a weight of a percent: it is no mask."""
    value, attained, held = proved(hiding(-5.0), Norm("2", "2"))
    assert attained <= value * (1 + 1e-9)
    assert held


def test_hiding_what_counts_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "FAR", 2.0)
    assert not proved(hiding(-5.0), Norm("2", "2"))[2]
