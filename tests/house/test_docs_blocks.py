"""Every block of the documentation that is a command or Python is run, in a folder where its files are small stand-ins.

The tutorial has a test of its own, on the shipped models (test_docs.py). A block of kind `text` is output, or what needs what is not
here (a GPU); those stand in NOT_RUN, so that a command cannot hide as text.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
import torch
from torch import nn
from two import run, two

import lipcert

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| .*? \| `(lipcert [^`]*)`", re.MULTILINE)  # of a table of commands
ELSEWHERE = {"tutorial.md"}
NOT_RUN = {  # beginnings of blocks of kind text that show commands, and why they are not run
    "lipcert local model.onnx --grid 200x200": "needs CUDA",
    "lipcert radius model.onnx --data test.npz --norm inf --json r.json --scheduler": "tests/tasks/test_shards.py",
    "$ lipcert bound examples/two_moons.onnx": "output, compared in test_readme.py",
}
RATES = ("lr0.1", "lr0.01", "rate0.01", "rate0.001")
MADE_THERE = {"gate.md": "gate.toml"}  # by a block of the page itself
ANSWERS = {"lipcert compare": (0, 1), "lipcert gate": (0, 1)}  # statuses that are no fault of a stand-in; others: 0
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if path.name not in ELSEWHERE and re.search(r"^```(sh|python)$", path.read_text(), re.M)
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the pages name."""
    place = tmp_path_factory.mktemp("docs")
    net = two(place)
    for name in ("model", "controller", "a", "b", "models/m", "runs/best/best", *(f"runs/{rate}/{k}" for rate in RATES for k in (1, 2))):  # fmt: skip
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(net, place / f"{name}.onnx")
    net.unlink()
    maps = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.ReLU()]
    image = nn.Sequential(*maps, nn.Flatten(), nn.Linear(8, 2)).eval()
    torch.onnx.export(image, (torch.zeros(1, 1, 4, 4),), str(place / "resnet.onnx"), dynamo=False)
    onnx.save(quantised(), place / "q.onnx")
    x = np.array([[0.5, 0.1], [0.2, 0.4], [0.9, 0.3], [0.1, 0.6]])
    for name in ("test", "x", "runs/test"):
        np.savez(place / f"{name}.npz", x=x, y=np.array([0, 1, 0, 1]))
    (place / "examples").mkdir()
    shutil.copy(REPOSITORY / "examples/digits.onnx", place / "examples")
    quick = {"methods": ["product", "sampled"]}
    report = lipcert.bound(place / "model.onnx", certificate=place / "model.cert", **quick)
    for name in ("old", "new", "bound", "last", "report"):
        (place / f"{name}.json").write_text(json.dumps(report.to_dict()))
    radii = lipcert.radius(place / "model.onnx", x, [0, 1, 0, 1], methods=["pairs"])
    (place / "radius.json").write_text(json.dumps(radii.to_dict()))
    (place / "reports").mkdir()
    shutil.copy(place / "bound.json", place / "reports")
    (place / "gate.toml").write_text('[[rule]]\nname = "r"\nmax_upper = 20.0\nnorm = "2"\n')
    verdict = {"rule": "r", "status": "met", "message": "m", "report": "bound.json", "samples": []}
    verdicts = {"schema": "lipcert.gate/1", "passed": True, "verdicts": [verdict]}
    (place / "verdicts.json").write_text(json.dumps(verdicts))
    return place


def quantised() -> onnx.ModelProto:
    """Two inputs in levels of 0.05, and a ReLU."""
    text = """<ir_version: 8, opset_import: ["" : 17]> q (float[1,2] x) => (float[1,2] y) <float s = {0.05}, int8 z = {0}> {
        a = QuantizeLinear (x, s, z)
        b = DequantizeLinear (a, s, z)
        y = Relu (b)
    }"""
    return onnx.parser.parse_model(text)


def names(page: str) -> dict[str, Any]:
    """What the Python blocks of a page take as given."""
    if page not in ("python.md", "many.md"):
        return {}

    class Writer:
        def add_scalar(self, *_: object) -> None:
            pass

    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.rand(3, 2)
    report = lipcert.bound(net, x, methods=["product"])
    given = {"lipcert": lipcert, "net": net, "x": x, "y": [0, 1, 0], "x_test": x, "y_test": [0, 1, 0], "steps": 2}
    return given | {"before": report, "after": report, "writer": Writer(), "watch": None}


def test_a_command_cannot_hide_as_text() -> None:
    for page in DOCS.rglob("*.md"):
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            shown = [line for line in text.splitlines() if re.match(r"\$ |lipcert [a-z]+ ", line)]
            if kind == "text" and shown:
                assert shown[0] in NOT_RUN or any(shown[0].startswith(one) for one in NOT_RUN), f"{page}: {shown[0]}"


@pytest.mark.every(9)  # .ci/run runs all of them
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(folder)
    if page.name in MADE_THERE:
        (folder / MADE_THERE[page.name]).unlink()
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(text, page.name, "exec"), names(page.name))
        elif kind == "sh":
            for line in text.splitlines():
                command(line, page.name)


@pytest.mark.every(12)
@pytest.mark.parametrize("line", ROW.findall((DOCS / "which.md").read_text(encoding="utf-8")))
def test_the_table_of_commands_runs(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    command(line, "which.md")


def command(line: str, page: str) -> None:
    words = shlex.split(re.sub(r"\s#.*", "", line))
    if not words:
        return
    assert words[0] == "lipcert", f"{page}: {line}"
    expected = next((answer for start, answer in ANSWERS.items() if line.startswith(start)), (0,))
    assert run(*words[1:]) in expected, f"{page}: {line}"
