"""What is said before anything heavy is imported: structure, not times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "cvxpy", "matplotlib")


def child(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


LOADED = """
import sys
from lipcert.__main__ import main
try:
    main()
except SystemExit as stop:
    print(stop.code, *sorted({"typer", "pydantic", "rich", "torch", "numpy", "onnx"} & sys.modules.keys()))"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("bound", "no.onnx"), "no.onnx: No such file or directory"),
        (("local", "no*.onnx", "--grid"), "no*.onnx: No such file or directory"),
        (("inspect", "https://example.org/m.onnx"), "this is an address"),
        (("radius", "a\x1bb.onnx"), "a\\x1bb.onnx: No such file"),
    ],
)
def test_a_missing_model_imports_nothing(words: tuple[str, ...], says: str) -> None:
    ran = child(LOADED, *words)
    assert ran.stdout.split() == ["2"]
    assert says in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [("bound", "no.onnx", "--json", "-"), ("bound", "no*.onnx"), ("bound", "--norm", "2", "no.onnx")]
)
def test_the_long_way_says_the_same(words: tuple[str, ...]) -> None:
    ran = child(LOADED, *words)
    *before, last = ran.stdout.splitlines()
    assert last.split()[0] == "2"
    assert {"torch", "numpy", "onnx"}.isdisjoint(last.split())
    assert "no" in ran.stderr
    if before:
        assert json.loads("\n".join(before))["error"]["where"] == "no.onnx"


def test_help_goes_the_long_way() -> None:
    assert "Usage" in child(LOADED, "bound", "no.onnx", "--help").stdout


def test_the_first_line_on_a_terminal_comes_before_torch() -> None:
    code = f"""
import sys
import lipcert.cli.main
from lipcert.cli.progress import ShownProgress
class Terminal:
    def isatty(self): return True
    def write(self, text): said.append(text); return len(text)
    def flush(self): pass
    encoding = "utf-8"
said = []
stderr, sys.stderr = sys.stderr, Terminal()
with ShownProgress(False):
    found = ["starting" in "".join(said), *({set(HEAVY)!r} & sys.modules.keys())]
sys.stderr = stderr
print(*found)"""
    assert child(code).stdout.split() == ["True"]
