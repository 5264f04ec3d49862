"""The notebooks of the documentation are their sources, executed; each cell runs. A real kernel runs them in .ci/run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import notebooks
import pytest
import site_links
from thorough import FULL

SOURCES = pytest.mark.parametrize("source", notebooks.SOURCES, ids=lambda source: source.stem)


@pytest.mark.slow  # .ci/run has a real kernel do it
@SOURCES
def test_each_cell_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    here: dict[str, Any] = {}
    with warnings.catch_warnings():  # a cell may choose to be quiet
        for kind, text in notebooks.cells(source.read_text(encoding="utf-8")):
            if kind == "code":
                exec(compile(text, source.name, "exec"), here)
    from matplotlib import pyplot

    pyplot.close("all")


@SOURCES
def test_what_is_shown_is_the_source_executed(source: Path) -> None:
    """No cell failed or was left out, none warned, and no table stands there twice."""
    made = notebooks.made(source)
    assert notebooks.cells_of(made) == notebooks.cells(source.read_text(encoding="utf-8"))
    assert notebooks.KERNEL.items() <= made["metadata"].items()
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output
            assert output["output_type"] != "display_data" or "image/png" in output["data"], output
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])


@pytest.mark.skipif(not FULL, reason="LIPCERT_FULL=1 starts kernels (needs lipcert[docs])")
@SOURCES
def test_a_real_kernel_runs_it(source: Path) -> None:
    pytest.importorskip("nbclient", reason="pip install 'lipcert[docs]'")
    notebooks.executed(source)


def test_cells_are_read_as_editors_read_them() -> None:
    text = "# %% [markdown]\n# # Title\n#\n# words\n\n# %%\nx = 1  # %% no mark\n\n\ny = 2\n\n\n# %%\nx\n"
    assert notebooks.cells(text) == [
        ("markdown", "# Title\n\nwords"),
        ("code", "x = 1  # %% no mark\n\n\ny = 2"),
        ("code", "x"),
    ]
    split = {"cells": [{"cell_type": "code", "source": ["x = 1\n", "x"]}]}
    assert notebooks.cells_of(split) == [("code", "x = 1\nx")]
    assert json.loads(json.dumps(split)) == split


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/index.html").write_text('<h2 id="here"></h2><a href="../#gone">x</a><a href="#here">x</a>')
    (tmp_path / "index.html").write_text(
        '<a href="there/#here">x</a><a href="https://example.org/x">x</a><a href="missing/">x</a><img src="a%20b.png">'
        '<a href="../outside.html">x</a>'
    )
    (tmp_path / "a b.png").write_bytes(b"")
    (tmp_path.parent / "outside.html").write_text("")
    assert site_links.broken(tmp_path) == [
        "index.html: missing/",
        "index.html: ../outside.html",
        "there/index.html: ../#gone",
    ]
