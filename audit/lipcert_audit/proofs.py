"""The four kinds of proof of a constant, each in exact arithmetic.

Notation: a nonlinearity reads v = sum_j A_j z_j over the sources j (the number 1, the input x and earlier nonlinearities), all of
them changes between two inputs, so that of the number 1 is zero.
"""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil, isqrt, prod
from typing import Any

import numpy as np

from lipcert_audit.certificate import Claim
from lipcert_audit.exact import QUOTIENT, Map, constantly, diagonal, integers, semidefinite, stacked, stored, total
from lipcert_audit.network import SLOPE, Layer, Network, Signal, added, refuse
from lipcert_audit.strict import reject

ENTRIES = 10_000  # rows of one matrix inequality: above, this program takes too long


class Gates(Network):
    """z_i = low_i v_i + q_i with q_i (h_i v_i - q_i) >= 0, h = high - low: what the slopes say (LipSDP, Fazlyab et al. 2019).

    Softmax is the gradient of the convex, 1/2-smooth log-sum-exp, so the inequality holds summed over a row (Baillon and
    Haddad 1977). max(u, w) = w + relu(u - w) makes a maximum a tournament of ReLUs.
    """

    def spans(self) -> list[tuple[Layer, slice]]:
        """Every nonlinearity with its columns."""
        return list(zip(self.layers, (slice(*ends) for ends in pairwise(self.starts[2:])), strict=True))

    def apply(self, layer: Layer) -> Signal:
        if layer.kind == "maximum":
            return self.tournament(layer)
        q = self.source(layer.shape)
        self.layers.append(layer)
        if not layer.low.any():
            return q
        return added([layer.read.times(diagonal(layer.low, SLOPE)), q])

    def tournament(self, layer: Layer) -> Signal:
        """Columns of the table of windows against each other in pairs, the odd one waits; a column that stands twice counts
        once, absent entries are replaced by the first that is there."""
        table, n = layer.windows, len(layer.windows)
        first = table[np.arange(n), (table >= 0).argmax(axis=1)]
        columns = np.where(table >= 0, table, first[:, None]).T
        columns = [c for k, c in enumerate(columns) if not any((c == other).all() for other in columns[:k])]
        entries = [layer.read.take(c) for c in columns]
        zero, one, alone = np.zeros(n, dtype=object), np.full(n, 1 << SLOPE, dtype=object), np.arange(n).reshape(-1, 1)
        while len(entries) > 1:
            wins = []
            for u, w in zip(entries[::2], entries[1::2], strict=False):
                game = Layer(layer.name, "pointwise", added([u, w.negative()]), (n,), zero, one, alone, True)
                wins.append(added([w, self.apply(game)]))
            entries = wins + entries[2 * len(wins) :]
        return entries[0].take(np.arange(n).reshape(layer.shape))


def lmi(network: Gates, out: Signal, asked: Claim) -> None:
    """s_x |x|^2 + 2 sum lambda q (q - h v) - 2 <y, out> + s_y |y|^2 >= 0 for all x, q, y, where one of s_x, s_y is 1 and the
    other rho = claim^2, gives |out|^2 <= rho |x|^2: take y = out / s_y, and drop the terms with lambda, which are <= 0 for
    the true q. The larger of x and y stands in mixed terms only, 2 <e, B'w> + s |e|^2, and is eliminated: -|B'w|^2 / s."""
    if asked.norm != "2":
        reject("norm", "a matrix inequality is about l2")
    kept = useful(network, out)
    weights = spread(network, kept, asked.proof)
    if not weights.any():
        return follows({k: m for k, m in parts(network, out).items() if k <= 1}, [0.0, 1.0], asked.value, "2", "claim")
    rho, (value, unit) = Fraction(asked.value) ** 2, integers(weights)
    s_x, s_y = (rho, Fraction(1)) if asked.proof["last"] == "input" else (Fraction(1), rho)
    first, last = network.starts[2], network.starts[-1]  # the variables are x, every q from `first` on, y from `last` on
    middle = [Fraction(2 * v, 1 << unit) for v in value[first:].tolist()]
    diagonals = np.array([*[s_x] * first, *middle, *[s_y] * out.size], dtype=object)
    terms = [lowered(out.negative().map, last)]
    for layer, here in network.spans():
        by = diagonal(-value[here] * (layer.high - layer.low), unit + SLOPE)
        terms.append(lowered(layer.read.times(by).map, here.start))
    place = np.arange(last + out.size)
    away = (place > 0) & (place < first) if first > out.size else place >= last
    stays = np.concatenate([kept, np.ones(out.size, dtype=bool)]) & ~away
    if stays.sum() > ENTRIES:
        refuse(f"{stays.sum()} variables are too many for one matrix inequality")
    inner, outer = (np.where(some, np.cumsum(some) - 1, -1) for some in (stays, away))
    mixed = total([t.numbered(inner, outer) for m in terms for t in (m, m.transposed())])
    inside = [m.numbered(inner, inner) for m in terms]
    if not semidefinite(diagonals[stays], inside, [(mixed, s_x if first > out.size else s_y)]):
        reject("claim", f"the matrix inequality of these multipliers does not hold for {asked.value!r}")


def lowered(m: Map, start: int) -> Map:
    """Its rows from `start` on."""
    return replace(m, rows=start + m.rows, row=start + m.row)


def useful(network: Gates, out: Signal) -> np.ndarray:
    """Of all sources, the entries that matter: reached by what moves, of effect on the output, with slopes that differ. Of
    the others the change may be taken for zero (they see none, or nobody sees it, or z = low v)."""
    moves, heard = np.arange(network.starts[-1]) > 0, np.zeros(network.starts[-1], dtype=bool)
    for layer, here in network.spans():
        m, reached = layer.read.map, np.zeros(layer.read.size, dtype=bool)
        reached[m.row[moves[m.col]]] = True
        moves[here] = reached if layer.kind == "pointwise" else reached.any()
    heard[out.map.col] = True
    for layer, here in reversed(network.spans()):
        m = layer.read.map
        if layer.kind != "pointwise":
            heard[here] = heard[here].any()
        heard[m.col[heard[here][m.row]]] = True
    kept = moves & heard
    kept[1 : network.starts[2]] = True
    for layer, here in network.spans():
        kept[here] = kept[here] & (layer.high > layer.low).astype(bool) if layer.kind == "pointwise" else True
    return kept


def spread(network: Gates, kept: np.ndarray, proof: dict[str, Any]) -> np.ndarray:
    """One multiplier per entry (0: left out) from one per group, layers without a useful entry left out."""
    weights, rows = np.zeros(len(kept)), proof["multipliers"]
    layers = [(layer, here) for layer, here in network.spans() if kept[here].any()]
    if len(layers) != len(rows):
        reject("proof.multipliers", f"{len(layers)} layers take multipliers, the file has {len(rows)}")
    for k, ((layer, here), given) in enumerate(zip(layers, rows, strict=True)):
        group = np.unique(groups(layer, proof["grouping"])[kept[here]], return_inverse=True)[1]
        if len(given) != group.max() + 1:
            reject(f"proof.multipliers[{k}]", f"{layer.name} takes {group.max() + 1}, not {len(given)}")
        weights[here][kept[here]] = given[group]
    return weights


def groups(layer: Layer, grouping: str) -> np.ndarray:
    """Which entries share a multiplier: none, those of a channel of a feature map, all. Rows of a softmax always do."""
    group = np.arange(layer.read.size)
    if grouping == "layer":
        return group * 0
    if layer.kind == "rows":
        group[layer.windows] = np.arange(len(layer.windows)).reshape(-1, 1)
        return group
    return group if grouping == "neuron" or len(layer.shape) < 3 else group // prod(layer.shape[2:])


def parts(network: Network, signal: Signal) -> dict[int, Map]:
    """One map for each source that it depends on."""
    column, row = np.arange(network.starts[-1]), np.arange(signal.size)
    columns = (np.where((column >= a) & (column < b), column - a, -1) for a, b in pairwise(network.starts))
    return {k: m for k, m in enumerate(signal.map.numbered(row, here) for here in columns) if len(m.row)}


def follows(maps: dict[int, Map], known: list[float], claimed: float, norm: str, place: str) -> None:
    if not bounded(maps, known, claimed, norm):
        reject(place, f"{claimed!r} does not follow")


def bounded(maps: dict[int, Map], known: list[float], claimed: float, norm: str) -> bool:
    """Is |sum_j A_j z_j| <= c for all |z_j| <= c_j? l1 and linf: sums of columns and of rows. l2: with any t_j > 0 for which
    sum c_j^2 / t_j <= 1 it is enough that c^2 I - sum t_j A_j A_j' >= 0, by Cauchy and Schwarz."""
    if norm == "2":
        used = [j for j, m in maps.items() if known[j] > 0 and (m.error or m.value.any())]
        proposals = shares(maps, known, used, claimed) if used and claimed > 0 else ()
        return not used or any(below(maps, t, Fraction(claimed) ** 2) for t in proposals)
    sides = []
    for j, m in maps.items():
        a = m.absolute() if norm == "inf" else m.absolute().transposed()
        side = [Fraction(v, 1 << a.unit) * Fraction(known[j]) for v in a.sums().tolist()]
        sides.append(side if norm == "inf" else [max(side, default=Fraction(0))])
    return all(sum(row) <= Fraction(claimed) for row in zip(*sides, strict=True))


def shares(maps: dict[int, Map], known: list[float], used: list[int], claimed: float) -> Iterator[dict[int, Fraction]]:
    """Proposals for t: for one source it is c^2; for several, t_j = sum_i theta_i c_i^2 / theta_j with a theta that suits
    parallel ranges, for orthogonal ones, for one row (A_j), then |A_j' X| / c_j while X goes to the directions W = X X'
    that maximise sum c_j <A_j A_j', W>^(1/2), a concave function whose largest value is the least c (the dual problem)."""
    square = {j: Fraction(known[j]) ** 2 for j in used}
    if len(used) == 1:
        yield square
        return
    norm = np.array([max(np.linalg.norm(maps[j].floats(), 2), 1e-300) for j in used])
    A = [maps[j].floats() / n for j, n in zip(used, norm, strict=True)]  # |A_j| = 1, |z_j| <= c_j from here
    most = (c := norm * [known[j] for j in used]).max()
    c, X = np.maximum(c / most, 1e-30), np.eye(len(A[0]))
    guesses = [1 / c, c**0, np.maximum(norm.min() / norm, 1e-30) ** 2]
    for k in range(40):
        theta = guesses[k] if k < len(guesses) else np.maximum([np.linalg.norm(a.T @ X) for a in A], 1e-30) / c
        share = theta @ c**2 / theta * (1 + 2.0**-48)
        S = sum(s * a @ a.T for s, a in zip(share, A, strict=True))
        X = S @ X / np.linalg.norm(S @ X)
        t = {j: Fraction(s) * (Fraction(most) / Fraction(n)) ** 2 for j, s, n in zip(used, share, norm, strict=True)}
        if np.linalg.norm(S, 2) ** 0.5 * most <= claimed * 1.001 and sum(square[j] / t[j] for j in used) <= 1:
            yield t


def below(maps: dict[int, Map], share: dict[int, Fraction], square: Fraction) -> bool:
    """square I - sum t_j A_j A_j' >= 0? On the smaller side where there is one source."""
    parts = [(maps[j], 1 / t) for j, t in share.items()]
    if len(parts) == 1 and parts[0][0].rows > parts[0][0].cols:
        parts = [(parts[0][0].transposed(), parts[0][1])]
    n = parts[0][0].rows
    if n > ENTRIES:
        refuse(f"a norm of {n} rows is too large")
    return semidefinite(np.full(n, square, dtype=object), [], parts)


class Cuts(Network):
    """z = c v + w at the entries of a nonlinearity that is passed, z = w at the others; |w_i| <= |h_i v_i| entry by entry,
    so that ||w|| <= ||h v|| in every norm (Combettes and Pesquet 2020). Nothing is passed: a product of norms."""

    def __init__(self, asked: Claim):
        super().__init__(asked)
        self.norm, self.passed = asked.norm, asked.proof.get("passed", ())
        self.rows, self.known, self.seen = asked.proof["constants"], [0.0, 1.0], 0  # known: by source

    def claimed(self) -> tuple[float, str]:
        """The next constant, of the next source or of the output, and its place."""
        k = len(self.known) - 2
        if k >= len(self.rows):
            reject("proof.constants", f"the network has more signals than {len(self.rows)}")
        self.known.append(self.rows[k].get(self.norm, 0.0))  # without one, nothing follows but 0
        return self.known[-1], f"proof.constants[{k}]"

    def apply(self, layer: Layer) -> Signal:
        passed = self.seen in self.passed
        self.seen += 1
        if layer.kind != "pointwise":
            if passed:
                reject("proof.passed", f"{layer.name} is not elementwise")
            return self.cut(layer.read, layer.shape, block(layer, self.norm))
        terms = []
        twice = layer.low + layer.high if passed else layer.low * 0
        half = abs(layer.high - layer.low) if passed else 2 * np.maximum(abs(layer.low), abs(layer.high))
        if twice.any():
            terms.append(layer.read.times(diagonal(twice, SLOPE + 1)))
        if half.any() or not terms:
            terms.append(self.cut(layer.read.times(diagonal(half, SLOPE + 1)), layer.shape, Fraction(1)))
        return added(terms)

    def cut(self, read: Signal, shape: tuple[int, ...], square: Fraction) -> Signal:
        """A new source w with ||w||^2 <= square ||read||^2, of the constant in the certificate."""
        value, place = self.claimed()
        factor = isqrt(ceil(square * 4**60) - 1) + 1 if square != 1 else 1 << 60  # rounded up, in units of 2^-60
        follows(parts(self, read.times(constantly(read.size, factor, 60))), self.known, value, self.norm, place)
        return self.source(shape)


def block(layer: Layer, norm: str) -> Fraction:
    """The square of the constant of a block. Softmax: 1/2 (its derivative s_i (1_ij - s_j) has absolute row and column sums
    2 s_i (1 - s_i) <= 1/2). A maximum picks one entry: in how many windows one entry stands, in l1 as often, in l2 the
    root of that, in linf once."""
    if layer.kind == "rows":
        return Fraction(1, 4)
    there = layer.windows >= 0
    overlap = int(np.bincount(np.unique([np.nonzero(there)[0], layer.windows[there]], axis=1)[1]).max())
    return Fraction({"1": overlap**2, "2": overlap, "inf": 1}[norm])


def chain(network: Cuts, out: Signal, asked: Claim) -> None:
    """The output is the last link, unless it is a nonlinearity itself."""
    if len(network.known) <= len(network.rows) + 1 or not itself(network, out):
        value, place = network.claimed()
        follows(parts(network, out), network.known, value, asked.norm, place)
    if len(network.known) != len(network.rows) + 2 or len(network.passed) > network.seen:
        reject("proof.constants", f"{len(network.rows)} signals, the network has {len(network.known) - 2}")
    if network.known[-1] > asked.value:
        reject("claim", f"{asked.value!r} is less than the last constant, {network.known[-1]!r}")


def itself(network: Cuts, out: Signal) -> bool:
    """Is the output the last source, entry by entry?"""
    m, start = out.map, network.starts[-2]
    straight = len(m.row) == m.rows == network.starts[-1] - start and (m.col == start + m.row).all()
    return bool(straight and start and not m.error and (m.value == 1 << m.unit).all())


class Absolute(Network):
    """|change of z| <= B |change of v| entry by entry, B the largest absolute slopes; a maximum moves by no more than the
    sum (for ||M 1|| the largest) of its window. All together a matrix M >= 0 with |J| <= M: `reach` is that of all sources,
    or M 1 for linf, upper values in units of 2^-200."""

    def __init__(self, asked: Claim):
        super().__init__(asked)
        self.inf = asked.norm == "inf"
        start = lowered(constantly(prod(asked.question.input_shape), 1 << QUOTIENT, QUOTIENT), 1)
        self.reach = replace(start, cols=1, col=start.col * 0) if self.inf else start

    def seen(self, signal: Signal) -> Map:
        return signal.map.absolute().after(self.reach).up(QUOTIENT)

    def apply(self, layer: Layer) -> Signal:
        v = self.seen(layer.read)
        if layer.kind == "pointwise":
            z = v.times(diagonal(np.maximum(abs(layer.low), abs(layer.high)), SLOPE)).up(QUOTIENT)
        elif layer.kind == "maximum":
            rows = [v.take(column) for column in layer.windows.T]
            z = stored(np.max([m.sums() for m in rows], axis=0).reshape(-1, 1), QUOTIENT) if self.inf else total(rows)
        else:
            refuse(f"{layer.name}: softmax has no network of absolute values")
        self.reach = stacked([self.reach, z])
        return self.source(layer.shape)


def nonnegative(network: Absolute, out: Signal, asked: Claim) -> None:
    """The norm of M bounds the constant: M grows with the absolute coefficients, and so do the norms."""
    follows({1: network.seen(out)}, [0.0, 1.0], asked.value, asked.norm, "claim")


PROOFS = {"lmi": (Gates, lmi), "chain": (Cuts, chain), "cplip": (Cuts, chain), "nonnegative": (Absolute, nonnegative)}
