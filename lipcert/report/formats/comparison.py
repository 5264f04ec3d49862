"""A comparison for people: a table on a terminal, and Markdown for a pull request. Both show the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lipcert.report.comparison import Change, Comparison, Quantity, Verdict
from lipcert.terms.digits import digits
from lipcert.terms.markdown import escaped
from lipcert.terms.printable import printable

STYLES: dict[Verdict, str] = {
    "worse": "bold red",
    "weaker": "yellow",
    "better": "bold green",
    "stronger": "green",
    "same": "dim",
    "only before": "yellow",
}
SIGNS: dict[Verdict, str] = {"worse": "❌", "weaker": "⚠️", "better": "✅", "stronger": "✅", "only before": "⚠️"}
ORDER: tuple[Verdict, ...] = ("worse", "only before", "weaker", "better", "stronger", "only after", "moved", "same")
MANY = (
    "pairs",
    "outputs",
    "cells",
    "balls",
    "samples",
)  # groups that are counted; only the first few that moved are shown
FEW = 5
COUNT = 5  # significant digits
COLUMNS = ("", "before", "after", "verdict")


@dataclass(frozen=True)
class Row:
    name: str
    before: str = ""
    after: str = ""
    said: str = ""
    verdict: Verdict | None = None  # None: a heading


def headline(found: Comparison) -> str:
    """What matters first: `1 worse, 2 weaker, 5 same`."""
    counts = found.counts
    return ", ".join(f"{counts[word]} {word}" for word in ORDER if word in counts) or "nothing to compare"


def rows(found: Comparison, everything: bool = False) -> Iterator[Row]:
    for name in dict.fromkeys(change.what.group for change in found.changes):
        group = [change for change in found.changes if change.what.group == name]
        many = name in MANY and not everything
        yield Row(name, said=_counted(group) if many else "")
        moved = [change for change in group if change.verdict != "same"]
        few = sorted(moved, key=lambda change: ORDER.index(change.verdict))[:FEW] if many else group
        for change in few:
            yield Row(change.what.name, bracket(change.before), bracket(change.after), said(change), change.verdict)
        if many and len(moved) > len(few):
            yield Row(f"... {len(moved) - len(few)} more")


def _counted(group: Sequence[Change]) -> str:
    counts = {word: sum(change.verdict == word for change in group) for word in ORDER}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def bracket(what: Quantity | None) -> str:
    if what is None:
        return "-"
    known = what.shown()
    low, high = known["lower"], known["upper"]
    if what.measured and high is not None:
        return digits(high, "estimate", COUNT)
    if high is None:
        return (
            " ".join(([] if low is None else [f">= {digits(low, 'lower', COUNT)}"]) + [what.word or ""]).strip() or "-"
        )
    if low == high:
        return digits(high, "estimate", COUNT)
    if low is None:
        return f"<= {digits(high, 'upper', COUNT)}"
    return f"{digits(low, 'lower', COUNT)} .. {digits(high, 'upper', COUNT)}"


def said(change: Change) -> str:
    """The verdict and by how much: of the value itself where the brackets are apart, else of what is guaranteed."""
    word = change.verdict
    if word in ("worse", "better") and change.least is not None:
        exact = change.what.measured
        return f"{word} by {'' if exact else 'at least '}{_percent(abs(change.least), exact)}"
    if word in ("weaker", "stronger", "moved") and change.moved is not None:
        by = "by " if word != "moved" else "+" if change.moved > 0 else "-"
        return f"{word} {by}{_percent(abs(change.moved), True)}"
    return word


def _percent(share: float, exact: bool) -> str:
    return f"{digits(100 * share, 'estimate' if exact else 'lower', 3)} %"


def comparison_table(found: Comparison, everything: bool = False) -> RenderableType:
    title = Text(printable(f"{found.before['report']} -> {found.after['report']}"), style="bold", overflow="fold")
    models = " (one model)" if found.same_model else ""
    title.append(printable(f"  {found.command}{models}"), style="not bold dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows(found, everything):
        heading = row.verdict is None
        cells = (row.name if heading else f"  {row.name}", row.before, row.after, row.said)
        style = "bold" if heading else ""
        *texts, last = (Text(printable(cell), style=style, overflow="fold") for cell in cells)
        last.stylize("not bold dim" if row.verdict is None else STYLES.get(row.verdict, ""))
        table.add_row(*texts, last)
    return Group(title, Text(headline(found)), table)


def comparison_markdown(comparisons: Sequence[Comparison], everything: bool = False) -> str:
    return "\n".join(_markdown(found, everything) for found in comparisons)


def _markdown(found: Comparison, everything: bool) -> str:
    names = f"{escaped(found.before['report'])} → {escaped(found.after['report'])}"
    lines = [f"### lipcert {found.command}: {headline(found)}", "", names, "", "| | | before | after | verdict |"]
    lines.append("|---|---|---:|---:|---|")
    for row in rows(found, everything):
        if row.verdict is None:
            lines.append(f"| | **{escaped(row.name)}** | | | {row.said} |")
        else:
            cells = (row.name, row.before, row.after, row.said)
            lines.append(f"| {SIGNS.get(row.verdict, '')} | " + " | ".join(escaped(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"
