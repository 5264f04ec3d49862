"""Weighted norms: |W_out (f(x) - f(x'))|_q <= L |W_in (x - x')|_p, for inputs and outputs whose units differ.

With z = W_in x, L is the plain constant of g(z) = W_out f(W_in^-1 z), so every method works as it is: one linear operator
stands in front of the network, one behind it. W_in^-1 carries the rounding of its entries (1 / w by `reciprocal`, the
inverse of a matrix by its residual); W_out is the matrix as given. Diagonal weights make norms in l1, l2 and linf; any
invertible matrix does in l2, where the unit ball of |W x|_2 is an ellipsoid.

Regions and data are given in x. They become z exactly, or are refused: a product that rounds would move a region, and
what is attained in the moved one need not be attained in the one asked for. Powers of two never round.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from lipcert.load.lower.matrices import inverse
from lipcert.load.model import Model
from lipcert.network.graph import Graph, Linear, Node
from lipcert.operators.linear import Dense, Operator, Scale
from lipcert.rigor import constants
from lipcert.rigor.constants import Constant
from lipcert.rigor.rounding import keeps_subnormals
from lipcert.terms.errors import RefusedModel, UsageError
from lipcert.terms.query import Ball, Box, Norm, Region

LARGEST = 1e100  # so that neither a weight nor its inverse overflows
SHOWN = 64  # numbers that a report holds; of more it has the sha256 alone


@dataclass(frozen=True, eq=False)
class Weights:
    """(n,) diagonal or (n, n) matrix of each side, float64; None: not weighted."""

    input: Tensor | None
    output: Tensor | None

    def words(self) -> dict[str, Any]:
        """As the report and the question have them."""
        return {"input": _words(self.input), "output": _words(self.output)}

    def point(self, x: Tensor) -> Tensor:
        """z = W_in x of points (k, n), exactly."""
        if self.input is None:
            return x
        z = x * self.input if self.input.ndim == 1 else x @ self.input.T
        for row, found in zip(x.tolist(), z.tolist(), strict=True):
            finite = all(map(math.isfinite, found))
            if not finite or _exact_product(self.input, row) != [Fraction(value) for value in found]:
                raise UsageError(
                    "--weight-in: W_in x is no float64 number at a place that was asked for, and rounding would move it; "
                    "take weights that are powers of two, or coordinates with fewer digits"
                )
        return z

    def region(self, region: Region) -> Region:
        """The region of z. A box stays one under diagonal weights only; a ball is {|W_in (x - c)| <= r}."""
        if region is None or self.input is None:
            return region
        if isinstance(region, Ball):
            shape = region.center.shape
            return Ball(self.point(region.center.reshape(1, -1)).reshape(shape), region.radius, region.norm)
        if self.input.ndim == 2:
            raise UsageError("--box: under a matrix of weights a box is none; take diagonal weights, or a ball (--at)")
        lower, upper = (self.point(side.reshape(1, -1)).reshape(side.shape) for side in (region.lower, region.upper))
        return Box(lower, upper)


@keeps_subnormals
def weighted(model: Model, weight_in: Any, weight_out: Any, norm: Norm) -> Model:
    """The model whose plain constants are the weighted ones. `weight_in`, `weight_out`: None, one number, one for each
    entry (positive), or a matrix (l2 only). Weights of 1 change nothing. UsageError for what is no norm."""
    n, m = (math.prod(shape) for shape in (model.input_shape, model.output_shape))
    given = Weights(_read("--weight-in", weight_in, n, norm.input), _read("--weight-out", weight_out, m, norm.output))
    if given.input is None and given.output is None:
        return model
    graph = model.graph if given.input is None else _in_front(model.graph, _inverse(given.input))
    if given.output is not None:
        behind = Linear(Scale(given.output) if given.output.ndim == 1 else Dense(given.output[None]))
        graph = graph.then(Node(behind, (graph.output,), m, graph.output_shape, "--weight-out"))
    note = "norms are weighted: |W_out (f(x) - f(x'))| <= L |W_in (x - x')|; witnesses are W_in x"
    info = {**model.info, "weights": given.words()}
    return replace(model, graph=graph, info=info, assumptions=(*model.assumptions, note), weights=given)


def _read(flag: str, value: Any, size: int, p: str) -> Tensor | None:
    if value is None:
        return None
    try:
        given = torch.as_tensor(value).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise UsageError(f"{flag}: not an array of numbers: {problem}") from problem
    if not bool(torch.isfinite(given).all()) or given.numel() == 0:
        raise UsageError(f"{flag}: weights are finite numbers")
    if not bool((given.abs() <= LARGEST).all()):
        raise UsageError(f"{flag}: weights are at most {LARGEST:g}")
    if tuple(given.shape) == (size, size) and size > 1:
        if p != "2":
            raise UsageError(f"{flag}: a matrix of weights needs the norm 2 on its side, not {p}; give a diagonal")
        if torch.equal(given, torch.eye(size, dtype=torch.float64)):
            return None
        return given
    if given.numel() not in (1, size):
        raise UsageError(
            f"{flag}: {given.numel()} weights of shape {tuple(given.shape)} for {size} entries; give 1, {size}, or {size} x {size}"
        )
    if not bool((given >= 1 / LARGEST).all()):
        raise UsageError(f"{flag}: weights are positive, at least {1 / LARGEST:g}; one of zero makes no norm")
    return None if bool((given == 1).all()) else given.reshape(-1).expand(size).clone()


def _inverse(weight: Tensor) -> Operator:
    """W^-1 with its error."""
    if weight.ndim == 1:
        factor = constants.reciprocal(Constant(weight))
        return Scale(factor.centre, factor.radius)
    try:
        found = inverse(Constant(weight))
    except RefusedModel as problem:
        raise UsageError("--weight-in: the matrix is singular, or too close to it to be inverted") from problem
    return Dense(found.centre[None], radius=found.reach()[None])


def _in_front(graph: Graph, operator: Operator) -> Graph:
    old = graph.nodes[0]
    front = Node(Linear(operator), (0,), old.size, old.shape, "--weight-in")
    rest = [Node(n.what, tuple(p + 1 for p in n.parents), n.size, n.shape, n.name) for n in graph.nodes[1:]]
    return Graph((old, front, *rest), graph.output + 1)


def _exact_product(weight: Tensor, row: Sequence[float]) -> list[Fraction]:
    x = [Fraction(value) for value in row]
    if weight.ndim == 1:
        return [Fraction(w) * v for w, v in zip(weight.tolist(), x, strict=True)]
    return [sum((Fraction(w) * v for w, v in zip(line, x, strict=True)), Fraction(0)) for line in weight.tolist()]


def _words(weight: Tensor | None) -> dict[str, Any] | None:
    if weight is None:
        return None
    values = weight.tolist() if weight.numel() <= SHOWN else None
    digest = hashlib.sha256(weight.contiguous().numpy().tobytes()).hexdigest()
    return {
        "kind": "diagonal" if weight.ndim == 1 else "matrix",
        "size": len(weight),
        "values": values,
        "sha256": digest,
    }
