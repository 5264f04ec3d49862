"""Linear regions beside what else says how steep one output is on a box: branch and bound, auto_LiRPA, and a mixed-integer program.

The program is LipMIP's (Jordan & Dimakis 2020), for HiGHS: one binary per ReLU, the gradient carried backwards by products of
binaries and bounded reals, one binary per sign of the gradient. Its dual bound has tolerances and no error term.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cases import Measured, peak_gb
from lirpa import auto_lirpa
from machine import ROOT
from sampling import BOX
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

SECONDS = 60.0  # of each
MOONS = ROOT / "examples" / "two_moons.onnx"
XU = "acasxu_run2a_1_1"
STEEP = [-0.263, -0.165, -0.159, -0.194, 0.034]
Vector = np.ndarray
Answer = tuple[float | None, float | None, str]  # lower, upper, what the upper value is


@dataclass(frozen=True)
class Chain:
    """W_k, b_k of a ReLU chain of one output on |t| <= radius; linf constants are `scale` times those in t."""

    weights: list[Vector]
    biases: list[Vector]
    radius: Vector
    scale: float

    @classmethod
    def of(cls, graph: Any, cells: Any) -> Chain:
        from lipcert.regions.enumeration.program import program

        made = program(graph, cells.centre[0], cells.radius[0])
        assert all([source for source, _, _ in layer.blocks] == [k - 1] for k, layer in enumerate(made.layers))
        assert len(set(made.scale.tolist())) == 1
        weights, biases = [layer.blocks[0][1] for layer in made.layers], [layer.bias for layer in made.layers]
        return cls(weights, biases, made.radius, 1.0 / float(made.scale[0]))


def mixed_integer(chain: Chain, seconds: float) -> tuple[float, float]:
    """(value of the best point found, dual bound) of the largest ||f'(t)||_1, by HiGHS."""
    made, gates = _Program(), []
    ends = -chain.radius, chain.radius
    at = made.reals(*ends)
    for weight, bias in zip(chain.weights[:-1], chain.biases[:-1], strict=True):
        ends = _image(weight, *ends, bias)
        z = made.reals(*ends)
        made.between([(z, np.ones(len(bias))), (at, -weight)], bias, bias)
        at, on = made.relu(z, *ends)
        gates.append((on, weight))
        ends = np.maximum(ends[0], 0.0), np.maximum(ends[1], 0.0)
    ends = chain.weights[-1][0], chain.weights[-1][0]
    y = made.reals(*ends)
    for on, weight in reversed(gates):
        v = made.gated(y, on, *ends)
        ends = _image(weight.T, np.minimum(ends[0], 0.0), np.maximum(ends[1], 0.0), np.zeros(weight.shape[1]))
        y = made.reals(*ends)
        made.between([(y, np.ones(weight.shape[1])), (v, -weight.T)], *(np.zeros(weight.shape[1]),) * 2)
    size = made.sizes(y, np.maximum(np.abs(ends[0]), np.abs(ends[1])))
    cost = np.zeros(len(made.low))
    cost[size] = -1.0
    least, bound = made.solved(cost, seconds)
    return max(0.0, -least) * chain.scale, -bound * chain.scale


def _image(weight: Vector, low: Vector, high: Vector, bias: Vector) -> tuple[Vector, Vector]:
    middle, spread = weight @ ((low + high) / 2) + bias, np.abs(weight) @ ((high - low) / 2)
    return middle - spread, middle + spread


@dataclass
class _Program:
    """Variables with bounds, and sparse rows; a group of variables is a slice, which its first place names."""

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    entries: list[tuple[Vector, Vector, Vector]] = field(default_factory=list)
    limits: list[tuple[Vector, Vector]] = field(default_factory=list)
    height: int = 0

    def reals(self, low: Vector, high: Vector, whole: int = 0) -> slice:
        start = len(self.low)
        self.low += low.tolist()
        self.high += high.tolist()
        self.whole += [whole] * len(low)
        return slice(start, len(self.low))

    def between(self, terms: list[tuple[slice, Vector]], least: Vector, most: Vector) -> None:
        """least <= sum matrix @ group <= most; a vector is a diagonal."""
        for group, matrix in terms:
            dense = np.diag(matrix) if matrix.ndim == 1 else matrix
            r, c = np.nonzero(dense)
            self.entries.append((r + self.height, c + group.start, dense[r, c]))
        self.limits.append((least, most))
        self.height += len(least)

    def gated(self, y: slice, on: slice, low: Vector, high: Vector) -> slice:
        """v = y where `on` is 1, 0 where it is 0, for low <= y <= high."""
        one, inf = np.ones(len(low)), np.full(len(low), np.inf)
        v = self.reals(np.minimum(low, 0.0), np.maximum(high, 0.0))
        self.between([(v, one), (on, -high)], -inf, 0 * one)
        self.between([(v, one), (on, -low)], 0 * one, inf)
        self.between([(v, one), (y, -one), (on, -low)], -inf, -low)
        self.between([(v, one), (y, -one), (on, -high)], -high, inf)
        return v

    def relu(self, z: slice, low: Vector, high: Vector) -> tuple[slice, slice]:
        """(max(z, 0), on), for low <= z <= high."""
        one, inf = np.ones(len(low)), np.full(len(low), np.inf)
        on = self.reals((low > 0).astype(float), (high >= 0).astype(float), 1)
        v = self.reals(np.maximum(low, 0.0), np.maximum(high, 0.0))
        self.between([(v, one), (z, -one)], 0 * one, inf)
        self.between([(v, one), (on, -np.maximum(high, 0.0))], -inf, 0 * one)
        off = np.minimum(low, 0.0)
        self.between([(v, one), (z, -one), (on, -off)], -inf, -off)
        return v, on

    def sizes(self, y: slice, far: Vector) -> slice:
        """At most |y|, for |y| <= far."""
        one, inf = np.ones(len(far)), np.full(len(far), np.inf)
        size, sign = self.reals(0 * far, far), self.reals(0 * far, one, 1)
        self.between([(size, one), (y, -one), (sign, 2 * far)], -inf, 2 * far)
        self.between([(size, one), (y, one), (sign, -2 * far)], -inf, 0 * far)
        return size

    def solved(self, cost: Vector, seconds: float) -> tuple[float, float]:
        """(value of the best point or inf, dual bound) of the least cost."""
        r, c, values = (np.concatenate([part[i] for part in self.entries]) for i in range(3))
        matrix = csr_array((values, (r, c)), shape=(self.height, len(self.low)))
        rows = LinearConstraint(matrix, *(np.concatenate([limit[i] for limit in self.limits]) for i in (0, 1)))
        bounds = Bounds(np.array(self.low), np.array(self.high))
        options = {"time_limit": seconds, "mip_rel_gap": 1e-6}
        found = milp(cost, constraints=rows, integrality=np.array(self.whole), bounds=bounds, options=options)
        best = np.inf if found.fun is None else float(found.fun)
        return best, -np.inf if found.mip_dual_bound is None else float(found.mip_dual_bound)


def _questions(smoke: bool) -> list[tuple[str, float, Any, Any]]:
    """(name, radius, graph of one output, cells)."""
    import torch

    import lipcert
    from lipcert.network.edit import with_output
    from lipcert.regions.cells import Cells
    from lipcert.terms.query import Output

    low, high = (torch.tensor([[side[i] for side in BOX]], dtype=torch.float64) for i in (0, 1))
    centre = (low + high) / 2
    moons = lipcert.load(MOONS).graph
    asked = [("two_moons", eps, moons, Cells(centre, torch.full_like(centre, eps))) for eps in (0.02, 0.5)]
    file = Path(os.environ.get("LIPCERT_SHARED", ROOT.parent / "shared")) / "models" / f"{XU}.onnx"
    if file.exists() and not smoke:
        graph = with_output(lipcert.load(file).graph, Output("logit", 0))
        for eps in (0.005, 0.02, 0.05):
            x = torch.tensor([STEEP], dtype=torch.float64)
            asked.append((f"{XU}, output 0", eps, graph, Cells(x, torch.full_like(x, eps))))
    return asked[:1] if smoke else asked


def rivals(repeat: int, smoke: bool) -> Measured:
    """One output on boxes, linf, to 1e-6: regions; branch, auto_LiRPA and HiGHS's mixed-integer program, 60 s for each question."""
    from lipcert.regions.branch_and_bound.branching import Effort, bracket
    from lipcert.regions.enumeration.constant import constant
    from lipcert.regions.enumeration.tree import prepare
    from lipcert.terms.query import Norm

    done, norm, seconds = Measured(), Norm("inf", "inf"), 5.0 if smoke else SECONDS
    done.clock("machine code", prepare)
    done.values["methods"] = []
    for name, eps, graph, cells in _questions(smoke):
        chain = Chain.of(graph, cells)

        def regions(g: Any = graph, c: Any = cells) -> Answer:
            found = constant(g, c, norm, 1e-6, time.monotonic() + seconds)
            return found.lower, found.upper, "proved"

        def branch(g: Any = graph, c: Any = cells) -> Answer:
            found = bracket(g, c, norm, Effort(1e-6, time.monotonic() + seconds))
            return float(found.lower), float(found.upper), "proved"

        def lirpa(chain: Chain = chain) -> Answer:
            zero = np.zeros((1, len(chain.radius)))
            rival, values = auto_lirpa(chain.weights, chain.biases, zero, chain.radius[:1])
            return None, None if values is None else values[0] * chain.scale, rival.note

        def program(chain: Chain = chain) -> Answer:
            return *mixed_integer(chain, seconds), "dual bound within tolerances, no error term"

        every = {"regions": regions, "branch": branch, "auto_LiRPA": lirpa, "HiGHS MILP": program}
        for method, answer in every.items():
            start = time.perf_counter()
            lower, upper, note = answer()
            row = {"network": name, "eps": eps, "method": method, "lower": lower, "upper": upper, "note": note}
            done.values["methods"].append(row | {"seconds": time.perf_counter() - start})
    done.peak_gb = peak_gb()
    return done
