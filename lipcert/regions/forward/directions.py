"""Directions in which a sweep encloses J, and the norms of J that follow.

p = 1            ||J||_{1->q} = max_j ||J e_j||_q: unit vectors
p = inf          ||J||_{inf->q} = max over sign vectors of ||J d||_q, all 2^(n-1) for few inputs
p = 2, 1 output  an orthonormal basis that begins with the gradient at the centre: then only what J can do along the
                 gradient counts to first order
else             unit vectors, and the norms of interval matrices (norms.py)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.graph import VALUES, Graph
from lipcert.network.walk import forward
from lipcert.regions.cells import Cells
from lipcert.rigor.matrix_norms import matrix_norms_upper
from lipcert.rigor.rounding import EPS, gamma, mul_up, norm_down, norm_up
from lipcert.terms.query import Norm, P

SIGNED = 5  # inputs: 16 sign vectors against 5 unit vectors
FEW_OUTPUTS = 12
ORDER = {"1": 1.0, "2": 2.0, "inf": torch.inf}


@dataclass(frozen=True, eq=False)
class Directions:
    """`toward` (b, k, n). `kind`: "unit", "signs" or "basis". `defect` (b,): ||Q^-1|| of a basis that is orthonormal up
    to rounding. `adjoints`: node -> size of dy/dz at the centre, and `gradient`, are for branching."""

    toward: Tensor
    kind: str
    defect: Tensor | None = None
    adjoints: Mapping[int, Tensor] | None = None
    gradient: Tensor | None = None  # (b, outputs looked at, n): floating, at the centre


def directions(graph: Graph, cells: Cells, norm: Norm, *, adjoints: bool = False) -> Directions:
    n = cells.centre.shape[1]
    outputs = graph.nodes[graph.output].size
    basis = norm.input == "2" and outputs == 1 and n > 1
    gradient, sizes = gradients(graph, cells.centre) if basis or adjoints else (None, None)
    moving = cells.moving.to(cells.centre.dtype)
    if norm.input == "inf" and n <= SIGNED:
        return Directions(_signs(n).to(moving)[None] * moving[:, None], "signs", None, sizes, gradient)
    if basis:
        assert gradient is not None
        toward, defect = orthonormal(gradient[:, 0] * moving, moving)
        return Directions(toward, "basis", defect, sizes, gradient)
    return Directions(torch.diag_embed(moving), "unit", None, sizes, gradient)


def _signs(n: int) -> Tensor:
    """(2^(n - 1), n): sign vectors, one of each pair s, -s."""
    return torch.tensor(list(itertools.product([1.0], *[[1.0, -1.0]] * (n - 1))), dtype=torch.float64)


def gradients(graph: Graph, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Floating values, for choices only: the gradients at x of all outputs, or of some where there are many,
    (b, outputs, n), and |dy/dz| over them for the output z of each nonlinear node."""
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_(True)
        values = forward(graph, VALUES, at, keep=True)
        nodes, y = {i: values[i] for i in graph.nonlinear}, values[graph.output]
        sizes = {i: torch.zeros_like(z) for i, z in nodes.items()}
        if not y.requires_grad or not y.shape[1]:
            return torch.zeros_like(x)[:, None], sizes
        moved = [i for i, z in nodes.items() if z.requires_grad]
        wanted = [at, *(nodes[i] for i in moved)]
        found: list[Tensor] = []
        picks = range(y.shape[1]) if y.shape[1] <= FEW_OUTPUTS else range(0, y.shape[1], -(-y.shape[1] // FEW_OUTPUTS))
        for j in picks:
            rows = torch.autograd.grad(y[:, j].sum(), wanted, retain_graph=True, allow_unused=True)
            # NaN and infinity choose nothing: whatever is chosen, the sweep along it proves what follows
            first, *rest = (None if row is None else row.detach().nan_to_num(0.0, 0.0, 0.0) for row in rows)
            found.append(torch.zeros_like(x) if first is None else first)
            for i, row in zip(moved, rest, strict=True):
                if row is not None:
                    sizes[i] = torch.hypot(sizes[i], row)
    return torch.stack(found, dim=1), {i: size.detach() for i, size in sizes.items()}


def orthonormal(first: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """(b, n, n) rows: a basis of the moving coordinates that begins, up to order, with `first`; zero rows for the others.
    With it an upper value of ||Q^-1||_2: for E = Q Q' - I on the moving coordinates it is 1 / sqrt(1 - ||E||).

    A reflection that takes the longest coordinate of `first` to `first` (Householder)."""
    n = first.shape[1]
    length = torch.linalg.vector_norm(first, dim=1, keepdim=True)
    unit = torch.where(length > 0, first / length.clamp(min=1e-300), 0.0)
    place = (unit.abs() - (1 - moving)).argmax(dim=1, keepdim=True)
    sign = torch.where(unit.gather(1, place) < 0, -1.0, 1.0).to(first)
    v = unit.clone().scatter_add_(1, place, sign)
    square = v.square().sum(dim=1)[:, None, None]
    q = torch.diag_embed(moving) - 2 * v[:, :, None] * v[:, None] / square
    q = torch.where(length[:, None] > 0, q, torch.diag_embed(moving))
    q = q * moving[:, :, None] * moving[:, None]
    error = (q @ q.mT - torch.diag_embed(moving)).abs() + 2 * gamma(n + 2) * (q.abs() @ q.abs().mT)
    off = error.sum(dim=2).amax(dim=1) * (1 + 1e-6)
    return q, torch.where(off < 0.5, 1 + 2 * off, torch.inf)


def norms_above(centre: Tensor, radius: Tensor, chosen: Directions, norm: Norm) -> Tensor:
    """Upper values (b,) of ||J||_{p->q} over all J with J d in centre +- radius (b, k, m). inf where nothing is known."""
    p, q = norm.input, norm.output
    if 0 in centre.shape:
        return centre.new_zeros(centre.shape[0])
    size = centre.abs() + radius * (1 + 4 * EPS)
    size = size * (1 + 4 * EPS)
    known = torch.isfinite(size).all(dim=2).all(dim=1)
    if chosen.kind == "basis":
        assert chosen.defect is not None
        found = mul_up(norm_up(size[:, :, 0], "2", 1), chosen.defect)
    elif chosen.kind == "signs" or p == "1":
        found = norm_up(size, q, 2).amax(dim=1)
    else:
        clean = torch.where(known[:, None, None], centre, 0.0), torch.where(known[:, None, None], radius, 0.0)
        found = matrix_norms_upper(clean[0].mT.contiguous(), clean[1].mT.contiguous(), p, q)
    return torch.where(known, found, torch.inf).nan_to_num(torch.inf, torch.inf)


def norms_below(centre: Tensor, radius: Tensor, toward: Tensor, norm: Norm) -> Tensor:
    """Lower values (b,) of ||J||_{p->q}: ||J v||_q / ||v||_p for the best v = sum_i w_i d_i of the rows d of `toward`.
    0 where nothing is known."""
    p, q = norm.input, norm.output
    b, k = centre.shape[:2]
    if 0 in centre.shape:
        return centre.new_zeros(b)
    known = (torch.isfinite(centre) & torch.isfinite(radius)).all(dim=2).all(dim=1)
    centre, radius = (torch.where(known[:, None, None], side, 0.0) for side in (centre, radius))
    weights = best_weights(centre, toward, p, q)
    image = torch.bmm(weights[:, None], centre)[:, 0]
    slack = torch.bmm(weights.abs()[:, None], radius + 2 * gamma(k + 4) * centre.abs())[:, 0] * (1 + 4 * gamma(k + 8))
    v = torch.bmm(weights[:, None], toward)[:, 0].abs()
    v = v + 2 * gamma(k + 4) * torch.bmm(weights.abs()[:, None], toward.abs())[:, 0]
    length = norm_up(v * (1 + 8 * EPS), p, 1)
    size = norm_down((image.abs() - slack).clamp(min=0.0) * (1 - 4 * EPS), q, 1)
    return torch.where((length > 0) & known, size / length.clamp(min=1e-300) * (1 - 4 * EPS), 0.0)


def best_weights(centre: Tensor, toward: Tensor, p: P, q: P) -> Tensor:
    """(b, k): w with ||J v||_q large for ||v||_p = 1, v = sum w_i d_i. Directions that are exact answers are tried alone:
    unit vectors for p = 1, sign vectors for p = inf."""
    b, k, m = centre.shape
    alone = torch.linalg.vector_norm(centre, ord=ORDER[q], dim=2)
    alone = alone / torch.linalg.vector_norm(toward, ord=ORDER[p], dim=2).clamp(min=1e-300)
    single = torch.nn.functional.one_hot(alone.argmax(dim=1), k).to(centre.dtype)
    if p == "1" or (p == "inf" and k != toward.shape[2]):
        return single
    if m == 1:
        row = centre[:, :, 0]
    elif q == "inf":
        sizes = torch.linalg.vector_norm(centre, ord=2 if p == "2" else 1, dim=1)
        row = centre[torch.arange(b), :, sizes.argmax(dim=1)]
    elif q == "1" and m <= SIGNED:  # max ||J v||_1 = max over sign vectors s of ||J's||_p*
        rows = torch.einsum("bkm,sm->bsk", centre, _signs(m).to(centre))
        sizes = torch.linalg.vector_norm(rows, ord=2 if p == "2" else 1, dim=2)
        row = rows[torch.arange(b), sizes.argmax(dim=1)]
    else:
        row = torch.linalg.svd(centre.mT, full_matrices=False).Vh[:, 0]
    mixed = row if p == "2" else torch.where(row >= 0, 1.0, -1.0).to(row.dtype)
    tried = torch.linalg.vector_norm(torch.bmm(mixed[:, None], centre)[:, 0], ord=ORDER[q], dim=1)
    length = torch.linalg.vector_norm(torch.bmm(mixed[:, None], toward)[:, 0], ord=ORDER[p], dim=1)
    return torch.where((tried / length.clamp(min=1e-300) >= alone.amax(dim=1))[:, None], mixed, single)
