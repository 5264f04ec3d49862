"""The benchmarks run, record failures, and their tables are what README shows. No time is asserted."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> object:
    """Modules of benchmarks/ are scripts: they find each other in their own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield module
    for name in (
        "book",
        "cases",
        "cluster",
        "compare",
        "counted",
        "growth",
        "targets",
        "lipsdp",
        "machine",
        "networks",
        "regions",
        "rivals",
        "run",
        "sampling",
        "table",
        "torus",
    ):
        sys.modules.pop(name, None)


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_a_smoke_run(tmp_path: Path) -> None:
    """One JSON, every case done, uppers above what rivals attain, and the tables and the comparison read it."""
    out = tmp_path / "run.json"
    names = ["help", "layer", "conv-small", "resnet18-torchscript", "pairs-2500", "jacobians-conv"]
    chosen = [part for name in names for part in ("--case", name)]
    done = script("run.py", "--smoke", "--repeat", 1, "--threads", 1, *chosen, "--out", out)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert list(record["cases"]) == names
    for case in record["cases"].values():
        assert case["peak_gb"] > 0
        assert case["gemm_gflops"] > 0
        for rival in case["rivals"]:
            assert rival["status"] == "ok", rival
            if rival["claim"] == "lower":
                assert rival["value"] <= case["values"]["upper"] * (1 + 1e-9)
    tables = script("run.py", "--table", out).stdout
    assert all(name in tables for name in names)
    assert "resnet18-torchscript" in script("compare.py", out, out).stdout


@pytest.mark.slow
def test_a_smoke_run_of_local_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell is closed; auto_LiRPA, where it is not given, is recorded as absent."""
    monkeypatch.delenv("LIPCERT_AUTO_LIRPA", raising=False)
    out = tmp_path / "run.json"
    names = ["sweep", "grid-tanh", "two-moons-exact", "auto-lirpa"]
    chosen = [part for name in names for part in ("--case", name)]
    done = script("run.py", "--smoke", "--repeat", 1, "--threads", 1, *chosen, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["cases"]
    for p in ("1", "2", "inf"):
        assert found["grid-tanh"]["values"][f"closed, l{p}"] == found["grid-tanh"]["values"]["cells"]
        exact = found["two-moons-exact"]["values"]
        assert exact[f"lower, l{p}"] <= exact[f"upper, l{p}"] <= exact[f"lower, l{p}"] * 1.01
    (rival,) = found["auto-lirpa"]["rivals"]
    assert rival["status"] == "failed"
    assert "LIPCERT_AUTO_LIRPA" in rival["note"]
    for values in (v for key, v in found["auto-lirpa"]["values"].items() if key.startswith("eps")):
        assert values["branch"] <= values["sweep"] * (1 + 1e-9)


@pytest.mark.slow
def test_a_smoke_run_on_the_torus(tmp_path: Path) -> None:
    """Upper values above the dual one and above what is attained; the table and the picture read it."""
    out = tmp_path / "run.json"
    done = script(
        "run.py", "--smoke", "--threads", 1, "--case", "torus-random-c5-ch16", "--case", "torus-resnet18", "--out", out
    )
    assert done.returncode == 0, done.stderr
    for case in json.loads(out.read_text())["cases"].values():
        v = case["values"]
        assert v["attained"] <= v["dual"] <= v["torus"] <= v["product"]
    assert "lipsdp-torus" in script("run.py", "--table", out).stdout
    assert script("plot.py", out, tmp_path / "torus.svg").returncode == 0
    assert "random-c5-ch16" in (tmp_path / "torus.svg").read_text()


def test_what_a_rival_raises_or_returns_is_recorded(load, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = load("rivals")
    failed = rivals.attempt("dense float SVD", object())
    assert failed.status == "failed"
    assert "AttributeError" in failed.note
    monkeypatch.setitem(rivals.RIVALS, "silly", (lambda: math.nan, "estimate", ""))
    assert rivals.attempt("silly").status == "failed"


@pytest.mark.parametrize("shape", [(3, 3), (12, 7), (7, 12)])
def test_the_rational_rival_is_an_upper_bound_to_its_tolerance(load, shape: tuple[int, int]) -> None:
    rivals = load("rivals")
    weight = torch.randn(shape)
    true = float(torch.linalg.matrix_norm(weight.double(), 2))
    value = rivals.rational_norm(weight.tolist(), rivals.TOLERANCE)
    assert true * (1 - 1e-12) <= value <= true * (1 + rivals.TOLERANCE)


def test_a_case_that_fails_is_recorded_and_the_run_says_so(load, tmp_path: Path, monkeypatch) -> None:
    run = load("run")
    monkeypatch.setattr(run, "in_child", lambda name, options: {"failed": "exit status 1: broken"})
    monkeypatch.setattr(sys, "argv", ["run.py", "--case", "help", "--out", str(tmp_path / "run.json")])
    assert run.main() == 1
    assert "failed, exit status 1: broken" in load("table").markdown(json.loads((tmp_path / "run.json").read_text()))


def test_comparison_sees_what_became_slower(load) -> None:
    compare = load("compare")

    def record(seconds: float) -> dict:
        step = {"median": seconds, "min": seconds * 0.9, "max": seconds * 1.1, "cpu": seconds, "runs": 3}
        case = {"steps": {"norm": step}, "peak_gb": 1.0, "values": {"upper": 1.0}, "targets": []}
        return {"cases": {"a": case}}

    lines = "\n".join(compare.differences(record(1.0), record(2.0)))
    assert "slower" in lines
    assert "slower" not in "\n".join(compare.differences(record(1.0), record(1.05)))


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    arguments = ["--smoke", "--case", "help", "--out", str(out), "--resume"]
    assert script("run.py", *arguments).returncode == 0
    first = json.loads(out.read_text())
    assert script("run.py", *arguments, "--case", "layer").returncode == 0
    both = json.loads(out.read_text())
    assert both["cases"].keys() == {"help", "layer"}
    assert both["cases"]["help"] == first["cases"]["help"]
    other = script("run.py", *arguments, "--threads", "1")
    assert other.returncode != 0
    assert "another run, its threads differs" in other.stderr


def test_readme_shows_the_tables_of_the_kept_runs(load, tmp_path: Path) -> None:
    """To the letter, and each chapter has its marks; what stands between them is replaced."""
    book = load("book")
    kept = [chapter.file for chapter in book.CHAPTERS if (FOLDER / chapter.file).exists()]
    assert {"results.json", "results-targets.json", "results-lipsdp.json", "results-local.json"} <= set(kept)
    shown = (FOLDER / "README.md").read_text()
    (tmp_path / "README.md").write_text(shown)
    for name in kept:
        (tmp_path / name).write_text((FOLDER / name).read_text())
    book.write(tmp_path)
    assert (tmp_path / "README.md").read_text() == shown
    for chapter in book.CHAPTERS:
        assert "new\n" in book.between(shown, chapter.file, "new\n")
    with pytest.raises(SystemExit, match="marks"):
        book.between("no marks", "results.json", "new")


def test_the_book_goes_on_and_is_written_from_one_command(load, tmp_path: Path, monkeypatch) -> None:
    """A case at a time; interrupted in the second chapter, the first is not measured again."""
    run, book = load("run"), load("book")
    measured: list[str] = []
    case = {"steps": {}, "peak_gb": None, "load": 0.0, "values": {}, "gemm_gflops": 1.0, "rivals": [], "targets": []}

    def found(name: str, options: object) -> dict:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(name)
        return {**case, "floors": {}}

    monkeypatch.setattr(run, "in_child", found)
    chapters = (book.Chapter("a.json", ("help", "layer"), 1), book.Chapter("b.json", ("sweep", "radius"), 1))
    monkeypatch.setattr(book, "CHAPTERS", chapters)
    monkeypatch.setattr(run.book, "CHAPTERS", chapters)
    marks = "".join(f"<!-- {c.file} -->\nold\n<!-- /{c.file} -->\n" for c in chapters)
    (tmp_path / "README.md").write_text(marks)
    monkeypatch.setattr(sys, "argv", ["run.py", "--all", "--folder", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        run.main()
    assert not (tmp_path / "b.json").exists()
    assert (tmp_path / "README.md").read_text().count("old") == 1
    monkeypatch.setattr(run, "in_child", lambda name, options: measured.append(name) or {**case, "floors": {}})
    assert run.main() == 0
    assert measured == ["help", "layer", "sweep", "radius"]
    assert "old" not in (tmp_path / "README.md").read_text()
    assert not (tmp_path / ".running").exists()


def test_more_counted_work_fails(load) -> None:
    counted, growth = load("counted"), load("growth")
    assert counted.more({"sweeps": 10, "new": 5}, {"sweeps": 10, "gone": 1}) == []
    (word,) = counted.more({"sweeps": 12}, {"sweeps": 10})
    assert "sweeps: 12, was 10" in word
    assert counted.more({"subnormal": 1}, {"subnormal": 0})
    assert growth.exponent((1, 10, 100), (2.0, 200.0, 20000.0)) == pytest.approx(2.0)


@pytest.mark.slow
def test_growth_runs(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    done = script("run.py", "--smoke", "--threads", 1, "--case", "growth", "--out", out)
    assert done.returncode == 0, done.stderr
    assert all(row["cpu"] for row in json.loads(out.read_text())["cases"]["growth"]["values"]["growth"])
