"""One question put to all methods: a graph (input units and output functional included), norms, region, resources."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol

from lipcert.blocks.base import Range
from lipcert.network.graph import Graph
from lipcert.network.intervals import interval_ranges
from lipcert.proofs.disproof import disproof
from lipcert.terms.clock import OutOfTime
from lipcert.terms.kept import NOTHING, Kept
from lipcert.terms.progress import Progress
from lipcert.terms.query import Norm, Output, P, Region
from lipcert.terms.result import Refusal, Result, Side

Where = Literal["space", "region"]  # for what a method is made: a bound made for the space holds on regions too
SPACE: frozenset[Where] = frozenset({"space"})
REGION: frozenset[Where] = frozenset({"region"})
L2: frozenset[tuple[P, P]] = frozenset({("2", "2")})


class Cost(IntEnum):
    """What one value takes, in orders of magnitude."""

    FORMULA = 0  # of norms of layers, or one sweep
    SWEEPS = 1  # one per neuron, or few cells
    PROGRAM = 2  # a convex program
    SEARCH = 3  # as long as it is let


@dataclass(frozen=True, eq=False)
class Problem:
    graph: Graph
    norm: Norm
    region: Region = None
    seed: int = 0
    device: str = "cpu"
    deadline: float | None = None  # time.monotonic()
    progress: Progress | None = None
    known: list[Result] = field(default_factory=list)  # results of the methods that ran before
    rtol: float = 1e-6  # of brackets: closed when upper <= lower (1 + rtol)
    aside: list[Result] = field(default_factory=list)  # what a method found besides its own side
    kept: Kept = NOTHING  # what a run of this question that was killed had done

    @cached_property
    def ranges(self) -> dict[int, Range]:
        """Interval ranges of all nodes on the region."""
        return interval_ranges(self.graph, self.region)

    def with_resources(self, deadline: float | None, progress: Progress | None, kept: Kept = NOTHING) -> Problem:
        """The same question with nothing known yet."""
        return replace(self, deadline=deadline, progress=progress, known=[], aside=[], kept=kept)

    def check_time(self) -> None:
        """For what gives nothing before it is done: `methods.run` turns it into a Refusal with status timeout."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime

    def say(self, text: str, done: float | None = None, total: float | None = None) -> None:
        if self.progress is not None:
            self.progress(text, done, total)


class RangesOf:
    """Hands out `problem.ranges` and remembers that it did: what needs ranges has no certificate."""

    def __init__(self, problem: Problem):
        self.problem, self.used = problem, False

    def __call__(self) -> dict[int, Range]:
        self.used = True
        return self.problem.ranges


def missing(problem: Problem, reason: str, node: str) -> tuple[Literal["refused", "unbounded"], str, str]:
    """(status, reason, node) of an upper value that does not exist: `unbounded` with a proof that there is none for this
    very function and scope (disproof.py), else `refused`. `node`: where the method stopped, and `reason` why."""
    found = disproof(problem.graph, problem.region)
    if found is not None:
        return "unbounded", f"not Lipschitz: {found.reason} ({reason})", found.node
    hint = "" if problem.region is not None else "; on a region (--box, or --at with --eps) there may be one"
    return "refused", f"no finite bound is known: {reason}{hint}", node


class Method(Protocol):
    """A frozen dataclass; its fields are its options and go into the report.

    What it says of itself below decides where it runs unasked: in `bound`, on the balls of `local`, for `radius`."""

    where: ClassVar[frozenset[Where]] = SPACE
    norms: ClassVar[frozenset[tuple[P, P]] | None] = None  # None: all
    cost: ClassVar[Cost] = Cost.FORMULA
    on_request: ClassVar[bool] = False  # runs only where it is named
    extra: ClassVar[bool] = False  # unasked in `bound` alone, and there in norms that it takes
    refined_by: ClassVar[str | None] = None  # a method whose value is never above this one's, but for rounding
    at_once: ClassVar[int] = 0  # outputs that `run_together` is asked for at once; 0: all
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})  # fields that the command line sets: values

    def takes(self, norm: Norm) -> bool:
        return self.norms is None or (norm.input, norm.output) in self.norms

    @property
    def name(self) -> str: ...

    @property
    def side(self) -> Side: ...

    def refuses(self, problem: Problem) -> Refusal | None:
        """Why this method cannot treat the model, as far as that is known without computing; None: it can."""
        ...

    def run(self, problem: Problem) -> Result:
        """A Bound, or a Refusal that names the node and says why."""
        ...

    def run_together(self, problem: Problem, outputs: Sequence[Output]) -> list[list[Result]] | None:
        """The result for each of the outputs, and what was found aside, from one search; None: they are asked one by one."""
        return None

    def better(self, found: Result, problem: Problem) -> Result:
        """`found`, or what an earlier method proved where that is a value of this method as well and below it."""
        return found
