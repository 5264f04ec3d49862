"""Reports in Markdown, for a pull request or a model card. No text of a file is markup there (terms/markdown.py)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

from lipcert.report import tables
from lipcert.report.formats import Named, read
from lipcert.report.report import Report
from lipcert.report.sections import pieces_of
from lipcert.report.tables import Framed, Item, Outline, Piece, Sentence
from lipcert.terms.markdown import escaped


def markdown(reports: Named) -> str:
    return "\n".join("\n".join(_lines(report)) for _, report in read(reports))


def _lines(report: Report) -> Iterator[str]:
    yield f"### lipcert {escaped(report.command)}"
    for piece in pieces_of(report):
        found = list(lines(piece))
        yield from ["", *found] if any(found) else []
    yield ""


@singledispatch
def lines(piece: Piece) -> Iterator[str]:
    raise TypeError(piece)


@lines.register
def _(piece: Sentence) -> Iterator[str]:
    yield "".join(map(marked, piece.items)).strip()


@lines.register
def _(piece: tables.Table) -> Iterator[str]:
    yield row(escaped(column.removeprefix(">")) for column in piece.columns)
    yield row("---:" if column.startswith(">") else "---" for column in piece.columns)
    for items in piece.rows:
        yield row(map(marked, items))


@lines.register
def _(piece: Outline) -> Iterator[str]:
    yield "- " + next(iter(lines(piece.label)))
    for branch in piece.branches:
        yield from ("  " + line for line in lines(branch))


@lines.register
def _(piece: Framed) -> Iterator[str]:
    for number, inner in enumerate(piece.pieces):
        yield from ([""] if number else [])
        yield from lines(inner)


def row(cells: Iterator[str] | map[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def marked(item: Item) -> str:
    words = escaped(item.words)
    bold = item.tone in ("strong", "good", "bad", "warning") and words.strip()
    if not bold:
        return words
    before, after = words[: len(words) - len(words.lstrip())], words[len(words.rstrip()) :]
    return f"{before}**{words.strip()}**{after}"
