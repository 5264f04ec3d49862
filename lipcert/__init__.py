"""Certified Lipschitz constants of trained neural networks.

Importing this package is light: torch loads with the first `load`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from lipcert.bound import Bound as Bound
    from lipcert.bound import Refusal as Refusal
    from lipcert.pipeline import Model as Model
    from lipcert.query import Ball as Ball
    from lipcert.query import Box as Box
    from lipcert.query import Norm as Norm
    from lipcert.report.comparison import Comparison as Comparison
    from lipcert.report.report import Report as Report

__version__ = "0.1.0"

_LAZY = {
    "Ball": "lipcert.query",
    "Bound": "lipcert.bound",
    "Box": "lipcert.query",
    "Comparison": "lipcert.report.comparison",
    "Model": "lipcert.pipeline",
    "Norm": "lipcert.query",
    "Refusal": "lipcert.bound",
    "Report": "lipcert.report.report",
}
__all__ = [
    "Ball",
    "Bound",
    "Box",
    "Comparison",
    "Model",
    "Norm",
    "Refusal",
    "Report",
    "bound",
    "compare",
    "inspect",
    "jacobian",
    "layers",
    "load",
    "local",
    "local_grid",
    "radius",
    "track",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'lipcert' has no attribute {name!r}")


# `lipcert.bound` and `lipcert.load` are also submodules. Importing a submodule for the first time sets it as attribute
# of the package; done here, before the functions of those names exist, it cannot replace them later.
for _name in ("lipcert.bound", "lipcert.load", "lipcert.radius"):
    import_module(_name)


def load(model: str | Path | nn.Module, **options: Any) -> Model:
    """Read a model soundly, or raise `UnreadableError` or `RefusedModel`. Options: see `lipcert.pipeline.load`."""
    from lipcert import pipeline

    return pipeline.load(model, **options)


def bound(
    model: Model,
    *,
    norm: str | Norm = "2",
    methods: Sequence[str] | None = None,
    region: Box | Ball | None = None,
    output: str = "vector",
    budget: float | None = None,
    **options: Any,
) -> Report:
    """Certified interval `lower <= L <= upper` in the norms p -> q of `norm` ("1", "2", "inf" or "1->2").

    `methods`: names, None for all. `region`: None for the whole input space. `output`: "vector", "3", "3-5" or "pairs".
    `budget`: seconds. More options: see `lipcert.pipeline.bound`.
    """
    from lipcert import pipeline

    return pipeline.bound(model, norm=norm, methods=methods, region=region, output=output, budget=budget, **options)


def local(model: Model, x: Any, eps: Sequence[float], **options: Any) -> Report:
    """Certified local constants in balls of radii `eps` around the rows of `x`. Options: see `lipcert.local_balls.local`."""
    from lipcert import local_balls

    return local_balls.local(model, x, eps, **options)


def local_grid(model: Model, box: Box, shape: Sequence[int] | None = None, **options: Any) -> Report:
    """Certified constants in each cell of a grid over `box`. Options: see `lipcert.grid.grid`."""
    from lipcert import grid

    return grid.grid(model, box, shape, **options)


def compare(
    before: str | Path | Report, after: str | Path | Report, *, tolerance: float = 0.0, other_names: bool = False
) -> Comparison:
    """What moved between two reports (files or `Report` objects) of one question, beyond the widths of the brackets.

    `tolerance`: relative moves up to it are none (0.01 is 1 %). `other_names`: inputs and outputs may have other names.
    UsageError names the first field in which the two questions differ.
    """
    from lipcert.tasks import compare as task

    return task.compare(before, after, tolerance=tolerance, other_names=other_names)


def inspect(model: Model) -> Report:
    """What was read: `report.parts`, and what each method can do with it: `report.methods`."""
    from lipcert import pipeline

    return pipeline.inspect(model)


def jacobian(model: Model, x: Any = None, **options: Any) -> Report:
    """Statistics of Jacobian norms at the data `x` or in `region=Box(...)`: `report.summary["jacobian"]`, one row per
    point in `report.points`. Options: see `lipcert.measure.jacobian`."""
    from lipcert import measure

    return measure.jacobian(model, x, **options)


def layers(model: Model, *, norm: str | Norm = "2") -> Report:
    """The constant of each layer in `report.layers`."""
    from lipcert import pipeline

    return pipeline.layers(model, norm=norm)


def radius(model: Model, x: Any, y: Any = None, **options: Any) -> Report:
    """Certified robustness radii of samples x with labels y: `report.points`. Options: see `lipcert.robustness.radius`."""
    from lipcert import robustness

    return robustness.radius(model, x, y, **options)


def track(
    checkpoints: Sequence[str | Path] | str | Path,
    *,
    norm: str | Norm = "2",
    methods: Sequence[str] = ("product", "sampled", "lipsdp"),
    x: Any = None,
    y: Any = None,
    budget: float | None = None,
    input_shape: Sequence[int] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Report:
    """Layer constants, `methods` and, at data `x` (k, *input_shape), Jacobian statistics along training.

    `checkpoints`: files, folders (each a series) and patterns, in natural order: `report.summary["track"]["checkpoints"]`
    has a row per file. `y`: labels (k,), for the accuracy. `budget`: seconds of the methods for each checkpoint.
    """
    from lipcert.tasks import track as task

    given = {"input_shape": input_shape, "input_name": input_name, "output_name": output_name, "mean": mean, "std": std}
    return task.track(checkpoints, norm=norm, methods=methods, x=x, y=y, budget=budget, seed=seed, **given)  # type: ignore[arg-type]


def verify(certificate: str | Path, model: str | Path | nn.Module | Model, **options: Any) -> Report:
    """Prove the claim of a certificate file again, without any solver: `report.summary["verdict"]`."""
    from lipcert import pipeline

    return pipeline.verify(certificate, model, **options)
