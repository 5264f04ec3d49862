"""Gate 5: our evaluation of the lowered graph against the original object, at random points of several scales.

It catches a wrong reading (a transposed weight, a wrong default, cross-wired inputs), not rounding: the original runs
in its own arithmetic, so the two can only be asked to agree to the accuracy of that arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lipcert.errors import RefusedModel
from lipcert.load.source import Reference

POINTS = 4  # of each scale: 16 in all
SCALES: tuple[tuple[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]], ...] = (
    ("0.01", lambda draw, shape: 1e-2 * draw.standard_normal(shape)),
    ("1", lambda draw, shape: draw.standard_normal(shape)),
    ("10", lambda draw, shape: 10.0 * draw.standard_normal(shape)),
    ("[0, 1]", lambda draw, shape: draw.uniform(0.0, 1.0, shape)),
)

# Relative difference that the arithmetic of the original explains. A sum of n products errs by at most
# n u sum|terms|, in practice sqrt(n) u; with n up to about 1e4 terms a layer, some cancellation and tens of layers,
# 1e3 u is what honest implementations differ by. float32: 1e3 * 6e-8 is 6e-5, taken as 1e-4; float64 is held to 1e-9,
# for constants of 32-bit operators (bicubic coefficients, epsilon) may have been rounded in the original.
_TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 3e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class ParityRecord:
    """Comparison with one reference at one scale of inputs.

    `difference`: largest |ours - theirs|; `allowed`: what it may be. `points` is 0 where the original overflowed, and
    then nothing was compared (`note` says so).
    """

    reference: str
    dtype: str
    scale: str
    points: int
    difference: float
    allowed: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_parity(
    references: Sequence[Reference],
    evaluate: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...],
    seed: int = 0,
) -> list[ParityRecord]:
    """`evaluate`: (k, *shape) float64 -> (k, *out) float64, our own graph. `shape`: of one input.

    The points are rounded to the reference's dtype first, so that both sides see the same input. At one scale the
    difference may reach `tolerance(dtype) * max |theirs|` over its points, with the spread of the outputs around their
    mean put in place of the maximum where it is smaller but not below a hundredth of it: a large constant output must
    not hide a wrong weight. Raises RefusedModel at the first scale that differs, or where no scale could be compared.
    """
    records = []
    for reference in references:
        draw = np.random.default_rng(seed)
        compared = [_compare(reference, evaluate, name, sample(draw, (POINTS, *shape))) for name, sample in SCALES]
        if not any(record.points for record in compared):
            raise RefusedModel(f"{reference.name}: the original gives no finite output at any point that was tried")
        records += compared
    return records


def _compare(
    reference: Reference, evaluate: Callable[[np.ndarray], np.ndarray], scale: str, points: np.ndarray
) -> ParityRecord:
    points = _rounded(points, reference.dtype)
    theirs = np.asarray(reference.evaluate(points), dtype=np.float64)
    ours = np.asarray(evaluate(points), dtype=np.float64)
    where = f"{reference.name}, inputs of scale {scale}"
    if ours.shape != theirs.shape:
        raise RefusedModel(
            f"parity with {where}: the original's output has shape {theirs.shape[1:]}, ours {ours.shape[1:]}"
        )
    finite = np.isfinite(theirs).reshape(len(points), -1).all(axis=1)
    if not finite.any():
        return ParityRecord(reference.name, reference.dtype, scale, 0, 0.0, 0.0, "not compared: the original overflows")
    theirs, ours = theirs[finite], ours[finite]
    difference = float(np.max(np.abs(ours - theirs), initial=0.0))
    allowed = _TOLERANCE[reference.dtype] * _magnitude(theirs)
    if not difference <= allowed:  # a NaN of ours fails too
        raise RefusedModel(
            f"parity with {where}: the graph lipcert read differs from the original by {difference:.3g}, where "
            f"{allowed:.3g} is explained by {reference.dtype}. The model was not read correctly; please report it"
        )
    note = "" if finite.all() else f"{int((~finite).sum())} points not compared: the original overflows"
    return ParityRecord(reference.name, reference.dtype, scale, int(finite.sum()), difference, allowed, note)


def _magnitude(outputs: np.ndarray) -> float:
    """Scale of the outputs, see `check_parity`; tiny but positive for outputs that vanish."""
    largest = float(np.max(np.abs(outputs), initial=0.0))
    spread = float(np.max(np.abs(outputs - outputs.mean(axis=0)), initial=0.0))
    return max(min(largest, spread), largest / 100, math.ulp(0.0) * 2**60)


def _rounded(points: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":  # numpy has none: keep the upper 16 bits of float32
        return (points.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return points.astype(dtype).astype(np.float64)
