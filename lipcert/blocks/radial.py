"""z = u phi(|u|_2) along an axis: normalisations by the Euclidean norm of their own group.

x / sqrt(sum x^2 + eps), x / sqrt(mean x^2 + eps), x / max(|x|, eps), x / (|x| + eps), the squashing of capsule networks:
with psi(r) = r phi(r) the Jacobian at u of norm r, n = u / r, is

    J = phi(r) (I - n n') + psi'(r) n n'

symmetric, with eigenvalues phi(r) across u and psi'(r) along it. phi(r) = psi(r) / r is a mean of psi' over [0, r], for
psi(0) = 0. So the l2 constant is exactly sup |psi'| over r >= 0. l1 and linf: J = phi I + (psi' - phi) n n', and a row of
n n' sums to |n_i| |n|_1 <= (1 + sqrt n) / 2 (largest at n_i^2 = (1 + 1 / sqrt n) / 2), hence at most
sup |phi| + sup |psi' - phi| (1 + sqrt n) / 2; and at most sqrt(n) times the l2 constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.activations.composed import composed
from lipcert.activations.jets import Expression, Step, spliced
from lipcert.blocks.base import Axis, Range, down
from lipcert.blocks.normalise import Norm2
from lipcert.rigor.rounding import add_up, mul_up, sqrt_up, up
from lipcert.terms.query import P

IDENTITY = composed(Expression(()))


@dataclass(frozen=True, eq=False)
class Radial(Axis):
    """`factor`: phi, a row of r = |u|_2, r >= 0. `profile`: psi(|r|) = |r| phi(|r|) as a row, made from it."""

    factor: Elementwise = field(default=IDENTITY)

    label = "norm scaling"

    @property
    def reason(self) -> str:  # type: ignore[override]
        return f"x f(|x|) with f = {self.factor.name}: its slope at some |x| has no finite bound"

    @property
    def profile(self) -> Elementwise:
        if "profile" not in self.memo:
            size = Step("row", (0,), Elementwise(ACTIVATIONS["abs"]))
            steps = (size, *spliced(self.factor, 1))
            self.memo["profile"] = composed(Expression((*steps, Step("times", (1, len(steps))))))
        return self.memo["profile"]

    def function(self, u: Tensor) -> Tensor:
        return u * self.factor(torch.linalg.vector_norm(u, dim=2, keepdim=True))

    def eigenvalues(self, size: Range | None) -> tuple[Range, Range]:
        """Ranges of phi and psi' where |u| lies in `size` (None: everywhere)."""
        if size is None:
            line = torch.zeros(1, dtype=torch.float64), torch.full((1,), math.inf, dtype=torch.float64)
            along = tuple(torch.as_tensor(side, dtype=torch.float64).reshape(1) for side in self.profile.slopes())
            across = self.factor.values_on(*line)
            most = torch.maximum(along[0].abs(), along[1].abs())  # |phi| <= sup |psi'|
            return (torch.maximum(across[0], -most), torch.minimum(across[1], most)), along  # type: ignore[return-value]
        across, along = self.factor.values_on(*size), self.profile.slopes_on(*size)
        whole = self.eigenvalues(None)
        return _met(across, whole[0]), _met(along, whole[1])

    def sizes(self, u: Range) -> Range:
        """Ranges of the norm of each group, (rows, outer, 1, inner)."""
        low, high = Norm2(self.outer, self.n, self.inner)._range(self._view(u[0]), self._view(u[1]))
        return low[:, :, None], high[:, :, None]

    def lipschitz(self, p: P, ranges: tuple[Range, ...] | None = None) -> tuple[float, ...]:
        size = None if ranges is None else self.sizes(ranges[0])
        across, along = self.eigenvalues(size)
        least, most = (float(torch.maximum(side[0].abs(), side[1].abs()).max()) for side in (across, along))
        euclid = max(least, most)
        if p == "2" or self.n == 1:
            return (most if self.n == 1 else euclid,)
        root = sqrt_up(float(self.n))
        gap = float(torch.maximum(up(along[1] - across[0]), up(across[1] - along[0])).max())
        return (min(mul_up(root, euclid), add_up(least, mul_up(gap, up((1 + root) / 2)))),)

    def _range(self, lower: Tensor, upper: Tensor) -> Range:
        """u_i phi(r), and never more than |psi(r)|."""
        size = self.sizes((lower, upper))
        across = self.factor.values_on(*size)
        corners = [(x * y).nan_to_num(0.0, math.inf, -math.inf) for x in (lower, upper) for y in across]
        low = down(torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3])))
        high = up(torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3])))
        reach = self.profile.values_on(*size)
        most = torch.maximum(reach[0].abs(), reach[1].abs())
        return torch.maximum(low, -most), torch.minimum(high, most)


def _met(a: Range, b: Range) -> Range:
    return torch.maximum(a[0], b[0]), torch.minimum(a[1], b[1])
