"""Which methods run, with which options, and one of them on one problem."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lipcert.methods import DEFAULT, LOCAL, METHODS
from lipcert.methods.failures import RAISED, why
from lipcert.methods.lipsdp_cvxpy import SOLVERS
from lipcert.methods.problem import Method, OutOfTime, Problem
from lipcert.proofs.normal_form import GROUPINGS
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Region
from lipcert.terms.result import Refusal, Result

# option -> (methods that have it as a field, its values)
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "multipliers": (("lipsdp", "lipsdp-cvxpy"), (*GROUPINGS, "mixed")),
    "solver": (("lipsdp-cvxpy",), SOLVERS),
}


def choose(
    names: Sequence[str] | None, region: Region = None, options: Mapping[str, str | None] | None = None
) -> list[Method]:
    """The named methods in the order of the table; without names the DEFAULT ones, on a region the LOCAL ones as well.

    `options`: those of OPTIONS.
    """
    unknown = [name for name in names or () if name not in METHODS]
    if unknown:
        raise UsageError(f"--method {unknown[0]}: methods are {', '.join(METHODS)}")
    usual = DEFAULT if region is None else DEFAULT | LOCAL
    chosen = {name: method for name, method in METHODS.items() if name in (names or usual)}
    for option, value in (options or {}).items():
        if value is None:
            continue
        owners, values = OPTIONS[option]
        if value not in values:
            raise UsageError(f"--{option} {value}: {option} is one of {', '.join(values)}")
        if not any(owner in chosen for owner in owners):
            raise UsageError(f"--{option} {value}: give --method {' or '.join(owners)} with it")
        chosen |= {owner: replace(chosen[owner], **{option: value}) for owner in owners if owner in chosen}  # type: ignore[type-var]
    return list(chosen.values())


@keeps_subnormals
def run(method: Method, problem: Problem) -> Result:
    """One method on one problem. A spent budget, no memory and NaN on the way are Refusals: the others go on."""
    start = time.perf_counter()
    try:
        problem.check_time()
        problem.say(method.name)
        with torch.no_grad():
            return method.run(problem)
    except OutOfTime:
        seconds = time.perf_counter() - start
        return Refusal(method.name, method.side, "timeout", "the budget was spent: raise --budget", None, seconds)
    except RAISED as error:
        reason = why(error)
        if reason is None:
            raise
        return Refusal(method.name, method.side, "refused", reason, None, time.perf_counter() - start)


def tell(progress: Any, result: Result) -> None:
    """A result as soon as it is known, to whom it interests."""
    if progress is not None and hasattr(progress, "result"):
        progress.result(result)
