"""Kind `chain`: a constant of every signal with respect to the input, each of which follows from those before it
(proofs/chain.py).

    "constants": [{"node": int, "1" | "2" | "inf": float, ..}]     every nonlinearity, then the output; "node" counts 0, 1, ..
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lipcert.proofs.kinds.base import NORMS, Proof, no_ranges
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import NORMS as NAMES
from lipcert.terms.query import Norm, P
from lipcert.terms.strict import count_of, float_of, list_of, record, reject

if TYPE_CHECKING:
    from lipcert.network.affine import Constants
    from lipcert.network.graph import Graph

SLACK = 1 + 2.0**-40  # for each inequality of a chain: another machine adds up in another order
Rows = tuple[tuple[int, dict[str, float]], ...]


@dataclass(frozen=True)
class Chain(Proof):
    """`constants`: (node, {norm r: c}) with ||change of the node||_r <= c ||change of the input||_p. `node`: which of the
    signals; `positions`: its position in the graph instead (format 1)."""

    constants: Rows
    positions: bool = False

    kind = "chain"
    names = ("constants",)
    trusted = ("one inequality per signal: lipcert.proofs.chain", NORMS)

    @classmethod
    def of(cls, method: str, constants: Sequence[Mapping[P, float]]) -> Chain:
        """`constants`: of each signal in turn."""
        return cls(method, loosened(constants))

    def shows(self, value: float, norm: Norm) -> float:
        return self.constants[-1][1][norm.output]

    @classmethod
    def read(cls, method: str, fields: Mapping[str, Any], positions: bool) -> Chain:
        return cls(method, rows_of(fields["constants"]), positions)

    def fields(self) -> dict[str, Any]:
        return {"constants": [{"node": i, **row} for i, row in self.constants]}

    def steps(self, graph: Graph, norm: Norm) -> list[str]:
        from lipcert.proofs.chain import links

        return in_words(graph, norm, self.constants, links(graph))

    def prove(self, graph: Graph, norm: Norm) -> float:
        from lipcert.proofs.chain import link

        return follow(
            graph, norm, self.constants, self.positions, lambda node, known: link(graph, node, known, no_ranges)
        )


def loosened(constants: Sequence[Mapping[P, float]]) -> Rows:
    """Each constant has one SLACK more than those it follows from."""
    from lipcert.rigor.rounding import mul_up

    rows, factor = [], 1.0
    for k, row in enumerate(constants):
        factor = mul_up(factor, SLACK)
        rows.append((k, {str(r): mul_up(c, factor) for r, c in row.items()}))
    return tuple(rows)


def in_words(graph: Graph, norm: Norm, constants: Rows, order: tuple[int, ...]) -> list[str]:
    """One line per signal: its constants, and from what each follows."""
    lines = []
    for node, (_, row) in zip(order, constants, strict=True):
        name = "the output" if node == graph.output else graph.nodes[node].name
        sides = " and ".join(f"|change of {name}|_{r} <= {c!r} |dx|_{norm.input}" for r, c in sorted(row.items()))
        lines.append(f"{sides}: from the constants above, and norms of the linear parts between, proved again")
    return lines


def bound_of(value: Any, place: str) -> float:
    number = float_of(value, place)
    if number < 0 or math.copysign(1.0, number) < 0:
        reject(place, f"{number!r} is negative")
    return number


def rows_of(value: Any) -> Rows:
    constants = []
    for k, row in enumerate(list_of(value, "proof.constants")):
        place = f"proof.constants[{k}]"
        norms = [name for name in row if name != "node"] if isinstance(row, dict) else []
        record(row, place, ("node", *(name for name in norms if name in NAMES)))
        values = {name: bound_of(row[name], f"{place}.{name}") for name in norms}
        constants.append((count_of(row["node"], f"{place}.node"), values))
    return tuple(constants)


def follow(
    graph: Graph,
    norm: Norm,
    constants: Rows,
    positions: bool,
    step: Callable[[int, dict[int, Constants]], Constants],
) -> float:
    """Induction over the signals: each claimed constant follows from the claimed constants before it."""
    from lipcert.proofs.chain import Infinite, links, start

    order = links(graph)
    given = tuple(node for node, _ in constants)
    wanted = order if positions else tuple(range(len(order)))
    if given != wanted:
        reason = f"the signals of this network are {_few(wanted)}, not {_few(given)}"
        raise CertificateRejected("proof.constants", reason)
    known = start(graph, norm)
    for k, (node, (_, claimed)) in enumerate(zip(order, constants, strict=True)):
        place = f"proof.constants[{k}]"
        if set(claimed) != {norm.input, norm.output}:
            raise CertificateRejected(place, f"constants in the norms {norm.input} and {norm.output} are needed")
        try:
            shown = step(node, known)
        except Infinite as problem:
            raise CertificateRejected(place, problem.reason) from problem
        for r in shown:
            if not shown[r] <= claimed[r]:
                raise CertificateRejected(f"{place}.{r}", f"{claimed[r]!r} does not follow, {shown[r]!r} does")
        known[node] = {r: claimed[r] for r in shown}
    return known[graph.output][norm.output]


def _few(items: tuple[int, ...]) -> str:
    return str(list(items)) if len(items) <= 12 else f"{list(items[:12])} .. ({len(items)})"
