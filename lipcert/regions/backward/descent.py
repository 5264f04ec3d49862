"""Slopes and prices that make a relaxed functional small: Adam (Kingma and Ba 2015) on the bound that float32 makes of it.

What is found is a proposal (optimised.py proves it). Steps are in units of what is chosen, and gradients in units of the first one,
so that a network and its multiple are treated alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.network.graph import Graph
from lipcert.regions.backward.floating import FAST, Moving, Walking, carried
from lipcert.regions.backward.lines import Lines
from lipcert.regions.backward.turning import Turning
from lipcert.terms.clock import late

SLOPES, PRICES = "slopes", "prices"
RATES = {SLOPES: 0.5, PRICES: 0.5}  # of the range of a slope, and of the coefficients that a price is added to
DECAY = 0.97  # of the rates, each step
FIRST, SECOND = 0.9, 0.99
LEAST = torch.finfo(FAST).tiny

Choice = dict[tuple[str, int], Tensor]  # (SLOPES, node) or (PRICES, signal): (r, size)


@dataclass(frozen=True, eq=False)
class Relaxed:
    """r functionals `seeds` (r, m) of node `target` on balls of their own, all in float32; `signs` by signal (r, size)."""

    graph: Graph
    target: int
    seeds: Tensor
    ball: Moving
    lines: Mapping[int, Lines]
    turns: Mapping[int, Turning]
    signs: Mapping[int, Tensor]

    def value(self, choice: Choice) -> tuple[Tensor, dict[int, Tensor]]:
        """(r,), and the coefficients that met each node."""
        lines = dict(self.lines)
        for i, turning in self.turns.items():
            lines[i] = turning.turned(lines[i], choice[SLOPES, i])
        prices = {p: choice[PRICES, p] * sign for p, sign in self.signs.items()}
        state = Walking(lines, prices, self.seeds.new_zeros(len(self.seeds)))
        return carried(self.graph, self.target, self.seeds, self.ball, state), state.rows

    def unit(self, key: tuple[str, int], rows: Mapping[int, Tensor]) -> Tensor:
        """(r, size): how far a variable goes in a step of rate 1."""
        kind, i = key
        if kind == SLOPES:
            return self.turns[i].most - self.turns[i].least
        readers = [rows[k].abs() for k in rows if k in self.lines and i in self.graph.nodes[k].parents]
        size = torch.stack(readers).amax(dim=0) if readers else torch.zeros_like(self.signs[i])
        return torch.maximum(size, size.mean(dim=1, keepdim=True)) * self.signs[i].abs()

    def admitted(self, key: tuple[str, int], value: Tensor) -> Tensor:
        kind, i = key
        if kind == PRICES:
            return value.clamp(min=0.0)
        return torch.minimum(torch.maximum(value, self.turns[i].least), self.turns[i].most)


@dataclass(frozen=True, eq=False)
class Descended:
    """`value` (r,): what float32 makes of the choice; `rows`: the coefficients that met each node at the last step."""

    choice: Choice
    value: Tensor
    rows: dict[int, Tensor]


def descend(relaxed: Relaxed, begin: Choice, steps: int, enough: Tensor | None) -> Descended:
    """The best of `steps` steps from `begin`, for each functional; fewer where all values are below `enough` (r,)."""
    choice = {key: relaxed.admitted(key, value.to(FAST)).requires_grad_() for key, value in begin.items()}
    kept = {key: value.detach().clone() for key, value in choice.items()}
    least = relaxed.seeds.new_full((len(relaxed.seeds),), torch.inf)
    moves: dict[tuple[str, int], Move] = {}
    for step in range(steps + 1):
        last = step == steps or not choice or late()
        with torch.set_grad_enabled(not last):
            value, rows = relaxed.value(choice)
        better = value.detach() < least  # false for NaN
        least = torch.where(better, value.detach(), least)
        kept = {key: torch.where(better[:, None], choice[key].detach(), old) for key, old in kept.items()}
        if last or (enough is not None and bool((least < enough).all())):
            break
        slopes = torch.autograd.grad(value, list(choice.values()), torch.ones_like(value), allow_unused=True)
        for key, slope in zip(choice, slopes, strict=True):
            if slope is not None:
                move = moves[key] = moves.get(key) or Move.begun(slope)
                step_by = move.step(slope) * relaxed.unit(key, rows) * (RATES[key[0]] * DECAY**step)
                with torch.no_grad():
                    choice[key].copy_(relaxed.admitted(key, choice[key] - step_by))
    return Descended(kept, least, rows)


@dataclass(eq=False)
class Move:
    """Adam's moments of one variable (r, size)."""

    scale: Tensor  # (r, 1)
    mean: Tensor
    square: Tensor
    count: int = 0

    @classmethod
    def begun(cls, slope: Tensor) -> Move:
        steepest = (
            torch.linalg.vector_norm(slope, torch.inf, dim=1, keepdim=True)
            if slope.shape[1]
            else slope.sum(dim=1, keepdim=True)
        )
        scale = torch.where((steepest > 0) & torch.isfinite(steepest), steepest, 1.0)
        return cls(scale, torch.zeros_like(slope), torch.zeros_like(slope))

    def step(self, slope: Tensor) -> Tensor:
        self.count += 1
        slope = (slope / self.scale).nan_to_num(0.0, 0.0, 0.0)
        self.mean.lerp_(slope, 1 - FIRST)
        self.square.lerp_(slope * slope, 1 - SECOND)
        mean, square = self.mean / (1 - FIRST**self.count), self.square / (1 - SECOND**self.count)
        return mean / (square.sqrt() + LEAST)
