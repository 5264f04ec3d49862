"""The constant of each layer."""

from __future__ import annotations

from typing import Any

import torch

from lipcert.load.model import Model
from lipcert.methods import Problem
from lipcert.methods.layers import layer_row, layers_of
from lipcert.report.report import Report
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.terms.progress import Progress
from lipcert.terms.query import Norm


@keeps_subnormals
def layers(model: Model, *, norm: str | Norm = "2", progress: Progress | None = None) -> Report:
    """The constant of every layer: `Report.layers`."""
    norm = Norm.parse(norm)
    problem = Problem(model.graph, norm, progress=progress)
    rows: list[dict[str, Any]] = []
    found = list(layers_of(model.graph))

    def report() -> Report:
        return Report(
            command="layers",
            model=model.info,
            norm=norm,
            layers=rows,
            assumptions=list(model.assumptions),
            warnings=list(model.warnings),
            question=model.question("layers", norm),
        )

    try:
        with torch.no_grad():
            for layer in found:
                problem.say("layers", len(rows), len(found))
                rows.append(layer_row(layer, problem))
    except KeyboardInterrupt as stop:
        stop.partial_report = report()  # type: ignore[attr-defined]
        raise
    return report()
