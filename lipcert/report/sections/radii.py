"""What a person asks first of radii: how many samples are certified, at which eps, and how far an attack comes."""

from __future__ import annotations

from collections.abc import Iterator

from lipcert.report.report import Report
from lipcert.report.tables import Framed, Item, Piece, Sentence, Table, percent
from lipcert.terms.digits import digits


def section(report: Report) -> Iterator[Piece]:
    summary = report.summary
    if report.command != "radius" or "certified" not in summary:
        return
    lines = [Sentence.of(f"certified radii in l{report.norm.input}: {summary['samples']} samples", "strong")]
    shown = ", ".join(f"{count} {word}" for word, count in summary["status"].items())
    if summary.get("accuracy") is not None:
        shown += f"; accuracy {percent(summary['accuracy'])}"
    lines.append(Sentence.of(shown, "dim"))
    if summary["radius"] is not None:
        three = ", ".join(f"{word} {digits(value, 'lower')}" for word, value in summary["radius"].items())
        lines.append(Sentence.of(f"radius: {three}"))
        if len(summary["mean_radius"]) > 1:
            each = ", ".join(f"{word} {digits(value, 'lower')}" for word, value in summary["mean_radius"].items())
            lines.append(Sentence.of(f"mean by method: {each}", "dim"))
    if report.attacked_inside:
        several = ", ".join(map(str, report.attacked_inside[:10]))
        lines.append(Sentence.of(f"SELF-CHECK FAILED: attacked inside the certified radius: samples {several}", "bad"))
    yield Framed(lines)
    if summary["certified"]:
        shares = ("certified_accuracy", "attacked_accuracy")
        rows = [
            [Item(f"{row['eps']!r}"), *(Item(percent(row[share])) for share in shares)] for row in summary["certified"]
        ]
        yield Table((">eps", ">certified accuracy", ">accuracy under attack"), rows)
