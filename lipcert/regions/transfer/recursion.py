"""The norm of all Jacobians by the triangle inequality, term by term (MATH section 10, A):

a_t = ||W_t L||_{p->2} + sum_{u<t} ||W_t T_u V_u||_2 a_u,        ||J||_{p->q} <= ||L||_{p->q} + sum_t ||T_t V_t||_{2->q} a_t.

a_t bounds ||W_t J_read(t)(x)||, the Jacobian at the perturbed point, hence ||y_t||: not ||W_t L|| alone.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from lipcert.network.graph import Enclosure as Known
from lipcert.regions.transfer.deviations import Spread, X
from lipcert.regions.transfer.reach import inf_to_two
from lipcert.rigor.matrix_norms import matrix_norm_upper
from lipcert.rigor.rounding import add_up, mul_up
from lipcert.terms.query import Norm, P


@dataclass(frozen=True)
class Recursion:
    """`value`: the norm. `reached`: a_t. `inner`: ||W_t T_u V_u||_2 by (t, u). `outer`: ||T_t V_t||_{2->q}. All upper values."""

    value: float
    reached: dict[Hashable, float]
    inner: dict[tuple[Hashable, Hashable], float]
    outer: dict[Hashable, float]

    def weights(self) -> dict[Hashable, float]:
        """c_t = ||T_t V_t|| + sum_{u>t} ||W_u T_t V_t|| c_u, the same recursion from the other end. 0 only where the term reaches
        no output at all."""
        found: dict[Hashable, float] = {}
        for t in reversed(self.reached):
            found[t] = self.outer.get(t, 0.0)
            for (u, source), size in self.inner.items():
                if source == t:
                    found[t] = add_up(found[t], mul_up(size, found[u]))
        return found


def recursion(found: Spread, norm: Norm) -> Recursion:
    reached: dict[Hashable, float] = {}
    inner: dict[tuple[Hashable, Hashable], float] = {}
    for placed in found.terms:
        total = 0.0
        for key, rows in placed.rows.items():
            if key == X:
                total = add_up(total, _norm(rows, norm.input, "2"))
            elif reached.get(key, 0.0) != 0:  # NaN as well
                inner[placed.key, key] = _norm(rows, "2", "2")
                total = add_up(total, mul_up(inner[placed.key, key], reached[key]))
        reached[placed.key] = total
    value, outer = 0.0, {}
    for key, rows in found.output.items():
        if key == X:
            value = add_up(value, _norm(rows, norm.input, norm.output))
        else:
            outer[key] = _norm(rows, "2", norm.output)
            value = add_up(value, mul_up(outer[key], reached[key]))
    return Recursion(value, reached, inner, outer)


def _norm(rows: Known, p: P, q: P) -> float:
    """Of the matrix with these rows as columns."""
    if not rows.centre.numel():
        return 0.0
    if (p, q) == ("inf", "2") and rows.centre.shape[1] > 1:
        return inf_to_two(rows.centre, rows.reach())
    if rows.centre.shape[1] == 1:  # one output: the dual norm of a vector
        q = "inf"
    return matrix_norm_upper(rows.centre.mT.contiguous(), rows.reach().mT.contiguous(), p, q)
