"""What a person asks first of radii: how many samples are certified, at which eps, and how far an attack comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lipcert.terms.digits import digits
from lipcert.terms.printable import printable


def radius_table(summary: Mapping[str, Any], norm: str, inside: list[int]) -> RenderableType:
    """`inside`: samples attacked inside their certified radius."""
    lines: list[RenderableType] = [Text(f"certified radii in l{norm}: {summary['samples']} samples", style="bold")]
    shown = ", ".join(f"{count} {word}" for word, count in summary["status"].items())
    if summary.get("accuracy") is not None:
        shown += f"; accuracy {percent(summary['accuracy'])}"
    lines.append(Text(printable(shown), style="dim"))
    if summary["radius"] is not None:
        three = ", ".join(f"{word} {digits(value, 'lower')}" for word, value in summary["radius"].items())
        lines.append(Text(f"radius: {three}"))
        if len(summary["mean_radius"]) > 1:
            each = ", ".join(f"{word} {digits(value, 'lower')}" for word, value in summary["mean_radius"].items())
            lines.append(Text(f"mean by method: {each}", style="dim"))
    if inside:
        several = ", ".join(map(str, inside[:10]))
        lines.append(Text(f"SELF-CHECK FAILED: attacked inside the certified radius: samples {several}", "bold red"))
    blocks: list[RenderableType] = [Panel(Group(*lines), expand=False)]
    if summary["certified"]:
        table = Table(box=None, pad_edge=False, header_style="bold dim")
        for column in ("eps", "certified accuracy", "accuracy under attack"):
            table.add_column(column, justify="right")
        for row in summary["certified"]:
            attacked = row["attacked_accuracy"]
            certified = row["certified_accuracy"]
            table.add_row(f"{row['eps']!r}", percent(certified), "" if attacked is None else percent(attacked))
        blocks.append(table)
    return Group(*blocks)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
