"""The LipSDP matrix inequality of a normal form, and its proof by one block Cholesky factorisation (MATH 1, 4).

For increments x, z_1 .. z_K, y of the network and multipliers lambda >= 0 (Fazlyab et al. 2019, Theorem 2; the output is
kept as a block, so no product W'W is formed):

    s_x |x|^2 + 2 sum_k lambda_k (z_k - a_k v_k)(z_k - b_k v_k) - 2 <y, C z + D x> + s_y |y|^2  >=  0   for all x, z, y

implies |y|^2 <= s_x s_y |x|^2: take y = (C z + D x) / s_y, and use that every sum over a group of (z - a v)(b v - z) is
nonnegative. One of s_x, s_y is 1 (the block eliminated first), the other is rho = L^2, read off the last Schur complement.

Proof: scaled by powers of two to a diagonal near 1 the matrix is M = A + E, A the stored floats, E the rounding and the
enclosures of its coefficients. If the floating Cholesky of A - c I runs to completion with c >= ||E|| + sum_k
gamma_{s_k + 8} a_kk (Rump 2006; s_k terms are summed in entry k), then M is positive semidefinite. Blocks are factored
one after the other; zero blocks stay out, and the order of summation does not matter for the bound. Assumed: IEEE
float64, matrix products and triangular solves by classical substitution (FMA and reciprocals of the diagonal allowed; no
Strassen, no inverted diagonal blocks), as in OpenBLAS, MKL and the reference LAPACK on the CPU.

This file is trusted by `lipcert verify`. It imports no solver and no bound method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.ir import Enclosure, Graph
from lipcert.normalform import NormalForm
from lipcert.parts import Path, linear_ancestors
from lipcert.rounding import EPS, TINY, gamma, up

MEMORY_ENTRIES = 6e8  # of all blocks together: 5 GB

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
        scales[k] = _power_of_two(2 * weights)
    scales[last] = _power_of_two(torch.full((table.sizes[last],), rho, dtype=torch.float64))
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
    error = max((float(s.max()) for s in sums if s.numel()), default=0.0)
    return Blocks(parts, up(error * (1 + 64 * EPS)), tuple(scales))


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


def _power_of_two(diagonal: Tensor) -> Tensor:
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
    count = len(table.sizes)
    if not rho > 0 or not math.isfinite(rho):
        return math.inf
    blocks = assemble(form, table, multipliers, last, rho)
    order = list(range(count - 1, -1, -1)) if last == INPUT else list(range(count))
    shift = _shift(blocks, table.sizes, order)
    if not math.isfinite(shift) or shift >= 0.5:
        return math.inf
    complement = _eliminate(blocks.parts, order, shift)
    if complement is None:
        return math.inf
    # rho s^2 I - complement - shift I >= 0, s the (uniform) scale of the last variable
    scale = float(blocks.scales[last][0]) if table.sizes[last] else 1.0
    top = _largest_eigenvalue_proved(complement, shift)
    if top > 4:  # the shift allowed for a diagonal entry of 4: scale for this rho and factor again
        better = up(top / scale / scale)
        return prove(form, table, multipliers, last=last, rho=better) if better > 2 * rho else math.inf
    return up(up(top / scale) / scale) if math.isfinite(top) else math.inf


def _shift(blocks: Blocks, sizes: Sequence[int], order: Sequence[int]) -> float:
    """c of the docstring. Entry k of a block sums over the variables eliminated before that couple with it (by fill)."""
    position = {v: p for p, v in enumerate(order)}
    neighbours: dict[int, set[int]] = {v: set() for v in order}
    for i, j in blocks.parts:
        if i != j:
            neighbours[i].add(j)
            neighbours[j].add(i)
    total = 0.0
    terms = dict.fromkeys(order, 0)
    for v in order:
        later = {w for w in neighbours[v] if position[w] > position[v]}
        for w in later:
            terms[w] += sizes[v]
            neighbours[w] |= later - {w}
        part = blocks.parts.get((v, v))
        diagonal = 0.0 if part is None else float(part.diagonal().clamp(min=0).sum())
        if v == order[-1]:
            diagonal += 4.0 * sizes[v]  # rho in its scale, checked by `prove`
        total += gamma(terms[v] + sizes[v] + 8) * (diagonal + sizes[v]) * 1.02
    return up(total * (1 + 1e-10) + blocks.error + 64 * TINY)


def _eliminate(parts: dict[Key, Tensor], order: Sequence[int], shift: float) -> Tensor | None:
    """Block Cholesky of A - shift I up to the last variable; minus its Schur complement, or None if not positive."""
    work = dict(parts)
    for place, v in enumerate(order[:-1]):
        pivot = work.pop((v, v))
        if pivot.shape[0] == 0:
            for key in [key for key in work if v in key]:
                work.pop(key)
            continue
        pivot = pivot.clone()
        pivot.diagonal().sub_(shift)
        factor, info = torch.linalg.cholesky_ex(pivot)
        if int(info) != 0 or not bool(torch.isfinite(factor.diagonal()).all()):
            return None
        coupled: dict[int, Tensor] = {}
        for w in order[place + 1 :]:
            key = (max(v, w), min(v, w))
            block = work.pop(key, None)
            if block is not None:
                side = block if v > w else block.T  # rows are those of v
                coupled[w] = torch.linalg.solve_triangular(factor, side, upper=False)
        for i, left in coupled.items():
            for j, right in coupled.items():
                if i < j:
                    continue
                old = work.get((i, j))
                update = left.T @ right
                work[i, j] = -update if old is None else old - update
    v = order[-1]
    final = work.get((v, v))
    return torch.zeros(0, 0, dtype=torch.float64) if final is None else -final


def _largest_eigenvalue_proved(matrix: Tensor, shift: float) -> float:
    """A float t for which the floating Cholesky of t I - matrix - shift I runs to completion; `inf` if none is found."""
    if matrix.numel() == 0:
        return shift
    if not bool(torch.isfinite(matrix).all()):
        return math.inf
    guess = _eigenvalue(matrix)
    for slack in (1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        top = max(guess, 0.0) * (1 + slack) + 2 * shift
        test = -matrix
        test.diagonal().add_(top - shift)
        factor, info = torch.linalg.cholesky_ex(test)
        if int(info) == 0 and bool(torch.isfinite(factor.diagonal()).all()):
            return up(up(top) + 4 * EPS * abs(top))
    return math.inf


def _eigenvalue(matrix: Tensor) -> float:
    n = matrix.shape[0]
    if n <= 1024:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    block = torch.randn(n, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = 0.0
    for _ in range(60):
        block, _r = torch.linalg.qr(matrix @ block)
        value = float(torch.linalg.eigvalsh(block.T @ (matrix @ block))[-1])
    return value


def last_variable(form: NormalForm) -> int:
    """The larger end is eliminated first: the last Schur complement is the smaller of input and output."""
    graph = form.graph
    n, m = graph.nodes[graph.input].size, graph.nodes[graph.output].size
    return INPUT if n <= m or n <= 1024 else len(form.layers) + 1
