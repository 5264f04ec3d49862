"""Model files as people name them: files, folders and patterns, in natural order, grouped into series."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lipcert.terms.errors import UnreadableError

ENDINGS = (".onnx", ".pt", ".pth", ".pt2", ".ts")


@dataclass(frozen=True)
class Training:
    """Checkpoints of one training, oldest first. `steps`: the numbers in their names, or 0, 1, 2, ..."""

    name: str
    files: tuple[Path, ...]
    steps: tuple[int, ...]


def natural(text: str) -> list[tuple[int, int | str]]:
    """A key that sorts step_9 before step_10."""
    return [(0, int(part)) if part.isdigit() else (1, part.casefold()) for part in re.findall(r"\d+|\D+", text)]


def series_of(arguments: Sequence[str | Path]) -> list[Training]:
    """Each folder and each pattern (with *, ? or [) is a series; single files are one series together.

    UnreadableError where a folder or pattern holds no model file, or a file is not there.
    """
    singles: list[Path] = []
    found: list[Training] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
            if not files:
                raise UnreadableError(f"{path}: no model files in this folder; they end in {', '.join(ENDINGS)}")
            found.append(_series(path.name or str(path), files))
        elif path.exists():
            singles.append(path)
        elif re.search(r"[*?\[]", str(argument)):
            files = [Path(file) for file in glob.glob(str(argument), recursive=True) if Path(file).is_file()]
            if not files:
                raise UnreadableError(f"{argument}: no file has such a name")
            found.append(_series(str(argument), files))
        else:
            raise UnreadableError(f"{argument}: no such file or folder")
    if singles:
        folders = {str(file.parent) for file in singles}
        found.insert(0, _series(folders.pop() if len(folders) == 1 else "checkpoints", singles))
    return found


def _series(name: str, files: Sequence[Path]) -> Training:
    unique = sorted(dict.fromkeys(files), key=lambda file: natural(str(file)))
    numbers = [re.findall(r"\d+", file.stem) for file in unique]
    last = [int(found[-1]) if found else -1 for found in numbers]
    in_order = min(last, default=-1) >= 0 and all(a < b for a, b in pairwise(last))
    return Training(name, tuple(unique), tuple(last) if in_order else tuple(range(len(unique))))
