"""Proof of the LipSDP inequality on a torus, frequency by frequency (MATH section 12).

On the torus every kernel is circular, so the unitary Fourier transform splits the inequality (lmi.py, with s_x = 1 and
s_y = rho): a kernel of stride s couples frequency g of what it writes with the prod(s) frequencies f = g mod N of what it
reads, by prod(s)^(-1/2) H(f), H(f) = sum_t w_t e^{2 pi i f t / N}. Maps are eliminated from the finest to the coarsest:
each frequency has one parent on a coarser torus, so all blocks stay as small as channels, and every frequency of the
coarsest torus is a family of its own. A dense layer behind the maps reads all frequencies; each family leaves it

    T_w = the computed Schur complement + c I,     M_w with T_w on the diagonal of the dense part  >=  0,

and what remains, M_dense - sum of T_w >= 0, is an ordinary proof of lmi.py. An output on maps, y = C z, is a site like those
of activations, for 2 t on its diagonal and -t C beside it leave -t C* C / 2: with t = 2 / rho the inequality without a dense part.

Each family is proved as there: any factors L give M_w - c I = L L* + R, so that c >= ||E|| + ||R|| does, E the rounding and
the enclosures of the coefficients and of the Fourier transform. Neither Cholesky nor the triangular solves are trusted.

Trusted by `lipcert verify`; it imports no solver and no bound method.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.proofs.couplings import Coupling, boxed, factored, symbols
from lipcert.proofs.frequencies import (
    gathered,
    mirrored,
    most,
    parts,
    product,
    residual,
    residual_square,
    square,
    squares,
)
from lipcert.proofs.heads import Taps, taps_of
from lipcert.proofs.kernels import Kernel, Shape
from lipcert.proofs.lmi import Blocks, Coefficients, Key, assemble, largest, last_block, power_of_two
from lipcert.proofs.normal_form import NormalForm
from lipcert.proofs.pools import Windows
from lipcert.proofs.torus_form import WIDEST, Site, TorusForm
from lipcert.rigor.rounding import EPS, add_up, div_up, gamma, keeps_subnormals, mul_up, sqrt_up, sum_up, up
from lipcert.terms.clock import tick
from lipcert.terms.progress import tell

SHIFTS = 4
LEAST, MOST = 2.0**-200, 2.0**200  # of multipliers, slopes and rho: factors of coefficients neither over- nor underflow
VANISHING = 2.0**-960  # more than all that underflows in one family: 2^60 products, each less than TINY


@dataclass(frozen=True, eq=False)
class TorusInequality:
    """The inequality of a form: diagonal blocks of the sites, couplings, ||E|| beside the flat part, and that part.
    `squares`: by site j, what is taken off its block as C* C (pools)."""

    form: TorusForm
    diagonals: tuple[Tensor, ...]
    couplings: tuple[Coupling, ...]
    squares: tuple[Coupling, ...]
    error: float
    dense: Blocks
    sizes: tuple[int, ...]  # of the flat part: nothing, its layers, the output


Proved = tuple[dict[Key, Tensor], float]  # what some families leave to the dense part, and c
Prover = Callable[[TorusInequality, Tensor], Proved | None]


def scaled(form: TorusForm, multipliers: Sequence[Tensor], rho: float) -> TorusInequality:
    """`multipliers`: of the sites but the input, then of the flat layers. `rho`: expected, for scaling only."""
    maps, flat = [*multipliers[: len(form.maps)]], multipliers[len(form.maps) :]
    if form.ends_on_map:
        maps.append(torch.full((form.sites[-1].channels,), 2 / rho, dtype=torch.float64))
    sizes = (0, *(layer.size for layer in form.flat), form.outputs)
    inner = [{j + 1: m for j, m in row.items()} for row in form.inner]
    normal = NormalForm(form.graph, form.flat)
    dense = assemble(normal, Coefficients(sizes, ({}, *inner)), flat, len(sizes) - 1, rho)
    weights = [torch.full((form.sites[0].channels,), 0.5, dtype=torch.float64), *maps]
    scales = [power_of_two(2 * w) for w in weights]
    sums = [torch.zeros_like(w) for w in weights] + [torch.zeros(n, dtype=torch.float64) for n in sizes[1:]]
    couplings: list[Coupling] = []
    squares: list[Coupling] = []
    pooled = 0.0
    windows = [(j, s.channels * math.prod(s.pool.size)) for s in form.sites if s.pool is not None for j in s.rows]

    def put(at: Key, row: Tensor, column: Tensor, taps: Taps, places: Tensor, meet: int) -> None:
        """-diag(row) taps diag(column) / sqrt(meet); so many columns of one row are coupled by it, at most."""
        k, j = at
        value, _, wrong = factored(-row[:, None] * column[None, :] / math.sqrt(meet), *taps)
        sums[k] = add_up(sums[k], meet * sum_up(wrong, 1) * (1 + 4 * EPS))
        sums[j] = add_up(sums[j], sum_up(wrong, 0))
        couplings.append(Coupling(k, j, value, places, taps[2]))

    for k, site in enumerate(form.sites):
        if site.pool is not None:
            ((j, kernel),) = site.rows.items()
            row = (2 * weights[k]).sqrt() * site.high
            length = sum(rows for source, rows in windows if source == j)  # all pools of a signal: one C* C
            found, wrong = _squares_of(kernel, site.pool, row, scales[j], (k, j), length)
            squares += found
            pooled = add_up(pooled, wrong)
            continue
        for j, kernel in site.rows.items():
            row = (site.low + site.high) * (weights[k] * scales[k])  # one of the slopes is zero
            taps = kernel.weight.flatten(2), None if kernel.radius is None else kernel.radius.flatten(2), None
            # the block of (k, j) where it goes up is the adjoint of this one: j is the coarser
            ends = ((j, k), scales[j], row) if kernel.up else ((k, j), row, scales[j])
            put(*ends, taps, boxed(kernel.taps, kernel.start), math.prod(kernel.stride))
    for at, entries in enumerate(form.rows):
        k = len(form.sites) + at
        scale = dense.scales[at + 1]
        for (kind, j), matrix in entries.items():
            if kind == "flat":
                continue
            row = scale
            if at < len(form.flat):
                layer = form.flat[at]
                row = (layer.low + layer.high) * (layer.spread(flat[at]) * scale)
            site, all_ = form.sites[j], math.prod(form.torus(j))
            places = boxed(site.window, (0,) * len(site.window))
            put((k, j), row, scales[j], taps_of(matrix, site.channels), places, all_)
    diagonals = tuple(2 * w * s * s for w, s in zip(weights, scales, strict=True))
    error = add_up(largest(sums), pooled)
    return TorusInequality(form, diagonals, tuple(couplings), tuple(squares), error, dense, sizes)


def _squares_of(
    kernel: Kernel, pool: Windows, row: Tensor, column: Tensor, at: tuple[int, int], length: int
) -> tuple[list[Coupling], float]:
    """C of the C* C that a pool takes off its source, one for each entry of a window, and what all of it may be wrong by:
    of C + D the square is off by |D| (2 |C| + |D|), that of a product of `length` rows by gamma |C|^2, in Frobenius norms of absolute sums."""
    found = []
    size = slack = 0.0
    taps, radius = kernel.weight.flatten(2), None if kernel.radius is None else kernel.radius.flatten(2)
    for start, stride in pool.shifts(kernel):
        aliases = math.prod(stride)
        value, mass, wrong = factored(row[:, None] * column[None, :] / math.sqrt(aliases), taps, radius)
        size = add_up(size, mul_up(aliases, float(sum_up((mass * mass).flatten())) * (1 + 1e-12)))
        slack = add_up(slack, mul_up(aliases, float(sum_up((wrong * wrong).flatten())) * (1 + 1e-12)))
        found.append(Coupling(*at, value, boxed(kernel.taps, start)))
    off, whole = sqrt_up(slack), mul_up(sqrt_up(size), 1 + 1e-6)
    rounding = mul_up(1.5 * gamma(2 * length + 8) + 4 * EPS, mul_up(whole, whole)) + 4 * EPS * len(column) * math.prod(
        stride
    )
    return found, up(add_up(mul_up(off, 2 * whole + off), rounding) * (1 + 1e-12))


@keeps_subnormals
def prove(form: TorusForm, multipliers: Sequence[Tensor], rho: float, of: Prover | None = None) -> float:
    """Proved upper value of L^2 for these multipliers of s_x = 1, `inf` where the proof fails. `rho`: the expected value.
    `of`: what gives the same as `family`, None: that."""
    numbers = [torch.tensor([rho], dtype=torch.float64), *multipliers]
    slopes = [t.abs() for s in form.sites for t in (s.low, s.high)]
    slopes += [t.abs() for layer in form.flat for t in (layer.low, layer.high)]
    small = any(bool(((t > 0) & (t < LEAST)).any() or (t > MOST).any()) for t in slopes)
    if small or not all(bool(((m >= LEAST) & (m <= MOST)).all()) for m in numbers):
        return math.inf
    problem = scaled(form, multipliers, rho)
    if not math.isfinite(problem.error):
        return math.inf
    parts = dict(problem.dense.parts)
    total: dict[Key, Tensor] = {}
    slack = problem.dense.error
    parts_of = list(chunks(problem))
    for done, (frequencies, weight) in enumerate(parts_of):
        tick()
        tell("families of frequencies", done, len(parts_of))
        found = (of or family)(problem, frequencies)
        if found is None:
            return math.inf
        if form.ends_on_map:
            continue
        complements, shift = found
        slack = add_up(slack, mul_up(weight, shift))
        for key, block in complements.items():
            total[key] = total.get(key, torch.zeros(())) + weight * block
            slack = add_up(slack, mul_up(4 * EPS, float(total[key].norm())))  # of the sum, and of a mean in `eliminate`
    if form.ends_on_map:
        return div_up(2.0, 2 / rho)
    for key, block in total.items():
        parts[key] = parts[key] + block if key in parts else block
        slack = add_up(slack, mul_up(2 * EPS, float(parts[key].norm())))
    dense = Blocks(parts, slack, problem.dense.scales)
    top, value = last_block(dense, problem.sizes, len(problem.sizes) - 1)
    if top > 4 and math.isfinite(value):
        return prove(form, multipliers, value, of) if value > 2 * rho else math.inf
    return value


def chunks(problem: TorusInequality) -> Iterator[tuple[Tensor, float]]:
    """The frequencies of the coarsest torus, some (b, axes) at a time, with their weight: those of a conjugate pair count
    twice. They are real together: the dense part's vectors are real, and the imaginary part of T_w is antisymmetric."""
    form = problem.form
    largest = max(s.channels * math.prod(s.level) for s in form.sites)
    some = max(1, WIDEST // largest)
    alone, pairs = [], []
    for w in itertools.product(*map(range, form.coarse)):
        mirror = tuple(-f % g for f, g in zip(w, form.coarse, strict=True))
        if w == mirror:
            alone.append(w)
        elif w < mirror:
            pairs.append(w)
    for frequencies, weight in ((alone, 1.0), (pairs, 2.0)):
        for start in range(0, len(frequencies), some):
            yield torch.tensor(frequencies[start : start + some]), weight


def family(problem: TorusInequality, coarse: Tensor) -> Proved | None:
    """Real parts of minus the Schur complements on the dense part, and c; None where no factor is found."""
    blocks = Families(problem, coarse)
    shift = 2.0 * (blocks.expected() + problem.error)
    for _ in range(SHIFTS):
        if not shift < 0.25:
            return None
        found = blocks.eliminate(shift)
        if found is None:
            return None
        complements, defect = found
        needed = add_up(defect, problem.error)
        if needed <= shift:
            return complements, shift
        shift = 2.0 * needed
    return None


class Families:
    """The blocks of some families: (F_j, n_k, n_j) complex for signals k after j, F_j frequencies of j, as stored."""

    def __init__(self, problem: TorusInequality, coarse: Tensor):
        self.problem, form = problem, problem.form
        self.sites = len(form.sites)
        self.levels = [site.fold for site in form.sites]
        self.order = sorted(range(self.sites), key=lambda j: (-math.prod(self.levels[j]), j))
        self.count = len(coarse)
        self.parts: dict[Key, Tensor] = {}
        frequencies = [self._frequencies(form.coarse, coarse, site.level) for site in form.sites]

        def folded(c: Coupling, rows: bool = True) -> Tensor:
            """(F, r_k n_k, r_j n_j): the frequencies of a site that are kept together side by side; `rows`: of site k too."""
            block = symbols(c, frequencies[c.j], form.torus(c.j))
            if rows and c.k < self.sites:
                block = self.spread(block, form.sites[c.j].level, form.sites[c.k])
            groups = self.meeting(form.sites[c.j].level, form.sites[c.j].fold)
            return block[groups].permute(0, 2, 1, 3).reshape(len(groups), block.shape[1], -1)

        for j, (diagonal, site) in enumerate(zip(problem.diagonals, form.sites, strict=True)):
            r = math.prod(site.level) // math.prod(site.fold)
            block = torch.diag(diagonal.repeat(r)).to(torch.complex128)
            self.parts[j, j] = block.expand(len(coarse) * math.prod(site.fold), -1, -1)
        for c in problem.couplings:
            self.parts[c.k, c.j] = folded(c)
        for j in {c.j for c in problem.squares}:
            C = torch.cat([folded(c, rows=False) for c in problem.squares if c.j == j], 1)
            self.parts[j, j] = self.parts[j, j] - square(parts(C))

    @staticmethod
    def _frequencies(sizes: Shape, coarse: Tensor, level: Shape) -> Tensor:
        """(b * prod(level), axes): w + coarse * a."""
        a = boxed(level, (0,) * len(level)) * torch.tensor(sizes)
        return (coarse[:, None, :] + a[None, :, :]).reshape(-1, len(level))

    def children(self, j: int, k: int) -> Tensor:
        """(F_k, r): the frequencies of site j that meet in each one of signal k; all in one where k is flat."""
        if k >= self.sites:
            return torch.arange(self.count * math.prod(self.levels[j]))[None, :]
        return self.meeting(self.levels[j], self.levels[k])

    def spread(self, block: Tensor, fine: Shape, site: Site) -> Tensor:
        """Rows (F, n, m), one for each frequency of a finer torus, among all frequencies of the site that are kept together."""
        kept = self.meeting(site.level, site.fold)
        if kept.shape[1] == 1:
            return block
        above = self.meeting(fine, site.level)
        slot, parent = torch.empty(kept.numel(), dtype=torch.int64), torch.empty(above.numel(), dtype=torch.int64)
        slot[kept] = torch.arange(kept.shape[1]).expand_as(kept)
        parent[above] = torch.arange(len(above))[:, None].expand_as(above)
        wide = block.new_zeros(len(block), kept.shape[1], *block.shape[1:])
        wide[torch.arange(len(block)), slot[parent]] = block
        return wide.flatten(1, 2)

    def meeting(self, fine: Shape, coarse: Shape) -> Tensor:
        """(F, r): the frequencies of a torus that meet in each one of a coarser one."""
        a = boxed(fine, (0,) * len(fine)) % torch.tensor(coarse)
        place = torch.zeros(len(a), dtype=torch.int64)
        for d, size in enumerate(coarse):
            place = place * size + a[:, d]
        parent = (torch.arange(self.count)[:, None] * math.prod(coarse) + place[None, :]).flatten()
        return parent.argsort(stable=True).reshape(self.count * math.prod(coarse), -1)

    def expected(self) -> float:
        """About the defect of `eliminate`: the rounding of its products, where all frequencies meet. A proposal."""
        widths = [self.parts[j, j].shape[0] * self.parts[j, j].shape[1] for j in range(self.sites)]
        meeting = widths[self.order[-1]] if len(self.problem.sizes) > 2 or self.problem.form.outputs else max(widths)
        return 1.5 * gamma(2 * meeting + 8) * 1.5 * meeting + len(widths) * 8e-15 * max(w for w in widths) ** 0.5

    def eliminate(self, shift: float) -> tuple[dict[Key, Tensor], float] | None:
        """Block Cholesky of the families - shift I, and ||R|| (lmi.eliminate, with frequencies that meet)."""
        work = dict(self.parts)
        defect = VANISHING
        for at, v in enumerate(self.order):
            tick()
            pivot = work.pop((v, v)).clone()
            n = pivot.shape[1]
            pivot.imag.diagonal(dim1=1, dim2=2).zero_()
            pivot.real.diagonal(dim1=1, dim2=2).sub_(shift)
            L, info = torch.linalg.cholesky_ex(pivot)
            if bool((info != 0).any()):
                return None
            defect = add_up(defect, mul_up(float(pivot.real.diagonal(dim1=1, dim2=2).abs().amax()), EPS))
            factor = parts(L.tril())
            defect = add_up(defect, sqrt_up(most(residual_square(factor, pivot))))
            later = [w for w in (*self.order[at + 1 :], *self._flat()) if (w, v) in work]
            coupled: dict[int, Tensor] = {}
            mass = squares(L)
            for w in later:
                side = work.pop((w, v)).mH
                X = torch.linalg.solve_triangular(L, side, upper=False)
                wrong = residual(factor, parts(X), side)
                defect = add_up(defect, sqrt_up(most(wrong[self.children(v, w)].sum(1))))
                mass = mass + squares(X)
                coupled[w] = X
            meet = self.children(v, later[-1]) if later else torch.arange(len(mass))[:, None]
            inner = 2 * meet.shape[1] * n
            defect = add_up(defect, mul_up(1.5 * gamma(inner + 8), most(mass[meet].sum(1))))
            for j in coupled:
                groups = self.children(v, j)
                right = parts(gathered(coupled[j], groups))
                for i in coupled:
                    if later.index(i) < later.index(j):
                        continue
                    new = -(square(right) if i == j else product(parts(gathered(coupled[i], groups)), right))
                    if (i, j) in work:
                        assert work[i, j].shape == new.shape
                        new = work[i, j] + new
                    work[i, j] = new
                    size = 2 * squares(new.tril()) if i == j else squares(new)
                    size = size[self.children(j, i)].sum(1) if j < self.sites else size
                    defect = add_up(defect, mul_up(EPS, sqrt_up(most(size))))
            if not math.isfinite(defect):
                return None
        left = {}
        for (i, j), block in work.items():
            left[i - self.sites + 1, j - self.sites + 1] = (mirrored(block) if i == j else block)[0].real
        return left, defect

    def _flat(self) -> range:
        return range(self.sites, self.sites + len(self.problem.sizes) - 1)
