"""The LipSDP matrix inequality of a normal form, and its proof by one block Cholesky factorisation (MATH 1, 4).

For increments x, z_1 .. z_K, y of the network and multipliers lambda >= 0 (Fazlyab et al. 2019, Theorem 2; the output is
kept as a block, so no product W'W is formed):

    s_x |x|^2 + 2 sum_k lambda_k (z_k - a_k v_k)(z_k - b_k v_k) - 2 <y, C z + D x> + s_y |y|^2  >=  0   for all x, z, y

implies |y|^2 <= s_x s_y |x|^2: take y = (C z + D x) / s_y, and use that every sum over a group of (z - a v)(b v - z) is
nonnegative. One of s_x, s_y is 1 (the block eliminated first), the other is rho = L^2, read off the last Schur complement.

Proof: scaled by powers of two to a diagonal near 1 the matrix is M = A + E, A the stored floats, E the rounding and the
enclosures of its coefficients. Any L, however it was computed, gives A - c I = L L' + R with L L' >= 0, so that M is
positive semidefinite where c >= ||E|| + ||R||. R is formed block by block in floating point and its own rounding is
bounded (as in psd.py; Rump 2006 bounds it a priori, which assumes how LAPACK orders its work). So neither the Cholesky
routine nor the triangular solves are trusted; assumed is IEEE float64 and matrix products whose entries are sums of
k exact or rounded products in some order, FMA or not: |fl(X Y) - X Y| <= gamma_k |X| |Y| (Higham, (3.13)).

This file is trusted by `lipcert verify`. It imports no solver and no bound method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.affine import Path, linear_ancestors
from lipcert.network.graph import Enclosure, Graph
from lipcert.proofs.normal_form import NormalForm
from lipcert.rigor.psd import Hermitian, eigenvalues_below, propose
from lipcert.rigor.rounding import EPS, TINY, add_up, gamma, mul_up, sqrt_up, up
from lipcert.terms.clock import tick

MEMORY_ENTRIES = 6e8  # of all blocks together: 5 GB
BLOCK = 128  # rows of a residual or of a symmetric update formed at once: skips the zero half
SHIFTS = 3  # proposals for c
LADDER = (
    1e-12,
    1e-11,
    1e-10,
    1e-9,
    1e-8,
    1e-7,
    1e-6,
    1e-5,
    1e-4,
    1e-3,
    1e-2,
)  # relative, above the eigenvalue proposed

Key = tuple[int, int]
INPUT = 0  # variables: 0 is x, 1 .. K are the layers, K + 1 is y


@dataclass(frozen=True, eq=False)
class Coefficients:
    """A_kj of every layer and of the output, dense with their enclosures: `rows[k][j]` maps variable j to v_k (or y)."""

    sizes: tuple[int, ...]  # of the variables
    rows: tuple[dict[int, Enclosure], ...]  # rows[k] for k = 1 .. K + 1; rows[0] is empty


def variables(form: NormalForm) -> dict[int, int]:
    """Graph node -> variable number, for the input and every layer."""
    return {form.graph.input: INPUT} | {layer.node: k + 1 for k, layer in enumerate(form.layers)}


def entries(form: NormalForm) -> int:
    """How many floats the dense coefficients and the blocks take: what decides whether the proof is affordable."""
    graph, number = form.graph, variables(form)
    total = 0
    for target in (*(layer.read for layer in form.layers), graph.output):
        size = graph.nodes[target].size
        total += sum(size * graph.nodes[s].size for s in linear_ancestors(graph, target)[0] if s in number)
    return 2 * total + sum(layer.size**2 for layer in form.layers)


def coefficients(form: NormalForm) -> Coefficients:
    graph, number = form.graph, variables(form)
    rows: list[dict[int, Enclosure]] = [{}]
    for target in (*(layer.read for layer in form.layers), graph.output):
        found: dict[int, Enclosure] = {}
        for source in linear_ancestors(graph, target)[0]:
            block = _dense(graph, source, target)
            if bool(block.centre.any()) or block.radius is not None:
                found[number[source]] = block
        rows.append(found)
    out = graph.nodes[graph.output].size
    sizes = (graph.nodes[graph.input].size, *(layer.size for layer in form.layers), out)
    return Coefficients(sizes, tuple(rows))


def _dense(graph: Graph, source: int, target: int) -> Enclosure:
    if source == target:
        return Enclosure(torch.eye(graph.nodes[source].size, dtype=torch.float64))
    return Path(graph, source, target).dense()


@dataclass(frozen=True, eq=False)
class Blocks:
    """The symmetric matrix A by blocks (i, j), i >= j, scaled; row sums of |E| per variable; counts for the bound."""

    parts: dict[Key, Tensor]
    error: float  # >= ||E||_2
    scales: tuple[Tensor, ...]


def assemble(form: NormalForm, table: Coefficients, multipliers: Sequence[Tensor], last: int, rho: float) -> Blocks:
    """The scaled matrix without its last diagonal block. `multipliers`: (count_k,) per layer. `rho`: the expected value,
    for scaling only."""
    count = len(table.sizes)
    spread = [layer.spread(m) for layer, m in zip(form.layers, multipliers, strict=True)]
    scales = [torch.ones(n, dtype=torch.float64) for n in table.sizes]
    for k, weights in enumerate(spread, start=1):
        scales[k] = power_of_two(2 * weights)
    scales[last] = power_of_two(torch.full((table.sizes[last],), rho, dtype=torch.float64))
    parts: dict[Key, Tensor] = {}
    sums = [torch.zeros(n, dtype=torch.float64) for n in table.sizes]

    def put(i: int, j: int, value: Tensor, relative: float = 0.0, error: Tensor | None = None) -> None:
        """Add a block and its mirror image at (i, j), i >= j; |wrong| <= relative |value| + error, entry by entry.
        Overwrites `value`."""
        row, column = scales[i], scales[j]
        scaled = value.mul_(row[:, None]).mul_(column[None, :])  # exact: powers of two, but for underflow
        wrong = [(relative, scaled.abs())] if relative else []
        if (i, j) in parts:
            scaled = parts[i, j] + scaled
            wrong.append((EPS, scaled.abs()))
        parts[i, j] = scaled
        for k, dim in ((i, 1), (j, 0)) if i != j else ((i, 1),):
            total = sums[k].new_zeros(sums[k].shape)
            for share, mass in wrong:
                total += share * (1 + 8 * EPS) * mass.sum(dim=dim)
            if error is not None:
                total += scales[k] * (error @ column if dim == 1 else row @ error)
            n = scaled.shape[dim]
            # underflow: of the entry, then scaled, and of its scaling
            least = 4 * n * TINY * max(1.0, float(row.max() * column.max())) if scaled.numel() else 0.0
            sums[k] += total * (1 + 4 * gamma(n + 8)) + least

    first = count - 1 if last == INPUT else INPUT
    put(first, first, torch.eye(table.sizes[first], dtype=torch.float64))
    for k, (layer, weights) in enumerate(zip(form.layers, spread, strict=True), start=1):
        put(k, k, torch.diag(2 * weights))
        total = layer.low + layer.high  # one rounding
        factor = (weights * total)[:, None]  # two
        lost = _underflow(weights, total)
        for j, block in table.rows[k].items():
            slack = None if block.radius is None else up(factor.abs() * block.radius * (1 + 8 * EPS))
            if lost is not None:
                more = lost[:, None] * (block.centre.abs() + block.reach())
                slack = up(more if slack is None else more + slack)
            put(k, j, -factor * block.centre, 4 * EPS, slack)
        both = layer.low * layer.high  # one rounding
        if bool(((layer.low != 0) & (layer.high != 0) & (weights != 0)).any()):
            _add_products(put, table.rows[k], 2 * weights * both, _underflow(weights, layer.low, layer.high))
    for j, block in table.rows[count - 1].items():
        put(count - 1, j, -block.centre, 0.0, block.radius)
    return Blocks(parts, up(largest(sums) * (1 + 64 * EPS)), tuple(scales))


def largest(sums: Sequence[Tensor]) -> float:
    """Of all entries; NaN where one is NaN (0 times an infinite radius), which no proof survives. Python's max drops it."""
    entries = torch.cat([s.flatten() for s in sums])
    return float(entries.amax()) if entries.numel() else 0.0


def _underflow(weights: Tensor, *factors: Tensor) -> Tensor | None:
    """What 2 w f g or w f may be wrong by in absolute terms, where it or f g is below the normal numbers; None: nowhere."""
    product = math.prod(factors[1:], start=factors[0])
    nonzero = (torch.stack([weights, *factors]) != 0).all(dim=0)
    small = nonzero & ((product.abs() < TINY) | ((weights * product).abs() < TINY))
    return torch.where(small, 4 * TINY * weights.clamp(min=1.0), 0.0) if bool(small.any()) else None


def _add_products(put: object, row: dict[int, Enclosure], weights: Tensor, lost: Tensor | None) -> None:
    """A_i' diag(w) A_j for all pairs of sources of a layer. `lost`: what w may be wrong by, relative errors aside."""
    heavy = weights.abs()[:, None] + (0.0 if lost is None else lost[:, None])
    for i, left in row.items():
        for j, right in row.items():
            if i < j:
                continue
            n = weights.numel()
            a, b = left.centre, right.centre
            value = a.T @ (weights[:, None] * b)
            inner = heavy * (right.reach() + gamma(n + 8) * b.abs()) + 4 * TINY  # w b may underflow
            if lost is not None:
                inner += lost[:, None] * (b.abs() + right.reach())
            error = a.abs().T @ inner + left.reach().T @ (heavy * (b.abs() + right.reach()))
            put(i, j, value, 0.0, up(error * (1 + 4 * gamma(n + 8)) + 4 * n * TINY))  # type: ignore[operator]


def power_of_two(diagonal: Tensor) -> Tensor:
    """Powers of two s with s^2 * diagonal in [1/2, 2]; 1 where the diagonal is not positive. Within 2^-250 .. 2^250."""
    exponent = torch.frexp(diagonal).exponent.double()
    half = torch.clamp(-torch.floor(exponent / 2), -250, 250)
    return torch.where(diagonal > 0, torch.exp2(half), 1.0)


def prove(form: NormalForm, table: Coefficients, multipliers: Sequence[Tensor], *, last: int, rho: float) -> float:
    """Proved upper value of rho = L^2 for these multipliers, `inf` where the proof fails.

    `last`: the variable whose diagonal is rho, INPUT (then s_y = 1) or the output K + 1 (then s_x = 1).
    """
    if not all(bool(torch.isfinite(m).all() and (m >= 0).all()) for m in multipliers):
        return math.inf
    if not rho > 0 or not math.isfinite(rho):
        return math.inf
    blocks = assemble(form, table, multipliers, last, rho)
    top, value = last_block(blocks, table.sizes, last)
    if top > 4 and math.isfinite(
        value
    ):  # another rho than expected: scale for this one, and the rounding is small beside it
        return prove(form, table, multipliers, last=last, rho=value) if value > 2 * rho else math.inf
    return value


def last_block(blocks: Blocks, sizes: Sequence[int], last: int) -> tuple[float, float]:
    """(t, rho): the matrix is positive semidefinite with t >= 0, hence with rho, on its last diagonal block, in scaled units
    and in those of the network; inf where the proof fails."""
    order = elimination_order(len(sizes), last)
    shift = _proposed_shift(blocks, sizes)
    for _ in range(SHIFTS):
        if not shift < 0.5:
            return math.inf, math.inf
        found = eliminate(blocks.parts, order, shift)
        if found is None:
            return math.inf, math.inf
        needed = add_up(found.defect, blocks.error)
        if needed <= shift:
            break
        shift = 2.0 * needed
    else:
        return math.inf, math.inf
    # what is left is rho s^2 I - complement - shift I >= 0, s the (uniform) scale of the last variable
    scale = float(blocks.scales[last][0]) if sizes[last] else 1.0
    top = add_up(_eigenvalue_upper(found.complement, shift), shift)
    return top, up(up(top / scale) / scale) if math.isfinite(top) else math.inf


def elimination_order(count: int, last: int) -> list[int]:
    """The variables, `last` at the end."""
    return list(range(count - 1, -1, -1)) if last == INPUT else list(range(count))


def _proposed_shift(blocks: Blocks, sizes: Sequence[int]) -> float:
    """Above what `eliminate` is expected to need: sum_k gamma_{n_k} ||L_k||_F^2 with ||L||_F^2 = trace A. A proposal."""
    diagonals = (part.diagonal().clamp(min=0).sum() for (i, j), part in blocks.parts.items() if i == j)
    trace = float(sum(diagonals)) + 4.0 * max(sizes)
    return 1.1 * gamma(max(sizes) + 8) * trace + blocks.error + 64 * TINY


@dataclass(frozen=True, eq=False)
class Eliminated:
    """What is left of A - shift I after its block Cholesky up to the last variable.

    `complement`: minus the Schur complement, symmetric. `defect` >= ||R||_2, R what A - shift I differs by from
    L L' + the Schur complement.
    """

    complement: Tensor
    defect: float


def eliminate(parts: dict[Key, Tensor], order: Sequence[int], shift: float) -> Eliminated | None:
    """Block Cholesky of A - shift I with its residual, or None if a pivot has no factor. Of the diagonal blocks only the
    lower triangle is read.

    Block column k of L, as computed, adds to R: the rounding of every product in L_k L_k', at most gamma_{n_k} |L_k| |L_k|'
    entry by entry, hence gamma_{n_k} ||L_k||_F^2 in norm; one rounding of every entry that it updates; and what the
    updated blocks of column k differ by from L_k L_kk', as formed. Each is a scalar, added upwards.
    """
    work = dict(parts)
    defect = 0.0
    for place, v in enumerate(order[:-1]):
        tick()
        pivot = work.pop((v, v))
        sides = {w: work.pop(key) for w in order[place + 1 :] if (key := (max(v, w), min(v, w))) in work}
        if pivot.shape[0] == 0:
            continue
        pivot = pivot.clone()
        pivot.diagonal().sub_(shift)
        factor, info = torch.linalg.cholesky_ex(pivot)
        if int(info) != 0:
            return None
        rows = {w: side if v > w else side.T for w, side in sides.items()}  # rows are those of v
        coupled = {w: _solved(factor, side) for w, side in rows.items()}
        defect = add_up(defect, mul_up(float(pivot.diagonal().abs().amax()), EPS))
        defect = add_up(defect, residual_upper(factor, factor.T, pivot, symmetric=True))
        for w, side in rows.items():
            defect = add_up(defect, residual_upper(factor, coupled[w], side))
        mass = _squares_up(factor)
        for block in coupled.values():
            mass = add_up(mass, _squares_up(block))
        n, width = pivot.shape[0], pivot.shape[0] + sum(block.shape[1] for block in coupled.values())
        defect = add_up(defect, add_up(mul_up(gamma(n), mass), 4 * n * width * TINY))
        for i, left in coupled.items():
            for j, right in coupled.items():
                if i >= j:
                    work[i, j] = _update(work.get((i, j)), left, right, symmetric=i == j)
                    defect = add_up(defect, mul_up(_frobenius_up(work[i, j], symmetric=i == j), EPS))
    final = work.get((order[-1], order[-1]))
    if final is None:
        return Eliminated(torch.zeros(0, 0, dtype=torch.float64), defect)
    return Eliminated(-(final.tril() + final.tril(-1).T), defect) if math.isfinite(defect) else None


def _solved(factor: Tensor, side: Tensor) -> Tensor:
    """X with factor X = side, about. From the right of the transpose: row-major matrices are not copied."""
    return torch.linalg.solve_triangular(factor.T, side.T, upper=True, left=False).T


def residual_upper(factor: Tensor, right: Tensor, target: Tensor, symmetric: bool = False) -> float:
    """>= ||fl(factor right) - target||_2, factor (n, n) lower triangular; `symmetric`: of the lower triangles, mirrored.
    The rounding of the product itself is left to the caller. |a - b| <= |fl(a - b)| (1 + u)."""
    n, total = factor.shape[0], 0.0
    for start in range(0, n, BLOCK):
        tick()
        end = min(start + BLOCK, n)
        columns = slice(0, end if symmetric else right.shape[1])
        difference = (factor[start:end, :end] @ right[:end, columns]).sub_(target[start:end, columns])
        if symmetric:
            difference[:, start:].tril_()
        total = add_up(total, _squares_up(difference))
    return mul_up(sqrt_up(mul_up(2.0, total) if symmetric else total), 1 + 4 * EPS)


def _update(old: Tensor | None, left: Tensor, right: Tensor, symmetric: bool) -> Tensor:
    """old - left' right; `symmetric`: its lower triangle by slices, the rest is not read."""
    if not symmetric:
        update = left.T @ right
        return -update if old is None else old - update
    n = left.shape[1]
    new = torch.zeros(n, n, dtype=torch.float64) if old is None else old.clone()
    for start in range(0, n, BLOCK):
        tick()
        end = min(start + BLOCK, n)
        new[start:end, :end] -= left[:, start:end].T @ right[:, :end]
    return new


def _squares_up(t: Tensor) -> float:
    """Upper value of the sum of squares, in one pass, in the order in which it is stored."""
    flat = (t if t.is_contiguous() else t.T).reshape(-1)
    n = flat.numel()
    return add_up(mul_up(float(flat @ flat), add_up(1.0, gamma(n))), n * TINY)


def _frobenius_up(t: Tensor, symmetric: bool) -> float:
    """Upper value of ||t||_F; `symmetric`: of its lower triangle, mirrored (the entries above it only make it larger)."""
    return sqrt_up(mul_up(2.0, _squares_up(t)) if symmetric else _squares_up(t))


def _eigenvalue_upper(matrix: Tensor, least: float) -> float:
    """Proved upper value of the largest eigenvalue of a symmetric matrix, at least `least` > 0; `inf` if none is found."""
    if matrix.numel() == 0:
        return least
    if not bool(torch.isfinite(matrix).all()):
        return math.inf
    guess = max(leading_eigenvalue(matrix), 0.0)
    for slack in LADDER:
        bound = torch.tensor([guess * (1 + slack) + least], dtype=torch.float64)
        value = float(eigenvalues_below(Hermitian(matrix[None]), bound)[0])
        if math.isfinite(value):
            return value
    return math.inf


def leading_eigenvalue(matrix: Tensor) -> float:
    """An estimate of the largest eigenvalue: nothing is claimed about it."""
    if matrix.shape[0] <= 1024:
        return float(propose(Hermitian(matrix[None]))[0])
    block = torch.randn(matrix.shape[0], 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = 0.0
    for _ in range(60):
        tick()
        block, _r = torch.linalg.qr(matrix @ block)
        value = float(torch.linalg.eigvalsh(block.T @ (matrix @ block))[-1])
    return value


def last_variable(form: NormalForm) -> int:
    """The larger end is eliminated first: the last Schur complement is the smaller of input and output."""
    graph = form.graph
    n, m = graph.nodes[graph.input].size, graph.nodes[graph.output].size
    return INPUT if n <= m or n <= 1024 else len(form.layers) + 1
