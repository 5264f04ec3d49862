"""Lines that may turn: of a function with one corner at 0, every slope between its two is one of a line through 0 on its other side.

s(z) = r z for z > 0, l z for z <= 0. Where r >= l, s(z) - m z is (r - m) z or (l - m) z: not negative for any l <= m <= r, exactly,
so m z lies below s on the whole line; where r <= l it lies above. Any slope may be chosen (alpha-CROWN, Xu et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.activations import Elementwise
from lipcert.activations.corner import Corner
from lipcert.regions.backward.lines import Lines


@dataclass(frozen=True, eq=False)
class Turning:
    """Each (b, size): the slopes to choose from, and where it is the line `below` that may turn, where the one `above`."""

    least: Tensor
    most: Tensor
    below: Tensor
    above: Tensor

    @classmethod
    def of(cls, activation: Elementwise, lower: Tensor, upper: Tensor) -> Turning | None:
        """Where 0 lies inside [lower, upper], (b, size) each; None: the function has other bends."""
        corner = activation.row.slopes_on
        if not isinstance(corner, Corner):
            return None
        left, right = corner.sides(*(torch.as_tensor(p, dtype=torch.float64) for p in activation.params))
        crossing = (lower < 0) & (upper > 0) & torch.isfinite(left + right)
        least, most = (side.expand_as(lower) for side in (torch.minimum(left, right), torch.maximum(left, right)))
        return cls(least, most, crossing & (right >= left), crossing & (right < left))

    def __getitem__(self, rows: Tensor) -> Turning:
        return Turning(self.least[rows], self.most[rows], self.below[rows], self.above[rows])

    def to(self, dtype: torch.dtype) -> Turning:
        return Turning(self.least.to(dtype), self.most.to(dtype), self.below, self.above)

    @property
    def free(self) -> Tensor:
        return self.below | self.above

    def slope(self, lines: Lines) -> Tensor:
        """The slopes that the lines have now; anything where none may turn."""
        return torch.where(self.above, lines.high_slope, lines.low_slope)

    def turned(self, lines: Lines, slope: Tensor) -> Lines:
        """With the slopes (b, size), taken into their ranges; NaN leaves a line as it is."""
        chosen = torch.minimum(torch.maximum(slope.to(self.least), self.least), self.most)
        chosen = torch.where(torch.isnan(chosen), self.slope(lines), chosen)
        below, above = (side & torch.isfinite(chosen) for side in (self.below, self.above))
        return Lines(
            torch.where(below, chosen, lines.low_slope),
            torch.where(below, 0.0, lines.low),
            torch.where(above, chosen, lines.high_slope),
            torch.where(above, 0.0, lines.high),
        )
