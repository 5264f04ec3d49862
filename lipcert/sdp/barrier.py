"""The barrier - log det Z of the LipSDP inequality of a narrow chain (MATH section 4), with exact derivatives.

    Z(lambda, rho) = rho E_0 E_0' - E_K C'C E_K' + sum_i lambda_i (p_i q_i' + q_i p_i'),   p = e - a w, q = e - b w

is block tridiagonal: its block Cholesky takes K small factorisations, its inverse X is semiseparable (each block row is the
one before, times a small matrix: X_kj = -F_k X_{k-1,j} for j < k; Vandebril, Van Barel & Mastronardi 2008), and with S_pq = P X Q'

    gradient_i = 2 (S_pq)_ii,    Hessian = 2 (S_pp o S_qq + S_pq o S_pq')      (o: entry by entry)

so one Newton step costs one Cholesky of as many rows as there are neurons. The rows of P X P', P X Q' of one layer come from
those of the layer before by one small product, and no matrix of all neurons but the Hessian is formed. Multipliers that Z >= 0 alone does not keep
positive (slopes of one sign, a b > 0) have - log lambda as well. In floating point; nothing here is trusted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lipcert.sdp.narrow import Narrow


@dataclass(frozen=True, eq=False)
class Factor:
    """Z = U diag(S) U', U unit upper triangular: inverse Cholesky factors of the S_k, and F_k = S_k^-1 Z_{k,k-1}."""

    inverses: list[Tensor]
    below: list[Tensor]


@dataclass(frozen=True, eq=False)
class Factors:
    """The same of b points, those of them that have one, and what is left at the input, without rho."""

    stands: Tensor
    inverses: list[Tensor]
    below: list[Tensor]
    rest: Tensor

    def of(self, i: int) -> Factor | None:
        return Factor([t[i] for t in self.inverses], [t[i] for t in self.below]) if bool(self.stands[i]) else None


class Barrier:
    """A point is (lambda_1 .. lambda_N, rho)."""

    def __init__(self, chain: Narrow):
        self.chain = chain
        self.start = chain.weights[0].shape[1]
        edges = torch.tensor([0, self.start, *chain.sizes]).cumsum(0).tolist()
        self.spans = [slice(a, b) for a, b in itertools.pairwise(edges)]  # of the variables in Z
        self.layers = [slice(s.start - self.start, s.stop - self.start) for s in self.spans[1:]]  # of the multipliers
        self.gram = chain.last.T @ chain.last
        both = [a * b for a, b in zip(chain.low, chain.high, strict=True)]
        self.free = (torch.cat(both) > 0).double()
        # of each layer: its multipliers, W, the identity, -(a + b) W / 2, and a b W where it is not 0
        joint = [-(a + b)[:, None] / 2 * w for w, a, b in zip(chain.weights, chain.low, chain.high, strict=True)]
        products = [ab[:, None] * w if bool(ab.any()) else None for w, ab in zip(chain.weights, both, strict=True)]
        units = [torch.eye(n, dtype=torch.float64) for n in chain.sizes]
        self.parts = (self.layers, chain.weights, units, joint, products)
        self.hessian = torch.zeros(len(self.free) + 1, len(self.free) + 1, dtype=torch.float64)
        # p = e - a W, q = e - b W: a W and b W
        self.ends = [
            tuple((slope[:, None] * w).numpy() for slope in slopes)
            for w, *slopes in zip(chain.weights, chain.low, chain.high, strict=True)
        ]

    @property
    def parameter(self) -> float:
        """nu: the barrier falls by at most nu log t when the point moves t times as far out."""
        return float(self.spans[-1].stop + self.free.sum())

    def factor(self, point: Tensor) -> Factor | None:
        """None outside."""
        return self.factors(point[None]).of(0)

    def factors(self, points: Tensor) -> Factors:
        """Of points (b, N + 1) together, as the blocks are small."""
        found = self._eliminated(points[:, :-1])
        whole = found.rest + points[:, -1, None, None] * torch.eye(self.start, dtype=torch.float64)
        first, info = torch.linalg.cholesky_ex(whole)
        found.inverses.insert(
            0, torch.linalg.solve_triangular(first, torch.eye(self.start, dtype=torch.float64), upper=False)
        )
        return replace(found, stands=found.stands & (info == 0))

    def least(self, multipliers: Tensor) -> Tensor:
        """The rho (b,) below which points with these multipliers (b, N) lie outside; inf: they do for every rho."""
        found = self._eliminated(multipliers)
        stands = found.stands & torch.isfinite(found.rest).flatten(1).all(1)
        rest = torch.where(stands[:, None, None], found.rest, 0.0)
        return torch.where(stands, torch.linalg.eigvalsh(-rest)[:, -1], torch.inf)

    def _eliminated(self, multipliers: Tensor) -> Factors:
        """All layers, and not the input."""
        twice, infos = 2 * multipliers[:, :, None], []
        inverses: list[Tensor] = []
        below: list[Tensor] = []
        rest = -self.gram.expand(len(multipliers), -1, -1)
        for rows, w, unit, joint, both in zip(*(part[::-1] for part in self.parts), strict=True):
            weight = twice[:, rows]
            root, info = torch.linalg.cholesky_ex(rest.addcmul(weight, unit))
            inverse = torch.linalg.solve_triangular(root, unit, upper=False)
            half = inverse @ (weight * joint)
            rest = -(half.mT @ half)
            if both is not None:
                rest = rest + w.T @ (weight * both)
            infos.append(info)
            inverses.append(inverse)
            below.append(inverse.mT @ half)
        stands = (multipliers > 0).all(1) & (torch.stack(infos) == 0).all(0)
        return Factors(stands, inverses[::-1], below[::-1], rest)

    def derivatives(self, point: Tensor, factor: Factor) -> tuple[Tensor, Tensor]:
        """Gradient g (with the sign of + log det Z), and the Hessian of the barrier: its lower triangle, in a place that the
        next call writes to again. In numpy, whose calls take a microsecond where torch takes five."""
        H, last = self.hessian, self.spans[-1].stop
        whole, inner, slopes = H.numpy(), slice(self.start, None), np.empty(len(H) - 1)
        corner = here = (factor.inverses[0].mT @ factor.inverses[0]).numpy()
        # the rows of one layer of X, P X and Q X, times P' and Q': those of X are kept aside for the next layer
        most = max(self.start, *self.chain.sizes)
        wide, kept = np.empty((2, 3 * most, last)), np.empty((2, most, last))
        kept[:, : self.start, : self.start] = corner
        for k, (root, below) in enumerate(zip(factor.inverses[1:], factor.below, strict=True)):
            ends, old, new, rows = self.ends[k], self.spans[k], self.spans[k + 1], self.layers[k]
            size, F, L = new.stop - new.start, below.numpy(), root.numpy()
            step = np.concatenate([-F, *(-F - end for end in ends)])
            before = step @ here
            across = before[:size]
            here = L.T @ L - across @ F.T
            own = np.concatenate([here, *(here - end @ across.T for end in ends)])
            for end, left, right in zip(ends, kept, wide, strict=True):
                np.matmul(step, left[: F.shape[1], : old.stop], out=right[: 3 * size, : old.stop])
                right[: 3 * size, new] = own - before @ end.T
            kept[:, :size, : new.stop] = wide[:, :size, : new.stop]
            pp, pq, qp, qq = (w[m * size : (m + 1) * size, : new.stop] for m in (1, 2) for w in wide)
            block = whole[rows, : rows.stop]
            np.multiply(pp[:, inner], qq[:, inner], out=block)
            block += pq[:, inner] * qp[:, inner]
            whole[-1, rows] = np.einsum("ij,ij->i", pp[:, : self.start], qq[:, : self.start])
            slopes[rows] = qp[:, new].diagonal()
        H[-1, -1] = float((corner * corner).sum()) / 2
        H.mul_(2)
        g = torch.from_numpy(np.append(2 * slopes, corner.trace()))
        if bool(self.free.any()):
            inverse = self.free / point[:-1]
            g[:-1] += inverse
            H.diagonal()[:-1] += inverse.square()
        return g, H
