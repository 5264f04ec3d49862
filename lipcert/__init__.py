"""Certified Lipschitz constants of trained neural networks.

Importing this package is light: torch loads with the first `load`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# `lipcert.load` is also a room. Importing a submodule for the first time sets it as attribute of the package; done here,
# before the function of that name is there, it cannot replace it later.
from lipcert import load as _room  # noqa: F401
from lipcert.face.bounds import bound as bound
from lipcert.face.bounds import inspect as inspect
from lipcert.face.bounds import layers as layers
from lipcert.face.bounds import verify as verify
from lipcert.face.reading import load as load
from lipcert.face.regions import jacobian as jacobian
from lipcert.face.regions import local as local
from lipcert.face.regions import local_grid as local_grid
from lipcert.face.reports import compare as compare
from lipcert.face.reports import track as track
from lipcert.face.robustness import radius as radius
from lipcert.terms.version import __version__ as __version__

if TYPE_CHECKING:
    from lipcert.load.model import Model as Model
    from lipcert.report.comparison import Comparison as Comparison
    from lipcert.report.report import Report as Report
    from lipcert.terms.query import Ball as Ball
    from lipcert.terms.query import Box as Box
    from lipcert.terms.query import Norm as Norm
    from lipcert.terms.result import Bound as Bound
    from lipcert.terms.result import Refusal as Refusal


_LAZY = {
    "Ball": "lipcert.terms.query",
    "Bound": "lipcert.terms.result",
    "Box": "lipcert.terms.query",
    "Comparison": "lipcert.report.comparison",
    "Model": "lipcert.load.model",
    "Norm": "lipcert.terms.query",
    "Refusal": "lipcert.terms.result",
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
