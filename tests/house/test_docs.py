"""The documentation is true: the tutorial's blocks run, the site is built without a warning, pages name what exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import site_links
from two import run

from lipcert.cli.main import COMMANDS
from lipcert.terms.version import SITE

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
BLOCK = re.compile(r"(?:<!-- exit: (\d) -->\n)?^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(DOCS.rglob("*.md"))


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block in an empty folder, as a reader would; `lipcert` in this process."""
    shutil.copytree(
        REPOSITORY / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("seed_paper", "pipeline")
    )
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((DOCS / "tutorial.md").read_text())
    assert len(blocks) >= 10
    for exit_status, kind, text in blocks:
        if kind == "python":
            exec(compile(text, "tutorial.md", "exec"), {})
            continue
        for line in text.splitlines():
            if line.startswith("lipcert "):
                assert run(*shlex.split(line)[1:]) == int(exit_status or 0), line
            else:
                subprocess.run(line, shell=True, check=True)
    made = {"moons.json", "map.json", "map.png", "page.html", "gate.toml", "moons.cert", "later.pt", "after.json"}
    assert made <= set(os.listdir(tmp_path))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_name_commands_and_options_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for command, rest in re.findall(
        r"\blipcert ([a-z]+)\b([^`\n]*)", "\n".join(re.findall(r"`[^`\n]*`|^lipcert .*$", text, re.M))
    ):
        assert command in COMMANDS, f"{page.name}: lipcert {command}"
        known = {f"--{name.replace('_', '-')}" for name in COMMANDS[command].function.__annotations__}
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest):
            assert option in known, f"{page.name}: lipcert {command} {option}"


def test_the_site_is_where_the_rules_point() -> None:
    assert f"site_url: {SITE} " in (REPOSITORY / "mkdocs.yml").read_text()
    extra = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    assert any("mkdocs-material" in one for one in extra)


@pytest.mark.skipif(
    os.environ.get("LIPCERT_FULL") != "1", reason="LIPCERT_FULL=1 builds the site (needs lipcert[docs])"
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # the theme's own announcement
    done = subprocess.run(command, cwd=REPOSITORY, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    rules = (tmp_path / "site" / "rules" / "index.html").read_text()
    assert 'id="max-upper"' in rules
    assert site_links.broken(tmp_path / "site") == []
