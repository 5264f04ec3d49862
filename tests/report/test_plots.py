"""Pictures: they are drawn for odd data too, say what is missing, and repeat byte by byte. What they show: by eye."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lipcert.report.plots import (
    Panel,
    accuracy_curve,
    apart,
    bins,
    check_plot,
    colour_range,
    curves,
    heat_maps,
    histograms,
)
from lipcert.terms.errors import UsageError


def test_maps_that_are_one_are_drawn_once() -> None:
    assert not apart([1.0, 1.002])
    assert apart([1.0, 1.003])
    assert apart([1.0, None])  # a cell without a value


def maps(seed: int = 0) -> tuple[list[Panel], tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    low = random.gamma(3, 1, (4, 5))
    low[0, 0] = np.nan
    panels = [Panel("lower", low), Panel("upper", low * 1.1), Panel("ratio", low / low, "ratio")]
    return panels, (np.linspace(0, 1, 6), np.linspace(-1, 1, 5))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_same_numbers_give_the_same_bytes(tmp_path: Path, ending: str) -> None:
    files = [tmp_path / f"{k}.{ending}" for k in range(3)]
    for k, file in enumerate(files):
        heat_maps(file, *maps(k // 2), data=(np.zeros((2, 2)), np.array([0, 1])), title="$title")
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other
    assert first.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f.name for f in files)


def test_odd_data_are_drawn(tmp_path: Path) -> None:
    nan = np.full((2, 2), np.nan)
    edges = np.array([0.0, 1.0, 2.0])
    heat_maps(
        tmp_path / "a.png", [Panel("nothing", nan), Panel("equal", np.ones((2, 2)))], (edges, edges), shared=False
    )
    heat_maps(
        tmp_path / "b.png", [Panel("one", np.ones((1, 1)))], (edges[:2], edges[:2]), data=(np.zeros((0, 2)), None)
    )
    sets = {"none": np.zeros(0), "same": np.ones(3), "one": np.array([2.0]), "nan": np.array([np.nan, 1.0])}
    histograms(tmp_path / "c.svg", {"quantity": sets, "empty": {"data": np.zeros(0)}})
    curves(tmp_path / "d.png", {"a": ([0.1, 1], [1, 0]), "b": ([], [])}, x_name="x", y_name="y", log_x=True, steps=True)
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("a.png", "b.png", "c.svg", "d.png"))


def test_a_few_cells_do_not_take_the_whole_scale() -> None:
    values = np.concatenate([np.linspace(1, 2, 999), [1000.0]])
    low, high, beyond = colour_range([values])
    assert (low, beyond) == (1.0, True)
    assert high < 3
    assert colour_range([values[:-1]]) == (1.0, 2.0, False)


def test_bins_cover_everything() -> None:
    random = np.random.default_rng(0)
    for values in (random.normal(size=1000), np.ones(4), np.array([0.0]), np.array([0, 0, 0, 0, 1.0]), np.zeros(0)):
        edges = bins(values)
        assert bool((np.diff(edges) > 0).all())
        assert np.histogram(values, edges)[0].sum() == values.size


def test_what_cannot_be_drawn_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    check_plot("--plot", None)
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        check_plot("--plot", "a.jpg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"lipcert\[plots\]"):
        check_plot("--plot", "a.png")


@pytest.mark.every(3)
@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("attacked", [None, 0.3])
def test_accuracy_curves_of_any_number_of_samples(tmp_path: Path, ending: str, attacked: float | None) -> None:
    statuses = [("certified", 0.1), ("certified", 0.2), ("misclassified", 0.0), ("not certified", 0.0)]
    points = [{"status": status, "radius": radius, "attacked": attacked} for status, radius in statuses]
    for count in (0, 1, 3, 4):
        path = tmp_path / f"{count}.{ending}"
        accuracy_curve(path, points[:count], norm="2", title="<a> & $\\frac$ $b_")
        curves(path, {"a": ([0.1, 1], [1, 0])}, x_name="x", y_name="y", log_x=True, title="$x^$ y$")
        assert path.stat().st_size > 1000
