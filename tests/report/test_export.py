"""CSV and .mat: the same numbers as the report's, columns with names that MATLAB takes, and cells that compute nothing."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat
from two import run, two

from lipcert.report.export import to_csv, to_mat
from lipcert.report.plots import grid_limits
from lipcert.report.report import Report
from lipcert.terms.errors import UsageError

LAYERS = [
    {"name": "=cmd|' /C calc'!A0", "kind": "linear", "lower": 1.5, "upper": 1.5000000000000002},
    {"name": "a\x1b[31m,\n", "kind": "relu", "lower": None, "upper": 1.0},
]
REPORT = Report("layers", {"path": "m.onnx"}, layers=LAYERS)
GRID = {"shape": [2, 1], "edges": [[0.0, 1.0, 2.0], [0.0, 1.0]], "lower": [1.0, 2.0], "upper": [1.5, None], "closed": [True, False]}  # fmt: skip


def test_csv_is_the_table() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(REPORT))))
    assert [float(row["upper"]) for row in rows] == [1.5000000000000002, 1.0]
    assert (rows[0]["lower"], rows[1]["lower"]) == ("1.5", "")
    assert rows[0]["name"].startswith("'=")
    assert "\x1b" not in rows[1]["name"]
    with pytest.raises(UsageError, match="tables are"):
        to_csv(REPORT, "nothing")


def test_mat_is_read_back(tmp_path: Path) -> None:
    report = Report("local", {"path": "m.onnx"}, layers=LAYERS, summary={"grid": GRID})
    (tmp_path / "r.mat").write_bytes(to_mat(report))
    found = loadmat(tmp_path / "r.mat", simplify_cells=True)
    assert list(found["layers"]["upper"]) == [1.5000000000000002, 1.0]
    assert math.isnan(found["layers"]["lower"][1])
    assert found["maps"]["lower"].shape == (2, 1) or found["maps"]["lower"].tolist() == [1.0, 2.0]
    assert np.isnan(np.ravel(found["maps"]["upper"])[1])
    assert {"x0_from", "x0_to"} <= set(found["cells"])


def test_the_command_and_shared_scales(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = two(tmp_path), tmp_path / "grid.json"
    asked = ("local", model, "--grid", "2x2", "--box=-1:1", "--json", out)
    assert run(*asked, "--plot", tmp_path / "a.pdf") == 0
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    low, high = grid_limits(json.loads(out.read_text()), "x")
    assert low < high <= 2.1
    assert run(*asked[:-2], "--scale-of", out, "--vmax", "9", "--plot", tmp_path / "b.svg") == 0
    assert run(*asked[:-2], "--vmin", "3", "--vmax", "1") == 2
    assert run("export", out, "--csv", tmp_path / "c.csv", "--mat", tmp_path / "c.mat") == 0
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 5
    assert run("export", out) == 2
    assert run("export", out, "--csv", out) == 2  # never over what is read
    assert "which is read" in capsys.readouterr().err
