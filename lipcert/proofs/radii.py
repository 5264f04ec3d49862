"""Radii of samples from their margins and from constants of the whole network: what the points of a certificate claim.

For ||x' - x||_p <= r the difference f_c - f_j moves by at most L_cj r, so it stays above 0 where L_cj r is less than what it
is at x. L_cj is a claim about f_c - f_j itself, the sum of those about f_c and f_j, or that about the vector times the factor
in |y_c - y_j| <= factor ||y||_q (Tsuzuku et al. 2018 for q = 2). With one output its sign is the class: 1 where it is above 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lipcert.network.graph import Enclosure, Graph
from lipcert.proofs.several import Point
from lipcert.rigor.rounding import add_up, div_down, down, mul_up, sqrt_up
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import P

DIFFERENCE = {"1": 1.0, "2": sqrt_up(2.0), "inf": 2.0}
BATCH = 250


def constant(known: Mapping[str, float], q: P, i: int, j: int) -> float:
    """The least upper value of the constant of f_i - f_j (of f_i where j = i) that follows from claims; inf: none does."""
    none = math.inf
    whole = known.get("vector", none)
    if i == j:
        return min(known.get(f"{i}", none), whole)
    alone = add_up(known.get(f"{i}", none), known.get(f"{j}", none))
    return min(known.get(f"{i}-{j}", none), known.get(f"{j}-{i}", none), alone, mul_up(whole, DIFFERENCE[q]))


def margins(graph: Graph, x: Tensor, labels: Sequence[int]) -> Tensor:
    """Proved lower values (b, m) of f_c - f_j at x (b, n), inf for j = c; of one output: of its distance from 0 on the side
    of the class. Not a number where nothing is known."""
    found = graph.enclose(Enclosure(x))
    lower, upper, c = found.lower, found.upper, torch.tensor(list(labels))
    if lower.shape[1] == 1:
        return torch.where(c[:, None] > 0, lower, -upper)
    value = down(lower.gather(1, c[:, None]) - upper)
    return value.scatter(1, c[:, None], math.inf)


def table(known: Mapping[str, float], q: P, outputs: int, label: int) -> list[float]:
    """The constants (m,) of the functionals of `margins`."""
    if outputs == 1:
        return [constant(known, q, 0, 0)]
    return [0.0 if j == label else constant(known, q, label, j) for j in range(outputs)]


def largest(graph: Graph, q: P, known: Mapping[str, float], x: Tensor, labels: Sequence[int]) -> Tensor:
    """Radii (b,) that `check_points` accepts; 0: none is shown."""
    m = graph.nodes[graph.output].size
    constants = torch.tensor([table(known, q, m, c) for c in labels], dtype=torch.float64).reshape(len(labels), m)
    value = margins(graph, x, labels).nan_to_num(0.0, math.inf, 0.0).clamp(min=0.0)
    quotient = div_down(value, constants).nan_to_num(0.0, 2.0**1000, 0.0).clamp(max=2.0**1000)
    return down(quotient.amin(dim=1) * (1 - 2.0**-40)).clamp(min=0.0)


def check_points(graph: Graph, q: P, known: Mapping[str, float], points: Sequence[Point]) -> None:
    """`known`: proved claims about the whole space by their output. CertificateRejected names the first point whose radius
    does not follow."""
    n, m = graph.nodes[graph.input].size, graph.nodes[graph.output].size
    for k, at in enumerate(points):
        if len(at.x) != n:
            raise CertificateRejected(f"points[{k}].x", f"{len(at.x)} numbers, the network takes {n}")
        if at.label >= max(2, m):
            raise CertificateRejected(f"points[{k}].class", f"there is no class {at.label}")
    for start in range(0, len(points), BATCH):
        some = points[start : start + BATCH]
        x = torch.tensor([at.x for at in some], dtype=torch.float64)
        value = margins(graph, x, [at.label for at in some]).tolist()
        for k, (at, margin) in enumerate(zip(some, value, strict=True), start):
            for j, (has, needs) in enumerate(zip(margin, table(known, q, m, at.label), strict=True)):
                if not has > 0:
                    reason = f"the sample is not of class {at.label}: class {j} is not behind by a proved margin"
                    raise CertificateRejected(f"points[{k}].class", reason)
                if not (needs < math.inf and mul_up(needs, at.radius) < has):
                    reason = (
                        f"{at.radius!r} does not follow: the margin to class {j} is {has!r}, the constant {needs!r}"
                    )
                    raise CertificateRejected(f"points[{k}].radius", reason)
