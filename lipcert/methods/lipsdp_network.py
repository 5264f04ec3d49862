"""`lipsdp-network`: answers why it does not exist. Multipliers that couple neurons (Fazlyab et al. 2019, Lemma 1, as
printed) are unsound: two neurons see different increments, and no inequality between them follows from their slopes
(MATH section 4: Pauli et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lipcert.methods.problem import L2, Cost, Method, Problem
from lipcert.terms.result import Refusal, Side

REASON = (
    "it is unsound: coupled multipliers give 4e-5 with status optimal for W1 = [[1, 0], [1, 0]], W2 = [1, -1] with "
    "slopes 0 and 1, whose constant is 1 (Pauli et al. 2021). Use lipsdp"
)


@dataclass(frozen=True)
class LipsdpNetwork(Method):
    name: ClassVar[str] = "lipsdp-network"
    side: ClassVar[Side] = "upper"
    norms = L2
    cost = Cost.PROGRAM
    on_request = True

    def refuses(self, problem: Problem) -> Refusal | None:
        return self.run(problem)

    def run(self, problem: Problem) -> Refusal:
        return Refusal(self.name, self.side, "refused", REASON)
