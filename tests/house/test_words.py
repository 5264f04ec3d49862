"""One noun per concept: class names and tolerances of the package, read from its syntax trees (docs/WORDS.md)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import lipcert

PACKAGE = Path(lipcert.__file__).parent
TOLERANCES = ("EPS", "TINY", "GROW", "ULP")  # one value each: others have names that say what they are for


def classes(root: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in sorted(root.rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(file.relative_to(root)))
    return found


def values(root: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in sorted(root.rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.setdefault(node.targets[0].id, set()).add(ast.unparse(node.value))
    return found


def test_no_two_classes_share_a_name() -> None:
    assert {name: files for name, files in classes(PACKAGE).items() if len(files) > 1} == {}


def test_tolerances_have_one_value() -> None:
    assert {name: found for name, found in values(PACKAGE).items() if name in TOLERANCES and len(found) > 1} == {}


def test_two_would_be_seen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(f"class Found:\n    pass\nTINY = {name!r}\n")
    assert classes(tmp_path) == {"Found": ["a.py", "b.py"]}
    assert values(tmp_path) == {"TINY": {"'a'", "'b'"}}


def test_the_page_names_files_that_are_there() -> None:
    page = (PACKAGE.parent / "docs" / "WORDS.md").read_text()
    files = re.findall(r"`(lipcert/[a-z_/]+\.py)`", page)
    assert len(files) > 15
    assert all((PACKAGE.parent / file).is_file() for file in files)
