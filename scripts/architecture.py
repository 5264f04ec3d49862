"""The drawing of the house in docs/ARCHITECTURE.md, made from the imports: `--write`, or `--check` as CI does.

One line per floor, the lowest last; behind each room what it says of itself and the rooms that it imports.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "lipcert"
PAGE = REPOSITORY / "docs" / "ARCHITECTURE.md"
BEGIN, END = "<!-- house -->\n", "<!-- /house -->"
FACE = "lipcert"  # the files in the root


def rooms() -> dict[str, set[str]]:
    """Room -> the rooms that its files import, anywhere in them."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).parts
        here = parts[0] if len(parts) > 1 else FACE
        below = found.setdefault(here, set())
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                room = [*name.split("."), ""][1] if name.startswith("lipcert.") else ""
                if (PACKAGE / room).is_dir() and room not in ("", here):
                    below.add(room)
    return found


def floors(found: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by height: each stands on the highest room that it imports. Raises ValueError for a circle."""
    height: dict[str, int] = {}
    while len(height) < len(found):
        ready = [room for room, below in found.items() if room not in height and below <= height.keys()]
        if not ready:
            raise ValueError(f"a circle among {sorted(found.keys() - height.keys())}")
        for room in ready:
            height[room] = 1 + max((height[below] for below in found[room]), default=0)
    return [sorted(room for room in found if height[room] == level) for level in range(max(height.values()), 0, -1)]


def drawing() -> str:
    found = rooms()
    lines = ["| floor | room | what is there | imports |", "|---:|---|---|---|"]
    levels = floors(found)
    for number, floor in enumerate(levels):
        for room in floor:
            text = ast.get_docstring(ast.parse((PACKAGE / ("" if room == FACE else room) / "__init__.py").read_text()))
            first = (text or "").split("\n\n")[0].replace("\n", " ")
            lines.append(f"| {len(levels) - number} | `{room}` | {first} | {' '.join(sorted(found[room]))} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    old, _, tail = rest.partition(END)
    if arguments.write:
        PAGE.write_text(head + BEGIN + drawing() + END + tail)
        return 0
    if old != drawing():
        print("docs/ARCHITECTURE.md is not what the imports say: run scripts/architecture.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
