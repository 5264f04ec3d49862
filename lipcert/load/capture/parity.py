"""Gate 5: our evaluation of the lowered graph against the original object, at random points of several scales.

It catches a wrong reading (a transposed weight, a wrong default, cross-wired inputs), not rounding: the original runs
in its own arithmetic, so the two can only be asked to agree to the accuracy of that arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lipcert.load.source import Reference
from lipcert.terms.errors import RefusedModel

POINTS = 4  # of each scale: 16 in all
# A point tries every entry of every signal. Where these are many, a rule that reads wrongly does so thousands of times at
# one point, and the points are what loading takes: 8 in the original's own arithmetic, 4 of them in float64 as well.
LARGE = 1_000_000  # entries of all signals
_OF_LARGE = (2, 1)  # points of each scale: of the first reference, of others
SCALES: tuple[tuple[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]], ...] = (
    ("0.01", lambda draw, shape: 1e-2 * draw.standard_normal(shape)),
    ("1", lambda draw, shape: draw.standard_normal(shape)),
    ("10", lambda draw, shape: 10.0 * draw.standard_normal(shape)),
    ("[0, 1]", lambda draw, shape: draw.uniform(0.0, 1.0, shape)),
)

# Difference, relative to the largest output, that the arithmetic of the original explains. Its unit roundoff is u. A
# sum of n products errs by up to n u sum|terms|, in practice by sqrt(n) u; tens of layers with n up to 1e4 and some
# cancellation give about 300 u for float32. 16-bit originals accumulate in more bits, but round in every layer.
# Originals in float64 may compute parts in 32 bits (casts inside, coefficients of an interpolation): some u of float32.
#
# Where terms cancel, the output is small beside what is added up to it, and 300 u of the output is too little. Then the
# error of this network in this arithmetic is measured (`Reference.rounding`), and a multiple of it is allowed: another
# order of summation errs as much. Never beyond `_MEASURED` of the output: a wrong weight shows there. Where all of the
# output cancels (f(x) - f(x) in another order), so that it is no larger than that, `_MEASURED` of it is nothing as well; then
# the original itself says how far its sums are off: a multiple of what it moves when its inputs move by a unit in the last
# place, which no error of ours is part of. Not beyond what was measured either; in float64, where nothing is measured, not
# beyond `_STILL`.
#
# What rounding of a subnormal product leaves of an exact 0 is no difference.
#
# Kernels of a runtime leave the operator's definition for large arguments (onnxruntime's float32 sigmoid is constant below
# -18, and its logarithm with it; at -7 it is 3e-5 off). Where inputs of the largest scale alone show a difference, or one
# below `_MEASURED`, the definition decides.
_MULTIPLE = 8.0
_MEASURED = 5e-4
_STILL = 1e-10  # times the inputs, in float64: an original that is more restless jumps
_NOTHING = 4 * float(np.finfo(np.float64).smallest_normal)
_LAST_PLACE = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_FAR = ("10",)
_TOLERANCE = {"float64": 1e-6, "float32": 2e-5, "float16": 3e-2, "bfloat16": 1e-1}


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
    entries: int = 0,
) -> list[ParityRecord]:
    """`evaluate`: (k, *shape) float64 -> (k, *out) float64, our own graph. `shape`: of one input; `entries`: of all
    signals of the graph, see `LARGE`.

    The points are rounded to the first reference's dtype, so that all sides see the same input, and our graph is evaluated
    once at each of them; then to that of the reference. At each scale the
    difference may reach a tolerance of the dtype times max |theirs| over its points, or a multiple of the error that the
    dtype was measured to make there. Raises RefusedModel at the first scale
    where it is larger, or where no scale could be compared.
    """
    records: list[ParityRecord] = []
    draw, ours = np.random.default_rng(seed), dict[bytes, np.ndarray]()
    drawn = {name: sample(draw, (POINTS, *shape)) for name, sample in SCALES}

    def once(points: np.ndarray) -> np.ndarray:
        keys = [hashlib.sha256(point.tobytes()).digest() for point in points]
        new = [place for place, key in enumerate(keys) if key not in ours]
        if new:
            found = np.asarray(evaluate(points[new]), dtype=np.float64)
            ours.update(zip([keys[place] for place in new], found, strict=True))
        return np.stack([ours[key] for key in keys])

    for place, reference in enumerate(references):
        count = POINTS if entries < LARGE else _OF_LARGE[min(place, 1)]
        compared = [
            _compare(reference, once, name, _rounded(points[:count], references[0].dtype))
            for name, points in drawn.items()
        ]
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
    theirs, ours, points = theirs[finite], ours[finite], points[finite]
    note = "" if finite.all() else f"{int((~finite).sum())} points not compared: the original overflows"
    difference, allowed = _difference(reference, ours, theirs, points)
    small = difference <= _MEASURED * float(np.max(np.abs(theirs), initial=0.0))
    if not difference <= allowed and reference.definition is not None and (small or scale in _FAR):
        defined = _difference(reference, ours, np.asarray(reference.definition(points), dtype=np.float64), points)
        if defined[0] <= defined[1]:
            note = f"{reference.name} is {difference:.3g} off there; the format's own definition agrees"
            return ParityRecord(reference.name, reference.dtype, scale, len(points), *defined, note)
    if not difference <= allowed:  # a NaN of ours fails too
        raise RefusedModel(
            f"parity with {where}: the graph lipcert read differs from the original by {difference:.3g}, where "
            f"{allowed:.3g} is explained by {reference.dtype}. The model was not read correctly; please report it"
        )
    return ParityRecord(reference.name, reference.dtype, scale, len(points), difference, allowed, note)


def _difference(reference: Reference, ours: np.ndarray, theirs: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """The largest there is, and what the arithmetic of the original explains."""
    if ours.shape != theirs.shape:
        return np.inf, 0.0
    difference = float(np.max(np.abs(ours - theirs), initial=0.0))
    largest = float(np.max(np.abs(theirs), initial=0.0))
    allowed = max(_TOLERANCE[reference.dtype] * largest, _NOTHING)
    if difference <= allowed or (reference.rounding is None and reference.dtype != "float64"):
        return difference, allowed
    if reference.rounding is None:
        most = _STILL * max(1.0, float(np.max(np.abs(points), initial=0.0)))
        return difference, max(allowed, min(most, _MULTIPLE * _unrest(reference, points, theirs)))
    measured, most = _MULTIPLE * reference.rounding(points), _MEASURED * largest
    if most < difference <= measured and largest <= measured:  # an output that is itself no more than rounding
        most = max(most, _MULTIPLE * _unrest(reference, points, theirs))
    return difference, max(allowed, min(measured, most))


def _unrest(reference: Reference, points: np.ndarray, theirs: np.ndarray) -> float:
    """How far outputs of the original move with inputs that move by a unit in the last place, up, down, and both in turn."""
    turns = np.where(np.arange(points[0].size).reshape(points.shape[1:]) % 2, 1.0, -1.0)
    moved = 0.0
    for direction in (1.0, -1.0, turns, -turns):
        beside = _rounded(points * (1.0 + direction * _LAST_PLACE[reference.dtype]), reference.dtype)
        there = np.asarray(reference.evaluate(beside), dtype=np.float64)
        if there.shape == theirs.shape and np.isfinite(there).all():
            moved = max(moved, float(np.max(np.abs(there - theirs), initial=0.0)))
    return moved


def _rounded(points: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":  # numpy has none: keep the upper 16 bits of float32
        return (points.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return points.astype(dtype).astype(np.float64)
