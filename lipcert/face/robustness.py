"""Certified radii."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from lipcert.load.model import Model
    from lipcert.report.report import Report
    from lipcert.terms.progress import Progress
    from lipcert.terms.query import Norm


def radius(
    model: str | Path | nn.Module | Model,
    x: Any,
    y: Any = None,
    *,
    input_shape: Sequence[int] | None = None,
    norm: str | float | tuple[Any, Any] | Norm = "2",
    methods: Sequence[str] | None = None,
    eps: float | Sequence[float] | Any = (),
    tolerance: float | None = None,
    attack: Any = None,
    adversarial: str | Path | None = None,
    execution: str | None = None,
    certificate: str | Path | None = None,
    valid: Sequence[float] | None = None,
    resume: str | Path | Report | None = None,
    seed: int = 0,
    workers: int | None = None,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """Certified robustness radii of samples x (k, ...) with labels y (k,), in the norm of `norm`: `report.points`.

    Every input closer to a sample than its radius keeps the class; radii are rounded down. `eps`: certified accuracy at
    these radii, in `report.summary["certified"]`. `tolerance`: regression, each output moves by at most this much.
    `attack`: True, or a `lipcert.sampling.attack.Pgd`, beside it, which bounds the radii from above.
    `execution`: "float32", "bfloat16" or "float16": radii that hold for the network executed so, too. `certificate`: file
    from which `verify` proves those radii again that follow from global constants. `valid` (low, high): only inputs with every entry
    in this range count, for radii and the attack; all samples lie in it.

    `budget`: seconds; samples for which there is no time have no row. `workers`: processes of this machine; `scheduler`: "local", "local:N" or the address of a Dask scheduler; `journal`: file
    that keeps what is done, from which the same call goes on.
    """
    from lipcert.tasks import given
    from lipcert.tasks.radius import task as robustness
    from lipcert.tasks.workers import session

    with given.python_words():
        loaded = given.as_model_for(model, x, input_shape)
        asked = robustness.RadiusRequest(
            x=given.as_samples(x, loaded),
            y=given.as_labels(y),
            norm=given.as_norm(norm),
            methods=given.as_methods(methods),
            eps=given.as_numbers("eps", eps),
            tolerance=given.as_number("tolerance", tolerance),
            attack=given.as_attack(attack),
            adversarial=adversarial,
            execution=execution,
            certificate=certificate,
            valid=given.as_range("valid", valid),
            seed=given.as_seed(seed),
        )
        return robustness.radius(
            loaded, asked, session(progress, given.as_number("budget", budget), workers, scheduler, journal), resume
        )
