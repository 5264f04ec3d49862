"""The verdicts of a gate: JSON for machines, a table for a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict

from lipcert.gate.steps import step
from lipcert.gate.verdict import Verdict, passed
from lipcert.terms.printable import plain, printable

SCHEMA = "lipcert.gate/1"
STYLES = {"met": "green", "violated": "bold red", "not proved": "yellow"}
SHOWN = 8


def to_verdicts(verdicts: Sequence[Verdict]) -> str:
    rows = [plain({**asdict(verdict), "step": step(verdict.check, verdict.status)}) for verdict in verdicts]
    return json.dumps({"schema": SCHEMA, "passed": passed(list(verdicts)), "verdicts": rows}, indent=1) + "\n"


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False, force_jupyter=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, markup=False, emoji=False, force_jupyter=False, width=120)
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in ("verdict", "rule", "why", "report"):
        table.add_column(column, overflow="fold")
    for verdict in verdicts:
        few = ", ".join(map(str, verdict.samples[:SHOWN])) + (", .." if len(verdict.samples) > SHOWN else "")
        why = printable(verdict.message) + (f"; samples {few}" if verdict.samples else "")
        cells = [printable(verdict.rule), why, printable(verdict.report or "")]
        table.add_row(
            Text(verdict.status, style=STYLES[verdict.status]), *(Text(cell, overflow="fold") for cell in cells)
        )
    met = passed(list(verdicts))
    steps = {f"{v.rule}: {said}": None for v in verdicts if (said := step(v.check, v.status))}
    with console.capture() as captured:
        console.print(table)
        for said in steps:
            console.print(Text(printable(said), style="dim"))
        console.print(Text("gate met" if met else "gate NOT met", style="bold green" if met else "bold red"))
    return captured.get()
