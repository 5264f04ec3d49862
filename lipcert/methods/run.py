"""Which methods run, with which options, and one of them on one problem."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lipcert.methods import METHODS
from lipcert.methods.failures import RAISED, why
from lipcert.methods.ladders import usual
from lipcert.methods.lipsdp_segments import worth_cutting
from lipcert.methods.lipsdp_torus import MOST, QUICK, UNTIL, worth_asking
from lipcert.methods.problem import Method, Problem
from lipcert.network.graph import Graph
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.terms.clock import OutOfTime, until
from lipcert.terms.errors import UsageError
from lipcert.terms.query import Norm, Output, Region
from lipcert.terms.result import Refusal, Result

FEW = 2  # inputs: the whole space is enumerated without being asked for


def choose(
    names: Sequence[str] | None,
    region: Region = None,
    options: Mapping[str, str | None] | None = None,
    graph: Graph | None = None,
    norm: Norm | None = None,
) -> list[Method]:
    """The named methods in the order of the table; without names the usual ones, and on the whole space what the size of
    `graph` calls for: `regions` where it applies and inputs are few, `lipsdp-torus` or `lipsdp-segments` for convolutional networks.

    `options`: values of fields that a method offers as `choices`, by name; None: as it is.
    """
    unknown = [name for name in names or () if name not in METHODS]
    if unknown:
        raise UsageError(f"--method {unknown[0]}: methods are {', '.join(METHODS)}")
    wanted = names or usual(region is not None, norm)
    exact = METHODS["regions"]
    if not names and region is None and graph is not None and graph.nodes[graph.input].size <= FEW:
        wanted = [*wanted, *([] if exact.refuses(Problem(graph, Norm())) else ["regions"])]
    if not names and region is None and graph is not None and worth_asking(graph):
        wanted = [*wanted, "lipsdp-segments" if worth_cutting(graph) else "lipsdp-torus"]
    chosen = {name: method for name, method in METHODS.items() if name in wanted}
    if graph is not None and graph.neurons > (MOST if names else UNTIL) and "lipsdp-torus" in chosen:
        chosen["lipsdp-torus"] = replace(chosen["lipsdp-torus"], **QUICK)  # type: ignore[type-var]
    for option, value in (options or {}).items():
        if value is None:
            continue
        values = {name: method.choices[option] for name, method in METHODS.items() if option in method.choices}
        owners = {name: chosen[name] for name in values if name in chosen}
        allowed = list(dict.fromkeys(v for name in owners or values for v in values[name]))
        if value not in allowed:
            raise UsageError(f"--{option} {value}: {option} is one of {', '.join(allowed)}")
        if not owners:
            raise UsageError(f"--{option} {value}: give --method {' or '.join(values)} with it")
        chosen |= {name: replace(method, **{option: value}) for name, method in owners.items()}  # type: ignore[type-var]
    return list(chosen.values())


@keeps_subnormals
def run(method: Method, problem: Problem) -> Result:
    """One method on one problem. A spent budget, no memory and NaN on the way are Refusals: the others go on."""
    start = time.perf_counter()
    try:
        if method.side == "upper":  # a spent budget leaves a lower value, as far as the grace reaches
            problem.check_time()
        problem.say(method.name)
        with torch.no_grad(), until(problem.deadline):
            return method.run(problem)
    except OutOfTime:
        return _timeout(method, time.perf_counter() - start)
    except RAISED as error:
        reason = why(error)
        if reason is None:
            raise
        return Refusal(method.name, method.side, "refused", reason, None, time.perf_counter() - start)


def refused_or_run(method: Method, problem: Problem) -> Result:
    """As `run`, but what a method refuses by itself is asked first. No exception ends a ladder for want of time."""
    try:
        return method.refuses(problem) or run(method, problem)
    except OutOfTime:
        return _timeout(method, 0.0)


def _timeout(method: Method, seconds: float) -> Refusal:
    return Refusal(method.name, method.side, "timeout", "the budget was spent: raise --budget", None, seconds)


@keeps_subnormals
def run_together(method: Method, problem: Problem, outputs: Sequence[Output]) -> list[list[Result]] | None:
    """As `run`, of all outputs in one search; None: the method has none, or it failed."""
    try:
        with torch.no_grad(), until(problem.deadline):
            return method.run_together(problem, outputs)
    except OutOfTime:
        return None
    except RAISED as error:
        if why(error) is None:
            raise
        return None


def tell(progress: Any, result: Result) -> None:
    """A result as soon as it is known, to whom it interests."""
    if progress is not None and hasattr(progress, "result"):
        progress.result(result)
