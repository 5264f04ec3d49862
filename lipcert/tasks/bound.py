"""graph -> methods -> report: the certified interval of one scope."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lipcert.load.model import Model
from lipcert.methods import Method, Problem
from lipcert.methods.run import choose, run, tell
from lipcert.network.edit import with_output
from lipcert.network.scope import checked_region, describe
from lipcert.regions.device import available
from lipcert.report.report import Report
from lipcert.tasks.certify import certify, check_scope
from lipcert.tasks.certify_several import certify_outputs, certify_region
from lipcert.tasks.execution import MOVES, Execution, on_region
from lipcert.tasks.journal.journal import Journal
from lipcert.tasks.journal.resume import Earlier, Resumed
from lipcert.tasks.pairs import (
    OfAll,
    OfPair,
    Pairs,
    bound_pairs,
    for_all,
    methods_asked,
    portions,
    results_of,
    resumed,
    scopes_of,
)
from lipcert.tasks.ranges import check_region, output_intervals
from lipcert.tasks.shards import Data, Phase, Shard, Sharded
from lipcert.tasks.task import Session, Task, carry_out
from lipcert.terms.clock import halfway
from lipcert.terms.errors import UsageError
from lipcert.terms.memory import out_of_memory
from lipcert.terms.progress import heard
from lipcert.terms.query import Norm, Output, Region
from lipcert.terms.result import Result


@dataclass(eq=False, kw_only=True)
class BoundTask(Task):
    """`problem`: the scope, without resources. `certificate`: file to write."""

    problem: Problem
    methods: Sequence[Method]
    certificate: str | Path | None = None
    execution: Execution | None = None
    ranges: bool = False
    intervals: dict[str, Any] | None = None
    results: list[Result] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    command = "bound"

    def steps(self) -> Generator[None]:
        problem = self.problem.with_resources(self.session.deadline, self.session.progress)
        yield from self.bound(problem)
        if self.ranges:
            problem.say("ranges of the outputs")
            with torch.no_grad():
                self.intervals = output_intervals(problem)
            yield
        if self.certificate is not None:
            self.results, more = self.certified(self.certificate)
            self.warnings += more

    def bound(self, problem: Problem) -> Iterator[None]:
        with Journal.of(self.session.journal, self.question, self.before.seal) as journal:
            yield from self.run_all(replace(problem, kept=journal))
            self.warnings = journal.words(len(journal.taken))

    def run_all(self, problem: Problem) -> Iterator[None]:
        for method in in_time(self.methods, problem.deadline):
            end = share(method, problem.deadline)
            mine = problem if end == problem.deadline else replace(problem, deadline=end)
            for result in (run(method, mine), *problem.aside):
                self.results.append(result)
                problem.known.append(result)
                tell(problem.progress, result)
                yield
            problem.aside.clear()

    def certified(self, path: str | Path) -> tuple[list[Result], list[str]]:
        """The file is proved once more: where there is no memory for that, the bounds stay."""
        try:
            with heard(self.session.say):
                return self.certificate_to(path)
        except (MemoryError, RuntimeError) as problem:
            if not out_of_memory(problem):
                raise
            return self.results, [f"no certificate was written to {path}: out of memory while it was checked"]

    def certificate_to(self, path: str | Path) -> tuple[list[Result], list[str]]:
        if self.problem.region is not None:
            return certify_region(path, self.results, self.model, self.problem, Output.parse(self.output))
        return certify(path, self.results, self.model.graph, self.model.info, self.norm, Output.parse(self.output))

    def answer(self) -> dict[str, Any]:
        warnings = [*self.model.warnings, *self.resumed, *self.warnings]
        found: dict[str, Any] = {"results": list(self.results), "warnings": warnings} | self.executed()
        if self.intervals is not None:
            found["summary"] = {**found.get("summary", {}), "range": self.intervals}
        return found

    def executed(self) -> dict[str, Any]:
        if self.execution is None:
            return {}
        summary = on_region(self.execution, self.problem.region, self.norm.output)
        return {
            "summary": {"execution": summary},
            "assumptions": self.execution.assumptions(self.model.assumptions, MOVES),
        }


def in_time(methods: Sequence[Method], deadline: float | None) -> Sequence[Method]:
    """With a deadline the lower values first: a dear upper value must not leave them no time."""
    return methods if deadline is None else sorted(methods, key=lambda method: method.side != "lower")


def share(method: Method, deadline: float | None) -> float | None:
    """Half of the time at most for a lower value."""
    return halfway(deadline) if method.side == "lower" else deadline


@dataclass(eq=False, kw_only=True)
class PairsTask(BoundTask, Sharded):
    """Every difference of two logits, or every logit; the results are the largest of each method."""

    pairs: Pairs = field(init=False)
    together: dict[str, dict[str, Any]] = field(default_factory=dict)  # by method and pair: of one search for all

    @property
    def resumed(self) -> list[str]:
        return [*self.before.words(f"{self.pairs.word}s"), *self.of_journal]

    def take(self, before: Resumed) -> None:
        self.pairs = resumed(before, Output.parse(self.output))

    def bound(self, problem: Problem) -> Iterator[None]:
        if self.session.workers is None and self.session.journal is None:
            for _ in bound_pairs(problem, self.methods, self.pairs):
                yield
        else:
            yield from Sharded.steps(self)
            self.pairs.sort(scopes_of(problem, self.pairs))
        self.results += self.pairs.largest(self.methods, problem)
        for result in self.results:
            tell(problem.progress, result)

    def phases(self) -> Iterator[Phase]:
        todo = [scope for scope in scopes_of(self.problem, self.pairs) if str(scope) not in self.pairs.found]
        many = for_all(self.methods) if todo else []
        yield Phase(OfAll(self.problem, many, todo), [shard for m in many for shard in _portions(m, todo)])
        known = {pair: {} for pair in map(str, todo)}  # type: dict[str, dict[str, Any]]
        for method, found in self.together.items():
            for pair, rows in found.items():
                known[pair][method] = rows
        yield Phase(OfPair(self.problem, self.methods), [Shard(pair, (pair, rows)) for pair, rows in known.items()])

    def gather(self, shard: Shard, found: Data) -> None:
        if "of" in found:
            self.together.setdefault(found["method"], {}).update(found["of"])
        else:
            self.pairs.add(shard.key, results_of(found))
            self.session.say(f"{self.pairs.word}s", len(self.pairs.rows))

    def certificate_to(self, path: str | Path) -> tuple[list[Result], list[str]]:
        return self.results, certify_outputs(path, self.pairs.found, self.model, self.norm)

    def answer(self) -> dict[str, Any]:
        found = super().answer()
        return found | {"summary": {**found.get("summary", {}), f"{self.pairs.word}s": self.pairs.rows}}


def _portions(method: Method, scopes: Sequence[Output]) -> list[Shard]:
    parts = portions(method, scopes)
    names = [f"{method.name} of all" if len(parts) == 1 else f"{method.name} of {p[0]} to {p[-1]}" for p in parts]
    return [Shard(name, (method.name, k)) for k, name in enumerate(names)]


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundRequest:
    """What is asked of a model.

    `multipliers` of the LipSDP methods ("neuron", "channel", "layer", "mixed"), `solver` of lipsdp-cvxpy. `rtol`: brackets on
    a region are closed to this. `certificate`: file to write, from which `verify` proves the least upper value again.
    `execution`: "float32", "bfloat16" or "float16": a proved bound of |computed f(x) - f(x)| over the region, too. `ranges`:
    intervals of the outputs (`summary["range"]`).
    """

    norm: str | Norm = "2"
    methods: Sequence[str] | None = None
    region: Region = None
    output: str | Output = "vector"
    rtol: float = 1e-6
    seed: int = 0
    device: str = "cpu"
    certificate: str | Path | None = None
    multipliers: str | None = None
    solver: str | None = None
    execution: str | None = None
    ranges: bool = False

    def options(self, region: Region, methods: Sequence[Method], functional: Output) -> dict[str, Any]:
        """What of it is part of the question, beside norm, region and output."""
        options: dict[str, Any] = {"seed": self.seed}
        options |= {} if region is None else {"rtol": float(self.rtol)}
        options |= {"ranges": True} if self.ranges else {}
        options |= {"methods": methods_asked(methods)} if functional.many else {}  # each pair has a value of each
        return options | ({} if self.execution is None else {"execution": self.execution})


def bound(
    model: Model, asked: BoundRequest | None = None, session: Session | None = None, resume: Earlier = None
) -> Report:
    """The certified interval of one scope; methods stop at the budget of the session and keep what is proved.

    `resume`: partial report of the same question with output "pairs" or "each". Interrupted (Ctrl-C), it raises
    KeyboardInterrupt with the report so far as `partial_report`.
    """
    asked = asked or BoundRequest()
    norm, functional = Norm.parse(asked.norm), Output.parse(asked.output)
    region = checked_region(asked.region, model.graph)
    settings = {"multipliers": asked.multipliers, "solver": asked.solver}
    chosen = choose(asked.methods, region, settings, model.graph, norm)
    _check_asked(model, asked, region, functional, resume)
    _check_session(asked, session, functional)
    where = describe(region)
    question = model.question("bound", norm, where, str(functional), asked.options(region, chosen, functional))
    inside = region if model.weights is None else model.weights.region(region)
    graph, device = with_output(model.graph, functional), available(asked.device)
    task = (PairsTask if functional.many else BoundTask)(
        model,
        norm,
        question,
        where,
        str(functional),
        problem=Problem(graph, norm, inside, asked.seed, device, rtol=asked.rtol),
        methods=chosen,
        certificate=asked.certificate,
        execution=Execution.of(model, asked.execution, functional),
        ranges=asked.ranges,
    )
    return carry_out(task, session, resume)


def _check_asked(model: Model, asked: BoundRequest, region: Region, functional: Output, resume: Earlier) -> None:
    if asked.certificate is not None:
        check_scope(region, functional)
    if asked.ranges:
        check_region(region)
    _check_weights(model, {"--certificate": asked.certificate is not None, "--range": asked.ranges})
    if resume is not None and not functional.many:
        raise UsageError("--resume: only --output pairs and --output each can be resumed")


def _check_session(asked: BoundRequest, session: Session | None, functional: Output) -> None:
    if session is None or (session.workers is None and session.journal is None):
        return
    if not functional.many:
        if session.workers is not None:
            raise UsageError("--workers, --scheduler: they are for --output pairs and --output each")
        return
    if asked.certificate is not None:
        raise UsageError(
            "--certificate: proofs stay where they are made; leave out --workers, --scheduler and --journal"
        )


def _check_weights(model: Model, asked: Mapping[str, bool]) -> None:
    """UsageError for what is only about plain norms."""
    for flag, wanted in asked.items():
        if wanted and model.weights is not None:
            raise UsageError(f"{flag}: this is about plain norms and outputs; leave out --weight-in and --weight-out")
