"""Reports of one question side by side: what moved, by how much, in the direction that matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipcert.gate.given import UNASKED, read_report
from lipcert.report.comparison import Change, Comparison, Quantity
from lipcert.report.report import Report
from lipcert.tasks.quantities import first_difference, quantities
from lipcert.terms.errors import SelfCheckFailed, UnreadableError, UsageError
from lipcert.terms.files import ODD_SHAPE, odd
from lipcert.terms.printable import printable

SHOWN = 120  # characters of a value in an error


def compare(
    before: str | Path | Report,
    after: str | Path | Report,
    *,
    tolerance: float = 0.0,
    other_names: bool = False,
) -> Comparison:
    """Two reports of one question: paths of files written by --json, or `Report` objects.

    `tolerance`: relative moves up to it are no moves (0.01 is 1 %). `other_names`: inputs and outputs may be called
    differently in the two models. Raises UsageError where the reports answer different questions (it names the first
    field that differs), UnreadableError where one cannot be read, and SelfCheckFailed where two reports of one and the
    same model contradict each other: then one of them is wrong.
    """
    if not 0 <= tolerance < float("inf"):
        raise UsageError(f"compare: the tolerance is a number from 0, got {tolerance!r}")
    return _pair(_given(before, "before"), _given(after, "after"), tolerance, other_names)


class _Given:
    """A report and what to call it."""

    def __init__(self, name: str, data: Mapping[str, Any]):
        self.name, self.data = name, data
        try:
            if data["self_check"]["passed"] is not True:
                raise UsageError(f"compare: {name} failed its own self-check: one of its values is wrong")
            self.quantities = quantities(data)
        except (UnreadableError, *ODD_SHAPE) as problem:
            raise UnreadableError(f"compare: {name} is not as the schema says: {odd(problem)}") from problem

    def words(self) -> dict[str, Any]:
        model = self.data["model"]
        asked = self.data.get("question")
        graph = asked.get("graph") if isinstance(asked, Mapping) else None
        return {"report": self.name, "model": model.get("path"), "sha256": model.get("sha256"), "graph": graph}


def _given(report: str | Path | Report, place: str) -> _Given:
    if isinstance(report, Report):
        return _Given(str(report.model.get("path") or place), report.to_dict())
    found = read_report(report)
    if found.flaw is not None:
        raise UsageError(f"compare: {report}: {found.flaw}")
    return _Given(str(report), found.data)


def _pair(before: _Given, after: _Given, tolerance: float, other_names: bool) -> Comparison:
    asked = [given.data.get("question") is not None for given in (before, after)]
    if asked[0] != asked[1]:
        raise UsageError(f"compare: {(before if asked[1] else after).name}: {UNASKED}")
    different = first_difference(before.data, after.data, names=not other_names)
    if different is not None:
        field, old, new = different
        raise UsageError(
            f"compare: different questions: {field} is {_short(old)} in {before.name}, and {_short(new)} in {after.name}"
            + ("\n--other-names compares all the same, if they mean one thing" if field.endswith(" name") else "")
        )
    changes = _changes(before.quantities, after.quantities, tolerance)
    found = Comparison(before.data["command"], before.words(), after.words(), changes)
    if found.same_model:
        _no_contradiction(found)
    return found


def _short(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _changes(before: Sequence[Quantity], after: Sequence[Quantity], tolerance: float) -> list[Change]:
    """In the order of the earlier report; what only the later one has stands at the end of its group."""
    old = {(q.group, q.name): q for q in before}
    new = {(q.group, q.name): q for q in after}
    groups = list(dict.fromkeys(group for group, _ in (*old, *new)))
    keys = sorted(dict.fromkeys((*old, *new)), key=lambda key: groups.index(key[0]))
    return [Change(old.get(key), new.get(key), tolerance) for key in keys]


def _no_contradiction(found: Comparison) -> None:
    """Both reports hold of one function, so their proved brackets have a point in common."""
    for change in found.changes:
        bare = Change(change.before, change.after)
        if bare.apart is not None and not change.what.measured and change.what.better is not None:
            raise SelfCheckFailed(
                f"compare: {found.before['report']} and {found.after['report']} are of one model and contradict each "
                f"other: {change.what.group} {change.what.name}. One of the two reports is wrong: please report it"
            )
