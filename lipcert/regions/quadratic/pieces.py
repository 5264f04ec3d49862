"""The Jacobian of a piecewise quadratic network on one piece, enclosed where v is known up to an error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipcert.regions.enumeration.pieces import Piece
from lipcert.regions.enumeration.program import Program
from lipcert.regions.quadratic.surrogate import QuadraticLayer, Surrogate
from lipcert.rigor.rounding import EPS

MORE = 1.0 + 2.0**-40  # all roundings in sums of radii, and many more
LOST = 1e-290
BEYOND = 1.0 + 1e-8  # hull.py looks a little farther than the box, on which errors are known

Interval = tuple[np.ndarray, np.ndarray]  # centre and radius


@dataclass(frozen=True, eq=False)
class Affine:
    """Of one piece. `rows`: slopes (outputs of the surrogate, n) in t, constants and errors on the box; `radius` (n,) of it."""

    made: Surrogate
    program: Program
    rows: np.ndarray

    @classmethod
    def of(cls, made: Surrogate, program: Program, piece: Piece) -> Affine:
        return cls(made, program, piece.outputs)

    def jacobians(self, points: np.ndarray, errors: np.ndarray) -> Interval:
        """(k, outputs, n), with respect to x, at every t within `errors` of `points` (k, n) each."""
        n, m = points.shape[1], self.made.outputs
        centre, radius = np.repeat(self.rows[None, :m, :n], len(points), axis=0), self._slack(self.rows[:m])
        size = np.abs(centre)
        for layer in self.made.layers:
            part, spread, mass = self._through(layer, points, errors)
            centre, radius, size = centre + part, radius + spread, size + mass
        unit = 2 * (len(self.made.layers) + 2) * EPS
        radius = (radius + unit * size) * MORE + LOST * (radius > 0)
        scale = 1.0 / self.program.scale  # powers of two
        return centre * scale, np.broadcast_to(radius, centre.shape) * scale

    def _slack(self, rows: np.ndarray) -> np.ndarray:
        """Of slopes: their errors times the box's radii together are not above the error of the row."""
        return rows[:, -1:] / self.program.radius * MORE

    def _through(
        self, layer: QuadraticLayer, points: np.ndarray, errors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """W diag(s') V (k, outputs, n), its radius, and the sum of the sizes of its terms."""
        n, k = points.shape[1], layer.size
        rows = self.rows[layer.values : layer.values + k]
        slopes, slack = rows[:, :n], self._slack(rows)
        first, wide = self._slopes(layer, rows, points, errors)
        inner = first[:, :, None] * slopes
        size = np.abs(first[:, :, None]) * np.abs(slopes)
        spread = (np.abs(first) + wide)[:, :, None] * slack + wide[:, :, None] * np.abs(slopes) + 2 * EPS * size
        weight, error = np.abs(layer.weight), layer.error
        mass = weight @ size
        radius = (weight + error) @ spread + error @ size + 2 * (k + 4) * EPS * mass
        return layer.weight @ inner, radius, mass

    def _slopes(self, layer: QuadraticLayer, rows: np.ndarray, points: np.ndarray, errors: np.ndarray) -> Interval:
        """s'(v) = m v + b (k, size)."""
        n = points.shape[1]
        size = np.abs(rows[:, :n])
        v = points @ rows[:, :n].T + rows[:, n]
        mass = np.abs(points) @ size.T + np.abs(rows[:, n])
        off = (errors @ size.T + rows[:, -1] * BEYOND + 2 * (n + 4) * EPS * mass) * MORE
        (m, dm), (b, db) = self._ramp(layer)
        made = m * v
        slack = (np.abs(m) + dm) * off + dm * np.abs(v) + db + 4 * EPS * (np.abs(made) + np.abs(b))
        return made + b, slack * MORE

    def _ramp(self, layer: QuadraticLayer) -> tuple[Interval, Interval]:
        """m and b of the piece that each entry lies in: on the right of those kinks of which relu(v - c) is not 0."""
        rows = [self.rows[a : a + layer.size] for a in layer.above]
        place = np.zeros(layer.size, dtype=np.int64)
        for above in rows:
            place += (above != 0).any(axis=1)
        at = np.arange(layer.size)

        def chosen(which: int) -> Interval:
            low, high = (np.stack([ramp[which][side] for ramp in layer.ramps])[place, at] for side in (0, 1))
            middle = low / 2 + high / 2
            return middle, np.maximum(high - middle, middle - low) * MORE

        return chosen(0), chosen(1)
