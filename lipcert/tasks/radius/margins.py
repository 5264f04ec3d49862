"""Which differences of outputs decide a sample, and by how much: proved lower values of the margins.

A functional is a pair (i, j): f_i - f_j, or the single output f_i where j = i. It may not fall below 0 (classes), change
its sign (one logit), or move by more than the tolerance (regression).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lipcert.blocks.base import Axis, Block
from lipcert.blocks.normalise import Normalise
from lipcert.blocks.pointwise import Pointwise
from lipcert.blocks.product import MatMul
from lipcert.methods.transfer import obstacle as not_expanded
from lipcert.network.graph import Add, Concat, Enclosure, Graph, Input, Linear, Nonlinear, Offset
from lipcert.network.walk import Rules, Visit, forward
from lipcert.regions.backward.adjoint import obstacle as not_backward
from lipcert.regions.cells import Cells
from lipcert.rigor.rounding import TINY, down, up
from lipcert.tasks.execution import Execution
from lipcert.terms.errors import RefusedModel, UsageError

U32 = 2.0**-24
LARGEST32 = 2.0**127  # half the largest float32: beyond it an evaluation may overflow, and nothing is known of it
WIDEN = 1 + 1e-6  # float64 rounding of these estimates of float32 rounding
FUNCTION_ERROR = 16.0  # units of U32 max(1, |z|, |s(z)|) granted to one exp, tanh, erf .. (ReLU and the like make none)


Pair = tuple[Tensor, Tensor]  # value and error


@dataclass(frozen=True, eq=False)
class Margins:
    """Of b samples with k functionals (`first` - `second`) each. `value` (b, k): proved lower values, less the error of
    a float32 evaluation at the sample; what is not above 0 certifies nothing. `predicted` (b,): -1 where undefined."""

    first: Tensor  # (b, k)
    second: Tensor
    value: Tensor
    predicted: Tensor

    def seeds(self, outputs: int) -> Tensor:
        """(b, k, m) coefficients of the functionals."""
        one = torch.nn.functional.one_hot(self.first, outputs).double()
        other = torch.nn.functional.one_hot(self.second, outputs).double()
        return one - other * (self.first != self.second).double()[:, :, None]

    def __getitem__(self, rows: Tensor) -> Margins:
        return Margins(self.first[rows], self.second[rows], self.value[rows], self.predicted[rows])


def name(i: int, j: int) -> str:
    return f"{i}" if i == j else f"{i}-{j}"


def margins(graph: Graph, x: Tensor, tolerance: float | None, executed: bool = True) -> Margins:
    """x (b, n) float64. `executed`: less the error of a float32 evaluation at the sample."""
    b, m = x.shape[0], graph.nodes[graph.output].size
    found = graph.enclose(Enclosure(x))
    finite = torch.isfinite(found.lower).all(dim=1) & torch.isfinite(found.upper).all(dim=1)
    predicted = torch.where(finite, found.centre.argmax(dim=1), -1)
    if tolerance is not None:
        own = torch.arange(m).expand(b, m)
        value = torch.full((b, m), tolerance, dtype=torch.float64)
        return Margins(own, own, torch.where(finite[:, None], value, 0.0), predicted)
    error = execution_error(graph, x) if executed else torch.zeros_like(found.centre)
    lower, upper = down(found.lower - error), -down(-found.upper - error)
    if m == 1:
        own = torch.zeros(b, 1, dtype=torch.int64)
        predicted = torch.where(finite, (found.centre[:, 0] > 0).long(), -1)
        value = torch.maximum(lower, -upper)
        return Margins(own, own, value.nan_to_num(0.0, 0.0, 0.0) * finite[:, None], predicted)
    chosen = predicted.clamp(min=0)
    others = torch.arange(m).expand(b, m)
    others = others[others != chosen[:, None]].reshape(b, m - 1)
    first = chosen[:, None].expand(b, m - 1)
    value = down(lower.gather(1, first) - upper.gather(1, others)).nan_to_num(0.0, 0.0, 0.0)
    return Margins(first, others, value * finite[:, None], predicted)


def sharper(graph: Graph, x: Tensor, found: Margins, runtime: Execution) -> Margins:
    """`found`, of classes, with the error at the sample as `--execution` bounds it, of each functional by itself, where that
    leaves more: through layers it is carried by gradients, not by |A|."""
    outputs = graph.nodes[graph.output].size
    error = runtime.of_functionals(Cells(x, torch.zeros_like(x)), found.seeds(outputs))
    value = down(margins(graph, x, None, executed=False).value - up(error)).nan_to_num(0.0, 0.0, 0.0)
    known = (found.predicted >= 0)[:, None]
    return replace(found, value=torch.where(known, torch.maximum(found.value, value), found.value))


def execution_error(graph: Graph, x: Tensor) -> Tensor:
    """Upper values (b, m) of |float32 evaluation - real arithmetic| at the samples, for evaluations of these operators
    that add in any order: Higham's gamma_n with u = 2^-24, value and error carried side by side."""
    error = forward(graph, EXECUTED, x)[graph.output][1].nan_to_num(torch.inf, torch.inf)
    if not_backward(graph) is not None and not_expanded(graph) is None:
        from lipcert.tasks.radius.executed import execution_error as expanded

        for s in range(len(x)):
            with suppress(RefusedModel):
                error[s : s + 1] = torch.minimum(error[s : s + 1], expanded(graph, x[s : s + 1]))
    return error


def _linear(at: Visit, u: Pair) -> Pair:
    operator, (centre, error) = at.what.operator, u
    grow = gamma32(operator.terms + 2) if operator.terms else 0.0
    mass = operator.absolute().mv(centre.abs() + error)  # of every partial sum too
    error = operator.absolute().mv(error + grow * (centre.abs() + error)) * WIDEN + TINY
    return operator.mv(centre), torch.where(mass < LARGEST32, error, torch.inf)


def _sum(at: Visit, *us: Pair) -> Pair:
    total = torch.stack([c for c, _ in us]).sum(dim=0)
    mass = torch.stack([c.abs() + e for c, e in us]).sum(dim=0)
    return total, (torch.stack([e for _, e in us]).sum(dim=0) + gamma32(len(us)) * mass) * WIDEN


def _offset(at: Visit, *us: Pair) -> Pair:
    value, slack, rows = at.what.value, at.what.radius, at.state.shape[0]
    own = U32 * value.abs() + (0.0 if slack is None else slack)
    if not us:
        return value.expand(rows, -1), own.expand(rows, -1)
    centre = us[0][0] + value
    return centre, (us[0][1] + own + 2 * U32 * (centre.abs() + us[0][1])) * WIDEN


def _block(at: Visit, *us: Pair) -> Pair:
    block = at.what.block
    low, high = block.values_on(*((c - e, c + e) for c, e in us))
    centre = block(*(c for c, _ in us))
    spread = torch.maximum(high - centre, centre - low)
    if block.exact:
        return centre, spread * WIDEN
    return centre, (spread + granted(block, us, centre.abs() + spread)) * WIDEN


def granted(block: Block, us: Sequence[Pair], size: Tensor) -> Tensor:
    """(b, size): what a block may round in float32 on inputs (value, error), (b, n) each; `size` of its values.

    FUNCTION_ERROR units for each function, and sums in any order: inner products err by gamma_k |u|'|v|; a mean by gamma_n max |u| =
    eta, so that z = v / s errs by (eta + |z| (eta + gamma s)) / s, |z| <= n^(1/2); s moves by at most the largest error."""
    largest = torch.cat([c.abs() + e for c, e in us], dim=1).amax(dim=1, keepdim=True).clamp(min=1.0)
    near = us[0][0].abs() + us[0][1] if isinstance(block, Pointwise) else largest
    units = FUNCTION_ERROR + (block.n if isinstance(block, Axis) else 0.0)
    found = units * U32 * torch.maximum(size, near).clamp(min=1.0)
    if isinstance(block, MatMul):
        u, v = block._views(*(c.abs() + e for c, e in us))
        found = found + gamma32(block.k + 2) * (u @ v).reshape(len(found), -1)
    if isinstance(block, Normalise):
        c, e = us[0]
        grouped = block._view(c)
        v = grouped - grouped.mean(dim=2, keepdim=True) if block.centred else grouped
        s = ((v * v).mean(dim=2, keepdim=True) + block.eps).sqrt() / WIDEN
        least = torch.maximum(s - block._view(e).amax(dim=2, keepdim=True), s.new_full((), block.eps**0.5 / WIDEN))
        eta = (block._view(c).abs() + block._view(e)).amax(dim=2, keepdim=True)
        root = block.n**0.5
        more = gamma32(block.n + 8) * (eta * (1 + root) / least + root)
        found = found + more.expand_as(grouped).reshape(len(found), -1).nan_to_num(torch.inf, torch.inf)
    return found


def _finite(rule: Callable[..., Pair]) -> Callable[..., Pair]:
    """What may overflow float32 is not known."""

    def found(at: Visit, *us: Pair) -> Pair:
        centre, error = rule(at, *us)
        return centre, torch.where(centre.abs() + error < LARGEST32, error, torch.inf)

    return found


EXECUTED: Rules = {  # value and error, (b, size) each; state: the input
    Input: _finite(lambda at: (at.state, at.state.abs() * U32)),
    Linear: _finite(_linear),
    Add: _finite(_sum),
    Concat: _finite(lambda at, *us: (torch.cat([c for c, _ in us], dim=1), torch.cat([e for _, e in us], dim=1))),
    Offset: _finite(_offset),
    Nonlinear: _finite(_block),
}


def gamma32(n: int) -> float:
    return n * U32 / (1 - n * U32) if n * U32 < 0.5 else float("inf")


def read_labels(y: np.ndarray | None, count: int, outputs: int, tolerance: float | None) -> Tensor | None:
    """(b,) classes; -1 and 1 of a single logit become 0 and 1. Regression has no labels."""
    if y is None or tolerance is not None:
        return None
    labels = np.asarray(y).reshape(-1)
    if (
        len(labels) != count
        or labels.dtype.kind not in "iufb"
        or not np.all(np.isfinite(labels))
        or not np.all(labels == np.round(labels))
    ):
        raise UsageError("--data: the labels y are one whole number per sample; leave y out, or give --tolerance")
    classes = max(2, outputs)
    found = torch.from_numpy(np.clip(labels, -2, classes).astype(np.int64))  # what int64 cannot hold stays wrong
    if outputs == 1 and bool((found == -1).any()):
        found = torch.where(found == -1, 0, found)
    wrong = ((found < 0) | (found >= classes)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise UsageError(f"--data: label {labels[place]} of sample {place} is not one of {classes} classes")
    return found
