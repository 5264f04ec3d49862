"""The multipliers of ECLipsE-Fast in both orientations, proved, the better one (Xu & Sivaranjani 2024; MATH section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lipcert.proofs.lmi import INPUT, Coefficients, prove
from lipcert.proofs.normal_form import NormalForm
from lipcert.sdp.mirror import mirrored_closed_form
from lipcert.sdp.multipliers import closed_form

PADS = (1e-12, 1e-9, 1e-6, 1e-3)  # relative additions to the multipliers, until the factorisation succeeds


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """`start`: the end at which its elimination starts, "output" or "input". `last`, `rho`: as lmi.prove took and gave them."""

    start: str
    multipliers: list[Tensor]
    last: int
    rho: float


def proved_closed_form(
    form: NormalForm, table: Coefficients, check_time: Callable[[], None] = lambda: None, below: float = math.inf
) -> ClosedForm | None:
    """None where no rho below `below` is to be had. The better of two orientations, each in the scaling in which its own elimination starts: s_y = 1 from the output,
    s_x = 1 from the input."""
    best: ClosedForm | None = None
    for start, last, found in (
        ("output", INPUT, closed_form(form, table)),
        ("input", len(form.layers) + 1, mirrored_closed_form(form, table)),
    ):
        check_time()
        if not found.multipliers or not 0 < found.rho < min(below, math.inf):
            continue
        for pad in PADS:
            multipliers = [m * (1 + pad) ** (1 if last == INPUT else -1) for m in found.multipliers]
            rho = prove(form, table, multipliers, last=last, rho=found.rho)
            if math.isfinite(rho):
                if best is None or rho < best.rho:
                    best = ClosedForm(start, multipliers, last, rho)
                break
    return best
