"""What moved between two reports of one question. Every quantity is a bracket; a move counts beyond the brackets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["smaller", "larger"]
Verdict = Literal["worse", "better", "weaker", "stronger", "moved", "same", "only before", "only after"]

# What each word says. The first two hold of the functions themselves, the next two of what is proved of them.
WORDS: dict[Verdict, str] = {
    "worse": "the brackets are apart, in the wrong direction",
    "better": "the brackets are apart, in the right direction",
    "weaker": "the brackets overlap, and what is guaranteed is worse",
    "stronger": "the brackets overlap, and what is guaranteed is better",
    "moved": "it moved, and no direction is the better one",
    "same": "it did not move",
    "only before": "the later report does not have it",
    "only after": "the earlier report does not have it",
}
ROUNDING = 1e-9  # relative: two machines round differently; moves of this size are none
SCHEMA = "lipcert.compare/1"
DETAILS = (
    "methods",
    "pairs",
    "outputs",
    "cells",
    "balls",
    "samples",
)  # groups that another quantity of the report sums up


@dataclass(frozen=True)
class Quantity:
    """`lower <= value <= upper`, each None where not known; both infinite where proved unbounded.

    `better`: the direction that matters. `measured`: evaluated at points, not proved of the function.
    `word`: what the report says in place of a missing value (unbounded, refused).
    """

    group: str
    name: str
    lower: float | None
    upper: float | None
    better: Better | None = None
    measured: bool = False
    word: str | None = None

    @property
    def guarantee(self) -> float | None:
        """The side one can rely on: the upper end where small is good, the lower end where large is."""
        end = self.lower if self.better == "larger" else self.upper
        return end if end is None or math.isfinite(end) else None

    def shown(self) -> dict[str, Any]:
        ends = [None if end is None or not math.isfinite(end) else end for end in (self.lower, self.upper)]
        return {"lower": ends[0], "upper": ends[1], "word": self.word}


@dataclass(frozen=True)
class Change:
    """One quantity in both reports. `tolerance`: relative moves up to it are no moves."""

    before: Quantity | None
    after: Quantity | None
    tolerance: float = 0.0

    @property
    def what(self) -> Quantity:
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def apart(self) -> Literal["larger", "smaller"] | None:
        """The brackets have no point in common: the value itself moved, whatever it is in each."""
        if self.before is None or self.after is None:
            return None
        if _above(self.after.lower, self.before.upper, self.tolerance):
            return "larger"
        return "smaller" if _above(self.before.lower, self.after.upper, self.tolerance) else None

    @property
    def verdict(self) -> Verdict:
        before, after = self.before, self.after
        if before is None or after is None:
            return "only after" if before is None else "only before"
        better = before.better
        if better is None:
            ends = ((before.lower, after.lower), (before.upper, after.upper))
            return "moved" if any(self._differ(*pair) for pair in ends) else "same"
        if self.apart is not None:
            return "better" if self.apart == better else "worse"
        old, new = before.guarantee, after.guarantee
        if old is None or new is None:
            return "same" if old is new else "weaker" if new is None else "stronger"
        if not self._differ(old, new):
            return "same"
        return "stronger" if (new > old) == (better == "larger") else "weaker"

    @property
    def least(self) -> float | None:
        """How far the value itself moved at least, relative to before; None where the brackets overlap."""
        if self.apart is None or self.before is None or self.after is None:
            return None
        old, new = (
            (self.before.upper, self.after.lower) if self.apart == "larger" else (self.before.lower, self.after.upper)
        )
        return _relative(old, new)

    @property
    def moved(self) -> float | None:
        """How far what is guaranteed moved, relative to before (of a value without direction: the end it has)."""
        if self.before is None or self.after is None:
            return None
        if self.what.better is None and self.what.upper is None:
            return _relative(self.before.lower, self.after.lower)
        return _relative(self.before.guarantee, self.after.guarantee)

    def _differ(self, old: float | None, new: float | None) -> bool:
        if old is None or new is None:
            return old is not new
        return abs(new - old) > max(self.tolerance, ROUNDING) * abs(old) if math.isfinite(old - new) else old != new

    def to_dict(self) -> dict[str, Any]:
        what = self.what
        return {
            "group": what.group,
            "name": what.name,
            "better": what.better,
            "measured": what.measured,
            "before": None if self.before is None else self.before.shown(),
            "after": None if self.after is None else self.after.shown(),
            "verdict": self.verdict,
            "guarantee_moved": self.moved,
            "value_moved_at_least": self.least,
        }


def _above(low: float | None, high: float | None, tolerance: float) -> bool:
    if low is None or high is None or math.isinf(high):
        return False
    return low - high > max(tolerance, ROUNDING) * abs(high)


def _relative(old: float | None, new: float | None) -> float | None:
    if old is None or new is None or old == 0 or not math.isfinite(old) or not math.isfinite(new):
        return None
    return (new - old) / abs(old)


@dataclass(frozen=True)
class Comparison:
    """Two reports of one question. `before`, `after`: path of the report, path and sha256 of its model."""

    command: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changes: Sequence[Change]

    def of(self, *verdicts: Verdict) -> list[Change]:
        """What decides: details are summed up by another quantity, and one of a thousand samples always moves."""
        return [c for c in self.changes if c.what.group not in DETAILS and c.verdict in verdicts]

    @property
    def counts(self) -> dict[str, int]:
        return {word: count for word in WORDS if (count := len(self.of(word)))}

    @property
    def same_model(self) -> bool:
        """Equal files, and equal graphs as far as the reports say: weights may lie beside the file."""
        same = all(self.before.get(name) == self.after.get(name) for name in ("sha256", "graph"))
        return same and self.before["sha256"] is not None

    def worse(self, *, also_weaker: bool = False) -> bool:
        """Something is worse. `also_weaker`: or less is guaranteed than before, or is not said any more."""
        return bool(self.of("worse", *(("weaker", "only before") if also_weaker else ())))

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "command": self.command,
            "before": dict(self.before),
            "after": dict(self.after),
            "counts": self.counts,
            "changes": [change.to_dict() for change in self.changes],
        }

    def _repr_html_(self) -> str:
        """The table of the terminal, for a notebook."""
        from lipcert.report.formats.comparison import comparison_table
        from lipcert.report.notebook import as_html

        return as_html(comparison_table(self))

    def __repr__(self) -> str:
        counted = ", ".join(f"{count} {word}" for word, count in self.counts.items()) or "nothing to compare"
        return f"Comparison({self.command}: {counted})"
