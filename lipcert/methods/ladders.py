"""Which methods run unasked, and in which order, derived from what each says of itself (`where`, `norms`, `cost`)."""

from __future__ import annotations

from lipcert.methods import METHODS
from lipcert.methods.problem import Cost, Method
from lipcert.terms.query import Norm


def usual(on_a_region: bool, norm: Norm | None = None) -> dict[str, Method]:
    """Of `bound`: those made for the space, and on a region those made for regions as well; extra ones where they take `norm`."""
    wanted = {"space", "region"} if on_a_region else {"space"}
    made = {name: method for name, method in METHODS.items() if not method.on_request and method.where & wanted}
    return {name: m for name, m in made.items() if not m.extra or (norm is not None and m.takes(norm))}


def everywhere() -> list[str]:
    """Upper values over the whole space, cheap first: each holds in every ball. What another method refines is left out."""
    return [m.name for m in _uppers() if "space" in m.where and m.refined_by is None and not m.extra]


def on_a_ball() -> list[str]:
    """Upper values on one region, cheap first."""
    return [m.name for m in sorted(_uppers(), key=lambda m: m.cost) if "region" in m.where]


def groups(norm: Norm) -> list[list[str]]:
    """Global upper values; the first group of which a method proves one is enough.

    A program's optimum is never above the formulas but for rounding: multipliers of the formulas are feasible in it."""
    space = [METHODS[name] for name in everywhere() if METHODS[name].takes(norm)]
    programs = [m.name for m in space if m.cost > Cost.FORMULA]
    return [group for group in (programs, formulas()) if group]


def formulas() -> list[str]:
    return [name for name in everywhere() if METHODS[name].cost is Cost.FORMULA]


def _uppers() -> list[Method]:
    return [m for m in METHODS.values() if m.side == "upper" and not m.on_request]
