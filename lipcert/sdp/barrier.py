"""The barrier - log det Z of the LipSDP inequality of a narrow chain (MATH section 4), with exact derivatives.

    Z(lambda, rho) = rho E_0 E_0' - E_K C'C E_K' + sum_i lambda_i (p_i q_i' + q_i p_i'),   p = e - a w, q = e - b w

is block tridiagonal: its block Cholesky takes K small factorisations, its inverse X is semiseparable (each block row is the
one before, times a small matrix; Vandebril, Van Barel & Mastronardi 2008), and with S_pq = P X Q'

    gradient_i = 2 (S_pq)_ii,    Hessian = 2 (S_pp o S_qq + S_pq o S_pq')      (o: entry by entry)

so one Newton step costs one Cholesky of as many rows as there are neurons. Multipliers that Z >= 0 alone does not keep
positive (slopes of one sign, a b > 0) have - log lambda as well. In floating point; nothing here is trusted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.sdp.narrow import Narrow


@dataclass(frozen=True, eq=False)
class Factor:
    """Z = U diag(S) U', U unit upper triangular: Cholesky factors of the S_k and F_k = S_k^-1 Z_{k,k-1}."""

    pivots: list[Tensor]
    below: list[Tensor]


class Barrier:
    """A point is (lambda_1 .. lambda_N, rho)."""

    def __init__(self, chain: Narrow):
        self.chain = chain
        self.start = chain.weights[0].shape[1]
        edges = torch.tensor([0, self.start, *chain.sizes]).cumsum(0).tolist()
        self.spans = [slice(a, b) for a, b in itertools.pairwise(edges)]  # of the variables in Z
        self.layers = [slice(s.start - self.start, s.stop - self.start) for s in self.spans[1:]]  # of the multipliers
        self.gram = chain.last.T @ chain.last
        self.total = [a + b for a, b in zip(chain.low, chain.high, strict=True)]
        self.both = [a * b for a, b in zip(chain.low, chain.high, strict=True)]
        self.mixed = [bool(both.any()) for both in self.both]
        self.free = (torch.cat(self.both) > 0).double()
        self.positive_part = all(not bool(low.any()) for low in chain.low)  # p = e

    @property
    def parameter(self) -> float:
        """nu: the barrier falls by at most nu log t when the point moves t times as far out."""
        return float(self.spans[-1].stop + self.free.sum())

    def factor(self, point: Tensor) -> Factor | None:
        """None outside."""
        found = self._eliminated(point[:-1])
        if found is None:
            return None
        pivots, below, rest = found
        first, info = torch.linalg.cholesky_ex(rest + point[-1] * torch.eye(self.start, dtype=torch.float64))
        return None if int(info) else Factor([first, *pivots], below)

    def least(self, multipliers: Tensor) -> float | None:
        """The rho below which the point lies outside; None: it does for every rho."""
        found = self._eliminated(multipliers)
        if found is None or not bool(torch.isfinite(found[2]).all()):
            return None
        return float(torch.linalg.eigvalsh(-found[2])[-1])

    def _eliminated(self, multipliers: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor] | None:
        """Pivots and F_k of the layers, and what is left at the input, without rho."""
        if not bool((multipliers > 0).all()):
            return None
        pivots: list[Tensor] = []
        below: list[Tensor] = []
        rest = -self.gram
        for k in range(len(self.chain.weights) - 1, -1, -1):
            w, weight = self.chain.weights[k], multipliers[self.layers[k]]
            found, info = torch.linalg.cholesky_ex(rest + torch.diag(2 * weight))
            if int(info):
                return None
            half = torch.linalg.solve_triangular(found, (-weight * self.total[k])[:, None] * w, upper=False)
            rest = -(half.T @ half)
            if self.mixed[k]:
                rest += w.T @ ((2 * weight * self.both[k])[:, None] * w)
            pivots.append(found)
            below.append(torch.linalg.solve_triangular(found.T, half, upper=True))
        return pivots[::-1], below[::-1], rest

    def inverse(self, factor: Factor) -> Tensor:
        size = self.spans[-1].stop
        X = torch.empty(size, size, dtype=torch.float64)
        X[self.spans[0], self.spans[0]] = torch.cholesky_inverse(factor.pivots[0])
        for k, below in enumerate(factor.below, start=1):
            before, here = self.spans[k - 1], self.spans[k]
            row = -below @ X[before, : here.start]
            X[here, : here.start] = row
            X[: here.start, here] = row.T
            X[here, here] = torch.cholesky_inverse(factor.pivots[k]) - row[:, before] @ below.T
        return X

    def derivatives(self, point: Tensor, factor: Factor) -> tuple[Tensor, Tensor]:
        """Gradient g (with the sign of + log det Z) and Hessian of the barrier."""
        X = self.inverse(factor)
        first = self.spans[0]
        q = self._rows(X, self.chain.high)
        p = X[self.start :] if self.positive_part else self._rows(X, self.chain.low)
        qq = self._rows(q.T.contiguous(), self.chain.high)
        if self.positive_part:
            pp, qp = X[self.start :, self.start :], q[:, self.start :]
        else:
            turned = p.T.contiguous()
            pp, qp = self._rows(turned, self.chain.low), self._rows(turned, self.chain.high)
        n = point.numel()
        H = torch.empty(n, n, dtype=torch.float64)
        inner = H[:-1, :-1]
        torch.mul(pp, qq, out=inner)
        inner.addcmul_(qp, qp.T)
        H[:-1, -1] = (p[:, first] * q[:, first]).sum(dim=1)
        H[-1, :-1] = H[:-1, -1]
        H[-1, -1] = X[first, first].square().sum() / 2
        H.mul_(2)
        g = torch.cat([2 * qp.diagonal(), X[first, first].trace()[None]])
        if bool(self.free.any()):
            inverse = self.free / point[:-1]
            g[:-1] += inverse
            H.diagonal()[:-1] += inverse.square()
        return g, H

    def _rows(self, matrix: Tensor, slopes: tuple[Tensor, ...]) -> Tensor:
        """(E - slope W) matrix: what neuron i reads off the block rows of its own and of the layer before."""
        out = matrix[self.start :].clone()
        for k, (w, slope) in enumerate(zip(self.chain.weights, slopes, strict=True), start=1):
            here = self.spans[k]
            out[here.start - self.start : here.stop - self.start].addmm_(
                slope[:, None] * w, matrix[self.spans[k - 1]], alpha=-1
            )
        return out
