"""Who may import whom (DESIGN section 3), read from the syntax trees; and which modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lipcert

PACKAGE = Path(lipcert.__file__).parent

# Left may import right, never the other way round: the layers of DESIGN section 3, with the parts they have grown.
# `check` stands to the right of what proposes (bounds, sdp, ranges): it must not need the provers it checks.
ORDER = (
    *(
        "__main__",
        "cli",
        "testing",
        "tasks",
        "robustness",
        "local_balls",
        "grid",
        "plane",
        "measure",
        "data",
        "pipeline",
    ),
    *("plots", "pairs", "certify", "journal", "gate", "policy", "report", "radius", "attack", "bounds"),
    *("stats", "sdp", "regions", "ranges"),
    *("check", "lmi", "nonnegative", "segments", "chain", "disproof", "growth"),
    *(
        "normalform",
        "idle",
        "simplify",
        "transform",
        "parts",
        "lower",
        "parity",
        "foreign",
        "capture",
        "decompose",
        "load",
        "sandbox",
    ),
    *("ir",),
    *("network",),
    *("compose", "radial", "blocks", "linops", "activations", "convnorm", "torus", "norms", "psd"),
    *("rounding", "certificate", "strict", "query", "bound", "verdict", "terms", "errors"),
)
LIGHT = (
    "lipcert",
    "lipcert.__main__",
    "lipcert.cli.main",
    "lipcert.errors",
    "lipcert.bound",
    "lipcert.query",
    "lipcert.network.wanted",
    "lipcert.network.claimed",
)
REPORT = tuple(f"lipcert.report.{path.stem}" for path in sorted((PACKAGE / "report").glob("[!_]*.py")))
NUMERICAL = ("torch", "numpy", "onnx", "onnxruntime", "scipy", "cvxpy", "scs", "clarabel", "jaxtyping", "matplotlib")


def imported(tree: ast.AST, root: Path) -> set[str]:
    """First names under `lipcert` that a file imports, anywhere in it: `from lipcert import data` gives `data`. What is
    imported for annotations only never runs, and is left out."""
    names = set()
    idle = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if node in idle:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their direction"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    below = {name.split(".")[1] for name in names if name.startswith("lipcert.")}
    return {name for name in below if (root / name).is_dir() or (root / f"{name}.py").is_file()}


def violations(root: Path) -> list[str]:
    """Imports from right to left, and modules that ORDER does not know, as sentences."""
    found = []
    for file in sorted(root.rglob("*.py")):
        here = file.relative_to(root).parts[0].removesuffix(".py")
        if here == "__init__":  # the public names, loaded lazily
            continue
        if here not in ORDER:
            found.append(f"{here} has no place in ORDER: find its layer")
            continue
        for name in sorted(imported(ast.parse(file.read_text()), root) - {here}):
            if name not in ORDER or ORDER.index(name) < ORDER.index(here):
                found.append(f"{file.relative_to(root)} imports {name}, which is to its left")
    return found


def test_import_direction() -> None:
    assert violations(PACKAGE) == []


def test_violations_can_be_found(tmp_path: Path) -> None:
    (tmp_path / "bounds").mkdir()
    (tmp_path / "norms.py").write_text("def f():\n    from lipcert.bounds.product import Product\n")
    (tmp_path / "bounds" / "product.py").write_text("import lipcert.norms\nfrom lipcert import pipeline\n")
    (tmp_path / "pipeline.py").write_text("from lipcert import bounds, norms\n")
    (tmp_path / "helpers.py").write_text("")
    assert violations(tmp_path) == [
        "bounds/product.py imports pipeline, which is to its left",
        "helpers has no place in ORDER: find its layer",
        "norms.py imports bounds, which is to its left",
    ]


def heavy_after(module: str) -> list[str]:
    code = f"import sys, {module}\nprint(*({set(NUMERICAL)!r} & sys.modules.keys()))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("module", [*LIGHT, *REPORT])
def test_light_modules_import_nothing_numerical(module: str) -> None:
    assert heavy_after(module) == []


def test_heavy_modules_are_seen() -> None:
    assert "torch" in heavy_after("lipcert.rounding")


def test_functions_are_not_replaced_by_the_submodules_of_their_names() -> None:
    code = """import lipcert, lipcert.tasks.bound, lipcert.bound, lipcert.load
for name in lipcert.__all__:
    assert callable(getattr(lipcert, name)), name"""
    subprocess.run([sys.executable, "-c", code], check=True)


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
