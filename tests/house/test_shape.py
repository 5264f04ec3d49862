"""How large a file, a function and a signature may be, so that each can be read at once."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import lipcert

ROOT = Path(lipcert.__file__).parent
FILE, FUNCTION, PARAMETERS = 400, 60, 8
SPELLED_OUT = ("cli", "face")  # rooms whose signatures say every option, as people give them
PUBLIC = ("load/model.py",)  # `lipcert.load` is its `load`, and takes the same


def too_large(path: Path, text: str) -> list[str]:
    """What is over the limits in a file of the package, `path` relative to it."""
    found = [] if text.count("\n") <= FILE else [f"{path}: {text.count(chr(10))} lines"]
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None
        lines = node.end_lineno - node.lineno + 1
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len(given) - (bool(given) and given[0].arg in ("self", "cls"))
        if lines > FUNCTION:
            found.append(f"{path}: {node.name} has {lines} lines")
        if count > PARAMETERS and path.parts[0] not in SPELLED_OUT and str(path) not in PUBLIC:
            found.append(f"{path}: {node.name} has {count} parameters")
    return found


def test_everything_can_be_read_at_once() -> None:
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 300
    assert [words for file in files for words in too_large(file.relative_to(ROOT), file.read_text())] == []


def test_what_is_too_large_is_seen() -> None:
    names = ", ".join(f"x{k}" for k in range(PARAMETERS + 1))
    wide = f"class A:\n    def f(self, {names}): pass\n    def g(self, {names[:-4]}): pass\n"
    assert too_large(Path("tasks/a.py"), wide) == [f"tasks/a.py: f has {PARAMETERS + 1} parameters"]
    assert too_large(Path("cli/a.py"), wide) == []
    long = "def f():\n" + "    pass\n" * FUNCTION
    assert too_large(Path("a.py"), long) == [f"a.py: f has {FUNCTION + 1} lines"]
    assert too_large(Path("a.py"), "x = 1\n" * (FILE + 1)) == [f"a.py: {FILE + 1} lines"]


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by name, and leaves the second one out."""
    names = [path.name for path in Path(__file__).parents[1].rglob("*.py") if path.name != "__init__.py"]
    assert [name for name, count in Counter(names).items() if count > 1] == []
