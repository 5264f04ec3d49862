"""`--resume`: what an earlier report of the same question has proved already. One way for all tasks.

The whole question is compared, and what differs first is said. Rows are taken over where their seals hold (`seal`): this
user's lipcert has proved them, for this question, with this version. All others, changed, damaged or written elsewhere,
are proved again, and the report says how many.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcert.report.report import SCHEMA, Report
from lipcert.tasks.journal.seal import Seal
from lipcert.terms.errors import UnreadableError, UsageError
from lipcert.terms.files import read_json
from lipcert.terms.question import COMMANDS, Question

Earlier = str | Path | Report | None  # a report file, or a report such as `partial_report` of an interruption


@dataclass
class Resumed:
    """`report`: JSON data of any shape, {} where nothing is resumed. `taken`, `left`: rows taken over, and not."""

    name: str
    report: Mapping[str, Any]
    seal: Seal
    taken: int = 0
    left: int = 0

    def rows(self, place: str, by: Callable[[dict[str, Any]], Hashable], count: bool = True) -> list[dict[str, Any]]:
        """The sealed rows of the list at `place` ("points", "summary.pairs"), in their order, each key once."""
        found: dict[Hashable, dict[str, Any]] = {}
        given = self.at(place)
        given = given if isinstance(given, list) else []
        for row in given:
            if self.seal.holds(row):
                found.setdefault(by(row), dict(row))
        self.note(len(found), len(given) - len(found), count)
        return list(found.values())

    def note(self, taken: int, left: int, count: bool = True) -> None:
        self.taken, self.left = self.taken + taken * count, self.left + left

    def at(self, place: str) -> Any:
        here: Any = self.report
        for name in place.split("."):
            here = here.get(name) if isinstance(here, Mapping) else None
        return here

    def words(self, things: str) -> list[str]:
        """Warnings of the report: `things` are what the rows are, such as "samples"."""
        found = [f"{self.taken} {things} are taken from {self.name}, whose seals are this user's"] if self.taken else []
        if self.left:
            why = "they were changed or damaged, or written by another user, machine or version"
            found.append(f"{self.left} rows of {self.name} are not taken over: {why}. They are computed again")
        return found


def resume(earlier: Earlier, question: Question) -> Resumed:
    """UsageError that names the file and the reason where it is no report, or one of another question."""
    seal = Seal.of(question)
    if earlier is None:
        return Resumed("", {}, seal)
    name = "the given report" if isinstance(earlier, Report) else str(earlier)
    flag = "resume" if isinstance(earlier, Report) else f"--resume {name}"
    data = earlier.to_dict() if isinstance(earlier, Report) else read_earlier(earlier, flag)
    _compare(data, question, flag)
    return Resumed(name, data, seal)


def read_earlier(path: str | Path, flag: str) -> Mapping[str, Any]:
    """The JSON data of a report file. UsageError that begins with the flag."""
    try:
        data = read_json(path, flag)
    except UnreadableError as problem:
        raise UsageError(str(problem)) from problem
    if data.get("schema") != SCHEMA:
        raise UsageError(f"{flag}: not a report of lipcert: give the file that --json wrote")
    return data


def _compare(data: Mapping[str, Any], question: Question, flag: str) -> None:
    command = COMMANDS.get(question.task, question.task)
    if data.get("command") != command:
        raise UsageError(f"{flag}: this is a report of `lipcert {data.get('command')}`, not of `lipcert {command}`")
    if data.get("question") is None:
        reason = "it does not say which question it answers: older versions wrote no `question`, and no refused model has one"
        raise UsageError(f"{flag}: {reason}; run again without --resume")
    try:
        theirs = Question.from_dict(data["question"])
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{flag}: its question is damaged: {problem}; run again without --resume") from problem
    found = question.first_difference(theirs)
    if found is not None:
        raise UsageError(f"{flag}: another question: {found}; ask the same question, or run without --resume")
    odd = theirs.at_odds(data)
    if odd is not None:
        raise UsageError(f"{flag}: damaged: its field {odd} is at odds with its question; run again without --resume")
