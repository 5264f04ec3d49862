"""graph -> methods -> report: the certified interval of one scope."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipcert.load.model import Model
from lipcert.methods import Problem
from lipcert.methods.run import choose, run, tell
from lipcert.network.edit import with_output
from lipcert.network.scope import checked_region, describe
from lipcert.regions.device import available
from lipcert.report.report import Report
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.tasks.certify import certify, check_scope
from lipcert.tasks.journal.resume import Earlier
from lipcert.tasks.journal.resume import resume as go_on
from lipcert.tasks.pairs import bound_pairs, methods_asked, resumed
from lipcert.terms.errors import UsageError
from lipcert.terms.progress import Progress
from lipcert.terms.query import Norm, Output, Region
from lipcert.terms.result import Result


@keeps_subnormals
def bound(
    model: Model,
    *,
    norm: str | Norm = "2",
    methods: Sequence[str] | None = None,
    region: Region = None,
    output: str | Output = "vector",
    budget: float | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
    device: str = "cpu",
    certificate: str | Path | None = None,
    multipliers: str | None = None,
    solver: str | None = None,
    resume: Earlier = None,
    progress: Progress | None = None,
) -> Report:
    """The certified interval of one scope. `budget` in seconds: methods stop at it and keep what is proved.
    `multipliers` of the LipSDP methods ("neuron", "channel", "layer", "mixed"), `solver` of lipsdp-cvxpy.
    `rtol`: brackets on a region are closed to this. `certificate`: file to write, from which `verify` proves the least upper value again.
    `resume`: partial report of the same question with output "pairs", whose pairs are taken over where their seals hold.

    Interrupted (Ctrl-C), it raises KeyboardInterrupt with the report so far as `partial_report`.
    """
    norm, functional = Norm.parse(norm), Output.parse(output)
    region = checked_region(region, model.graph)
    chosen = choose(methods, region, {"multipliers": multipliers, "solver": solver})
    if certificate is not None:
        check_scope(region, functional)
    all_of_them = functional.kind == "pairs"
    if resume is not None and not all_of_them:
        raise UsageError("--resume: only --output pairs can be resumed")
    options: dict[str, Any] = {"seed": seed}
    options |= {} if region is None else {"rtol": float(rtol)}
    options |= {"methods": methods_asked(chosen)} if all_of_them else {}  # each pair has a value of each
    question = model.question("bound", norm, describe(region), str(functional), options)
    before = go_on(resume, question)
    pairs = resumed(before)
    deadline = None if budget is None else time.monotonic() + budget
    results: list[Result] = []
    warnings = [*model.warnings, *before.words("pairs")]

    def report() -> Report:
        return Report(
            command="bound",
            model=model.info,
            norm=norm,
            region=describe(region),
            output=str(functional),
            results=list(results),
            summary={"pairs": pairs.rows} if all_of_them else {},
            assumptions=list(model.assumptions),
            warnings=list(warnings),
            question=question,
        )

    graph = with_output(model.graph, functional)
    problem = Problem(graph, norm, region, seed, available(device), deadline, progress, rtol=rtol)
    try:
        if all_of_them:
            bound_pairs(problem, chosen, pairs)
            results.extend(pairs.largest(chosen, problem))
            for result in results:
                tell(progress, result)
        else:
            for method in chosen:
                for result in (run(method, problem), *problem.aside):
                    results.append(result)
                    problem.known.append(result)
                    tell(progress, result)
                problem.aside.clear()
        if certificate is not None:
            results, more = certify(certificate, results, model.graph, model.info, norm, functional)
            warnings += more
    except KeyboardInterrupt as stop:
        stop.partial_report = report()  # type: ignore[attr-defined]
        raise
    return report()
