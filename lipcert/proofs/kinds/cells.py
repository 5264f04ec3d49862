"""Kind `cells`: a region as a list of cells, with an upper value of the constant on each.

"by": "slopes" | "linear"       how each cell is bounded: enclosures of the Jacobian (lipcert/regions/forward), or linear bounds
                                (lipcert/regions/backward)
"edges": [[float]] | null       of a box: along each input, where it is cut, both ends included; the cells of this grid come with
                                the last input fastest. null: the region is one cell
"splits": [int]                 each cell of the grid as a binary tree, in preorder, one after the other: 0 is a leaf, j + 1 halves
                                the cell along input j, the lower half first, at low / 2 + high / 2 in binary64
"values": [float]               one for each leaf, in that order: |f(x) - f(x')| <= value |x - x'| on the leaf

The leaves cover the region by their construction, and the region is convex, so the largest value is one of the region: a
segment between two of its points is cut by the leaves into pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lipcert.proofs.kinds.base import Proof, Sweeps
from lipcert.proofs.kinds.chain import bound_of
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm, Region
from lipcert.terms.strict import counts_of, float_of, list_of, one_of, reject

if TYPE_CHECKING:
    from torch import Tensor

    from lipcert.network.graph import Graph

MOST = 4_000_000  # cells of a grid


@dataclass(frozen=True)
class CellList(Proof):
    by: str
    edges: tuple[tuple[float, ...], ...] | None
    splits: tuple[int, ...]
    values: tuple[float, ...]

    kind = "cells"
    names = ("by", "edges", "splits", "values")
    trusted = ("ranges of signals, slopes and gradients on each cell: lipcert.regions (cover, forward, backward)",)

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> CellList:
        edges = None if fields["edges"] is None else list_of(fields["edges"], "proof.edges")
        return cls(
            method,
            one_of(fields["by"], "proof.by", ("slopes", "linear")),
            None if edges is None else tuple(edges_of(row, f"proof.edges[{k}]") for k, row in enumerate(edges)),
            counts_of(fields["splits"], "proof.splits"),
            tuple(bound_of(v, f"proof.values[{k}]") for k, v in enumerate(list_of(fields["values"], "proof.values"))),
        )

    def fields(self) -> dict[str, Any]:
        edges = None if self.edges is None else [list(row) for row in self.edges]
        return {"by": self.by, "edges": edges, "splits": list(self.splits), "values": list(self.values)}

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        return [
            f"the region is cut into {len(self.values)} cells that cover it; on each the Jacobian is enclosed, by {self.by}",
            f"the l{norm.input} -> l{norm.output} norm of each enclosure is at most the value of its cell",
            "a segment between two points of the region is cut by the cells into pieces, so the largest value bounds the whole",
        ]

    def prove(self, graph: Graph, norm: Norm) -> float:
        raise CertificateRejected("scope.region", "cells are about a region, not about the whole space")

    def prove_within(self, graph: Graph, norm: Norm, region: Region, sweeps: Sweeps) -> float:
        """The largest value, where each is shown."""
        if region is None:
            return self.prove(graph, norm)
        if self.by not in sweeps:
            raise CertificateRejected("proof.by", f"this checker has no range analysis {self.by!r}")
        found = sweeps[self.by](graph, region, self.ends(region), norm).tolist()
        if len(found) != len(self.values):
            raise CertificateRejected("proof.values", f"there are {len(found)} cells, and {len(self.values)} values")
        for k, (value, claimed) in enumerate(zip(found, self.values, strict=True)):
            if not value <= claimed:
                shown = f"{value!r} does" if math.isfinite(value) else "no finite value does"
                raise CertificateRejected(f"proof.values[{k}]", f"{claimed!r} does not follow on this cell, {shown}")
        return max(self.values, default=0.0)

    def ends(self, region: Region) -> tuple[Tensor, Tensor] | None:
        """Of the leaves, (k, n) each."""
        from lipcert.terms.query import Box

        if self.edges is None:
            if self.splits != (0,):
                raise CertificateRejected("proof.splits", "without edges the region is one cell: [0]")
            return None
        if not isinstance(region, Box):
            raise CertificateRejected("proof.edges", "only boxes are cut")
        low, high = region.lower.reshape(-1).tolist(), region.upper.reshape(-1).tolist()
        if len(self.edges) != len(low):
            raise CertificateRejected("proof.edges", f"{len(self.edges)} axes are cut, the box has {len(low)}")
        for j, row in enumerate(self.edges):
            if (row[0], row[-1]) != (low[j], high[j]):
                raise CertificateRejected(f"proof.edges[{j}]", f"it does not go from {low[j]!r} to {high[j]!r}")
        if math.prod(len(row) - 1 for row in self.edges) > MOST:
            raise CertificateRejected("proof.edges", f"more than {MOST} cells")
        return leaves(grid(self.edges), self.splits)


def edges_of(value: Any, place: str) -> tuple[float, ...]:
    """At least two, in order; two equal ones where the box has no width."""
    row = tuple(float_of(v, f"{place}[{k}]") for k, v in enumerate(list_of(value, place)))
    rising = all(a < b for a, b in pairwise(row)) or (len(row) == 2 and row[0] == row[1])
    if len(row) < 2 or not rising:
        reject(place, "at least two edges are needed, each larger than the one before")
    return row


def grid(edges: tuple[tuple[float, ...], ...]) -> list[tuple[list[float], list[float]]]:
    """The ends of each cell, the last axis fastest."""
    found: list[tuple[list[float], list[float]]] = [([], [])]
    for row in edges:
        steps = list(pairwise(row))
        found = [([*low, a], [*high, b]) for low, high in found for a, b in steps]
    return found


def leaves(cells: Sequence[tuple[list[float], list[float]]], splits: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(k, n) each: lower and upper ends of the leaves of the cells of a grid, in the order of `splits`."""
    import torch

    place, found = 0, []
    for first in cells:
        waiting = [first]
        while waiting:
            lower, upper = waiting.pop()
            if place == len(splits):
                raise CertificateRejected(
                    "proof.splits", f"it ends within a cell, after {place} entries: some are missing"
                )
            axis = splits[place] - 1
            place += 1
            if axis < 0:
                found.append((lower, upper))
                continue
            if axis >= len(lower):
                raise CertificateRejected(f"proof.splits[{place - 1}]", f"there are {len(lower)} inputs")
            cut = lower[axis] / 2 + upper[axis] / 2
            if not lower[axis] < cut < upper[axis]:
                raise CertificateRejected(f"proof.splits[{place - 1}]", "this cell is too narrow to be halved")
            waiting += [
                ([*lower[:axis], cut, *lower[axis + 1 :]], upper),
                (lower, [*upper[:axis], cut, *upper[axis + 1 :]]),
            ]
    if place != len(splits):
        raise CertificateRejected(f"proof.splits[{place}]", "all cells of the grid are complete before this")
    lows, highs = ([ends[k] for ends in found] for k in (0, 1))
    shape = len(found), len(cells[0][0])
    return torch.tensor(lows, dtype=torch.float64).reshape(shape), torch.tensor(highs, dtype=torch.float64).reshape(
        shape
    )
