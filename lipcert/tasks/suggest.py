"""Where the whole space has no finite bound: a ball that has one, tried, so that what is suggested works when it is copied."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from lipcert.load.model import Model
from lipcert.report.report import Report
from lipcert.tasks.bound import BoundRequest, bound
from lipcert.tasks.task import Session
from lipcert.terms.memory import out_of_memory
from lipcert.terms.query import Ball

CENTRES = ("0", "0.5", "1", "-1")  # what `--at NUMBER` means
RADII = ("0.01", "0.001", "0.0001")
CLOSER = ("0.5", "0.01")  # --at and --eps of a ball where a bound of the whole space says little
SECONDS = 10.0
LARGE = 10_000_000  # neurons: one walk takes longer than anybody waits for a suggestion
QUICK = ["jacobian", "local-product"]


def wanting(report: Report) -> bool:
    """A question about the whole space without a finite answer, which a ball may have."""
    return report.region.get("kind") == "global" and report.upper is None and report.status in ("refused", "unbounded")


def ball_with_answer(model: Model, request: BoundRequest, seconds: float = SECONDS) -> tuple[str, str] | None:
    """(--at, --eps) of the first ball with a finite proved bound; None where none was found in time."""
    if model.graph.neurons > LARGE:
        return None
    until = time.monotonic() + seconds
    quick = replace(request, methods=QUICK, certificate=None, execution=None, ranges=False, output="vector")
    for at, eps in _balls():
        left = until - time.monotonic()
        if left <= 0:
            break
        centre = torch.full(model.input_shape, float(at), dtype=torch.float64)
        try:
            found = bound(model, replace(quick, region=Ball(centre, float(eps), "2")), Session(budget=left))
        except Exception as problem:
            if out_of_memory(problem):
                return None
            raise
        if found.upper is not None and math.isfinite(found.upper):
            return at, eps
    return None


def _balls() -> Iterator[tuple[str, str]]:
    for eps in RADII:
        for at in CENTRES:
            yield at, eps
