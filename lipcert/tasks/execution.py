"""`--execution float32`: what the answer of a task says of a network that is executed in floating point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipcert.load.model import REAL_ARITHMETIC, Model
from lipcert.network.edit import with_output
from lipcert.network.graph import Graph
from lipcert.regions.cells import Cells
from lipcert.regions.execution.accuracy import UNITS, unstated
from lipcert.regions.execution.functionals import execution_errors
from lipcert.rigor.arithmetic import ARITHMETICS, FloatFormat
from lipcert.rigor.rounding import norm_up
from lipcert.terms.errors import RefusedModel, UsageError
from lipcert.terms.query import Output, P, Region

OUTPUTS = 64  # of a vector; of more, each has the bound of its absolute coefficients
EVERYWHERE = "on the whole input space an execution can be off by any amount: give a region, --box or --at with --eps"


# what a constant says of two computed outputs
MOVES = (
    "bounds hold for the network in real arithmetic with the stored weights; as it is executed, |computed f(x) - computed "
    "f(x')| <= L |x - x'| + 2 E, with E the error of the execution on the region (summary.execution)"
)


@dataclass(frozen=True, eq=False)
class Execution:
    """`graph`: of the functional, its constants with what the runtime may make of them. `refusal`: (node, reason) where
    the evaluation of a node has no stated accuracy."""

    arithmetic: FloatFormat
    graph: Graph | None
    refusal: tuple[str | None, str] | None = None

    @classmethod
    def of(cls, model: Model, name: str | None, output: Output | None = None) -> Execution | None:
        """None: real arithmetic alone. UsageError for a format that is not treated."""
        if name is None:
            return None
        if name not in ARITHMETICS:
            raise UsageError(f"--execution {name}: formats are {', '.join(ARITHMETICS)}")
        if model.weights is not None:  # the graph is then not the one that is executed
            raise UsageError("--execution: it is about plain norms; leave out --weight-in and --weight-out")
        arithmetic = ARITHMETICS[name]
        try:
            graph = model.executed(arithmetic)
            graph = graph if output is None else with_output(graph, output)
        except RefusedModel as refused:
            return cls(arithmetic, None, (refused.node, str(refused)))
        return cls(arithmetic, graph, unstated(graph))

    @classmethod
    def required(cls, model: Model, name: str | None) -> Execution | None:
        """As `of`, where nothing can be said without it: RefusedModel for a node without a stated accuracy."""
        found = cls.of(model, name)
        if found is not None and found.refusal is not None:
            node, reason = found.refusal
            raise RefusedModel(f"--execution {name}: {reason}; without it, radii are of real arithmetic", node=node)
        return found

    def of_functionals(self, cells: Cells, seeds: Tensor) -> Tensor:
        """Upper values (b, k) of |computed - real| of c'f, `seeds` (b, k, m), at every point of each cell."""
        if self.graph is None or self.refusal is not None:
            return torch.full(seeds.shape[:2], math.inf, dtype=torch.float64)
        return execution_errors(self.graph, self.arithmetic, cells, seeds)

    def of_output(self, cells: Cells, norm: P) -> Tensor:
        """Upper values (b,) of ||computed f(x) - f(x)||_norm over each cell; inf: not known."""
        if self.graph is None or self.refusal is not None:
            return torch.full((len(cells),), math.inf, dtype=torch.float64)
        m = self.graph.nodes[self.graph.output].size
        one = torch.eye(m, dtype=torch.float64) if m <= OUTPUTS else None
        seeds = None if one is None else one.expand(len(cells), -1, -1)
        return norm_up(execution_errors(self.graph, self.arithmetic, cells, seeds), norm, 1).nan_to_num(
            math.inf, math.inf
        )

    def summary(self, error: float | None, norm: P, reason: str | None = None, **more: Any) -> dict[str, Any]:
        """The report's `summary.execution`. `error`: the largest over the region; None or inf: not known."""
        node = None
        if self.refusal is not None:
            node, reason = self.refusal
        known = error is not None and math.isfinite(error)
        if not known and reason is None:
            reason = f"{self.arithmetic.name} may overflow, or its rounding has no finite bound on this region"
        found = {"arithmetic": self.arithmetic.name, "error": error if known else None, "norm": norm}
        return found | {"reason": None if known else reason, "node": None if known else node, **more}

    def assumptions(self, stated: Sequence[str], covered: str) -> list[str]:
        """`stated`, with what holds of the execution in the place of the sentence that it is not covered."""
        mine = [covered, runtime(self.arithmetic)]
        return [line for old in stated for line in (mine if old == REAL_ARITHMETIC else [old])]


def on_region(execution: Execution, region: Region, norm: P) -> dict[str, Any]:
    """`summary.execution` of one region; None is the whole space."""
    if region is None:
        return execution.summary(None, norm, EVERYWHERE)
    return execution.summary(float(execution.of_output(Cells.of(region), norm)), norm)


def runtime(arithmetic: FloatFormat) -> str:
    """What is taken for granted of the runtime, in one line."""
    u = f"2^{round(math.log2(arithmetic.unit))}"
    return (
        f"{arithmetic.name} execution: each operation is exact up to a factor 1 + d, |d| <= {u}, the file's constants are "
        f"converted and folded so too; sums in any order, with or without FMA, in {arithmetic.name} or wider; "
        f"{arithmetic.below}; functions within {UNITS} x {u} x max(1, |z|, |s(z)|); variances by deviations from the mean. Not covered: TF32 and other "
        "narrower products, and convolutions by Winograd or Fourier transforms"
    )
