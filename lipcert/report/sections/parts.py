"""Which model it is, what it is made of, and what each method can do with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lipcert.report.report import Report
from lipcert.report.tables import Item, Outline, Piece, Sentence, Table

LINES = 36  # of the tree; with the table of methods that is a screen
SHOWN_ELSEWHERE = ("name", "kind", "input_shape", "output_shape", "parts")


def model(report: Report) -> Iterator[Piece]:
    about = report.model
    facts = [about.get("format") or "", shapes(about)]
    facts += [f"{about[name]:,} {name}" for name in ("parameters", "neurons") if about.get(name) is not None]
    facts += [f"sha256 {about['sha256'][:12]}"] if about.get("sha256") else []
    known = "  " + ", ".join(fact for fact in facts if fact)
    yield Sentence((Item(str(about.get("path") or "model"), tone="strong"), Item(known, tone="dim")))
    if about.get("surrogate"):
        yield Sentence.of(
            f"a surrogate, {about['surrogate']}: what is proved is about it, not about that model", "warning"
        )


def tree(report: Report) -> Iterator[Piece]:
    """What people call it, then its parts: `LINES` of them, unless the report was asked for all."""
    blocks = report.summary.get("blocks") or {}
    if report.parts and blocks:
        yield Sentence.of("made of " + ", ".join(f"{name} ({count})" for name, count in blocks.items()))
    if not report.parts:
        return
    branches = [_branch(part) for part in report.parts]
    lines = [1 + len(part.get("parts") or ()) for part in report.parts]
    if sum(lines) > LINES and not report.summary.get("all"):
        head = _fitting(lines, LINES * 2 // 3)
        tail = _fitting(lines[:head:-1], LINES // 3)
        left = len(branches) - head - tail
        more = Outline(Sentence.of(f"... {left} more parts: --all", "dim"), [])
        branches = [*branches[:head], more, *branches[len(branches) - tail :]]
    yield Outline(Sentence.of("parts", "strong"), branches)


def _fitting(lines: Sequence[int], most: int) -> int:
    """How many of the first fit; one at least."""
    total = 0
    for count, size in enumerate(lines):
        total += size
        if total > most:
            return max(1, count)
    return len(lines)


def methods(report: Report) -> Iterator[Piece]:
    """Rows with equal keys, as they are."""
    if report.methods:
        columns = tuple(dict.fromkeys(key for row in report.methods for key in row))
        yield Table(columns, [[Item(words(row.get(column))) for column in columns] for row in report.methods])


def _branch(part: Mapping[str, Any]) -> Outline:
    more = [
        Item(f"  {key}: {words(value)}", tone="dim")
        for key, value in part.items()
        if key not in SHOWN_ELSEWHERE and value not in (None, "", [], ())
    ]
    label = Sentence((Item(part["name"], tone="strong"), Item(f"  {part['kind']}  {shapes(part)}"), *more))
    return Outline(label, [_branch(child) for child in part.get("parts") or ()])


def shapes(row: Mapping[str, Any]) -> str:
    pair = [words(row[key]) or "scalar" for key in ("input_shape", "output_shape") if row.get(key) is not None]
    return " -> ".join(pair)


def words(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ("x" if all(isinstance(item, int) for item in value) else ", ").join(words(item) for item in value)
    return str(value)
