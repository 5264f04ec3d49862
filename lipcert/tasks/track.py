"""Smoothness along training (Rosca et al. 2020, Figure 5a): one row per checkpoint, the same questions of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lipcert import measure, pipeline
from lipcert.bound import Bound, Refusal, Result
from lipcert.data import fingerprint
from lipcert.errors import LipcertError, RefusedModel, UsageError
from lipcert.network.question import Question
from lipcert.pipeline import Model, Progress
from lipcert.query import Norm
from lipcert.report.report import Report, unread
from lipcert.tasks.checkpoints import Series, series_of

METHODS = ("product", "sampled", "lipsdp")
QUANTILES = {"low": "0.05", "median": "0.5", "high": "0.95"}


def track(
    checkpoints: Sequence[str | Path] | str | Path,
    *,
    norm: str | Norm = "2",
    methods: Sequence[str] = METHODS,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    budget: float | None = None,
    input_shape: Sequence[int] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    reader: str = "own",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Layer constants, `methods` and, with data x (k, *input_shape), Jacobian statistics of each checkpoint.

    `checkpoints`: files, folders (each a series of its own) and patterns, in natural order. `y`: labels (k,), for the
    accuracy. `budget`: seconds of the methods, for each checkpoint. `Report.summary["track"]["checkpoints"]` has a row per
    file; one that cannot be read or treated has a reason in it. Interrupted, it raises KeyboardInterrupt with
    `partial_report`. Raises UsageError and UnreadableError where nothing can be tracked at all.
    """
    norm = Norm.parse(norm)
    series = series_of([checkpoints] if isinstance(checkpoints, str | Path) else list(checkpoints))
    if not series:
        raise UsageError("track: give checkpoints: files, folders or patterns")
    count = sum(len(one.files) for one in series)
    rows: list[dict[str, Any]] = []
    known: dict[Question, dict[str, Any]] = {}  # the first and the last of two trainings are often one file
    shapes: dict[str, Any] = {"input_shape": None, "output_shape": None}
    assumptions: dict[str, None] = {}

    def report() -> Report:
        model = {"path": ", ".join(one.name for one in series), "format": None, "sha256": None, **shapes}
        data = None if x is None else fingerprint(x, y)
        asked = {"methods": list(methods), "budget": budget, "seed": seed, "data": data}
        return Report(
            command="track",
            model=model | {"parameters": None, "neurons": None},
            norm=norm,
            results=_nothing_bounded(rows),
            summary={"track": {**asked, "complete": len(rows) == count, "checkpoints": rows}},
            assumptions=list(assumptions),
        )

    try:
        for one in series:
            for step, file in zip(one.steps, one.files, strict=True):
                if progress is not None:
                    progress(f"checkpoint {file.name}", len(rows), count)
                place = {"series": one.name, "step": step, "path": str(file)}
                try:
                    model = pipeline.load(
                        file,
                        input_shape=input_shape,
                        input_name=input_name,
                        output_name=output_name,
                        mean=mean,
                        std=std,
                        reader=reader,
                        seed=seed,
                    )
                    shapes |= {name: model.info[name] for name in shapes}
                    assumptions |= dict.fromkeys(model.assumptions)
                    key = model.question("track", norm)  # of equal files the weights may lie beside them, and differ
                    if key not in known:
                        known[key] = _measured(model, norm, methods, x, y, budget, seed)
                    found = known[key]
                except LipcertError as problem:
                    found = _failed(problem)
                rows.append(place | {"sha256": _sha256(file)} | found)
    except (KeyboardInterrupt, MemoryError, RuntimeError) as stop:  # torch raises the last where memory ends
        stop.partial_report = report()  # type: ignore[union-attr]
        raise
    return report()


def _sha256(file: Path) -> str | None:
    """None where it is no file, such as a pipe, which would be waited for, or cannot be read."""
    try:
        found: str | None = unread(file)["sha256"]
    except OSError:
        return None
    return found


def _measured(
    model: Model,
    norm: Norm,
    methods: Sequence[str],
    x: np.ndarray | None,
    y: np.ndarray | None,
    budget: float | None,
    seed: int,
) -> dict[str, Any]:
    found = pipeline.bound(model, norm=norm, methods=methods, budget=budget, seed=seed)
    layers = pipeline.layers(model, norm=norm).layers
    why = next((r for r in found.results if isinstance(r, Refusal) and r.side == "upper"), None)
    row = {
        "status": found.status,
        "reason": None if found.upper is not None or why is None else why.reason,
        "lower": found.lower,
        "upper": found.upper,
        "methods": {r.method: r.value for r in found.results if isinstance(r, Bound)},
        "layers": [{key: layer[key] for key in ("name", "kind", "lower", "upper", "status")} for layer in layers],
        "jacobian": None,
        "accuracy": None,
        "self_check": found.self_check()["passed"],
    }
    if x is not None:
        row["jacobian"] = _jacobian(measure.jacobian(model, x, norm=norm, seed=seed))
        row["accuracy"] = None if y is None else _accuracy(model, x, y)
    return row


def _jacobian(found: Report) -> dict[str, Any]:
    """Of the spectral norms at the data: measurements, no bounds."""
    summary = found.summary["jacobian"]
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


def _nothing_bounded(rows: Sequence[dict[str, Any]]) -> list[Result]:
    """Where no checkpoint has an upper value: why the first has none (exit 3)."""
    if not rows or any(row["upper"] is not None for row in rows):
        return []
    first = rows[0]
    status: Literal["unbounded", "refused"] = "unbounded" if first["status"] == "unbounded" else "refused"
    return [Refusal("track", "upper", status, f"{first['path']}: {first['reason'] or 'no upper value'}")]


__all__ = ["METHODS", "Series", "track"]
