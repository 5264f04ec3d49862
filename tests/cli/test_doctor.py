"""`lipcert doctor`, and help pages as they are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing

import pytest
import torch

from lipcert.cli.main import COMMANDS, main
from lipcert.tasks import doctor
from lipcert.tasks.doctor import Finding


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def test_a_healthy_installation(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json", "-") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["healthy"] is True
    known = {one["name"]: one for one in found["findings"]}
    assert known["torch"]["value"] == torch.__version__
    assert "<= 3.0 <=" in known["a known bound"]["value"]
    assert {one["group"] for one in found["findings"]} == {
        "versions",
        "optional parts",
        "devices",
        "sandbox",
        "self-test",
    }


def test_a_wrong_bound_is_seen(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The self-test can fail: of another constant, and of an installation without a package."""
    monkeypatch.setattr(doctor, "_versions", lambda: [Finding("versions", "torch", "missing", False)])
    assert run("doctor") == 4
    assert "missing" in capfd.readouterr().out
    with pytest.MonkeyPatch.context() as planted:
        planted.setattr(doctor, "_measured", lambda: (2.0, 2.5))
        with pytest.raises(ArithmeticError, match=r"3\.0 is not within 2\.0 and 2\.5"):
            doctor._bound()
        planted.setattr(doctor, "_measured", lambda: (2.0, 3.5))
        with pytest.raises(ArithmeticError, match="wide"):
            doctor._bound()


@pytest.mark.parametrize("columns", ["80", "300"])
def test_help_pages(columns: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Every help text appears whole, with its brackets; flags have no type; nothing is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", columns)
    assert run("--help") == 0
    assert "<bool>" not in capfd.readouterr().out
    for name, command in COMMANDS.items():
        assert run(name, "--help") == 0
        page = capfd.readouterr().out
        assert max(map(len, page.splitlines())) <= int(columns)
        assert "<bool>" not in page
        assert "\\[" not in page
        shown = squeezed(page)
        assert squeezed(f"Example: {command.example}") in shown
        for hint in typing.get_type_hints(command.function, include_extras=True).values():
            for option in getattr(hint, "__metadata__", ()):
                if columns == "300" and getattr(option, "help", None):
                    assert squeezed(option.help) in shown, option.help


def squeezed(text: str) -> str:
    return re.sub(r"[\s│]+", "", text)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nofile.onnx", "No such file"),
        ("https://e.example/m.onnx", "download it first"),
        ("s3://bucket/m.onnx", "download it first"),
        ("-", "write it into a file"),
    ],
)
def test_a_model_that_is_not_there_is_told_before_torch_is_imported(model: str, says: str) -> None:
    code = f"""import sys
from lipcert.cli.main import main
try:
    main(["bound", "--", {model!r}])
finally:
    print("torch" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == "False\n"
    assert says in done.stderr
