"""README and CONTRIBUTING are true: their code runs, what they name exists, their table agrees with a fresh run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lipcert.cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
FRESH = ("acasxu_run2a_1_1.onnx",)  # all of them: .ci/run


def block(mark: str) -> str:
    """The code block that follows the line `<!-- MARK -->`."""
    return re.search(rf"^<!-- {mark} -->\n```\w+\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]


def test_python_example_runs() -> None:
    command = [sys.executable, "-c", block("test: python")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lower, upper = map(float, done.stdout.splitlines()[0].split(" <= L <= "))
    assert 0 < lower <= upper


def test_commands_for_a_fresh_machine() -> None:
    """What .ci/run takes from here and runs: each one line, the first part of the second installs."""
    for mark, end in (
        ("ci: install", "lipcert bound examples/two_moons.onnx"),
        ("ci: test", "python -m pytest -n auto"),
    ):
        lines = block(mark).splitlines()
        assert len(lines) == 1
        assert "-c constraints.txt" in lines[0]
        assert lines[0].endswith(end)
        assert f"readme {mark.removeprefix('ci: ')}" in (REPOSITORY / ".ci/run").read_text()


def test_every_command_named_exists() -> None:
    named = set(re.findall(r"^(?:\.venv/bin/)?lipcert ([a-z]+)", README, re.MULTILINE))
    named |= set(re.findall(r"`lipcert ([a-z]+)", README))
    assert named <= COMMANDS.keys()
    assert named == COMMANDS.keys()


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_path_named_exists(text: str) -> None:
    """Paths in backquotes and in links. `../shared` may be absent, README says so."""
    prefixes = "lipcert|tests|examples|scripts|benchmarks|\\.ci"
    named = set(re.findall(rf"`(?:python |bash )?((?:{prefixes})/[\w./-]+)", text)) | set(
        re.findall(r"\]\((\w+\.md)\)", text)
    )
    assert len(named) >= 4
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []


def test_every_dependency_has_its_reason() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    rows = [line.split("|")[1] for line in CONTRIBUTING.splitlines() if line.startswith("|")]
    for requirement in wanted:
        name = re.match(r"[\w-]+", requirement)[0]
        assert any(re.search(rf"\b{name}\b", row) for row in rows), f"CONTRIBUTING.md gives no reason for {name}"


# The table of public models


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_table", REPOSITORY / "scripts/model_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_table"] = module  # where its dataclass looks for its types
    spec.loader.exec_module(module)
    return module


def test_table_lists_every_shared_model(table: ModuleType, shared: Path) -> None:
    assert [row.model for row in table.committed()] == [path.name for path in table.models(shared / "models")]


@pytest.mark.parametrize("name", FRESH)
def test_table_agrees_with_a_fresh_run(table: ModuleType, shared: Path, name: str) -> None:
    row = table.measure(shared / "models" / name)
    known = {row.model: row for row in table.committed()}
    assert row.agrees(known[name]), f"{row}{known[name]}"


def test_disagreement_is_seen(table: ModuleType) -> None:
    row = table.Row("m.onnx", "bounded", "12.3457", "3.1", "")
    assert row.agrees(table.Row("m.onnx", "bounded", "12.3461", "3.1", "other words"))
    for wrong in ({"status": "refused"}, {"upper": "12.5"}, {"upper": "-"}, {"lower": "4.2"}, {"model": "n.onnx"}):
        assert not row.agrees(table.Row(**{**vars(row), **wrong}))


def test_rows_read_back(table: ModuleType) -> None:
    row = table.Row(
        "m.onnx", "refused", "-", "2.5", table._cell("/s/models/a|b <x>\x1b\nmore", Path("/s/models/m.onnx"))
    )
    assert row.why == r"a\|b &lt;x>\x1b"
    assert table.Row.parse(str(row)) == row
