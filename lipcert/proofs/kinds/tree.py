"""Kind `tree`: a region as a tree of cuts along the hyperplanes of a piecewise linear network (regions/enumeration/trace.py).

"value": float       on every leaf the norm of the Jacobian is at most this
"splits": [int]      the tree in preorder: 0 is a leaf; k + 1 cuts the cell where hinge k is 0, the half where it is above first;
                     -(k + 1) the half below first

Hinges count from 0 in the order of their layers, entries in row-major order (lipcert/regions/enumeration/program.py). The two
halves of a cut cover the cell, whatever the arithmetic does, and the region is convex: the largest value is one of the region.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.proofs.kinds.base import Proof, Sweeps
from lipcert.proofs.kinds.chain import bound_of
from lipcert.terms.errors import CertificateRejected, RefusedModel
from lipcert.terms.query import Norm, Region
from lipcert.terms.strict import list_of, reject, shown

if TYPE_CHECKING:
    from lipcert.network.graph import Graph

MOST = 20_000_000  # nodes


@dataclass(frozen=True)
class CutTree(Proof):
    value: float
    splits: tuple[int, ...]

    kind = "tree"
    names = ("value", "splits")
    trusted = (
        "affine maps, signs and bounds on each cell, in machine code that Numba makes: lipcert.regions.enumeration",
    )

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> CutTree:
        splits = list_of(fields["splits"], "proof.splits")
        if len(splits) > MOST:
            reject("proof.splits", f"more than {MOST} nodes")
        for k, code in enumerate(splits):
            if type(code) is not int or abs(code) > MOST:
                reject(f"proof.splits[{k}]", f"{shown(code)} is no cut")
        return cls(method, bound_of(fields["value"], "proof.value"), tuple(splits))

    def fields(self) -> dict[str, Any]:
        return {"value": self.value, "splits": list(self.splits)}

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        leaves = self.splits.count(0)
        return [
            f"the region is cut {len(self.splits) - leaves} times where a neuron is 0; both halves of each cut are looked at",
            "on each cell the signs of neurons follow from its sides, by multipliers of a linear program, proved again",
            f"on each of the {leaves} leaves the l{norm.input} -> l{norm.output} norm of the Jacobian is at most {self.value!r}",
            "a segment between two points of the region is cut by the leaves into pieces, so this bounds the whole",
        ]

    def prove(self, graph: Graph, norm: Norm) -> float:
        raise CertificateRejected("scope.region", "a tree is about a region, not about the whole space")

    def prove_within(self, graph: Graph, norm: Norm, region: Region, sweeps: Sweeps) -> float:
        if region is None:
            return self.prove(graph, norm)
        if self.kind not in sweeps:
            raise CertificateRejected("proof.kind", "this checker has no enumeration of linear regions")
        try:
            found = float(sweeps[self.kind](graph, region, (self.splits, self.value), norm))
        except RefusedModel as refused:
            raise CertificateRejected("proof.kind", str(refused)) from refused
        if not math.isfinite(found):
            reason = f"the cuts are no tree of this network on this region whose leaves are at most {self.value!r}"
            raise CertificateRejected("proof.splits", reason)
        return found
