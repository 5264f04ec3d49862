"""Radii by linear regions: both sides against polygons, rays and attacks; degenerate networks; planted errors; the report."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from polygons import boundary_distance, pieces
from torch import nn

import lipcert
from lipcert.cli.main import main
from lipcert.terms.query import P

pytest.importorskip("numba")
from lipcert.regions.enumeration import distance as searched
from lipcert.regions.enumeration import nearest as polytopes
from lipcert.regions.enumeration.nearest import Facets, nearest, proved
from lipcert.sampling.attack import Pgd, search
from lipcert.tasks.radius.margins import margins
from lipcert.tasks.radius.regions import lost

ORDER: dict[P, float] = {"1": 1.0, "2": 2.0, "inf": math.inf}
CLOSE = 1 + searched.NARROW
EXAMPLES = Path(__file__).parents[2] / "examples"


def net(seed: int, inputs: int, outputs: int, width: int = 10) -> tuple[nn.Sequential, lipcert.Model]:
    torch.manual_seed(seed)
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]
    for layer in layers[::2]:
        layer.weight.data *= 2
    module = nn.Sequential(*layers)
    return module, lipcert.load(module, input_shape=(1, inputs))


def points(seed: int, inputs: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, inputs))


def radii(model: lipcert.Model, x: np.ndarray, norm: str = "2", **options: Any) -> list[dict[str, Any]]:
    return lipcert.radius(model, x, norm=norm, methods=["regions"], **options).points


def against_polygons(norm: P, seed: int, count: int = 6, far: float = 3.0) -> tuple[int, int]:
    """Samples with a boundary in the box, and those with a wrong side or an open bracket."""
    (module, model), x = net(seed, 2, 3), points(seed, 2, count)
    found = pieces(module, np.full(2, -far), np.full(2, far))
    known = wrong = 0
    for point, centre in zip(radii(model, x, norm), x, strict=True):
        exact = boundary_distance(found, centre, point["predicted"], ORDER[norm])
        if (
            point["status"] == "certified" and exact < far - np.abs(centre).max()
        ):  # nothing outside of the box is nearer
            known += 1
            sides = point["radius"] <= exact * (1 + 1e-10) and point["attacked"] >= exact * (1 - 1e-10)
            wrong += not (sides and point["attacked"] <= point["radius"] * CLOSE)
    return known, wrong


@pytest.mark.parametrize("norm", list(ORDER))
def test_two_inputs_are_exact(norm: P) -> None:
    known, wrong = against_polygons(norm, seed=0)
    assert known >= 5
    assert wrong == 0


@pytest.mark.parametrize("what", ["dual", "box", "leaf"])
def test_planted_errors_are_found_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "dual":  # |d.x| <= ||d|| ||x|| with the norm itself for its dual
        monkeypatch.setattr(polytopes, "DUAL", {"1": "1", "2": "2", "inf": "inf"})
    elif what == "box":  # a part of the ball is not looked at
        whole = searched.program
        monkeypatch.setattr(searched, "program", lambda wrong, x, box: whole(wrong, x, box / 2))
    else:  # what is violated in a cell on which the network is affine is forgotten
        monkeypatch.setattr(searched.Outward, "_nearest", lambda self, cell, outputs: math.inf)
    assert against_polygons("inf", seed=0)[1] > 0


@pytest.mark.every(2)
@pytest.mark.parametrize(("inputs", "norm"), [(1, "2"), (3, "1"), (4, "inf"), (5, "2"), (6, "inf")])
def test_more_inputs_close_and_no_attack_is_nearer(inputs: int, norm: P) -> None:
    _, model = net(inputs, inputs, 3)
    x = points(inputs, inputs, 3)
    at, rows = torch.from_numpy(x), radii(model, x, norm)
    found = margins(model.graph, at, None)
    start = torch.tensor([row["radius"] for row in rows], dtype=torch.float64)
    attack = search(model.graph, at, found.seeds(3), None, norm, start * 1.1, Pgd(restarts=24, rounds=4))
    dice = torch.Generator().manual_seed(0)
    for k, row in enumerate(rows):
        assert row["attacked"] <= row["radius"] * CLOSE
        assert row["radius"] <= float(attack.distance[k])
        moved = torch.tensor(row["nearest"]["x"], dtype=torch.float64)
        away = float(torch.linalg.vector_norm(moved - at[k], ord=ORDER[norm]))
        assert away <= row["attacked"] * (1 + 1e-12)
        assert int(model.graph.evaluate(moved[None]).argmax()) != row["predicted"]
        way = torch.randn(2000, inputs, generator=dice, dtype=torch.float64)
        way = way / torch.linalg.vector_norm(way, ord=ORDER[norm], dim=1, keepdim=True)
        assert bool((model.graph.evaluate(at[k] + row["radius"] * way).argmax(1) == row["predicted"]).all())


def test_degenerate_networks_are_sound_and_close() -> None:
    """Integer weights and centres: boundaries along hinges, hinges through the sample, several at one distance."""
    closed = certified = 0
    for seed in range(5):
        dice = np.random.default_rng(seed)
        module = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
        for layer in module[::2]:
            layer.weight.data = torch.tensor(dice.integers(-2, 3, size=tuple(layer.weight.shape))).float()
            layer.bias.data = torch.tensor(dice.integers(-1, 2, size=tuple(layer.bias.shape))).float()
        model = lipcert.load(module, input_shape=(1, 2))
        found = pieces(module, np.full(2, -4.0), np.full(2, 4.0))
        x = dice.integers(-2, 3, size=(3, 2)).astype(float)
        for norm in ("1", "inf"):
            for row, centre in zip(radii(model, x, norm), x, strict=True):
                if row["status"] != "certified":
                    continue
                exact = boundary_distance(found, centre, row["predicted"], ORDER[norm])
                if exact < 4 - np.abs(centre).max():
                    certified += 1
                    assert row["radius"] <= exact * (1 + 1e-10)
                    closed += row["attacked"] is not None and row["attacked"] <= row["radius"] * CLOSE
    assert certified >= 8
    assert closed >= 0.8 * certified


def test_the_sign_of_one_logit_and_tolerances() -> None:
    """f(x) = |x_0| - 2 |x_1| + 1 by hinges: the sign changes on lines, and a tolerance of T is used up at known distances."""
    first, second = nn.Linear(2, 4), nn.Linear(4, 1)
    first.weight.data = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    second.weight.data, second.bias.data = torch.tensor([[1.0, 1, -2, -2]]), torch.tensor([1.0])
    first.bias.data.zero_()
    model = lipcert.load(nn.Sequential(first, nn.ReLU(), second), input_shape=(1, 2))
    x = np.array([[0.5, 0.25], [0.25, 2.0]])  # f = 1, and -2.75
    exact = [1.0 / 3, 2.75 / 3]  # linf: slopes (1, -2) up to the lines
    for row, far in zip(radii(model, x, "inf"), exact, strict=True):
        assert far / CLOSE <= row["radius"] <= far <= row["attacked"] <= far * CLOSE
    moved = radii(model, x, "inf", tolerance=0.6)
    for row in moved:
        assert 0.2 / CLOSE <= row["radius"] <= 0.2 <= row["attacked"] <= 0.2 * CLOSE
        assert row["limited_by"] == "0"


def test_a_class_that_never_changes_has_a_large_radius() -> None:
    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    module[2].weight.data[1], module[2].bias.data = module[2].weight.data[0], torch.tensor([1.0, 0.0])
    row = radii(lipcert.load(module, input_shape=(1, 2)), np.zeros((1, 2)))[0]
    assert row["radius"] >= 1e5
    assert row["attacked"] is None
    assert row["nearest"] is None


@pytest.mark.parametrize("norm", list(ORDER))
def test_distances_to_polytopes(norm: P) -> None:
    """{x : x_0 >= 1, x_1 >= x_0} and its like are 1 away in linf, sqrt 2 in l2, 2 in l1; an empty one is infinitely far."""
    one = np.array([[1.0, 0, -1, 0], [-1, 1, 0, 0]])
    want = {"1": 2.0, "2": math.sqrt(2), "inf": 1.0}[norm]
    value, point = nearest(Facets.of(one), norm)
    assert want * (1 - 1e-9) <= value <= want
    assert np.allclose(point, [1, 1], atol=1e-6)
    loose = np.array([[1.0, 0, -1, 0.25], [-1, 1, 0, 0]])  # errors widen it
    assert nearest(Facets.of(loose), norm)[0] == pytest.approx(0.75 * want, rel=1e-9)
    empty = np.array([[1.0, 0, -1, 0], [-1.0, 0, 0.5, 0]])
    assert nearest(Facets.of(empty), norm)[0] > 1e6
    assert proved(Facets.of(one), np.array([np.nan, -1.0]), norm) == 0.0  # nonsense proves nothing
    dice = np.random.default_rng(0)
    for _ in range(20):  # no choice of multipliers proves more than a point of the polytope has
        rows = dice.normal(size=(8, 5))
        inside = dice.normal(size=3)
        rows[:, 3] = -rows[:, :3] @ inside + dice.random(8)
        rows[:, 4] = 0
        assert proved(Facets.of(rows), dice.random(8), norm) <= np.linalg.norm(inside, ord=ORDER[norm])
        assert nearest(Facets.of(rows), norm)[0] <= np.linalg.norm(inside, ord=ORDER[norm]) * (1 + 1e-12)


def test_a_search_cut_short_is_sound() -> None:
    (module, model), x = net(1, 2, 3), points(1, 2, 4)
    found = pieces(module, np.full(2, -3.0), np.full(2, 3.0))
    at = torch.from_numpy(x)
    rows = margins(model.graph, at, None)
    for k in range(4):
        exact = boundary_distance(found, x[k], int(rows.predicted[k]), 2.0)
        wrong = lost(model.graph, at[k], rows[torch.tensor([k])], None)
        for cells in (1, 20, 100):
            near = searched.distance(wrong, at[k], "2", 1.0, searched.Limits(cells))
            assert near.certified <= exact * (1 + 1e-10)
            assert near.attacked >= min(exact, 2.0) * (1 - 1e-10)


def test_the_command_line_says_both_sides(tmp_path: Path) -> None:
    data, out = tmp_path / "x.npy", tmp_path / "r.json"
    np.save(data, np.array([[0.2, 0.4], [1.0, -0.2]], dtype=np.float32))
    command = ["radius", str(EXAMPLES / "two_moons.onnx"), "--data", str(data), "--norm", "inf", "--json", str(out)]
    with pytest.raises(SystemExit) as done:
        main(command)
    assert done.value.code == 0
    rows = json.loads(out.read_text())["points"]
    for row in rows:
        assert set(row["radii"]) == {"pairs", "local", "values", "regions"}
        assert row["method"] == "regions"
        assert row["attacked"] <= row["radius"] * CLOSE
        assert row["nearest"]["distance"] == row["attacked"]


def test_where_regions_do_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    wide = lipcert.load(nn.Sequential(nn.Linear(9, 3), nn.ReLU(), nn.Linear(3, 2)), input_shape=(1, 9))
    smooth = lipcert.load(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), input_shape=(1, 2))
    for model, words in ((wide, "9 inputs"), (smooth, "piecewise linear")):
        x = points(0, model.input_shape[1], 2)
        assert set(lipcert.radius(model, x).points[0]["radii"]) == {"pairs", "local", "values"}
        asked = lipcert.radius(model, x, methods=["regions"])
        assert asked.points[0]["radius"] == 0.0
        assert any(words in warning for warning in asked.warnings)
    real = builtins.__import__

    def without_numba(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "numba":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_numba)
    _, few = net(0, 2, 3)
    report = lipcert.radius(few, points(0, 2, 1))
    assert set(report.points[0]["radii"]) == {"pairs", "local", "values"}
    assert any("lipcert[fast]" in warning for warning in report.warnings)


def test_a_tie_of_float32_has_a_distance_in_real_arithmetic() -> None:
    """|x - 1| against 1 + 1e-9: at 1e-12 the margin is less than what float32 may lose; at 0 it is a tie of another function."""
    first, last = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()
    first.weight.data, first.bias.data = torch.tensor([[1.0, 0.5], [-1.0, 2.0]]).double(), torch.zeros(2).double()
    last.weight.data, last.bias.data = torch.eye(2).double(), torch.tensor([1.0, 1.0]).double()
    model = lipcert.load(nn.Sequential(first, nn.ReLU(), last).double(), input_shape=(1, 2))
    x = np.array([[1e-9, 0.0], [0.0, 0.0], [1.0, 0.0]])  # relu(x + y/2) against relu(2 y - x)
    rows = lipcert.radius(model, x, norm="inf", methods=["regions"]).points
    assert [row["status"] for row in rows] == ["tie", "tie", "certified"]
    assert [row["radius"] for row in rows[:2]] == [0.0, 0.0]
    near = rows[0]["real"]
    assert 0 < near["margin"] <= 1e-9
    assert near["radius"] <= near["attacked"] <= near["radius"] * (1 + 1e-4)
    far = np.array([[1e-9 + near["attacked"] * sx, near["attacked"] * sy] for sx in (-1, 1) for sy in (-1, 1)])
    outputs = model.graph.evaluate(torch.from_numpy(far))
    assert float((outputs[:, 1] - outputs[:, 0]).max()) > 0
    assert rows[1]["real"] == {"margin": 0.0, "radius": 0.0, "attacked": None}
    assert "real" not in rows[2]
