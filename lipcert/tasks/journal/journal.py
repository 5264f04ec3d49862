"""`--journal FILE`: each shard of a long task, written down when it is done. Killed at any moment, the run goes on from there.

One JSON line each: the first has the question, the others a shard with its seal (`seal`). Lines are only ever added. What a
kill left of a line is cut off; a line that was changed has no valid seal, and its shard is done again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from lipcert.tasks.journal.seal import FIELD, Seal
from lipcert.terms.errors import UnwritableError, UsageError
from lipcert.terms.files import reason
from lipcert.terms.kept import Kept
from lipcert.terms.question import Question

SCHEMA = "lipcert.journal/1"
MOST = 1 << 31  # bytes: a journal is read whole


class Journal(Kept, AbstractContextManager["Journal"]):
    """`known`: what the file had, by key. Without a file nothing is known and nothing is written."""

    def __init__(self, path: Path | None, stream: IO[bytes] | None, seal: Seal):
        self.path, self.stream, self.seal = path, stream, seal
        self.known: dict[str, dict[str, Any]] = {}
        self.left = 0  # lines that are not taken over
        self.taken: set[str] = set()  # keys that `get` found

    @classmethod
    def of(cls, path: str | Path | None, question: Question, seal: Seal) -> Journal:
        """UsageError where the file is another question's, no journal, or in use; it is never overwritten."""
        if path is None:
            return cls(None, None, seal)
        flag = f"--journal {path}"
        try:
            stream = open(path, "a+b")  # noqa: SIM115
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{flag}: another run writes to it; wait for it, or give another file") from None
            journal = cls(Path(path), stream, seal)
            journal._read(question, flag)
        except OSError as problem:
            raise UnwritableError(f"{flag}: cannot write it: {reason(problem)}") from problem
        return journal

    def _read(self, question: Question, flag: str) -> None:
        assert self.stream is not None
        self.stream.seek(0)
        if os.fstat(self.stream.fileno()).st_size > MOST:
            raise UsageError(f"{flag}: more than {MOST >> 30} GiB: no journal of lipcert")
        head, whole = _line({"schema": SCHEMA, "question": question.to_dict()}), 0
        for number, line in enumerate(self.stream):
            if not line.endswith(b"\n"):  # of a run that was killed
                if number == 0 and not head.startswith(line):
                    raise UsageError(f"{flag}: not a journal of lipcert; give another file")
                break
            if number == 0:
                _compare(line, question, flag)
            else:
                self._take(line)
            whole += len(line)
        self.stream.truncate(whole)
        if whole == 0:
            self._write(head)

    def _take(self, line: bytes) -> None:
        row = _json(line)
        if self.seal.holds(row) and isinstance(row.get("shard"), str) and isinstance(row.get("found"), dict):
            self.known.setdefault(row["shard"], row["found"])
        else:
            self.left += 1

    def get(self, key: str) -> Mapping[str, Any] | None:
        found = self.known.get(key)
        if found is not None:
            self.taken.add(key)
        return found

    def add(self, key: str, found: Mapping[str, Any]) -> None:
        if self.stream is not None:
            try:
                self._write(_line(self.seal.on({"shard": key, "found": found})))
            except OSError as problem:
                raise UnwritableError(f"--journal {self.path}: cannot write it: {reason(problem)}") from problem

    def _write(self, line: bytes) -> None:
        """In one call, so that a kill leaves a whole line or the beginning of one."""
        assert self.stream is not None
        self.stream.write(line)
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def words(self, taken: int) -> list[str]:
        """Warnings of the report."""
        found = [f"{taken} parts are taken from {self.path}, whose seals are this user's"] if taken else []
        if self.left:
            found.append(
                f"{self.left} parts of {self.path} are not taken over: they were changed, or written by another user or version"
            )
        if self.stream is not None and self.seal.digest({}) is None:
            found.append(
                f"--journal {self.path}: no key for its {FIELD}s could be kept, so nothing can be taken from it later"
            )
        return found

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            self.stream.close()


def _compare(line: bytes, question: Question, flag: str) -> None:
    head = _json(line)
    if head.get("schema") != SCHEMA:
        raise UsageError(f"{flag}: not a journal of lipcert; give another file")
    try:
        theirs = Question.from_dict(head["question"])
    except (KeyError, ValueError, RecursionError) as problem:
        raise UsageError(f"{flag}: its question is damaged: {problem}; give another file") from problem
    found = question.first_difference(theirs)
    if found is not None:
        raise UsageError(f"{flag}: another question: {found}; ask the same question, or give another file")


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _json(line: bytes) -> dict[str, Any]:
    """{} of what is no JSON object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
