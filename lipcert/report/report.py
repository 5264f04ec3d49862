"""The report: what was asked, every result, the verdict, and the exit status that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lipcert.terms.digits import digits
from lipcert.terms.errors import LipcertError, RefusedModel, UnreadableError
from lipcert.terms.printable import plain, printable
from lipcert.terms.query import Norm
from lipcert.terms.question import Question
from lipcert.terms.result import Bound, Refusal, Result
from lipcert.terms.version import __version__, made_by

SCHEMA = "lipcert.report/1"
ASKS_FOR_A_BOUND = ("bound", "local")  # commands that are not done (exit 3) without a finite certified value
GATES = ("verify",)  # commands whose refusal is the verdict: a certificate is rejected (exit 1)

Status = Literal["bounded", "unbounded", "timeout", "refused"]


def moment() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Report:
    """All results have one scope: the same norms, region and output functional.

    `model`: path, format, sha256, input_shape, output_shape, parameters, neurons and, where known, parity and units.
    `region`: {"kind": "global"}, {"kind": "box", "lower", "upper"} or {"kind": "ball", "center", "radius", "norm"}.
    `max_upper`: the gate; met when a proved upper value exists and is not larger.
    `question`: all of what was asked; None where no model could be asked. `suggestion`: a command that has an answer.
    """

    command: str
    model: Mapping[str, Any]
    norm: Norm = field(default_factory=Norm)
    region: Mapping[str, Any] = field(default_factory=lambda: {"kind": "global"})
    output: str = "vector"
    results: Sequence[Result] = ()
    layers: Sequence[Mapping[str, Any]] = ()
    parts: Sequence[Mapping[str, Any]] = ()
    methods: Sequence[Mapping[str, Any]] = ()
    points: Sequence[Mapping[str, Any]] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    assumptions: Sequence[str] = ()
    warnings: Sequence[str] = ()
    max_upper: float | None = None
    created: str = field(default_factory=moment)
    question: Question | None = None
    suggestion: str = ""
    defaults: Sequence[Mapping[str, Any]] = ()  # options that were not typed: {"option", "value", "from"}

    @classmethod
    def of_refused_model(
        cls, path: object, error: LipcertError | str, command: str, *, status: str = "refused", **asked: Any
    ) -> Report:
        """The report of a model of which nothing can be said. `asked`: norm, region, output, warnings, max_upper."""
        node = error.node if isinstance(error, RefusedModel) else None
        # a node that jumps proves nothing of the output: never `unbounded`
        refusal = Refusal("load", "upper", status, str(error), node)  # type: ignore[arg-type]
        return cls(command=command, model=unread(path), results=[refusal], **asked)

    @property
    def contradictions(self) -> list[tuple[Bound, Bound]]:
        """Pairs (lower, upper) with lower > upper: one of the two is wrong, whatever its rigor."""
        lowers, uppers = self._bounds("lower"), self._bounds("upper")
        return [(low, up) for low in lowers for up in uppers if low.value > up.value]

    @property
    def attacked_inside(self) -> list[int]:
        """Samples with an adversarial input inside their certified radius: the radius is wrong."""
        return [p["index"] for p in self.points if p.get("attacked") is not None and p["attacked"] < p["radius"]]

    @property
    def upper(self) -> float | None:
        """The least proved upper value; None without one, or when the self-check failed."""
        if self.contradictions:
            return None
        return min((up.value for up in self._bounds("upper") if up.rigor == "proved"), default=None)

    @property
    def lower(self) -> float | None:
        """The greatest lower value; None without one, or when the self-check failed."""
        if self.contradictions:
            return None
        return max((low.value for low in self._bounds("lower")), default=None)

    @property
    def status(self) -> Status | None:
        """None: the command asked for no bound (`inspect`), and nothing was refused.

        A finite value of one method is the answer; then a proof that there is none; then that there was no time, which
        more time may change; `refused` where no method has anything left to try.
        """
        if self.upper is not None:
            return "bounded"
        stated = {r.status for r in self.results if isinstance(r, Refusal) and r.side == "upper"}
        if "unbounded" in stated:
            return "unbounded"
        if "timeout" in stated:
            return "timeout"
        uppers = any(result.side == "upper" for result in self.results)
        return "refused" if uppers or self.command in ASKS_FOR_A_BOUND else None

    @property
    def gate_met(self) -> bool | None:
        """None: no gate was asked for."""
        if self.max_upper is None:
            return None
        return self.upper is not None and self.upper <= self.max_upper

    @property
    def exit_code(self) -> int:
        """4 self-check failed, 3 no finite certified bound, 1 a gate is not met or a certificate rejected, 0 done."""
        if self.contradictions or self.attacked_inside:
            return 4
        if self.status in ("unbounded", "timeout", "refused"):
            return 1 if self.command in GATES else 3
        return 1 if self.gate_met is False else 0

    def __repr__(self) -> str:
        path = self.model.get("path")
        name = Path(str(path)).name if path else "module"
        return printable(f"Report({self.command} of {name}: {self._words()})")

    def _words(self) -> str:
        if "verdict" in self.summary:
            return f"certificate {self.summary['verdict']}"
        if self.status is None and self.lower is None:
            checkpoints = (self.summary.get("track") or {}).get("checkpoints", ())
            counts = {"checkpoints": checkpoints, "layers": self.layers, "points": self.points, "methods": self.methods}
            return ", ".join(f"{len(rows)} {word}" for word, rows in counts.items() if rows) or "no values"
        below = "" if self.lower is None else f"{digits(self.lower, 'lower')} <= "
        above = "" if self.upper is None else f" <= {digits(self.upper, 'upper')}"
        bracket = [f"{below}L{above}"] if below or above else []
        status = [] if self.status in ("bounded", None) else [str(self.status)]
        return ", ".join([*bracket, *status, f"l{self.norm.input} -> l{self.norm.output}"])

    def _repr_html_(self) -> str:
        """The table of the terminal, for a notebook."""
        from lipcert.report.notebook import notebook_html

        return notebook_html(self)

    def to_frame(self, which: str | None = None) -> Any:
        """A pandas DataFrame (extra `lipcert[pandas]`) of one table of the report: by default the one that the command is
        about. `which`: "results", "layers", "points", "cells", "parts", "methods", "pairs", "outputs" or
        "checkpoints"."""
        from lipcert.report.frames import to_frame

        return to_frame(self, which)

    def plot(self, ax: Any = None, *, vmin: float | None = None, vmax: float | None = None) -> Any:
        """The picture of this kind of report on matplotlib's `ax`, a new one by default; returns the Axes.

        `vmin`, `vmax`: ends of the colour scale of a map, so that the maps of two models can be set side by side.
        """
        from lipcert.report.draw import draw

        return draw(self, ax, (vmin, vmax))

    def self_check(self) -> dict[str, Any]:
        contradictions = [{"lower": low.method, "upper": up.method} for low, up in self.contradictions]
        inside = self.attacked_inside
        return {"passed": not contradictions and not inside, "contradictions": contradictions, "points": inside}

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON data as the shipped schema describes it (`lipcert/report/schema/lipcert.report-1.json`)."""
        return {
            "schema": SCHEMA,
            "tool": {"name": "lipcert", "version": __version__, **made_by()},
            "command": self.command,
            "created": self.created,
            "model": plain(self.model),
            "norm": {"input": self.norm.input, "output": self.norm.output},
            "scope": {"region": plain(self.region), "output": self.output},
            "question": None if self.question is None else self.question.to_dict(),
            "status": self.status,
            "upper": plain(self.upper),
            "lower": plain(self.lower),
            "self_check": self.self_check(),
            "gate": None if self.max_upper is None else {"max_upper": plain(self.max_upper), "met": self.gate_met},
            "results": [_row(result) for result in self.results],
            "layers": plain(self.layers),
            "parts": plain(self.parts),
            "methods": plain(self.methods),
            "points": plain(self.points),
            "summary": plain(self.summary),
            "assumptions": plain(self.assumptions),
            "warnings": plain(self.warnings),
            **({"suggestion": plain(self.suggestion)} if self.suggestion else {}),
            **({"defaults": plain(self.defaults)} if self.defaults else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The inverse of `to_dict`. UnreadableError for another schema or a malformed report."""
        if data.get("schema") != SCHEMA:
            raise UnreadableError(f"this is not a {SCHEMA} report: its schema field is {data.get('schema')!r}")
        try:
            for name in ("assumptions", "warnings"):
                if not all(isinstance(line, str) for line in data.get(name, ())):
                    raise ValueError(f"{name} are not all words")
            return cls(
                command=data["command"],
                model=data["model"],
                norm=Norm(data["norm"]["input"], data["norm"]["output"]),
                region=data["scope"]["region"],
                output=data["scope"]["output"],
                results=[_result(row) for row in data["results"]],
                max_upper=(data.get("gate") or {}).get("max_upper"),
                created=data["created"],
                question=None if data.get("question") is None else Question.from_dict(data["question"]),
                **{name: data[name] for name in _COPIED if name in data},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UnreadableError(f"malformed {SCHEMA} report: {error!r}") from error

    def _bounds(self, side: str) -> list[Bound]:
        return [result for result in self.results if isinstance(result, Bound) and result.side == side]


_COPIED = ("layers", "parts", "methods", "points", "summary", "assumptions", "warnings", "suggestion", "defaults")


def _row(result: Result) -> dict[str, Any]:
    bound = result if isinstance(result, Bound) else None
    refusal = result if isinstance(result, Refusal) else None
    details = dict(bound.details) if bound else {}
    return {
        "method": result.method,
        "side": result.side,
        "rigor": bound.rigor if bound else None,
        "value": plain(bound.value) if bound else None,
        "status": refusal.status if refusal else "ok",
        "seconds": plain(result.seconds),
        "reason": plain(refusal.reason) if refusal else None,
        "node": plain(refusal.node) if refusal else None,
        "certificate": plain(details.get("certificate")),
        "witness": plain(bound.witness) if bound else None,
        "details": plain(details),
    }


def _result(row: Mapping[str, Any]) -> Result:
    if row["status"] == "ok":
        return Bound(
            row["method"],
            row["side"],
            row["rigor"],
            float(row["value"]),
            float(row["seconds"]),
            row["witness"],
            row["details"],
        )
    return Refusal(row["method"], row["side"], row["status"], row["reason"], row["node"], float(row["seconds"]))


def unread(path: object) -> dict[str, Any]:
    """The "model" of a file that was not read as a network."""
    file = Path(str(path))
    sha256 = None
    if file.is_file():
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    nothing = dict.fromkeys(("format", "input_shape", "output_shape", "parameters", "neurons"))
    return {"path": str(path), "sha256": sha256, **nothing}
