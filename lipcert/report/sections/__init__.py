"""What a person asks of a report, in this order: one file and one row each. A section without anything to say is empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lipcert.report.report import Report
from lipcert.report.sections import bounds, execution, jacobian, local, notes, parts, radii, ranges, track, verification
from lipcert.report.tables import Piece

SECTIONS: dict[str, Callable[[Report], Iterator[Piece]]] = {
    "model": parts.model,
    "verification": verification.section,
    "verdict": bounds.verdict,
    "radii": radii.section,
    "parts": parts.tree,
    "methods": parts.methods,
    "outputs": bounds.outputs,
    "pairs": bounds.pairs,
    "layers": bounds.layers,
    "jacobian": jacobian.section,
    "local": local.section,
    "track": track.section,
    "results": bounds.results,
    "ranges": ranges.section,
    "execution": execution.section,
    "notes": notes.section,
}


def pieces_of(report: Report) -> Iterator[Piece]:
    for section in SECTIONS.values():
        yield from section(report)
