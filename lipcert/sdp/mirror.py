"""The closed form of ECLipsE-Fast from the input on: the closed form of the transposed network, carried back.

The transposed network z_k = D_k v_k, v = A'z + C'y, x = B'z + D'y has the same slopes and the same LipSDP optimum. By
the dualisation lemma (Scherer & Weiland, Lemma 4.9) with the inverse of [[-2ab, a+b], [a+b, -2]], multipliers lambda' with
s_y = 1 of the one are multipliers 1 / (lambda' (b - a)^2) with s_x = 1 of the other. Nothing here is trusted.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lipcert.network.graph import Enclosure
from lipcert.proofs.lmi import Coefficients
from lipcert.proofs.normal_form import NormalForm
from lipcert.sdp.multipliers import Restored, closed_form


def transposed(form: NormalForm, table: Coefficients) -> tuple[NormalForm, Coefficients]:
    """Layers in reverse order and A_kj' from variable K + 1 - k to K + 1 - j. The graph is left as it was."""
    top = len(table.sizes) - 1
    rows: list[dict[int, Enclosure]] = [{} for _ in table.sizes]
    for k, row in enumerate(table.rows):
        for j, block in row.items():
            rows[top - j][top - k] = Enclosure(block.centre.T)
    return replace(form, layers=form.layers[::-1]), Coefficients(table.sizes[::-1], tuple(rows))


def mirrored_closed_form(form: NormalForm, table: Coefficients) -> Restored:
    """Multipliers for s_x = 1. Needs slopes that are equal within each group."""
    found = closed_form(*transposed(form, table))
    multipliers = []
    for layer, m in zip(form.layers, reversed(found.multipliers), strict=False):
        width = torch.zeros(layer.count, dtype=torch.float64).index_copy_(0, layer.groups, layer.high - layer.low)
        multipliers.append(1 / (m * width.square()))
    return Restored(multipliers, found.rho)
