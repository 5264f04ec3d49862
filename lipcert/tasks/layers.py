"""The constant of each layer."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from lipcert.load.model import Model
from lipcert.methods import Problem
from lipcert.methods.layers import layer_row, layers_of
from lipcert.network.scope import describe
from lipcert.report.report import Report
from lipcert.tasks.task import Session, Task, carry_out
from lipcert.terms.progress import Progress
from lipcert.terms.query import Norm


@dataclass(eq=False)
class Layers(Task):
    rows: list[dict[str, Any]] = field(default_factory=list)

    command = "layers"

    def steps(self) -> Generator[None]:
        problem = Problem(self.model.graph, self.norm, progress=self.session.progress)
        found = list(layers_of(self.model.graph))
        for layer in found:
            self.session.say("layers", len(self.rows), len(found))
            self.rows.append(layer_row(layer, problem))
            yield

    def answer(self) -> dict[str, Any]:
        return {"layers": list(self.rows)}


def layers(model: Model, *, norm: str | Norm = "2", progress: Progress | None = None) -> Report:
    """The constant of every layer: `Report.layers`."""
    norm = Norm.parse(norm)
    return carry_out(Layers(model, norm, model.question("layers", norm), describe(None)), Session(progress))
