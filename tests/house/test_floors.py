"""The house (DESIGN section 3), read from the syntax trees: which room may import which, and which rooms stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import lipcert

PACKAGE = Path(lipcert.__file__).parent
REPOSITORY = PACKAGE.parent

# A room sees the floors below it only. `testing` and the names of the package itself are the library's face.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("__init__", "__main__", "testing"),
    ("cli", "face"),
    ("tasks",),
    ("methods",),
    ("sampling",),
    ("sdp", "load", "regions"),
    ("proofs",),
    ("network",),
    ("blocks",),
    ("operators", "activations"),
    ("rigor", "sandbox", "report", "gate"),
    ("terms",),
)
ROOMS = {room: level for level, floor in enumerate(FLOORS) for room in floor}
LIGHT_ROOMS = ("terms", "report", "gate")  # and what `lipcert --help` imports of `cli`
LIGHT = ("lipcert", "lipcert.__main__", "lipcert.cli.main")
NUMERICAL = ("torch", "numpy", "onnx", "onnxruntime", "scipy", "cvxpy", "jaxtyping", "matplotlib")


def room_of(file: Path, root: Path) -> str:
    return file.relative_to(root).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each `lipcert` module that a file imports, anywhere in it, with the name taken from it ("" for all)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "lipcert")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their direction"
            if (node.module or "").split(".")[0] == "lipcert":
                yield from ((node.module or "", alias.name) for alias in node.names)


def violations(root: Path) -> list[str]:
    """Imports that do not run down, rooms without a floor, private names that cross a file, as sentences."""
    found = []
    for file in sorted(root.rglob("*.py")):
        here, where = room_of(file, root), file.relative_to(root)
        if here not in ROOMS:
            found.append(f"{here} has no floor")
            continue
        for module, name in imported(ast.parse(file.read_text())):
            parts = [*module.split(".")[1:], name]
            below = parts[0] if (root / parts[0]).is_dir() or (root / f"{parts[0]}.py").is_file() else "__init__"
            if name.startswith("_") and not name.startswith("__"):
                found.append(f"{where} imports {name}, which is private to {module}")
            if below != here and ROOMS[here] > 0 and ROOMS.get(below, 0) <= ROOMS[here]:
                found.append(f"{where} imports {below}, which is not below it")
    return found


def test_imports_run_down() -> None:
    assert violations(PACKAGE) == []


def test_the_root_holds_the_face_only() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "testing"}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} <= ROOMS.keys()
    assert len(FLOORS) <= 12


def test_violations_can_be_found(tmp_path: Path) -> None:
    for room in ("methods", "rigor", "tasks", "attic"):
        (tmp_path / room).mkdir()
    (tmp_path / "rigor" / "norms.py").write_text("def f():\n    from lipcert.methods.product import Product\n")
    (tmp_path / "methods" / "product.py").write_text("import lipcert.rigor.norms\nfrom lipcert import tasks\n")
    (tmp_path / "tasks" / "bound.py").write_text("from lipcert.rigor.norms import _private, __all__\n")
    (tmp_path / "attic" / "old.py").write_text("")
    assert violations(tmp_path) == [
        "attic has no floor",
        "methods/product.py imports tasks, which is not below it",
        "rigor/norms.py imports methods, which is not below it",
        "tasks/bound.py imports _private, which is private to lipcert.rigor.norms",
    ]


def heavy_after(module: str) -> list[str]:
    code = f"import sys, {module}\nprint(*({set(NUMERICAL)!r} & sys.modules.keys()))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def light_modules() -> list[str]:
    files = (file for room in LIGHT_ROOMS for file in sorted((PACKAGE / room).rglob("*.py")))
    return [*LIGHT, *(".".join(("lipcert", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files)]


def test_light_rooms_import_nothing_numerical() -> None:
    """All in one process; the culprit is looked for only where there is one."""
    modules = [name.removesuffix(".__init__") for name in light_modules()]
    if heavy_after(", ".join(modules)):
        assert {module: found for module in modules if (found := heavy_after(module))} == {}


def test_heavy_modules_are_seen() -> None:
    assert "torch" in heavy_after("lipcert.rigor.rounding")


def test_functions_are_not_replaced_by_the_submodules_of_their_names() -> None:
    code = """import lipcert, lipcert.tasks.bound, lipcert.tasks.radius, lipcert.load.model
for name in lipcert.__all__:
    assert callable(getattr(lipcert, name)), name"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_every_room_is_there(floor: int) -> None:
    for room in FLOORS[floor]:
        assert (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file(), room


def test_help_imports_no_solver_and_no_runtime() -> None:
    code = """import contextlib, io, sys
sys.argv = ["lipcert", "bound", "--help"]
from lipcert.__main__ import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(*({"onnxruntime", "cvxpy", "scs", "clarabel", "torch", "onnx"} & sys.modules.keys()))"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_what_the_default_install_brings() -> None:
    """The first command of the README warns of nothing, and `--method lipsdp-cvxpy` finds its solvers."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    names = {requirement.split(">")[0] for requirement in project["dependencies"]}
    assert {"onnxruntime", "cvxpy", "scs"} <= names
    assert not {"onnxruntime", "cvxpy"} & set(project["optional-dependencies"])
    code = """import sys, lipcert
model = lipcert.load("examples/two_moons.onnx")
print(len(model.warnings), *({"cvxpy", "scs"} & sys.modules.keys()))"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert found.stdout.split() == ["0"]


def test_the_drawing_of_the_house_is_what_the_imports_say() -> None:
    script = REPOSITORY / "scripts" / "architecture.py"
    subprocess.run([sys.executable, script, "--check"], check=True)


def test_files_that_the_pages_name_are_there() -> None:
    for page in ("docs/ARCHITECTURE.md", "CONTRIBUTING.md"):
        for name in set(re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py|/))`", (REPOSITORY / page).read_text())):
            assert (REPOSITORY / name).exists() or (PACKAGE / name).exists(), f"{page}: {name}"
