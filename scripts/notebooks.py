"""The notebooks of the documentation: `python scripts/notebooks.py --write`, or `--check` that each runs and is up to date.

Their sources are scripts (`examples/notebooks/*.py`, cells begin with `# %%`), which are read and changed as code; the executed
notebooks (`docs/notebooks/*.ipynb`) are what the site shows. Needs lipcert[docs,plots,pandas].
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted((REPOSITORY / "examples/notebooks").glob("*.py"))
MADE = REPOSITORY / "docs/notebooks"
SECONDS = 300  # for one cell
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}

Cell = tuple[str, str]  # its kind, code or markdown, and its text


def cells(text: str) -> list[Cell]:
    """Of a script: `# %%` begins a cell of code, `# %% [markdown]` one of comments."""
    found: list[Cell] = []
    for mark, body in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", text, re.MULTILINE | re.DOTALL):
        lines = body.strip("\n").splitlines()
        found.append(
            ("markdown", "\n".join(re.sub(r"^# ?", "", line) for line in lines)) if mark else ("code", "\n".join(lines))
        )
    return found


def cells_of(notebook: Any) -> list[Cell]:
    """Of the JSON of a notebook, where a source is a text or its lines."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def executed(source: Path) -> Any:
    """The notebook with its outputs, run in an empty folder. nbclient's CellExecutionError where a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    new = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    parts = [new[kind](text) for kind, text in cells(source.read_text(encoding="utf-8"))]
    for number, part in enumerate(parts):
        part["id"] = f"cell-{number}"  # a random one would change the file each time
    notebook = nbformat.v4.new_notebook(cells=parts, metadata=KERNEL)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute()
    return notebook


def made(source: Path) -> Any:
    """The JSON of the committed notebook; empty where there is none."""
    path = MADE / f"{source.stem}.ipynb"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": []}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/notebooks/*.ipynb")
    parser.add_argument("--check", action="store_true", help="exit 1 where a committed notebook has other cells")
    arguments = parser.parse_args()
    import nbformat

    notebooks = {source: executed(source) for source in SOURCES}
    stale = []
    for source, notebook in notebooks.items():
        if arguments.write:
            MADE.mkdir(exist_ok=True)
            nbformat.write(notebook, MADE / f"{source.stem}.ipynb")
        elif cells_of(made(source)) != cells(source.read_text(encoding="utf-8")):
            stale.append(source.name)
    print(f"{len(notebooks)} notebooks ran" + (f"; to be written again: {', '.join(stale)}" if stale else ""))
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
