"""Functions of t on [T, inf) as sums of monomials exp(g(t)) t^p: what an expression does far out, with remainders.

    u(t) = sum_i a_i m_i(t) + c(t) m(t),   m_i = exp(g_i(t)) t^{p_i},   c(t) in [low, high] for all t >= T

g_i is a polynomial with rational coefficients, p_i rational, a_i exact where the network's constants are (else an
interval that holds one fixed number), so growing terms cancel exactly: tanh spelled as (e^t - e^-t) / (e^t + e^-t) is
1 - 2 e^-2t + .. here. All arithmetic is on fractions; exp and log of numbers are rounded outward. What cannot be decided at
this T raises `Unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Ends = tuple[Fraction, Fraction]
Poly = tuple[tuple[Fraction, Fraction], ...]  # (power >= 0, coefficient), powers falling
TERMS = 3  # kept exactly; what is smaller goes into the remainder
SMALLEST = 1e-300  # floor of what an exponential may underflow to
ZERO, ONE, HALF = Fraction(0), Fraction(1), Fraction(1, 2)
NOTHING: Ends = (ZERO, ZERO)


class Unknown(Exception):
    """Nothing can be said from this T on."""


@dataclass(frozen=True)
class Monomial:
    """exp(sum of c t^k) t^power, powers k falling; k = 0 is a constant factor that is kept unrounded."""

    exponent: Poly = ()
    power: Fraction = ZERO

    def __mul__(self, other: Monomial) -> Monomial:
        total: dict[Fraction, Fraction] = dict(self.exponent)
        for k, c in other.exponent:
            total[k] = total.get(k, ZERO) + c
        return Monomial(tuple(sorted(((k, c) for k, c in total.items() if c), reverse=True)), self.power + other.power)

    def to(self, r: Fraction) -> Monomial:
        return Monomial(tuple((k, c * r) for k, c in self.exponent if c * r), self.power * r)

    @property
    def growth(self) -> int:
        """1: to infinity, -1: to 0, 0: a constant."""
        if self.exponent and self.exponent[0][0] > 0:
            return 1 if self.exponent[0][1] > 0 else -1
        return (self.power > 0) - (self.power < 0)

    def over(self, other: Monomial) -> Monomial:
        return self * other.to(-ONE)

    def largest(self, T: Fraction) -> Fraction:
        """Upper bound on [T, inf) of one that does not grow."""
        return _largest(self, T)

    def least(self, T: Fraction) -> Fraction:
        """Lower bound on [T, inf)."""
        return ZERO if self.growth < 0 else 1 / _largest(self.to(-ONE), T)

    def at(self, T: Fraction, side: int) -> Fraction:
        terms = [float(c) * float(T) ** float(k) for k, c in self.exponent] + [float(self.power) * math.log(T)]
        total, mass = math.fsum(terms), math.fsum(map(abs, terms))
        return exp_end(total, mass * 1e-14 + 1e-300, side)


@lru_cache(maxsize=4096)
def _largest(m: Monomial, T: Fraction) -> Fraction:
    if m.growth > 0:
        raise Unknown
    rising = [(k, c) for k, c in m.exponent if k > 0]
    if rising:  # t d/dt log m = sum k c t^k + p < 0 from T on: the first power outweighs the positive others at T
        (k, c), rest = rising[0], rising[1:]
        pull = sum(j * d * _power(T, j - k, 1) for j, d in rest if d > 0) + max(m.power, ZERO) * _power(T, -k, 1)
        if not k * -c > pull * Fraction(1001, 1000):
            raise Unknown
    return m.at(T, 1)


def _power(T: Fraction, r: Fraction, side: int) -> Fraction:
    if r.denominator == 1:
        return T ** int(r)
    return exp_end(float(r) * math.log(T), abs(float(r) * math.log(T)) * 1e-14, side)


def exp_end(x: float, error: float, side: int) -> Fraction:
    """exp of any number within x +- error, from above (1) or below (-1)."""
    x = x + side * (error + 1e-15 * abs(x))
    if x > 700:
        if side > 0:
            raise Unknown
        x = 700.0
    value = math.exp(x) if x > -690 else 0.0
    return max(Fraction(value * (1 + side * 1e-14)) + (Fraction(SMALLEST) if side > 0 else -Fraction(SMALLEST)), ZERO)


def product(a: Ends, b: Ends) -> Ends:
    corners = [x * y for x in a for y in b]
    return _short(min(corners), max(corners))


def _short(low: Fraction, high: Fraction) -> Ends:
    """Ends of intervals need not be exact: rounded outward where their fractions have grown long."""
    if low == high and low.denominator.bit_length() + low.numerator.bit_length() < 4000:
        return low, high
    return _rounded(low, -1), _rounded(high, 1)


def _rounded(x: Fraction, side: int) -> Fraction:
    if x.denominator.bit_length() < 300 or x == 0:
        return x
    shift = 200 + max(0, x.denominator.bit_length() - abs(x.numerator).bit_length())
    scaled = x * 2**shift
    whole = math.floor(scaled) if side < 0 else math.ceil(scaled)
    return Fraction(whole, 2**shift)


def hull(*pairs: Ends) -> Ends:
    return min(p[0] for p in pairs), max(p[1] for p in pairs)


Term = tuple[Monomial, Ends]


@dataclass(frozen=True)
class Series:
    T: Fraction
    terms: tuple[Term, ...] = ()  # growth falling, no coefficient zero
    rest: Term | None = None

    @staticmethod
    def constant(T: Fraction, value: Ends) -> Series:
        return Series(T, () if value == NOTHING else ((Monomial(), value),))

    @staticmethod
    def bounded(T: Fraction, value: Ends) -> Series:
        """Any function with values there."""
        return Series.constant(T, value) if value[0] == value[1] else Series(T, (), (Monomial(), value))

    def __add__(self, other: Series) -> Series:
        return collect(self.T, [*self.terms, *other.terms], [r for r in (self.rest, other.rest) if r])

    def __mul__(self, other: Series) -> Series:
        def cross(a: Iterable[Term], b: Iterable[Term]) -> list[Term]:
            return [(m * n, product(c, d)) for m, c in a for n, d in b]

        mine, others = ([r] if r else [] for r in (self.rest, other.rest))
        loose = cross(self.terms, others) + cross(mine, other.terms) + cross(mine, others)
        return collect(self.T, cross(self.terms, other.terms), loose)

    def scaled(self, factor: Ends) -> Series:
        return self * Series.constant(self.T, factor)

    def relative(self) -> tuple[Term, Series]:
        """(leading term, e) with u = leading (1 + e). The leading coefficient has a sign."""
        lead = self.terms[0] if self.terms else self.rest
        if lead is None or lead[1][0] <= 0 <= lead[1][1]:
            raise Unknown
        monomial, coefficient = lead
        inverse = 1 / coefficient[1], 1 / coefficient[0]
        scale = monomial.to(-ONE)
        if not self.terms:
            return lead, Series(self.T)
        loose = [] if self.rest is None else [(self.rest[0] * scale, product(self.rest[1], inverse))]
        terms = [(m * scale, product(c, inverse)) for m, c in self.terms[1:]]
        return lead, collect(self.T, terms, loose)

    def range(self) -> tuple[Fraction | None, Fraction | None]:
        """Ends on [T, inf), None for infinite ones."""
        try:
            (monomial, coefficient), e = self.relative()
            low, high = e.range()
            if low is not None and high is not None and low > -1:
                c = product(coefficient, (1 + low, 1 + high))
                return _spread(monomial, c, self.T)
        except Unknown:
            pass
        ends = [_spread(m, c, self.T) for m, c in (*self.terms, *([self.rest] if self.rest else []))]
        lows, highs = [e[0] for e in ends if e[0] is not None], [e[1] for e in ends if e[1] is not None]
        n = len(ends)
        return (sum(lows, ZERO) if len(lows) == n else None), (sum(highs, ZERO) if len(highs) == n else None)

    @property
    def sign(self) -> int:
        """Of u from T on, 0 where that is open."""
        try:
            (_, coefficient), e = self.relative()
            low, high = e.range()
        except Unknown:
            return 0
        if low is None or high is None or low <= -1:
            return 0
        return 1 if coefficient[0] > 0 else -1

    @property
    def growth(self) -> int:
        if self.terms:
            return self.terms[0][0].growth
        return -1 if self.rest is None else self.rest[0].growth

    def to(self, r: Fraction) -> Series:
        """u^r: the binomial series of (1 + e)^r with Lagrange's remainder. A real r needs u > 0."""
        if r == 0:
            return Series.constant(self.T, (ONE, ONE))
        if not self.terms and self.rest is None and r > 0:
            return self
        if not self.terms and r > 0 and self.rest is not None and self.rest[1][0] >= 0:
            return Series(self.T, (), (self.rest[0].to(r), number_power(self.rest[1], r)))
        (monomial, coefficient), e = self.relative()
        if coefficient[0] < 0 and r.denominator != 1:
            raise Unknown
        lead = (monomial.to(r), number_power(coefficient, r))
        if not self.terms:
            return Series(self.T, (), lead)
        low, high = e.range()
        if low is None or high is None or low < -HALF or high > 1:
            raise Unknown
        total, power, binomial = Series.constant(self.T, (ONE, ONE)), Series.constant(self.T, (ONE, ONE)), ONE
        for k in range(1, TERMS):
            power, binomial = power * e, binomial * (r - k + 1) / k
            total = total + power.scaled((binomial, binomial))
        binomial = binomial * (r - TERMS + 1) / TERMS
        last = number_power((1 + min(low, ZERO), 1 + max(high, ZERO)), r - TERMS)
        total = total + power * e * Series.bounded(self.T, product((binomial, binomial), last))
        return total * Series(self.T, (lead,))

    def exp(self) -> Series:
        """exp of the growing terms and of the constant is a monomial, of the rest a power series."""
        growing = [(m, c) for m, c in self.terms if m.growth >= 0]
        plain = all(c[0] == c[1] and not m.exponent for m, c in growing)
        if not plain or (self.rest is not None and self.rest[0].growth > 0):
            return self._decaying_exp()
        exponent = tuple((m.power, c[0]) for m, c in growing)
        small = Series(self.T, tuple((m, c) for m, c in self.terms if m.growth < 0), None)
        loose = Series(self.T, (), self.rest)
        rest_low, rest_high = loose.range()
        low, high = small.range()
        if low is None or high is None or rest_low is None or rest_high is None:
            raise Unknown
        if self.rest is not None and self.rest[0].growth < 0:
            small, low, high, loose = small + loose, low + rest_low, high + rest_high, Series(self.T)
        if max(-low, high) > 1:
            raise Unknown
        total = power = Series.constant(self.T, (ONE, ONE))
        for k in range(1, TERMS):
            power = (power * small).scaled((Fraction(1, k), Fraction(1, k)))
            total = total + power
        last = number_exp((min(low, ZERO), max(high, ZERO)))
        last = last[0] / TERMS, last[1] / TERMS
        total = total + power * small * Series.bounded(self.T, last)
        if loose.rest is not None:
            total = total * Series.bounded(self.T, number_exp((rest_low, rest_high)))
        return total * Series(self.T, ((Monomial(exponent), (ONE, ONE)),))

    def _decaying_exp(self) -> Series:
        """0 < exp(u) <= exp(-k t^p) where u <= -k t^p, with p = 1 where u falls faster than that."""
        (monomial, _), _ = self.relative()
        if self.sign >= 0 or monomial.growth <= 0:
            raise Unknown
        p = ONE if monomial.exponent else monomial.power
        slower = Series(self.T, ((Monomial((), -p), (ONE, ONE)),))
        _, high = (self * slower).range()
        if high is None or high >= 0:
            raise Unknown
        return Series(self.T, (), (Monomial(((p, high),)), (ZERO, ONE)))

    def log(self) -> Series:
        """log u = log a + g(t) + p log t + log(1 + e), u > 0."""
        (monomial, coefficient), e = self.relative()
        if coefficient[0] <= 0 or self.T < 1:
            raise Unknown
        total = Series(self.T, tuple((Monomial((), k), (c, c)) for k, c in monomial.exponent))
        if not self.terms:
            total = total + Series.bounded(self.T, number_log(coefficient))
        elif coefficient != (ONE, ONE):
            total = total + Series.constant(self.T, number_log(coefficient))
        if monomial.power:  # 0 <= log t <= 3 t^(1/8): (log t) t^(-1/8) is largest at e^8, where it is 8 / e
            total = total + Series(self.T, (), (Monomial((), Fraction(1, 8)), (ZERO, Fraction(3)))).scaled(
                (monomial.power, monomial.power)
            )
        return total + e.log1p()

    def log1p(self) -> Series:
        """log(1 + e) for |e| <= 1/2, with Lagrange's remainder."""
        low, high = self.range()
        if low is None or high is None or low < -HALF or high > 1:
            raise Unknown
        total, power = Series(self.T), Series.constant(self.T, (-ONE, -ONE))
        for k in range(1, TERMS):
            power = power * self.scaled((-ONE, -ONE))
            total = total + power.scaled((Fraction(1, k), Fraction(1, k)))
        last = number_power((1 + min(low, ZERO), 1 + max(high, ZERO)), Fraction(-TERMS))
        scaled = last[0] / TERMS, last[1] / TERMS
        return total + (power * self.scaled((-ONE, -ONE))) * Series.bounded(self.T, scaled)


def _spread(monomial: Monomial, c: Ends, T: Fraction) -> tuple[Fraction | None, Fraction | None]:
    """Range of c(t) m(t)."""
    if monomial.growth > 0:
        least = monomial.least(T)
        return (None if c[0] < 0 else c[0] * least), (None if c[1] > 0 else c[1] * least)
    most, least = monomial.largest(T), monomial.least(T)
    return hull(product(c, (least, most)))


def _by_growth(terms: list[Term]) -> list[tuple[tuple[Fraction, ...], Term]]:
    """Fastest first, each with what its growth is compared by."""
    powers = sorted({k for m, _ in terms for k, _ in m.exponent if k > 0}, reverse=True)
    keyed = []
    for monomial, c in terms:
        given = dict(monomial.exponent)
        keyed.append(((*(given.get(k, ZERO) for k in powers), monomial.power), (monomial, c)))
    return sorted(keyed, key=lambda pair: pair[0], reverse=True)


def collect(T: Fraction, terms: list[Term], loose: list[Term]) -> Series:
    """Terms of one monomial added up, the smallest ones and whatever is smaller than a loose one made one remainder."""
    sums: dict[Monomial, Ends] = {}
    for monomial, c in terms:
        before = sums.get(monomial, (ZERO, ZERO))
        sums[monomial] = before[0] + c[0], before[1] + c[1]
    kept = _tied(T, [(m, c) for m, c in sums.items() if c != NOTHING])
    loose = [(m, c) for m, c in loose if c != NOTHING] + kept[TERMS:]
    kept = kept[:TERMS]
    if not loose:
        return Series(T, tuple(kept))
    biggest = _by_growth(loose)[0][1][0] if len(loose) > 1 else loose[0][0]
    place = next((i for i, (m, _) in enumerate(kept) if m.over(biggest).growth <= 0), len(kept))
    low = high = ZERO
    for monomial, c in loose + kept[place:]:
        if monomial == biggest:
            low, high = low + c[0], high + c[1]
            continue
        ratio = monomial.over(biggest)
        within = product(c, (ratio.least(T), ratio.largest(T)))
        low, high = low + within[0], high + within[1]
    return Series(T, tuple(kept[:place]), (biggest, _short(low, high)))


def _tied(T: Fraction, terms: list[Term]) -> list[Term]:
    """Fastest first; monomials that differ by a constant factor only are made one, which rounds the factor."""
    if len(terms) < 2:
        return terms
    out: list[tuple[tuple[Fraction, ...], Term]] = []
    for key, (monomial, c) in _by_growth(terms):
        if out and out[-1][0] == key:
            first, before = out.pop()[1]
            ratio = monomial.over(first)
            c = product(c, (ratio.least(T), ratio.largest(T)))
            monomial, c = first, (before[0] + c[0], before[1] + c[1])
        out.append((key, (monomial, c)))
    return [term for _, term in out if term[1] != NOTHING]


def number_power(a: Ends, r: Fraction) -> Ends:
    """a^r, a > 0 unless r is a whole number (a of one sign if it is negative)."""
    if r.denominator == 1:
        ends = [x ** int(r) for x in a]
        low, high = min(ends), max(ends)
        return _short(ZERO if a[0] < 0 < a[1] and r % 2 == 0 else low, high)
    if a[0] < 0 or (a[0] == 0 and r < 0):
        raise Unknown
    exponent = float(r)

    def end(x: Fraction, side: int) -> Fraction:
        if x == 0 or x == 1:
            return x
        y = exponent * _log(x)
        return exp_end(y, abs(y) * 1e-14 + 1e-15, side)

    low, high = (a[0], a[1]) if r > 0 else (a[1], a[0])
    return end(low, -1), end(high, 1)


def _log(x: Fraction) -> float:
    """To 1e-15 absolute and relative to its own size and that of its parts."""
    shift = x.numerator.bit_length() - x.denominator.bit_length()
    return math.log(float(x / Fraction(2) ** shift)) + shift * math.log(2.0)


def number_exp(a: Ends) -> Ends:
    return exp_end(float(a[0]), abs(float(a[0])) * 1e-15, -1), exp_end(float(a[1]), abs(float(a[1])) * 1e-15, 1)


def number_log(a: Ends) -> Ends:
    if a[0] <= 0:
        raise Unknown
    out = []
    for x, side in zip(a, (-1, 1), strict=True):
        y = _log(x)
        out.append(Fraction(y + side * (1e-14 * abs(y) + 1e-15)))
    return out[0], out[1]
