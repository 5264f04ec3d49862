"""The documented pipeline, command by command: the gate fails without regularisation and passes with it."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

import lipcert
from lipcert.cli.main import main
from lipcert.testing import assert_certified_accuracy, assert_lipschitz

REPOSITORY = Path(__file__).resolve().parents[2]
PIPELINE = REPOSITORY / "examples" / "pipeline"
DIGITS = REPOSITORY / "examples" / "digits.onnx"


def commands() -> list[list[str]]:
    text = (PIPELINE / "README.md").read_text()
    return [shlex.split(line) for line in re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1].splitlines()]


@pytest.fixture(scope="module", params=[("0", 1), ("0.02", 0)], ids=["without", "with"])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int, Path]:
    """(expected, found) status of the gate and the folder."""
    weight, expected = request.param
    folder = tmp_path_factory.mktemp("pipeline")
    statuses = []
    for command in commands():
        words = [word.replace("out/", f"{folder}/").replace("examples/", f"{REPOSITORY}/examples/") for word in command]
        words = [str(folder) if word == "out" else word for word in words]
        if words[0] == "python" and expected == 0:
            subprocess.run([sys.executable, *words[1:], "--weight", weight], check=True, capture_output=True)
        elif words[0] == "python":  # without importing all of it once more
            runpy.run_path(words[1])["main"]([*words[2:], "--weight", weight])
        else:
            with pytest.raises(SystemExit) as stop:
                main(words[1:])
            statuses.append(stop.value.code)
    assert statuses[:-1] == [0, 0]
    return expected, statuses[-1], folder


def test_the_gate_tells_them_apart(done: tuple[int, int, Path]) -> None:
    expected, found, folder = done
    assert found == expected
    suite = ElementTree.parse(folder / "gate.xml").getroot()
    bad = [
        case.attrib["name"]
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    assert bad == ([] if expected == 0 else ["l2 constant", "robust at 0.2"])


@pytest.mark.slow
@pytest.mark.parametrize("done", [("0", 1)], indirect=True, ids=["without"])
def test_the_shell_of_the_action(done: tuple[int, int, Path]) -> None:
    """ci/gate.sh, which action.yml runs, with the variables that action.yml sets."""
    expected, _, folder = done
    steps = yaml.safe_load((REPOSITORY / "action.yml").read_text())["runs"]["steps"]
    names = steps[-1]["env"].keys()
    values = {
        "MODEL": "digits.onnx",
        "POLICY": str(PIPELINE / "gate.toml"),
        "NORM": "2",
        "DATA": "test.npz",
        "EPS": "0.2",
        "OUTPUT": "reports",
        "BASELINE": "",
    }
    assert names == values.keys()
    summary = folder / "summary.md"
    lipcert_here = folder / "bin" / "lipcert"
    lipcert_here.parent.mkdir(exist_ok=True)
    lipcert_here.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lipcert "$@"\n')
    lipcert_here.chmod(0o755)
    path = f"{lipcert_here.parent}:{os.environ['PATH']}"
    environment = (
        os.environ | values | {"PATH": path, "PYTHONPATH": str(REPOSITORY), "GITHUB_STEP_SUMMARY": str(summary)}
    )
    run = subprocess.run(
        ["bash", str(REPOSITORY / "ci" / "gate.sh"), "--github"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == expected, run.stderr
    assert {p.name for p in (folder / "reports").iterdir()} == {
        "bound.json",
        "radius.json",
        "gate.xml",
        "gate.sarif",
        "gate.md",
    }
    assert summary.read_text().startswith("### lipcert: gate " + ("met" if expected == 0 else "NOT met"))
    lines = [line for line in run.stdout.splitlines() if line.startswith("::")]
    assert len(lines) == 4  # parity is asked of both reports


@pytest.mark.parametrize(("kind", "path"), [("github-actions", "action.yml"), ("gitlab-ci", "ci/gitlab.yml")])
def test_ci_files_are_of_the_public_schemas(kind: str, path: str) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{kind}", path]
    found = subprocess.run(check, cwd=REPOSITORY, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_other_templates_name_commands_that_exist() -> None:
    gitlab = yaml.safe_load((REPOSITORY / "ci" / "gitlab.yml").read_text())[".lipcert"]
    assert gitlab["artifacts"]["reports"]["junit"].endswith("gate.xml")
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    for entry in [hook["entry"] for hook in hooks] + [line for line in gitlab["script"] if line.startswith("lipcert")]:
        with pytest.raises(SystemExit) as stop:
            main([shlex.split(entry)[1], "--help"])
        assert stop.value.code == 0


def test_assertions_show_the_report() -> None:
    model = lipcert.load(DIGITS)
    with np.load(REPOSITORY / "examples" / "digits_test.npz") as data:
        x, y = data["x"][:40], data["y"][:40]
    upper = assert_lipschitz(model, at_most=1e6, methods=["product", "sampled"]).upper
    with pytest.raises(AssertionError, match=r"not proved(.|\n)*product"):
        assert_lipschitz(model, at_most=upper * 0.9, methods=["product"])
    with pytest.raises(AssertionError, match="a witness attains"):
        assert_lipschitz(model, at_most=1e-3, methods=["product", "sampled"])
    assert_certified_accuracy(DIGITS, x, y, eps=1e-4, at_least=0.8, norm="inf")
    with pytest.raises(AssertionError, match=r"certified accuracy 0.0 at eps 100(.|\n)*40 samples"):
        assert_certified_accuracy(DIGITS, x, y, eps=100.0, at_least=0.8, norm="inf")
