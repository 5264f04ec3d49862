"""`--output pairs` and `--output each`: every difference of two logits, or every logit, one after the other; resumed from a
partial report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lipcert.methods import Method, Problem
from lipcert.methods.run import run, run_together
from lipcert.network.edit import functionals, with_output
from lipcert.tasks.journal.resume import Resumed
from lipcert.tasks.journal.seal import Seal
from lipcert.tasks.shards import CUT
from lipcert.tasks.task import Session
from lipcert.terms.errors import UsageError
from lipcert.terms.printable import plain
from lipcert.terms.query import Output
from lipcert.terms.result import Bound, Refusal, Result

MAX_PAIRS = 4950  # 100 classes
ONE_OF = {"pairs": "pair", "each": "output"}  # what a row is
SHARE = 0.8  # of the time that is left for what answers for all of them at once
WORST = ("unbounded", "timeout", "refused")  # which of several refusals is that of the maximum


@dataclass
class Pairs:
    """`rows`: one object per pair (or output) that is done, as the report shows them; `found`: their results, method by
    method."""

    seal: Seal
    output: Output
    rows: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, list[Result]] = field(default_factory=dict)

    def add(self, pair: str, results: list[Result]) -> None:
        self.found[pair] = results
        uppers = [r.value for r in results if isinstance(r, Bound) and r.side == "upper" and r.rigor == "proved"]
        lowers = [r.value for r in results if isinstance(r, Bound) and r.side == "lower"]
        row = {self.word: pair, "upper": min(uppers, default=None), "lower": max(lowers, default=None)}
        self.rows.append(self.seal.on(row | {"results": [_short(result) for result in results]}))

    def sort(self, scopes: Sequence[Output]) -> None:
        """In the order of the scopes, whoever was done first."""
        place = {str(scope): k for k, scope in enumerate(scopes)}
        self.rows.sort(key=lambda row: place[row[self.word]])
        self.found = {pair: self.found[pair] for pair in sorted(self.found, key=place.__getitem__)}

    @property
    def word(self) -> str:
        return ONE_OF[self.output.kind]

    def largest(self, methods: Sequence[Method], problem: Problem) -> list[Result]:
        """Each method's largest value over all pairs; a refusal of one pair is a refusal of the maximum."""
        merged: list[Result] = []
        for place, method in enumerate(methods):
            column = {pair: results[place] for pair, results in self.found.items()}
            seconds = sum(r.seconds for r in column.values())
            bounds = {pair: r for pair, r in column.items() if isinstance(r, Bound)}
            refusals = [r for r in column.values() if isinstance(r, Refusal)]
            if refusals and (method.side == "upper" or not bounds):
                merged.append(min(refusals, key=lambda refusal: WORST.index(refusal.status)))
                continue
            pair, top = max(bounds.items(), key=lambda item: item[1].value)
            if top.side == "lower" and top.witness is None:  # from a partial report, which keeps no witnesses
                again = run(method, _on_pair(problem, Output.parse(pair)))
                top = again if isinstance(again, Bound) else top
            details = {**top.details, self.word: pair, f"{self.word}s": len(column)}
            merged.append(replace(top, seconds=seconds, details=details, proof=None))
        return merged + self._aside(len(methods))

    def _aside(self, methods: int) -> list[Result]:
        """Of what was found beside the methods' own sides, all of it lower values, the largest."""
        found = [(pair, r) for pair, results in self.found.items() for r in results[methods:] if isinstance(r, Bound)]
        found = [(pair, r) for pair, r in found if r.side == "lower" and r.witness is not None]
        if not found:
            return []
        pair, top = max(found, key=lambda item: item[1].value)
        return [replace(top, details={**top.details, self.word: pair})]


def bound_pairs(problem: Problem, methods: Sequence[Method], pairs: Pairs) -> Iterator[None]:
    """Fills `pairs`, one in each step; what is there already is not computed again."""
    scopes, words = scopes_of(problem, pairs), f"{pairs.word}s"
    together = _Together(problem, [scope for scope in scopes if str(scope) not in pairs.found])
    for scope in scopes:
        if str(scope) not in pairs.found:
            one = _on_pair(problem, scope)
            for method in methods:
                one.known.append(together.result(method, one, scope))
            pairs.add(str(scope), one.known + one.aside)
        problem.say(words, len(pairs.rows), len(scopes))
        yield


def scopes_of(problem: Problem, pairs: Pairs) -> Sequence[Output]:
    scopes = functionals(problem.graph, pairs.output)
    if not scopes or len(scopes) > MAX_PAIRS:
        words = f"{pairs.word}s"
        raise UsageError(
            f"--output {pairs.output}: the model has {len(scopes)} {words}; lipcert takes 1 to {MAX_PAIRS}"
        )
    return scopes


@dataclass
class _Together:
    """Results of methods that answer for all `scopes` in one search, which is made when the first of them asks."""

    problem: Problem
    scopes: Sequence[Output]
    known: dict[str, dict[str, list[Result]]] = field(default_factory=dict)

    asked: set[tuple[str, int]] = field(default_factory=set)

    def result(self, method: Method, one: Problem, scope: Output) -> Result:
        parts = portions(method, self.scopes)
        number = next(k for k, part in enumerate(parts) if scope in part)
        if (method.name, number) not in self.asked:
            self.asked.add((method.name, number))
            self.known.setdefault(method.name, {}).update(of_all(method, self.problem, parts[number]))
        if str(scope) not in self.known[method.name]:
            return run(method, one)
        found, *aside = self.known[method.name][str(scope)]
        one.aside.extend(aside)
        return method.better(found, one)


def portions(method: Method, scopes: Sequence[Output]) -> list[Sequence[Output]]:
    """What a method is asked for at once: all, or so many that what is done is seen, and kept, while others are still open."""
    size = method.at_once or max(1, len(scopes))
    return [scopes[k : k + size] for k in range(0, len(scopes), size)]


def of_all(method: Method, problem: Problem, scopes: Sequence[Output]) -> dict[str, list[Result]]:
    end, now = problem.deadline, time.monotonic()
    end = None if end is None else now + SHARE * (end - now)
    whole = replace(problem, deadline=end, known=[], aside=[])
    found = run_together(method, whole, scopes)
    return {} if found is None else dict(zip(map(str, scopes), found, strict=True))


def for_all(methods: Sequence[Method]) -> list[Method]:
    """Those that may answer for all pairs in one search."""
    return [method for method in methods if type(method).run_together is not Method.run_together]


@dataclass(frozen=True, eq=False)
class OfAll:
    """Work of a shard (`tasks/shards.py`): one method for a portion of `scopes`, {"method", "of": results by scope}. Told are its
    name and the number of the portion."""

    problem: Problem
    methods: Sequence[Method]
    scopes: Sequence[Output]

    def __call__(self, what: tuple[str, int], session: Session) -> dict[str, Any]:
        name, number = what
        whole = self.problem.with_resources(session.deadline, session.progress)
        [method] = [method for method in self.methods if method.name == name]
        found = of_all(method, whole, portions(method, self.scopes)[number])
        return {"method": name, "of": {scope: [_written(r) for r in rows] for scope, rows in found.items()}}


@dataclass(frozen=True, eq=False)
class OfPair:
    """Work of a shard: all methods for one pair, {"results"}. Told are its name, and what is known of it from `OfAll`."""

    problem: Problem
    methods: Sequence[Method]

    def __call__(self, what: tuple[str, dict[str, list[Any]]], session: Session) -> dict[str, Any]:
        pair, known = what
        one = _on_pair(self.problem.with_resources(session.deadline, session.progress), Output.parse(pair))
        for method in self.methods:
            if method.name in known:
                found, *aside = map(_read, known[method.name])
                one.aside.extend(aside)
                found = method.better(found, one)
            else:
                found = run(method, one)
            one.known.append(found)
        late = any(isinstance(r, Refusal) and r.status == "timeout" for r in one.known)
        return {"results": [_written(r) for r in one.known + one.aside]} | ({CUT: True} if late else {})


def results_of(found: Mapping[str, Any]) -> list[Result]:
    return [_read(row) for row in found["results"]]


def _written(result: Result) -> dict[str, Any]:
    """As JSON data, without what only a certificate needs."""
    names: tuple[str, ...] = ("method", "side", "rigor", "value", "seconds", "witness", "details")
    names = names if isinstance(result, Bound) else ("method", "side", "status", "reason", "node", "seconds")
    found: dict[str, Any] = plain({name: getattr(result, name) for name in names})
    return found


def _read(row: Mapping[str, Any]) -> Result:
    return Bound(**row) if "value" in row else Refusal(**row)


def _on_pair(problem: Problem, scope: Output) -> Problem:
    """The stages of the methods are not shown: pairs are the stage."""
    return replace(problem, graph=with_output(problem.graph, scope), progress=None, known=[], aside=[])


def _short(result: Result) -> dict[str, Any]:
    if isinstance(result, Bound):
        return {"method": result.method, "side": result.side, "rigor": result.rigor, "value": result.value}
    shown = {"method": result.method, "side": result.side, "status": result.status}
    return shown | {"reason": result.reason, "node": result.node}


def _long(row: Mapping[str, Any]) -> Result:
    if "value" in row:
        return Bound(row["method"], row["side"], row["rigor"], float(row["value"]))
    return Refusal(row["method"], row["side"], row["status"], row["reason"], row["node"])


def methods_asked(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Methods with their options, as the question has them."""
    return [{"name": method.name, **asdict(method)} for method in methods]  # type: ignore[call-overload]


def resumed(before: Resumed, output: Output) -> Pairs:
    """The pairs of an earlier report. A pair counts when every method gave a value or a reason; one that ran out of time
    is done again."""
    pairs = Pairs(before.seal, output)
    for row in before.rows(f"summary.{pairs.word}s", by=lambda row: row[pairs.word]):
        found = [_long(result) for result in row["results"]]
        if any(isinstance(result, Refusal) and result.status == "timeout" for result in found):
            before.note(-1, 0)
        else:
            pairs.add(row[pairs.word], found)
    return pairs
