"""Smoothness along training (Rosca et al. 2020, Figure 5a): one row per checkpoint, the same questions of each."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcert.load.data import fingerprint
from lipcert.load.inputs import as_value
from lipcert.load.model import Model, load
from lipcert.report.report import Report, unread
from lipcert.tasks import jacobian as measure
from lipcert.tasks.bound import BoundRequest, bound
from lipcert.tasks.checkpoints import Training, series_of
from lipcert.tasks.journal.resume import Earlier, Resumed
from lipcert.tasks.journal.resume import resume as taken_from
from lipcert.tasks.layers import layers
from lipcert.tasks.shards import Shard, done_by
from lipcert.tasks.task import Session, finish
from lipcert.tasks.workers.packing import packed, unpacked
from lipcert.terms.clock import OutOfTime, until
from lipcert.terms.errors import LipcertError, RefusedModel, UsageError
from lipcert.terms.printable import plain
from lipcert.terms.query import Norm
from lipcert.terms.question import Question
from lipcert.terms.result import Bound, Refusal, Result

METHODS = ("product", "sampled", "lipsdp")
MEASURED = ("status", "reason", "lower", "upper", "methods", "layers", "jacobian", "accuracy", "self_check")
QUANTILES = {"low": "0.05", "median": "0.5", "high": "0.95"}


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackRequest:
    """The same is asked of every checkpoint: layer constants, `methods` and, with data `x` (k, *input_shape), Jacobian
    statistics. `y` (k,): labels, for the accuracy. `budget`: seconds for each checkpoint, reading it included. `reading`: arguments of `load`."""

    norm: Norm
    methods: Sequence[str] = METHODS
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    budget: float | None = None
    seed: int = 0
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        data = None if self.x is None else fingerprint(self.x, self.y)
        return {"methods": list(self.methods), "budget": self.budget, "seed": self.seed, "data": data}

    @property
    def model(self) -> dict[str, Any]:
        """What is said of all models, as the report has it."""
        mean, std = (
            None if side is None else list(side) for side in (self.reading.get("mean"), self.reading.get("std"))
        )
        names = {name: self.reading.get(name) for name in ("input_name", "output_name")}
        if isinstance(names["input_name"], list | tuple):
            names["input_name"] = ",".join(names["input_name"])
        units = {"input": "raw" if mean or std else "model", "mean": mean, "std": std}
        return {"format": None, "sha256": None, **names, "units": units}

    @property
    def question(self) -> Question:
        """The same of whatever checkpoints: more of them may have come."""
        shape = self.reading.get("input_shape") or ()
        options = self.options | {
            "input_shape": shape if isinstance(shape, Mapping) else list(shape),
            "reader": self.reading.get("reader", "own"),
        }
        if held := self.reading.get("fix"):
            options["fix"] = {name: fingerprint(as_value(name, value)) for name, value in held.items()}
        return Question.of("track", self.model, "", self.norm, {"kind": "global"}, "vector", plain(options))


@dataclass(eq=False)
class Track:
    series: list[Training]
    asked: TrackRequest
    session: Session
    before: Resumed
    done: dict[int, dict[str, Any]] = field(default_factory=dict)  # rows by their place
    known: dict[tuple[str | None, str], dict[str, Any]] = field(default_factory=dict)  # by file and graph: the first
    # checkpoints of two trainings are often one, and those of an earlier report are not measured again
    shapes: dict[str, Any] = field(default_factory=lambda: {"input_shape": None, "output_shape": None})
    assumptions: dict[str, None] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(len(one.files) for one in self.series)

    def take(self) -> None:
        """Rows of an earlier report that asked the same of its checkpoints; what had no value then is asked again."""
        for row in self.before.rows("summary.track.checkpoints", by=lambda row: (row["sha256"], row.get("graph"))):
            if row["status"] == "bounded" and row.get("graph") is not None:
                self.known[row["sha256"], row["graph"]] = {name: row[name] for name in MEASURED}

    def steps(self) -> Generator[None]:
        places = [
            (one.name, step, file) for one in self.series for step, file in zip(one.steps, one.files, strict=True)
        ]
        shards = [
            Checkpoint(str(file), self, (k,), (series, step, file)) for k, (series, step, file) in enumerate(places)
        ]
        with closing(done_by(self.session, Measures(self.asked), shards)) as done:
            for shard, found in done:
                self.gather(shard, found)
                yield

    def gather(self, shard: Any, found: dict[str, Any]) -> None:
        series, step, file = shard.place
        if found.get("graph") is not None:
            self.known[found["sha256"], found["graph"]] = {name: found[name] for name in MEASURED}
        place = {"series": series, "step": step, "path": str(file)}
        self.done[shard.rows[0]] = self.before.seal.on(place | found)
        self.session.say(f"checkpoint {file.name}", len(self.done), self.count)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.done[k] for k in sorted(self.done)]

    def read(self, file: Path) -> dict[str, Any]:
        """For `Measures`: {"row"} where there is nothing to measure, or {"model", "graph", "seconds"} that are left for it; and the
        sha256 of what was read: a training may write to the file while it is measured."""
        start, budget = time.monotonic(), self.asked.budget
        self.session.say(f"checkpoint {file.name}", len(self.done), self.count)
        try:
            with until(None if budget is None else start + budget):
                model = load(file, seed=self.asked.seed, **self.asked.reading)
        except LipcertError as problem:
            return {"row": _failed(problem), "sha256": _sha256(file)}
        except OutOfTime:
            return {"row": NO_TIME, "sha256": _sha256(file)}
        self.shapes |= {name: model.info[name] for name in self.shapes}
        self.assumptions |= dict.fromkeys(model.assumptions)
        graph = model.graph.fingerprint()  # of equal files the weights may lie beside them, and differ
        sha = model.info["sha256"]
        row = self.known.get((sha, graph))
        if row is not None:
            return {"row": {"graph": graph} | row, "sha256": sha}
        seconds = None if budget is None else budget - (time.monotonic() - start)
        sent = model if self.session.workers is None else packed(replace(model, lowered_in=None))
        return {"model": sent, "graph": graph, "sha256": sha, "seconds": seconds}

    def report(self) -> Report:
        asked = self.asked
        model = asked.model | {"path": ", ".join(one.name for one in self.series), **self.shapes}
        words = asked.options
        return Report(
            command="track",
            model=model | {"parameters": None, "neurons": None},
            norm=asked.norm,
            results=_nothing_bounded(self.rows),
            question=asked.question,
            warnings=self.before.words("checkpoints"),
            summary={"track": {**words, "complete": len(self.rows) == self.count, "checkpoints": self.rows}},
            assumptions=list(self.assumptions),
        )


@dataclass(frozen=True)
class Checkpoint(Shard):
    """`what`: the task. Workers need no file: it is read when the shard is sent, so that no more models are held than there are
    workers for."""

    place: tuple[str, int, Path] = ("", 0, Path())

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = self.what.read(self.place[2])
        return told


@dataclass(frozen=True, eq=False)
class Measures:
    """Work of a checkpoint (`tasks/shards.py`): its row."""

    asked: TrackRequest

    def __call__(self, what: Mapping[str, Any], session: Session) -> dict[str, Any]:
        return {"sha256": what["sha256"]} | self.row(what)

    def row(self, what: Mapping[str, Any]) -> dict[str, Any]:
        if "row" in what:
            return dict(what["row"])
        model = unpacked(what["model"]) if isinstance(what["model"], bytes) else what["model"]
        end = None if what["seconds"] is None else time.monotonic() + what["seconds"]
        try:
            with until(end):
                return {"graph": what["graph"]} | measured(model, self.asked)
        except LipcertError as problem:
            return _failed(problem)
        except OutOfTime:
            return NO_TIME


def track(
    checkpoints: Sequence[str | Path] | str | Path,
    asked: TrackRequest,
    session: Session | None = None,
    resume: Earlier = None,
) -> Report:
    """A row per checkpoint in `Report.summary["track"]["checkpoints"]`; one that cannot be read or treated has a reason in it.

    `checkpoints`: files, folders (each a series of its own) and patterns, in natural order. Interrupted, it raises
    KeyboardInterrupt with `partial_report`, which `resume` takes, as it takes a report file: checkpoints that are there are
    not measured again. Raises UsageError and UnreadableError where nothing can be tracked at all.
    """
    series = series_of([checkpoints] if isinstance(checkpoints, str | Path) else list(checkpoints))
    if not series:
        raise UsageError("track: give checkpoints: files, folders or patterns")
    task = Track(series, asked, session or Session(), before=taken_from(resume, asked.question))
    task.take()
    return finish(task)


def _sha256(file: Path) -> str | None:
    """None where it is no file, such as a pipe, which would be waited for, or cannot be read."""
    try:
        found: str | None = unread(file)["sha256"]
    except OSError:
        return None
    return found


def measured(model: Model, asked: TrackRequest) -> dict[str, Any]:
    norm, x, y, seed = asked.norm, asked.x, asked.y, asked.seed
    found = bound(model, BoundRequest(norm=norm, methods=asked.methods, seed=seed), Session())
    rows = layers(model, norm=norm).layers
    why = next((r for r in found.results if isinstance(r, Refusal) and r.side == "upper"), None)
    row = {
        "status": found.status,
        "reason": None if found.upper is not None or why is None else why.reason,
        "lower": found.lower,
        "upper": found.upper,
        "methods": {r.method: r.value for r in found.results if isinstance(r, Bound)},
        "layers": [{key: layer[key] for key in ("name", "kind", "lower", "upper", "status")} for layer in rows],
        "jacobian": None,
        "accuracy": None,
        "self_check": found.self_check()["passed"],
    }
    if x is not None:
        row["jacobian"] = _jacobian(measure.jacobian(model, measure.JacobianRequest(x=x, norm=norm, seed=seed)))
        row["accuracy"] = None if y is None else _accuracy(model, x, y)
    return row


def _jacobian(found: Report) -> dict[str, Any] | None:
    """Of the spectral norms at the data: measurements, no bounds. None where there was no time for all."""
    summary = found.summary["jacobian"]
    if not summary["complete"]:
        return None
    (group,) = summary["sets"]
    row = group["statistics"]["spectral"]
    quantiles = {word: row["quantiles"].get(key) for word, key in QUANTILES.items()}
    return {"mean": row["mean"], "max": row["max"], **quantiles, "meaning": summary["quantities"]["spectral"]}


def _accuracy(model: Model, x: np.ndarray, y: np.ndarray) -> float:
    with torch.no_grad():
        points = torch.from_numpy(np.asarray(x, dtype=np.float64)).reshape(len(x), -1)
        outputs = model.graph.evaluate(points).reshape(len(x), -1)
        predicted = outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()
    return float((predicted.numpy() == np.asarray(y).reshape(-1)).mean())


def _failed(problem: LipcertError) -> dict[str, Any]:
    unbounded = isinstance(problem, RefusedModel) and problem.unbounded
    status = "unbounded" if unbounded else "refused" if isinstance(problem, RefusedModel) else "unreadable"
    nothing: dict[str, Any] = dict.fromkeys(("lower", "upper", "jacobian", "accuracy"))
    return {"status": status, "reason": str(problem), **nothing, "methods": {}, "layers": [], "self_check": True}


NO_TIME: dict[str, Any] = {
    **dict.fromkeys(("lower", "upper", "jacobian", "accuracy")),
    "status": "timeout",
    "reason": "the budget was spent: raise --budget",
    "methods": {},
    "layers": [],
    "self_check": True,
}


def _nothing_bounded(rows: Sequence[dict[str, Any]]) -> list[Result]:
    """Where no checkpoint has an upper value: why the first has none (exit 3)."""
    if not rows or any(row["upper"] is not None for row in rows):
        return []
    first = rows[0]
    told = first["status"] if first["status"] in ("unbounded", "timeout") else "refused"
    return [Refusal("track", "upper", told, f"{first['path']}: {first['reason'] or 'no upper value'}")]  # type: ignore[arg-type]


__all__ = ["METHODS", "track"]
