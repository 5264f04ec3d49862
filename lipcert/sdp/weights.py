"""Weights that make an l1 or linf norm Euclidean, found by the dual sweeps.

For linf at the input, diag(d) stands in the matrix inequality in place of rho I, and |x|_inf <= 1 gives x'diag(d)x <= sum d
(Wang et al. 2022, GeoLIP). In the dual every column of Y_0 has length 1, where l2 had |Y_0|_F = 1; at a fixed point d_i is
the length of column i of the gradient. For l1 at the output sum_j |Y_j| is maximised in place of |Y|_F^2, and its weights
are the lengths of the columns of Y_out. With x = T x', y' = U y, t = d^-1/2 and u = s^-1/2 the inequality is that of l2.
Nothing here is trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.proofs.normal_form import NormalForm
from lipcert.sdp.sweep import LEAST, Anderson, Dual

SWEEPS, SETTLED = 250, 1e-4  # of the weights, which need not be exact: the proof is about those that were found
NARROWEST = 1e-9  # of the largest: what an input without influence is weighed as


@dataclass
class WeightedDual(Dual):
    """`each`: every column of Y_0 has length 1 (linf); `total`: the sum of lengths is maximised (l1)."""

    each: bool = False
    total: bool = False

    def input_size(self, y0: Tensor) -> Tensor:
        return torch.linalg.vector_norm(y0, dim=0) if self.each else super().input_size(y0)

    def output_value(self, out: Tensor) -> tuple[float, Tensor]:
        if not self.total:
            return super().output_value(out)
        lengths = torch.linalg.vector_norm(out, dim=0)
        return float(lengths.sum()), out / lengths.clamp(min=LEAST[out.dtype])


def weights(
    form: NormalForm, each: bool, total: bool, seed: int, stop: Callable[[], bool]
) -> tuple[Tensor | None, Tensor | None]:
    """(t, u), None where the norm is l2 at that end."""
    if not (each or total):
        return None, None
    dual = WeightedDual(form, 16, seed, each=each, total=total)
    anderson, state, fallback, value = Anderson(), dual.start(), None, 0.0
    swept = dual.sweep(state)
    for _ in range(SWEEPS):
        if stop() or swept.value == 0.0:
            break
        if fallback is not None and swept.value < value * (1 - 1e-13):
            anderson.forget()
            state, fallback = fallback, None
        else:
            value, fallback = swept.value, swept.after
            state = dual.unit(dual.state(anderson.next(state.flat, swept.after.flat)))
            if anderson.residual <= SETTLED:
                break
        swept = dual.sweep(state)
    graph = form.graph
    return (
        _inverse_roots(swept.at_input, graph.nodes[graph.input].size) if each else None,
        _inverse_roots(swept.out, graph.nodes[graph.output].size) if total else None,
    )


def _inverse_roots(columns: Tensor | None, size: int) -> Tensor:
    """d^-1/2, scaled so that sum d = 1; no weight is zero."""
    d = torch.ones(size, dtype=torch.float64) if columns is None else torch.linalg.vector_norm(columns, dim=0)
    top = float(d.max()) if d.numel() else 0.0
    d = d.clamp(min=NARROWEST * top) if 0 < top < float("inf") else torch.ones_like(d)
    return (d / d.sum()).rsqrt()
