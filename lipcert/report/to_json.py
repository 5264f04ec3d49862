"""JSON: `report -> str`, and a file that is either the old one or the whole new one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from lipcert.report.report import Report
from lipcert.terms.printable import plain

POINTS = '\n "points": []'  # a line break is escaped inside strings, so this is the field itself


def to_json(report: Report) -> str:
    """Strict JSON in ASCII (control characters of hostile names are escaped); floats by repr, never NaN or Infinity."""
    return "".join(pieces(report))


def pieces(report: Report) -> Iterator[str]:
    """The same, bit by bit: ten thousand points, one on a line each, are never one string."""
    data = replace(report, points=()).to_dict() | {"self_check": report.self_check()}
    whole = json.dumps(data, indent=1, allow_nan=False)
    before, field, after = whole.partition(POINTS)
    yield before + field.removesuffix("]")
    for place, point in enumerate(report.points):
        yield (",\n  " if place else "\n  ") + json.dumps(plain(point), allow_nan=False)
    yield ("\n ]" if report.points else "]") + after + "\n"


def for_stdout(text: str) -> str:
    """The same JSON, in which no CI finds a command: `##[error]` can only stand inside a string."""
    return text.replace("##", "#\\u0023")


def write_atomically(content: str | bytes | Iterable[str], path: str | Path) -> None:
    """Write aside in the same folder, fsync, rename: a reader never sees half a report. OSError where that fails."""
    target = Path(path)
    if target.exists() and not target.is_file():  # a pipe or a device such as /dev/stderr is written, not replaced
        with target.open("wb") as stream:
            stream.writelines(_encoded(content))
        return
    target = target.resolve()  # through a symbolic link, so that the link stays
    handle, aside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.writelines(_encoded(content))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(aside, target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        os.replace(aside, target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _encoded(content: str | bytes | Iterable[str]) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
    else:
        yield from (part.encode("utf-8") for part in ([content] if isinstance(content, str) else content))


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask
