"""Rows made of expressions: no difference quotient, value or derivative of the exact function outside what they claim."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath as mp
import pytest
import torch
from expressions import Maker, Real, chord, made, points
from thorough import FULL

from lipcert.activations import Elementwise
from lipcert.activations.composed import composed
from lipcert.activations.jets import needed

TINY = mp.mpf(10) ** -40  # the oracle's own rounding
SEEDS = range(300 if FULL else 8)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def outside(row: Elementwise, real: Real, seed: int) -> list[str]:
    """Claims that the exact function contradicts, as sentences."""
    found = []
    low, high = row.slopes()
    pairs = points(seed)
    chords = [(a, b, q) for a, b in pairs if a != b and (q := chord(real, a, b)) is not None]
    found += [
        f"chord {a!r}, {b!r}: {q} not in [{low}, {high}]" for a, b, q in chords if not low - TINY <= q <= high + TINY
    ]
    lo, hi = (f64(*(side(p) for p in pairs)) for side in (min, max))
    slopes, values = row.slopes_on(lo, hi), row.values_on(lo, hi)
    for k, (a, b) in enumerate(pairs):
        q = chord(real, a, b) if a != b else None
        if q is not None and not float(slopes[0][k]) - TINY <= q <= float(slopes[1][k]) + TINY:
            found.append(f"chord {q} on [{a!r}, {b!r}] not in [{slopes[0][k]}, {slopes[1][k]}]")
        for t in (a, b, a / 2 + b / 2):
            with mp.workdps(60):
                try:
                    y = real(mp.mpf(t))
                except (OverflowError, ZeroDivisionError, ValueError):
                    continue
            if not float(values[0][k]) <= y <= float(values[1][k]):
                found.append(f"value {y} at {t!r} not in [{values[0][k]}, {values[1][k]}]")
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_random_expressions_keep_what_they_claim(seed: int) -> None:
    expression, real = made(seed)
    assert outside(composed(expression), real, seed) == []


def test_the_oracle_finds_a_planted_error() -> None:
    """The same row with another function behind it: e^-x^2 claimed for e^-1.01 x^2 + x / 50."""
    m = Maker(0)
    m.row("exp", m.affine("scale", m.row("square", 0), Fraction(-1)))
    row = composed(needed(m.steps, len(m.steps)))
    assert outside(row, m.real[-1], 0) == []
    assert outside(row, lambda x: mp.exp(-mp.mpf("1.01") * x * x) + x / 50, 0)


E = math.e


def row_of(build: str) -> Elementwise:
    m = Maker(0)
    match build:
        case "exp(-x^2)":
            m.row("exp", m.affine("scale", m.row("square", 0), Fraction(-1)))
        case "sqrt(x^2 + 1e-6)":
            m.row("sqrt", m.affine("shift", m.row("square", 0), Fraction(1e-6)))
        case "x / sqrt(1 + x^2)":
            m.both("times", 0, m.row("rsqrt", m.affine("shift", m.row("square", 0), Fraction(1))))
        case "1 / (1 + x^2)":
            m.row("reciprocal", m.affine("shift", m.row("square", 0), Fraction(1)))
        case "log(1 + exp x)":
            m.row("log", m.affine("shift", m.row("exp", 0), Fraction(1)))
        case "-log(1 + exp(-x))":
            e = m.row("exp", m.affine("scale", 0, Fraction(-1)))
            m.affine("scale", m.row("log", m.affine("shift", e, Fraction(1))), Fraction(-1))
        case "(e^x - e^-x) / (e^x + e^-x)":
            e, d = m.row("exp", 0), m.row("exp", m.affine("scale", 0, Fraction(-1)))
            top = m.both("add", e, m.affine("scale", d, Fraction(-1)))
            m.both("times", top, m.row("reciprocal", m.both("add", e, d)))
        case "x tanh(log(1 + e^x))":
            m.both("times", 0, m.row("tanh", m.row("log", m.affine("shift", m.row("exp", 0), Fraction(1)))))
        case "e^x / (1 + e^x)":
            e = m.row("exp", 0)
            m.both("times", e, m.row("reciprocal", m.affine("shift", e, Fraction(1))))
        case "x exp(-x^2 / 2)":
            m.both("times", 0, m.row("exp", m.affine("scale", m.row("square", 0), Fraction(-1, 2))))
    return composed(needed(m.steps, len(m.steps)))


@pytest.mark.parametrize(
    ("build", "low", "high"),
    [
        ("exp(-x^2)", -math.sqrt(2 / E), math.sqrt(2 / E)),
        ("sqrt(x^2 + 1e-6)", -1.0, 1.0),
        ("x / sqrt(1 + x^2)", 0.0, 1.0),
        ("1 / (1 + x^2)", -3 * math.sqrt(3) / 8, 3 * math.sqrt(3) / 8),
        ("log(1 + exp x)", 0.0, 1.0),
        ("-log(1 + exp(-x))", 0.0, 1.0),
        ("(e^x - e^-x) / (e^x + e^-x)", 0.0, 1.0),
        ("x tanh(log(1 + e^x))", -0.11252612238, 1.08849816124),
        ("e^x / (1 + e^x)", 0.0, 0.25),
        ("x exp(-x^2 / 2)", -2 * math.exp(-1.5), 1.0),
    ],
)
def test_exact_slopes_are_met_to_six_digits(build: str, low: float, high: float) -> None:
    found = row_of(build).slopes()
    assert low - 2e-6 <= float(found[0]) <= low + 1e-9
    assert high - 1e-9 <= float(found[1]) <= high + 2e-6


def test_what_is_steep_stays_infinite() -> None:
    m = Maker(0)
    m.both("add", 0, m.row("square", 0))
    assert composed(needed(m.steps, len(m.steps))).slopes() == (-math.inf, math.inf)
