"""A .mat file has the numbers of the report, in columns with names that MATLAB takes; maps of two models share a scale."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from two import run, two

from lipcert.report.formats.matlab import to_mat
from lipcert.report.plots import grid_limits
from lipcert.report.report import Report
from lipcert.terms.errors import UsageError

LAYERS = [
    {"name": "=cmd|' /C calc'!A0", "kind": "linear", "lower": 1.5, "upper": 1.5000000000000002},
    {"name": "a\x1b[31m,\n", "kind": "relu", "lower": None, "upper": 1.0},
]
REPORT = Report("layers", {"path": "m.onnx"}, layers=LAYERS)
GRID = {"shape": [2, 1], "edges": [[0.0, 1.0, 2.0], [0.0, 1.0]], "lower": [1.0, 2.0], "upper": [1.5, None], "closed": [True, False]}  # fmt: skip


def test_mat_is_read_back(tmp_path: Path) -> None:
    report = Report("local", {"path": "m.onnx"}, layers=LAYERS, summary={"grid": GRID})
    (tmp_path / "r.mat").write_bytes(to_mat([("r.json", report.to_dict())]))
    found = loadmat(tmp_path / "r.mat", simplify_cells=True)
    assert list(found["layers"]["upper"]) == [1.5000000000000002, 1.0]
    assert math.isnan(found["layers"]["lower"][1])
    assert found["maps"]["lower"].shape == (2, 1) or found["maps"]["lower"].tolist() == [1.0, 2.0]
    assert np.isnan(np.ravel(found["maps"]["upper"])[1])
    assert {"x0_from", "x0_to"} <= set(found["cells"])


def test_shared_scales_and_formats(tmp_path: Path) -> None:
    model, out = two(tmp_path), tmp_path / "grid.json"
    asked = ("local", model, "--grid", "2x2", "--box=-1:1", "--json", out)
    assert run(*asked, "--plot", tmp_path / "a.pdf") == 0
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    low, high = grid_limits(json.loads(out.read_text()), "x")
    assert low < high <= 2.1
    assert run(*asked[:-2], "--scale-of", out, "--vmax", "9", "--plot", tmp_path / "b.svg") == 0
    assert run(*asked[:-2], "--vmin", "3", "--vmax", "1") == 2
    assert run("report", out, "--out", tmp_path / "c.csv", "--out", tmp_path / "c.mat") == 0
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 5
    assert loadmat(tmp_path / "c.mat", simplify_cells=True)["maps"]["upper"].shape == (2, 2)
    with pytest.raises(UsageError, match="one report"):
        to_mat([])
