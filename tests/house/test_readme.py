"""README and CONTRIBUTING are true: their code runs, what they name exists, the table of models agrees with a fresh run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from two import run

from lipcert.cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
METHODS_SHOWN = [f"--method={name}" for name in ("product", "absolute", "cplip", "sampled", "lipsdp-layer", "lipsdp")]
FRESH = ("acasxu_run2a_1_1.onnx",)  # all of them: .ci/run


def block(mark: str) -> str:
    """The code block that follows the line `<!-- MARK -->`."""
    return re.search(rf"^<!-- {mark} -->\n```\w+\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]


def test_python_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    exec(compile(block("test: python"), "README.md", "exec"), {})
    lower, upper = map(float, capsys.readouterr().out.splitlines()[0].split(" <= L <= "))
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


def test_a_front_door() -> None:
    """What, a picture, sample output, two commands, five links; each leads somewhere, and nothing else is kept here."""
    assert len(README.splitlines()) <= 80
    assert README.count("![") == 1
    pictures_and_pages = re.findall(r"\]\(([\w./-]+)\)", README)
    assert [path for path in pictures_and_pages if not (REPOSITORY / path).exists()] == []
    assert len(re.findall(r"^- \[", README, re.MULTILINE)) == 5
    assert set(re.findall(r"lipcert ([a-z]+) ", README)) <= COMMANDS.keys()


def rows_of(printed: str) -> list[list[str]]:
    """method, side, rigor and value of each row."""
    return [line.split()[:4] for line in printed.splitlines() if line.split()[1:2] in (["upper"], ["lower"])]


def test_the_sample_output_is_what_the_command_prints(capfd: pytest.CaptureFixture[str]) -> None:
    """But for times, and for methods whose value depends on the machine's extras."""
    shown = re.search(r"^```text\n\$ lipcert (.*?)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert shown
    assert run(*shown[1].split(), "--quiet", *METHODS_SHOWN) == 0
    assert rows_of(capfd.readouterr().out) == rows_of(shown[2])
    assert shown[2] in (REPOSITORY / "docs/index.md").read_text()


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_path_named_exists(text: str) -> None:
    """Paths in backquotes and in links."""
    prefixes = "lipcert|tests|examples|scripts|benchmarks|\\.ci"
    named = set(re.findall(rf"`(?:python |bash )?((?:{prefixes})/[\w./-]+)", text)) | set(
        re.findall(r"\]\((\w+\.md)\)", text)
    )
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
