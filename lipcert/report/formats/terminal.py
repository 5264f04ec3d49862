"""A report on a terminal. No text of a file is markup there, and none of its characters is a control code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text
from rich.tree import Tree

from lipcert.report import tables
from lipcert.report.formats import Named, read
from lipcert.report.report import Report
from lipcert.report.sections import pieces_of
from lipcert.report.tables import Framed, Item, Outline, Piece, Sentence, Tone

STYLES: dict[Tone, str] = {
    "": "",
    "strong": "bold",
    "dim": "dim",
    "good": "green",
    "warning": "yellow",
    "bad": "bold red",
    "picture": "cyan",
}
WIDTH = 100
SHORTEST = 6  # characters that a column of bars gets at least


def to_table(report: Report) -> RenderableType:
    """Everything a person asks first, top down: which model, the verdict, what each method said, what is assumed."""
    return shown(pieces_of(report))


def shown(pieces: Iterable[Piece]) -> Group:
    return Group(*(rendered(piece) for piece in pieces))


def text(item: Item) -> Text:
    return Text(item.words, style=STYLES[item.tone], overflow="fold")


@singledispatch
def rendered(piece: Piece) -> RenderableType:
    raise TypeError(piece)


@rendered.register
def _(piece: Sentence) -> Text:
    line = Text(overflow="fold")
    for item in piece.items:
        line.append_text(text(item))
    return line


@rendered.register
def _(piece: tables.Table) -> RichTable:
    named = any(piece.columns)
    table = RichTable(box=None, show_header=named, pad_edge=False, header_style="bold dim")
    for column in piece.columns:
        name = Item(column.removeprefix(">"))
        table.add_column(text(name), justify="right" if column.startswith(">") else "left", overflow="fold")
    longest = max((len(item.words) for row in piece.rows for item in row if item.tone == "picture"), default=0)
    for row in piece.rows:
        table.add_row(*(Bar(item, longest) if item.tone == "picture" else text(item) for item in row))
    return table


@dataclass(frozen=True)
class Bar:
    """A bar of block characters, shortened with all others of its column where the terminal is narrow; never folded."""

    item: Item
    longest: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        length = len(self.item.words)
        share = min(1.0, options.max_width / self.longest) if self.longest else 1.0
        yield Text("█" * max(min(length, 1), int(length * share)), style=STYLES[self.item.tone])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(SHORTEST, self.longest), self.longest)


@rendered.register
def _(piece: Outline) -> Tree:
    tree = Tree(rendered(piece.label))
    for branch in piece.branches:
        tree.add(rendered(branch))
    return tree


@rendered.register
def _(piece: Framed) -> Panel:
    return Panel(shown(piece.pieces), expand=False)


def as_text(reports: Named) -> str:
    """Without colours, `WIDTH` columns wide."""
    console = Console(highlight=False, markup=False, emoji=False, force_jupyter=False, width=WIDTH, color_system=None)
    with console.capture() as captured:
        for number, (_, report) in enumerate(read(reports)):
            console.print(*([""] if number else []), to_table(report), sep="\n")
    return captured.get()
