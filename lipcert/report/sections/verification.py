"""What a certificate claims, and whether its proof was followed to the end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lipcert.report.report import Report
from lipcert.report.tables import Framed, Item, Piece, Sentence, Table
from lipcert.terms.question import FLAGS, Question

SHOWN = 10  # of many claims or radii
PARTS = {
    "file": "model",
    "input_name": "input",
    "units": "units",
    "output_name": "output",
    "norm": "norm",
    "region": "over",
    "execution": "holds in",
}


def section(report: Report) -> Iterator[Piece]:
    summary = report.summary
    if "verdict" not in summary:
        return
    accepted = summary["verdict"] == "accepted"
    blocks: list[Piece] = [
        Sentence.of("certificate accepted", "good") if accepted else Sentence.of("certificate REJECTED", "bad")
    ]
    if summary.get("claim") is not None:
        p, q = report.norm.input, report.norm.output
        blocks.append(Sentence.of(f"claim: |f(x) - f(x')|_{q} <= {summary['claim']!r} |x - x'|_{p}"))
    blocks += [Sentence.of(line) for line in several(summary)]
    if report.question is not None:
        blocks.append(claimed(report.question, summary.get("prover_chose") or ()))
    if accepted:
        by = ", ".join(result.method for result in report.results)
        if summary.get("proved") is not None:
            blocks.append(
                Sentence.of(f"proved again: L <= {summary['proved']!r}, from the numbers found by {by}", "dim")
            )
        blocks += [Sentence.of(f"{k}. {step}", "dim") for k, step in enumerate(summary.get("steps") or (), 1)]
    else:
        blocks.append(Sentence.of(f"at {summary['place']}: {summary['reason']}"))
    yield Framed(blocks)


def several(summary: Mapping[str, Any]) -> Iterator[str]:
    """Claims, where there is more than one, and radii: the first of each."""
    claims, points = summary.get("claims") or (), summary.get("points") or ()
    if len(claims) > 1:
        yield f"{len(claims)} claims"
        yield from (f"  {row['output']}: L <= {row['claim']!r}" for row in claims[:SHOWN])
    if points:
        yield f"radii of {len(points)} samples, closed balls in which the class stays"
        yield from (f"  sample {k}, class {row['class']}: {row['radius']!r}" for k, row in enumerate(points[:SHOWN]))


def claimed(question: Question, chosen: Collection[str]) -> Table:
    """The whole question, one part on a line; what only the prover has said is marked."""
    rows = []
    for name, words in question.scope().items():
        mark = f"the prover's choice; compare with {FLAGS[name]}" if name in chosen else None
        rows.append((Item(PARTS[name], tone="dim"), Item(words), Item(mark, tone="warning")))
    return Table(("", "", ""), rows)
