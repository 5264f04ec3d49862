"""The one table of scalar nonlinearities: what every method may know of them, each fact derived next to its row.

Each family file ends in a literal table; `curve.py` states the accuracy that is assumed of the elementary functions.
"""

from __future__ import annotations

from lipcert.activations.analytic import ANALYTIC
from lipcert.activations.gated import GATED
from lipcert.activations.periodic import PERIODIC
from lipcert.activations.piecewise import PIECEWISE
from lipcert.activations.row import Activation, Elementwise
from lipcert.activations.saturating import SATURATING
from lipcert.activations.steps import STEPS

ACTIVATIONS: dict[str, Activation] = {**PIECEWISE, **SATURATING, **GATED, **ANALYTIC, **PERIODIC, **STEPS}

__all__ = ["ACTIVATIONS", "Activation", "Elementwise"]
