"""For pytest: assertions about trained models whose messages show the report.

from lipcert.testing import assert_certified_accuracy, assert_lipschitz

def test_controller_is_smooth() -> None:
    assert_lipschitz("controller.onnx", at_most=4.0, norm="2")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lipcert
from lipcert.load.model import Model
from lipcert.report.report import Report

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def assert_lipschitz(
    model: str | Path | nn.Module | Model,
    *,
    at_most: float,
    norm: str = "2",
    load: dict[str, Any] | None = None,
    **options: Any,
) -> Report:
    """A proved upper value <= `at_most`. `load`: options of `lipcert.load`; the others are those of `lipcert.terms.result`.

    Returns the report. AssertionError says whether the constant is larger (a witness attains more) or only not proved.
    """
    report = lipcert.bound(_loaded(model, load), norm=norm, **options)
    if report.contradictions:
        raise AssertionError(f"the self-check failed: a lower value is above an upper one\n{shown(report)}")
    if report.lower is not None and report.lower > at_most:
        raise AssertionError(
            f"the l{norm} constant is larger than {at_most!r}: a witness attains {report.lower!r}\n{shown(report)}"
        )
    if report.upper is None or report.upper > at_most:
        raise AssertionError(f"not proved: l{norm} constant <= {at_most!r} (upper {report.upper!r})\n{shown(report)}")
    return report


def assert_certified_accuracy(
    model: str | Path | nn.Module | Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    at_least: float,
    norm: str = "2",
    load: dict[str, Any] | None = None,
    **options: Any,
) -> Report:
    """At least this share of the samples is right and certified at `eps`. Options: those of `lipcert.tasks.radius`."""
    report = lipcert.radius(_loaded(model, load), x, y, norm=norm, eps=[eps], **options)
    (found,) = report.summary["certified"]
    certified = found["certified_accuracy"]
    if report.exit_code == 4:
        raise AssertionError(f"the self-check failed: an attack is inside a certified radius\n{shown(report)}")
    if certified is None or certified < at_least:
        raise AssertionError(
            f"certified accuracy {certified!r} at eps {eps!r} in l{norm}, less than {at_least!r}\n{shown(report)}"
        )
    return report


def _loaded(model: str | Path | nn.Module | Model, options: dict[str, Any] | None) -> Model:
    return model if isinstance(model, Model) else lipcert.load(model, **(options or {}))


def shown(report: Report) -> str:
    """The report as on a terminal, without colours."""
    from rich.console import Console

    from lipcert.report.formats.terminal import to_table

    console = Console(highlight=False, markup=False, emoji=False, force_jupyter=False, width=120, color_system=None)
    with console.capture() as captured:
        console.print(to_table(report))
    return captured.get()
