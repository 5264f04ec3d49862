"""LipSDP by sweeps and one proof: the main loop of MATH section 4.

sweep until the value settles -> repair the multipliers -> prove them (lmi.prove) -> stop when the gap is closed
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipcert.lmi import INPUT, Coefficients, last_variable, prove
from lipcert.normalform import NormalForm
from lipcert.rounding import EPS
from lipcert.sdp.multipliers import closed_form, depths, inflated, mixed, positive
from lipcert.sdp.sweep import Anderson, Dual

Say = Callable[[str, float | None, float | None], None]


@dataclass
class Info:
    """What happened, for the report."""

    sweeps: int = 0
    proofs: int = 0
    dual: float = 0.0  # sqrt of the best dual value: a lower bound of the LipSDP optimum
    proved: float = math.inf  # L
    source: str = "none"  # which multipliers were proved: "sweep" or "closed form"
    rows: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"sweeps": 0.0, "proofs": 0.0})

    @property
    def gap(self) -> float:
        return self.proved / self.dual - 1 if self.dual > 0 else math.inf


@dataclass
class Solution:
    """`multipliers` and `last` re-prove `info.proved` by lmi.prove; empty where nothing was proved."""

    info: Info
    multipliers: list[Tensor]
    last: int


@dataclass(frozen=True)
class Settings:
    """`tolerance`: of proved / dual - 1. 0: by size, 1e-7 for small networks, 1e-4 for thousands of neurons."""

    tolerance: float = 0.0
    sweeps: int = 1500
    seed: int = 0

    def wanted(self, neurons: int) -> float:
        if self.tolerance > 0:
            return self.tolerance
        for limit, value in ((150, 1e-8), (600, 1e-7), (1500, 1e-5), (4000, 5e-5)):
            if neurons <= limit:
                return value
        return 5e-4


STILL = 25  # sweeps without growth after which sweeping is over


class Solver:
    """One normal form: its dual, its proofs, and the best so far. `run` may be stopped at any time (deadline)."""

    def __init__(
        self,
        form: NormalForm,
        table: Coefficients,
        settings: Settings,
        deadline: float | None,
        say: Say,
        warm: list[Tensor] | None,
    ):
        self.warm = warm
        self.form, self.table, self.settings, self.deadline, self.say = form, table, settings, deadline, say
        self.last = last_variable(form)
        self.levels = depths(form, table)
        self.chain = all(len(table.rows[k]) <= 1 for k in range(1, len(table.sizes)))
        self.info = Info(rows=16 if form.neurons <= 600 else 32)
        self.best: list[Tensor] = []
        self.safe: tuple[list[Tensor], float] | None = None

    def run(self) -> Solution:
        wanted = self.settings.wanted(self.form.neurons)
        dual = Dual(self.form, self.info.rows, self.settings.seed)
        anderson = Anderson()
        state = dual.start()
        fallback = None  # the plain image of the last accepted state
        history: list[float] = []
        newest: list[Tensor] = []
        attempt_at, spacing = 12, 8
        while self.info.sweeps < self.settings.sweeps and not self.out_of_time():
            start = time.perf_counter()
            swept = dual.sweep(state)
            self.info.sweeps += 1
            self.info.seconds["sweeps"] += time.perf_counter() - start
            if swept.value == 0.0:
                break
            if fallback is not None and swept.value < history[-1] * (1 - 1e-13):
                anderson.forget()  # the accelerated step lost ground: take the plain one
                state, fallback = fallback, None
                continue
            history.append(swept.value)
            self.info.dual = max(self.info.dual, math.sqrt(swept.value))
            fallback = swept.after
            state = dual.unit(swept.after.like(anderson.next(state.flat(), swept.after.flat())))
            self.say("lipsdp", self.info.sweeps, None)
            settled = len(history) > 5 and history[-1] <= history[-6] * (1 + wanted)
            if (settled and self.info.sweeps >= attempt_at) or self.info.sweeps >= attempt_at * 3:
                self.certify(swept.multipliers, wanted, history[-1])
                still = len(history) > STILL and history[-1] <= history[-1 - STILL] * (1 + 1e-11)
                if self.info.gap <= wanted * 1.01 or (still and self.info.gap <= 1e-4):
                    break
                attempt_at = self.info.sweeps + spacing
                spacing = int(spacing * 1.5)
            newest = swept.multipliers
        if self.info.gap > 1e-4 and newest and history:
            self.narrow(newest, history[-1])
        if self.info.gap > 1e-3:
            self.fall_back(newest, history[-1] if history else 0.0)
        return Solution(self.info, self.best, self.last)

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def certify(self, raw: Sequence[Tensor], wanted: float, value: float) -> None:
        """Repair and prove, gentlest repair first; keeps the best."""
        multipliers = self.anchored(positive(raw), value)
        # the proof subtracts about 3 N^2 u from a diagonal of 1, and eta is what the repair adds to it
        least = 40 * EPS * sum(self.table.sizes) ** 2
        deepest = max(1, max(self.levels, default=1))
        rungs = {least * 10.0**e for e in range(7)} if self.form.neurons <= 600 else {least, wanted / (4 * deepest)}
        for eta in sorted(rungs):
            if eta < 0.1 and self.repair(multipliers, value, eta):
                return
        self.mix(raw, value, (1e-9, 1e-7, 1e-5), "sweep")

    def repair(self, multipliers: list[Tensor], value: float, eta: float) -> bool:
        inflated_by = inflated(multipliers, self.levels, eta, from_output=self.last == INPUT)
        return self.attempt(inflated_by, value * (1 + eta) ** (2 * max(self.levels, default=0)), "sweep")

    def narrow(self, raw: Sequence[Tensor], value: float) -> None:
        """The smallest inflation of unsettled multipliers that is feasible, by bisection of its exponent."""
        multipliers = self.anchored(positive(raw), value)
        low, high = -9.0, -0.5
        if not self.repair(multipliers, value, 10.0**high):
            return
        for _ in range(7):
            middle = (low + high) / 2
            low, high = (low, middle) if self.repair(multipliers, value, 10.0**middle) else (middle, high)

    def mix(self, raw: Sequence[Tensor], value: float, shares: Sequence[float], source: str) -> None:
        """Lean on multipliers that are known to be feasible, as little as it takes."""
        safe, rho = self.feasible()
        if not math.isfinite(rho):
            return
        for theta in shares:
            if (1 - theta) * value + theta * rho >= self.info.proved**2:
                return  # not better than what is proved
            blend = self.anchored(mixed(positive(raw), safe, theta), value)
            if self.attempt(blend, (1 - theta) * value + theta * rho, source):
                return

    def anchored(self, multipliers: list[Tensor], value: float) -> list[Tensor]:
        """The sweep's multipliers are for s_y = 1; divided by rho they are for s_x = 1."""
        return multipliers if self.last == INPUT else [m / value for m in multipliers]

    def attempt(self, multipliers: list[Tensor], rho: float, source: str) -> bool:
        start = time.perf_counter()
        proved = prove(self.form, self.table, multipliers, last=self.last, rho=rho)
        self.info.proofs += 1
        self.info.seconds["proofs"] += time.perf_counter() - start
        if not math.isfinite(proved):
            return False
        constant = math.nextafter(math.sqrt(proved), math.inf)
        if constant < self.info.proved:
            self.info.proved, self.best, self.info.source = constant, multipliers, source
        return True

    def feasible(self) -> tuple[list[Tensor], float]:
        """Multipliers that are feasible with a proved rho, for s_y = 1: the given ones or the closed form's."""
        if self.safe is None:
            self.safe = self._proved(positive(closed_form(self.form, self.table)))
            if self.warm is not None:
                given = self._proved(self.warm)
                self.safe = min(self.safe, given, key=lambda pair: pair[1])
        return self.safe

    def _proved(self, multipliers: list[Tensor]) -> tuple[list[Tensor], float]:
        first = self.form.layers[0].size
        guess = max((float(m.max()) for m in multipliers[:1]), default=1.0) * max(1, first) or 1.0
        for _ in range(3):
            rho = prove(self.form, self.table, multipliers, last=INPUT, rho=guess)
            if math.isfinite(rho):
                return multipliers, rho
            guess *= 2.0**40
        return multipliers, math.inf

    def fall_back(self, newest: Sequence[Tensor], value: float) -> None:
        """No certificate came: mix with feasible multipliers, or take these as they are, and say so."""
        multipliers, rho = self.feasible()
        if not math.isfinite(rho):
            return
        constant = math.nextafter(math.sqrt(rho), math.inf)
        if constant < self.info.proved:
            self.info.proved, self.best, self.last, self.info.source = constant, multipliers, INPUT, "closed form"
        if newest and value > 0:
            self.last = INPUT
            self.mix(newest, value, (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 0.6), "mixed with the closed form")


def solve(
    form: NormalForm,
    table: Coefficients,
    settings: Settings,
    deadline: float | None = None,
    say: Say | None = None,
    warm: list[Tensor] | None = None,
) -> Solution:
    """The proved LipSDP value of a normal form with at least one layer. `warm`: feasible multipliers (s_y = 1), to lean on."""
    with torch.no_grad():
        return Solver(form, table, settings, deadline, say or (lambda *_: None), warm).run()
