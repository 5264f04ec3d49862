"""What a report says, before any format: lines, tables, outlines of items. How they look is the business of `formats/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lipcert.terms.digits import digits
from lipcert.terms.printable import printable
from lipcert.terms.result import Side

Tone = Literal["", "strong", "dim", "good", "warning", "bad", "picture"]


@dataclass(frozen=True)
class Item:
    """A word or a number. A number is shown with `count` digits, rounded away from the constant on its `side`."""

    value: str | float | None = None
    side: Side = "estimate"
    tone: Tone = ""
    count: int = 6

    @property
    def words(self) -> str:
        """In printable characters, whoever wrote them."""
        if isinstance(self.value, str):
            return printable(self.value)
        return "" if self.value is None else digits(self.value, self.side, self.count)


@dataclass(frozen=True)
class Sentence:
    """Items one after another."""

    items: tuple[Item, ...]

    @classmethod
    def of(cls, words: str, tone: Tone = "") -> Sentence:
        return cls((Item(words, tone=tone),))


@dataclass(frozen=True)
class Table:
    """`columns`: a leading > means numbers, on the right. All "": no heading."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Item]]


@dataclass(frozen=True)
class Outline:
    label: Sentence
    branches: Sequence[Outline] = ()


@dataclass(frozen=True)
class Framed:
    """What is read first."""

    pieces: Sequence[Piece] = field(default_factory=tuple)


Piece = Sentence | Table | Outline | Framed


def known(value: float | None, side: Side = "estimate", count: int = 6) -> Item:
    """A number, or a dash where there is none."""
    return Item("-" if value is None else value, side, count=count)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
