"""Sums in any order of additions against their bound: one sum in exact rationals, and whole networks added up as badly as it gets."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from thorough import FULL
from torch import Tensor, nn

import lipcert
from lipcert.load.model import Model
from lipcert.network.graph import Add, Concat, Enclosure, Graph, Input, Linear, Node, Nonlinear, Offset
from lipcert.operators.linear import Dense
from lipcert.regions.cells import Cells
from lipcert.regions.execution import error
from lipcert.regions.execution.functionals import execution_errors
from lipcert.rigor.arithmetic import ARITHMETICS

KINDS = {"float32": np.float32, "float16": np.float16}
Order = Callable[[list, random.Random], np.generic]


# Orders of additions: a list of numbers of a format becomes their sum in it.


def one_by_one(terms: list, dice: random.Random) -> np.generic:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def positive_first(terms: list, dice: random.Random) -> np.generic:
    return one_by_one(sorted(terms, reverse=True), dice)


def negative_first(terms: list, dice: random.Random) -> np.generic:
    return one_by_one(sorted(terms), dice)


def large_first(terms: list, dice: random.Random) -> np.generic:
    return one_by_one(sorted(terms, key=abs, reverse=True), dice)


def small_first(terms: list, dice: random.Random) -> np.generic:
    return one_by_one(sorted(terms, key=abs), dice)


def small_ones_between(terms: list, dice: random.Random) -> np.generic:
    """The large positive numbers, all small ones, the large negative numbers: every addition of a small one rounds a large sum."""
    largest = max(abs(t) for t in terms)
    return one_by_one(sorted(terms, key=lambda t: int(2 * t < -largest) - int(2 * t > largest)), dice)


def pairwise(terms: list, dice: random.Random) -> np.generic:
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)] + terms[len(terms) // 2 * 2 :]
    return terms[0]


def any_tree(terms: list, dice: random.Random) -> np.generic:
    terms = list(terms)
    while len(terms) > 1:
        a, b = (terms.pop(dice.randrange(len(terms))) for _ in range(2))
        terms.append(a + b)
    return terms[0]


ORDERS: list[Order] = [
    one_by_one, positive_first, negative_first, large_first, small_first, small_ones_between, pairwise, any_tree
]  # fmt: skip


def fused(weights: list, x: list, dice: random.Random) -> np.generic:
    """w x + the sum so far, rounded once: exact rationals are rounded to float64 and then to the format."""
    total = weights[0] * x[0]
    for w, at in zip(weights[1:], x[1:], strict=True):
        total = type(total)(float(Fraction(float(w)) * Fraction(float(at)) + Fraction(float(total))))
    return total


# One sum of products.


def chain(*parts: np.ndarray) -> Graph:
    """Matrices and biases, one after the other."""
    nodes = [Node(Input(), (), parts[0].shape[1], (1, parts[0].shape[1]), "x")]
    for k, part in enumerate(parts):
        held = torch.from_numpy(np.asarray(part, dtype=np.float64))
        what = Offset(held) if held.ndim == 1 else Linear(Dense(held[None]))
        nodes.append(Node(what, (k,), len(part), (1, len(part)), f"n{k}"))
    return Graph(tuple(nodes), len(parts))


def bound_at(graph: Graph, x: np.ndarray, how: str, reach: float = 0.0) -> np.ndarray:
    at = torch.from_numpy(x.astype(np.float64))[None]
    eye = torch.eye(graph.nodes[graph.output].size, dtype=torch.float64)[None]
    cells = Cells(at, torch.full_like(at, reach))
    return execution_errors(graph, ARITHMETICS[how], cells, eye)[0].numpy()


def sums(how: str, n: int) -> dict[str, np.ndarray]:
    """Terms that are hard to add."""
    rng, u = np.random.default_rng(n), ARITHMETICS[how].unit
    wild, tiny = rng.standard_normal(n), np.full(n, 1.02 * u)
    return {
        "random": wild,
        "one sign": np.abs(wild),
        "cancels": np.concatenate([wild[: n // 2], -wild[: n // 2]]),
        "one is huge": np.where(np.arange(n) == n // 2, 1000.0, wild),
        "rounds up each time": np.where(np.arange(n) == 0, 1.0, tiny),
        "rounds up each time and cancels": np.where(np.arange(n) == 0, 1.0, np.where(np.arange(n) == 1, -1.0, tiny)),
        "many are 0": np.where(np.arange(n) % 10 == 0, wild, 0.0),
    }


def worst_of(terms: np.ndarray, x: np.ndarray, bias: float | None, how: str) -> tuple[float, float]:
    """(what the worst order of additions errs, its bound), with the bias as a term of its own."""
    kind, dice = KINDS[how], random.Random(0)
    at = list(x.astype(kind))
    row = [kind(t / float(v)) for t, v in zip(terms, at, strict=True)]
    given = [] if bias is None else [kind(bias)]
    real = sum((Fraction(float(w)) * Fraction(float(v)) for w, v in zip(row, at, strict=True)), Fraction(0))
    real += sum(Fraction(float(b)) for b in given)
    products = [w * v for w, v in zip(row, at, strict=True)] + given
    found = [order(products, dice) for order in ORDERS for _ in range(3 if order is any_tree else 1)]
    found += [fused([*row, *given], [*at, *(kind(1) for _ in given)], dice)]
    off = max(abs(Fraction(float(value)) - real) for value in found)
    biases = [np.array(given, dtype=np.float64)] if given else []
    graph = chain(np.array([row], dtype=np.float64), *biases)
    return float(off), float(bound_at(graph, x.astype(kind), how)[0])


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("bias", [None, -0.7])
def test_no_order_of_additions_errs_by_more(how: str, bias: float | None) -> None:
    for n in (1, 2, 3, 40, 300) if FULL else (1, 2, 40):
        for x in (np.ones(n), np.random.default_rng(1).uniform(0.5, 2.0, n)):
            for name, terms in sums(how, n).items():
                off, bound = worst_of(terms, x[: len(terms)], bias, how) if len(terms) else (0.0, 0.0)
                assert off <= bound, (name, n)


NEARLY = ["rounds up each time", "rounds up each time and cancels"]


@pytest.mark.parametrize("name", NEARLY)
def test_the_bound_is_nearly_reached(name: str) -> None:
    """So no count of additions can be left out; where the terms cancel it is half of what the sum of their sizes gives."""
    off, bound = worst_of(sums("float32", 300)[name], np.ones(300), None, "float32")
    assert 0.95 * bound < off <= bound


@pytest.mark.parametrize("name", NEARLY)
def test_half_the_additions_are_too_few(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the two tests above can fail."""
    counted = error._roundings
    monkeypatch.setattr(error, "_roundings", lambda *of: (counted(*of)[0], counted(*of)[1] / 2))
    off, bound = worst_of(sums("float32", 300)[name], np.ones(300), None, "float32")
    assert off > bound


def sum_of_sums(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows 1 + tiny ones that are rounded up or away, added with signs: the real numbers cancel, what was rounded does not."""
    u = 2.0**-24
    rows = np.tile(np.where(np.arange(n) == 0, 1.0, 1.02 * u), (10, 1))
    rows[1::2, 1:] = 0.98 * u
    return rows, np.where(np.arange(10) % 2 == 0, 1.0, -1.0)[None]


@pytest.mark.parametrize("planted", [False, True])
def test_sums_of_sums(planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the additions of the inner sums as if each sum of some terms occurred once."""
    inner, outer = (part.astype(np.float32) for part in sum_of_sums(300))
    if planted:
        counted = error._roundings
        monkeypatch.setattr(error, "_roundings", lambda op, u: (counted(op, u)[0] - 299, u.adds.amax() + torch.full((1, 1), 9.0)) if u.adds.any() else counted(op, u))  # fmt: skip
    computed = one_by_one([w * one_by_one(list(row), random.Random(0)) for w, row in zip(outer[0], inner, strict=True)], random.Random(0))  # fmt: skip
    real = sum((Fraction(float(w)) * Fraction(float(t)) for w, row in zip(outer[0], inner, strict=True) for t in row), Fraction(0))  # fmt: skip
    off, bound = abs(Fraction(float(computed)) - real), bound_at(chain(inner, outer), np.ones(300), "float32")[0]
    assert (off > bound) == planted


# Whole networks: a signal is a list of numbers that are not added up yet, for each entry.


@dataclass
class Evaluator:
    kind: type
    dice: random.Random

    def settled(self, pending: list[list]) -> list:
        order = self.dice.choice(ORDERS)
        return [order(terms, self.dice) if terms else self.kind(0) for terms in pending]

    def linear(self, operator, pending: list[list]) -> list[list]:
        matrix = operator.mv(torch.eye(operator.in_size, dtype=torch.float64)).T.numpy()
        places = [np.flatnonzero(row) for row in matrix]
        if operator.terms > 1 or self.dice.random() < 0.5:  # or a scale goes into each term: folded
            pending = [[value] for value in self.settled(pending)]
        if not operator.terms:
            return [[t for j in at for t in pending[j]] for at in places]
        return [[self.kind(row[j]) * t for j in at for t in pending[j]] for row, at in zip(matrix, places, strict=True)]

    def run(self, graph: Graph, x: Tensor) -> Tensor:
        """x (n,) float64 -> the output (m,) of one execution."""
        signals: list[list[list]] = []
        for node in graph.nodes:
            us, what = [signals[p] for p in node.parents], node.what
            if isinstance(what, Input):
                now = [[self.kind(value)] for value in x.tolist()]
            elif isinstance(what, Linear):
                now = self.linear(what.operator, us[0])
            elif isinstance(what, Offset):
                now = [[*terms, self.kind(b)] for terms, b in zip(us[0], what.value.reshape(-1).tolist(), strict=True)]
            elif isinstance(what, Add):
                us = [[[value] for value in self.settled(u)] if self.dice.random() < 0.5 else u for u in us]
                now = [[t for terms in entry for t in terms] for entry in zip(*us, strict=True)]
            elif isinstance(what, Concat):
                now = [terms for u in us for terms in u]
            else:
                assert isinstance(what, Nonlinear)
                given = [torch.tensor([float(v) for v in self.settled(u)], dtype=torch.float64)[None] for u in us]
                now = [[self.kind(value)] for value in what.block(*given)[0].tolist()]
            signals.append(now)
        return torch.tensor([float(v) for v in self.settled(signals[graph.output])], dtype=torch.float64)


class Residual(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.a, self.b = nn.Linear(n, n), nn.Linear(n, n)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(5)
    norm, norm2 = nn.BatchNorm1d(6), nn.BatchNorm2d(2)
    for one in (norm, norm2):
        with torch.no_grad():
            for value in (one.running_mean, one.weight, one.bias):
                value.copy_(torch.randn(len(value)))
    return {
        "dense": (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)), (1, 3)),
        "normalised": (nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 2)), (1, 4)),
        "residual": (nn.Sequential(Residual(3), Residual(3), nn.Linear(3, 2)), (1, 3)),
        "sums of sums": (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (1, 4)),
        "convolution": (nn.Sequential(nn.Conv2d(1, 2, 2), norm2, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 2)), (1, 1, 3, 3)),
    }  # fmt: skip


NETS = networks()


def excess(model: Model, how: str, reach: float, tries: int) -> float:
    """Most of |computed - real| / bound over executions at points of a few cells."""
    torch.manual_seed(0)
    graph, n, worst = model.executed(ARITHMETICS[how]), model.graph.nodes[model.graph.input].size, 0.0
    evaluator = Evaluator(KINDS[how], random.Random(0))
    for scale in (1.0, 1.0, 8.0):
        x = scale * torch.randn(n, dtype=torch.float64)
        bound = torch.from_numpy(bound_at(graph, x.numpy(), how, reach))
        for _ in range(tries):
            at = x + reach * (2 * torch.rand(n, dtype=torch.float64) - 1).sign() * torch.rand(1, dtype=torch.float64)
            real = model.graph.enclose(Enclosure(at[None]))
            computed = evaluator.run(graph, at)[None]
            off = torch.maximum(real.lower - computed, computed - real.upper).clamp(min=0.0)
            worst = max(worst, float((off / bound).max()))
    return worst


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("how", KINDS)
def test_no_execution_of_a_network_errs_by_more(name: str, how: str) -> None:
    module, shape = NETS[name]
    model = lipcert.load(module.eval(), input_shape=shape)
    for reach in (0.0, 0.2):
        found = excess(model, how, reach, 200 if FULL else 6)
        assert found <= 1
        assert reach or found > 0.005  # it is about something


def test_a_format_that_is_too_good_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: networks are executed in float16, and the bound is of numbers with nine more bits."""
    module, shape = NETS["normalised"]
    model = lipcert.load(module.eval(), input_shape=shape)
    better = replace(ARITHMETICS["float16"], unit=2.0**-20, name="better")
    monkeypatch.setitem(ARITHMETICS, "float16", better)
    assert excess(model, "float16", 0.0, 6) > 1


def test_what_is_off_adds_nothing() -> None:
    """Of 200 hidden units 2 are on: their sum has two terms, wherever in the region. Planted: all are on."""
    net = nn.Sequential(nn.Linear(2, 200), nn.ReLU(), nn.Linear(200, 1, bias=False))
    with torch.no_grad():
        net[0].bias.fill_(-100.0)
        net[0].bias[:2] = 100.0
        net[2].weight.fill_(1.0)
    few, *_ = bound_at(lipcert.load(net, input_shape=(1, 2)).graph, np.zeros(2), "float32", 0.5)
    with torch.no_grad():
        net[0].bias[2:] = 1e-3
        net[0].weight[2:] = 0.0
    many, *_ = bound_at(lipcert.load(net, input_shape=(1, 2)).graph, np.zeros(2), "float32", 0.5)
    assert few < 30 * 200 * 2.0**-24
    assert many > 200 * 200 * 2.0**-24
