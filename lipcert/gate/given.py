"""The reports that a gate is given: read strictly, and what is wrong with each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcert.terms import collection
from lipcert.terms.errors import UnreadableError
from lipcert.terms.files import read_json
from lipcert.terms.question import Question

SCHEMA = "lipcert.report/1"
VERDICTS = "lipcert.gate/1"  # what `gate --json` writes: no report
UNASKED = "it does not say which question it answers (older reports did not): run again"


@dataclass(frozen=True)
class Given:
    """A report file. `flaw`: why nothing can stand on it. `unasked`: why no rule can, for it does not say which question
    it answers; then `question` is None."""

    path: str
    data: Mapping[str, Any]
    flaw: str | None = None
    question: Question | None = None
    unasked: str | None = None

    @property
    def unfit(self) -> str | None:
        return self.flaw or self.unasked

    @property
    def verdicts(self) -> bool:
        """No report, but what a gate said of some."""
        return self.data.get("schema") == VERDICTS

    @property
    def model(self) -> str | None:
        model = self.data.get("model")
        path = model.get("path") if isinstance(model, Mapping) else None
        return path if isinstance(path, str) else None


def read_report(path: str | Path) -> Given:
    """Strict JSON: NaN, Infinity and repeated keys are refused. UnreadableError where it is not a JSON object."""
    return _given(str(path), read_json(path, str(path)))


def read_reports(path: str | Path) -> list[Given]:
    """The report of a file, or the reports of a file of many models; those that an interrupted run did not come to are
    there too, with that as their flaw."""
    data = read_json(path, str(path))
    try:
        found = [_given(name, report) for name, report in collection.members(str(path), data)]
    except UnreadableError as problem:
        return [Given(str(path), data, str(problem))]
    if not collection.is_collection(data):
        return found
    left = [Given(f"{path} ({name})", {}, collection.UNASKED) for name in collection.unasked(data)]
    return found + left


def _given(path: str, data: Mapping[str, Any]) -> Given:
    flaw = _flaw(data)
    if flaw is not None:
        return Given(path, data, flaw)
    if data.get("question") is None:
        reasons = [str(row["reason"]) for row in data["results"] if isinstance(row, dict) and row.get("reason")]
        return Given(path, data, unasked=reasons[0] if reasons else UNASKED)
    try:
        question = Question.from_dict(data["question"])
    except (ValueError, RecursionError) as error:
        return Given(path, data, f"its question is damaged: {error}")
    odd = question.at_odds(data)
    return Given(path, data, odd and f"its field {odd} is at odds with its question", question)


def _flaw(data: Mapping[str, Any]) -> str | None:
    if collection.is_collection(data):
        return "it holds the reports of several models; give that of one"
    if data.get("schema") != SCHEMA:
        return f"its schema is {data.get('schema')!r}, this gate reads {SCHEMA}"
    for key in ("command", "model", "norm", "scope", "results", "points", "summary", "self_check", "warnings"):
        if key not in data:
            return f"it has no field {key!r}"
    shapes = {"model": dict, "norm": dict, "scope": dict, "results": list, "points": list, "summary": dict}
    for key, kind in {**shapes, "self_check": dict, "warnings": list, "command": str}.items():
        if not isinstance(data[key], kind):
            return f"its field {key!r} is not as the schema says"
    if any(isinstance(word, str) and word.startswith("interrupted") for word in data["warnings"]):
        return "the run was interrupted: its results are incomplete"
    return None
