"""Linear pieces of networks of two inputs: grids that are exact in every cell from one search, and what is drawn of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from dense import DUAL, chain, gradients
from torch import nn

import lipcert
from lipcert.cli.main import main
from lipcert.network.graph import Graph
from lipcert.tasks.workers.packing import packed, unpacked
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Box, Norm

pytest.importorskip("numba")
from lipcert.regions.cells import Cells
from lipcert.regions.enumeration import overlay as overlays
from lipcert.regions.enumeration.attained import attained_at
from lipcert.regions.enumeration.pieces import Piece, Pieces, pieces

ROOT = Path(__file__).parents[2]
MOONS = ROOT / "examples/two_moons.onnx"
SCHEMA = json.loads((Path(lipcert.__file__).parent / "report/schema/lipcert.report-1.json").read_text())
HALF = torch.full((2,), 1.0, dtype=torch.float64)


def integers(seed: int) -> nn.Module:
    """Kinks along the lines of a grid, rows that repeat."""
    dice = np.random.default_rng(seed)
    layers: list[nn.Module] = []
    for rows, columns in ((6, 2), (5, 6), (1, 5)):
        layer = nn.Linear(columns, rows).double()
        layer.weight.data = torch.tensor(dice.integers(-2, 3, (rows, columns)).astype(float))
        layer.bias.data = torch.tensor(dice.integers(-1, 2, rows).astype(float))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def of(graph: Graph, norm: Norm) -> Pieces:
    return pieces(graph, Cells.boxes(-HALF[None], HALF[None]), norm, None)


def sampled(graph: Graph, edges: list[list[float]], p: str, count: int) -> np.ndarray:
    """The largest plain gradient seen in each cell."""
    x = (torch.rand(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1) * HALF
    norms = torch.linalg.vector_norm(gradients(graph, x)[:, 0], ord=DUAL[p], dim=1).numpy()
    places = [np.searchsorted(e, x[:, d].numpy(), "right") - 1 for d, e in enumerate(edges)]
    seen = np.zeros((len(edges[0]) - 1, len(edges[1]) - 1))
    np.maximum.at(seen, tuple(places), norms)
    return seen.ravel()


@pytest.mark.parametrize(("name", "p"), [("relu", "2"), ("leaky_relu", "1"), ("hardtanh", "inf"), ("integers", "inf")])
def test_every_cell_is_exact(name: str, p: str) -> None:
    graph = lipcert.load(integers(3), input_shape=(1, 2)).graph if name == "integers" else chain(3, [2, 8, 8, 1], name)
    model = integers(3) if name == "integers" else None
    edges = [[-1.0, -0.5, 0.0, 0.25, 1.0], [-1.0, 0.0, 0.3, 1.0]]
    norm = Norm.parse(p)
    over = overlays.Overlay(of(graph, norm), edges)
    seen = sampled(graph, edges, p, 4000)
    assert (seen <= over.upper * (1 + 1e-12)).all()
    lower = np.zeros(12)
    for turn in range(3):
        cells, x = over.middles(turn, np.arange(12))
        value = attained_at(graph, torch.from_numpy(x), norm, torch.ones(2, dtype=torch.bool)).numpy()
        lower[cells] = np.maximum(lower[cells], value)
    assert (lower <= over.upper).all()
    closed = over.upper <= lower * (1 + 1e-9)
    # kinks of the first layer along a line of the grid are decided; of pieces behind deeper ones that touch a cell, some count
    assert closed.all() if model is None else closed.mean() > 0.3


def test_pieces_cover_the_box_and_are_all() -> None:
    graph = chain(5, [2, 10, 10, 1], "relu")
    found = of(graph, Norm("2", "2"))
    assert not found.left
    assert all(piece.affine for piece in found.found)
    area = sum(overlays.size(overlays.outline(piece)) for piece in found.found) * np.prod(found.program.scale)
    assert area == pytest.approx(4.0, rel=1e-12)
    x = (torch.rand(20_000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1) * HALF
    patterns = {g.tobytes() for g in gradients(graph, x)[:, 0].numpy().round(9)}
    assert len({found.slopes(piece).round(9).tobytes() for piece in found.found}) >= len(patterns) > 20


def test_a_piece_that_is_lost_is_found_out() -> None:
    """The oracle can fail: without the steepest piece some cell is below what samples attain."""
    graph, edges = chain(3, [2, 8, 8, 1], "relu"), [[-1.0, 0.0, 1.0]] * 2
    found = of(graph, Norm("2", "2"))
    found.found.remove(max(found.found, key=lambda piece: piece.upper))
    assert (sampled(graph, edges, "2", 4000) > overlays.Overlay(found, edges).upper * (1 + 1e-9)).any()


def test_an_early_stop_keeps_every_cell_valid() -> None:
    graph = chain(3, [2, 16, 16, 1], "relu")
    found = pieces(graph, Cells.boxes(-HALF[None], HALF[None]), Norm("2", "2"), None, most=10)
    whole = of(graph, Norm("2", "2"))
    edges = [[-1.0, 0.0, 1.0]] * 2
    early, late = (overlays.Overlay(f, edges).upper for f in (found, whole))
    assert (early >= late).all() if found.left else (early == late).all()
    nothing = pieces(graph, Cells.boxes(-HALF[None], HALF[None]), Norm("2", "2"), 0.0)
    assert np.isinf(overlays.Overlay(nothing, edges).upper).all()


def test_the_grid_takes_its_brackets_from_the_pieces() -> None:
    box = Box(-HALF[None], HALF[None])
    report = lipcert.local_grid(integers(1), box, (4, 3), norm="inf", rtol=1e-9, regions=True, budget=2.0)
    found, known = report.summary["grid"], report.summary["regions"]
    seen = sampled(lipcert.load(integers(1), input_shape=(1, 2)).graph, found["edges"], "inf", 4000)
    assert (seen <= np.array(found["upper"]) * (1 + 1e-12)).all()
    assert all(low <= up for low, up in zip(found["lower"], found["upper"], strict=True))
    assert len(known["polygons"]) == len(known["norms"]) == known["count"] == sum(known["histogram"]["pieces"])
    assert sum(known["histogram"]["size"]) == pytest.approx(1.0)
    assert known["quantiles"]["largest"] == max(known["norms"])


def test_regions_are_refused_with_what_to_use_instead() -> None:
    smooth = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    three = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    for module, n, words in ((smooth, 2, "not piecewise linear"), (three, 3, "3 inputs move")):
        box = Box(torch.zeros(1, n).double(), torch.ones(1, n).double())
        with pytest.raises(UsageError, match=words):
            lipcert.local_grid(module, box, (2,) * n, regions=True)
        assert lipcert.local_grid(module, box, (2,) * n).summary.get("regions") is None


def test_the_picture_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "pieces.png"
    asked = ["local", str(MOONS), "--grid", "4x4", "--box=0:0.2,0:0.2", "--norm", "inf", "--quiet"]
    with pytest.raises(SystemExit) as stop:
        main([*asked, "--regions", "--json", str(out), "--plot", str(plot)])
    assert not stop.value.code
    assert plot.stat().st_size > 10_000
    data = json.loads(out.read_text())
    jsonschema.validate(data, SCHEMA)
    assert all(data["summary"]["grid"]["closed"])
    assert "linear regions on the box" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["local", str(MOONS), "--at", "x.npz", "--eps", "0.1", "--regions"])
    assert stop.value.code == 2


def test_a_side_without_direction_tells_nothing_apart() -> None:
    """0 t + 0 >= 0 holds on every piece and, the other way round, on every cell."""
    program = SimpleNamespace(centre=np.zeros(1), scale=np.ones(1))
    sides = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]])
    piece = Piece(3.0, True, np.array([[-1.0], [1.0]]), np.zeros((1, 3)), np.array([[-1.0], [1.0]]), sides)
    over = overlays.Overlay(Pieces(program, Norm.parse("2"), [piece], []), [[-1.0, 0.0, 1.0]])  # type: ignore[arg-type]
    assert over.upper.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("kept", [0, 1, None])
def test_pieces_come_to_a_worker_bit_by_bit(kept: int | None) -> None:
    whole = of(lipcert.load(integers(3), input_shape=(1, 2)).graph, Norm("2", "2"))
    sent = dataclasses.replace(whole, found=whole.found[:kept])
    back = unpacked(packed(sent))
    assert len(back.found) == len(sent.found) > 0 if kept != 0 else not back.found
    for was, now in zip(sent.found, back.found, strict=True):
        assert (was.upper, was.affine) == (now.upper, now.affine)
        for part in ("box", "outputs", "corners", "facets"):
            assert np.array_equal(getattr(was, part), getattr(now, part))
