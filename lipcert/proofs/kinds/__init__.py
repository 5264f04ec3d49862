"""Kinds of proof: one file each, one row here. Read without torch; `prove` imports what it needs."""

from __future__ import annotations

from lipcert.proofs.kinds.base import Proof
from lipcert.proofs.kinds.cells import CellList
from lipcert.proofs.kinds.chain import Chain
from lipcert.proofs.kinds.cplip import Cplip
from lipcert.proofs.kinds.lmi import Lmi
from lipcert.proofs.kinds.nonnegative import Nonnegative
from lipcert.proofs.kinds.stretches import Stretches
from lipcert.proofs.kinds.torus import Torus
from lipcert.proofs.kinds.tree import CutTree
from lipcert.proofs.kinds.weighted import Weighted

PROOFS: dict[str, type[Proof]] = {
    kind.kind: kind for kind in (Lmi, Torus, Chain, Cplip, Stretches, Nonnegative, CellList, CutTree, Weighted)
}

__all__ = [
    "PROOFS",
    "CellList",
    "Chain",
    "Cplip",
    "CutTree",
    "Lmi",
    "Nonnegative",
    "Proof",
    "Stretches",
    "Torus",
    "Weighted",
]
