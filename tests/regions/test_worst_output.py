"""In norms that end in linf outputs are tried at vertices until none can be the largest: the value is that of trying all."""

from __future__ import annotations

import pytest
import torch
from slopes import chain
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.backward import relaxed
from lipcert.regions.backward.adjoint import slopes_on
from lipcert.regions.backward.linear import linear_ranges
from lipcert.regions.backward.relaxed import at_vertices, gradient_norms, linear_on
from lipcert.regions.cells import Cells
from lipcert.terms.query import Norm, P

VERTICES = 4


def network(outputs: int, seed: int) -> Graph:
    torch.manual_seed(seed)
    return chain([3, 12, 10, outputs], "relu")


def some_cells(count: int, seed: int, radius: float) -> Cells:
    dice = torch.Generator().manual_seed(seed)
    centre = torch.randn(count, 3, generator=dice, dtype=torch.float64)
    return Cells(centre, radius * torch.rand(count, 3, generator=dice, dtype=torch.float64))


def by_trying_all(graph: Graph, cells: Cells, p: P, together: bool) -> Tensor:
    """(b,): each output alone, at all vertices of its own neurons, or of those of all."""
    b, m = len(cells), graph.nodes[graph.output].size
    slopes = slopes_on(graph, linear_ranges(graph, cells)[0])
    every = torch.eye(m, dtype=torch.float64)[None].expand(b, m, m)
    rows = gradient_norms(graph, every, slopes, p, cells.moving)
    for k in range(m):
        seeds = every[:, k : k + 1]
        ends = at_vertices(graph, slopes, every if together else seeds, VERTICES)
        count = next(iter(ends.values()))[0].shape[0] // b
        again = (part.repeat_interleave(count, dim=0) for part in (seeds, cells.moving))
        seeds, moving = again
        found = gradient_norms(graph, seeds, ends, p, moving).reshape(b, count).amax(dim=1)
        rows[:, k] = torch.minimum(rows[:, k], found)
    return rows.amax(dim=1)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("outputs", [1, 2, 9])
def test_the_value_is_that_of_trying_all(outputs: int, p: P, together: bool) -> None:
    graph = network(outputs, outputs)
    cells = some_cells(30, 1, 0.4)
    found = linear_on(graph, cells, Norm(p, "inf"), vertices=VERTICES, together=together)
    assert torch.allclose(found, by_trying_all(graph, cells, p, together), rtol=1e-12, atol=0.0)


def test_fewer_outputs_are_tried_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    rows = relaxed.Tried.rows
    monkeypatch.setattr(
        relaxed.Tried, "rows", lambda self, home, output: tried.append(len(home)) or rows(self, home, output)
    )
    linear_on(network(9, 9), some_cells(30, 1, 0.4), Norm("inf", "inf"), vertices=VERTICES)
    assert 30 <= sum(tried) < 9 * 30 / 2


def test_a_largest_row_that_is_passed_over_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what is tried counts half."""
    rows = relaxed.Tried.rows
    monkeypatch.setattr(relaxed.Tried, "rows", lambda self, home, output: rows(self, home, output) / 2)
    graph, cells = network(9, 9), some_cells(30, 1, 0.4)
    found = linear_on(graph, cells, Norm("inf", "inf"), vertices=VERTICES)
    assert not torch.allclose(found, by_trying_all(graph, cells, "inf", False), rtol=1e-12, atol=0.0)


def test_settled_cells_and_late_ones_keep_their_rows() -> None:
    graph = network(4, 2)
    cells = some_cells(5, 3, 0.4)
    points = Cells(cells.centre, torch.zeros_like(cells.centre))
    plain = linear_on(graph, points, Norm("inf", "inf"))
    assert torch.equal(linear_on(graph, points, Norm("inf", "inf"), vertices=VERTICES), plain)
    late = linear_on(graph, cells, Norm("inf", "inf"), vertices=VERTICES, deadline=0.0)
    assert torch.equal(late, linear_on(graph, cells, Norm("inf", "inf")))
