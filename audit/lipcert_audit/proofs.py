"""The four kinds of proof, each in exact arithmetic.

Notation: a nonlinearity reads v = sum_j A_j z_j over the sources j (the input x and earlier nonlinearities), all of them
changes between two inputs.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, isqrt
from typing import Any

import numpy as np

from lipcert_audit.certificate import Certificate, constant, reject
from lipcert_audit.exact import QUOTIENT, Map, constantly, diagonal, identity, integers, semidefinite, total
from lipcert_audit.network import SLOPE, Layer, Network, Signal, added, refuse

ENTRIES = 10_000  # rows of one matrix inequality: above, this program takes too long


# The matrix inequality.


class Gates(Network):
    """z_i = low_i v_i + q_i with q_i (h_i v_i - q_i) >= 0, h = high - low: what the slopes say (LipSDP, Fazlyab et al. 2019).

    Softmax is the gradient of the convex, 1/2-smooth log-sum-exp, so the inequality holds summed over a row (Baillon and
    Haddad 1977). max(u, w) = w + relu(u - w) makes a maximum a tournament of ReLUs.
    """

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
        table = layer.windows
        first = table[np.arange(len(table)), (table >= 0).argmax(axis=1)]
        columns = np.where(table >= 0, table, first[:, None]).T
        columns = [c for k, c in enumerate(columns) if not any((c == other).all() for other in columns[:k])]
        entries = [layer.read.take(c) for c in columns]
        n = len(table)
        zero, one, alone = np.zeros(n, dtype=object), np.full(n, 1 << SLOPE, dtype=object), np.arange(n).reshape(-1, 1)
        minus = constantly(n, -1)
        while len(entries) > 1:
            pairs = list(zip(entries[::2], entries[1::2], strict=False))
            rest = entries[2 * len(pairs) :]
            wins = []
            for u, w in pairs:
                read = added([u, w.times(minus)])
                wins.append(added([w, self.apply(Layer(layer.name, "pointwise", read, (n,), zero, one, alone))]))
            entries = wins + rest
        return entries[0].take(np.arange(n).reshape(layer.shape))


def lmi(network: Gates, out: Signal, asked: Certificate) -> None:
    """s_x |x|^2 + 2 sum lambda q (q - h v) - 2 <y, out> + s_y |y|^2 >= 0 for all x, q, y, where one of s_x, s_y is 1 and the
    other rho = claim^2, gives |out|^2 <= rho |x|^2: take y = out / s_y, and drop the terms with lambda, which are <= 0 for
    the true q. The larger of x and y stands in mixed terms only, 2 <e, B'w> + s |e|^2, and is eliminated: -|B'w|^2 / s."""
    if asked.norm != "2":
        reject("norm", "a matrix inequality is about l2")
    kept = useful(network, out)
    weights = spread(network, kept, asked.proof)
    if not any(k.any() for k in kept[1:]):
        return follows({k: m for k, m in out.maps.items() if k == 0}, {0: 1.0}, asked.claim, "2", "claim")
    rho, away = Fraction(asked.claim) ** 2, 0 if network.sizes[0] >= out.size else -1
    ends = {0: rho, -1: Fraction(1)} if asked.proof["last"] == "input" else {0: Fraction(1), -1: rho}
    number, n = numbered([*kept, np.ones(out.size, dtype=bool)], away)
    if n > ENTRIES:
        refuse(f"{n} variables are too many for one matrix inequality")
    diagonals, terms, outside = np.full(n, ends[-1 - away], dtype=object), [], []
    links = [(constantly(out.size, -1), out.maps, number[-1])]
    for k, (layer, weight) in enumerate(zip(network.layers, weights, strict=True), start=1):
        value, unit = integers(weight)
        diagonals[number[k][kept[k]]] = [Fraction(2 * v, 1 << unit) for v in value[kept[k]].tolist()]
        links.append((diagonal(-value * (layer.high - layer.low), unit + SLOPE), layer.read.maps, number[k]))
    for factor, maps, rows in links:
        for j, m in maps.items():
            if rows is number[away]:
                outside.append(placed(m.times(factor).transposed(), number[j], rows, n))
            else:
                (outside if number[j] is number[away] else terms).append(placed(m.times(factor), rows, number[j], n))
    if not semidefinite(diagonals, terms, [(total(outside), ends[away])] if outside else []):
        reject("claim", f"the matrix inequality of these multipliers does not hold for {asked.claim!r}")


def useful(network: Network, out: Signal) -> list[np.ndarray]:
    """Per source, the entries that matter: reached by what moves, of effect on the output, with slopes that differ. Of the
    others the change may be taken for zero (they see none, or nobody sees it, or z = low v)."""
    moves = [np.ones(network.sizes[0], dtype=bool)]
    for layer, size in zip(network.layers, network.sizes[1:], strict=True):
        reached = np.zeros(size, dtype=bool)
        for j, m in layer.read.maps.items():
            reached[m.row[((m.value != 0) | (m.error > 0)).astype(bool) & moves[j][m.col]]] = True
        moves.append(reached if layer.kind == "pointwise" else np.full(size, reached.any()))
    heard = [np.zeros(size, dtype=bool) for size in network.sizes]

    def hear(signal: Signal, rows: np.ndarray) -> None:
        for j, m in signal.maps.items():
            heard[j][m.col[((m.value != 0) | (m.error > 0)).astype(bool) & rows[m.row]]] = True

    hear(out, np.ones(out.size, dtype=bool))
    for k in range(len(network.layers), 0, -1):
        layer = network.layers[k - 1]
        if layer.kind != "pointwise":
            heard[k][:] = heard[k].any()
        hear(layer.read, heard[k])
    kept = [np.ones(network.sizes[0], dtype=bool)]
    for k, layer in enumerate(network.layers, start=1):
        alone = layer.kind == "pointwise"
        kept.append(
            moves[k] & heard[k] & (layer.high > layer.low).astype(bool) if alone else np.ones(layer.read.size, dtype=bool)
        )
    return kept


def spread(network: Network, kept: list[np.ndarray], proof: dict[str, Any]) -> list[np.ndarray]:
    """One multiplier per entry (0: left out) from one per group, layers without a useful entry left out."""
    rows = iter(proof["multipliers"])
    layers = [k for k in range(1, len(kept)) if kept[k].any()]
    if len(layers) != len(proof["multipliers"]):
        reject("proof.multipliers", f"{len(layers)} layers take multipliers, the file has {len(proof['multipliers'])}")
    out = []
    for k, layer in enumerate(network.layers, start=1):
        weight = np.zeros(network.sizes[k])
        if kept[k].any():
            given = next(rows)
            group = np.unique(groups(layer, proof["grouping"])[kept[k]], return_inverse=True)[1]
            if len(given) != group.max() + 1:
                reject(f"proof.multipliers[{layers.index(k)}]", f"{layer.name} takes {group.max() + 1}, not {len(given)}")
            weight[kept[k]] = given[group]
        out.append(weight)
    return out


def groups(layer: Layer, grouping: str) -> np.ndarray:
    """Which entries share a multiplier: none, those of a channel of a feature map, all. Rows of a softmax always do."""
    n = int(np.prod(layer.shape, dtype=int))
    if grouping == "layer":
        return np.zeros(n, dtype=np.int64)
    if layer.kind == "rows":
        group = np.zeros(n, dtype=np.int64)
        group[layer.windows] = np.arange(len(layer.windows)).reshape(-1, 1)
        return group
    if grouping == "neuron" or len(layer.shape) < 3:
        return np.arange(n)
    return np.arange(n) // int(np.prod(layer.shape[2:], dtype=int))


def numbered(kept: list[np.ndarray], away: int) -> tuple[list[np.ndarray], int]:
    """Numbers of the variables x, q_1, .., y, and how many there are; -1: left out. The end that is eliminated (`away`) is
    numbered by itself."""
    start, number = 0, []
    for use in kept:
        first, places = 0 if use is kept[away] else start, np.full(len(use), -1)
        places[use] = first + np.arange(use.sum())
        start += 0 if use is kept[away] else int(use.sum())
        number.append(places)
    return number, start


def placed(m: Map, rows: np.ndarray, cols: np.ndarray, n: int) -> Map:
    """The same among the variables; coefficients of those that are left out vanish."""
    row, col = rows[m.row], cols[m.col]
    there = (row >= 0) & (col >= 0)
    return Map(n, int(cols.max()) + 1, row[there], col[there], m.value[there], m.unit, m.error)


# Norms and chains of them.


def follows(maps: dict[int, Map], known: dict[int, float], claimed: float, norm: str, place: str) -> None:
    """Is |sum_j A_j z_j| <= c for all |z_j| <= c_j? l1 and linf: sums of columns and of rows. l2: with any t_j > 0 for which
    sum c_j^2 / t_j <= 1 it is enough that c^2 I - sum t_j A_j A_j' >= 0, by Cauchy and Schwarz."""
    if norm == "2":
        used = [j for j, m in maps.items() if known[j] > 0 and (m.error or m.value.any())]
        good = not used or (claimed > 0 and any(below(maps, t, Fraction(claimed) ** 2) for t in shares(maps, known, used)))
    else:
        sides = []
        for j, m in maps.items():
            a = m.absolute() if norm == "inf" else m.absolute().transposed()
            side = [Fraction(v, 1 << a.unit) * Fraction(known[j]) for v in a.sums(np.ones(a.cols, dtype=object)).tolist()]
            sides.append(side if norm == "inf" else [max(side, default=Fraction(0))])
        good = all(sum(row) <= Fraction(claimed) for row in zip(*sides, strict=True))
    if not good:
        reject(place, f"{claimed!r} does not follow")


def shares(maps: dict[int, Map], known: dict[int, float], used: list[int]) -> list[dict[int, Fraction]]:
    """Proposals for t: for one source it is c^2; for several, what suits parallel and orthogonal ranges."""
    square = {j: Fraction(known[j]) ** 2 for j in used}
    if len(used) == 1:
        return [square]
    norm = {j: max(spectral(maps[j]), 1e-300) for j in used}
    guesses = []
    for theta in ({j: norm[j] / known[j] for j in used}, {j: norm[j] ** 2 for j in used}):
        whole = sum(theta[j] * float(square[j]) for j in used)
        guesses.append({j: Fraction(whole / theta[j]) * (1 + Fraction(1, 1 << 48)) for j in used})
    return [t for t in guesses if sum(square[j] / t[j] for j in used) <= 1]


def spectral(m: Map) -> float:
    """About the norm."""
    matrix = m.floats()
    small = matrix @ matrix.T if m.rows < m.cols else matrix.T @ matrix
    return float(np.linalg.eigvalsh(small)[-1].clip(min=0)) ** 0.5


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

    def __init__(self, size: int, asked: Certificate):
        super().__init__(size)
        self.norm, self.passed = asked.norm, asked.proof.get("passed", ())
        self.rows = asked.proof["constants"]
        self.known: dict[int, float] = {0: 1.0}
        self.used, self.seen = 0, 0

    def claimed(self) -> tuple[float, str]:
        place = f"proof.constants[{self.used}]"
        if self.used >= len(self.rows):
            reject("proof.constants", f"the network has more signals than {len(self.rows)}")
        value = constant(self.rows[self.used], self.norm, place)
        self.used += 1
        return (value, place) if value >= 0 else reject(place, "negative")

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
        grown = read.times(constantly(read.size, factor, 60))
        follows(grown.maps, self.known, value, self.norm, place)
        out = self.source(shape)
        self.known[len(self.sizes) - 1] = value
        return out


def block(layer: Layer, norm: str) -> Fraction:
    """The square of the constant of a block. Softmax: 1/2 (its derivative s_i (1_ij - s_j) has absolute row and column sums
    2 s_i (1 - s_i) <= 1/2). A maximum picks one entry: in how many windows one entry stands, in l1 as often, in l2 the
    root of that, in linf once."""
    if layer.kind == "rows":
        return Fraction(1, 4)
    places = layer.windows[layer.windows >= 0]
    distinct = np.unique(np.stack([np.nonzero(layer.windows >= 0)[0], places]), axis=1)
    overlap = int(np.bincount(distinct[1]).max())
    return Fraction({"1": overlap**2, "2": overlap, "inf": 1}[norm])


def chain(network: Cuts, out: Signal, asked: Certificate) -> None:
    """The output is the last link, unless it is a nonlinearity itself."""
    value = network.known[len(network.sizes) - 1]
    if network.used < len(network.rows) or not itself(network, out):
        value, place = network.claimed()
        follows(out.maps, network.known, value, asked.norm, place)
    if network.used != len(network.rows) or len(network.passed) > network.seen:
        reject("proof.constants", f"{len(network.rows)} signals, the network has {network.used}")
    if value > asked.claim:
        reject("claim", f"{asked.claim!r} is less than the last constant, {value!r}")


def itself(network: Cuts, out: Signal) -> bool:
    """Is the output the last source, entry by entry?"""
    last = len(network.sizes) - 1
    if last == 0 or list(out.maps) != [last]:
        return False
    m = out.maps[last]
    straight = len(m.row) == m.rows == m.cols and (m.row == m.col).all()
    return bool(straight and not m.error and (m.value == 1 << m.unit).all())


# Networks of absolute values.


class Absolute(Network):
    """|change of z| <= B |change of v| entry by entry, B the largest absolute slopes; a maximum moves by no more than the
    sum (for ||M 1|| the largest) of its window. All together a matrix M >= 0 with |J| <= M: `reach[k]` is that of source k,
    or M 1 for linf, upper values in units of 2^-200."""

    def __init__(self, size: int, asked: Certificate):
        super().__init__(size)
        self.inf = asked.norm == "inf"
        start = identity(size)
        ones = Map(size, 1, start.row, start.row * 0, start.value)
        self.reach = [(ones if self.inf else start).at(QUOTIENT)]

    def seen(self, signal: Signal) -> Map:
        parts = [m.absolute().after(self.reach[j]).up(QUOTIENT) for j, m in signal.maps.items()]
        return total(parts) if parts else constantly(signal.size, 0, QUOTIENT)

    def apply(self, layer: Layer) -> Signal:
        v = self.seen(layer.read)
        if layer.kind == "pointwise":
            z = v.times(diagonal(np.maximum(abs(layer.low), abs(layer.high)), SLOPE)).up(QUOTIENT)
        elif layer.kind == "maximum":
            rows = [v.take(column) for column in layer.windows.T]
            z = largest_of(rows) if self.inf else total(rows)
        else:
            refuse(f"{layer.name}: softmax has no network of absolute values")
        self.reach.append(z)
        return self.source(layer.shape)


def largest_of(rows: list[Map]) -> Map:
    """Entry by entry, of nonnegative maps with one column."""
    value = np.max([m.sums(np.ones(1, dtype=object)) for m in rows], axis=0)
    place = np.arange(len(value))
    return Map(len(value), 1, place, place * 0, value, rows[0].unit)


def nonnegative(network: Absolute, out: Signal, asked: Certificate) -> None:
    """The norm of M bounds the constant: M grows with the absolute coefficients, and so do the norms."""
    follows({0: network.seen(out)}, {0: 1.0}, asked.claim, asked.norm, "claim")


PROOFS: dict[str, tuple[type[Network], Any]] = {
    "lmi": (Gates, lmi),
    "chain": (Cuts, chain),
    "cplip": (Cuts, chain),
    "nonnegative": (Absolute, nonnegative),
}
