"""What a gate says of one rule and one report."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Status = Literal["met", "violated", "not proved"]


@dataclass(frozen=True)
class Verdict:
    """`met`: proved. `violated`: a witness, samples or a fact of the report contradicts the rule. `not proved`: neither.

    `check`: the rule's key, such as `max_upper`. `report`, `model`: file names, for links. `samples`: which points."""

    rule: str
    check: str
    status: Status
    message: str
    report: str | None = None
    model: str | None = None
    samples: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The same finding of another run: what was measured does not enter."""
        text = "\0".join((self.rule, self.check, self.report or ""))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def passed(verdicts: list[Verdict]) -> bool:
    """Only where every rule is met, and there is one."""
    return bool(verdicts) and all(verdict.status == "met" for verdict in verdicts)
