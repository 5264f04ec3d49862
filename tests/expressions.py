"""Random expressions of one scalar, twice: as steps of lipcert and as mpmath functions, the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import mpmath as mp
import torch

from lipcert.activations import ACTIVATIONS, Elementwise
from lipcert.activations.jets import Expression, Step, Uniform, needed

Real = Callable[[mp.mpf], mp.mpf]


def sigmoid(u: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-u))


UNARY: dict[str, Real] = {
    "square": lambda u: u * u,
    "exp": mp.exp,
    "tanh": mp.tanh,
    "sigmoid": sigmoid,
    "sin": mp.sin,
    "cos": mp.cos,
    "erf": mp.erf,
    "abs": abs,
    "relu": lambda u: u if u > 0 else mp.mpf(0),
    "softplus": lambda u: mp.log1p(mp.exp(u)) if u < 50 else u + mp.exp(-u),
    "atan": mp.atan,
    "silu": lambda u: u * sigmoid(u),
}
POSITIVE: dict[str, Real] = {  # of 1 + |u| or c + u^2
    "sqrt": mp.sqrt,
    "reciprocal": lambda u: 1 / u,
    "rsqrt": lambda u: 1 / mp.sqrt(u),
    "log": mp.log,
}
NUMBERS = [Fraction(k, 4) for k in (-8, -4, -2, -1, 1, 2, 3, 4, 6)]


class Maker:
    def __init__(self, seed: int):
        self.pick = random.Random(seed)
        self.steps: list[Step] = []
        self.real: list[Real] = [lambda x: x]

    def add(self, step: Step, real: Real) -> int:
        self.steps.append(step)
        self.real.append(real)
        return len(self.steps)

    def row(self, name: str, i: int) -> int:
        f, g = UNARY.get(name) or POSITIVE[name], self.real[i]
        return self.add(Step("row", (i,), Elementwise(ACTIVATIONS[name], _given(name))), lambda x: f(g(x)))

    def affine(self, op: str, i: int, value: Fraction) -> int:
        f, c = self.real[i], mp.mpf(value.numerator) / value.denominator
        real: Real = (lambda x: c * f(x)) if op == "scale" else (lambda x: f(x) + c)
        return self.add(Step(op, (i,), Uniform.of(value)), real)

    def both(self, op: str, i: int, j: int) -> int:
        f, g = self.real[i], self.real[j]
        functions: dict[str, Real] = {
            "add": lambda x: f(x) + g(x),
            "times": lambda x: f(x) * g(x),
            "max": lambda x: max(f(x), g(x)),
            "min": lambda x: min(f(x), g(x)),
        }
        return self.add(Step(op, (i, j)), functions[op])

    def grow(self, moves: int) -> None:
        for _ in range(moves):
            i = self.pick.randrange(max(0, len(self.steps) - 2), len(self.steps) + 1)
            kind = self.pick.random()
            if kind < 0.35:
                self.row(self.pick.choice(list(UNARY)), i)
            elif kind < 0.5:
                inner = self.row(self.pick.choice(["square", "abs"]), i)
                self.row(self.pick.choice(list(POSITIVE)), self.affine("shift", inner, Fraction(1, 2)))
            elif kind < 0.75:
                self.affine(self.pick.choice(["scale", "shift"]), i, self.pick.choice(NUMBERS))
            else:
                j = self.pick.randrange(len(self.steps) + 1)
                self.both(self.pick.choice(["times", "times", "add", "max", "min"]), i, j)


def _given(name: str) -> tuple[float, ...]:
    return tuple(ACTIVATIONS[name].parameters.values())


def made(seed: int) -> tuple[Expression, Real]:
    maker = Maker(seed)
    maker.grow(maker.pick.randrange(2, 7))
    return needed(maker.steps, len(maker.steps)), maker.real[-1]


def chord(real: Real, a: float, b: float) -> mp.mpf | None:
    """The exact difference quotient, to 40 digits; None where the values overflow everything."""
    with mp.workdps(60):
        x, y = mp.mpf(a), mp.mpf(b)
        try:
            return (real(y) - real(x)) / (y - x)
        except (OverflowError, ZeroDivisionError, ValueError):
            return None


def points(seed: int) -> list[tuple[float, float]]:
    """Close pairs at many scales, and far ones."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(24, generator=g, dtype=torch.float64) * 10.0 ** torch.randint(-2, 3, (24,), generator=g)
    near = x + 1e-6 * (1 + x.abs())
    far = torch.randn(24, generator=g, dtype=torch.float64) * 4
    return [*zip(x.tolist(), near.tolist(), strict=True), *zip(x.tolist(), far.tolist(), strict=True)]
