"""Proved global constants of the functionals that occur, each proved once per run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lipcert.methods.ladders import formulas, groups
from lipcert.methods.problem import Problem
from lipcert.methods.run import choose, run
from lipcert.network.edit import with_output
from lipcert.proofs.radii import DIFFERENCE
from lipcert.rigor.rounding import add_up, mul_up
from lipcert.tasks.certify import least_with_proof
from lipcert.tasks.radius.margins import name
from lipcert.tasks.task import Session
from lipcert.terms.clock import OutOfTime, late
from lipcert.terms.query import Norm, Output
from lipcert.terms.result import Bound, Refusal

NOT_ASKED = "not asked"


@dataclass(frozen=True)
class ProvedConstant:
    """`value` None: no method proved a finite one, and `reason` says why. `shown`: the least bound with a proof."""

    value: float | None
    method: str | None
    reason: str | None = None
    node: str | None = None
    unbounded: bool = False
    shown: Bound | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON data, without the proof."""
        return {name: getattr(self, name) for name in ("value", "method", "reason", "node", "unbounded")}


@dataclass(eq=False)
class Constants:
    """`known`: by scope ("3-5" with i < j, "3", "vector"). `every`: each that is wanted is asked for; else, where the first has
    no finite value, no other is: what has none in one pair of logits is nearly always below all of them."""

    problem: Problem
    known: dict[str, ProvedConstant] = field(default_factory=dict)
    every: bool = True

    def prove(self, scopes: Iterable[str]) -> None:
        """Fill `known`."""
        missing = [scope for scope in dict.fromkeys(scopes) if scope not in self.known]
        for done, scope in enumerate(missing):
            if len(missing) > 1:
                self.problem.say("constants", done, len(missing))
            self.known[scope] = self._in_vain() or self._proved(scope, self._groups(scope))

    @property
    def hopeful(self) -> bool:
        """Whether it is worth asking for one more."""
        asked = self._asked()
        return self.every or not asked or any(found.value is not None for found in asked.values())

    def _asked(self) -> dict[str, ProvedConstant]:
        return {scope: one for scope, one in self.known.items() if not (one.reason or "").startswith(NOT_ASKED)}

    def _in_vain(self) -> ProvedConstant | None:
        if self.hopeful:
            return None
        first, found = next(iter(self._asked().items()))
        said = f"{NOT_ASKED}, for {first} has no finite constant (--method pairs asks for each): {found.reason}"
        return replace(found, reason=said, unbounded=False)  # what was proved is about the first

    def with_proofs(self) -> dict[str, Bound]:
        """Those of `known` that have one; what an earlier report knew is proved again."""
        found = {}
        for scope, constant in self.known.items():
            if constant.value is not None and constant.shown is None:
                constant = self._proved(scope, self._groups(scope))
            if constant.shown is not None:
                found[scope] = constant.shown
        return found

    def _groups(self, scope: str) -> list[list[str]]:
        if scope == "vector":  # the whole network, as Tsuzuku et al. 2018 bound it
            return [["product"], formulas()]
        norm = self.problem.norm  # of a functional, whose output norm is free
        return groups(Norm(norm.input, norm.input))

    def _proved(self, scope: str, groups: list[list[str]]) -> ProvedConstant:
        graph = with_output(self.problem.graph, Output.parse(scope))
        problem = replace(self.problem, graph=graph, progress=None, known=[], aside=[])
        for group in groups:
            for method in choose(group):
                problem.known.append(run(method, problem))
            if late():
                raise OutOfTime  # half a search must not be taken for the constant, here or in a later run
            bounds = [r for r in problem.known if isinstance(r, Bound) and r.rigor == "proved"]
            if bounds:
                best = min(bounds, key=lambda bound: bound.value)
                return ProvedConstant(best.value, best.method, shown=least_with_proof(problem.known)[0])
        refusals = [r for r in problem.known if isinstance(r, Refusal)]
        worst = next((r for r in refusals if r.status == "unbounded"), refusals[-1])
        return ProvedConstant(None, None, worst.reason, worst.node, worst.status == "unbounded")

    def table(self, method: str, first: Tensor, second: Tensor) -> Tensor:
        """Upper values of the constants of the functionals, inf where none is proved. `method`: of GLOBAL."""
        both = torch.stack([torch.minimum(first, second), torch.maximum(first, second)], -1)
        rows, place = torch.unique(both.reshape(-1, 2), dim=0, return_inverse=True)
        wanted = [(int(i), int(j)) for i, j in rows]
        values = GLOBAL[method](self, wanted)
        return torch.tensor(values, dtype=torch.float64)[place].reshape(first.shape)

    def value(self, scope: str) -> float:
        found = self.known[scope].value
        return math.inf if found is None else found


def pairs(constants: Constants, wanted: list[tuple[int, int]]) -> list[float]:
    """L_ij of f_i - f_j itself."""
    constants.prove(name(i, j) for i, j in wanted)
    return [constants.value(name(i, j)) for i, j in wanted]


def logits(constants: Constants, wanted: list[tuple[int, int]]) -> list[float]:
    """L_i + L_j: as many constants as classes."""
    constants.prove(f"{i}" for pair in wanted for i in pair)
    value = constants.value
    return [value(f"{i}") if i == j else add_up(value(f"{i}"), value(f"{j}")) for i, j in wanted]


def vector(constants: Constants, wanted: list[tuple[int, int]]) -> list[float]:
    """sqrt(2) L for l2 (Tsuzuku et al. 2018)."""
    constants.prove(["vector"])
    whole = constants.value("vector")
    return [whole if i == j else mul_up(whole, DIFFERENCE[constants.problem.norm.output]) for i, j in wanted]


@dataclass(frozen=True, eq=False)
class OneConstant:
    """Work of a shard (`tasks/shards.py`): the constant of one scope, {"constants": {scope: ..}}."""

    problem: Problem

    def __call__(self, what: str, session: Session) -> dict[str, Any]:
        constants = Constants(self.problem.with_resources(None, session.progress))
        constants.prove([what])
        return {"constants": {what: constants.known[what].to_dict()}}


GLOBAL = {"pairs": pairs, "global": logits, "sqrt2": vector}


SCOPES: dict[str, Callable[[int, int], Iterable[str]]] = {
    "pairs": lambda i, j: [name(i, j)],
    "global": lambda i, j: [f"{i}", f"{j}"],
    "sqrt2": lambda i, j: ["vector"],
}  # those that a method of GLOBAL reads for f_i - f_j


def norm_for(text: str) -> Norm:
    """Input norm p; a functional is a number, so the output norm is free."""
    norm = Norm.parse(text)
    return Norm(norm.input, norm.input)
